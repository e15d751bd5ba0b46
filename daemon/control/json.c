/* SPDX-License-Identifier: MIT */
#include "control/json.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "wire/wire.h"

json_t *time_to_json(usec_t realtime)
{
	time_t seconds = (time_t)(realtime / USEC_PER_SEC);
	struct tm tm;
	char text[64];

	if (!gmtime_r(&seconds, &tm))
		return json_null();
	(void)snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900,
	        tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
	        (unsigned)(realtime / USEC_PER_MSEC % 1000));
	return json_string(text);
}

json_t *duration_to_json(usec_t duration)
{
	if (duration == USEC_INFINITY)
		return json_null();
	return json_real((double)(duration / USEC_PER_MSEC) / 1000.0);
}

static json_t *generation_to_json(uint32_t generation, bool zeroth)
{
	return generation || zeroth ? json_integer(generation) : json_null();
}

/* Adds a member that belongs to this event only. */
static int add(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new_nocheck(object, key, value);
}

json_t *record_to_json(const struct record *r, usec_t realtime)
{
	json_t *j = json_pack("{s:o, s:s, s:o, s:o, s:o, s:o}", "time", time_to_json(realtime),
	        "event", record_type_to_string(r->type), "service", wire_string(r->service),
	        "generation", generation_to_json(r->generation, r->zeroth), "worker",
	        r->worker < 0 ? json_null() : json_integer(r->worker), "text",
	        wire_string(r->text));
	int failed = 0;

	if (!j)
		return NULL;
	if (r->pid > 0)
		failed |= add(j, "pid", json_integer(r->pid));
	if (r->release)
		failed |= add(j, "release", wire_string(r->release));
	if (r->has_connections)
		failed |= add(j, "connections", json_integer((json_int_t)r->connections));
	if (r->duration != USEC_INFINITY)
		failed |= add(j, "duration", duration_to_json(r->duration));
	if (r->exit_code >= 0)
		failed |= add(j, "exit_code", json_integer(r->exit_code));
	if (r->exit_signal >= 0)
		failed |= add(j, "exit_signal", json_integer(r->exit_signal));
	if (failed) {
		json_decref(j);
		return NULL;
	}
	return j;
}

/* Whole lines; the last one may lack its newline. */
static json_t *lines_to_json(const char *text)
{
	json_t *list = json_array();

	while (list && *text) {
		size_t n = strcspn(text, "\n");

		if (json_array_append_new(list, wire_text(text, n))) {
			json_decref(list);
			return NULL;
		}
		text += n + (text[n] == '\n');
	}
	return list;
}

json_t *logs_to_json(const char *service, const struct control_log *logs, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < n; i++) {
		const struct control_log *l = &logs[i];
		json_t *log = json_pack("{s:I, s:I, s:i, s:s, s:o}", "generation",
		        (json_int_t)l->generation, "worker", (json_int_t)l->worker, "pid", l->pid,
		        "state", l->state, "lines", lines_to_json(l->text));

		if (json_array_append_new(list, log)) {
			json_decref(list);
			list = NULL;
		}
	}
	return json_pack(
	        "{s:i, s:o, s:o}", "version", 1, "service", wire_string(service), "workers", list);
}

json_t *connection_to_json(const struct control_connection *c)
{
	return json_pack("{s:I, s:o, s:o, s:s, s:o, s:o, s:I, s:I, s:o, s:o}", "generation",
	        (json_int_t)c->generation, "listener", wire_string(c->listener), "peer",
	        wire_string(c->peer), "state", c->state, "age", duration_to_json(c->age), "idle",
	        duration_to_json(c->idle), "queued_in", (json_int_t)c->queued_in, "queued_out",
	        (json_int_t)c->queued_out, "worker",
	        c->worker < 0 ? json_null() : json_integer(c->worker), "pid",
	        c->pid ? json_integer(c->pid) : json_null());
}

json_t *result_to_json(const struct result *r)
{
	json_t *j = json_pack("{s:o, s:s, s:o, s:o, s:i, s:I, s:o}", "service",
	        wire_string(r->service), "request", request_kind_to_string(r->request),
	        "generation", generation_to_json(r->generation, false), "outcome",
	        wire_string(r->outcome), "exit_code", (int)r->code, "cut", (json_int_t)r->cut,
	        "text", wire_string(r->text));

	if (j && r->release_link)
		(void)json_object_set_new(j, "release_link", wire_string(r->release_link));
	return j;
}

json_t *results_to_json(const struct result *results, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < n; i++) {
		if (json_array_append_new(list, result_to_json(&results[i]))) {
			json_decref(list);
			list = NULL;
		}
	}
	return list;
}
