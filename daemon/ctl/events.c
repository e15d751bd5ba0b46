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

int command_logs(struct ctl *ctl)
{
	json_t *parameters = json_pack("{s:o}", "service", wire_string(ctl->arguments[0]));
	_cleanup_json_ json_t *reply = NULL;
	json_t *worker, *line;
	size_t i, k;
	int r = client_ask(ctl, INTERFACE_MANAGER ".Logs", parameters, &reply);

	if (r)
		return r;
	if (ctl->json) {
		put_json(reply);
		return 0;
	}
	json_array_foreach(json_object_get(reply, "workers"), i, worker)
	{
		(void)printf("generation %" JSON_INTEGER_FORMAT "  worker %" JSON_INTEGER_FORMAT
		             "  pid %" JSON_INTEGER_FORMAT "  ",
		        json_integer_value(json_object_get(worker, "generation")),
		        json_integer_value(json_object_get(worker, "worker")),
		        json_integer_value(json_object_get(worker, "pid")));
		put_lines(stdout, "", member(worker, "state"));
		json_array_foreach(json_object_get(worker, "lines"), k, line)
		{
			(void)fputs("  ", stdout);
			put_text(stdout, json_string_value(line) ? json_string_value(line) : "", 0);
			(void)fputc('\n', stdout);
		}
	}
	return 0;
}
