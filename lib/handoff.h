/* SPDX-License-Identifier: MIT */
/* libhandoff: the worker's side of a hand-off, for programs written in C.
 *
 * The first part asks who this process is, finds the sockets that were passed to it, and says that
 * it can serve. It needs nothing but libc, keeps no state and never blocks:
 *
 *     int fd = handoff_listen("http", "127.0.0.1:8080");    (passed, or bound by itself)
 *
 * The second part lives on the program's own loop of libev: connections are accepted and counted,
 * and when a newer generation has taken over, accepting stops, idle connections are closed without
 * haste, busy ones finish, and the loop ends with the last of them:
 *
 *     handoff_new(loop, &handoff);
 *     handoff_accept(handoff, fd, on_connection, NULL);
 *     handoff_ready(handoff);
 *     ev_run(loop, 0);
 *
 * Both work under handoffd and under any other manager that speaks the protocols of
 * sd_listen_fds(3) and sd_notify(3), and do no harm without one: the same program runs alone. The
 * library starts no thread and no process, touches no signal, logs nothing and leaves the
 * environment as it is. Functions without a struct handoff may be called at any time and from any
 * thread, as long as no other thread changes the environment meanwhile; functions with one belong
 * to the thread that runs its loop, but for handoff_count().
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

/* The descriptor to accept on: the passed socket with this name as handoff_listener() finds it, or,
 * if there is none and `address` is not NULL, a passed one that is bound to `address`, or else a
 * new one that is bound to it and listens: that is how a program runs alone. `name` may be NULL.
 *
 * Addresses are "8080" (every local address), "127.0.0.1:8080", "[::1]:8080", "unix:/path" and
 * "unix:@name". A new socket is a stream, non-blocking, close-on-exec and has SO_REUSEADDR; the
 * file of a UNIX socket that nobody listens on any more is replaced. It belongs to the caller. Does
 * not block.
 *
 * -ENOENT: none was passed, and `address` is NULL. -EINVAL: `address` is not understood, or as
 * handoff_listeners(). -ENAMETOOLONG: its path is too long. Others are those of handoff_listener(),
 * socket(2), bind(2) and listen(2). */
int handoff_listen(const char *name, const char *address);

/* "STATUS=text" for handoffctl status, and "EXTEND_TIMEOUT_USEC=": the start may take so many
 * seconds from now. Returns and errors of handoff_notify(). */
int handoff_status(const char *text);
int handoff_extend(double seconds);

/* The number of this generation, from 1 on. 0 without handoffd. */
unsigned handoff_generation(void);

/* The number of the generation that served when this one was started: then this is a reload. 0:
 * nothing came before. */
unsigned handoff_previous(void);

/* Its release, as handoff_release(); NULL if there was none. */
const char *handoff_previous_release(void);

/* The number of this worker in its generation, from 0 on; -1 without handoffd. */
int handoff_worker(void);

/* The name of the service; NULL without handoffd. The string is part of the environment. */
const char *handoff_service(void);

/* The name of the environment ("production"); NULL without handoffd. */
const char *handoff_environment(void);

/* The directory of the release that this generation was started from, links resolved; NULL without
 * handoffd, or if the service has no directory. The string is part of the environment. */
const char *handoff_release(void);

/* ---- Stable: on the loop ----
 *
 * None of these blocks. Callbacks are called from the loop, never inside of a function of this
 * library that the program has called; in them every function may be called, but handoff_free()
 * only in that of handoff_on_drained(). */

struct ev_loop; /* of libev */
struct handoff;
struct handoff_connection;
struct handoff_timer;

/* Begins to work on `loop`, which must outlive it, and under handoffd says hello: handoffd sees how
 * many connections and requests are in flight, and with `drain.by = "auto"` tells the program by
 * message that it is to drain, if it accepts with handoff_accept() or has called
 * handoff_on_drain(). Where systemd asks for it (WATCHDOG_USEC), the loop tells that it is alive.
 *
 * One in a process. It keeps the loop running until it is drained or freed. -EINVAL: no loop.
 * -EBUSY: there is one already. -ENOMEM and those of memfd_create(2) and socketpair(2). */
