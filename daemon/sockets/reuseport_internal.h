/* SPDX-License-Identifier: MIT */
/* The group's table, for reuseport.c, which keeps it, and for save.c, which writes it down. */
#ifndef SOCKETS_REUSEPORT_INTERNAL_H
#define SOCKETS_REUSEPORT_INTERNAL_H

#include "sockets/bpf.h"
#include "sockets/reuseport.h"

#define ORDER_MAX 256

struct entry {
	int fd; /* members own theirs, controls are owned here */
	unsigned slot;
	bool adopted;   /* bound by the member's program */
	bool leaving;   /* gets nothing any more */
	bool abandoned; /* goes on without us */
	struct member
	        *member; /* NULL: a control listener, or the passed one while nobody uses it */
	bool target;     /* of the program in force */
};

struct reuseport {
	const struct address *ip;
	const struct group_context *context;
	uid_t uid;
	struct bpf_program *program; /* NULL: classic */
	int passed_fd;
	int control_fd; /* the newest of our control listeners */
	struct entry order[ORDER_MAX];
	size_t n;
	uint8_t last_tag;
	uint32_t tags; /* in use */
	/* Another group of ours has the port: then listen(2) refuses a socket that has a program.
	 */
	bool beside;
	const struct member *probed;
	struct sockaddr_storage probe_from;
};

/* Can it get connections? Ours cannot while the program has sockets of its own. */
bool entry_is_active(const struct entry *e);

/* What the parts of the members ask for; where nobody has one, all goes to the control listener. */
void reuseport_rule(const struct reuseport *r, bool sticky, struct steer_rule *ret);

/* The rule is in force. */
void reuseport_mark_targets(struct reuseport *r, const struct steer_rule *rule);

/* The table was filled from what another handoffd wrote down. Entries whose socket is gone (fd -1)
 * leave it as the kernel has let them leave, and what is left is put in force. */
int reuseport_restored(struct reuseport *r, bool sticky);

#endif
