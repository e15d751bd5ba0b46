/* SPDX-License-Identifier: MIT */
#include "process/ends.h"

#include <errno.h>
#include <stdio.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "process/dialect.h"
#include "system/fd.h"

void ends_done(struct ends *e)
{
	e->null_fd = close_fd(e->null_fd);
	e->ready = close_fd(e->ready);
	e->einhorn = close_fd(e->einhorn);
	e->outputs[0] = close_fd(e->outputs[0]);
	e->outputs[1] = close_fd(e->outputs[1]);
}

/* A worker that could read its own pipe is not ended by SIGPIPE when handoffd dies: whoever comes
 * after that reads on. */
static void let_read(int *fd)
{
	char path[64];
	int both;

	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
	both = open(path, O_RDWR | O_CLOEXEC);
	if (both < 0)
		return;
	(void)close_fd(*fd);
	*fd = both;
}

int ends_pipe(const struct credentials *c, int *ret_ours, int *ret_theirs, struct ho_error *reterr)
{
	int ends[2], r = 0;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return ho_error_set(
		        reterr, -errno, "cannot open a pipe for a worker: %s", strerror(errno));
	let_read(&ends[1]);
	if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0 ||
	        (c->change && fchown(ends[1], c->uid, c->gid) < 0))
		r = -errno;
	if (r < 0) {
		(void)close_fd(ends[0]);
		(void)close_fd(ends[1]);
		return ho_error_set(
		        reterr, r, "cannot prepare a pipe for a worker: %s", strerror(-r));
	}
	*ret_ours = ends[0];
	*ret_theirs = ends[1];
	return 0;
}

bool ends_have_einhorn(const struct process_spec *spec)
{
	return (spec->release->service->dialects & DIALECT_EINHORN) && spec->n_fds;
}

/* A standard descriptor of handoffd itself, or /dev/null where it has none. */
static int inherited(int fd, const struct ends *e)
{
	return fcntl(fd, F_GETFD) < 0 ? e->null_fd : fd;
}

int ends_map(const struct process_spec *spec, const struct ends *e, struct fdmap_plan *ret,
        struct ho_error *reterr)
{
	const struct service_config *s = spec->release->service;
	bool on_stdin = (s->dialects & DIALECT_STDIN) && spec->n_fds;
	struct fdmap map = {0};
	int r;

	r = fdmap_add(&map, on_stdin ? spec->fds[0].fd : e->null_fd, 0);
	for (int i = 0; r == 0 && i < 2; i++)
		r = fdmap_add(&map, spec->capture ? e->outputs[i] : inherited(i + 1, e), i + 1);
	for (size_t i = 0; r == 0 && i < spec->n_fds; i++)
		r = fdmap_add(&map, spec->fds[i].fd, 3 + (int)i);
	if (r == 0 && ends_have_einhorn(spec))
		r = fdmap_add(&map, e->einhorn, dialect_einhorn_fd(spec->n_fds));
	if (r < 0)
		return ho_error_set(reterr, r, "cannot plan the descriptors of service \"%s\": %s",
		        s->name, strerror(-r));
	if (s->ready.by == READY_FD) {
		r = s->ready.fd < 3 ? -EINVAL : fdmap_add(&map, e->ready, s->ready.fd);
		if (r < 0)
			return ho_error_set(reterr, r,
			        "service \"%s\": descriptor %d cannot be used for readiness: %s",
			        s->name, s->ready.fd,
			        r == -EEXIST
			                ? "a socket is passed there; take a higher number"
			                : "0 to 2 are the standard ones, take a higher number");
	}
	fdmap_make(&map, ret);
	return 0;
}
