/* SPDX-License-Identifier: MIT */
/* What must hold between settings: of one service, and between the listeners of all. Pure. */
#include "conf/build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A mistake about a key of the service, at the line it was set. */
static void at_key(struct maker *mk, const struct service_config *s, const char *key,
        const char *format, ...) _printf_(4, 5);
static void at_key(
        struct maker *mk, const struct service_config *s, const char *key, const char *format, ...)
{
	char what[400];
	va_list ap;
	enum raw_kind kind;
	const struct key *k = mk->file ? NULL : key_by_option(key, &kind);
	const struct origin *o = origin_of(s, key);
	size_t n;
	const struct key *keys = keys_of(RAW_SERVICE, &n);

	va_start(ap, format);
	(void)vsnprintf(what, sizeof what, format, ap);
	va_end(ap);
	for (size_t i = 0; !mk->file && !k && i < n; i++)
		if (!strcmp(keys[i].name, key))
			k = &keys[i];
	if (k && k->option)
		mistakes_add(mk->m, NULL, 0, "--%s: %s", k->option, what);
	else
		mistakes_add(mk->m, mk->file, o ? o->line : s->origin.line, "%s: %s", key, what);
}

static bool has_stream_listener(const struct service_config *s)
{
	for (size_t i = 0; i < s->n_listeners; i++)
		if (s->listeners[i].address.kind != ADDRESS_UDP)
			return true;
	return false;
}

static void check_sockets(struct maker *mk, const struct service_config *s, bool whole)
{
	if (s->sockets == SOCKETS_NONE && s->n_listeners)
		at_key(mk, s, "sockets",
		        "\"none\" is for services without listeners, but \"%s\" has "
		        "some; leave it out, or the listeners",
		        s->name);
	for (size_t i = 0; s->sockets == SOCKETS_ADOPT && i < s->n_listeners; i++) {
		const struct address *a = &s->listeners[i].address;

		if (a->kind != ADDRESS_UDP)
			continue;
		at_key(mk, s, "sockets",
		        "\"adopt\" takes over stream sockets only, and \"%s\" has the listener %s; "
		        "write \"pass\" or \"auto\"",
		        s->name, a->text);
		break;
	}
	if ((s->sockets == SOCKETS_PASS || s->sockets == SOCKETS_ADOPT) && !s->n_listeners && whole)
		at_key(mk, s, "sockets", "\"%s\" needs a listener; write %s",
		        sockets_mode_to_string(s->sockets),
		        mk->file ? "listen \"http\" { address = {\"8080\"} }" : "-l 8080");
}

static void check_ready(struct maker *mk, const struct service_config *s, bool whole)
{
	const struct ready_config *r = &s->ready;
	bool probes = r->by == READY_ACCEPTING || r->by == READY_LISTENING || r->by == READY_HTTP;

	if (probes && whole && !has_stream_listener(s))
		at_key(mk, s, "ready.by",
		        "\"%s\" needs a TCP or UNIX listener, but \"%s\" has none; "
		        "write for example \"notify\" or \"after:2s\"",
		        ready_by_to_string(r->by), s->name);
	if (r->by == READY_AFTER && r->after >= r->timeout)
		at_key(mk, s, "ready.by",
		        "the time of after: is not below ready.timeout, so no "
		        "generation could become ready; raise the timeout");
}

/* A worker can be told to finish beside others that serve only by its signal. */
static void check_rollout(struct maker *mk, const struct service_config *s)
{
	const struct rollout_config *r = &s->rollout;

	if (r->step && s->drain.by != DRAIN_SIGNAL && s->n_listeners)
		at_key(mk, s, "rollout.step",
		        "workers are replaced one after the other only with drain.by = \"signal\", "
		        "as only their whole generation can be watched until it is idle");
	if (r->step && r->canary)
		at_key(mk, s, "rollout.step",
		        "a roll-out in steps has no canary; leave out one of the two");
}

void check_service(struct maker *mk, const struct service_config *s, bool whole)
{
	if (whole && !s->command.count && !origin_of(s, "command"))
		mistakes_add(mk->m, mk->file, s->origin.line,
		        "service \"%s\" has no command; write for example command = "
		        "{\"bin/server\", \"--port\", \"8080\"}",
		        s->name);
	check_sockets(mk, s, whole);
	check_ready(mk, s, whole);
	check_rollout(mk, s);
}

/* An address as one thing that can be had only once: a dual-stack wildcard is two of them. */
struct claim {
	const struct service_config *service;
	const struct listener_config *listener;
	bool ipv6;
};

static int compare_addresses(const struct claim *x, const struct claim *y)
{
	const struct address *a = &x->listener->address, *b = &y->listener->address;

	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	if (a->kind != ADDRESS_TCP && a->kind != ADDRESS_UDP)
		return strcmp(a->path, b->path);
	if (a->port != b->port)
		return a->port < b->port ? -1 : 1;
	if (x->ipv6 != y->ipv6)
		return x->ipv6 ? 1 : -1;
	if (a->scope_id != b->scope_id)
		return a->scope_id < b->scope_id ? -1 : 1;
	return memcmp(a->ip, b->ip, sizeof a->ip);
}

static int compare_claims(const void *a, const void *b)
{
	const struct claim *x = a, *y = b;
	int c = compare_addresses(x, y);

	if (c)
		return c;
	c = (x->listener->origin.line > y->listener->origin.line) -
	    (x->listener->origin.line < y->listener->origin.line);
	return c ? c : (x->listener > y->listener) - (x->listener < y->listener);
}

static void twice(struct maker *mk, const struct claim *first, const struct claim *second)
{
	char at[24] = "";

	if (mk->file)
		(void)snprintf(at, sizeof at, " at line %d", first->listener->origin.line);
	mistakes_add(mk->m, mk->file, second->listener->origin.line,
	        "%s: \"%s\" of service \"%s\" is already taken by \"%s\" of service \"%s\"%s; an "
	        "address belongs to one listener",
	        mk->file ? "address" : "--listen", second->listener->address.text,
	        second->service->name, first->listener->address.text, first->service->name, at);
}

void check_addresses(struct maker *mk)
{
	size_t total = 0, n = 0;
	_cleanup_free_ struct claim *claims = NULL;

	for (size_t i = 0; i < mk->c->n_services; i++)
		total += 2 * mk->c->services[i].n_listeners;
	claims = calloc(total + 1, sizeof *claims);
	if (!claims) {
		mk->oom = true;
		return;
	}
	for (size_t i = 0; i < mk->c->n_services; i++) {
		const struct service_config *s = &mk->c->services[i];

		for (size_t j = 0; j < s->n_listeners; j++) {
			const struct listener_config *l = &s->listeners[j];

			claims[n++] = (struct claim){s, l, l->address.ipv6};
			if (l->address.dual)
				claims[n++] = (struct claim){s, l, false};
		}
	}
	qsort(claims, n, sizeof *claims, compare_claims);
	for (size_t i = 1; i < n; i++)
		if (compare_addresses(&claims[i - 1], &claims[i]) == 0)
			twice(mk, &claims[i - 1], &claims[i]);
}
