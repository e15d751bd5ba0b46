/* SPDX-License-Identifier: MIT */
/* The state of everything as aligned text, or the document as it came. */
#include <string.h>

#include "ctl/ctl.h"
#include "wire/interface.h"

struct out {
	FILE *f;
	char line[2048];
	struct text t;
	unsigned columns; /* of a terminal; longer lines are cut there */
};

static struct text *begin(struct out *o)
{
	o->t = TEXT_ON(o->line);
	return &o->t;
}

static void end(struct out *o)
{
	put_text(o->f, o->line, o->columns);
	(void)fputc('\n', o->f);
}

/* Nothing of it is cut off: it is broken between words. */
static void end_wrapped(struct out *o)
{
	const unsigned indent = 8;
	unsigned room = o->columns;
	char *at = o->line;

	while (o->columns > 2 * indent && text_columns(at) > room) {
		size_t n = text_fitting(at, room);
		char *blank = memrchr(at, ' ', n);

		if (blank && blank > at && text_columns(at) - text_columns(blank) > indent) {
			*blank = '\0';
			n = (size_t)(blank + 1 - at);
		}
		put_text(o->f, at, room);
		(void)fprintf(o->f, "\n%*s", (int)indent, "");
		at += n;
		room = o->columns - indent;
	}
	put_text(o->f, at, 0);
	(void)fputc('\n', o->f);
}

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

/* "in flight" of workers and generations; nothing when it is not known. */
static void add_in_flight(struct text *t, const json_t *object)
{
	if (json_is_integer(json_object_get(object, "in_flight")))
		text_add(t, "  %" JSON_INTEGER_FORMAT " in flight", number(object, "in_flight"));
	if (number(object, "requests"))
		text_add(t, "  %" JSON_INTEGER_FORMAT " requests", number(object, "requests"));
}

static void add_time(struct text *t, const char *before, const json_t *j)
{
	if (!json_is_number(j))
		return;
	text_add(t, "  %s ", before);
	add_duration(t, j);
}

static void print_worker(struct out *o, const json_t *w)
{
	struct text *t = begin(o);

	text_add(t, "     worker %" JSON_INTEGER_FORMAT, number(w, "index"));
	if (json_is_integer(json_object_get(w, "pid")))
		text_add(t, "  pid %" JSON_INTEGER_FORMAT, number(w, "pid"));
	text_add(t, "  %s", member(w, "state"));
	add_in_flight(t, w);
	if (number(w, "restarts"))
		text_add(t, "  %" JSON_INTEGER_FORMAT " restart%s", number(w, "restarts"),
		        number(w, "restarts") == 1 ? "" : "s");
	if (*member(w, "status"))
		text_add(t, "  %s", member(w, "status"));
	end(o);
	if (!*member(w, "last_exit") ||
	        (!number(w, "restarts") && strcmp(member(w, "state"), "starting") != 0))
		return;
	t = begin(o);
	text_add(t, "       the one before %s", member(w, "last_exit"));
	end_wrapped(o);
}

static void print_generation(struct out *o, const json_t *g)
{
	json_t *drain = json_object_get(g, "drain"), *worker;
	struct text *t = begin(o);
	size_t i;

	text_add(t, "  %-2" JSON_INTEGER_FORMAT " %-8s  %4.4g%%", number(g, "id"),
	        member(g, "state"), json_number_value(json_object_get(g, "share")));
	add_in_flight(t, g);
	if (!strcmp(member(g, "state"), "canary")) {
		if (json_is_number(json_object_get(g, "share_observed")))
			text_add(t, "  observed %.4g%%",
			        json_number_value(json_object_get(g, "share_observed")));
		add_time(t, "promoted in", json_object_get(g, "promote_in"));
	}
	add_time(t, "watched for", json_object_get(g, "baked_in"));
	add_time(t, "warm for", json_object_get(g, "drains_in"));
	if (json_is_object(drain)) {
		add_time(t, "oldest", json_object_get(drain, "oldest"));
		add_time(t, "deadline in", json_object_get(drain, "deadline_in"));
	} else {
		text_add(t, "  since ");
		add_local_time(t, member(g, "started"));
	}
	if (*member(g, "release"))
		text_add(t, "  %s", member(g, "release"));
	end(o);
	if (*member(g, "reason"))
		put_lines(o->f, "     ", member(g, "reason"));
	json_array_foreach(json_object_get(g, "workers"), i, worker) print_worker(o, worker);
}

/* The first line of the text is the cause; `--json` has all of it. */
static void print_last(struct out *o, const json_t *last)
{
	const char *text = member(last, "text");
	size_t n = strcspn(text, "\n");
	struct text *t;

	if (!json_is_object(last))
		return;
	t = begin(o);
	text_add(t, "  last: %s ->", member(last, "request"));
	if (json_is_integer(json_object_get(last, "generation")))
		text_add(t, " generation %" JSON_INTEGER_FORMAT, number(last, "generation"));
	text_add(t, " %s (%" JSON_INTEGER_FORMAT ")", member(last, "outcome"),
	        number(last, "exit_code"));
	if (number(last, "exit_code") && *text) {
		text_add(t, ": ");
		text_add_bytes(t, text, n - (n && text[n] && text[n - 1] == ':'));
	}
	end_wrapped(o);
}

