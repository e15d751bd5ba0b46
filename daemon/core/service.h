/* SPDX-License-Identifier: MIT */
/* One service: its generations, the turn of its connections from one to another, at most one
 * running and one waiting roll-out, and who waits for what. */
#ifndef CORE_SERVICE_H
#define CORE_SERVICE_H

#include "core/base.h"
#include "core/config.h"
#include "core/gate.h"
#include "core/generation.h"
#include "core/record.h"
#include "core/request.h"
#include "core/timers.h"

struct supervisor;
struct target;

#define GENERATIONS_MAX 15 /* at once: a generation's connections are told apart by 4 bits */

enum service_state {
	SERVICE_STARTING, /* nothing serves yet */
	SERVICE_SERVING,
	SERVICE_STOPPING,
	SERVICE_STOPPED,
	SERVICE_FAILED, /* nothing serves, and nothing is tried */
};
const char *service_state_to_string(enum service_state s);

enum turn_kind {
	TURN_NONE,
	TURN_FLIP,   /* to a new generation */
	TURN_PART,   /* a part of them to a canary */
	TURN_ABORT,  /* the canary's part goes back */
	TURN_BACK,   /* to the previous generation */
	TURN_STOP,   /* to nobody */
	TURN_HOLD,   /* to a generation that is not ready: connections wait for it */
	TURN_RETURN, /* away from one that they waited for in vain */
};

struct service {
	uint32_t id;
	char name[CONFIG_MAX_NAME];
	enum service_state state;
	struct supervisor *supervisor;
	struct config *wanted; /* referenced: what the next generation is started from */
	const struct service_config *wanted_settings;
	void *shell;

	struct generation *generations[GENERATIONS_MAX]; /* oldest first */
	unsigned n_generations;
	uint32_t last_generation;
	struct generation *rolling; /* STARTING or READY */
	bool waiting;               /* one more roll-out is wanted */
	struct roll waiting_roll;   /* owned */

	/* While a turn is under way (asked for, not answered) nothing else is decided. */
	enum turn_kind turn;
	struct generation *turn_to;
	unsigned turn_part;  /* of TURN_PART */
	bool turn_asked;     /* BACK: by somebody, not by a failure */
	unsigned turn_tries; /* a handoffd that has died may have made it: left before it is undone
	                      */
	usec_t turn_at;      /* when it is tried again */

	struct gate gate;
	struct generation *held; /* has failed, and connections still wait for it */

	bool stop_wanted, remove, start_again;
	bool abort_wanted, back_wanted;
	unsigned part_wanted; /* of a canary; 0: nothing is wanted */
	char why[160];        /* somebody wants that */
	bool attempted;       /* the first generation has served or failed */
	unsigned taking; /* processes of a server that is to be taken over first; see taken.h */
	bool own_served; /* a generation of our own has */
	bool counted_rolling;
	bool touched;  /* by a configuration: to be settled */
	bool finished; /* its program ended by itself and is not to be restarted */
	usec_t retry_at, measure_at;
	unsigned scaled, scaled_from; /* workers instead of what the settings say; 0: as they say */
	unsigned failures;
	uint64_t cut; /* connections cut since the last result */

	struct timer timer;
	struct target *targets; /* those who wait for this service */
	bool has_result;
	struct result last_result;

	struct service *next_changed; /* of those that changed, see service_note_change() */
	bool changed;
};

/* NULL when memory is short. */
struct service *service_new(struct supervisor *s, uint32_t id, const char *name);
struct service *service_free(struct service *sv);

/* Puts the newest generation behind the others and owns it then; -ENOMEM, or no place. */
int service_append(struct service *sv, struct generation *g);

struct generation *service_serving(const struct service *sv);
/* Who takes the connections of this generation over that can be passed: the one that serves, as
 * soon as there is no way back to this one; NULL: nobody yet. */
struct generation *service_heir(const struct service *sv, const struct generation *g);
struct generation *service_find(const struct service *sv, uint32_t generation);
/* Old generations that still have something, and are older than `than`. */
unsigned service_old(const struct service *sv, uint32_t than);
void service_set_state(struct service *sv, enum service_state state);

/* The next generation shall come from this configuration; takes a reference. */
void service_want(struct service *sv, struct config *config, const struct service_config *settings);
/* One more roll-out, now or after the running one; `cause` is static. */
void service_roll(struct service *sv, const char *cause);
/* How it shall be done: joins what is known already, the later one counts. False when memory is
 * short: nothing was changed. */
bool service_roll_as(
        struct service *sv, enum request_kind kind, const struct roll_options *options);
/* The waiting roll-out is not wanted any more: `why`, for those who wait for it. */
void service_forget_waiting(struct service *sv, const char *why);
void service_stop(struct service *sv);
/* A restart that is under way ends with the stop. */
void service_stay_stopped(struct service *sv);
/* What came of a request of this kind: for those who wait, and for status. */
void service_result(struct service *sv, enum request_kind kind, uint32_t generation,
        enum outcome_code code, const char *outcome, const char *text);

/* The memory of an old generation is known: are they too many? */
void service_measured(struct service *sv);

/* It, or what the shell has for it, is not what was written down last: it joins the supervisor's
 * list of those, which supervisor_forget_changes() empties. Every service that an event touches
 * does. */
void service_note_change(struct service *sv);

/* Does all that can be done now and sets the timer; called at the end of every event that touched
 * it. */
void service_settle(struct service *sv);

#endif
