/* SPDX-License-Identifier: MIT */
/* What a call means: one table of methods, the checks of their parameters, and the answers. Knows
 * nothing of sockets. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/internal.h"
#include "control/json.h"
#include "wire/interface.h"

#define MAX_TIMEOUT 1e9 /* seconds; more is for ever */

struct method {
	const char *name;
	void (*run)(struct control_call *call, const struct method *m, json_t *parameters);
	bool changes;
	bool all; /* no service named means all */
	enum request_kind kind;
	const char *const *waits; /* that may be asked for; the first one is the default */
	const char *parameters[8];
};

static void invalid(struct control_call *call, const char *parameter)
{
	call_error(call, ERROR_INVALID_PARAMETER,
	        json_pack("{s:o}", "parameter", wire_string(parameter)));
}

void control_answer_error(struct control_call *call, enum outcome_code code, const char *text)
{
	call_error(call, ERROR_FAILED,
	        json_pack("{s:i, s:o, s:[]}", "code", (int)code, "text", wire_string(text),
	                "results"));
}

/* The worst first: failures, then what is open, then what is done with losses. */
static int severity(enum outcome_code code)
{
	switch (code) {
	case CODE_DONE:
		return 0;
	case CODE_CUT:
		return 1;
	case CODE_TIMED_OUT:
	case CODE_SUPERSEDED:
		return 2;
	case CODE_FAILED:
	case CODE_USAGE:
	case CODE_GENERATION_FAILED:
	case CODE_UNREACHABLE:
	case CODE_NOT_ALLOWED:
		break;
	}
	return 3;
}

void control_answer(struct control_call *call, const struct result *results, size_t n)
{
	const struct result *worst = NULL;

	for (size_t i = 0; i < n; i++)
		if (results[i].code != CODE_DONE &&
		        (!worst || severity(results[i].code) > severity(worst->code)))
			worst = &results[i];
	if (worst)
		call_error(call, ERROR_FAILED,
		        json_pack("{s:i, s:o, s:o}", "code", (int)worst->code, "text",
		                wire_string(worst->text), "results", results_to_json(results, n)));
	else
		call_reply(call, json_pack("{s:i, s:i, s:o}", "version", 1, "exit_code",
		                         (int)CODE_DONE, "results", results_to_json(results, n)));
}

void control_answer_logs(struct control_call *call, const char *service,
        const struct control_log *logs, size_t n, bool follow)
{
	json_t *parameters = logs_to_json(service, logs, n);

	if (!follow) {
		call_reply(call, parameters);
		return;
	}
	call_continue(call, parameters);
	(void)copy_string(call->service, sizeof call->service, service);
	call_follow(call, FOLLOW_LOGS);
}

void control_answer_config(
        struct control_call *call, const char *file, const char *environment, const char *text)
{
	call_reply(call, json_pack("{s:i, s:o, s:o, s:o}", "version", 1, "file",
	                         file ? wire_string(file) : json_null(), "environment",
	                         wire_string(environment), "config", wire_string(text)));
}

void control_answer_services(struct control_call *call, const char *const *names, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		(void)json_array_append_new(list, wire_string(names[i]));
	call_reply(call, json_pack("{s:o}", "services", list));
}

void control_answer_connections(
        struct control_call *call, const struct control_connection *list, size_t n, bool last)
{
	json_t *items = json_array(), *parameters;

	for (size_t i = 0; items && i < n; i++) {
		if (json_array_append_new(items, connection_to_json(&list[i]))) {
			json_decref(items);
			items = NULL;
		}
	}
	parameters = json_pack("{s:o}", "connections", items);
	if (last)
		call_reply(call, parameters);
	else
		call_continue(call, parameters);
}

/* The getters give false when the parameter has been found wrong, and the call is answered then. */

static bool get_name(
        struct control_call *call, json_t *parameters, const char *key, const char **ret)
{
	json_t *j = json_object_get(parameters, key);
	size_t n = json_string_length(j);

	*ret = json_string_value(j);
	if (!j || json_is_null(j))
		return true;
	if (*ret && n > 0 && n < CONFIG_MAX_NAME)
		return true;
	invalid(call, key);
	return false;
}

