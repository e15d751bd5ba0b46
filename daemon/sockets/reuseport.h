/* SPDX-License-Identifier: MIT */
/* A SO_REUSEPORT group of TCP listeners: who is in it, in which order, and the program that
 * chooses.
 *
 * Beside the generations' listeners there is always a control listener of our own. It holds the
 * group and the program, drops every packet (a client that is sent to it waits and tries again, it
 * is neither refused nor accepted), and was the last to join, because the kernel's lookup stops at
 * a last one that turns SO_REUSEPORT off. */
#ifndef SOCKETS_REUSEPORT_H
#define SOCKETS_REUSEPORT_H

#include "sockets/group.h"

/* Opens the group at `ip` (borrowed for its life). With `passed_fd` (listening, borrowed) the group
 * is built around this socket, which keeps its connections and serves the first member; *ret_ebpf
 * tells which program it got. With `port_is_ours` nobody else can have the port, as another group
 * of ours has it in another form. */
int reuseport_open(const struct address *ip, const struct group_context *x, int passed_fd,
        bool port_is_ours, struct reuseport **ret, bool *ret_ebpf);
/* Only when all members have left. Accepts NULL. */
struct reuseport *reuseport_close(struct reuseport *r);

/* Fills fd and tag of `m`; it gets no connection before reuseport_apply(). -EUSERS: too many
 * generations. */
int reuseport_join(struct reuseport *r, struct member *m);
/* Makes the listening sockets in m->adopted, around the first of which the group was opened, the
 * member's. -EOPNOTSUPP: they are too many for a classic program. */
int reuseport_take(struct reuseport *r, struct member *m);
/* Takes the member out, but lets its sockets listen, with all connections once the group is closed.
 */
void reuseport_abandon(struct reuseport *r, struct member *m);
/* The same for a member that has its tag, and lost its listener. */
int reuseport_rejoin(struct reuseport *r, struct member *m);
/* Closes m->fd and takes out what it has adopted. No connection that another member would have got
 * goes astray. */
void reuseport_leave(struct reuseport *r, struct member *m, bool sticky);

/* So that bind(2) of the program's socket makes it one that can join. */
int reuseport_prepare(const struct reuseport *r, int fd);
/* Lets the program's bound socket listen as one of the member's; negative errno is the answer to
 * the program. */
int reuseport_adopt(struct reuseport *r, struct member *m, int fd, int backlog, bool sticky);
/* A listening socket that nobody holds but us, or is not to listen any more: what waits there moves
 * to whoever gets new connections if it was one of those; it is not closed. */
void reuseport_drop(struct reuseport *r, struct member *m, int fd, bool sticky);

/* Connections sent to the member since it joined; -EOPNOTSUPP: they are not counted (classic BPF).
 */
int reuseport_sent(const struct reuseport *r, const struct member *m, uint64_t *ret);
/* Makes the parts of the members, and the probe, true. */
int reuseport_apply(struct reuseport *r, bool sticky);
/* From now on (after reuseport_apply) the connection from `from` goes to `m`; NULL: no probe. */
void reuseport_probe(
        struct reuseport *r, const struct member *m, const struct sockaddr_storage *from);
/* A worker may have shut a listener down, which takes it out of the group for all: such ones listen
 * again, at the end of the group, and the program is put in order. */
void reuseport_verify(struct reuseport *r, bool sticky);

#endif
