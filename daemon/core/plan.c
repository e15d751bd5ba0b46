/* SPDX-License-Identifier: MIT */
#include "core/plan.h"

#include <stdlib.h>

const char *plan_verb_to_string(enum plan_verb v)
{
	static const char *const words[] = {
#define X(id, word) [PLAN_##id] = word,
	        PLAN_VERBS(X)
#undef X
	};

	return words[v];
}

static bool has_address(const struct service_config *s, const struct address *a)
{
	for (size_t i = 0; s && i < s->n_listeners; i++)
		if (address_equal(&s->listeners[i].address, a))
			return true;
	return false;
}

static void add(struct plan *p, enum plan_verb verb, const char *service, const char *address)
{
	p->steps[p->n++] = (struct plan_step){verb, service, address};
}

static size_t steps_of(const struct config *c)
{
	size_t n = 0;

	for (size_t i = 0; c && i < c->n_services; i++)
		n += 1 + c->services[i].n_listeners;
	return n;
}

static void plan_service(
        struct plan *p, const struct service_config *before, const struct service_config *after)
{
	add(p, before ? PLAN_RENEW : PLAN_ADD, after->name, NULL);
	for (size_t i = 0; i < after->n_listeners; i++) {
		const struct address *a = &after->listeners[i].address;

		add(p, has_address(before, a) ? PLAN_KEEP : PLAN_OPEN, after->name, a->text);
	}
	for (size_t i = 0; before && i < before->n_listeners; i++) {
		const struct address *a = &before->listeners[i].address;

		if (!has_address(after, a))
			add(p, PLAN_CLOSE, after->name, a->text);
	}
}

int plan_make(const struct config *before, const struct config *after, struct plan *ret)
{
	struct plan p = {0};
	size_t room = steps_of(before) + steps_of(after);

	p.steps = calloc(room ? room : 1, sizeof *p.steps);
	if (!p.steps)
		return -12; /* ENOMEM */
	for (size_t i = 0; before && i < before->n_services; i++)
		if (!config_find_from(after, before->services[i].name, i))
			add(&p, PLAN_REMOVE, before->services[i].name, NULL);
	for (size_t i = 0; i < after->n_services; i++) {
		const struct service_config *s = &after->services[i];

		plan_service(&p, before ? config_find_from(before, s->name, i) : NULL, s);
	}
	*ret = p;
	return 0;
}

void plan_done(struct plan *p)
{
	free(p->steps);
	*p = (struct plan){0};
}

void plan_print(const struct plan *p, struct text *t)
{
	bool first = true;

	for (size_t i = 0; i < p->n && !t->cut; i++) {
		const struct plan_step *s = &p->steps[i];

		if (!s->address) {
			text_add(t, "%s%s %s", i ? "; " : "", plan_verb_to_string(s->verb),
			        s->service);
			first = true;
			continue;
		}
		text_add(t, "%s%s %s", first ? ": " : ", ", plan_verb_to_string(s->verb),
		        s->address);
		first = false;
	}
}
