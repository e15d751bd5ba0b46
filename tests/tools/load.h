/* SPDX-License-Identifier: MIT */
/* The load client's shared picture: what was asked for, what runs, and where the parts meet. One
 * thread, one loop of its own; all times are CLOCK_MONOTONIC. */
#ifndef TOOLS_LOAD_H
#define TOOLS_LOAD_H

#include "core/base.h"
#include "load_check.h"
#include "load_stats.h"

#include <ev.h>
#include <sys/socket.h>

#define MAX_TARGETS 16

struct target {
	struct sockaddr_storage address;
	socklen_t length;
	const char *text; /* as given */
};

struct load_options {
	struct target targets[MAX_TARGETS];
	size_t n_targets;
	double rate;                             /* short connections a second */
	usec_t duration;                         /* USEC_INFINITY: until a signal */
	uint64_t keepalive, slow, partial, hold; /* connections of these kinds */
	uint64_t requests_per_connection;        /* 0: no limit */
	usec_t think;       /* between requests of a connection, and before it is made again */
	usec_t slow_time;   /* asked of the server by sleep= */
	usec_t partial_gap; /* between the halves of a request */
	usec_t timeout;     /* of one request, connecting included */
	usec_t stall;       /* gaps from here on are listed */
	uint64_t size;      /* pattern bytes asked for */
	uint64_t max_outstanding; /* short connections at a time */
	uint64_t spread; /* source addresses 127.0.0.1 … for IPv4 loopback targets; 0: leave */
	const char *path;
	struct check_rule rule;
	int fixed; /* the answer is a file: without a nonce */
	int redis; /* speak its protocol; the path is the key */
	int json, verbose;
};

struct conn;

struct load {
	struct ev_loop *loop;
	struct load_options options;
	struct stats stats;
	ev_timer tick, end, grace;
	ev_signal term, interrupt, mark;
	usec_t started;
	uint64_t scheduled;   /* short connections due so far, started or skipped */
	uint64_t outstanding; /* short connections that run */
	uint64_t next_nonce, next_target, next_source;
	uint32_t run; /* random part of every nonce */
	bool stopping;
	struct conn *conns;
};

/* CLOCK_MONOTONIC now. */
usec_t load_now(void);
/* A line on stderr, only with -v. */
void load_say(const struct load *l, const char *format, ...) _printf_(2, 3);
/* Ends the loop once nothing runs any more. */
void load_check_finished(struct load *l);

/* Fills `o` or fills the error; -ECANCELED: the help was asked for and printed. */
int load_options_parse(
        struct load_options *o, int argc, char **argv, struct ho_error *reterr_error);

/* Starts a connection which records its own results and, unless it is a short one, is made again
 * until the load stops. `due` is when it should have started. */
void conn_start(struct load *l, enum kind kind, usec_t due);
/* Closes what is idle; everything else finishes its request. */
void conns_stop(struct load *l);
/* Gives up what is left, as timed out. */
void conns_give_up(struct load *l);

#endif