int handoff_new(struct ev_loop *loop, struct handoff **ret);

/* Ends it: watchers and timers are gone, its listeners closed; connections that are left stay open
 * and are the program's, their struct handoff_connection must not be used any more. NULL is fine.
 * In a process made by fork(2) it closes what the child has inherited and says nothing. */
void handoff_free(struct handoff *h);

/* Says READY=1, and again until it was taken if the receiver is behind. 1: it was said, or will be.
 * 0: nobody wants to know. Errors of handoff_notify(). `h` may be NULL, then it is said once. */
int handoff_ready(struct handoff *h);

/* -- Accepting -- */

/* A new connection: `fd` is non-blocking and close-on-exec, belongs to the program, and is counted
 * as an idle one until handoff_connection_end(). */
typedef void (*handoff_accepted)(struct handoff_connection *c, int fd, void *data);

/* Accepts on the stream listener `fd`, some at each turn of the loop. When descriptors or memory
 * are short it rests for a moment. When the generation drains it takes what is still queued, stops,
 * and closes `fd`, which from here on belongs to the library, also if this fails. What is negative
 * is returned as it is: the error of handoff_listen(). -ENOMEM; -ENOTSOCK, -EBADF, -EINVAL: not a
 * listener. */
int handoff_accept(struct handoff *h, int fd, handoff_accepted accepted, void *data);

/* -- In flight -- */

/* A connection that was made in another way, counted from here on. `fd` is only looked at, -1 if
 * there is none. NULL when memory is short. */
struct handoff_connection *handoff_connection_new(struct handoff *h, int fd);

/* It is closed, or about to be in this very call; frees `c`. NULL is fine. */
void handoff_connection_end(struct handoff_connection *c);

/* Called when the program should close the connection: the generation drains, and no request came
 * for the time of grace. What is still to be read is looked at before. The program closes it and
 * calls handoff_connection_end(), now or later. Without this a connection of a draining generation
 * stays until its client or the deadline ends it. */
void handoff_connection_on_close(struct handoff_connection *c,
        void (*f)(struct handoff_connection *c, void *data), void *data);

/* A request begins with its first byte and ends when its answer has been written: in between the
 * connection is busy. Several may be under way on one connection. */
void handoff_request_begin(struct handoff_connection *c);
void handoff_request_end(struct handoff_connection *c);

/* Adds to the numbers of connections and of requests, or takes from them; for connections that have
 * no struct handoff_connection. A connection counted here is busy. From any thread. */
void handoff_count(struct handoff *h, int connections, int requests);

/* What handoffd sees. `served` are the requests that have ended. */
struct handoff_counts {
	unsigned long connections, busy, requests, served;
};
void handoff_counts(const struct handoff *h, struct handoff_counts *ret);

/* -- Drain -- */

/* Called once when the generation begins to drain, after accepting has stopped: to tell peers whose
 * protocol knows how, to stop what waits for work. */
void handoff_on_drain(struct handoff *h, void (*f)(struct handoff *h, void *data), void *data);

/* Called once when it drains and no connection is left; ev_break(loop, EVBREAK_ALL) if nothing else
 * was set here. */
void handoff_on_drained(struct handoff *h, void (*f)(struct handoff *h, void *data), void *data);

/* Does it drain? Then an answer should be the last of its connection ("Connection: close"). */
int handoff_draining(const struct handoff *h);

/* Seconds until what is left is cut; 0 when that is past, negative if there is no such time. */
double handoff_deadline(const struct handoff *h);

/* How long a connection of a draining generation may be idle, in seconds (5): from the begin of the
 * drain, or from its last request on. In this time a client that is about to send a request gets
 * its answer, and with it the news that the connection ends. */
