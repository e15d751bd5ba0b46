/* SPDX-License-Identifier: MIT */
/* The reducer that owns everything: events in, actions out. It calls no system call and reads no
 * clock; the time is an argument. What it promises is said in check.c and checked after every step
 * in tests. */
#ifndef CORE_SUPERVISOR_H
#define CORE_SUPERVISOR_H

#include "core/action.h"
#include "core/base.h"
#include "core/config.h"
#include "core/event.h"
#include "core/service.h"
#include "core/timers.h"

/* Why a part of the new connections cannot be given. */
#define NO_CANARY                                                                                  \
	"a canary is not possible: the service has a listener of which no part can be given "      \
	"(status tells: \"shared\" or \"rename\"), or none"

/* One service's part of a request. */
enum target_phase {
	TARGET_PENDING, /* the generation that will carry it has not been started */
	TARGET_ROLLING,
	TARGET_SCALING,
	TARGET_TURNING, /* back, to what served before */
	TARGET_BAKING,
	TARGET_DRAINING,
	TARGET_STOPPING,
	TARGET_DONE,
};

struct target {
	struct target *next; /* of the same service */
	struct request *request;
	struct service *service; /* NULL once it is done */
	char name[CONFIG_MAX_NAME];
	enum target_phase phase;
	uint32_t generation;
	enum outcome_code code;
	const char *outcome;
	uint64_t cut;
	char *text; /* owned; NULL: none */
};

/* A request that is not answered yet. With ACTION_ANSWER it passes to the shell, which calls
 * request_free(). */
struct request {
	struct request *next;
	uint32_t id;
	void *caller;
	enum request_kind kind;
	enum wait_for wait;
	struct roll_options roll;
	char *release;    /* of it; owned */
	unsigned workers; /* of SCALE */
	char *cause;      /* owned */
	struct timer timer;
	bool loading; /* waits for the configuration */
	bool all;
	char **names; /* owned; NULL-terminated */
	struct target *targets;
	size_t n_targets, n_done;
	enum outcome_code refused; /* with n_targets 0: of the whole request */
	char *text;
};
struct request *request_free(struct request *r);
/* Fills `ret` from a done target. */
void target_result(const struct target *t, struct result *ret);

enum supervisor_state { SUPERVISOR_STARTING, SUPERVISOR_RUNNING, SUPERVISOR_STOPPING };

struct supervisor {
	enum supervisor_state state;
	usec_t now;
	struct action_list *out; /* of the step under way */
	struct config *config;   /* the newest good one; NULL before the start */
	char *config_error;      /* of a newer bad one; owned */
	bool loading, load_all;
	struct service **services; /* by slot; NULL: free */
	size_t n_slots;
	uint32_t last_serial; /* of service ids */
	struct timers timers;
	size_t n_timers, n_actions; /* room they need */
	struct request *requests;
	struct service *changed; /* since they were written down, see service_note_change() */
	unsigned rolling;        /* services with a roll-out running or waiting */
	bool told_reloading;
	usec_t patience;    /* the manager is to be told, at the end of the step, to wait so long */
	bool look_for_ends; /* a service may be at its end */
	bool at_once;       /* the second order to stop */
	bool exiting;
	bool development; /* a failed start waits for a change; set before the first step */
	int exit_code;
};

struct supervisor *supervisor_new(void);
/* Frees everything, answers nobody. Accepts NULL. */
struct supervisor *supervisor_free(struct supervisor *s);

/* Total: never fails, never blocks. Appends to `out`, which must be the same list in every call. */
void supervisor_step(
        struct supervisor *s, usec_t now, const struct event *ev, struct action_list *out);

/* When EVENT_TIMER is due; USEC_INFINITY: never. */
usec_t supervisor_next_deadline(const struct supervisor *s);

struct service *supervisor_service(const struct supervisor *s, uint32_t id);
struct service *supervisor_find(const struct supervisor *s, const char *name);
/* "no service is named "x"; there are "web"" */
void requests_no_service(const struct supervisor *s, const char *name, struct text *t);

/* Every invariant again; NULL, or the one that does not hold (static text). */
const char *supervisor_check(const struct supervisor *s);

/* "web: generation 7 serves, 6 drains (3 connections)": for systemd's STATUS=. */
void supervisor_summary(const struct supervisor *s, struct text *t);

/* ---- what outlives a handoffd (state/core.c fills the tables) ---- */

/* All that has changed is written down. */
void supervisor_forget_changes(struct supervisor *s);

/* A service at the place that its id says; NULL when that is taken or memory is short. */
struct service *supervisor_put_service(struct supervisor *s, uint32_t id, const char *name);
/* Puts a request before those that are there, and makes its targets wait; 0 or -ENOMEM. */
int requests_put(struct supervisor *s, struct request *r);
/* resume.c: goes on where another handoffd was, whose tables are there. What it had asked for and
 * was not answered is asked for again. After a crash the tables may lag behind by what was done
 * last, nobody waits for an answer any more, and a generation that was just starting is started
 * anew, as its word that it is ready may have been lost. The shell's objects have to be in place.
 */
void supervisor_resume(struct supervisor *s, usec_t now, bool crashed, struct action_list *out);

/* ---- for the other parts of the core ---- */

/* A record with what is known of the service, generation and worker; `text` may be NULL. */
struct record *supervisor_record(struct supervisor *s, enum record_type type,
        const struct service *sv, const struct generation *g, const struct worker *w);
struct action *supervisor_act(struct supervisor *s, enum action_type type, const struct service *sv,
        const struct generation *g, const struct worker *w);
/* Room in the action list and the heap for one more service or generation; taken back with negative
 * numbers. */
int supervisor_reserve(struct supervisor *s, long actions, long timers);

/* A start or reload that is under way may take so long from now on. */
void supervisor_be_patient(struct supervisor *s, usec_t time);
/* With the longest time that what is under way may take. */
void supervisor_tell_systemd(struct supervisor *s, enum systemd_word word);

/* requests.c */
void requests_add(struct supervisor *s, const struct request_spec *spec);
void requests_gone(struct supervisor *s, uint32_t id);
void requests_timed_out(struct supervisor *s, struct request *r);
/* Makes the targets of a request; the caller settles their services. False: it was refused. */
bool requests_begin(struct supervisor *s, struct request *r);
void requests_refuse(struct supervisor *s, struct request *r, enum outcome_code code,
        const char *format, ...) _printf_(4, 5);
/* A generation that carries all pending ones has been started. */
void targets_started(struct service *sv, uint32_t generation);
void targets_serving(struct service *sv, uint32_t generation, bool baked);
void targets_failed(struct service *sv, uint32_t generation, enum outcome_code code,
        const char *outcome, const char *text);
/* It has its part of new connections as a canary. */
void targets_canary(struct service *sv, const struct generation *g);
/* Those who asked to go back have what they wanted. */
void targets_turned(struct service *sv, uint32_t generation, const char *outcome);
/* And those who asked for any turn have it not. */
void targets_not_turned(struct service *sv, const char *why);
/* A worker has ended that was to be one more. */
void targets_not_scaled(struct service *sv, const char *why);
/* Going back takes a new generation. */
void targets_pending(struct service *sv);
void targets_forget_pending(struct service *sv, const char *why);
/* Something of the service has gone: are those done who wait for that? */
void targets_check(struct service *sv);
void targets_supersede(struct service *sv, const char *text);

#endif