static bool get_bool(struct control_call *call, json_t *parameters, const char *key, bool *ret)
{
	json_t *j = json_object_get(parameters, key);

	*ret = json_is_true(j);
	if (!j || json_is_null(j) || json_is_boolean(j))
		return true;
	invalid(call, key);
	return false;
}

/* Seconds; what is not there is for ever. */
static bool get_time(struct control_call *call, json_t *parameters, const char *key, usec_t *ret,
        bool *ret_there)
{
	json_t *j = json_object_get(parameters, key);
	double seconds = json_number_value(j);

	*ret = USEC_INFINITY;
	if (ret_there)
		*ret_there = j && !json_is_null(j);
	if (!j || json_is_null(j))
		return true;
	if (!json_is_number(j) || !(seconds >= 0)) {
		invalid(call, key);
		return false;
	}
	if (seconds < MAX_TIMEOUT)
		*ret = (usec_t)(seconds * (double)USEC_PER_SEC);
	return true;
}

static bool get_timeout(struct control_call *call, json_t *parameters, usec_t *ret)
{
	return get_time(call, parameters, "timeout", ret, NULL);
}

static bool get_roll(struct control_call *call, json_t *parameters, struct roll_options *ret)
{
	json_t *j = json_object_get(parameters, "canary");
	double percent = json_number_value(j);

	ret->has_canary = j && !json_is_null(j);
	if (ret->has_canary && (!json_is_number(j) || !(percent >= 0 && percent <= 100))) {
		invalid(call, "canary");
		return false;
	}
	ret->canary = (unsigned)(percent * SHARE_ALL / 100 + 0.5);
	return get_time(call, parameters, "hold", &ret->hold, &ret->has_hold) &&
	       get_time(call, parameters, "keep_warm", &ret->keep_warm, &ret->has_keep_warm);
}

static bool get_wait(struct control_call *call, const struct method *m, json_t *parameters,
        const char *key, enum wait_for *ret)
{
	json_t *j = json_object_get(parameters, key);
	const char *name = !j || json_is_null(j) ? m->waits[0] : json_string_value(j);

	for (size_t i = 0; name && m->waits[i]; i++) {
		if (strcmp(name, m->waits[i]))
			continue;
		for (*ret = WAIT_NONE; strcmp(name, wait_for_to_string(*ret)); (*ret)++)
			;
		return true;
	}
	invalid(call, key);
	return false;
}

/* The names as keys of an object: in their order, each once. */
static bool get_services(
        struct control_call *call, const struct method *m, json_t *parameters, json_t *ret_set)
{
	json_t *list = json_object_get(parameters, "services"), *item;
	size_t i;

	if (list && !json_is_null(list) && !json_is_array(list))
		goto bad;
	if (json_array_size(list) > CONFIG_MAX_SERVICES || (!m->all && !json_array_size(list)))
		goto bad;
	json_array_foreach(list, i, item)
	{
		size_t n = json_string_length(item);

		if (!n || n >= CONFIG_MAX_NAME)
			goto bad;
		if (json_object_set(ret_set, json_string_value(item), item))
			goto bad;
	}
	return true;
bad:
	invalid(call, "services");
	return false;
}

static void send_request(struct control_call *call, struct request_spec *spec)
{
	struct control *c = call->client->control;
	char cause[96];

	if (c->n_calls > CONTROL_MAX_CALLS) {
		control_answer_error(call, CODE_FAILED,
		        "handoffd has too many requests that wait; this one was not begun");
		return;
	}
	(void)snprintf(cause, sizeof cause, "a control client (uid %u, pid %d)",
	        (unsigned)call->client->peer.uid, (int)call->client->peer.pid);
	spec->cause = cause;
	spec->id = control_next_id(c);
	call->id = spec->id;
	c->handlers.request(c->handlers.data, call, spec);
}

static void run_request(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct request_spec spec = {.kind = m->kind};
	_cleanup_json_ json_t *set = json_object();
	_cleanup_free_ const char **names = NULL;
	const char *key;
	json_t *item;

	if (!get_services(call, m, parameters, set) ||
	        !get_wait(call, m, parameters, "wait", &spec.wait) ||
	        !get_roll(call, parameters, &spec.roll) ||
	        !get_timeout(call, parameters, &spec.timeout))
		return;
	names = calloc(json_object_size(set) + 1, sizeof *names);
	if (!names) {
		control_answer_error(call, CODE_FAILED, "memory is short");
		return;
	}
	json_object_foreach(set, key, item) names[spec.n_services++] = key;
	spec.services = names;
	send_request(call, &spec);
}

