/* SPDX-License-Identifier: MIT */
/* What somebody asks of the supervisor, and the one true answer he gets. */
#ifndef CORE_REQUEST_H
#define CORE_REQUEST_H

#include "core/base.h"
#include "core/config.h"

enum request_kind {
	REQUEST_RELOAD,   /* start a new generation */
	REQUEST_DEPLOY,   /* point the release link at a directory, then the same */
	REQUEST_PROMOTE,  /* a canary gets all new connections, or a greater part of them */
	REQUEST_ABORT,    /* undo the roll-out that is under way */
	REQUEST_ROLLBACK, /* back to the previous generation */
	REQUEST_SCALE,    /* another number of workers, without a new generation */
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

/* How a roll-out is to be done, where that is not left to the settings. */
struct roll_options {
	bool has_canary, has_hold, has_keep_warm;
	unsigned canary; /* of SHARE_ALL, which means none, as 0 does */
	usec_t hold;     /* USEC_INFINITY: until somebody decides */
	usec_t keep_warm;
	const char *release; /* of DEPLOY: an absolute path */
	bool confined; /* the release must be a neighbour of the one before: the caller may not
	                  choose what is run */
};

struct request_spec {
	uint32_t
	        id; /* chosen by the caller, unique among those not yet answered; 0: nobody waits */
	enum request_kind kind;
	enum wait_for wait;
	usec_t timeout;              /* how long the caller waits; USEC_INFINITY: for ever */
	const char *const *services; /* names; n_services 0: all */
	size_t n_services;
	struct roll_options roll; /* of RELOAD and DEPLOY; PROMOTE: has_canary, has_hold */
	unsigned workers;         /* of SCALE */
	void *caller;             /* the shell's: to whom the answer goes */
	const char *cause;        /* "SIGHUP", "handoffctl (uid 0, pid 17)": for the records */
};

/* The result for one service. */
struct result {
	char service[CONFIG_MAX_NAME];
	enum request_kind request;
	uint32_t generation; /* that carried the request; 0: none was started */
	enum outcome_code code;
	const char *outcome; /* static: "serving", "drained", "failed", "rolled-back", "stopped",
	                        "refused", "timed-out", "superseded", "cut", "canary",
	                        "aborted" */
	uint64_t cut;        /* connections */
	char text[1024];     /* cause in one sentence, then perhaps the last lines of the worker */
	const char *release_link; /* the shell's: what became of it in a failure, or NULL */
};

#endif
