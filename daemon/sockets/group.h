/* SPDX-License-Identifier: MIT */
/* One address and all listeners that share it, whatever way new connections are divided among them.
 * A group lives as long as it has a member. */
#ifndef SOCKETS_GROUP_H
#define SOCKETS_GROUP_H

#include <ev.h>

#include "sockets/listener.h"
#include "sockets/sockets.h"

#define GROUP_MEMBERS 64

struct bpf_program;
struct address_group;
struct reuseport;
struct unix_name;
struct unix_names;

/* A socket that a program of the generation bound to the address: our descriptor of it. */
struct adopted {
	int fd;
	uint64_t cookie;
	pid_t holder;      /* who bound it, */
	int theirs;        /* and its number there */
	bool orphan, told; /* nobody but we have it any more; that was said */
	bool apart;        /* in a form that earlier generations have not: it never listens */
	bool listening;    /* and a member of the SO_REUSEPORT group, if it is TCP */
	bool was_alone;    /* taken: it had no SO_REUSEPORT */
	uint64_t serial;   /* UNIX: later ones have greater ones */
	/* As the program wants it; UNIX: the private path it got. */
	struct sockaddr_storage address;
};
#define ADOPTED_MAX ADDRESS_SOCKETS_MAX

/* The listener of one set at one address. Once sockets that its program bound listen, these take
 * the place of ours. */
struct member {
	struct address_group *group;
	const struct listener_set *set;
	const struct listener_config *config; /* the set holds its configuration */
	uint32_t generation;
	uint64_t serial; /* later members have greater ones */
	int fd;          /* ours; -1: only what the program binds */
	uint8_t tag;
	unsigned revivals;
	bool adopt_only;
	bool taken;              /* the sockets in `adopted` are of a server that ran before us */
	struct adopted *adopted; /* owned; room for ADOPTED_MAX, or NULL */
	size_t n_adopted, n_listening;
	uint64_t sent; /* connections to listeners that have left */
	unsigned part; /* of SHARE_ALL, in force; the parts of a group make SHARE_ALL or 0 */
	unsigned part_wanted, part_before; /* while sockets_steer() is at work */
	char unix_path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* as bound; empty: none */
};

/* What all groups need to know. */
struct group_context {
	struct ev_loop *loop;
	bool ebpf;
	uid_t uid; /* owner of our TCP groups, which no other process has; UID_NONE: not permitted
	            */
	char token[9]; /* of this daemon's start, in private names */
	uint64_t last_serial;
	struct unix_names *unix_names;
	int hangups_fd; /* an epoll that tells which listener was shut down, or has a client */
	struct ev_timer look; /* until arrivals at sockets of programs are looked at again */
	struct address_group *groups;
	struct address_group *changed;                          /* since they were written down */
	struct sockets_writer writer;                           /* see sockets_set_writer() */
	void (*stranded)(void *data, int fd, const char *path); /* see sockets.h */
	void *stranded_data;
};

struct address_group {
	struct address_group *next;
	struct address_group *next_changed;
	bool is_changed;
	uint64_t id; /* not used twice, nor for a member's serial */
	struct group_context *context;
	struct address address; /* own copies of its strings */
	struct address ip;   /* the address of a TCP group; with systemd's sockets not `address` */
	int passed_fd;       /* borrowed; -1: the socket is ours */
	size_t passed_index; /* among systemd's sockets of one name, or the forms of one address */
	enum steering steering;
	struct member *members[GROUP_MEMBERS];
	size_t n_members;
	bool sticky, sticky_before;
	bool concerned; /* while sockets_steer() is at work */
	const struct member *probed;
	struct reuseport *reuseport; /* STEERING_EBPF, _CBPF */
	struct unix_name *name;      /* STEERING_RENAME */
	int shared_fd;               /* STEERING_SHARED */
	bool taken;                  /* shared_fd is of a server that ran before us */
};

/* The group or its members are about to change, and will have to be written down. */
void group_note_change(struct address_group *g);

/* Makes `m` (config and generation are set) a listening member of the group of its address, which
 * is opened if need be. The first living member of a group gets all connections at once, others
 * none. `passed_fd` is -1 or what systemd passed for the address. */
int group_join(struct group_context *x, struct member *m, int passed_fd, size_t passed_index,
        struct ho_error *reterr);
/* The same, where the program has bound another form of the address (see forms.h) beside others. */
int group_join_form(struct group_context *x, struct member *m, const struct address *form,
        struct ho_error *reterr);
/* Has an earlier generation sockets in this form of the address, the `nth` after the first? */
bool group_has_form(const struct group_context *x, const struct address *a, size_t nth);
/* Its address, in the form that is used: "tcp:127.0.0.1:3000" where "tcp:*:3000" is configured.
 * Returns `ret`. */
const char *group_text(const struct address_group *g, char *ret, size_t size);
/* As opposed to the one that is there always. */
bool group_is_further_form(const struct address_group *g);
/* The same with the sockets in m->adopted, which listen already (m->taken is set); they are owned
 * by the member whatever comes of it. */
int group_take(struct group_context *x, struct member *m, size_t form, struct ho_error *reterr);
/* Leaves the sockets that were taken as they were. */
void group_abandon(struct member *m);
/* Closes the member's descriptor; the last one closes the group. */
void group_leave(struct member *m);
/* What waits in the queue of a listener of the member goes to `stranded`; it must not block. */
void group_strand(const struct member *m, int fd);
/* Wakes us when a listening socket hangs up, and only then (or see adopt_look_again()). */
void group_watch(struct group_context *x, int fd);
void group_unwatch(struct group_context *x, int fd);
void group_watch_member(struct group_context *x, const struct member *m);
/* A member whose own listener is gone gets another one. */
int group_rejoin(struct member *m, struct ho_error *reterr);
/* Only without members. */
void group_close(struct address_group *g);
/* Something hung up, or a client has arrived: sees to all listeners where that is so. */
void group_on_event(struct group_context *x);
/* Makes the `part`s of the members true. On failure nothing has changed but them. */
int group_apply(struct address_group *g, bool sticky, struct ho_error *reterr);

int group_probe_begin(struct member *m, int *ret_fd, struct sockaddr_storage *ret_to,
        socklen_t *ret_to_len, struct ho_error *reterr);
void group_probe_end(struct member *m);

#endif
