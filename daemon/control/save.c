/* SPDX-License-Identifier: MIT */
#include "control/save.h"

#include <stdlib.h>
#include <string.h>

#include "control/internal.h"
#include "system/fd.h"
#include "wire/interface.h"

/* clang-format off */
static const struct field control_fields[] = {
        FIELD(control, device),
        FIELD(control, inode),
        FIELD(control, last_id),
        FIELD_NOT(control, loop),
        FIELD_NOT(control, handlers),
        FIELD_NOT(control, address),
        FIELD_NOT(control, fd),
        FIELD_NOT(control, change_gid),
        FIELD_NOT(control, has_change_gid),
        FIELD_NOT(control, read_gid),
        FIELD_NOT(control, has_read_gid),
        FIELD_NOT(control, accept),
        FIELD_NOT(control, retry),
        FIELD_NOT(control, clients),
        FIELD_NOT(control, n_clients),
        FIELD_NOT(control, n_calls),
        FIELD_NOT(control, events),
        FIELD_NOT(control, next_event),
        FIELD_NOT(control, n_events),
};

static const struct field client_fields[] = {
        FIELD(client, peer.uid),
        FIELD(client, peer.pid),
        FIELD(client, peer.may_change),
        FIELD(client, peer.may_read),
        FIELD(client, peer.may_run),
        FIELD(client, follower_max),
        FIELD(client, ended),
        FIELD(client, dropped),
        FIELD(client, slow),
        FIELD_NOT(client, control),
        FIELD_NOT(client, next),
        FIELD_NOT(client, prev),
        FIELD_NOT(client, fd),
        FIELD_NOT(client, in),
        FIELD_NOT(client, out),
        FIELD_NOT(client, reader),
        FIELD_NOT(client, writer),
        FIELD_NOT(client, message),
        FIELD_NOT(client, first),
        FIELD_NOT(client, last),
        FIELD_NOT(client, n_calls),
        FIELD_NOT(client, held),
};

static const struct field call_fields[] = {
        FIELD(control_call, id),
        FIELD(control_call, more),
        FIELD(control_call, oneway),
        FIELD(control_call, overlaps),
        FIELD(control_call, follows),
        FIELD(control_call, service),
        FIELD(control_call, upgrades),
        FIELD(control_call, done),
        FIELD_NOT(control_call, client),
        FIELD_NOT(control_call, next),
        FIELD_NOT(control_call, reply),
        FIELD_NOT(control_call, reply_size),
        FIELD_NOT(control_call, stream),
        FIELD_NOT(control_call, stream_data),
};
/* clang-format on */

#define SAVE(v, table, from) save_fields(v, table, ARRAY_SIZE(table), from)
#define LOAD(l, from, table, to) load_fields(l, from, table, ARRAY_SIZE(table), to)

/* ---- saving ---- */

/* The rest of an answer in pieces lies in the memory of this process. */
static void save_interrupted(struct saver *v, json_t *j)
{
	static const char reply[] =
	        "{\"error\":\"" ERROR_FAILED
	        "\",\"parameters\":{\"code\":1,\"text\":\"handoffd was replaced "
	        "while it answered; ask again\",\"results\":[]}}";

	save_member(v, j, "done", json_true());
	save_member(v, j, "reply", save_text(reply, sizeof reply));
}

static json_t *save_client(struct saver *v, const struct client *k, size_t number)
{
	json_t *j = SAVE(v, client_fields, k), *calls = json_array();

	for (const struct control_call *call = k->first; call; call = call->next) {
		json_t *one = SAVE(v, call_fields, call);

		if (call->stream)
			save_interrupted(v, one);
		else if (call->reply)
			save_member(v, one, "reply", save_text(call->reply, call->reply_size));
		save_item(v, calls, one);
	}
	save_member(v, j, "calls", calls);
	if (k->message)
		save_member(v, j, "message", json_incref(k->message));
	if (k->reader.end > k->reader.start)
		save_member(v, j, "unread",
		        save_text(k->reader.p + k->reader.start, k->reader.end - k->reader.start));
	if (k->writer.end > k->writer.start)
		save_member(v, j, "unsent",
		        save_text(k->writer.p + k->writer.start, k->writer.end - k->writer.start));
	save_fd(v, k->fd, "client-%zu", number);
	return j;
}

