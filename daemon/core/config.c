/* SPDX-License-Identifier: MIT */
#include "core/config.h"

#include <stdlib.h>
#include <string.h>

/* The arena: a chain of blocks, the newest first. */
struct block {
	struct block *next;
	size_t used, size;
	max_align_t bytes[];
};

struct config *config_new(void)
{
	struct config *c = calloc(1, sizeof *c);

	if (c)
		c->refs = 1;
	return c;
}

struct config *config_ref(struct config *c)
{
	HO_ASSERT(c->refs > 0);
	c->refs++;
	return c;
}

struct config *config_unref(struct config *c)
{
	struct block *b, *next;

	if (!c)
		return NULL;
	HO_ASSERT(c->refs > 0);
	if (--c->refs)
		return NULL;
	for (b = c->arena; b; b = next) {
		next = b->next;
		free(b);
	}
	free(c);
	return NULL;
}

void config_unrefp(struct config **c)
{
	*c = config_unref(*c);
}

void *config_alloc(struct config *c, size_t size)
{
	const size_t align = _Alignof(max_align_t);
	struct block *b = c->arena;
	char *p;

	if (size > SIZE_MAX / 2)
		return NULL;
	size = (size + align - 1) / align * align;
	if (!b || b->size - b->used < size) {
		size_t room = size > 4000 ? size : 4000;

		b = calloc(1, sizeof *b + room);
		if (!b)
			return NULL;
		b->size = room;
		b->next = c->arena;
		c->arena = b;
	}
	p = (char *)b->bytes + b->used;
	b->used += size;
	return p;
}

char *config_strdup(struct config *c, const char *s)
{
	size_t n = strlen(s) + 1;
	char *copy = config_alloc(c, n);

	if (copy)
		memcpy(copy, s, n);
	return copy;
}

void service_config_defaults(struct service_config *s)
{
	enum { SIGNAL_TERM = 15 };

	s->workers = 1;
	s->sockets = SOCKETS_AUTO;
	s->dialects = DIALECT_SYSTEMD;
	s->ready = (struct ready_config){.by = READY_AUTO, .fd = -1, .timeout = 30 * USEC_PER_SEC};
	s->drain = (struct drain_config){
	        .by = DRAIN_AUTO,
	        .signal = SIGNAL_TERM,
	        .idle_after = USEC_INFINITY,
	        .deadline = 60 * USEC_PER_SEC,
	        .kill_after = 5 * USEC_PER_SEC,
	};
	s->rollout = (struct rollout_config){
	        .max_old = 4, .bake = 10 * USEC_PER_SEC, .hold = USEC_INFINITY};
	s->restart = RESTART_ALWAYS;
	s->watchdog = USEC_INFINITY;
	s->umask = -1;
	s->watch_debounce = 100 * USEC_PER_MSEC;
	s->watch_poll = USEC_INFINITY;
	s->dev.hold = true;
}

const struct service_config *config_find(const struct config *c, const char *name)
{
	return config_find_from(c, name, 0);
}

const struct service_config *config_find_from(const struct config *c, const char *name, size_t at)
{
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_config *s = &c->services[(at + i) % c->n_services];

		if (!strcmp(s->name, name))
			return s;
	}
	return NULL;
}

bool address_equal(const struct address *a, const struct address *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == ADDRESS_TCP || a->kind == ADDRESS_UDP)
		return a->ipv6 == b->ipv6 && a->dual == b->dual && a->port == b->port &&
		       a->scope_id == b->scope_id && !memcmp(a->ip, b->ip, sizeof a->ip);
	return !strcmp(a->path, b->path);
}

bool config_accept_blocks(const struct service_config *s)
{
	/* Those who pass sockets in these ways pass them so, and PHP-FPM, for one, ends a process
	 * that finds nothing to accept. Most others set what they need; nginx, Tokio and unicorn
	 * do not, and need the contrary. */
	const unsigned blocking =
	        DIALECT_SERVER_STARTER | DIALECT_EINHORN | DIALECT_PHP_FPM | DIALECT_STDIN;

	return s->accept == ACCEPT_AUTO ? (s->dialects & blocking) != 0
	                                : s->accept == ACCEPT_BLOCKING;
}

const char *ready_by_to_string(enum ready_by by)
{
	static const char *const names[] = {
	        [READY_AUTO] = "auto",
	        [READY_NOTIFY] = "notify",
	        [READY_ACCEPTING] = "accepting",
	        [READY_LISTENING] = "listening",
	        [READY_HTTP] = "http",
	        [READY_EXEC] = "exec",
	        [READY_FD] = "fd",
	        [READY_AFTER] = "after",
	};

	return names[by];
}

const char *sockets_mode_to_string(enum sockets_mode m)
{
	static const char *const names[] = {
	        [SOCKETS_AUTO] = "auto",
	        [SOCKETS_PASS] = "pass",
	        [SOCKETS_ADOPT] = "adopt",
	        [SOCKETS_NONE] = "none",
	};

	return names[m];
}
