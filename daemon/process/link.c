/* SPDX-License-Identifier: MIT */
#include "process/link.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "system/fd.h"

void link_change_done(struct link_change *c)
{
	free(c->path);
	free(c->before);
	free(c->after);
	*c = (struct link_change){0};
}

/* NULL with errno. */
static char *read_link(const char *path)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof target);

	if (n == (ssize_t)sizeof target)
		errno = ENAMETOOLONG;
	return n < 0 || n == (ssize_t)sizeof target ? NULL : strndup(target, (size_t)n);
}

/* Without slashes at its end. */
static char *tidy(const char *path)
{
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	return strndup(path, n);
}

/* Length of the part of `path` that is the link; 0: there is none. */
static size_t find_link(const char *path)
{
	_cleanup_free_ char *part = strdup(path);
	struct stat st;

	while (part && *part) {
		char *slash;

		if (lstat(part, &st) == 0 && S_ISLNK(st.st_mode))
			return strlen(part);
		slash = strrchr(part, '/');
		if (!slash || slash == part)
			break;
		*slash = '\0';
	}
	return lstat(path, &st) < 0 && errno == ENOENT ? strlen(path) : 0;
}

char *link_find(const char *directory)
{
	_cleanup_free_ char *path = tidy(directory);
	size_t n = path ? find_link(path) : 0;

	return n ? strndup(path, n) : NULL;
}

/* Folder of `path`, "." for a bare name. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return strdup(".");
	return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

bool link_leads_to(const char *directory, const char *release)
{
	_cleanup_free_ char *now = realpath(directory, NULL);
	_cleanup_free_ char *path = tidy(directory);
	size_t n = path ? find_link(path) : 0;
	_cleanup_free_ char *link = n ? strndup(path, n) : NULL;
	_cleanup_free_ char *text = link ? read_link(link) : NULL;
	_cleanup_free_ char *folder = link ? folder_of(link) : NULL;
	_cleanup_free_ char *real = folder ? realpath(folder, NULL) : NULL;
	bool absolute = text && *text == '/';

	if (now)
		return !strcmp(now, release);
	if (!text || !real)
		return false;
	/* it is gone: by its name */
	if (asprintf(&now, "%s%s%s%s", absolute ? "" : real, absolute ? "" : "/", text, path + n) <
	        0)
		now = NULL;
	return now && !strcmp(now, release);
}

/* Is the release beside the one that the link leads to now? */
static bool is_neighbour(const char *link, const char *release)
{
	_cleanup_free_ char *now = realpath(link, NULL);
	_cleanup_free_ char *folder = now ? folder_of(now) : NULL;
	_cleanup_free_ char *other = folder_of(release);

	return folder && other && !strcmp(folder, other);
}

/* A relative link stays one where that is possible: the whole tree may be moved or mounted
 * elsewhere. */
static char *text_of_link(const struct link_change *c, const char *release)
{
	_cleanup_free_ char *folder = folder_of(c->path);
	_cleanup_free_ char *real = folder ? realpath(folder, NULL) : NULL;
	size_t n = real ? strlen(real) : 0;

	if (c->before && c->before[0] != '/' && n > 1 && !strncmp(release, real, n) &&
	        release[n] == '/')
		return strdup(release + n + 1);
	return strdup(release);
}

static int no_memory(struct ho_error *reterr)
{
	return ho_error_set(reterr, -ENOMEM, "no memory to change a release link");
}

static int resolve_release(const char *release, char **ret, struct ho_error *reterr)
{
	struct stat st;

	*ret = realpath(release, NULL);
	if (!*ret && errno == ENOENT && lstat(release, &st) == 0)
		return ho_error_set(reterr, -ENOENT,
		        "release \"%.300s\" is a link that leads nowhere", release);
	if (!*ret)
		return ho_error_set(
		        reterr, -errno, "release \"%.300s\": %s", release, strerror(errno));
	if (stat(*ret, &st) == 0 && !S_ISDIR(st.st_mode))
		return ho_error_set(
		        reterr, -ENOTDIR, "release \"%.300s\" is not a directory", release);
	return 0;
}

