/* SPDX-License-Identifier: MIT */
/* A configuration as it was read: what a generation was started from may not be in any file any
 * more. */
#include "state/fields.h"

#include <string.h>

static const struct field config_fields[] = {
        FIELD(config, file),
        FIELD(config, environment),
        FIELD(config, control_socket),
        FIELD(config, control_group),
        FIELD(config, control_read_group),
        FIELD_NOT(config, refs),
        FIELD_NOT(config, arena),
        FIELD_NOT(config, global_origins),
        FIELD_NOT(config, n_global_origins),
        FIELD_NOT(config, services),
        FIELD_NOT(config, n_services),
};

static const struct field service_fields[] = {
        FIELD(service_config, name),
        FIELD(service_config, command),
        FIELD(service_config, directory),
        FIELD(service_config, environ),
        FIELD(service_config, environment_files),
        FIELD(service_config, user),
        FIELD(service_config, group),
        FIELD(service_config, groups),
        FIELD(service_config, workers),
        FIELD(service_config, sockets),
        FIELD(service_config, dialects),
        FIELD(service_config, listen_pid),
        FIELD(service_config, ready.by),
        FIELD(service_config, ready.argument),
        FIELD(service_config, ready.fd),
        FIELD(service_config, ready.after),
        FIELD(service_config, ready.timeout),
        FIELD(service_config, drain.by),
        FIELD(service_config, drain.signal),
        FIELD(service_config, drain.idle_after),
        FIELD(service_config, drain.deadline),
        FIELD(service_config, drain.kill_after),
        FIELD(service_config, rollout.max_old),
        FIELD(service_config, rollout.max_old_memory),
        FIELD(service_config, rollout.bake),
        FIELD(service_config, rollout.keep_warm),
        FIELD(service_config, rollout.canary),
        FIELD(service_config, rollout.sticky),
        FIELD(service_config, rollout.hold),
        FIELD(service_config, rollout.step),
        FIELD(service_config, rollout.order),
        FIELD(service_config, accept),
        FIELD(service_config, restart),
        FIELD(service_config, watchdog),
        FIELD(service_config, umask),
        FIELD(service_config, nice),
        FIELD(service_config, nice_set),
        FIELD(service_config, capabilities),
        FIELD(service_config, no_new_privileges),
        FIELD(service_config, watch),
        FIELD(service_config, watch_ignore),
        FIELD(service_config, watch_debounce),
        FIELD(service_config, watch_poll),
        FIELD(service_config, build),
        FIELD(service_config, dev.hold),
        FIELD(service_config, dev.live_reload),
        FIELD(service_config, origin.file),
        FIELD(service_config, origin.line),
        FIELD_NOT(service_config, listeners),
        FIELD_NOT(service_config, n_listeners),
        FIELD_NOT(service_config, limits),
        FIELD_NOT(service_config, n_limits),
        FIELD_NOT(service_config, origins),
        FIELD_NOT(service_config, n_origins),
};

static const struct field listener_fields[] = {
        FIELD(listener_config, name),
        FIELD(listener_config, backlog),
        FIELD(listener_config, mode),
        FIELD(listener_config, owner),
        FIELD(listener_config, group),
        FIELD(listener_config, address.kind),
        FIELD(listener_config, address.ipv6),
        FIELD(listener_config, address.dual),
        FIELD(listener_config, address.ip),
        FIELD(listener_config, address.scope_id),
        FIELD(listener_config, address.port),
        FIELD(listener_config, address.path),
        FIELD(listener_config, address.text),
        FIELD(listener_config, origin.file),
        FIELD(listener_config, origin.line),
};

static const struct field limit_fields[] = {
        FIELD(limit_config, resource),
        FIELD(limit_config, soft),
        FIELD(limit_config, hard),
};

static const struct field global_fields[] = {
        FIELD(origin, file),
        FIELD(origin, line),
};

