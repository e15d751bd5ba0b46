/* SPDX-License-Identifier: MIT */
/* Clients and the bytes they send and get.
 *
 * A client is freed only in its own callbacks and in control_free(), so that every other function
 * may be called from within a handler: answers are queued and leave at the next turn of the loop.
 * Calls are answered in the order they came. What a client has us keep is bounded: its input by the
 * reader, calls by number, output by not starting a call while much of it waits, and by dropping
 * the client. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "control/internal.h"
#include "control/json.h"
#include "system/fd.h"
#include "wire/interface.h"

#define RETRY_AFTER 1.0
#define FLUSH_FOR USEC_PER_SEC
#define ACCEPT_AT_ONCE 64

static usec_t realtime_usec(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_REALTIME, &t);
	return (usec_t)t.tv_sec * USEC_PER_SEC + (usec_t)t.tv_nsec / 1000;
}

/* It is closed at the next turn of the loop. */
static void client_drop(struct client *k)
{
	k->dropped = true;
	ev_feed_event(k->control->loop, &k->out, EV_WRITE);
}

struct control_call *call_new(struct client *k)
{
	struct control_call *call = calloc(1, sizeof *call);

	if (!call)
		return NULL;
	call->client = k;
	if (k->last)
		k->last->next = call;
	else
		k->first = call;
	k->last = call;
	k->n_calls++;
	k->control->n_calls++;
	return call;
}

/* Forgets the oldest call. */
static void call_pop(struct client *k)
{
	struct control_call *call = k->first;

	k->first = call->next;
	if (!k->first)
		k->last = NULL;
	k->held -= call->reply_size;
	k->n_calls--;
	k->control->n_calls--;
	if (call->stream)
		call->stream->free(call->stream_data);
	free(call->reply);
	free(call);
}

static void client_free(struct client *k)
{
	struct control *c = k->control;

	if (k->prev)
		k->prev->next = k->next;
	else
		c->clients = k->next;
	if (k->next)
		k->next->prev = k->prev;
	c->n_clients--;
	ev_io_stop(c->loop, &k->in);
	ev_io_stop(c->loop, &k->out);
	(void)close_fd(k->fd);
	while (k->first) {
		if (k->first->id && !k->first->done)
			c->handlers.gone(c->handlers.data, k->first, k->first->id);
		call_pop(k);
	}
	json_decref(k->message);
	wire_reader_done(&k->reader);
	wire_writer_done(&k->writer);
	free(k);
}

/* The replies whose turn has come go to the writer. */
static void client_advance(struct client *k)
{
	while (k->first && k->first->done && !k->dropped) {
		struct control_call *call = k->first;

		if (call->reply && wire_writer_add(&k->writer, call->reply, call->reply_size))
			client_drop(k);
		call_pop(k);
	}
	ev_io_start(k->control->loop, &k->out);
}

static void call_finish(struct control_call *call, json_t *reply)
{
	struct client *k = call->client;

	HO_ASSERT(!call->done && !call->follows);
	call->done = true;
	if (!call->oneway) {
		call->reply = reply ? wire_encode(reply, &call->reply_size) : NULL;
		k->held += call->reply_size;
		if (!call->reply || k->held > CONTROL_MAX_WAITING)
			client_drop(k);
	}
	json_decref(reply);
	client_advance(k);
}

void call_reply(struct control_call *call, json_t *parameters)
{
	call_finish(call, json_pack("{s:o}", "parameters", parameters));
}

void call_error(struct control_call *call, const char *error, json_t *parameters)
{
	call_finish(call, json_pack("{s:s, s:o}", "error", error, "parameters", parameters));
}

void call_continue(struct control_call *call, json_t *parameters)
{
	struct client *k = call->client;
	_cleanup_json_ json_t *reply =
	        json_pack("{s:o, s:b}", "parameters", parameters, "continues", 1);
	_cleanup_free_ char *bytes = NULL;
	size_t size;

	HO_ASSERT(call == k->first && !call->done);
	bytes = reply ? wire_encode(reply, &size) : NULL;
	if (!bytes || wire_writer_add(&k->writer, bytes, size))
		client_drop(k);
	ev_io_start(k->control->loop, &k->out);
}

void control_stream(struct control_call *call, const struct control_stream *stream, void *data)
{
	call->stream = stream;
	call->stream_data = data;
	ev_io_start(call->client->control->loop, &call->client->out);
}

uint32_t control_next_id(struct control *c)
{
	bool taken;

	do {
		taken = ++c->last_id == 0;
		/* Only after 2^32 requests can an older one have the same number. */
		for (struct client *k = c->clients; k && !taken; k = k->next)
			for (struct control_call *call = k->first; call && !taken;
			        call = call->next)
				taken = call->id == c->last_id;
	} while (taken);
	return c->last_id;
}

