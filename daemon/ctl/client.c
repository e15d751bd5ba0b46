/* SPDX-License-Identifier: MIT */
/* A blocking client of the control socket. What handoffd sends is checked as if it were a stranger.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "wire/interface.h"
#include "wire/path.h"

static int find_path(struct client *c, const struct ctl *ctl)
{
	int e = ctl->socket
	                ? (copy_string(c->path, sizeof c->path, ctl->socket) ? 0 : -ENAMETOOLONG)
	                : control_default_path(c->path, sizeof c->path);

	if (e == -ENAMETOOLONG || (!e && !*c->path))
		return complain(CODE_USAGE, "the path of the control socket is %s",
		        e ? "longer than 107 bytes" : "empty");
	if (e)
		return complain(CODE_USAGE, "there is no default control socket without "
		                            "XDG_RUNTIME_DIR; name one with -s");
	return 0;
}

int client_open(struct client *c, const struct ctl *ctl)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = (time_t)(ctl->patience / USEC_PER_SEC),
	        .tv_usec = (suseconds_t)(ctl->patience % USEC_PER_SEC)};
	int e;

	c->fd = -1;
	c->patient = c->heard = false;
	wire_reader_init(&c->reader, WIRE_MAX_REPLY);
	e = find_path(c, ctl);
	if (e)
		return e;
	(void)copy_string(address.sun_path, sizeof address.sun_path, c->path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return complain(CODE_FAILED, "no socket can be made: %s", strerror(errno));
	(void)setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	(void)setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	if (!connect(c->fd, (const struct sockaddr *)&address, sizeof address))
		return 0;
	e = errno;
	client_close(c);
	if (e == EACCES || e == EPERM)
		return complain(CODE_NOT_ALLOWED, "not allowed to use the control socket %s: %s",
		        c->path, strerror(e));
	return complain(CODE_UNREACHABLE,
	        "handoffd cannot be reached at %s: %s; is it running? -s names another socket",
	        c->path, strerror(e));
}

void client_close(struct client *c)
{
	if (c->fd >= 0)
		(void)close(c->fd);
	c->fd = -1;
	wire_reader_done(&c->reader);
}

static int lost(const struct client *c, int e)
{
	if (e == EAGAIN || e == EWOULDBLOCK)
		return complain(CODE_UNREACHABLE, "handoffd at %s does not answer", c->path);
	if (c->heard)
		return complain(CODE_UNREACHABLE,
		        "handoffd at %s has closed the connection%s%s, as it does when it ends or "
		        "is not listened to; `handoffctl status` tells whether it runs",
		        c->path, e ? ": " : "", e ? strerror(e) : "");
	return complain(CODE_UNREACHABLE,
	        "handoffd at %s has closed the connection%s%s before it answered; `handoffctl "
	        "status` "
	        "tells whether it runs",
	        c->path, e ? ": " : "", e ? strerror(e) : "");
}

int client_send(struct client *c, const char *method, json_t *parameters, bool more)
{
	_cleanup_json_ json_t *call = json_pack(
	        "{s:s, s:o, s:b}", "method", method, "parameters", parameters, "more", (int)more);
	size_t size = 0, sent = 0;
	_cleanup_free_ char *bytes = call ? wire_encode(call, &size) : NULL;

	if (!bytes)
		return complain(CODE_USAGE, "the call cannot be made: an argument is not UTF-8, or "
		                            "memory is short");
	while (sent < size) {
		ssize_t n = send(c->fd, bytes + sent, size - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		/* It may have said why before it closed. */
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			break;
		if (n < 0)
			return lost(c, errno);
		sent += (size_t)n;
	}
	return 0;
}

static int explain(const json_t *reply, const char *error, json_t **ret_failure)
{
	json_t *parameters = json_object_get(reply, "parameters");
	json_int_t code = json_integer_value(json_object_get(parameters, "code"));

	if (!strcmp(error, ERROR_INVALID_PARAMETER))
		return complain(CODE_USAGE, "handoffd refused the call: \"%s\" is wrong",
		        member(parameters, "parameter"));
	if (!strcmp(error, ERROR_METHOD_NOT_FOUND))
		return complain(CODE_FAILED, "this handoffd does not know %s; is it an older one?",
		        member(parameters, "method"));
	if (strcmp(error, ERROR_FAILED))
		return complain(CODE_FAILED, "handoffd answered with the error %s", error);
	if (code <= CODE_DONE || code > CODE_SUPERSEDED)
		code = CODE_FAILED;
	if (ret_failure)
		*ret_failure = json_incref(parameters);
	else
		(void)complain((int)code, "%s", member(parameters, "text"));
	return (int)code;
}

/* The reply that was read. */
static int take_reply(struct client *c, const json_t *reply, json_t **ret, bool *ret_continues,
        json_t **ret_failure)
{
	const char *error = json_string_value(json_object_get(reply, "error"));
	json_t *parameters = json_object_get(reply, "parameters");

	if (error)
		return explain(reply, error, ret_failure);
	if (!json_is_object(parameters))
		return complain(CODE_FAILED,
		        "%s does not speak as handoffd does: a reply has no parameters", c->path);
	c->heard = true;
	*ret = json_incref(parameters);
	if (ret_continues)
		*ret_continues = json_is_true(json_object_get(reply, "continues"));
	return 0;
}

int client_receive_now(struct client *c, json_t **ret, bool *ret_continues, json_t **ret_failure)
{
	_cleanup_json_ json_t *reply = NULL;
	struct ho_error e;
	int r = wire_reader_next(&c->reader, &reply, &e);

	if (!r) {
		r = wire_reader_fill(&c->reader, c->fd);
		if (r == -EAGAIN && c->patient)
			return CLIENT_NOTHING;
		if (r <= 0)
			return lost(c, -r);
		r = wire_reader_next(&c->reader, &reply, &e);
		if (!r)
			return CLIENT_NOTHING;
	}
	if (r < 0)
		return complain(
		        CODE_FAILED, "%s does not speak as handoffd does: %s", c->path, e.text);
	return take_reply(c, reply, ret, ret_continues, ret_failure);
}

int client_receive(struct client *c, json_t **ret, bool *ret_continues, json_t **ret_failure)
{
	int r;

	do
		r = client_receive_now(c, ret, ret_continues, ret_failure);
	while (r == CLIENT_NOTHING);
	return r;
}

int client_follow(struct client *c, const struct ctl *ctl, const char *method, json_t *parameters)
{
	int r = client_open(c, ctl);

	if (r) {
		json_decref(parameters);
		return r;
	}
	r = client_send(c, method, parameters, true);
	if (!r && fcntl(c->fd, F_SETFL, O_NONBLOCK))
		r = complain(CODE_FAILED, "the connection to %s: %s", c->path, strerror(errno));
	c->patient = true;
	if (r)
		client_close(c);
	return r;
}

int client_ask(const struct ctl *ctl, const char *method, json_t *parameters, json_t **ret)
{
	struct client c;
	int r = client_open(&c, ctl);

	if (r) {
		json_decref(parameters);
		return r;
	}
	r = client_send(&c, method, parameters, false);
	if (!r)
		r = client_receive(&c, ret, NULL, NULL);
	client_close(&c);
	return r;
}
