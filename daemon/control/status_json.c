/* SPDX-License-Identifier: MIT */
/* The document of `handoffctl --json status`, version 1. */
#include "control/json.h"
#include "core/capability.h"
#include "wire/wire.h"

#define STATUS_VERSION 1

/* A list of `n` items, each made by `make` from its place in an array of items of `size` bytes. */
static json_t *list_to_json(const void *items, size_t n, size_t size,
        json_t *(*make)(const void *item, usec_t offset), usec_t offset)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < n; i++) {
		if (json_array_append_new(list, make((const char *)items + i * size, offset))) {
			json_decref(list);
			list = NULL;
		}
	}
	return list;
}

static json_t *count_to_json(uint64_t count, bool known)
{
	return known ? json_integer((json_int_t)count) : json_null();
}

/* `offset` added to a monotonic time gives the wall clock; the sum may wrap on the way. */
static json_t *worker_to_json(const void *item, usec_t offset)
{
	const struct view_worker *w = item;

	return json_pack("{s:i, s:o, s:s, s:o, s:o, s:i, s:o, s:o, s:o, s:o}", "index",
	        (int)w->index, "pid", w->pid ? json_integer(w->pid) : json_null(), "state",
	        w->state, "in_flight", count_to_json(w->in_flight, w->in_flight_known), "started",
	        time_to_json(w->started + offset), "restarts", (int)w->restarts, "status",
	        wire_string(w->status ? w->status : ""), "busy",
	        count_to_json(w->busy, w->in_flight_known), "requests",
	        count_to_json(w->requests, w->in_flight_known), "last_exit",
	        wire_string(w->ended ? w->ended : ""));
}

static json_t *drain_to_json(const struct view_generation *g)
{
	bool none = g->in_flight_known && !g->in_flight;

	if (!g->drain_by)
		return json_null();
	return json_pack("{s:s, s:o, s:o}", "by", g->drain_by, "deadline_in",
	        duration_to_json(g->deadline_in), "oldest",
	        none ? json_null() : duration_to_json(g->oldest));
}

static json_t *view_generation_to_json(const void *item, usec_t offset)
{
	const struct view_generation *g = item;

	return json_pack(
	        "{s:I, s:s, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
	        "id", (json_int_t)g->id, "state", g->state, "share", g->share / (SHARE_ALL / 100.0),
	        "share_observed", g->observed < 0 ? json_null() : json_real(g->observed), "sent",
	        count_to_json(g->sent, g->sent_known), "promote_in",
	        duration_to_json(g->promote_in), "release", wire_string(g->release), "started",
	        time_to_json(g->started + offset), "in_flight",
	        count_to_json(g->in_flight, g->in_flight_known), "drain", drain_to_json(g),
	        "reason", wire_string(g->reason ? g->reason : ""), "workers",
	        list_to_json(g->workers, g->n_workers, sizeof *g->workers, worker_to_json, offset),
	        "requests", count_to_json(g->requests, g->requests_known), "memory",
	        count_to_json(g->memory, g->memory > 0), "baked_in", duration_to_json(g->baked_in),
	        "drains_in", duration_to_json(g->drains_in));
}

static json_t *listener_to_json(const void *item, usec_t offset)
{
	const struct view_listener *l = item;

	(void)offset;
	return json_pack("{s:o, s:o, s:o, s:s, s:s, s:s, s:I, s:I}", "name", wire_string(l->name),
	        "address", wire_string(l->address), "form", wire_string(l->form), "steering",
	        l->steering, "origin", l->origin, "rescue", l->rescue, "queue",
	        (json_int_t)l->queue, "backlog", (json_int_t)l->backlog);
}

static json_t *service_to_json(const void *item, usec_t offset)
{
	const struct view_service *s = item;

	return json_pack("{s:o, s:s, s:o, s:b, s:o, s:o, s:o}", "name", wire_string(s->name),
	        "state", s->state, "generation",
	        s->generation || s->zeroth ? json_integer(s->generation) : json_null(), "reloading",
	        s->reloading, "last_result",
	        s->last_result ? result_to_json(s->last_result) : json_null(), "listeners",
	        list_to_json(s->listeners, s->n_listeners, sizeof *s->listeners, listener_to_json,
	                offset),
	        "generations",
	        list_to_json(s->generations, s->n_generations, sizeof *s->generations,
	                view_generation_to_json, offset));
}

static json_t *mode_to_json(const struct view_mode *m, const char *steering)
{
	const uint64_t lacking = capabilities_lost(m->capabilities);
	json_t *capabilities = json_array(), *lost = json_array();

	for (unsigned i = 0; capability_name(i); i++) {
		json_t *name = json_sprintf("cap_%s", capability_name(i));

		if (m->capabilities >> i & 1)
			(void)json_array_append_new(capabilities, name);
		else if (lacking >> i & 1)
			(void)json_array_append_new(
			        lost, json_pack("{s:o, s:s}", "capability", name, "text",
			                      capability_lost(i)));
		else
			json_decref(name);
	}
	return json_pack("{s:o, s:o, s:o, s:s, s:b, s:s}", "user", wire_string(m->user),
	        "capabilities", capabilities, "lost", lost, "steering", steering, "adoption",
	        m->adoption, "drain_watch", m->by_events ? "events" : "polling");
}

json_t *status_to_json(const struct view *v, usec_t realtime)
{
	usec_t offset = realtime - v->now;

	return json_pack("{s:i, s:i, s:s, s:o, s:s, s:s, s:o, s:o, s:o, s:o}", "version",
	        STATUS_VERSION, "pid", v->pid, "handoffd", v->version, "environment",
	        wire_string(v->environment), "state", v->state, "steering", v->steering, "time",
	        time_to_json(realtime), "config_error", wire_string(v->config_error), "services",
	        list_to_json(
	                v->services, v->n_services, sizeof *v->services, service_to_json, offset),
	        "mode", mode_to_json(&v->mode, v->steering));
}