/* May a call that came behind those that wait start now? */
static bool may_start(const struct client *k)
{
	if (k->dropped || wire_writer_waiting(&k->writer) >= CONTROL_HIGH_WATER)
		return false;
	if (!k->first)
		return true;
	return k->last->overlaps && k->n_calls < CONTROL_MAX_CLIENT_CALLS &&
	       (!k->message || message_overlaps(k->message));
}

/* The stream makes no sense: say so and close. */
static void client_refuse(struct client *k, const char *why)
{
	struct control_call *call = call_new(k);

	k->ended = true;
	if (!call) {
		client_drop(k);
		return;
	}
	control_answer_error(call, CODE_USAGE, why);
}

/* Starts the calls whose turn has come, then waits for what can happen next. Frees the client when
 * nothing can: the last thing that a callback does. */
static void client_work(struct client *k)
{
	struct ev_loop *loop = k->control->loop;
	struct ho_error error;
	int r = 1;

	while (may_start(k)) {
		struct control_call *call;
		_cleanup_json_ json_t *message = NULL;

		if (!k->message) {
			r = wire_reader_next(&k->reader, &k->message, &error);
			if (r < 0) {
				client_refuse(k, error.text);
				wire_reader_done(&k->reader);
			}
			if (r <= 0)
				break;
			continue; /* it may have to wait */
		}
		message = take_ptr(k->message);
		call = call_new(k);
		if (!call) {
			client_drop(k);
			break;
		}
		call_run(call, message);
	}
	if (k->dropped)
		return;
	if (k->ended && !k->first && !k->message && r <= 0 && !wire_writer_waiting(&k->writer)) {
		client_free(k);
		return;
	}
	if (k->ended || !wire_reader_has_room(&k->reader))
		ev_io_stop(loop, &k->in);
	else
		ev_io_start(loop, &k->in);
}

const char *control_path(const struct control *c)
{
	return c->address.sun_path;
}

struct control_call *control_find(const struct control *c, uint32_t id)
{
	for (struct client *k = c->clients; k; k = k->next)
		for (struct control_call *call = k->first; call; call = call->next)
			if (call->id == id && !call->done)
				return call;
	return NULL;
}

void control_answer_upgrade(struct control *c, const char *refused)
{
	for (struct client *k = c->clients; k; k = k->next)
		for (struct control_call *call = k->first, *next; call; call = next) {
			next = call->next; /* an answer may forget it */
			if (!call->upgrades || call->done)
				continue;
			if (refused)
				control_answer_error(call, CODE_FAILED, refused);
			else
				control_answer(call, NULL, 0);
		}
}

static bool has_hung_up(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR);
}

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct client *k = w->data;
	int n = wire_reader_fill(&k->reader, k->fd);

	(void)loop;
	(void)revents;
	if (n == -EAGAIN)
		return;
	if (n < 0 || (n == 0 && has_hung_up(k->fd))) {
		client_free(k);
		return;
	}
	if (n == 0)
		k->ended = true; /* it has said all, and waits for answers */
	client_work(k);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct client *k = w->data;

	(void)revents;
	if (k->slow) {
		struct control_handlers *h = &k->control->handlers;

		h->refused(h->data, k->peer.uid, k->peer.pid, "following",
		        "it does not read, and was disconnected");
	}
	if (k->dropped || wire_writer_send(&k->writer, k->fd)) {
		client_free(k);
		return;
	}
	if (k->first && k->first->stream && !k->first->done) {
		if (wire_writer_waiting(&k->writer) < CONTROL_HIGH_WATER)
			k->first->stream->next(k->first->stream_data, k->first);
	} else if (!wire_writer_waiting(&k->writer)) {
		ev_io_stop(loop, &k->out);
	}
	client_work(k);
}

/* Said before anything is asked; the client is no client. */
static void turn_away(
        struct control *c, int fd, const struct peer *peer, enum outcome_code code, const char *why)
{
	_cleanup_json_ json_t *reply = json_pack("{s:s, s:{s:i, s:s, s:[]}}", "error", ERROR_FAILED,
	        "parameters", "code", (int)code, "text", why, "results");
	size_t size = 0;
	_cleanup_free_ char *bytes = reply ? wire_encode(reply, &size) : NULL;

	if (bytes)
		(void)send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	c->handlers.refused(c->handlers.data, peer->uid, peer->pid, "connect", why);
}

struct client *client_add(struct control *c, int fd, const struct peer *peer)
{
	struct client *k = calloc(1, sizeof *k);

