/* SPDX-License-Identifier: MIT */
/* The world's own memory, for the files of the simulation alone. */
#ifndef SIM_INSIDE_H
#define SIM_INSIDE_H

#include "chance.h"
#include "world.h"

#include "state/fields.h"

enum { MAX_EVENTS = 4096, MAX_GENS = 512, MAX_REQUESTS = 256, SIGNAL_ABRT = 6 };

/* ---- the world's own memory: what is true, not what the core believes ---- */

struct sim_worker {
	bool alive, told, killed;
	uint32_t serial;
	int pid;
	unsigned rest; /* what stays behind when the main process goes */
	bool rest_alive;
	bool ignores_term;
	unsigned hello; /* as WORD_HELLO has it */
	usec_t heard;   /* when it was, for the last time */
	bool ready, stuck, aborted;
	uint32_t written; /* the process of the state that was written; 0: none */
};

struct sim_link {
	bool moved;
	unsigned before, after;
};

struct sim_generation {
	unsigned builds;
	bool served;
	bool building, held; /* held: connections were sent to it before it was ready */
	bool used, prepared, released, ready, watched, shared, migrates;
	struct sim_link link, written_link; /* that was moved for it: the shell's own knowledge */
	bool written;                       /* the state that was written has it */
	bool resumed;           /* handoffd was replaced since: it may be thawed in vain */
	bool undo;              /* the state tells to put its link back */
	unsigned release, born; /* born: the step */
	struct config *config;  /* referenced: of the settings */
	bool left;              /* a server that was taken over, and goes on without us */
	uint32_t service, id;
	const struct service_config *settings;
	unsigned share, written_share;
	unsigned queue, half_open, open; /* connections */
	bool cut_named;
	bool adopted, written_adopted, frozen, told;
	usec_t share_lost; /* when it lost its share */
	struct sim_worker workers[MAX_WORKERS];
};

struct pending {
	usec_t at;
	struct event ev;
};

struct sim_request {
	uint32_t id;
	bool answered, cancelled;
};

struct world {
	struct chance chance;
	const struct world_options *options;
	struct world_result result;
	struct supervisor *s;
	struct action_list out;
	usec_t now;
	int last_pid;
	bool exited, at_once, stopping;
	unsigned stops;
	struct config *config; /* what the next load gives */
	bool config_bad;
	struct event soon[MAX_EVENTS]; /* answers: in order, before anything else */
	unsigned soon_first, soon_n;
	struct pending later[MAX_EVENTS];
	unsigned later_n;
	struct sim_generation gens[MAX_GENS];
	unsigned n_gens;
	struct sim_request requests[MAX_REQUESTS];
	unsigned n_requests;
	bool quiet_life;               /* no more trouble: the end must come */
	unsigned links[MAX_SERVICES];  /* the release that each leads to */
	unsigned undone[MAX_SERVICES]; /* the step in which that was put back the last time */

	/* what outlives handoffd: crash.c */
	bool changed, touched; /* as in events.c */
	usec_t write_by;       /* touched: when it is written down at last */
	json_t *state; /* that was written; kept only where a crash is to come before the next */
	struct saver saver;   /* of it */
	unsigned writes_left; /* until one is kept; 0: none will be */
	unsigned acts_left;   /* until the crash */
	bool crashing;        /* nothing is done any more */
	bool resuming;        /* what is asked for may have been done already */
	unsigned crashes_left;
};

/* The first one counts. */
void fault(struct world *w, const char *format, ...) _printf_(2, 3);
struct sim_generation *find_generation(struct world *w, uint32_t service, uint32_t id);
bool has_processes(const struct sim_generation *g);
/* What handoffd posts to itself. */
void soon(struct world *w, struct event ev);
void later(struct world *w, usec_t delay, struct event ev);
struct event of_worker(const struct sim_generation *g, unsigned index, enum event_type type);
usec_t some_time(struct world *w);
void do_action(struct world *w, const struct action *a);
void take_share(struct world *w, struct sim_generation *g, unsigned share);
/* The kernel's shares become those of the tables. */
void apply_shares(struct world *w, const struct service *sv);
void undo_link(struct world *w, struct sim_generation *g);
unsigned *link_of(struct world *w, const struct sim_generation *g);
void check_world(struct world *w);

/* ---- crash.c ---- */

/* Shall it crash at all, and when? */
void plan_crash(struct world *w);
/* As carry_out() of events.c; may begin a crash. */
void carry_out(struct world *w);
/* The state is written down, as store_commit() does. */
void write_state(struct world *w);
/* No event is at hand, and the time moves on to `until`. */
void before_waiting(struct world *w, usec_t until);
/* If one was begun: handoffd is gone, and started again. */
void finish_crash(struct world *w);
/* Another handoffd takes over in place, if that is possible at the moment. */
void upgrade(struct world *w);
void drop_events(struct world *w);
void drop_state(struct world *w);

#endif
