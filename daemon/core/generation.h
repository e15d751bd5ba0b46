/* SPDX-License-Identifier: MIT */
/* All workers of a service that one reload started.
 *
 *   STARTING -> READY                 [generation_advance: every sign of readiness is there]
 *   STARTING, READY -> FAILED         [generation_fail]
 *   READY -> SERVING                  [turned: new connections come to it]
 *   READY -> CANARY -> SERVING        [turned: a part of them, then all]
 *   CANARY -> DRAINING                [turned: the canary was undone, or stop]
 *   SERVING -> WARM -> DRAINING       [generation_retire; at the end of bake and keep-warm]
 *   SERVING -> DRAINING               [generation_retire: nothing to go back to, or stop]
 *   SERVING -> GONE                   [taken_leave: a foreign server is left as it was]
 *   WARM, DRAINING -> SERVING         [turned: rollback]
 *   DRAINING -> STOPPING              [told to stop: drained, or deadline]
 *   DRAINING, STOPPING, FAILED -> GONE [generation_release: no process left]
 *
 * STARTING has no share. SERVING has it all, but for what a CANARY has. WARM and DRAINING have
 * none, their processes are whole and untold (WARM) or untold until they are quiet (DRAINING). GONE
 * owns nothing and is freed. */
#ifndef CORE_GENERATION_H
#define CORE_GENERATION_H

#include "core/base.h"
#include "core/config.h"
#include "core/lineage.h"
#include "core/request.h"
#include "core/worker.h"

struct service;

/* One roll-out: what was asked for. */
struct roll {
	const char *cause; /* static */
	enum request_kind kind;
	struct roll_options options; /* its release is `release` */
	char *release;               /* owned, or NULL */
	bool back; /* the previous release again, with the settings it had; no link is moved before
	              it serves */
};

/* X(ENUM, "name") */
#define GENERATION_STATES(X)                                                                       \
	X(STARTING, "starting")                                                                    \
	X(READY, "ready")                                                                          \
	X(CANARY, "canary")                                                                        \
	X(SERVING, "serving")                                                                      \
	X(WARM, "warm")                                                                            \
	X(DRAINING, "draining")                                                                    \
	X(STOPPING, "stopping")                                                                    \
	X(GONE, "gone")                                                                            \
	X(FAILED, "failed")

enum generation_state {
#define X(id, name) GENERATION_##id,
	GENERATION_STATES(X)
#undef X
};
const char *generation_state_to_string(enum generation_state s);

struct generation {
	uint32_t id;
	struct service *service;
	struct config *config; /* referenced */
	const struct service_config *settings;
	enum generation_state state;
	usec_t created, since; /* of the state */
	char reason[1000];     /* why it failed or was rolled back */
	void *shell;           /* the shell's object: listeners, release */

	bool preparing, prepared;
	bool taken; /* the server that ran before us, see taken.h */
	bool shared, migrates, probeable, divisible; /* see EVENT_PREPARED */
	char *release;                /* directory it was started from, or NULL; owned */
	bool linked;                  /* the release link was moved for it */
	unsigned share, share_before; /* wanted; what it was before the turn under way */

	/* before its workers are started: gate.c */
	bool hold_tried, holds;            /* holds: new connections wait for it */
	bool waited;                       /* it did hold: some may wait in it still */
	bool building, build_again, built; /* again: what is built is out of date */
	bool begun;
	usec_t begun_at;

	/* starting */
	usec_t ready_deadline, after_at;
	bool probing, probed;
	bool speaks_notify;
	char trouble[300]; /* what the last probe saw */
	bool late;         /* past the deadline: a worker's last words are awaited */

	/* how it is rolled out */
	struct roll roll; /* owned */
	unsigned canary;  /* its part while it is one; 0: it gets everything at once */
	usec_t hold, keep_warm;
	usec_t promote_at, abort_at; /* CANARY */
	enum outcome_code abort_code;
	const char *abort_outcome;
	struct lineage *lineage; /* what it replaced; referenced, or NULL */