	if (!k) {
		(void)close_fd(fd);
		return NULL;
	}
	k->control = c;
	k->peer = *peer;
	k->fd = fd;
	wire_reader_init(&k->reader, peer->may_change ? WIRE_MAX_CALL : CONTROL_READER_CALL);
	wire_writer_init(&k->writer, CONTROL_MAX_WAITING);
	ev_io_init(&k->in, on_readable, k->fd, EV_READ);
	ev_io_init(&k->out, on_writable, k->fd, EV_WRITE);
	k->in.data = k->out.data = k;
	k->next = c->clients;
	if (k->next)
		k->next->prev = k;
	c->clients = k;
	c->n_clients++;
	return k;
}

/* Takes the descriptor. */
static void client_new(struct control *c, int fd)
{
	_cleanup_close_ int own = fd;
	struct peer peer;
	struct client *k;
	unsigned max = CONTROL_MAX_CLIENTS;

	if (peer_read(c, own, &peer))
		return;
	if (!peer.may_change)
		max -= CONTROL_KEPT_CLIENTS;
	if (!peer.may_read) {
		turn_away(c, own, &peer, CODE_NOT_ALLOWED,
		        "not allowed: this handoffd is for root, its own user and the members of "
		        "its control-group and control-read-group");
		return;
	}
	if (c->n_clients >= max) {
		turn_away(c, own, &peer, CODE_FAILED,
		        "handoffd has too many control clients at the moment; try again later");
		return;
	}
	k = client_add(c, take_fd(own), &peer);
	if (k)
		ev_io_start(c->loop, &k->in);
}

static void on_connect(struct ev_loop *loop, ev_io *w, int revents)
{
	struct control *c = w->data;

	(void)revents;
	for (int i = 0; i < ACCEPT_AT_ONCE; i++) {
		int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			client_new(c, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK) {
			/* Descriptors or memory ran short: the loop must not spin until there
			 * are some again, and nothing tells when. */
			ev_io_stop(loop, w);
			ev_timer_set(&c->retry, RETRY_AFTER, 0.);
			ev_timer_start(loop, &c->retry);
		}
		return;
	}
}

static void on_retry(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct control *c = w->data;

	(void)revents;
	if (c->fd >= 0)
		ev_io_start(loop, &c->accept);
}

struct control *control_alloc(struct ev_loop *loop, const struct control_handlers *handlers)
{
	struct control *c = calloc(1, sizeof *c);

	if (!c)
		return NULL;
	c->loop = loop;
	c->handlers = *handlers;
	c->fd = -1;
	ev_timer_init(&c->retry, on_retry, RETRY_AFTER, 0.);
	c->accept.data = c->retry.data = c;
	return c;
}

void control_accept(struct control *c)
{
	ev_io_init(&c->accept, on_connect, c->fd, EV_READ);
	c->accept.data = c;
	ev_io_start(c->loop, &c->accept);
}

int control_new(struct ev_loop *loop, const struct control_options *options,
        const struct control_handlers *handlers, struct control **ret, struct ho_error *reterr)
{
	struct control *c = control_alloc(loop, handlers);
	int e;

	if (!c)
		return ho_error_set(reterr, -ENOMEM, "memory is short for the control socket");
	e = control_listen(c, options, reterr);
	if (e) {
		free(c);
		return e;
	}
	control_accept(c);
	*ret = c;
	return 0;
}

static void stop_accepting(struct control *c)
{
	ev_io_stop(c->loop, &c->accept);
	ev_timer_stop(c->loop, &c->retry);
	c->fd = close_fd(c->fd);
	control_unlisten(c);
}

struct control *control_free(struct control *c)
{
	if (!c)
		return NULL;
	stop_accepting(c);
	while (c->clients) {
		/* Whoever frees the server has forgotten the calls already. */
		for (struct control_call *call = c->clients->first; call; call = call->next)
			call->id = 0;
		client_free(c->clients);
	}
	for (size_t i = 0; i < c->n_events; i++)
		json_decref(c->events[i]);
	free(c);
	return NULL;
}

void control_flush(struct control *c)
{
	usec_t end = usec_add(now_usec(), FLUSH_FOR);

	stop_accepting(c);
	for (struct client *k = c->clients, *next; k; k = next) {
		next = k->next;
		while (!k->dropped && !wire_writer_send(&k->writer, k->fd) &&
		        wire_writer_waiting(&k->writer)) {
			struct pollfd p = {.fd = k->fd, .events = POLLOUT};
			usec_t left = usec_sub(end, now_usec());

			if (!left || poll(&p, 1, (int)(left / USEC_PER_MSEC) + 1) < 0)
				break;
		}
	}
}

void control_progress(struct control_call *call, const struct record *record)
{
	struct client *k = call->client;

	/* A slow reader misses some of the progress, not the result. */
	if (!call->more || call->oneway || wire_writer_waiting(&k->writer) >= CONTROL_HIGH_WATER)
		return;
	call_continue(
	        call, json_pack("{s:o}", "progress", record_to_json(record, realtime_usec())));
}

/* Does the client get this now? */
static bool follows(const struct client *k, enum follow what)
{
	return k->first && k->first->follows == what && !k->dropped;
}

