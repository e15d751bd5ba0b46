/* SPDX-License-Identifier: MIT */
/* One process of a generation.
 *
 *   ABSENT -> STARTING            [worker_start]
 *   STARTING -> RUNNING | ABSENT  [started; could not be started]
 *   RUNNING -> READY              [it has shown that it can serve]
 *   RUNNING, READY -> STOPPING    [told to stop, or killed]
 *   RUNNING, READY, STOPPING -> REST | ABSENT  [main process gone; REST while others of its tree
 * live] REST -> ABSENT                [tree gone] */
#ifndef CORE_WORKER_H
#define CORE_WORKER_H

#include "core/base.h"

enum worker_state {
	WORKER_ABSENT,   /* no process; one is started at retry_at, if that is finite */
	WORKER_STARTING, /* asked for */
	WORKER_RUNNING,
	WORKER_READY,
	WORKER_STOPPING,
	WORKER_REST,
};

/* Does it say that it is alive, where that is asked of it? See watchdog.c. */
enum worker_trust { WORKER_TRUSTED, WORKER_LATE, WORKER_ABORTED };

struct worker {
	unsigned index;
	enum worker_state state;
	uint32_t serial; /* of the process: counts the starts */
	int pid;         /* of the main process; 0: none */
	usec_t started;
	usec_t retry_at;    /* ABSENT: when the next one is started */
	usec_t kill_at;     /* REST: when what is left is killed */
	usec_t alive_until; /* when it will have been silent for too long; 0: not asked to speak */
	enum worker_trust trust;
	unsigned restarts; /* in all */
	unsigned failures; /* in a row: the back-off */
	bool killed;       /* SIGKILL was sent */
	bool surplus;      /* told to stop while its generation serves */
	bool hello;        /* it has a channel: it is told who serves */
	bool drains;       /* it can be told to drain by message */
	bool messaged;     /* it was told so, and not by a signal */
	uint64_t lost;     /* connections that it had at its end, by its own count */
	char status[160];  /* its own words */
	usec_t told_until; /* see worker_may_tell() */
	char ended[160];   /* how the process before it ended, or why none could be started */
	void *shell;       /* the shell's object of the process */
};

static inline bool worker_alive(const struct worker *w)
{
	return w->state != WORKER_ABSENT;
}

/* Back-off before start number `failures` in a row: 100 ms doubling to 30 s. */
usec_t worker_backoff(unsigned failures);

/* May what it says of itself be told? Some times at once, and then once a second: nobody is to be
 * drowned in it. */
bool worker_may_tell(struct worker *w, usec_t now);

/* "exited with status 1" */
void describe_exit(char *buffer, size_t size, int code, int status, uint64_t lost);
/* The last lines tell most: what does not fit is left out in front. */
void add_last_words(struct text *t, const char *words);

#endif
