/* SPDX-License-Identifier: MIT */
#include "core/action.h"
#include "core/event.h"
#include "core/supervisor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct action_text {
	struct action_text *next;
	char bytes[];
};

const char *event_type_to_string(enum event_type t)
{
	static const char *const names[] = {
#define X(id) [EVENT_##id] = #id,
	        EVENT_TYPES(X)
#undef X
	};

	return names[t];
}

const char *action_type_to_string(enum action_type t)
{
	static const char *const names[] = {
#define X(id) [ACTION_##id] = #id,
	        ACTION_TYPES(X)
#undef X
	};

	return names[t];
}

bool action_is_final(const struct action *a)
{
	return a->type == ACTION_SIGNAL_WORKER || a->type == ACTION_KILL_WORKER ||
	       (a->type == ACTION_TELL_WORKER && a->tell.word == TELL_DRAIN) ||
	       a->type == ACTION_START_WORKER || a->type == ACTION_STEER ||
	       a->type == ACTION_FREEZE || a->type == ACTION_RELEASE || a->type == ACTION_ANSWER ||
	       a->type == ACTION_RESTORE_LINK || a->type == ACTION_POINT_BACK;
}

bool action_changes(const struct action *a)
{
	return a->type != ACTION_RECORD &&
	       !(a->type == ACTION_ANSWER && (!a->request || !a->request->n_targets));
}

bool action_is_repeated(const struct action *a)
{
	return (action_is_final(a) && a->type != ACTION_START_WORKER && a->type != ACTION_STEER &&
	               a->type != ACTION_FREEZE && a->type != ACTION_RELEASE &&
	               a->type != ACTION_ANSWER) ||
	       a->type == ACTION_THAW || a->type == ACTION_RETURN_HELD;
}

int action_list_reserve(struct action_list *l, size_t total)
{
	struct action *items;

	if (total <= l->size)
		return 0;
	items = realloc(l->items, total * sizeof *items);
	if (!items)
		return -12; /* ENOMEM */
	l->items = items;
	l->size = total;
	return 0;
}

struct action *action_push(struct action_list *l, enum action_type type)
{
	struct action *a;

	HO_ASSERT(l->n < l->size);
	a = &l->items[l->n++];
	memset(a, 0, sizeof *a);
	a->type = type;
	return a;
}

const char *action_text(struct action_list *l, const char *format, ...)
{
	struct action_text *t;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(NULL, 0, format, ap);
	va_end(ap);
	if (n < 0)
		return "";
	t = malloc(sizeof *t + (size_t)n + 1);
	if (!t)
		return "";
	va_start(ap, format);
	(void)vsnprintf(t->bytes, (size_t)n + 1, format, ap);
	va_end(ap);
	t->next = l->texts;
	l->texts = t;
	return t->bytes;
}

void action_list_clear(struct action_list *l)
{
	struct action_text *t, *next;

	for (t = l->texts; t; t = next) {
		next = t->next;
		free(t);
	}
	l->texts = NULL;
	l->n = l->carried = 0;
}

void action_list_done(struct action_list *l)
{
	action_list_clear(l);
	free(l->items);
	*l = (struct action_list){0};
}