static const struct field origin_fields[] = {
        FIELD(key_origin, key),
        FIELD(key_origin, origin.file),
        FIELD(key_origin, origin.line),
};

static json_t *save_list(struct saver *v, const struct field *fields, size_t n_fields,
        const void *items, size_t n, size_t size)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		save_item(
		        v, list, save_fields(v, fields, n_fields, (const char *)items + i * size));
	return list;
}

/* Returns the items, which are of the arena; NULL when there are none. */
static void *load_list(struct loader *l, const struct field *fields, size_t n_fields,
        const json_t *from, size_t size, size_t *ret_n)
{
	size_t n = json_array_size(from);
	char *items = n ? config_alloc(l->arena, n * size) : NULL;

	*ret_n = 0;
	if (n && !items)
		load_failed(l, "memory is short");
	for (size_t i = 0; items && i < n; i++)
		load_fields(l, json_array_get(from, i), fields, n_fields, items + i * size);
	*ret_n = items ? n : 0;
	return items;
}

#define SAVE_LIST(v, table, items, n)                                                              \
	save_list(v, table, ARRAY_SIZE(table), items, n, sizeof *(items))
#define LOAD_LIST(l, table, from, items, n)                                                        \
	((items) = load_list(l, table, ARRAY_SIZE(table), from, sizeof *(items), n))

json_t *config_to_json(struct saver *v, const struct config *c)
{
	json_t *j = save_fields(v, config_fields, ARRAY_SIZE(config_fields), c);
	json_t *services = json_array();

	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_config *s = &c->services[i];
		json_t *one = save_fields(v, service_fields, ARRAY_SIZE(service_fields), s);

		save_member(v, one, "listeners",
		        SAVE_LIST(v, listener_fields, s->listeners, s->n_listeners));
		save_member(v, one, "limits", SAVE_LIST(v, limit_fields, s->limits, s->n_limits));
		save_member(
		        v, one, "origins", SAVE_LIST(v, origin_fields, s->origins, s->n_origins));
		save_item(v, services, one);
	}
	save_member(v, j, "services", services);
	save_member(v, j, "origins",
	        SAVE_LIST(v, global_fields, c->global_origins, c->n_global_origins));
	return j;
}

static void load_service(struct loader *l, const json_t *from, struct service_config *s)
{
	service_config_defaults(s);
	load_fields(l, from, service_fields, ARRAY_SIZE(service_fields), s);
	LOAD_LIST(l, listener_fields, json_object_get(from, "listeners"), s->listeners,
	        &s->n_listeners);
	LOAD_LIST(l, limit_fields, json_object_get(from, "limits"), s->limits, &s->n_limits);
	LOAD_LIST(l, origin_fields, json_object_get(from, "origins"), s->origins, &s->n_origins);
	if (!s->name || !s->command.count)
		load_failed(l, "a service has no name or no command");
	for (size_t i = 0; i < s->n_listeners; i++)
		if (!s->listeners[i].name || !s->listeners[i].address.text)
			load_failed(l, "a listener has no name or no address");
}

struct config *config_from_json(struct loader *l, const json_t *from)
{
	const json_t *services = json_object_get(from, "services");
	size_t n = json_array_size(services);
	struct config *c = n <= CONFIG_MAX_SERVICES ? config_new() : NULL;

	if (!c) {
		load_failed(l, "too many services, or memory is short");
		return NULL;
	}
	l->arena = c;
	load_fields(l, from, config_fields, ARRAY_SIZE(config_fields), c);
	c->services = config_alloc(c, (n + 1) * sizeof *c->services);
	if (!c->services)
		load_failed(l, "memory is short");
	for (size_t i = 0; c->services && i < n && !l->failed; i++)
		load_service(l, json_array_get(services, i), &c->services[c->n_services++]);
	LOAD_LIST(l, global_fields, json_object_get(from, "origins"), c->global_origins,
	        &c->n_global_origins);
	l->arena = NULL;
	return c;
}
