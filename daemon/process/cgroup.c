/* SPDX-License-Identifier: MIT */
#include "process/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "system/fd.h"

#define DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define MAX_PROCESSES (1 << 20)

/* ---- where ---- */

/* The line of version 2: "0::/system.slice/handoffd.service". */
static bool path_of(const char *proc, char *ret, size_t size)
{
	_cleanup_free_ char *line = NULL;
	FILE *f = fopen(proc, "re");
	bool found = false;
	size_t room = 0;

	while (f && !found && getline(&line, &room, f) > 0) {
		line[strcspn(line, "\n")] = '\0';
		found = !strncmp(line, "0::/", 4) && copy_string(ret, size, line + 3);
	}
	if (f)
		(void)fclose(f);
	return found;
}

/* Where all of version 2 is mounted. A path with \ in it (a space) is not looked for. */
static bool find_mount(char *ret, size_t size)
{
	_cleanup_free_ char *line = NULL;
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char root[8], place[PATH_MAX];
	bool found = false;
	size_t room = 0;

	while (f && !found && getline(&line, &room, f) > 0)
		found = strstr(line, " - cgroup2 ") &&
		        sscanf(line, "%*s %*s %*s %7s %4095s", root, place) == 2 &&
		        !strcmp(root, "/") && !strchr(place, '\\') && copy_string(ret, size, place);
	if (f)
		(void)fclose(f);
	return found;
}

static bool is_delegated(int fd)
{
	static const char *const marks[] = {"user.delegate", "trusted.delegate"};
	char value;

	for (size_t i = 0; i < ARRAY_SIZE(marks); i++)
		if (fgetxattr(fd, marks[i], &value, 1) == 1 && value == '1')
			return true;
	return false;
}

int cgroup_find(struct cgroup *ret)
{
	char mount[PATH_MAX], path[PATH_MAX];
	_cleanup_free_ char *name = NULL;
	_cleanup_close_ int fd = -1;

	if (!find_mount(mount, sizeof mount) || !path_of("/proc/self/cgroup", path, sizeof path))
		return -ENOENT;
	if (asprintf(&name, "%s%s", mount, path) < 0) {
		name = NULL;
		return -ENOMEM;
	}
	fd = open(name, DIRECTORY);
	if (fd < 0)
		return -errno;
	if (!is_delegated(fd))
		return -EPERM;
	if (faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) < 0)
		return -errno;
	/* not the name of the root of a container: "/" and what is behind it would be "//" */
	ret->path = strdup(strcmp(path, "/") ? path : "");
	if (!ret->path)
		return -ENOMEM;
	ret->fd = take_fd(fd);
	return 0;
}

/* ---- making and removing ---- */

/* Those that still have a process refuse to go. */
static void remove_below(int fd)
{
	int copy = openat(fd, ".", DIRECTORY);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_type == DT_DIR && e->d_name[0] != '.')
			(void)unlinkat(fd, e->d_name, AT_REMOVEDIR);
	if (d)
		(void)closedir(d);
	else
		(void)close_fd(copy);
}

static void remove_unused(int parent, const char *name)
{
	_cleanup_close_ int fd = openat(parent, name, DIRECTORY);

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return;
	remove_below(fd);
	(void)unlinkat(parent, name, AT_REMOVEDIR);
}

int cgroup_open(const struct cgroup *parent, const char *name, struct cgroup *ret)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;

	if (!parent->path)
		return -ENOENT;
	fd = openat(parent->fd, name, DIRECTORY);
	if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) < 0)
		return -errno;
	if (asprintf(&path, "%s/%s", parent->path, name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	*ret = (struct cgroup){take_fd(fd), take_ptr(path)};
	return 0;
}

int cgroup_make(const struct cgroup *parent, const char *name, struct cgroup *ret)
{
	if (!parent->path)
		return -ENOENT;
	remove_unused(parent->fd, name);
	if (mkdirat(parent->fd, name, 0755) < 0)
		return -errno;
	return cgroup_open(parent, name, ret);
}

void cgroup_done(struct cgroup *c)
{
	_cleanup_close_ int parent = -1;

	if (!c->path)
		return;
	parent = openat(c->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	remove_below(c->fd);
	if (parent >= 0)
		(void)unlinkat(parent, strrchr(c->path, '/') + 1, AT_REMOVEDIR);
	(void)close_fd(c->fd);
	free(c->path);
	*c = (struct cgroup){0};
}

/* SERVICE-NUMBER */
static bool is_named_so(const char *name)
{
	const char *dash = strrchr(name, '-');
	uint64_t number;

	return dash && dash != name && parse_number(dash + 1, UINT32_MAX, &number);
}

void cgroup_sweep(const struct cgroup *c)
{
	int copy = c->path ? openat(c->fd, ".", DIRECTORY) : -1;
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_type == DT_DIR && is_named_so(e->d_name))
			remove_unused(c->fd, e->d_name);
	if (d)
		(void)closedir(d);
	else
		(void)close_fd(copy);
}

/* ---- what is in it ---- */

bool cgroup_holds(const struct cgroup *c, pid_t pid)
{
	char proc[40], path[PATH_MAX];
	size_t n;

	if (!c->path)
		return false;
	n = strlen(c->path);
	(void)snprintf(proc, sizeof proc, "/proc/%d/cgroup", (int)pid);
	return path_of(proc, path, sizeof path) && !strncmp(path, c->path, n) &&
	       (path[n] == '\0' || path[n] == '/');
}

void cgroup_each(const struct cgroup *c, void (*each)(pid_t pid, void *arg), void *arg)
{
	int fd = c->path ? openat(c->fd, "cgroup.procs", O_RDONLY | O_CLOEXEC) : -1, pid;
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");

	/* 0: of another namespace */
	for (int n = 0; f && n < MAX_PROCESSES && fscanf(f, "%d", &pid) == 1; n++)
		if (pid > 1)
			each(pid, arg);
	if (f)
		(void)fclose(f);
	else
		(void)close_fd(fd);
}

static int write_to(const struct cgroup *c, const char *name, const char *word)
{
	int fd = c->path ? openat(c->fd, name, O_WRONLY | O_CLOEXEC) : -ENOENT, r = 0;

	if (fd < 0)
		return c->path ? -errno : fd;
	if (write(fd, word, 1) < 0)
		r = -errno;
	(void)close(fd);
	return r;
}

int cgroup_kill(const struct cgroup *c)
{
	return write_to(c, "cgroup.kill", "1");
}

int cgroup_freeze(const struct cgroup *c, bool frozen)
{
	return write_to(c, "cgroup.freeze", frozen ? "1" : "0");
}

int cgroup_enter(const struct cgroup *c)
{
	return write_to(c, "cgroup.procs", "0");
}

int cgroup_open_events(const struct cgroup *c)
{
	int fd = c->path ? openat(c->fd, "cgroup.events", O_RDONLY | O_CLOEXEC) : -ENOENT;

	return fd < 0 && c->path ? -errno : fd;
}

bool cgroup_is_frozen(int events_fd)
{
	char text[256];
	ssize_t n = pread(events_fd, text, sizeof text - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return strstr(text, "frozen 1") != NULL;
}
