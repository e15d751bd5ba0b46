/* SPDX-License-Identifier: MIT */
/* libhandoff: what a program written in C asks about its hand-off: which sockets were passed to it,
 * who it is, and a way to say that it can serve.
 *
 *     int fd = handoff_listener("http", 0);
 *
 *     if (fd == -ENOENT)
 *             fd = bind_my_own_address();    (nobody passed a socket: the program runs alone)
 *     ...
 *     handoff_notify("READY=1");
 *
 * It works under handoffd and under any other manager that speaks the protocols of sd_listen_fds(3)
 * and sd_notify(3), and does no harm without one. It needs nothing but libc, keeps no state, starts
 * no thread, never blocks, logs nothing and leaves the environment as it is. Every function may be
 * called at any time and from any thread, as long as no other thread changes the environment
 * meanwhile.
 *
 * Functions that can fail return a negative errno; errno itself means nothing afterwards. */
#ifndef HANDOFF_H
#define HANDOFF_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header. */
#define HANDOFF_HEADER_VERSION "0.1.0"

/* ---- Stable: these keep their names and meaning as long as the library is libhandoff.so.0 ---- */

/* The version of the library in use, as "0.1.0". */
const char *handoff_version(void);

/* How many sockets were passed to this process (LISTEN_FDS); 0 if none, or if they were passed to
 * another process (LISTEN_PID). Where handoffd names no process (listen-pid = "none") they are for
 * whoever asks. -EINVAL: the variables are no numbers, or LISTEN_FDNAMES has another number of
 * names. */
int handoff_listeners(void);

/* The descriptor of a passed socket: of those with `name` (any, if it is NULL) the one with
 * `index`, from 0 on; a listener with several addresses has several sockets. Sockets keep the order
 * of the configuration.
 *
 * It is looked at before it is given out: it must be a socket that is bound, and listening if it is
 * not for datagrams. FD_CLOEXEC is set, all else is left alone (handoffd's sockets are
 * non-blocking). It belongs to the caller, is the same at each call, and after close(2) is not to
 * be asked for again.
 *
 * -ENOENT: there is none (nothing was passed, or no such name or index). -EBADF, -ENOTSOCK: what
 * was passed is not open, or no socket. -ENOTCONN: not bound or not listening. -EINVAL: as
 * handoff_listeners(), or `index` is negative. */
int handoff_listener(const char *name, int index);

/* Copies the name of the passed socket with `index`, from 0 on, to `name`; "unknown" if names were
 * not passed. Sockets with an equal name are addresses of one listener. Returns its length, or
 * -ENOENT or -EINVAL as above, or -ERANGE: `size` is too small for it and its NUL (64 is enough for
 * handoffd's). */
int handoff_listener_name(int index, char *name, size_t size);

/* Sends words of sd_notify(3), separated by newlines, to whoever started this process: "READY=1",
 * "STATUS=text", "STOPPING=1", "EXTEND_TIMEOUT_USEC=...". Returns 1 if they were sent, 0 if nobody
 * wants to know (NOTIFY_SOCKET is not set).
 *
 * -EAGAIN: the receiver is behind; try again later. -EINVAL: `state` is NULL or empty, or
 * NOTIFY_SOCKET is neither an absolute path nor an abstract name ("@name"). -E2BIG: NOTIFY_SOCKET
 * is too long for an address. Others are those of socket(2) and sendto(2), for example
 * -ECONNREFUSED when the receiver is gone. */
int handoff_notify(const char *state);

/* The number of this generation, from 1 on; more than 1 means that another one served before. 0
 * without handoffd. */
unsigned handoff_generation(void);

/* The number of this worker in its generation, from 0 on; -1 without handoffd. */
int handoff_worker(void);

/* The name of the service; NULL without handoffd. The string is part of the environment. */
const char *handoff_service(void);

/* The directory of the release that this generation was started from, links resolved; NULL without
 * handoffd, or if the service has no directory. The string is part of the environment. */
const char *handoff_release(void);

/* ---- Experimental: may change until the next version ---- */

/* -- Kept memory -- */

/* Fills new memory, which is all zero. `old`: what an older generation has under the same name, if it
 * is of another layout (and read only: generations that use it go on with it), else NULL; take over
 * what makes sense. It is called with both locked, in the process that came first, and must not call
 * handoff_keep(); 0, or a negative
 * errno which handoff_keep() hands on: then the next one who asks is asked to fill it. */
typedef int (*handoff_keep_init)(
	void *memory, const void *old, size_t old_size, unsigned old_version, void *data);

/* Memory of this name, for all workers of this generation and those to come: made and filled once,
 * then the same at each call, in each worker, after a reload and after a crash. Another `version` or
 * `size` is another layout: it gets memory of its own, filled from the old one by `init`. A
 * generation that failed or was turned back takes its layout with it; the older one has what it had.
 *
 * Generations that use the same layout share it at the same time: change it with atomic operations,
 * or between handoff_keep_lock() and handoff_keep_unlock(). It is at another address in each process:
 * no pointers in it. It cannot be unmapped.
 *
 * `init` may be NULL: zeros. Without handoffd it is the process's own; under systemd alone it is in
 * the descriptor store (FileDescriptorStoreMax=), for a service of one process.
 *
 * NULL on failure, with errno: EINVAL (name: 1 to 63 printable characters, no blank and no colon),
 * EEXIST (this generation has it in another layout), ENOSPC (handoffd keeps 32 things of a service),
 * ETIMEDOUT (no answer from handoffd in 5 s, or somebody fills it for more than 30 s), ECONNREFUSED
 * (handoffd is gone), EAGAIN (it is behind), what `init` returned, and those of memfd_create(2) and
 * mmap(2). Blocks for as long as the answer takes: to be called at the start. */
void *handoff_keep(
	const char *name, unsigned version, size_t size, handoff_keep_init init, void *data);

/* The lock of kept memory, for threads and processes. Waits so many milliseconds, without end if
 * that is negative. 0, or 1 if whoever had it has died: what it changed may be half done, make it
 * whole. -ETIMEDOUT or -EBUSY: another one has it. One that has it must not ask for it again. */
int handoff_keep_lock(void *memory, int milliseconds);
void handoff_keep_unlock(void *memory);

/* Gives away a duplicate of a descriptor to be kept under a name, instead of what was there: every
 * worker that is started later has it in LISTEN_FDS, and handoff_kept_fd() finds it. 1; 0 if nobody
 * keeps it (no handoffd and no systemd); or a negative errno as above, or -EBADF. A name stands for
 * memory or for a descriptor. Blocks as handoff_keep(). */
int handoff_keep_fd(const char *name, int fd);

/* A new descriptor for what is kept under a name now; the caller's, close-on-exec. -ENOENT: nothing.
 * Blocks as handoff_keep(). */
int handoff_kept_fd(const char *name);

/* What is kept under this name, memory or descriptor, is not kept any more; whoever has it, has it
 * still. Returns and errors of handoff_notify(). */
int handoff_forget(const char *name);

#ifdef __cplusplus
}
#endif

#endif