static void print_service(struct out *o, const json_t *s)
{
	struct text *t = begin(o);
	json_t *item;
	size_t i;

	text_add(t, "%s  %s", member(s, "name"), member(s, "state"));
	if (json_is_integer(json_object_get(s, "generation")))
		text_add(t, "  generation %" JSON_INTEGER_FORMAT, number(s, "generation"));
	if (json_is_true(json_object_get(s, "reloading")))
		text_add(t, "  reloading");
	end(o);
	json_array_foreach(json_object_get(s, "listeners"), i, item)
	{
		t = begin(o);
		text_add(t, "  %s  %s", member(item, "name"), member(item, "address"));
		if (member(item, "form")[0] &&
		        strcmp(member(item, "form"), member(item, "address")))
			text_add(t, " as %s", member(item, "form"));
		text_add(t, "  %s  queue %" JSON_INTEGER_FORMAT "/%" JSON_INTEGER_FORMAT,
		        member(item, "steering"), number(item, "queue"), number(item, "backlog"));
		if (strcmp(member(item, "origin"), "bound"))
			text_add(t, "  %s", member(item, "origin"));
		if (!strcmp(member(item, "rescue"), "none"))
			text_add(t, "  no rescue");
		end(o);
	}
	json_array_foreach(json_object_get(s, "generations"), i, item) print_generation(o, item);
	print_last(o, json_object_get(s, "last_result"));
}

/* More are named without words. */
#define LOST_MAX 3

static const char *bare(const char *capability)
{
	return strncmp(capability, "cap_", 4) ? capability : capability + 4;
}

/* Root is told by what it lacks, another user by what it has. */
static void add_capabilities(struct text *t, const json_t *mode)
{
	const json_t *have = json_object_get(mode, "capabilities"),
	             *lost = json_object_get(mode, "lost"), *item;
	bool root = !strcmp(member(mode, "user"), "root"), brief = json_array_size(lost) > LOST_MAX;
	size_t i;

	if (root && lost && !json_array_size(lost))
		text_add(t, "  all rights");
	else if (!json_array_size(have))
		text_add(t, "  no capabilities");
	else if (!root)
		json_array_foreach(have, i, item)
		        text_add(t, "%s%s", i ? ", " : "  with ", bare(json_string_value(item)));
	else
		json_array_foreach(lost, i, item)
		{
			text_add(t, "%s%s", i ? ", " : "  without ",
			        bare(member(item, "capability")));
			if (!brief)
				text_add(t, " (%s)", member(item, "text"));
		}
}

/* With which rights, and what is lost for want of them. */
static void print_mode(struct out *o, const json_t *mode)
{
	struct text *t;

	if (!mode)
		return; /* of an older handoffd */
	t = begin(o);
	text_add(t, "user %s", member(mode, "user"));
	add_capabilities(t, mode);
	if (!json_is_true(json_object_get(mode, "adoption")))
		text_add(t, "  no adoption from other users");
	if (!strcmp(member(mode, "drain_watch"), "polling"))
		text_add(t, "  drains by polling");
	end(o);
}

static void print_status(FILE *f, const json_t *status, unsigned columns)
{
	struct out o = {.f = f, .columns = columns};
	struct text *t = begin(&o);
	json_t *s;
	size_t i;

	text_add(t, "handoffd %s  pid %" JSON_INTEGER_FORMAT "  %s  environment %s  steering %s",
	        member(status, "handoffd"), number(status, "pid"), member(status, "state"),
	        member(status, "environment"), member(status, "steering"));
	end(&o);
	print_mode(&o, json_object_get(status, "mode"));
	if (*member(status, "config_error")) {
		(void)fputs(
		        "the last configuration was refused, the one before it is in use:\n", f);
		put_lines(f, "  ", member(status, "config_error"));
	}
	json_array_foreach(json_object_get(status, "services"), i, s) print_service(&o, s);
}

/* As if nothing but the service were there. */
static int keep_service(json_t *status, const char *service)
{
	json_t *services = json_object_get(status, "services");

	for (size_t i = json_array_size(services); i-- > 0;)
		if (strcmp(member(json_array_get(services, i), "name"), service))
			(void)json_array_remove(services, i);
	if (!json_array_size(services))
		return complain(CODE_USAGE, "no service is named \"%s\"", service);
	return 0;
}

static int draw(void *data, FILE *f, json_t *status, unsigned columns)
{
	const struct ctl *ctl = data;
	int r = ctl->n_arguments ? keep_service(status, ctl->arguments[0]) : 0;

	if (r)
		return r;
	if (ctl->json) {
		(void)json_dumpf(status, f, JSON_REAL_PRECISION(15));
		(void)fputc('\n', f);
	} else {
		print_status(f, status, columns);
	}
	return 0;
}

int command_status(struct ctl *ctl)
{
	_cleanup_json_ json_t *reply = NULL;
	json_t *parameters;
	int r;

	if (ctl->watch)
		return watch(ctl, !ctl->json && screen_possible(), draw, ctl);
	parameters = ctl->n_arguments
	                     ? json_pack("{s:o}", "service", wire_string(ctl->arguments[0]))
	                     : json_object();
	r = client_ask(ctl, INTERFACE_MANAGER ".GetStatus", parameters, &reply);
	if (r)
		return r;
	if (!json_is_object(json_object_get(reply, "status")))
		return complain(CODE_FAILED, "handoffd answered without a status");
	return draw(ctl, stdout, json_object_get(reply, "status"), terminal_columns());
}