/* Requests for one service. */
static void run_one(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct request_spec spec = {.kind = m->kind, .n_services = 1};
	const char *service;

	if (!get_name(call, parameters, "service", &service) ||
	        !get_wait(call, m, parameters, "wait", &spec.wait) ||
	        !get_roll(call, parameters, &spec.roll) ||
	        !get_timeout(call, parameters, &spec.timeout))
		return;
	if (!service) {
		invalid(call, "service");
		return;
	}
	if (m->kind == REQUEST_DEPLOY) {
		json_t *release = json_object_get(parameters, "release");
		const char *path = json_string_value(release);

		if (!path || path[0] != '/' || json_string_length(release) >= PATH_MAX ||
		        strlen(path) != json_string_length(release)) {
			invalid(call, "release");
			return;
		}
		spec.roll.release = path;
		spec.roll.confined = !call->client->peer.may_run;
	}
	if (m->kind == REQUEST_SCALE) {
		json_t *workers = json_object_get(parameters, "workers");
		json_int_t n = json_integer_value(workers);

		if (!json_is_integer(workers) || n < 1 || n > CONFIG_MAX_WORKERS) {
			invalid(call, "workers");
			return;
		}
		spec.workers = (unsigned)n;
	}
	spec.services = &service;
	send_request(call, &spec);
}

static void run_wait(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct request_spec spec = {.kind = m->kind, .n_services = 1};
	const char *service;

	if (!get_name(call, parameters, "service", &service) ||
	        !get_wait(call, m, parameters, "for", &spec.wait) ||
	        !get_timeout(call, parameters, &spec.timeout))
		return;
	if (!service) {
		invalid(call, "service");
		return;
	}
	spec.services = &service;
	send_request(call, &spec);
}

static void run_upgrade(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct control *c = call->client->control;

	(void)m;
	(void)parameters;
	call->upgrades = true;
	c->handlers.upgrade(c->handlers.data);
}

static void run_status(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct control *c = call->client->control;
	const char *service;

	(void)m;
	if (get_name(call, parameters, "service", &service))
		c->handlers.status(c->handlers.data, call, service);
}

static void run_monitor(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct control *c = call->client->control;

	(void)m;
	(void)parameters;
	if (!call->more || call->oneway)
		call_error(call, ERROR_EXPECTED_MORE, json_object());
	else
		c->handlers.monitor(c->handlers.data, call);
}

static void run_services(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct control *c = call->client->control;

	(void)m;
	(void)parameters;
	c->handlers.services(c->handlers.data, call);
}

static void run_config(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct control *c = call->client->control;

	(void)m;
	(void)parameters;
	c->handlers.config(c->handlers.data, call);
}

static void run_logs(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct control *c = call->client->control;
	const char *service;
	bool follow;

	(void)m;
	if (!get_name(call, parameters, "service", &service) ||
	        !get_bool(call, parameters, "follow", &follow))
		return;
	if (!service)
		invalid(call, "service");
	else if (follow && (!call->more || call->oneway))
		call_error(call, ERROR_EXPECTED_MORE, json_object());
	else
		c->handlers.logs(c->handlers.data, call, service, follow);
}

static void run_connections(struct control_call *call, const struct method *m, json_t *parameters)
{
	struct control *c = call->client->control;
	json_t *j = json_object_get(parameters, "generation");
	json_int_t generation = json_integer_value(j);
	const char *service;

	(void)m;
	if (!get_name(call, parameters, "service", &service))
		return;
	if (!service)
		invalid(call, "service");
	else if (j && !json_is_null(j) &&
	         (!json_is_integer(j) || generation < 1 || generation > UINT32_MAX))
		invalid(call, "generation");
	else if (!call->more || call->oneway)
		call_error(call, ERROR_EXPECTED_MORE, json_object());
	else
		c->handlers.connections(c->handlers.data, call, service, (uint32_t)generation);
}

