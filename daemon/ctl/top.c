/* SPDX-License-Identifier: MIT */
/* The live view: one line a generation, with what it has been doing of late. Everything comes from
 * the status that handoffd sends once a second, but memory, which is read here. */
#include <libsmartcols/libsmartcols.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/commands.h"
#include "wire/interface.h"

#define TRACE 24        /* places of a timeline */
#define TRACE_SECONDS 5 /* a place */
#define MAX_TRACES 512
#define NAME_SHOWN 14
#define OTHER_COLUMNS 67 /* of the terminal, for all but the timeline */

enum column {
	COLUMN_SERVICE,
	COLUMN_GENERATION,
	COLUMN_STATE,
	COLUMN_SHARE,
	COLUMN_CONNECTIONS,
	COLUMN_RATE,
	COLUMN_MEMORY,
	COLUMN_AGE,
	COLUMN_LEFT,
	COLUMN_TRACE,
	COLUMNS,
};

static const struct {
	const char *name;
	double width;
	int flags;
} columns[COLUMNS] = {
        [COLUMN_SERVICE] = {"SERVICE", 7, 0},
        [COLUMN_GENERATION] = {"GEN", 3, SCOLS_FL_RIGHT},
        [COLUMN_STATE] = {"STATE", 8, 0},
        [COLUMN_SHARE] = {"SHARE", 5, SCOLS_FL_RIGHT},
        [COLUMN_CONNECTIONS] = {"CONN", 4, SCOLS_FL_RIGHT},
        [COLUMN_RATE] = {"NEW/S", 5, SCOLS_FL_RIGHT},
        [COLUMN_MEMORY] = {"MEM", 4, SCOLS_FL_RIGHT},
        [COLUMN_AGE] = {"AGE", 4, SCOLS_FL_RIGHT},
        [COLUMN_LEFT] = {"LEFT", 4, SCOLS_FL_RIGHT},
        [COLUMN_TRACE] = {"TIMELINE", 1, 0},
};

/* How a state looks in a timeline, and as a colour of libsmartcols. */
static const struct look {
	const char *state, *plain, *block, *colour;
} looks[] = {
        {"starting", ".", "\xe2\x96\x91", "yellow"}, {"ready", ".", "\xe2\x96\x91", "yellow"},
        {"canary", "c", "\xe2\x96\x93", "cyan"}, {"serving", "#", "\xe2\x96\x88", "green"},
        {"warm", "w", "\xe2\x96\x92", "blue"}, {"draining", "-", "\xe2\x96\x92", "yellow"},
        {"stopping", "-", "\xe2\x96\x91", "yellow"}, {"failed", "x", "x", "red"},
        {"", "?", "?", NULL}, /* any other */
};

/* What one generation did. */
struct trace {
	char service[CONFIG_MAX_NAME];
	json_int_t generation;
	const struct look *places[TRACE]; /* the oldest first; NULL: it was not there */
	time_t newest;                    /* of the last one, in units of TRACE_SECONDS */
	time_t counted;                   /* when `sent` was read */
	json_int_t sent;
	double rate; /* negative: unknown */
	bool seen;   /* in the present status */
};

struct top {
	size_t places; /* of a timeline that there is room for */
	struct trace traces[MAX_TRACES];
	size_t n;
	bool utf8, colour;
};

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const struct look *look_of(const char *state)
{
	const struct look *l = looks;

	while (*l->state && strcmp(l->state, state))
		l++;
	return l;
}

/* NULL: too many. A new one was serving, as far as we know, since it started. */
static struct trace *find_trace(struct top *top, const char *service, const json_t *g, time_t now)
{
	struct trace *t = top->traces;
	time_t started = now;

	for (; t < top->traces + top->n; t++)
		if (t->generation == number(g, "id") && !strcmp(t->service, service))
			return t;
	if (top->n == MAX_TRACES)
		return NULL;
	top->n++;
	*t = (struct trace){.generation = number(g, "id"), .rate = -1};
	(void)copy_string(t->service, sizeof t->service, service);
	(void)read_time(member(g, "started"), &started);
	t->newest = now / TRACE_SECONDS;
	for (size_t i = 0; i < TRACE; i++)
		if (t->newest - (time_t)(TRACE - 1 - i) >= started / TRACE_SECONDS)
			t->places[i] = look_of("serving");
	return t;
}