void handoff_set_grace(struct handoff *h, double seconds);

/* Drains by itself, as on SIGTERM; `seconds` until the deadline, negative for none. The callbacks
 * come later, from the loop. It says STOPPING=1. Again only the deadline is set, if it is earlier.
 */
void handoff_drain(struct handoff *h, double seconds);

/* -- Reload -- */

/* Called when new connections go to another generation than before, with its number: equal to
 * handoff_generation() when it is this one, now or again after a rollback; more when a newer one
 * has taken over. */
void handoff_on_reload(struct handoff *h,
        void (*f)(struct handoff *h, unsigned generation, void *data), void *data);

/* The number of the generation that new connections go to, 0 while that is not known: without
 * handoffd, and before anything serves. */
unsigned handoff_serving(const struct handoff *h);

/* -- Timers -- */

#define HANDOFF_WHILE_DRAINING 1

/* Calls `f` every so many seconds while this generation serves, alone always: never beside the same
 * timer of another generation. It waits until the generation serves, rests when another one does,
 * and ends when it drains; with HANDOFF_WHILE_DRAINING in `flags` it begins in the same way, but
 * then goes on until handoff_free(). It ends also when `f` returns 0, and with
 * handoff_timer_stop(). Each worker has its own: where one of them is to do it, let it be the one
 * with handoff_worker() <= 0.
 *
 * `ret` may be NULL. -EINVAL: not a positive number of seconds. -ENOMEM. */
int handoff_every(struct handoff *h, double seconds, int flags, int (*f)(void *data), void *data,
        struct handoff_timer **ret);

/* Ends it and frees it; allowed also in its own callback. NULL is fine; a timer that has ended by
 * its callback's word must not be given any more. */
void handoff_timer_stop(struct handoff_timer *t);

/* ---- Experimental: may change until the next version ---- */

/* -- Kept memory -- */

/* Fills new memory, which is all zero. `old`: what an older generation has under the same name, if
 * it is of another layout (and read only: generations that use it go on with it), else NULL; take
 * over what makes sense. It is called with both locked, in the process that came first, and must
 * not call handoff_keep(); 0, or a negative errno which handoff_keep() hands on: then the next one
 * who asks is asked to fill it. */
typedef int (*handoff_keep_init)(
        void *memory, const void *old, size_t old_size, unsigned old_version, void *data);

/* Memory of this name, for all workers of this generation and those to come: made and filled once,
 * then the same at each call, in each worker, after a reload and after a crash. Another `version`
 * or `size` is another layout: it gets memory of its own, filled from the old one by `init`. A
 * generation that failed or was turned back takes its layout with it; the older one has what it
 * had.
 *
 * Generations that use the same layout share it at the same time: change it with atomic operations,
 * or between handoff_keep_lock() and handoff_keep_unlock(). It is at another address in each
 * process: no pointers in it. It cannot be unmapped.
 *
 * `init` may be NULL: zeros. Without handoffd it is the process's own; under systemd alone it is in
 * the descriptor store (FileDescriptorStoreMax=), for a service of one process.
 *
 * NULL on failure, with errno: EINVAL (name: 1 to 63 printable characters, no blank and no colon),
 * EEXIST (this generation has it in another layout), ENOSPC (handoffd keeps 32 things of a
 * service), ETIMEDOUT (no answer from handoffd in 5 s, or somebody fills it for more than 30 s),
 * ECONNREFUSED (handoffd is gone), what `init` returned, and those of memfd_create(2) and mmap(2).
 * Blocks for as long as the answer takes: to be called at the start. */
void *handoff_keep(
        const char *name, unsigned version, size_t size, handoff_keep_init init, void *data);

/* The lock of kept memory, for threads and processes. Waits so many milliseconds, without end if
 * that is negative. 0, or 1 if whoever had it has died: what it changed may be half done, make it
 * whole. -ETIMEDOUT or -EBUSY: another one has it. One that has it must not ask for it again. */
