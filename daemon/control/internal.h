/* SPDX-License-Identifier: MIT */
/* What the files of this room share. server.c moves bytes and owns clients and calls, methods.c
 * knows what a call means, socket.c the socket file and who is at the other end. */
#ifndef CONTROL_INTERNAL_H
#define CONTROL_INTERNAL_H

#include <ev.h>
#include <sys/un.h>

#include "control/control.h"
#include "wire/wire.h"

#define CONTROL_MAX_CLIENTS 1024u
#define CONTROL_KEPT_CLIENTS 64u /* of these, for those who may change things */
#define CONTROL_MAX_CALLS 32768u /* that wait, of all clients */
#define CONTROL_MAX_CLIENT_CALLS 16384u
#define CONTROL_MAX_EVENTS 1000u /* kept for those who ask later */
#define CONTROL_HIGH_WATER                                                                         \
	((size_t)256 << 10)                     /* no further call while so much waits to be read  \
	                                         */
#define CONTROL_FOLLOWER_MAX ((size_t)1 << 20)  /* events that wait to be read */
#define CONTROL_MAX_WAITING ((size_t)128 << 20) /* replies that wait to be read */
#define CONTROL_READER_CALL ((size_t)64 << 10)  /* a message of those who may only read */

struct method;

/* What a call gets until its client goes. */
enum follow {
	FOLLOW_NOTHING,
	FOLLOW_EVENTS,
	FOLLOW_STATUS,
	FOLLOW_LOGS,
};

struct peer {
	uid_t uid;
	pid_t pid;
	bool may_change, may_read;
	bool may_run; /* may choose what is run: root and our own user */
};

/* One call of a client. Made by server.c, given back by exactly one of the call_ functions below.
 */
struct control_call {
	struct client *client;
	struct control_call *next; /* the one that came after it */
	uint32_t id;               /* of the request that it waits for, 0: none */
	bool more, oneway;
	bool overlaps; /* the next call may start before this one is answered */
	enum follow follows;
	char service[CONFIG_MAX_NAME]; /* of FOLLOW_LOGS */
	bool upgrades; /* waits for another program in our place */
	bool done;
	const struct control_stream *stream; /* gives the answer piece by piece */
	void *stream_data;
	char *reply; /* of a done one that waits for its turn */
	size_t reply_size;
};

struct client {
	struct control *control;
	struct client *next, *prev;
	int fd;
	struct peer peer;
	ev_io in, out;
	struct wire_reader reader;
	struct wire_writer writer;
	json_t *message; /* the next call, when it must wait */
	struct control_call *first, *last;
	size_t n_calls;
	size_t held;         /* bytes of replies that wait for their turn */
	size_t follower_max; /* bytes that may wait when it follows events */
	bool ended;          /* nothing more is read: answer what came, then close */
	bool slow;           /* it follows events and does not read them */
	bool dropped;        /* closed at the next turn of the loop */
};

struct control {
	struct ev_loop *loop;
	struct control_handlers handlers;
	struct sockaddr_un address;
	dev_t device; /* of the socket file, with inode: it is removed only if it is ours */
	ino_t inode;
	int fd; /* -1: no new client */
	gid_t change_gid, read_gid;
	bool has_change_gid, has_read_gid;
	ev_io accept;
	ev_timer retry; /* accept again after descriptors or memory ran short */
	struct client *clients;
	unsigned n_clients;
	unsigned n_calls;
	uint32_t last_id;
	json_t *events[CONTROL_MAX_EVENTS]; /* a ring; next_event is the oldest once it is full */
	size_t next_event, n_events;
};

/* socket.c */
int control_listen(
        struct control *c, const struct control_options *options, struct ho_error *reterr);
/* Removes the socket file if it is still the one that was made. */
void control_unlisten(struct control *c);
int peer_read(const struct control *c, int fd, struct peer *ret);

/* The same with the socket that is there already. */
int control_take_over(
        struct control *c, const struct control_options *options, int fd, struct ho_error *reterr);

/* server.c, for it and save.c */
struct control *control_alloc(struct ev_loop *loop, const struct control_handlers *handlers);
void control_accept(struct control *c);
/* Takes the descriptor; NULL when memory is short. Its watchers are not started. */
struct client *client_add(struct control *c, int fd, const struct peer *peer);
struct control_call *call_new(struct client *k);

/* server.c; each takes the reference to `parameters` (NULL: memory was short, the client is
 * dropped) and never frees a client, so that it may be called from everywhere. */
void call_reply(struct control_call *call, json_t *parameters);
void call_error(struct control_call *call, const char *error, json_t *parameters);
/* One of several replies of a call that said "more". */
void call_continue(struct control_call *call, json_t *parameters);
/* Answers with the newest events that are kept, and goes on with every new one if `follow`. */
void call_events(struct control_call *call, size_t lines, bool follow);
/* Goes on with what is told to those who follow, until the client goes. */
void call_follow(struct control_call *call, enum follow what);
uint32_t control_next_id(struct control *c);

/* methods.c */
/* Starts what the message asks for. Answers the call, or leaves that to a handler. */
void call_run(struct control_call *call, json_t *message);
/* Those that follow each other may wait together. */
bool message_overlaps(const json_t *message);

#endif
