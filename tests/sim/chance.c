/* SPDX-License-Identifier: MIT */
#include "chance.h"

#include <stdlib.h>

struct chance chance_from_seed(uint64_t seed)
{
	return (struct chance){.state = seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du};
}

struct chance chance_from_bytes(const uint8_t *bytes, size_t n)
{
	return (struct chance){.bytes = bytes, .n_bytes = n, .from_bytes = true};
}

unsigned pick(struct chance *c, unsigned n)
{
	if (c->from_bytes) {
		if (c->n_bytes) {
			c->n_bytes--;
			return *c->bytes++ % n;
		}
		*c = chance_from_seed(1); /* the end of the story needs chance as well */
		c->ended = true;
	}
	c->state ^= c->state << 13;
	c->state ^= c->state >> 7;
	c->state ^= c->state << 17;
	return (unsigned)((c->state * 0x2545f4914f6cdd1du >> 33) % n);
}

bool one_in(struct chance *c, unsigned n)
{
	return pick(c, n) == n - 1;
}

static struct string_list one_word(struct config *c, bool any)
{
	struct string_list l = {config_alloc(c, 2 * sizeof *l.items), any};

	l.items[0] = any ? "word" : NULL;
	return l;
}

struct config *random_config(struct chance *ch)
{
	struct config *c = config_new();
	static const char *const names[MAX_SERVICES] = {"web", "api", "job"};
	const usec_t times[] = {0, USEC_PER_SEC, 10 * USEC_PER_SEC, 60 * USEC_PER_SEC};

	if (!c)
		abort();
	c->services = config_alloc(c, MAX_SERVICES * sizeof *c->services);
	for (unsigned i = 0; i < MAX_SERVICES; i++) {
		struct service_config *sc = &c->services[c->n_services];

		if (i && one_in(ch, 2))
			continue;
		service_config_defaults(sc);
		sc->name = names[i];
		sc->command = one_word(c, true);
		sc->workers = 1 + pick(ch, MAX_WORKERS);
		sc->n_listeners = i == 2 ? 0 : 1 + pick(ch, 2);
		sc->listeners = config_alloc(c, 2 * sizeof *sc->listeners);
		for (unsigned k = 0; k < sc->n_listeners; k++)
			sc->listeners[k] = (struct listener_config){.name = "http",
			        .address = {.port = (uint16_t)(80 + i * 10 + k), .text = "tcp:x"}};
		sc->ready.by = (enum ready_by)pick(ch, 8);
		if (i == 2 && (sc->ready.by == READY_ACCEPTING || sc->ready.by == READY_LISTENING ||
		                      sc->ready.by == READY_HTTP))
			sc->ready.by = READY_AUTO;
		sc->ready.after = times[pick(ch, 3)];
		sc->drain.by = (enum drain_by)pick(ch, 3);
		sc->drain.deadline = one_in(ch, 12) ? USEC_INFINITY : times[pick(ch, 4)];
		sc->drain.kill_after = times[pick(ch, 3)];
		sc->drain.idle_after = one_in(ch, 4) ? USEC_PER_SEC : USEC_INFINITY;
		sc->watchdog = one_in(ch, 3) ? times[1 + pick(ch, 3)] : USEC_INFINITY;
		sc->rollout.bake = times[pick(ch, 3)];
		sc->rollout.keep_warm = one_in(ch, 3) ? times[pick(ch, 4)] : 0;
		sc->rollout.max_old_memory = one_in(ch, 4) ? 64 << 20 : 0;
		if (one_in(ch, 3)) {
			sc->rollout.step = 1 + pick(ch, 2);
			sc->drain.by = DRAIN_SIGNAL;
		} else if (one_in(ch, 4)) {
			sc->rollout.canary = 1 + pick(ch, SHARE_ALL - 1);
			sc->rollout.hold = one_in(ch, 2) ? USEC_INFINITY : times[pick(ch, 4)];
		}
		sc->rollout.max_old = 1 + pick(ch, 6);
		sc->restart = one_in(ch, 8) ? RESTART_NEVER : RESTART_ALWAYS;
		sc->rollout.order = one_in(ch, 5) ? ROLLOUT_STOP_FIRST : ROLLOUT_START_FIRST;
		sc->dev.hold = !one_in(ch, 3);
		sc->build = one_word(c, one_in(ch, 4));
		sc->watch = one_word(c, one_in(ch, 2));
		c->n_services++;
	}
	return c;
}
