/* SPDX-License-Identifier: MIT */
/* What the load client has seen: answers, failures by class, who answered, how long it took, how
 * long nobody answered. Everything is bounded; what does not fit is counted. */
#ifndef TOOLS_LOAD_STATS_H
#define TOOLS_LOAD_STATS_H

#include "core/base.h"

#define KINDS(X)                                                                                   \
	X(SHORT, "short")                                                                          \
	X(KEEPALIVE, "keepalive")                                                                  \
	X(SLOW, "slow")                                                                            \
	X(PARTIAL, "partial")                                                                      \
	X(HOLD, "hold")

/* EOF: closed before a byte of the answer; on a connection which had answered before that is the
 * race of a keep-alive connection, a class of its own. TRUNCATED: closed within the answer. */
#define FAILURES(X)                                                                                \
	X(REFUSED, "refused")                                                                      \
	X(RESET, "reset")                                                                          \
	X(EOF, "eof")                                                                              \
	X(KEEPALIVE_RACE, "keepalive-race")                                                        \
	X(TRUNCATED, "truncated")                                                                  \
	X(WRONG, "wrong")                                                                          \
	X(STATUS, "status")                                                                        \
	X(TIMEOUT, "timeout")                                                                      \
	X(CLIENT_PORTS, "client-ports")                                                            \
	X(ERRNO, "errno")

#define KIND_ENUM(name, text) KIND_##name,
#define FAILURE_ENUM(name, text) FAILURE_##name,
enum kind { KINDS(KIND_ENUM) N_KINDS };
enum failure { FAILURES(FAILURE_ENUM) N_FAILURES };
extern const char *const kind_names[N_KINDS];
extern const char *const failure_names[N_FAILURES];

#define HISTOGRAM_SUB 32 /* parts of a power of two: 3 % */
#define HISTOGRAM_BUCKETS (HISTOGRAM_SUB * 60)

struct histogram {
	uint64_t count, max;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

#define MAX_EXAMPLES 10
#define MAX_WORKERS 1024
#define MAX_MARKS 256
#define MAX_STALLS 256
#define MAX_SLOW_ANSWERS 4096

struct example {
	usec_t at;
	enum failure class;
	enum kind kind;
	int error;        /* errno, or 0 */
	int status;       /* HTTP, or 0 */
	uint64_t request; /* how many answers came on this connection before */
	unsigned port;    /* local; 0 if unknown */
	char target[64], detail[64];
};

struct worker_seen {
	uint64_t pid, generation;
	uint64_t answers[N_KINDS];
	usec_t first, last;
};

/* A moment marked by SIGUSR1, and the first answer of a worker not seen before it. */
struct mark {
	usec_t at, first_new; /* first_new 0: none yet */
	uint64_t pid, generation;
};

struct stall {
	usec_t at, gap; /* when it began */
};

struct slow_answer {
	enum kind kind;
	usec_t connected, answered;
	uint64_t pid, generation;
};

struct stats {
	uint64_t
	        started[N_KINDS]; /* requests, counted when their connection or repetition begins */
	uint64_t answers[N_KINDS];
	uint64_t failures[N_KINDS][N_FAILURES];
	struct histogram latency[N_KINDS]; /* microseconds */
	struct example examples[MAX_EXAMPLES];
	size_t n_examples;
	struct worker_seen workers[MAX_WORKERS];
	size_t n_workers;
	uint64_t workers_dropped;
	struct mark marks[MAX_MARKS];
	size_t n_marks;
	struct stall stalls[MAX_STALLS];
	size_t n_stalls;
	uint64_t stalls_dropped;
	struct slow_answer slow[MAX_SLOW_ANSWERS];
	size_t n_slow;
	uint64_t slow_dropped;
	usec_t last_answer, longest_gap, longest_gap_at; /* of short and keep-alive requests */
	uint64_t skipped, outstanding_max; /* short connections not started because of the cap */
	uint64_t idle_closed, hold_closed; /* by the server, between requests: no failure */
	uint64_t moved;      /* answers by another worker than the one before on a connection */
	uint64_t queue_full; /* repeated attempts on a full UNIX queue */
	usec_t schedule_lag; /* the longest time that this client itself was late */
	usec_t started_at, ended_at;
};

/* One verified answer. */
struct answer {
	enum kind kind;
	usec_t latency, connected, now;
	bool known; /* pid and generation are */
	uint64_t pid, generation;
};

void histogram_add(struct histogram *h, uint64_t value);
/* Upper end of the bucket in which the given part (0 … 1) of the values has been reached. */
uint64_t histogram_at(const struct histogram *h, double part);

/* True if a worker answered which had not been seen before. */
bool stats_answer(struct stats *s, const struct answer *a, usec_t stall);
void stats_failure(struct stats *s, const struct example *e);
void stats_mark(struct stats *s, usec_t now);
/* After the last answer: the last gap ends when the load did, at `ended_at`. */
void stats_end(struct stats *s, usec_t stall);
uint64_t stats_failed(const struct stats *s);

/* The summary on stdout; 0 or negative errno. */
int stats_print_json(const struct stats *s);
void stats_print_text(const struct stats *s);

#endif
