/* SPDX-License-Identifier: MIT */
/* Which connections belong to a generation, and when they end; told by the kernel, no matter which
 * process of the generation holds them.
 *
 * TCP: a connection inherits a tag from its listener (socket options without any meaning on TCP)
 * and shows it in sock_diag dumps; SKNLGRP_INET_TCP_DESTROY tells its end. UNIX: accepted sockets
 * carry the listener's private name. Shared listeners: by the inodes that the generation's
 * processes hold. Needs no privilege (inodes of processes of another user: CAP_SYS_PTRACE). Nothing
 * is subscribed and no timer runs while nothing is watched. */
#ifndef SOCKETS_CONNECTIONS_H
#define SOCKETS_CONNECTIONS_H

#include <sys/socket.h>
#include <sys/types.h>

#include "core/base.h"
#include "sockets/sockets.h"

struct connections;

/* One generation's connections at one moment. */
struct inflight {
	uint64_t total;  /* accepted and not yet closed by the worker, or in the accept queue */
	uint64_t idle;   /* of these: no byte in either direction for `idle_after` */
	uint64_t queued; /* in the accept queues */
	/* Handshakes that the generation's listeners began and that are not over. Only a
	 * quiet_check knows them (the kernel does not tell whose they are): 0 elsewhere. */
	uint64_t half_open;
	usec_t oldest; /* age of the oldest one, as far as it was watched: at least so much */
};

int connections_new(struct ev_loop *loop, struct connections **ret, struct ho_error *reterr);
struct connections *connections_free(struct connections *c);

/* How a generation's processes are found for shared listeners: calls `each` for every pid. May be
 * NULL: then all connections of the shared address count, which is too many rather than too few. */
typedef void (*process_lister)(void *data, void (*each)(pid_t pid, void *arg), void *arg);

/* Does the kernel tell when a TCP connection ends? Else it is asked repeatedly. Needs no privilege.
 */
bool connections_told(const struct connections *c);

/* Counts once, now. One dump serves all sets of one call; ret[i] belongs to sets[i]. A set of which
 * listeners are shared counts with `listers[i](lister_data[i])`; both arrays may be NULL. */
int connections_count(struct connections *c, struct listener_set *const *sets, size_t n,
        const process_lister *listers, void *const *lister_data, struct inflight *ret,
        struct ho_error *reterr);

/* Is the set quiet: has nothing that could still become an accepted connection? To be begun after
 * the flip: the first check notes the handshakes under way, later ones wait for these alone; it
 * also shortens how long an unanswered one can last. Queue 0 and no handshake of then left = quiet.
 */
struct quiet_check;
int quiet_check_new(struct connections *c, struct listener_set *set, struct quiet_check **ret);
/* 1 quiet, 0 not yet (why: ret), negative errno. */
int quiet_check_again(struct quiet_check *q, struct inflight *ret);
struct quiet_check *quiet_check_free(struct quiet_check *q);

/* Watches a quiet generation until it has no connection left. `report` is called once soon after
 * the start and then whenever the numbers have changed (not for every single connection: at most
 * once an iteration of the loop) and always when total - idle reaches 0, after a confirming dump.
 */
struct drain_watch;
struct drain_watch_options {
	usec_t idle_after; /* USEC_INFINITY: off */
	process_lister lister;
	void *lister_data;
};
typedef void (*drain_report)(void *data, const struct inflight *now);
int drain_watch_new(struct connections *c, struct listener_set *set,
        const struct drain_watch_options *options, drain_report report, void *data,
        struct drain_watch **ret, struct ho_error *reterr);
/* Counts anew, now; 0 or negative errno. Reports nothing. */
int drain_watch_look(struct drain_watch *w, struct inflight *ret);
/* The generation may have lost connections that have not ended: looks again soon. */
void drain_watch_hurry(struct drain_watch *w);
void drain_watch_last(const struct drain_watch *w, struct inflight *ret);
struct drain_watch *drain_watch_free(struct drain_watch *w);

/* The kernel does not note when a connection was accepted. It is at least as old as its last
 * silence in one direction, and as the time since a drain_watch first saw it. */
struct connection_info {
	char peer[64];        /* "192.0.2.1:5000", "[2001:db8::1]:5000", "unix pid 17" or "unix" */
	const char *listener; /* name in the configuration */
	const char *state;    /* "queued", or of TCP as ss(8) names it: "established", … */
	size_t owner;         /* of a browse: place of the set */
	usec_t age;           /* at least */
	usec_t idle;          /* since the last byte in either direction; USEC_INFINITY: unknown */
	uint64_t queued_in, queued_out; /* bytes; of a UNIX one unknown, 0 */
	uint64_t inode;                 /* 0: not accepted yet */
	int worker, pid; /* of a browse: who holds it; -1 and 0: nobody yet, or unknown */
};
/* Who is still connected, oldest first, at most `max` of them. */
int connections_list(struct connections *c, struct listener_set *set, struct connection_info *ret,
        size_t max, size_t *ret_count);

/* All connections of some sets, in no order, in steps of some hundred microseconds each, however
 * many there are. What comes or goes meanwhile may be missed, or shown. The sets may go before it.
 */
struct browse;
int browse_new(struct connections *c, struct listener_set *const *sets, size_t n,
        struct browse **ret, struct ho_error *reterr);
/* Before the first step: a process of the worker `worker` of sets[owner]. */
int browse_add_process(struct browse *b, size_t owner, int worker, pid_t pid);
typedef void (*browse_found)(const struct connection_info *i, void *arg);
/* One step: 1 there is more, 0 that was all, or negative errno. */
int browse_next(struct browse *b, browse_found found, void *arg);
struct browse *browse_free(struct browse *b);

#endif