	/* serving */
	bool baking, died; /* died: a worker did, and nothing was done about it yet */
	bool ended_badly;  /* the last worker that ended did not exit with status 0 */
	usec_t bake_until;
	usec_t check_at; /* CANARY too: when its check is done again, or given up */

	/* retired */
	usec_t hold_until, deadline, kill_at, quiet_at;
	unsigned quiet_tries, rescues;
	bool checking, quiet; /* quiet: nothing can reach it any more */
	bool watched, counted, uncountable;
	bool told, killed, drained, overdue;
	bool adopted;        /* its program accepts at sockets of its own */
	bool frozen, looked; /* frozen: asked for; looked: and nothing was found then */
	bool by_message;     /* told on the workers' channels, not by a signal */
	bool rolled_back;
	uint64_t in_flight, idle, cut;
	usec_t oldest;

	uint64_t memory; /* bytes, when it was last measured */

	struct worker *workers;
	unsigned n_workers;
	unsigned open; /* so many shall run, from the first on */

	/* rolled out in steps */
	unsigned step;      /* workers at a time; 0: all at once */
	unsigned step_from; /* workers that the old one had */
	bool opening;       /* the workers of the step are being started */
};

/* Most actions that one step can ask for a worker. */
#define ACTIONS_OF_WORKER 14

/* Frees what it owns and empties it. */
void roll_done(struct roll *r);

/* NULL when memory is short. Takes a reference of the config. */
struct generation *generation_new(struct service *service, uint32_t id, struct config *config,
        const struct service_config *settings, unsigned n_workers, usec_t now);
struct generation *generation_free(struct generation *g);
/* How it shall be rolled out: takes what `roll` owns. `back`: as this has been, or NULL.
 * False when memory is short. */
bool generation_set_roll(struct generation *g, struct roll *roll, struct lineage *back);
/* The release link was moved for it: as it was before. */
void generation_restore_link(struct generation *g);
/* The check of its readiness, again and again while it is watched; true if something changed. */
bool generation_check_advance(struct generation *g);
void generation_check_done(struct generation *g, bool ok, const char *why);
/* Its processes go on, if they were stopped. */
void generation_thaw(struct generation *g);
void generation_set_state(struct generation *g, enum generation_state state);

/* Does what can be done now; true if something changed. */
bool generation_advance(struct generation *g);
/* The earliest time at which generation_advance() would do more. */
usec_t generation_next_deadline(const struct generation *g);

/* It was not ready in time; `last_words` of a worker may tell why, or NULL. */
void generation_unready(struct generation *g, const char *last_words);
/* STARTING or READY only. `code` and `outcome` for those who wait for it. */
void generation_fail(struct generation *g, enum outcome_code code, const char *outcome,
        const char *format, ...) _printf_(4, 5);
/* It gets no new connection any more: keep it whole until `hold_until`, then drain it. */
void generation_retire(struct generation *g, usec_t hold_until);
/* Its deadline is now; `why`, or NULL: no words. */
void generation_hasten(struct generation *g, const char *why);
/* SIGKILL for all it has. */
void generation_kill(struct generation *g);
/* Has it all its processes, and was none told to stop? Then it can take all traffic at once. */
bool generation_whole(const struct generation *g);
bool generation_has_processes(const struct generation *g);
bool generation_is_old(const struct generation *g);
bool generation_has_listeners(const struct generation *g);

void generation_start_worker(struct generation *g, struct worker *w);
/* Sends drain.signal. */
void generation_signal_worker(struct generation *g, struct worker *w);
/* Tells every worker to stop. */
void generation_tell(struct generation *g);
/* Are its workers told to drain by message? */
bool generation_by_message(const struct generation *g);

/* What happened to its workers. */
void generation_worker_started(struct generation *g, struct worker *w, int pid);
void generation_worker_start_failed(struct generation *g, struct worker *w, const char *why);
void generation_worker_exited(struct generation *g, struct worker *w, int code, int status,
        unsigned rest, const char *last_words);
void generation_worker_tree_gone(struct generation *g, struct worker *w);
/* Its channel has changed: see WORD_HELLO. */
void generation_worker_hello(struct generation *g, struct worker *w, uint64_t state);

#endif
