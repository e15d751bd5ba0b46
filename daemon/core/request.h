/* SPDX-License-Identifier: MIT */
/* What somebody asks of the supervisor, and the one true answer he gets. */
#ifndef CORE_REQUEST_H
#define CORE_REQUEST_H

#include "core/base.h"
#include "core/config.h"

enum request_kind {
	REQUEST_RELOAD,   /* start a new generation */
	REQUEST_STOP,     /* drain and stop services; the daemon goes on */
	REQUEST_START,    /* start stopped services */
	REQUEST_RESTART,  /* stop, then start */
	REQUEST_WAIT,     /* change nothing, wait for a state */
	REQUEST_SHUTDOWN, /* stop all and leave */
};
const char *request_kind_to_string(enum request_kind k);

enum wait_for { WAIT_NONE, WAIT_SERVING, WAIT_DRAINED };
const char *wait_for_to_string(enum wait_for w);

/* Exit codes of handoffctl (SPEC section 3). */
enum outcome_code {
	CODE_DONE = 0,
	CODE_FAILED = 1,
	CODE_USAGE = 2,
	CODE_GENERATION_FAILED = 3,
	CODE_TIMED_OUT = 4,
	CODE_UNREACHABLE = 5,
	CODE_CUT = 6,
	CODE_NOT_ALLOWED = 7,
	CODE_SUPERSEDED = 8,
};

struct request_spec {
	uint32_t
	        id; /* chosen by the caller, unique among those not yet answered; 0: nobody waits */
	enum request_kind kind;
	enum wait_for wait;
	usec_t timeout;              /* how long the caller waits; USEC_INFINITY: for ever */
	const char *const *services; /* names; n_services 0: all */
	size_t n_services;
	void *caller;      /* the shell's: to whom the answer goes */
	const char *cause; /* "SIGHUP", "handoffctl (uid 0, pid 17)": for the records */
};

/* The result for one service. */
struct result {
	char service[CONFIG_MAX_NAME];
	enum request_kind request;
	uint32_t generation; /* that carried the request; 0: none was started */
	enum outcome_code code;
	const char *outcome; /* static: "serving", "drained", "failed", "rolled-back", "stopped",
	                        "refused", "timed-out", "superseded", "cut" */
	uint64_t cut;        /* connections */
	char text[1024];     /* cause in one sentence, then perhaps the last lines of the worker */
};

#endif
