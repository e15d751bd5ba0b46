/* SPDX-License-Identifier: MIT */
#include "watch/ignore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "system/fd.h"
#include "watch/glob.h"

struct rule {
	char *pattern;
	bool negated, directories, anchored; /* anchored: of the whole path, else of the name */
};

struct ignore {
	struct rule *rules;
	size_t n, size;
};

struct ignore *ignore_new(void)
{
	return calloc(1, sizeof(struct ignore));
}

struct ignore *ignore_free(struct ignore *ig)
{
	if (!ig)
		return NULL;
	for (size_t i = 0; i < ig->n; i++)
		free(ig->rules[i].pattern);
	free(ig->rules);
	free(ig);
	return NULL;
}

static struct rule *room(struct ignore *ig)
{
	size_t size = ig->size ? 2 * ig->size : 32;
	struct rule *rules;

	if (ig->n < ig->size)
		return &ig->rules[ig->n];
	rules = realloc(ig->rules, size * sizeof *rules);
	if (!rules)
		return NULL;
	ig->rules = rules;
	ig->size = size;
	return &ig->rules[ig->n];
}

int ignore_add(struct ignore *ig, const char *line, size_t n)
{
	struct rule r = {0}, *to;

	while (n && (line[n - 1] == '\r' || (line[n - 1] == ' ' && (n < 2 || line[n - 2] != '\\'))))
		n--;
	if (!n || line[0] == '#' || ig->n == IGNORE_MAX_RULES)
		return 0;
	if (line[0] == '!') {
		r.negated = true;
		line++;
		n--;
	}
	if (n && line[n - 1] == '/') {
		r.directories = true;
		n--;
	}
	r.anchored = memchr(line, '/', n) != NULL;
	if (n && line[0] == '/') {
		line++;
		n--;
	}
	if (!n)
		return 0;
	to = room(ig);
	r.pattern = to ? strndup(line, n) : NULL;
	if (!r.pattern)
		return -ENOMEM;
	*to = r;
	ig->n++;
	return 0;
}

struct ignore *ignore_load(int directory, const char *path)
{
	_cleanup_close_ int fd =
	        openat(directory, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	_cleanup_free_ char *bytes = fd < 0 ? NULL : malloc(IGNORE_MAX_BYTES);
	struct ignore *ig;
	size_t length = 0;
	ssize_t n;

	if (!bytes)
		return NULL;
	while (length < IGNORE_MAX_BYTES &&
	        (n = read(fd, bytes + length, IGNORE_MAX_BYTES - length)) > 0)
		length += (size_t)n;
	ig = ignore_new();
	for (size_t at = 0; ig && at < length;) {
		const char *end = memchr(bytes + at, '\n', length - at);
		size_t line = end ? (size_t)(end - (bytes + at)) : length - at;

		if (!memchr(bytes + at, '\0', line))
			(void)ignore_add(ig, bytes + at, line);
		at += line + 1;
	}
	return ig && ig->n ? ig : ignore_free(ig);
}

int ignore_add_defaults(struct ignore *ig)
{
	static const char *const lines[] = {
	        ".git", ".hg", ".svn", ".bzr", ".jj", "CVS", "_darcs",      /* version control */
	        "node_modules", "bower_components", "__pycache__", "*.pyc", /* of others, made */
	        ".venv", ".tox", ".pytest_cache", ".mypy_cache", ".cache", ".nyc_output", "*~",
	        "*.swp", "*.swo", "*.swx", "*.swpx", "4913", ".#*", "\\#*#", /* editors */
	        "*___jb_tmp___", "*___jb_old___", ".goutputstream-*", ".kate-swp", ".DS_Store",
	        ".idea", ".vscode", "*.tmp", "*.bak", "*.log", "*.pid", "*.sock", /* running */
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(lines); i++)
		r = ignore_add(ig, lines[i], strlen(lines[i]));
	return r;
}

int ignore_verdict(const struct ignore *ig, const char *path, bool is_directory)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

	if (!ig)
		return 0;
	for (size_t i = ig->n; i-- > 0;) {
		const struct rule *r = &ig->rules[i];

		if (r->directories && !is_directory)
			continue;
		if (glob_match(r->pattern, r->anchored ? path : name))
			return r->negated ? -1 : 1;
	}
	return 0;
}