/* Where the service will be: the release, and what follows the link in its directory. */
static int resolve_directory(
        const char *release, const char *rest, char **ret, struct ho_error *reterr)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;

	if (asprintf(&path, "%s%s", release, rest) < 0) {
		path = NULL;
		return no_memory(reterr);
	}
	*ret = realpath(path, NULL);
	if (!*ret)
		return ho_error_set(
		        reterr, -errno, "release has no \"%.300s\": %s", path, strerror(errno));
	if (stat(*ret, &st) < 0 || !S_ISDIR(st.st_mode))
		return ho_error_set(reterr, -ENOTDIR, "\"%.300s\" is not a directory", path);
	return 0;
}

int link_plan(const char *directory, const char *release, bool confined, struct link_change *ret,
        char **ret_directory, struct ho_error *reterr)
{
	_cleanup_free_ char *path = tidy(directory);
	_cleanup_free_ char *real = NULL;
	struct link_change c = {0};
	size_t n = path ? find_link(path) : 0;
	int r;

	if (!path)
		return no_memory(reterr);
	if (!n)
		return ho_error_set(reterr, -EINVAL,
		        "no part of the directory \"%.200s\" is a symbolic link that could lead to "
		        "a "
		        "release; make one: ln -s releases/1 current",
		        path);
	r = resolve_release(release, &real, reterr);
	if (r < 0)
		return r;
	c.path = strndup(path, n);
	if (!c.path)
		return no_memory(reterr);
	c.before = read_link(c.path);
	c.after = text_of_link(&c, real);
	if (!c.after)
		r = no_memory(reterr);
	else if (confined && !is_neighbour(c.path, real))
		r = ho_error_set(reterr, -EPERM,
		        "release \"%.200s\" is not in the folder of the present one; only root and "
		        "the user of handoffd may choose another",
		        real);
	else
		r = resolve_directory(real, path + n, ret_directory, reterr);
	if (r < 0)
		link_change_done(&c);
	else
		*ret = c;
	return r;
}

/* A name beside the link that nobody else uses. */
static int make_temporary(const char *path, const char *text, char **ret)
{
	for (unsigned i = 0; i < 100; i++) {
		char *name;

		if (asprintf(&name, "%s.handoffd-%d-%u", path, (int)getpid(), i) < 0)
			return -ENOMEM;
		if (symlink(text, name) == 0) {
			*ret = name;
			return 0;
		}
		free(name);
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

/* So that the change outlives a loss of power. */
static void sync_folder(const char *path)
{
	_cleanup_free_ char *folder = folder_of(path);
	_cleanup_close_ int fd = -1;

	if (folder)
		fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		(void)fsync(fd);
}

static int set_link(const char *path, const char *text, struct ho_error *reterr)
{
	_cleanup_free_ char *temporary = NULL;
	int r = make_temporary(path, text, &temporary);

	if (r >= 0 && rename(temporary, path) < 0) {
		r = -errno;
		(void)unlink(temporary);
	}
	if (r < 0)
		return ho_error_set(reterr, r, "cannot point \"%.200s\" at \"%.200s\": %s", path,
		        text, strerror(-r));
	sync_folder(path);
	return 0;
}

int link_apply(const struct link_change *c, struct ho_error *reterr)
{
	if (c->before && !strcmp(c->before, c->after))
		return 0;
	return set_link(c->path, c->after, reterr);
}

int link_undo(const struct link_change *c, struct ho_error *reterr)
{
	_cleanup_free_ char *now = read_link(c->path);

	if (c->before && now && !strcmp(c->before, now))
		return 0;
	if (!now || strcmp(now, c->after) != 0)
		return 1;
	if (c->before)
		return set_link(c->path, c->before, reterr);
	if (unlink(c->path) < 0)
		return ho_error_set(
		        reterr, -errno, "cannot remove \"%.300s\": %s", c->path, strerror(errno));
	return 0;
}