static void advance(struct trace *t, const json_t *g, time_t now)
{
	const json_t *sent = json_object_get(g, "sent");
	const time_t at = now / TRACE_SECONDS;

	if (at - t->newest > TRACE)
		t->newest = at - TRACE;
	/* The last place stays what it was, until more is known. */
	for (; t->newest < at; t->newest++)
		memmove(t->places, t->places + 1, (TRACE - 1) * sizeof(t->places[0]));
	t->places[TRACE - 1] = look_of(member(g, "state"));
	t->seen = true;
	if (!json_is_integer(sent) || now == t->counted)
		return;
	if (t->counted && now > t->counted)
		t->rate = (double)(json_integer_value(sent) - t->sent) / (double)(now - t->counted);
	t->counted = now;
	t->sent = json_integer_value(sent);
}

static void forget_gone(struct top *top)
{
	size_t kept = 0;

	for (size_t i = 0; i < top->n; i++) {
		if (!top->traces[i].seen)
			continue;
		top->traces[kept] = top->traces[i];
		top->traces[kept++].seen = false;
	}
	top->n = kept;
}

static void set(struct libscols_line *line, enum column c, const char *text)
{
	if (line)
		(void)scols_line_set_data(line, c, text);
}

/* Cut with a + as ps(1) does it; names are ASCII. */
static void set_service(struct libscols_line *line, const char *name)
{
	char text[NAME_SHOWN + 2];
	struct text t = TEXT_ON(text);

	text_add(&t, "%.*s%s", NAME_SHOWN, name, strlen(name) > NAME_SHOWN ? "+" : "");
	set(line, COLUMN_SERVICE, text);
}

static void add_count(struct text *t, double n)
{
	if (n < 10000)
		text_add(t, "%.0f", n);
	else if (n < 1e6)
		text_add(t, "%.0fk", n / 1e3);
	else
		text_add(t, "%.0fM", n / 1e6);
}

static uint64_t generation_memory(const json_t *g)
{
	uint64_t sum = 0;
	json_t *w;
	size_t i;

	json_array_foreach(json_object_get(g, "workers"), i, w)
	{
		if (number(w, "pid") > 0)
			sum += tree_memory((pid_t)number(w, "pid"));
	}
	return sum;
}

static void set_numbers(struct libscols_line *line, const json_t *g, time_t now)
{
	static const char *const ends[] = {"promote_in", "baked_in", "drains_in"};
	const json_t *drain = json_object_get(g, "drain");
	char text[32];
	struct text t;
	uint64_t memory = generation_memory(g);
	time_t started;

	t = TEXT_ON(text);
	text_add(&t, "%.4g%%", json_number_value(json_object_get(g, "share")));
	set(line, COLUMN_SHARE, text);
	t = TEXT_ON(text);
	if (json_is_integer(json_object_get(g, "in_flight")))
		add_count(&t, (double)number(g, "in_flight"));
	else
		text_add(&t, "-");
	set(line, COLUMN_CONNECTIONS, text);
	t = TEXT_ON(text);
	if (memory)
		add_bytes(&t, (double)memory);
	else
		text_add(&t, "-");
	set(line, COLUMN_MEMORY, text);
	if (read_time(member(g, "started"), &started)) {
		_cleanup_json_ json_t *age = json_real((double)(now - started));

		t = TEXT_ON(text);
		add_duration(&t, age);
		set(line, COLUMN_AGE, text);
	}
	t = TEXT_ON(text);
	if (json_is_object(drain))
		add_duration(&t, json_object_get(drain, "deadline_in"));
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		if (json_is_number(json_object_get(g, ends[i])))
			add_duration(&t, json_object_get(g, ends[i]));
	if (t.len)
		set(line, COLUMN_LEFT, text);
}

static void set_trace(struct libscols_line *line, const struct top *top, const struct trace *trace)
{
	char text[TRACE * 4];
	struct text t = TEXT_ON(text);

	for (size_t i = TRACE - top->places; i < TRACE; i++) {
		const struct look *l = trace->places[i];

		text_add(&t, "%s", !l ? " " : top->utf8 ? l->block : l->plain);
	}
	set(line, COLUMN_TRACE, text);
	t = TEXT_ON(text);
	if (trace->rate >= 0)
		add_count(&t, trace->rate);
	else
		text_add(&t, "-");
	set(line, COLUMN_RATE, text);
}