static void run_events(struct control_call *call, const struct method *m, json_t *parameters)
{
	json_t *lines = json_object_get(parameters, "lines");
	bool follow;

	(void)m;
	if (!get_bool(call, parameters, "follow", &follow))
		return;
	if (lines && !json_is_null(lines) &&
	        (!json_is_integer(lines) || json_integer_value(lines) < 0))
		invalid(call, "lines");
	else if (follow && !call->more)
		call_error(call, ERROR_EXPECTED_MORE, json_object());
	else
		call_events(call,
		        json_is_integer(lines) ? (size_t)json_integer_value(lines)
		                               : CONTROL_MAX_EVENTS,
		        follow);
}

static void run_info(struct control_call *call, const struct method *m, json_t *parameters)
{
	(void)m;
	(void)parameters;
	call_reply(call, json_pack("{s:s, s:s, s:s, s:s, s:[s, s]}", "vendor", "handoffd",
	                         "product", "handoffd", "version", HANDOFF_VERSION, "url", "",
	                         "interfaces", INTERFACE_SERVICE, INTERFACE_MANAGER));
}

static void run_description(struct control_call *call, const struct method *m, json_t *parameters)
{
	json_t *j = json_object_get(parameters, "interface");
	const char *name = json_string_value(j), *text;

	(void)m;
	if (!name) {
		invalid(call, "interface");
		return;
	}
	text = interface_description(name);
	if (text)
		call_reply(call, json_pack("{s:s}", "description", text));
	else
		call_error(call, ERROR_INTERFACE_NOT_FOUND, json_pack("{s:O}", "interface", j));
}

static const char *const reload_waits[] = {"serving", "drained", "none", NULL};
static const char *const stop_waits[] = {"drained", "none", NULL};
static const char *const start_waits[] = {"serving", "none", NULL};
static const char *const wait_waits[] = {"serving", "drained", NULL};

/* clang-format off */
static const struct method methods[] = {
	{.name = INTERFACE_MANAGER ".GetStatus", .run = run_status, .parameters = {"service"}},
	{.name = INTERFACE_MANAGER ".Monitor", .run = run_monitor},
	{.name = INTERFACE_MANAGER ".ListServices", .run = run_services},
	{.name = INTERFACE_MANAGER ".Reload", .run = run_request, .changes = true, .all = true,
		.kind = REQUEST_RELOAD, .waits = reload_waits,
		.parameters = {"services", "wait", "timeout", "canary", "hold", "keep_warm"}},
	{.name = INTERFACE_MANAGER ".Deploy", .run = run_one, .changes = true,
		.kind = REQUEST_DEPLOY, .waits = reload_waits,
		.parameters = {"service", "release", "wait", "timeout", "canary", "hold", "keep_warm"}},
	{.name = INTERFACE_MANAGER ".Promote", .run = run_one, .changes = true,
		.kind = REQUEST_PROMOTE, .waits = reload_waits,
		.parameters = {"service", "wait", "timeout", "canary", "hold"}},
	{.name = INTERFACE_MANAGER ".Scale", .run = run_one, .changes = true,
		.kind = REQUEST_SCALE, .waits = start_waits,
		.parameters = {"service", "workers", "wait", "timeout"}},
	{.name = INTERFACE_MANAGER ".Abort", .run = run_one, .changes = true,
		.kind = REQUEST_ABORT, .waits = reload_waits, .parameters = {"service", "wait", "timeout"}},
	{.name = INTERFACE_MANAGER ".Rollback", .run = run_one, .changes = true,
		.kind = REQUEST_ROLLBACK, .waits = reload_waits, .parameters = {"service", "wait", "timeout"}},
	{.name = INTERFACE_MANAGER ".Stop", .run = run_request, .changes = true,
		.kind = REQUEST_STOP, .waits = stop_waits, .parameters = {"services", "wait", "timeout"}},
	{.name = INTERFACE_MANAGER ".Start", .run = run_request, .changes = true,
		.kind = REQUEST_START, .waits = start_waits, .parameters = {"services", "wait", "timeout"}},
	{.name = INTERFACE_MANAGER ".Restart", .run = run_request, .changes = true,
		.kind = REQUEST_RESTART, .waits = start_waits, .parameters = {"services", "wait", "timeout"}},
	{.name = INTERFACE_MANAGER ".Wait", .run = run_wait, .kind = REQUEST_WAIT,
		.waits = wait_waits, .parameters = {"service", "for", "timeout"}},
	{.name = INTERFACE_MANAGER ".Shutdown", .run = run_request, .changes = true, .all = true,
		.kind = REQUEST_SHUTDOWN, .waits = stop_waits, .parameters = {"timeout"}},
	{.name = INTERFACE_MANAGER ".Upgrade", .run = run_upgrade, .changes = true},
	/* changes nothing, but what it tells may be secret */
	{.name = INTERFACE_MANAGER ".GetConfig", .run = run_config, .changes = true},
	{.name = INTERFACE_MANAGER ".Events", .run = run_events, .parameters = {"follow", "lines"}},
	{.name = INTERFACE_MANAGER ".Connections", .run = run_connections,
		.parameters = {"service", "generation"}},
	{.name = INTERFACE_MANAGER ".Logs", .run = run_logs, .parameters = {"service", "follow"}},
	{.name = INTERFACE_SERVICE ".GetInfo", .run = run_info},
	{.name = INTERFACE_SERVICE ".GetInterfaceDescription", .run = run_description,
		.parameters = {"interface"}},
};
/* clang-format on */

