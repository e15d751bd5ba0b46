/* SPDX-License-Identifier: MIT */
/* The machinery behind connections.h, in terms of endpoints instead of listener sets: so it can be
 * tested with any socket. Only connections.c knows listener sets. */
#ifndef SOCKETS_CONNECTIONS_INTERNAL_H
#define SOCKETS_CONNECTIONS_INTERNAL_H

#include <ev.h>

#include "sockets/connections.h"
#include "sockets/endpoint.h"

struct connections {
	struct ev_loop *loop;
	struct diag diag;
	struct drain_watch *watches;
	size_t n_watches;
	int events_fd; /* -1 unless a watch needs it */
	ev_io events;
	bool overrun;     /* events were lost, and others still wait */
	int event_buffer; /* bytes wanted for the events that wait */
};

/* Tests: forces lost events. For subscriptions made from now on. */
void connections_set_event_buffer(struct connections *c, int bytes);

/* Adds the sockets of a set. */
int endpoint_list_add_set(struct endpoint_list *list, struct connections *c,
        const struct listener_set *set, size_t owner);
/* Adds to ret[endpoint.owner], which the caller has zeroed. */
int count_endpoints(struct connections *c, struct endpoint *endpoints, size_t n,
        struct inflight *ret, size_t n_ret);
int list_endpoints(struct connections *c, struct endpoint *endpoints, size_t n,
        const struct drain_watch *watch, struct connection_info *ret, size_t max,
        size_t *ret_count);

/* These two take the list over, also when they fail. `key` is for drain_watch_find() alone. */
int quiet_check_new_on(
        struct connections *c, struct endpoint_list *endpoints, struct quiet_check **ret);
int drain_watch_new_on(struct connections *c, struct endpoint_list *endpoints, const void *key,
        const struct drain_watch_options *options, drain_report report, void *data,
        struct drain_watch **ret, struct ho_error *reterr);

struct drain_watch *drain_watch_find(const struct connections *c, const void *key);
/* At least; the watch may be NULL. */
usec_t connection_age(const struct diag_socket *s, const struct drain_watch *watch, usec_t now);
void connection_peer(const struct diag_socket *s, char *ret, size_t size);
/* When a connection was first seen; `now` if it was not. */
usec_t drain_watch_seen(const struct drain_watch *w, uint64_t cookie, usec_t now);

#endif
