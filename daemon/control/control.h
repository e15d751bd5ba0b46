/* SPDX-License-Identifier: MIT */
/* The control socket: varlink framing on a UNIX stream socket, interface dev.handoff.Manager. It
 * decides who may call, turns calls into requests, and answers. Nothing here blocks but
 * control_flush(); a client that does not read, sends too much or garbage is dropped; their number
 * is bounded.
 *
 * Changing is for root, our own user, and the members of `change_group`, their supplementary groups
 * counted. Reading is for the same and the members of `read_group`; without one, for whom the
 * socket file lets in. The file has mode 0660, our owner, and the one of the groups that is set (or
 * that which the directory or our own gives it); when both are, mode 0666, as it can have but one.
 *
 * An answer may be given from within a handler or at any later time, until `gone` or
 * control_free(). */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include <sys/types.h>

#include "core/base.h"
#include "core/record.h"
#include "core/request.h"
#include "core/view.h"

struct ev_loop;
struct control;
struct control_call; /* one call that waits for its answer */

struct control_options {
	const char *path; /* of the socket; its last directory is made (0755) if it is missing */
	const char *change_group; /* may change things, besides root and our own uid; NULL: none */
	const char *read_group;   /* may look at things, besides these; NULL: see above */
};

/* An answer in many pieces: `next` gives the next one, or the last, whenever the client has room
 * for it, at most once a turn of the loop, and may give none this time. `free` ends it in any case.
 */
struct control_stream {
	void (*next)(void *data, struct control_call *call);
	void (*free)(void *data);
};

struct control_connection {
	uint32_t generation;
	const char *listener, *peer, *state;
	usec_t age, idle; /* at least; USEC_INFINITY: unknown */
	uint64_t queued_in, queued_out;
	int worker, pid; /* -1, 0: unknown */
};

/* The last output of one worker. */
struct control_log {
	uint32_t generation;
	unsigned worker;
	int pid;
	const char *state; /* as in view_worker */
	const char *text;  /* lines, newline-separated, of any bytes */
};

/* None may be NULL. */
struct control_handlers {
	/* Answer at once with control_answer_status(), or an error. service NULL: all. */
	void (*status)(void *data, struct control_call *call, const char *service);
	/* Answer at once with control_answer_services(). */
	void (*services)(void *data, struct control_call *call);
	/* Answer with control_monitor(), or an error. */
	void (*monitor)(void *data, struct control_call *call);
	/* Answer when it is done, with control_answer(); the strings of `spec` live during the
	 * call only. spec->id is set and unique. */
	void (*request)(void *data, struct control_call *call, const struct request_spec *spec);
	/* The client has gone; the work goes on, the call is dead after this. */
	void (*gone)(void *data, struct control_call *call, uint32_t request_id);
	/* Answer at once with control_answer_config(), or an error. */
	void (*config)(void *data, struct control_call *call);
	/* Answer at once with control_answer_logs(), or an error. */
	void (*logs)(void *data, struct control_call *call, const char *service, bool follow);
	/* Replace the program of handoffd itself; answered by control_answer_upgrade(). */
	void (*upgrade)(void *data);
	/* Answer with control_stream(), or an error. generation 0: all. */
	void (*connections)(
	        void *data, struct control_call *call, const char *service, uint32_t generation);
	/* A refused call, to be logged. */
	void (*refused)(void *data, uid_t uid, pid_t pid, const char *method, const char *why);
	void *data;
};

/* Binds and listens. A socket file that nobody answers is replaced; one that a living handoffd
 * answers: -EADDRINUSE with words. */
int control_new(struct ev_loop *loop, const struct control_options *options,
        const struct control_handlers *handlers, struct control **ret, struct ho_error *reterr);
const char *control_path(const struct control *c);
/* The call that waits for this request; NULL: nobody does. */
struct control_call *control_find(const struct control *c, uint32_t id);
/* Drops every client, without `gone`, and removes the socket file. Accepts NULL, returns NULL. */
struct control *control_free(struct control *c);
/* Before leaving: no new client, the socket file goes, and the answers that were given are sent.
 * Waits at most one second for those who do not read. */
void control_flush(struct control *c);

void control_answer_services(struct control_call *call, const char *const *names, size_t n);
void control_answer_status(struct control_call *call, const struct view *view);
/* Continues the call with a first status; those of control_publish_status() follow until the client
 * goes. */
void control_monitor(struct control_call *call, const struct view *view);
bool control_has_monitors(const struct control *c);
/* To every monitor; one that has not read the last one yet misses this one. */
void control_publish_status(struct control *c, const struct view *view);
/* Continues a call that asked for more, and is nothing for others; several may come before the
 * answer. */
void control_progress(struct control_call *call, const struct record *record);
/* One result a service; the exit code of all is the first one that is not CODE_DONE, failures
 * first. Ends the call. */
void control_answer(struct control_call *call, const struct result *results, size_t n);
void control_answer_error(struct control_call *call, enum outcome_code code, const char *text);
/* To all who wait for an upgrade; `refused` NULL: it was done. */
void control_answer_upgrade(struct control *c, const char *refused);
/* `file` NULL: the command line. */
void control_answer_config(
        struct control_call *call, const char *file, const char *environment, const char *text);
/* follow: what control_publish_output() tells follows, until the client goes. */
void control_answer_logs(struct control_call *call, const char *service,
        const struct control_log *logs, size_t n, bool follow);
bool control_wants_output(const struct control *c, const char *service);
/* Lines that a worker has just written, to those who follow the logs of its service. */
void control_publish_output(struct control *c, const char *service, const struct control_log *log);

void control_stream(struct control_call *call, const struct control_stream *stream, void *data);
/* A piece; the last one ends the call. */
void control_answer_connections(
        struct control_call *call, const struct control_connection *list, size_t n, bool last);

/* To every follower of events, and into the ring of the last 1000. Wall-clock time is added here.
 */
void control_publish(struct control *c, const struct record *record);

#endif
