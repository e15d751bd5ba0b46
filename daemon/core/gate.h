/* SPDX-License-Identifier: MIT */
/* Between the wish for a new generation and the start of its workers: changed files are gathered
 * until they rest, new connections are held back for the code to come, the build runs, and where
 * the service must not run twice the old generation leaves first.
 *
 * A build may write files that are watched. Such a file is known by changing in two builds in a row
 * and never outside of one; from then on it does not interrupt a build, but counts like any other
 * when nothing is built. */
#ifndef CORE_GATE_H
#define CORE_GATE_H

#include "core/base.h"
#include "core/config.h"
#include "core/event.h"

struct generation;
struct service;

#define GATE_FILES 64

struct gate_file {
	uint64_t hash; /* of its path; 0: free */
	unsigned run;  /* the last build during which it changed */
	bool users;    /* it changed when nothing was built */
	bool builds;   /* the build writes it */
	bool waits;    /* it is one of the changes that wait, */
	bool fresh;    /* and was not there before */
};

struct gate {
	usec_t first, due; /* of changes that wait; `due` is infinite when there are none */
	char path[256];    /* one of them, which is not gone */
	unsigned n;        /* how many files */
	char said[320];    /* the last cause, in words */
	unsigned run;      /* counts the builds */
	unsigned own_runs; /* builds in a row that only changes during a build have begun */
	struct gate_file files[GATE_FILES];
	unsigned last_file;
};

enum gate_verdict {
	GATE_COUNTS,
	GATE_BUILDS,     /* the build's own file, known as such */
	GATE_BUILDS_NEW, /* and only now */
};

void gate_init(struct gate *g);
/* Forgets the changes that wait. */
void gate_drop(struct gate *g);
/* A file has changed, and `more` others with it; `building`: during a build,
 * and all that was changed by its end is told before it. One that came and went
 * again, as an editor's temporary one, has not. */
enum gate_verdict gate_change(struct gate *g, usec_t now, usec_t debounce, bool building,
        const char *path, enum file_change change, unsigned more);
/* Have the changes come to rest? Then they are put into words in `said` and done with. */
bool gate_take(struct gate *g, usec_t now);

/* ---- for service.c and generation.c ---- */

void gate_on_event(struct service *sv, struct generation *g, const struct event *ev);
/* What changes that came to rest lead to; true if something was done. */
bool gate_advance(struct service *sv);
usec_t gate_next_deadline(const struct service *sv);
/* Takes a prepared generation on to the start of its workers; true if something was done. */
bool gate_begin(struct generation *g);
/* New connections wait for it; or would not come back to anybody else otherwise. */
bool gate_holds(const struct service *sv, const struct generation *g);
/* The answer of a turn that was begun here. */
void gate_held(struct service *sv, struct generation *g, bool ok);
/* Nobody waits any more with a generation that has failed: its queue goes to who serves now. */
void gate_return_held(struct service *sv);
void gate_failed(struct generation *g);
/* After handoffd itself was replaced, or has crashed: files are watched again, a build that nobody
 * waits for any more begins anew. */
void gate_resume(struct service *sv, bool crashed);

/* Sets until when its workers may take to be ready, and lets the manager know how long the roll-out
 * may take then. */
void gate_expect(struct generation *g, usec_t until);

#endif