json_t *control_save(const struct control *c, struct saver *v, bool with_clients)
{
	json_t *j = SAVE(v, control_fields, c), *clients = json_array(), *events = json_array();
	size_t n = 0;

	save_fd(v, c->fd, "control");
	for (const struct client *k = c->clients; with_clients && k; k = k->next)
		if (!k->dropped)
			save_item(v, clients, save_client(v, k, n++));
	for (size_t i = 0; with_clients && i < c->n_events; i++) {
		size_t at = c->n_events < CONTROL_MAX_EVENTS
		                    ? i
		                    : (c->next_event + i) % CONTROL_MAX_EVENTS;

		save_item(v, events, json_incref(c->events[at]));
	}
	save_member(v, j, "clients", clients);
	save_member(v, j, "events", events);
	return j;
}

/* ---- loading ---- */

static void load_call(struct loader *l, const json_t *from, struct client *k)
{
	struct control_call *call = call_new(k);

	if (!call) {
		load_failed(l, "memory is short");
		return;
	}
	LOAD(l, from, call_fields, call);
	call->reply = load_text(l, json_object_get(from, "reply"), &call->reply_size);
	k->held += call->reply_size;
}

/* Into a reader's or writer's buffer; the bytes are the document's until then. */
static void load_buffer(struct loader *l, const json_t *from, char **p, size_t *end, size_t *size)
{
	size_t n = 0;
	char *bytes = load_text(l, from, &n);

	if (!bytes)
		return;
	*p = bytes;
	*end = n;
	*size = n + 1;
}

static void load_client(struct loader *l, const json_t *from, struct control *c, size_t number)
{
	struct client read = {0}, *k;
	json_t *message = json_object_get(from, "message");
	const json_t *item;
	int fd = load_fd(l, "client-%zu", number);
	size_t i;

	if (fd < 0)
		return; /* it is not connected to us */
	LOAD(l, from, client_fields, &read);
	k = client_add(c, fd, &read.peer);
	if (!k) {
		load_failed(l, "memory is short");
		return;
	}
	k->follower_max = read.follower_max;
	k->ended = read.ended;
	k->message = json_incref(message);
	load_buffer(
	        l, json_object_get(from, "unread"), &k->reader.p, &k->reader.end, &k->reader.size);
	load_buffer(
	        l, json_object_get(from, "unsent"), &k->writer.p, &k->writer.end, &k->writer.size);
	json_array_foreach(json_object_get(from, "calls"), i, item) load_call(l, item, k);
	ev_io_start(c->loop, &k->out); /* goes on with whatever can be done */
}

struct control *control_load(struct ev_loop *loop, const struct control_options *options,
        const struct control_handlers *handlers, const json_t *from, struct loader *l)
{
	struct control *c = control_alloc(loop, handlers);
	const json_t *clients = json_object_get(from, "clients");
	json_t *item;
	struct ho_error error = {0};
	size_t i;
	int fd;

	if (!c) {
		load_failed(l, "memory is short");
		return NULL;
	}
	fd = load_fd(l, "control");
	if (fd < 0 || control_take_over(c, options, fd, &error) < 0) {
		if (fd >= 0)
			load_failed(l, "%s", error.text);
		(void)close_fd(fd);
		free(c);
		return NULL;
	}
	LOAD(l, from, control_fields, c);
	for (i = json_array_size(clients); i-- > 0;)
		load_client(l, json_array_get(clients, i), c, i);
	json_array_foreach(json_object_get(from, "events"), i,
	        item) if (c->n_events < CONTROL_MAX_EVENTS) c->events[c->n_events++] =
	        json_incref(item);
	c->next_event = c->n_events % CONTROL_MAX_EVENTS;
	control_accept(c);
	return c;
}
