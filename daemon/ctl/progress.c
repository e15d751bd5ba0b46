/* SPDX-License-Identifier: MIT */
/* How far a request is: on a terminal one repainted line with the phases of each service, elsewhere
 * one line an event. Events tell the phases, handoffd's status the numbers. The cursor stays
 * visible and no mode is changed, so there is nothing to restore. */
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

#define MAX_SHOWN 16

struct phase {
	char service[CONFIG_MAX_NAME];
	json_int_t generation; /* the one that starts; 0: none */
	unsigned started, ready;
	char then[48];     /* what became of it after it was ready, or "" */
	double left_of_it; /* seconds of that; negative: no end is known */
	bool draining;
	json_int_t at_first, left; /* connections of those that drain; negative: unknown */
	double deadline;           /* seconds; negative: none */
};

struct progress {
	unsigned columns; /* 0: no terminal */
	const char *dot, *arrow;
	struct phase phases[MAX_SHOWN];
	size_t n_phases;
	bool painted;
};

struct progress *progress_new(void)
{
	struct progress *p = calloc(1, sizeof *p);

	if (!p)
		return NULL;
	p->columns = terminal_columns();
	p->dot = wants_utf8() ? " \xc2\xb7 " : ", ";
	p->arrow = wants_utf8() ? "\xe2\x86\x92" : "->";
	return p;
}

static struct phase *find_phase(struct progress *p, const char *service)
{
	for (size_t i = 0; i < p->n_phases; i++)
		if (!strcmp(p->phases[i].service, service))
			return &p->phases[i];
	if (p->n_phases == MAX_SHOWN)
		return NULL;
	p->phases[p->n_phases] =
	        (struct phase){.at_first = -1, .left = -1, .deadline = -1, .left_of_it = -1};
	(void)copy_string(p->phases[p->n_phases].service, CONFIG_MAX_NAME, service);
	return &p->phases[p->n_phases++];
}

static void then(struct phase *f, const char *words)
{
	(void)copy_string(f->then, sizeof f->then, words);
}

static void advance(struct phase *f, const json_t *event)
{
	const char *name = member(event, "event");
	json_int_t generation = json_integer_value(json_object_get(event, "generation"));

	if (!strcmp(name, "generation-starting")) {
		f->generation = generation;
		f->started = f->ready = 0;
		then(f, "");
	} else if (!strcmp(name, "generation-draining")) {
		f->draining = true;
	} else if (generation != f->generation) {
		return;
	} else if (!strcmp(name, "worker-started")) {
		f->started++;
	} else if (!strcmp(name, "worker-ready")) {
		f->ready++;
	} else if (!strcmp(name, "generation-ready")) {
		f->ready = f->started;
		then(f, "steering");
	} else if (!strcmp(name, "generation-canary")) {
		then(f, "canary");
	} else if (!strcmp(name, "generation-serving")) {
		then(f, "serving");
	} else if (!strcmp(name, "generation-failed")) {
		then(f, "failed");
	}
}

/* The numbers of those that drain. */
static void count(struct phase *f, const json_t *service)
{
	json_t *g;
	size_t i;

	f->left = 0;
	f->deadline = f->left_of_it = -1;
	json_array_foreach(json_object_get(service, "generations"), i, g)
	{
		const json_t *drain = json_object_get(g, "drain");
		const json_t *deadline = json_object_get(drain, "deadline_in");
		double seconds = json_is_number(deadline) ? json_number_value(deadline) : -1;

		if (json_integer_value(json_object_get(g, "id")) == f->generation) {
			const json_t *end = json_object_get(g, "promote_in");

			if (!json_is_number(end))
				end = json_object_get(g, "baked_in");
			if (json_is_number(end))
				f->left_of_it = json_number_value(end);
		}
		if (!json_is_object(drain))
			continue;
		f->draining = true;
		f->left += json_integer_value(json_object_get(g, "in_flight"));
		if (seconds >= 0 && (f->deadline < 0 || seconds < f->deadline))
			f->deadline = seconds;
	}
	if (f->left > f->at_first)
		f->at_first = f->left;
}

static void add_phase(struct text *t, const struct progress *p, const struct phase *f)
{
	const char *between = " ";

	text_add(t, "%s:", f->service);
	if (f->generation) {
		text_add(t, " starting %u/%u ready", f->ready, f->started);
		between = p->dot;
	}
	if (f->generation && *f->then) {
		text_add(t, "%s%s", p->dot, f->then);
		if (f->left_of_it >= 0)
			text_add(t, ", %s for %.0f s",
			        !strcmp(f->then, "canary") ? "held" : "watched", f->left_of_it);
		between = p->dot;
	}
	if (!f->draining)
		return;
	text_add(t, "%sdraining", between);
	if (f->at_first >= 0)
		text_add(t, " %" JSON_INTEGER_FORMAT " %s %" JSON_INTEGER_FORMAT " connections",
		        f->at_first, p->arrow, f->left);
	if (f->deadline >= 0)
		text_add(t, ", %.0f s to the deadline", f->deadline);
}

static void repaint(struct progress *p)
{
	char line[MAX_SHOWN * 256];
	struct text t = TEXT_ON(line);

	for (size_t i = 0; i < p->n_phases; i++) {
		text_add(&t, "%s", i ? "   " : "");
		add_phase(&t, p, &p->phases[i]);
	}
	if (!t.len)
		return;
	(void)fputs("\r\033[K", stdout);
	put_text(stdout, line, p->columns - 1);
	p->painted = true;
	(void)fflush(stdout);
}

bool progress_wants_status(const struct progress *p)
{
	return p && p->columns;
}

void progress_status(struct progress *p, const json_t *status)
{
	json_t *service;
	size_t i;

	for (size_t k = 0; k < p->n_phases; k++)
		json_array_foreach(json_object_get(status, "services"), i, service)
		{
			if (!strcmp(member(service, "name"), p->phases[k].service))
				count(&p->phases[k], service);
		}
	repaint(p);
}

void progress_expect(struct progress *p, const char *service)
{
	if (p)
		(void)find_phase(p, service);
}

static void print_event(const json_t *event)
{
	const json_t *generation = json_object_get(event, "generation");
	const json_t *worker = json_object_get(event, "worker");
	const char *text = member(event, "text");
	size_t n = strcspn(text, "\n");
	char line[2048];
	struct text t = TEXT_ON(line);

	add_local_time(&t, member(event, "time"));
	text_add(&t, " %s %s", member(event, "service"), member(event, "event"));
	if (json_is_integer(generation))
		text_add(&t, " (generation %" JSON_INTEGER_FORMAT, json_integer_value(generation));
	if (json_is_integer(generation) && json_is_integer(worker))
		text_add(&t, ", worker %" JSON_INTEGER_FORMAT, json_integer_value(worker));
	text_add(&t, "%s%s", json_is_integer(generation) ? ")" : "", n ? ": " : "");
	text_add_bytes(&t, text, n);
	put_text(stdout, line, 0);
	(void)fputc('\n', stdout);
	if (text[n])
		put_lines(stdout, "    ", text + n + 1);
}

void progress_show(struct progress *p, const json_t *event)
{
	struct phase *f;

	if (!p)
		return;
	if (p->columns) {
		f = find_phase(p, member(event, "service"));
		if (f)
			advance(f, event);
		repaint(p);
	} else {
		print_event(event);
	}
	(void)fflush(stdout);
}

struct progress *progress_free(struct progress *p)
{
	if (p && p->painted) {
		(void)fputs("\r\033[K", stdout);
		(void)fflush(stdout); /* what comes next may come on stderr */
	}
	free(p);
	return NULL;
}
