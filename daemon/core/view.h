/* SPDX-License-Identifier: MIT */
/* A read-only picture of everything, as `status` shows it. Filled from the core's tables and the
 * kernel's facts, valid until the next event. Times are CLOCK_MONOTONIC. */
#ifndef CORE_VIEW_H
#define CORE_VIEW_H

#include "core/base.h"
#include "core/request.h"

struct view_worker {
	unsigned index;
	int pid;           /* 0: not running at the moment */
	const char *state; /* starting, ready, serving, warm, draining, stopping, gone, failed */
	uint64_t in_flight;
	bool in_flight_known; /* per worker only for libhandoff workers */
	usec_t started;
	unsigned restarts;
	const char *status; /* text of STATUS=, or "" */
	const char *ended;  /* how its process before this one ended, or NULL */
	/* with in_flight_known: connections with a request, and requests, under way */
	uint64_t busy, requests;
};

struct view_generation {
	uint32_t id;
	const char *state;
	unsigned share;    /* of SHARE_ALL */
	uint64_t sent;     /* connections sent to it in all, */
	uint64_t sent_now; /* and since the shares were last changed */
	bool sent_known;
	double observed;     /* its part of them in per cent; negative: unknown */
	usec_t promote_in;   /* of a canary; USEC_INFINITY: by command only */
	usec_t baked_in;     /* until it is watched no more; USEC_INFINITY: it is not */
	usec_t drains_in;    /* of a warm one; USEC_INFINITY: of another */
	const char *release; /* or NULL */
	usec_t started;
	uint64_t in_flight;
	bool in_flight_known;
	const char *drain_by; /* NULL: not draining */
	usec_t deadline_in;   /* USEC_INFINITY: none */
	usec_t oldest;        /* age of the oldest connection */
	const char *reason;   /* of failed and rolled back ones, else "" */
	struct view_worker *workers;
	size_t n_workers;
	uint64_t requests; /* of all its workers */
	bool requests_known;
	uint64_t memory; /* bytes that its processes have to themselves; 0: unknown */
};

struct view_listener {
	const char *name, *address, *steering, *origin, *rescue;
	unsigned queue, backlog;
	char form[160]; /* the address as it is bound */
};

struct view_service {
	const char *name;
	const char *state;   /* starting, serving, stopping, stopped, failed */
	uint32_t generation; /* that serves, or 0 */
	bool reloading;
	const struct result *last_result; /* NULL: none yet */
	struct view_listener *listeners;
	size_t n_listeners;
	struct view_generation *generations; /* newest first */
	size_t n_generations;
	bool zeroth; /* the one that serves is generation 0 */
};

/* With which rights handoffd works, and what it can do with them. */
struct view_mode {
	const char *user;
	uint64_t capabilities; /* as bits; core/capability.h */
	bool adoption;         /* also of programs under other users */
	bool by_events; /* the ends of connections are told by the kernel; else it is asked */
};

struct view {
	int pid;
	const char *version;
	const char *environment;
	const char *state;        /* starting, running, stopping */
	const char *steering;     /* ebpf, cbpf */
	const char *config_error; /* why the last configuration was refused; NULL: it was not */
	usec_t now;
	struct view_service *services;
	size_t n_services;
	struct view_mode mode;
};

#endif