int handoff_keep_lock(void *memory, int milliseconds);
void handoff_keep_unlock(void *memory);

/* Gives away a duplicate of a descriptor to be kept under a name, instead of what was there, for
 * whoever asks handoff_kept_fd(). 1; 0 if nobody keeps it (no handoffd and no systemd, whose
 * keeping ends with the unit, and whose LISTEN_FDS it comes back in); or a negative errno as above,
 * or -EBADF. A name stands for memory or for a descriptor. Blocks as handoff_keep(). */
int handoff_keep_fd(const char *name, int fd);

/* A new descriptor for what is kept under a name now (or given away by FDSTORE=1); the caller's,
 * close-on-exec. -ENOENT:
 * nothing. Blocks as handoff_keep(). */
int handoff_kept_fd(const char *name);

/* What is kept under this name, memory or descriptor, is not kept any more; whoever has it, has it
 * still. Returns as handoff_keep_fd(). Blocks as handoff_keep(). */
int handoff_forget(const char *name);

/* -- Live connections -- */

struct handoff_live;

#define HANDOFF_PASS_MAX 65536 /* bytes of the state of a connection */

/* All are called from the loop. In them every function may be called, but handoff_live_free(). */
struct handoff_live_calls {
	/* Connections can be passed: this generation drains, and the one that serves understands
	 * the state. Pass those that are fit for it until handoff_pass() fails; called again
	 * whenever there is room for more. NULL: never passes any. */
	void (*wanted)(struct handoff_live *live, void *data);

	/* What became of one that was passed. 0: it was taken; close the descriptor, send and
	 * receive nothing. Negative: it was refused (what `taken` returned there, or -EMFILE), or
	 * -ECONNRESET, -ENOBUFS: it could not be sent; it is this process's own as before. NULL if
	 * `wanted` is. */
	void (*passed)(void *connection, int result, void *data);

	/* One comes, with its state, which was made in this version of it. 0: taken, `fd` is the
	 * program's. Negative errno: refused, the other one goes on with it. It must not be written
	 * or read in this call, only made ready for the loop; it still can be taken back as long as
	 * the call lasts. `fd` is close-on-exec, its other flags are as they were. `state` is not
	 * aligned. NULL: never takes any. */
	int (*taken)(int fd, const void *state, size_t size, unsigned version, void *data);
};

/* Passes connections to the generation that takes over, and takes them from the one before.
 * `version` is that of the states that this program makes, `oldest` the oldest one that it
 * understands. To be called before the program says that it is ready. Without handoffd nothing is
 * ever wanted or comes.
 *
 * It keeps the loop running until it is freed. -EINVAL: no loop, no calls, `wanted` without
 * `passed`, or `oldest` is more than `version`. -ENOMEM. */
int handoff_live_new(struct ev_loop *loop, unsigned version, unsigned oldest,
        const struct handoff_live_calls *calls, void *data, struct handoff_live **ret);

/* Ends it. What is on its way may be taken by the other side: `passed` is not called any more, and
 * the program must not touch these. For the end of a process; NULL is fine. */
void handoff_live_free(struct handoff_live *live);

/* Passes a connection, with its state: whatever the other side needs to go on, what was read and
 * not yet dealt with, and what is still to be written. `connection` is for the callback `passed`,
 * which is called for each that this has returned 0 for. Until then the program keeps `fd` open and
 * leaves it alone: its watchers stopped, nothing read, nothing written.
 *
 * -EAGAIN: there is no room now; `wanted` will be called. -ENOTCONN: nobody takes any. -EMSGSIZE:
 * more than HANDOFF_PASS_MAX. -EBADF: `fd` is negative. In all these cases it is as before. */
int handoff_pass(
        struct handoff_live *live, int fd, const void *state, size_t size, void *connection);

/* Is there somebody who takes? */
int handoff_live_wanted(const struct handoff_live *live);

#ifdef __cplusplus
}
#endif

#endif
