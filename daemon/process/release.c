/* SPDX-License-Identifier: MIT */
/* A release: what a generation is started from, looked up once for all its workers, so that they
 * agree even while links and files change. */
#include "process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process/environment.h"
#include "process/substitute.h"
#include "system/fd.h"

#define FILE_MAX_BYTES ((size_t)1 << 20)

/* Finds the part of `path` that cannot be resolved and says it; `path` is changed on the way. */
static int explain_path(char *path, const char *service, int error, struct ho_error *reterr)
{
	for (char *p = path; *p; p++) {
		char target[PATH_MAX], *end = p + 1 + strcspn(p + 1, "/"), cut = *end;
		struct stat st;
		ssize_t n;

		if (p != path && *p != '/')
			continue;
		*end = '\0';
		if (stat(path, &st) < 0) {
			error = errno;
			n = readlink(path, target, sizeof target - 1);
			if (n < 0 || error != ENOENT)
				break;
			target[n] = '\0';
			return ho_error_set(reterr, -ENOENT,
			        "directory of service \"%s\": \"%.150s\" is a link to \"%.150s\", "
			        "which does not exist",
			        service, path, target);
		}
		*end = cut;
	}
	return ho_error_set(reterr, -error, "directory of service \"%s\": \"%.200s\": %s", service,
	        path, strerror(error));
}

int release_directory(const struct config *config, const struct service_config *service,
        uint32_t generation, char **ret, struct ho_error *reterr)
{
	const struct substitution s = {.service = service->name,
	        .environment = config->environment ? config->environment : "",
	        .generation = generation};

	return substitute(service->directory, &s, ret, reterr);
}

static int resolve_directory(struct release *r, const char *instead, struct ho_error *reterr)
{
	_cleanup_free_ char *path = instead ? strdup(instead) : NULL;
	_cleanup_free_ char *resolved = NULL;
	struct stat st;
	int result = 0;

	if (!instead)
		result = release_directory(r->config, r->service, r->generation, &path, reterr);
	else if (!path)
		result = ho_error_set(reterr, -ENOMEM, "no memory for a release of service \"%s\"",
		        r->service->name);
	if (result < 0)
		return result;
	resolved = realpath(path, NULL);
	if (!resolved)
		return explain_path(path, r->service->name, errno, reterr);
	if (stat(resolved, &st) == 0 && !S_ISDIR(st.st_mode))
		return ho_error_set(reterr, -ENOTDIR,
		        "directory of service \"%s\": \"%.200s\" is not a directory",
		        r->service->name, path);
	r->directory = take_ptr(resolved);
	return 0;
}

/* A relative path is one inside of the release. -ENOENT is left to the caller to judge. */
static int open_file(const struct release *r, const char *path, int *ret)
{
	int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	_cleanup_close_ int at = -1;
	struct stat st = {0};
	int fd;

	if (path[0] != '/' && r->directory) {
		at = open(r->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (at < 0)
			return -errno;
	}
	fd = openat(at >= 0 ? at : AT_FDCWD, path, flags);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		(void)close_fd(fd);
		return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	}
	*ret = fd;
	return 0;
}

static ssize_t read_all(int fd, char *to, size_t size)
{
	size_t used = 0;

	while (used < size) {
		ssize_t n = read(fd, to + used, size - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	return (ssize_t)used;
}

static int read_file(
        const struct release *r, struct environment *e, const char *path, struct ho_error *reterr)
{
	bool optional = path[0] == '-';
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int fd = -1;
	ssize_t n;
	int result;

	path += optional;
	result = open_file(r, path, &fd);
	if (result == -ENOENT && optional)
		return 0;
	if (result < 0)
		return ho_error_set(reterr, result,
		        "cannot read environment file \"%.200s\" of service \"%s\": %s", path,
		        r->service->name,
		        result == -EINVAL ? "not a regular file" : strerror(-result));
	text = malloc(FILE_MAX_BYTES + 1);
	n = text ? read_all(fd, text, FILE_MAX_BYTES + 1) : -ENOMEM;
	if (n > (ssize_t)FILE_MAX_BYTES)
		n = -EFBIG;
	if (n < 0)
		return ho_error_set(reterr, (int)n,
		        "cannot read environment file \"%.200s\" of service \"%s\": %s", path,
		        r->service->name, n == -EFBIG ? "larger than 1 MiB" : strerror((int)-n));
	return environment_parse(e, path, text, (size_t)n, reterr);
}

static int read_environment(struct release *r, struct ho_error *reterr)
{
	const struct service_config *s = r->service;
	struct environment e = {0};
	int result = 0;

	for (size_t i = 0; result == 0 && i < s->environment_files.count; i++)
		result = read_file(r, &e, s->environment_files.items[i], reterr);
	for (size_t i = 0; result == 0 && i < s->environ.count; i++)
		environment_put(&e, s->environ.items[i]);
	if (result == 0 && !e.items) {
		e.items = calloc(1, sizeof *e.items);
		if (!e.items)
			e.failed = -ENOMEM;
	}
	if (result == 0 && e.failed)
		result = ho_error_set(reterr, e.failed,
		        "cannot build the environment of service \"%s\": %s", s->name,
		        strerror(-e.failed));
	if (result < 0) {
		environment_done(&e);
		return result;
	}
	r->environ = e.items;
	return 0;
}

int release_new(struct config *config, const struct service_config *service, uint32_t generation,
        struct release **ret, struct ho_error *reterr)
{
	return release_new_at(config, service, generation, NULL, ret, reterr);
}

int release_new_at(struct config *config, const struct service_config *service, uint32_t generation,
        const char *directory, struct release **ret, struct ho_error *reterr)
{
	struct release *r = calloc(1, sizeof *r);
	int result = 0;

	if (!r)
		return ho_error_set(reterr, -ENOMEM, "no memory for a release of service \"%s\"",
		        service->name);
	*r = (struct release){.config = config_ref(config),
	        .service = service,
	        .generation = generation,
	        .environment_name = config->environment ? config->environment : "",
	        .refs = 1};
	if (service->directory)
		result = resolve_directory(r, directory, reterr);
	if (result == 0)
		result = read_environment(r, reterr);
	if (result < 0)
		(void)release_unref(r);
	else
		*ret = r;
	return result;
}

struct release *release_ref(struct release *r)
{
	r->refs++;
	return r;
}

struct release *release_unref(struct release *r)
{
	if (!r || --r->refs > 0)
		return NULL;
	for (size_t i = 0; r->environ && r->environ[i]; i++)
		free(r->environ[i]);
	free(r->environ);
	free(r->directory);
	free(r->previous_release);
	cgroup_done(&r->cgroup);
	(void)config_unref(r->config);
	free(r);
	return NULL;
}
