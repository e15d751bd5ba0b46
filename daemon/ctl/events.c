/* SPDX-License-Identifier: MIT */
/* What happened, and what workers wrote. */
#include "ctl/ctl.h"
#include "wire/interface.h"

#define FOLLOW_FROM 10 /* lines, as journalctl and tail do */

int command_events(struct ctl *ctl)
{
	json_t *parameters = json_pack("{s:b}", "follow", (int)ctl->follow);
	struct client c;
	bool more = true;
	int r = client_open(&c, ctl);

	if (r) {
		json_decref(parameters);
		return r;
	}
	if (parameters && (ctl->lines_set || ctl->follow))
		(void)json_object_set_new(parameters, "lines",
		        json_integer(ctl->lines_set ? (json_int_t)ctl->lines : FOLLOW_FROM));
	r = client_send(&c, INTERFACE_MANAGER ".Events", parameters, true);
	while (!r && more && !ferror(stdout)) {
		_cleanup_json_ json_t *reply = NULL;
		json_t *event;
		size_t i;

		r = client_receive(&c, &reply, &more, NULL);
		if (r)
			break;
		json_array_foreach(json_object_get(reply, "events"), i, event) put_json(event);
	}
	client_close(&c);
	return r;
}

/* Whose lines were printed last. */
struct source {
	json_int_t generation, worker, pid;
};

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static void print_head(const json_t *worker)
{
	(void)printf("generation %" JSON_INTEGER_FORMAT "  worker %" JSON_INTEGER_FORMAT
	             "  pid %" JSON_INTEGER_FORMAT "  ",
	        number(worker, "generation"), number(worker, "worker"), number(worker, "pid"));
	put_lines(stdout, "", member(worker, "state"));
}

static void print_worker(const struct ctl *ctl, const json_t *worker, struct source *last)
{
	struct source now = {
	        number(worker, "generation"), number(worker, "worker"), number(worker, "pid")};
	json_t *lines = json_object_get(worker, "lines"), *line;
	size_t n = json_array_size(lines), i;

	if (now.generation != last->generation || now.worker != last->worker ||
	        now.pid != last->pid)
		print_head(worker);
	*last = now;
	json_array_foreach(lines, i, line)
	{
		if (ctl->lines_set && n - i > ctl->lines)
			continue;
		(void)fputs("  ", stdout);
		put_text(stdout, json_string_value(line) ? json_string_value(line) : "", 0);
		(void)fputc('\n', stdout);
	}
}

int command_logs(struct ctl *ctl)
{
	json_t *parameters = json_pack("{s:o, s:b}", "service", wire_string(ctl->arguments[0]),
	        "follow", (int)ctl->follow);
	struct source last = {-1, -1, -1};
	struct client c;
	bool more = true;
	int r = client_open(&c, ctl);

	if (r) {
		json_decref(parameters);
		return r;
	}
	r = client_send(&c, INTERFACE_MANAGER ".Logs", parameters, ctl->follow);
	while (!r && more && !ferror(stdout)) {
		_cleanup_json_ json_t *reply = NULL;
		json_t *worker;
		size_t i;

		r = client_receive(&c, &reply, &more, NULL);
		if (r)
			break;
		if (ctl->json)
			put_json(reply);
		json_array_foreach(json_object_get(reply, "workers"), i, worker)
		{
			if (!ctl->json)
				print_worker(ctl, worker, &last);
		}
		(void)fflush(stdout);
	}
	client_close(&c);
	return r;
}
