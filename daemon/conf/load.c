/* SPDX-License-Identifier: MIT */
/* The doors of the room for files: read, guard and parse, build, and say every mistake in the order
 * of the lines. A file with a mistake gives no configuration at all. */
#include "conf/load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/build.h"
#include "conf/mistakes.h"
#include "conf/procfile.h"
#include "conf/reader.h"

int config_parse(const char *file, const char *text, size_t length, const char *environment,
        struct config **ret, struct mistakes *mistakes)
{
	_cleanup_(config_unrefp) struct config *c = config_new(), *scratch = config_new();
	struct maker mk = {.c = c, .m = mistakes, .file = file};
	const size_t before = mistakes->count;
	struct raw_block *root;
	bool whole = true;
	int e = -ENOMEM;

	if (c && scratch) {
		c->file = config_strdup(c, file);
		if (c->file && procfile_is_one(file))
			e = procfile_read(file, text, length, scratch, &root, mistakes);
		else if (c->file)
			e = reader_read(file, text, length, scratch, &root, &whole, mistakes);
		if (e == 0)
			e = build_config(&mk, root, environment, whole);
	}
	if (e == -ENOMEM)
		mistakes_add(mistakes, file, 0, "memory is short, it was not read");
	mistakes_sort(mistakes, file, before);
	if (e == 0 && (mistakes->count > before || mistakes->more))
		e = -EINVAL;
	if (e == 0)
		*ret = take_ptr(c);
	return e;
}

/* At most one byte more than is allowed, so that config_parse() can say so. */
static int read_all(int fd, char **ret, size_t *ret_length)
{
	const size_t max = CONF_MAX_BYTES + 1;
	_cleanup_free_ char *text = NULL;
	size_t length = 0, size = 0;

	for (;;) {
		ssize_t n;

		if (size - length < 4096) {
			char *larger;

			size = size ? 2 * size : 16384;
			larger = realloc(text, size);
			if (!larger)
				return -ENOMEM;
			text = larger;
		}
		n = read(fd, text + length,
		        size - length > max - length ? max - length : size - length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		length += (size_t)n;
		if (n == 0 || length == max)
			break;
	}
	*ret = take_ptr(text);
	*ret_length = length;
	return 0;
}

int config_load(
        const char *file, const char *environment, struct config **ret, struct mistakes *mistakes)
{
	_cleanup_free_ char *text = NULL;
	size_t length = 0;
	struct stat st;
	/* Not blocking, as somebody may have put a FIFO there. */
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	int e = fd < 0 ? -errno : 0;

	if (e == 0 && fstat(fd, &st) < 0)
		e = -errno;
	if (e == 0 && !S_ISREG(st.st_mode))
		e = S_ISDIR(st.st_mode) ? -EISDIR : -ENXIO;
	if (e == 0)
		e = read_all(fd, &text, &length);
	if (fd >= 0)
		(void)close(fd);
	if (e == 0)
		return config_parse(file, text, length, environment, ret, mistakes);
	mistakes_add(mistakes, file, 0, "the configuration cannot be read: %s",
	        e == -ENXIO ? "it is not a regular file" : strerror(-e));
	return e;
}