bool message_overlaps(const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "method"));

	return name && !strcmp(name, INTERFACE_MANAGER ".Reload") &&
	       !json_is_true(json_object_get(message, "more"));
}

/* The interface is what stands before the last dot. */
static void not_found(struct control_call *call, const char *name)
{
	const char *dot = strrchr(name, '.');
	size_t n = dot ? (size_t)(dot - name) : strlen(name);

	if ((n == strlen(INTERFACE_MANAGER) && !strncmp(name, INTERFACE_MANAGER, n)) ||
	        (n == strlen(INTERFACE_SERVICE) && !strncmp(name, INTERFACE_SERVICE, n)))
		call_error(call, ERROR_METHOD_NOT_FOUND,
		        json_pack("{s:o}", "method", wire_string(name)));
	else
		call_error(call, ERROR_INTERFACE_NOT_FOUND,
		        json_pack("{s:o}", "interface", wire_text(name, n)));
}

/* The first key of `object` that is not in the list; NULL: none. */
static const char *unknown_key(json_t *object, const char *const *known, size_t n_known)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		size_t i = 0;

		while (i < n_known && known[i] && strcmp(key, known[i]))
			i++;
		if (i == n_known || !known[i])
			return key;
	}
	return NULL;
}

static bool read_envelope(
        struct control_call *call, json_t *message, const char **ret_name, json_t **ret_parameters)
{
	static const char *const known[] = {"method", "parameters", "more", "oneway"};
	json_t *parameters = json_object_get(message, "parameters");
	const char *key = unknown_key(message, known, ARRAY_SIZE(known));

	/* First, so that even errors are not sent to one who wants no answer. */
	if (!get_bool(call, message, "oneway", &call->oneway) ||
	        !get_bool(call, message, "more", &call->more))
		return false;
	*ret_name = json_string_value(json_object_get(message, "method"));
	*ret_parameters = json_is_null(parameters) ? NULL : parameters;
	if (key)
		invalid(call, key);
	else if (!*ret_name)
		invalid(call, "method");
	else if (*ret_parameters && !json_is_object(parameters))
		invalid(call, "parameters");
	else
		return true;
	return false;
}

void call_run(struct control_call *call, json_t *message)
{
	struct client *k = call->client;
	struct control_handlers *h = &k->control->handlers;
	const struct method *m = methods;
	const char *name, *key;
	json_t *parameters;

	if (!read_envelope(call, message, &name, &parameters))
		return;
	while (m < methods + ARRAY_SIZE(methods) && strcmp(m->name, name))
		m++;
	if (m == methods + ARRAY_SIZE(methods)) {
		not_found(call, name);
		return;
	}
	key = unknown_key(parameters, m->parameters, ARRAY_SIZE(m->parameters));
	if (key) {
		invalid(call, key);
		return;
	}
	if (m->changes && !k->peer.may_change) {
		static const char why[] =
		        "not allowed: changing is for root, the user of handoffd and "
		        "the members of its control-group";

		h->refused(h->data, k->peer.uid, k->peer.pid, name, why);
		control_answer_error(call, CODE_NOT_ALLOWED, why);
		return;
	}
	call->overlaps = message_overlaps(message);
	m->run(call, m, parameters);
}
