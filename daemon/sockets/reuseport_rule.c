/* SPDX-License-Identifier: MIT */
/* Who gets which part of the new connections of a group, as a rule for its program. */
#include <netinet/in.h>
#include <string.h>

#include "sockets/reuseport_internal.h"

bool entry_is_active(const struct entry *e)
{
	return e->member && !e->leaving && e->adopted == (e->member->n_listening > 0);
}

static unsigned aim(const struct reuseport *r, const struct entry *e)
{
	return r->program ? e->slot : (unsigned)(e - r->order);
}

static const struct entry *probe_target(const struct reuseport *r)
{
	for (const struct entry *e = r->order; r->probed && e < r->order + r->n; e++)
		if (e->member == r->probed && entry_is_active(e))
			return e;
	return NULL;
}

static void add_probe(const struct reuseport *r, struct steer_rule *rule)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)&r->probe_from;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&r->probe_from;
	const struct entry *e = probe_target(r);

	if (!e)
		return;
	rule->probe_to = aim(r, e);
	rule->probe_ipv6 = r->probe_from.ss_family == AF_INET6;
	rule->probe_port = ntohs(rule->probe_ipv6 ? in6->sin6_port : in->sin_port);
	if (rule->probe_ipv6)
		memcpy(rule->probe_from, &in6->sin6_addr, 16);
	else
		memcpy(rule->probe_from, &in->sin_addr, 4);
}

/* Newer members lie below older ones, so that a client on a new one's side stays there when its
 * part is raised. */
static const struct member *next_older(const struct reuseport *r, const struct member *than)
{
	const struct member *best = NULL;

	for (const struct entry *e = r->order; e < r->order + r->n; e++) {
		if (!entry_is_active(e) || e->member->part == 0)
			continue;
		if (than && e->member->serial >= than->serial)
			continue;
		if (!best || e->member->serial > best->serial)
			best = e->member;
	}
	return best;
}

static const struct entry *resting_place(const struct reuseport *r)
{
	int fd = r->control_fd >= 0 ? r->control_fd : r->passed_fd;

	for (const struct entry *e = r->order; e < r->order + r->n; e++)
		if (e->fd == fd)
			return e;
	return NULL;
}

/* The member's part from `first` to `last`, in equal shares for each of its sockets, as far as
 * there is room: what has none left goes to the last of them. */
static void add_sides(const struct reuseport *r, const struct member *m, uint64_t first,
        uint64_t last, struct steer_rule *rule, size_t room)
{
	size_t n = 0, k = 0;

	for (const struct entry *e = r->order; e < r->order + r->n; e++)
		n += e->member == m && entry_is_active(e);
	n = n < room ? n : room;
	for (const struct entry *e = r->order; e < r->order + r->n && k < n; e++) {
		if (e->member != m || !entry_is_active(e))
			continue;
		k++;
		rule->sides[rule->n].below = (unsigned)(first + (last - first) * k / n);
		rule->sides[rule->n++].to = aim(r, e);
	}
}

void reuseport_rule(const struct reuseport *r, bool sticky, struct steer_rule *rule)
{
	const struct entry *rest = resting_place(r);
	uint64_t sum = 0, below = 0, first;
	size_t members = 0;

	*rule = (struct steer_rule){.sticky = sticky};
	for (const struct member *m = next_older(r, NULL); m; m = next_older(r, m)) {
		sum += m->part;
		members++;
	}
	for (const struct member *m = next_older(r, NULL); m; m = next_older(r, m)) {
		first = below;
		below += m->part;
		add_sides(r, m, first * SHARE_ALL / sum, below * SHARE_ALL / sum, rule,
		        STEER_SIDES / members);
	}
	if (rest)
		rule->rest = aim(r, rest);
	add_probe(r, rule);
}

void reuseport_mark_targets(struct reuseport *r, const struct steer_rule *rule)
{
	const struct entry *rest = rule->n == 0 ? resting_place(r) : NULL;
	const struct entry *probe = probe_target(r);

	for (struct entry *e = r->order; e < r->order + r->n; e++)
		e->target = (entry_is_active(e) && e->member->part > 0) || e == rest || e == probe;
}
