/* SPDX-License-Identifier: MIT */
/* What a worker says by sd_notify(3): a datagram socket of its own for each worker.
 *
 * The socket has an abstract name with 128 random bits, not a path: workers of another user need no
 * right in a directory of ours, and nothing is left behind by a crash. Since abstract names can be
 * listed by anybody, the name proves nothing: the kernel's word on the sender (SCM_CREDENTIALS) is
 * checked for each datagram. A worker that moves to another network namespace cannot reach the
 * socket. */
#ifndef PROCESS_NOTIFY_H
#define PROCESS_NOTIFY_H

#include <ev.h>
#include <sys/types.h>

#include "core/base.h"
#include "process/process.h"

#define NOTIFY_MAX_BYTES 4096
#define NOTIFY_READS 64

/* Calls `each` for every line that is understood, in order, until it returns false; the text of a
 * message lives until `each` returns. Pure. A datagram with a zero byte inside is ignored whole. */
void notify_parse(const char *bytes, size_t length,
        bool (*each)(void *arg, const struct notify_message *m), void *arg);

struct notify {
	struct ev_loop *loop;
	ev_io io;
	int fd;
	char name[64];      /* as NOTIFY_SOCKET tells it: "@handoffd/..." */
	uint64_t strangers; /* datagrams ignored because of their sender */
	/* Is this sender one of the worker's? */
	bool (*accepts)(void *data, pid_t pid, uid_t uid);
	/* Returns false if `notify` must not be touched any more. */
	bool (*message)(void *data, const struct notify_message *m);
	void *data;
};

/* The callbacks above and `data` are set by the caller before. `readable` is called with io.data ==
 * data and is to call notify_read(). */
int notify_start(struct notify *n, struct ev_loop *loop,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events), struct ho_error *reterr);
/* At the name that is there already. */
int notify_rebind(struct notify *n, struct ev_loop *loop,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events));
/* With the socket that is there already. */
void notify_watch(struct notify *n, struct ev_loop *loop,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events));
void notify_stop(struct notify *n);
/* Reads at most `limit` datagrams (NOTIFY_READS for one wake-up) without blocking; false if a
 * callback said so. */
bool notify_read(struct notify *n, unsigned limit);

#endif
