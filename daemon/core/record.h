/* SPDX-License-Identifier: MIT */
/* What happened, for the log, the journal and `handoffctl events`. The names are stable: users
 * script against them. */
#ifndef CORE_RECORD_H
#define CORE_RECORD_H

#include "core/base.h"

enum record_level {
	RECORD_ERROR = 3,
	RECORD_WARNING = 4,
	RECORD_NOTICE = 5,
	RECORD_INFO = 6,
	RECORD_DEBUG = 7
};

/* X(ENUM, "name", level) */
#define RECORD_TYPES(X)                                                                            \
	X(GENERATION_STARTING, "generation-starting", INFO)                                        \
	X(GENERATION_READY, "generation-ready", INFO)                                              \
	X(GENERATION_CANARY, "generation-canary", NOTICE)                                          \
	X(GENERATION_SERVING, "generation-serving", NOTICE)                                        \
	X(GENERATION_FAILED, "generation-failed", ERROR)                                           \
	X(GENERATION_WARM, "generation-warm", INFO)                                                \
	X(GENERATION_DRAINING, "generation-draining", INFO)                                        \
	X(GENERATION_QUIET, "generation-quiet", DEBUG)                                             \
	X(GENERATION_DRAINED, "generation-drained", INFO)                                          \
	X(GENERATION_STOPPING, "generation-stopping", INFO)                                        \
	X(GENERATION_GONE, "generation-gone", INFO)                                                \
	X(CONNECTIONS_CUT, "connections-cut", WARNING)                                             \
	X(GENERATION_SCALED, "generation-scaled", NOTICE)                                          \
	X(GENERATION_HASTENED, "generation-hastened", NOTICE)                                      \
	X(CANARY_ABORTED, "canary-aborted", ERROR)                                                 \
	X(ROLLED_BACK, "rolled-back", ERROR)                                                       \
	X(BAKED, "generation-baked", INFO)                                                         \
	X(WORKER_STARTED, "worker-started", INFO)                                                  \
	X(WORKER_READY, "worker-ready", DEBUG)                                                     \
	X(WORKER_STATUS, "worker-status", DEBUG)                                                   \
	X(WORKER_EXITED, "worker-exited", INFO)                                                    \
	X(WORKER_CRASHED, "worker-crashed", ERROR)                                                 \
	X(WORKER_RESTARTING, "worker-restarting", WARNING)                                         \
	X(WORKER_KILLED, "worker-killed", WARNING)                                                 \
	X(WORKER_OUTPUT, "worker-output", INFO)                                                    \
	X(SERVER_LEFT, "server-left", NOTICE)                                                      \
	X(SERVICE_ADDED, "service-added", NOTICE)                                                  \
	X(SERVICE_REMOVED, "service-removed", NOTICE)                                              \
	X(SERVICE_STOPPING, "service-stopping", NOTICE)                                            \
	X(SERVICE_STOPPED, "service-stopped", NOTICE)                                              \
	X(SERVICE_FAILED, "service-failed", ERROR)                                                 \
	X(STEER_FAILED, "steer-failed", ERROR)                                                     \
	X(STEERING_SHARED, "steering-shared", WARNING)                                             \
	X(SOCKET_ADOPTED, "socket-adopted", INFO)                                                  \
	X(SOCKET_CLOSED, "socket-closed", WARNING)                                                 \
	X(SOCKET_REFUSED, "socket-refused", WARNING)                                               \
	X(ADOPTION_IMPOSSIBLE, "adoption-impossible", WARNING)                                     \
	X(FILES_CHANGED, "files-changed", NOTICE)                                                  \
	X(BUILD_STARTED, "build-started", INFO)                                                    \
	X(BUILD_DONE, "build-done", INFO)                                                          \
	X(BUILD_CHANGES_FILES, "build-changes-files", WARNING)                                     \
	X(WATCH_NOTE, "watch-note", WARNING)                                                       \
	X(RELOAD_REQUESTED, "reload-requested", NOTICE)                                            \
	X(CHANGE_REQUESTED, "change-requested", NOTICE)                                            \
	X(STOP_REQUESTED, "stop-requested", NOTICE)                                                \
	X(RELEASE_LINKED, "release-linked", NOTICE)                                                \
	X(RELEASE_RESTORED, "release-restored", WARNING)                                           \
	X(CONFIG_LOADED, "config-loaded", INFO)                                                    \
	X(CONFIG_REFUSED, "config-refused", ERROR)                                                 \
	X(CONFIG_NOTE, "config-note", WARNING)                                                     \
	X(CALL_REFUSED, "call-refused", WARNING)                                                   \
	X(SIGNAL_IGNORED, "signal-ignored", WARNING)                                               \
	X(DAEMON_READY, "daemon-ready", NOTICE)                                                    \
	X(DAEMON_STOPPING, "daemon-stopping", NOTICE)                                              \
	X(DAEMON_STOPPED, "daemon-stopped", NOTICE)                                                \
	X(DAEMON_UPGRADED, "daemon-upgraded", NOTICE)                                              \
	X(DAEMON_RECOVERED, "daemon-recovered", WARNING)                                           \
	X(UPGRADE_REFUSED, "upgrade-refused", ERROR)                                               \
	X(ANOMALY, "anomaly", WARNING)

enum record_type {
#define X(id, name, level) RECORD_##id,
	RECORD_TYPES(X)
#undef X
	        RECORD_TYPE_COUNT,
};

const char *record_type_to_string(enum record_type t);
enum record_level record_level(enum record_type t);

/* Absent members are 0, -1 or NULL as said; the strings live as long as the call that carries the
 * record. */
struct record {
	enum record_type type;
	const char *service;  /* or NULL */
	uint32_t generation;  /* or 0, */
	bool zeroth;          /* which is one where this is set, see taken.h */
	int worker;           /* or -1 */
	int pid;              /* or 0 */
	const char *text;     /* one sentence, or NULL */
	const char *release;  /* or NULL */
	uint64_t connections; /* left, cut, …; with has_connections */
	bool has_connections;
	usec_t duration;            /* what took so long; USEC_INFINITY: none */
	int exit_code, exit_signal; /* -1: none */
};
#define RECORD_NONE .worker = -1, .duration = USEC_INFINITY, .exit_code = -1, .exit_signal = -1

#endif
