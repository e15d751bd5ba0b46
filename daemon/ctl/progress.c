/* SPDX-License-Identifier: MIT */
/* How far a request is: on a terminal one repainted line with the phase of each service, elsewhere
 * one line an event. The cursor stays visible and no mode is changed, so there is nothing to
 * restore. */
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

#define MAX_SHOWN 16

struct phase {
	char service[CONFIG_MAX_NAME];
	json_int_t generation; /* the one that starts */
	unsigned started, ready;
	char words[96];
};

struct progress {
	unsigned columns; /* 0: no terminal */
	const char *dot;
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
	(void)setlocale(LC_CTYPE, "");
	p->dot = strcmp(nl_langinfo(CODESET), "UTF-8") ? "," : " \xc2\xb7";
	return p;
}

static struct phase *find_phase(struct progress *p, const char *service)
{
	for (size_t i = 0; i < p->n_phases; i++)
		if (!strcmp(p->phases[i].service, service))
			return &p->phases[i];
	if (p->n_phases == MAX_SHOWN)
		return NULL;
	(void)copy_string(p->phases[p->n_phases].service, CONFIG_MAX_NAME, service);
	return &p->phases[p->n_phases++];
}

/* The phase that an event begins, without its "generation-". */
static void advance(struct phase *f, const json_t *event)
{
	const char *name = member(event, "event");
	json_int_t generation = json_integer_value(json_object_get(event, "generation"));
	const json_t *connections = json_object_get(event, "connections");
	struct text words = TEXT_ON(f->words);

	if (!strcmp(name, "generation-starting")) {
		f->generation = generation;
		f->started = f->ready = 0;
	}
	if (!strcmp(name, "worker-started") && generation == f->generation)
		f->started++;
	if (!strcmp(name, "worker-ready") && generation == f->generation)
		f->ready++;
	if (!strncmp(name, "worker-", 7) && f->ready < f->started)
		text_add(&words, "starting %u/%u ready", f->ready, f->started);
	else
		text_add(&words, "%s", strncmp(name, "generation-", 11) ? name : name + 11);
	if (connections)
		text_add(&words, " %" JSON_INTEGER_FORMAT " connections",
		        json_integer_value(connections));
}

static void repaint(struct progress *p)
{
	char line[MAX_SHOWN * sizeof(struct phase)];
	struct text t = TEXT_ON(line);

	for (size_t i = 0; i < p->n_phases; i++)
		text_add(&t, "%s%s%s: %s", i ? p->dot : "", i ? " " : "", p->phases[i].service,
		        p->phases[i].words);
	(void)fputs("\r\033[K", stdout);
	put_text(stdout, line, p->columns - 1);
	p->painted = true;
}

static void print_event(const json_t *event)
{
	const json_t *generation = json_object_get(event, "generation");
	char line[2048];
	struct text t = TEXT_ON(line);

	add_local_time(&t, member(event, "time"));
	text_add(&t, " %s %s", member(event, "service"), member(event, "event"));
	if (json_is_integer(generation))
		text_add(&t, " (generation %" JSON_INTEGER_FORMAT ")",
		        json_integer_value(generation));
	if (*member(event, "text"))
		text_add(&t, ": %s", member(event, "text"));
	put_text(stdout, line, 0);
	(void)fputc('\n', stdout);
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
	if (p && p->painted)
		(void)fputs("\r\033[K", stdout);
	free(p);
	return NULL;
}
