/* SPDX-License-Identifier: MIT */
/* What the core wants done: a closed list, carried out in order by the shell before the next event.
 * Those marked (answers) are followed by the event named. */
#ifndef CORE_ACTION_H
#define CORE_ACTION_H

#include "core/base.h"
#include "core/record.h"

struct request;

#define ACTION_TYPES(X)                                                                            \
	X(LOAD_CONFIG)   /* (CONFIG_LOADED or CONFIG_REFUSED), after all events at hand */         \
	X(PREPARE)       /* resolve the release, open listeners (PREPARED, PREPARE_FAILED) */      \
	X(RESTORE_LINK)  /* the release link that was moved for the generation goes back */        \
	X(POINT_BACK)    /* the release link, if it leads to `from`, goes to this generation's */  \
	X(START_WORKER)  /* (WORKER_STARTED, WORKER_START_FAILED) */                               \
	X(SIGNAL_WORKER) /* to its main process, or to what it left */                             \
	X(TELL_WORKER)   /* on its channel */                                                      \
	X(KILL_WORKER)   /* SIGKILL to its whole tree */                                           \
	X(FORGET_WORKER) /* its process is gone */                                                 \
	X(LAST_WORDS)    /* what a worker wrote that is not ready in time (LAST_WORDS) */          \
	X(WATCH_EXEC)    /* run ready.by = exec: for the worker (WORKER_SAID) */                   \
	X(PROBE)         /* (PROBE_DONE) */                                                        \
	X(STOP_PROBE)                                                                              \
	X(STEER)       /* make the shares of the service's generations true (STEERED, …) */      \
	X(CHECK_QUIET) /* (QUIET_CHECKED) */                                                       \
	X(WATCH_DRAIN) /* (INFLIGHT, again and again) */                                           \
	X(STOP_WATCH)                                                                              \
	X(FREEZE)      /* stop its processes and count its connections again (FROZEN) */           \
	X(THAW)        /* they go on */                                                            \
	X(NAME_CUT)    /* tell which connections are being cut */                                  \
	X(RELEASE)     /* close the generation's listeners and forget it */                        \
	X(WATCH_FILES) /* as the service's settings say now (FILES_CHANGED, again and again) */    \
	X(START_BUILD) /* (BUILD_ENDED) */                                                         \
	X(STOP_BUILD)  /* a second time: at once */                                                \
	X(RETURN_HELD) /* who waits for the generation goes to the one that is steered to */       \
	X(MEASURE)     /* the memory of the generation (MEASURED) */                               \
	X(FORGET_SERVICE)                                                                          \
	X(ANSWER) /* the request passes to the shell */                                            \
	X(RECORD)                                                                                  \
	X(TELL_SYSTEMD)                                                                            \
	X(EXIT)

enum action_type {
#define X(id) ACTION_##id,
	ACTION_TYPES(X)
#undef X
	        ACTION_TYPE_COUNT,
};
const char *action_type_to_string(enum action_type t);

enum tell_word { TELL_SERVING, TELL_DRAIN };
enum systemd_word { SYSTEMD_READY, SYSTEMD_RELOADING, SYSTEMD_STOPPING, SYSTEMD_WAIT };

/* From which release. */
struct prepare {
	const char *release; /* the generation's; NULL: where the release link leads */
	bool link;           /* and the link shall lead there */
	bool confined;       /* see struct roll_options */
};

struct action {
	enum action_type type;
	uint32_t service, generation;
	unsigned worker;
	uint32_t serial;
	void *shell; /* the shell's own object: of the worker, the generation or the service */
	union {
		int signo;
		bool http;  /* PROBE: an answer is wanted, else to be taken from the queue */
		bool leave; /* RELEASE: the sockets are a foreign server's, which goes on with them
		             */
		struct prepare prepare;
		const char *from; /* POINT_BACK: a directory; lives in the list */
		struct request *request;
		struct record record; /* its strings live in the list */
		struct {
			enum systemd_word word;
			usec_t extend; /* what is under way may take so long; 0: nothing to say */
		} systemd;
		struct {
			enum tell_word word;
			uint32_t generation; /* SERVING */
			usec_t deadline;     /* DRAIN */
		} tell;
		int exit_code;
	};
};

/* What is written down before what (DESIGN 9). The state is written when an action is final and
 * something has changed since the last time, and else when no event is at hand. */

/* Whoever comes after a crash must know of it before it is done, or he would undo it, or trust what
 * is gone. */
bool action_is_final(const struct action *a);
/* It comes of a change that is written down soon. What is only told or refused is not, so that
 * thousands of requests that change nothing cost nothing. */
bool action_changes(const struct action *a);
/* It may be decided and written down, and not done any more: then it is done after the crash. (A
 * turn is repeated by itself, a worker that was not started is missed, who was stopped goes on in
 * any case, and the death of handoffd
 * releases what it had.) */
bool action_is_repeated(const struct action *a);

struct action_text;

struct action_list {
	struct action *items;
	size_t n, size;
	size_t carried; /* those before it are done, what they named may be freed */
	struct action_text *texts;
};

/* Room for `more` actions beyond what is there; called while planning, so that a step never fails.
 */
int action_list_reserve(struct action_list *l, size_t total);
struct action *action_push(struct action_list *l, enum action_type type);
/* A copy that lives until the list is cleared; "" when memory is short. */
const char *action_text(struct action_list *l, const char *format, ...) _printf_(2, 3);
void action_list_clear(struct action_list *l);
void action_list_done(struct action_list *l);

#endif