static void add_generation(struct libscols_table *table, struct top *top, const json_t *service,
        size_t i, const json_t *g, time_t now)
{
	struct libscols_line *line = scols_table_new_line(table, NULL);
	struct trace *trace = find_trace(top, member(service, "name"), g, now);
	char id[24];
	struct text t = TEXT_ON(id);

	text_add(&t, "%" JSON_INTEGER_FORMAT, number(g, "id"));
	set_service(line, i ? "" : member(service, "name"));
	set(line, COLUMN_GENERATION, id);
	set(line, COLUMN_STATE, member(g, "state"));
	set_numbers(line, g, now);
	if (line && top->colour && look_of(member(g, "state"))->colour)
		(void)scols_cell_set_color(scols_line_get_cell(line, COLUMN_STATE),
		        look_of(member(g, "state"))->colour);
	if (!trace)
		return;
	advance(trace, g, now);
	if (line)
		set_trace(line, top, trace);
}

static void add_service(
        struct libscols_table *table, struct top *top, const json_t *service, time_t now)
{
	json_t *generations = json_object_get(service, "generations"), *g;
	struct libscols_line *line;
	size_t i;

	json_array_foreach(generations, i, g) add_generation(table, top, service, i, g, now);
	if (json_array_size(generations))
		return;
	line = scols_table_new_line(table, NULL);
	set_service(line, member(service, "name"));
	set(line, COLUMN_STATE, member(service, "state"));
}

static void print_head(FILE *f, const json_t *status, unsigned width)
{
	char line[512];
	struct text t = TEXT_ON(line);

	text_add(&t, "handoffd %s  %s  %s  steering %s  ", member(status, "handoffd"),
	        member(status, "state"), member(status, "environment"), member(status, "steering"));
	add_local_time(&t, member(status, "time"));
	text_add(&t, "  (q quits)");
	put_text(f, line, width);
	(void)fputc('\n', f);
	if (*member(status, "config_error")) {
		put_text(f, "the last configuration was refused; `handoffctl status` tells why",
		        width);
		(void)fputc('\n', f);
	}
	(void)fputc('\n', f);
}

static struct libscols_table *new_table(const struct top *top, unsigned width)
{
	struct libscols_table *table = scols_new_table();
	bool good = table;

	for (size_t i = 0; good && i < COLUMNS; i++)
		good = scols_table_new_column(
		        table, columns[i].name, columns[i].width, columns[i].flags);
	if (!good) {
		scols_unref_table(table);
		return NULL;
	}
	(void)scols_table_set_termforce(table, SCOLS_TERMFORCE_ALWAYS);
	(void)scols_table_set_termwidth(table, width);
	(void)scols_table_enable_colors(table, top->colour);
	return table;
}

static int draw(void *data, FILE *f, json_t *status, unsigned width)
{
	struct top *top = data;
	unsigned room = width > OTHER_COLUMNS ? width - OTHER_COLUMNS : 1;
	struct libscols_table *table = new_table(top, width);
	char *text = NULL;
	time_t now = time(NULL);
	json_t *service;
	size_t i;

	if (!table)
		return complain(CODE_FAILED, "memory is short");
	top->places = room < TRACE ? room : TRACE;
	(void)read_time(member(status, "time"), &now);
	json_array_foreach(json_object_get(status, "services"), i, service)
	        add_service(table, top, service, now);
	forget_gone(top);
	print_head(f, status, width);
	(void)scols_print_table_to_string(table, &text);
	if (text)
		(void)fputs(text, f);
	free(text);
	scols_unref_table(table);
	return 0;
}

int command_top(struct ctl *ctl)
{
	struct top *top = calloc(1, sizeof *top);
	int r;

	if (!top)
		return complain(CODE_FAILED, "memory is short");
	top->utf8 = wants_utf8();
	top->colour = wants_colour();
	r = watch(ctl, true, draw, top);
	free(top);
	return r;
}