static char *encode_continued(json_t *parameters, size_t *ret_size)
{
	_cleanup_json_ json_t *message =
	        json_pack("{s:o, s:b}", "parameters", parameters, "continues", 1);

	return message ? wire_encode(message, ret_size) : NULL;
}

void call_follow(struct control_call *call, enum follow what)
{
	struct client *k = call->client;

	call->follows = what;
	k->follower_max = wire_writer_waiting(&k->writer) + CONTROL_FOLLOWER_MAX;
}

static void tell_follower(struct client *k, const char *bytes, size_t size)
{
	if (wire_writer_waiting(&k->writer) + size > k->follower_max ||
	        wire_writer_add(&k->writer, bytes, size)) {
		k->slow = true;
		client_drop(k);
	} else {
		ev_io_start(k->control->loop, &k->out);
	}
}

/* One message for all followers. */
static void tell_followers(struct control *c, json_t *event)
{
	_cleanup_free_ char *bytes = NULL;
	size_t size = 0;

	for (struct client *k = c->clients; k; k = k->next) {
		if (!follows(k, FOLLOW_EVENTS))
			continue;
		if (!bytes)
			bytes = encode_continued(json_pack("{s:[O]}", "events", event), &size);
		if (!bytes)
			return;
		tell_follower(k, bytes, size);
	}
}

static bool follows_logs(const struct client *k, const char *service)
{
	return follows(k, FOLLOW_LOGS) && !strcmp(k->first->service, service);
}

bool control_wants_output(const struct control *c, const char *service)
{
	for (const struct client *k = c->clients; k; k = k->next)
		if (follows_logs(k, service))
			return true;
	return false;
}

void control_publish_output(struct control *c, const char *service, const struct control_log *log)
{
	_cleanup_free_ char *bytes = NULL;
	size_t size = 0;

	for (struct client *k = c->clients; k; k = k->next) {
		if (!follows_logs(k, service))
			continue;
		if (!bytes)
			bytes = encode_continued(logs_to_json(service, log, 1), &size);
		if (!bytes)
			return;
		tell_follower(k, bytes, size);
	}
}

void control_publish(struct control *c, const struct record *record)
{
	json_t *event = record_to_json(record, realtime_usec());

	if (!event)
		return;
	tell_followers(c, event);
	if (record->type == RECORD_WORKER_STATUS) { /* would push out what has happened */
		json_decref(event);
		return;
	}
	if (c->n_events == CONTROL_MAX_EVENTS)
		json_decref(c->events[c->next_event]);
	else
		c->n_events++;
	c->events[c->next_event] = event;
	c->next_event = (c->next_event + 1) % CONTROL_MAX_EVENTS;
}

/* The newest `lines` events, the oldest of them first. */
static json_t *kept_events(const struct control *c, size_t lines)
{
	size_t n = lines < c->n_events ? lines : c->n_events;
	json_t *list = json_array();

	for (size_t i = n; list && i > 0; i--) {
		size_t at = (c->next_event + CONTROL_MAX_EVENTS - i) % CONTROL_MAX_EVENTS;

		if (json_array_append(list, c->events[at])) {
			json_decref(list);
			list = NULL;
		}
	}
	return json_pack("{s:o}", "events", list);
}

void call_events(struct control_call *call, size_t lines, bool follow)
{
	struct client *k = call->client;
	json_t *events = kept_events(k->control, lines);

	if (!follow || call->oneway) {
		call_reply(call, events);
		return;
	}
	call_continue(call, events);
	call_follow(call, FOLLOW_EVENTS);
}

static json_t *status_reply(const struct view *view)
{
	usec_t at = realtime_usec() - (now_usec() - view->now);

	return json_pack("{s:o}", "status", status_to_json(view, at));
}

void control_answer_status(struct control_call *call, const struct view *view)
{
	call_reply(call, status_reply(view));
}

void control_monitor(struct control_call *call, const struct view *view)
{
	call_continue(call, status_reply(view));
	call_follow(call, FOLLOW_STATUS);
}

bool control_has_monitors(const struct control *c)
{
	for (const struct client *k = c->clients; k; k = k->next)
		if (follows(k, FOLLOW_STATUS))
			return true;
	return false;
}

void control_publish_status(struct control *c, const struct view *view)
{
	_cleanup_free_ char *bytes = NULL;
	size_t size = 0;

	for (struct client *k = c->clients; k; k = k->next) {
		if (!follows(k, FOLLOW_STATUS) || wire_writer_waiting(&k->writer))
			continue;
		if (!bytes)
			bytes = encode_continued(status_reply(view), &size);
		if (!bytes)
			return;
		if (wire_writer_add(&k->writer, bytes, size))
			client_drop(k);
		else
			ev_io_start(c->loop, &k->out);
	}
}
