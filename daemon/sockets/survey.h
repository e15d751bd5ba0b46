/* SPDX-License-Identifier: MIT */
/* One look at the connections of any number of endpoints: one dump for each address family that
 * occurs, filtered by port in the kernel when the ports are few. Internal to connections. */
#ifndef SOCKETS_SURVEY_H
#define SOCKETS_SURVEY_H

#include "sockets/endpoint.h"

enum connection_state {
	CONNECTION_HELD,      /* accepted; a process has a descriptor of it */
	CONNECTION_QUEUED,    /* in the accept queue */
	CONNECTION_HALF_OPEN, /* the handshake is not over; it has no tag yet */
	CONNECTION_LEFT,      /* closed by the worker; the kernel finishes it alone */
};

struct survey {
	struct endpoint *
	        *by_port; /* the TCP ones, by port, those with an address of their own first */
	struct endpoint **unix_ones;
	size_t n_tcp, n_unix;
	bool ipv4, ipv6;
	struct diag_ports ports;
};

/* Of the endpoints of the kinds asked for; they must outlive the survey. */
int survey_init(struct survey *s, struct endpoint *endpoints, size_t n, bool tcp, bool unix_ones);
void survey_done(struct survey *s);

struct survey_calls {
	void (*begin)(void *arg); /* also before a repetition: forget what was found */
	/* HALF_OPEN: the first endpoint that has the address; otherwise the one it belongs to. */
	void (*found)(struct endpoint *e, const struct diag_socket *s, enum connection_state state,
	        void *arg);
	/* NULL, or told how many wait at a UNIX listener: a dump does not show those. */
	void (*waiting)(struct endpoint *e, unsigned n, void *arg);
	void *arg;
};
int survey_run(const struct survey *s, struct diag *d, uint32_t states, bool info,
        const struct survey_calls *calls);

/* The same in small steps, without `begin` and repetitions; `diag` serves nothing else meanwhile.
 * 1: more will come, 0: that was all, or negative errno. */
struct survey_walk {
	const struct survey *survey;
	struct diag *diag;
	uint32_t states;
	bool info;
	const struct survey_calls *calls;
	unsigned dumps; /* begun or left out; these two are zero at first */
	bool dumping;
};
int survey_walk_next(struct survey_walk *w);
#define SURVEY_CONNECTIONS UINT32_MAX /* all states that are somebody's connection */
#define SURVEY_HANDSHAKES 0x1008u     /* SYN_RECV, NEW_SYN_RECV */

#endif
