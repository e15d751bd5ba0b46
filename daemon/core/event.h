/* SPDX-License-Identifier: MIT */
/* What the shell tells the core: a closed list. An event is a value; its strings live during the
 * step. */
#ifndef CORE_EVENT_H
#define CORE_EVENT_H

#include "core/base.h"
#include "core/config.h"
#include "core/request.h"

#define EVENT_TYPES(X)                                                                             \
	X(TIMER)         /* time has passed, nothing else */                                       \
	X(REQUEST)       /* somebody asks for something */                                         \
	X(REQUEST_GONE)  /* and does not wait any more */                                          \
	X(CONFIG_LOADED) /* the first one starts everything */                                     \
	X(CONFIG_REFUSED)                                                                          \
	X(PREPARED) /* release resolved, listeners open */                                         \
	X(PREPARE_FAILED)                                                                          \
	X(WORKER_STARTED)                                                                          \
	X(WORKER_START_FAILED)                                                                     \
	X(WORKER_EXITED)    /* its main process; others of its tree may be left */                 \
	X(WORKER_TREE_GONE) /* none of them is left either */                                      \
	X(WORKER_SAID)      /* a word of sd_notify, or a sign of readiness */                      \
	X(LAST_WORDS)       /* of a worker that is not ready in time */                            \
	X(PROBE_DONE)                                                                              \
	X(STEERED)                                                                                 \
	X(STEER_FAILED)                                                                            \
	X(QUIET_CHECKED)                                                                           \
	X(INFLIGHT) /* how many connections a watched generation has */                            \
	X(WATCH_FAILED)                                                                            \
	X(SOCKET_ADOPTED) /* its program listens on a socket of its own */                         \
	X(FROZEN)         /* it stands still, as far as that is possible, and was counted */       \
	X(FILES_CHANGED)  /* that the service watches */                                           \
	X(BUILD_ENDED)    /* or could not be started: `exited` with code 0 */                      \
	X(MEASURED)       /* how much memory a generation has */

enum event_type {
#define X(id) EVENT_##id,
	EVENT_TYPES(X)
#undef X
	        EVENT_TYPE_COUNT,
};
const char *event_type_to_string(enum event_type t);

enum file_change { FILE_WRITTEN, FILE_APPEARED, FILE_GONE };

enum worker_word {
	WORD_READY,
	WORD_STATUS,
	WORD_STOPPING,
	WORD_EXTEND,
	WORD_TROUBLE,
	WORD_STUCK,
	WORD_ALIVE,
	WORD_HELLO
};

struct taken_service;

struct event {
	enum event_type type;
	uint32_t service; /* id; 0 where it does not belong */
	uint32_t generation;
	unsigned worker; /* index */
	uint32_t serial; /* of the worker's process: an event of an earlier one is stale */
	union {
		struct config *config; /* CONFIG_LOADED: the reference passes to the core */
		struct request_spec request;
		uint32_t request_id;
		struct {
			bool shared;    /* a stream listener is shared with other generations */
			bool migrates;  /* closing a listener moves its queue to the steered one */
			bool probeable; /* a probe reaches this generation alone */
			bool divisible; /* it can get a part of the new connections */
		} prepared;
		int pid;
		struct { /* FILES_CHANGED: that `text` names */
			enum file_change change;
			unsigned more; /* and others */
		} files;
		struct {
			int code, status; /* as waitid(2) */
			unsigned rest;    /* processes of its tree that are left */
			uint64_t lost;    /* connections, by its own count */
		} exited;
		struct {
			enum worker_word word;
			uint64_t number; /* EXTEND: µs; HELLO: 0 no channel, 1 one, 2 it drains
			                    by message */
		} said;
		uint64_t memory; /* bytes */
		bool ok;         /* PROBE_DONE, QUIET_CHECKED */
		struct {
			uint64_t total, idle;
			usec_t oldest;
			bool unknown; /* FROZEN: it could not be counted */
		} inflight;           /* and FROZEN */
	};
	/* CONFIG_LOADED, the first one: servers that are taken over */
	const struct taken_service *taken;
	size_t n_taken;
	const char *text; /* the reason of a failure, the status text, the directory that was
	                     PREPARED; or NULL */
};

#endif
