/* SPDX-License-Identifier: MIT */
#include "process/manager.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process/tree.h"
#include "system/fd.h"

#define DEPTH_MAX 64

static const struct {
	const char *name; /* of the process; a prefix */
	const char *advice;
} managers[] = {
        {"supervisord", "set autorestart=false and run `supervisorctl update` afterwards"},
        {"runsv", "`sv once` makes it the last start"},
        {"s6-supervise", "`s6-svc -O` makes it the last start"},
        {"supervise", "`svc -o` makes it the last start"},
        {"perpd", "`perpctl o` makes it the last start"},
        {"PM2", "start it with --no-autorestart"},
        {"containerd-shim", "run handoffd inside of the container instead"},
        {"conmon", "run handoffd inside of the container instead"},
        {"handoffd", "it is managed already: use that one's handoffctl"},
        {"circusd", "set respawn = False"},
        {"start_server", "its end is answered with a new worker: end the start_server with it"},
        {"einhorn", "its end is answered with a new worker"},
};

static ssize_t read_small(pid_t pid, const char *what, char *to, size_t size)
{
	_cleanup_close_ int fd = -1;
	char path[64];
	ssize_t n;

	(void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, to, size - 1);
	to[n > 0 ? n : 0] = '\0';
	return n;
}

bool process_name(pid_t pid, char *ret, size_t size)
{
	if (read_small(pid, "comm", ret, size) <= 0)
		return false;
	ret[strcspn(ret, "\n")] = '\0';
	for (char *p = ret; *p; p++) /* it may have given itself any name */
		if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
			*p = '?';
	return true;
}

bool process_holds(pid_t pid, int socket)
{
	char path[64], want[64], link[64];
	const struct dirent *entry;
	bool found = false;
	struct stat st;
	ssize_t n;
	DIR *d;

	(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	d = fstat(socket, &st) < 0 ? NULL : opendir(path);
	if (!d)
		return false;
	(void)snprintf(want, sizeof want, "socket:[%llu]", (unsigned long long)st.st_ino);
	while (!found && (entry = readdir(d))) {
		n = readlinkat(dirfd(d), entry->d_name, link, sizeof link - 1);
		link[n > 0 ? n : 0] = '\0';
		found = !strcmp(link, want);
	}
	(void)closedir(d);
	return found;
}

/* The unit in the last part of the path that is one: "…/system.slice/nginx.service" */
static bool unit_of(pid_t pid, char *ret, size_t size)
{
	char text[4096], *line, *save = NULL, *part, *rest;
	bool found = false;

	if (read_small(pid, "cgroup", text, sizeof text) <= 0)
		return false;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *path = strchr(line, '/');

		if (!path || (strncmp(line, "0::", 3) != 0 && !strstr(line, ":name=systemd:")))
			continue;
		for (part = strtok_r(path, "/", &rest); part; part = strtok_r(NULL, "/", &rest)) {
			size_t n = strlen(part);

			if (n > 8 && !strcmp(part + n - 8, ".service") &&
			        strncmp(part, "user@", 5) != 0)
				found = copy_string(ret, size, part);
		}
	}
	return found;
}

static bool known_ancestor(pid_t pid, struct text *t)
{
	struct tree_entry e;
	char name[64];

	for (int depth = 0; depth < DEPTH_MAX && tree_entry_read(pid, &e) == 0; depth++) {
		pid = e.parent;
		if (pid <= 1 || !process_name(pid, name, sizeof name))
			return false;
		for (size_t i = 0; i < ARRAY_SIZE(managers); i++) {
			if (strncmp(name, managers[i].name, strlen(managers[i].name)) != 0)
				continue;
			text_add(t, "was started by %s (pid %d), which would start it again: %s",
			        name, (int)pid, managers[i].advice);
			return true;
		}
	}
	return false;
}

bool manager_find(pid_t pid, char *ret, size_t size)
{
	struct text t = {.p = ret, .size = size};
	char unit[256];

	ret[0] = '\0';
	if (known_ancestor(pid, &t))
		return true;
	if (!unit_of(pid, unit, sizeof unit))
		return false;
	text_add(&t,
	        "belongs to the unit %s of systemd, which may start it again: write Restart=no "
	        "with `systemctl edit --runtime %s` and disable the unit (`systemctl stop` would "
	        "cut its connections)",
	        unit, unit);
	return true;
}
