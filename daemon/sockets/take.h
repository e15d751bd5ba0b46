/* SPDX-License-Identifier: MIT */
/* Listening sockets of a server that ran before us, made the set of generation 0: members of the
 * groups that later generations join, so that new connections can be turned from the one to the
 * other. Nothing of the sockets is changed that the server could notice, and given back they are as
 * they were. */
#ifndef SOCKETS_TAKE_H
#define SOCKETS_TAKE_H

#include "sockets/adopt.h"

struct taken_socket {
	int fd; /* ours, of the same open file */
	struct socket_holder holder;
	size_t listener; /* of the service */
};

/* "tcp:0.0.0.0:80", "udp:…", "unix:/run/x.sock", "unix:@name": where a socket receives; false if
 * nowhere: it neither listens nor is a bound datagram socket of IP. */
bool take_describe(int fd, char *ret, size_t size);
/* Is it a socket of another network namespace? */
bool take_is_elsewhere(int fd);
/* The listener of the service that has the socket's address; a port alone is every wildcard. -1:
 * none. */
ssize_t take_match(const struct service_config *service, int fd);
/* Connections that were made while the socket had no SO_REUSEADDR keep others from its port. */
bool take_hinders(int fd, uint16_t port);
uint16_t take_port(int fd);

/* Takes `taken[]` over (the descriptors are owned by the set, or closed on failure). The set has no
 * listener where the server has none. */
int listener_set_take(struct sockets *s, struct config *config,
        const struct service_config *service, const struct taken_socket *taken, size_t n,
        struct listener_set **ret, struct ho_error *reterr);
/* Instead of listener_set_close(): the server goes on, nobody steers its connections. When no other
 * set has its addresses. */
struct listener_set *listener_set_leave(struct listener_set *set);

#endif
