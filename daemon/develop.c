/* SPDX-License-Identifier: MIT */
/* Development mode: one terminal for all services, commands from the keyboard, and what happens
 * told in sentences instead of the log's lines. */
#include "conf/load.h"
#include "daemon.h"
#include "sockets/relay.h"
#include "system/log.h"
#include "terminal/browser.h"
#include "terminal/terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "system/fd.h"

#define LINE_MAX_BYTES 256
#define READS_AT_ONCE 16
/* Requests of the keyboard, beside those of the control socket. */
#define FIRST_REQUEST 0xf0000000u

struct develop {
	struct daemon *daemon;
	struct terminal *terminal;
	struct relays *relays;
	struct browsers *browsers; /* NULL: none asked for */
	enum record_level level;
	ev_io keyboard;
	int edges;   /* what is typed at a terminal, each time once; -1: no terminal */
	int started; /* from this terminal, a descriptor; or -1 */
	char line[LINE_MAX_BYTES];
	size_t length;
	bool too_long;
	uint32_t last_request;
};

static void say(struct develop *v, enum terminal_mark mark, const char *format, ...) _printf_(3, 4);
static void say(struct develop *v, enum terminal_mark mark, const char *format, ...)
{
	char text[2000];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	terminal_line(v->terminal, mark, "handoffd", text, strlen(text));
}

/* ---- stories ---- */

static double seconds(const struct record *r)
{
	return r->duration == USEC_INFINITY ? 0 : (double)r->duration / USEC_PER_SEC;
}

static void tell_failed(struct develop *v, const struct record *r, struct text *t)
{
	const struct service *sv = supervisor_find(v->daemon->supervisor, r->service);
	const struct generation *old = sv ? service_serving(sv) : NULL;
	const char *text = r->text ? r->text : "";
	size_t n = strcspn(text, "\n");

	n -= n && text[n] && text[n - 1] == ':';
	text_add(t, "generation %u FAILED", r->generation);
	if (old)
		text_add(t, ", generation %u goes on", old->id);
	else
		text_add(t, ", nothing serves until something changes");
	text_add(t, ": %.*s", (int)n, text);
}

/* What that means is told with the generation. */
static bool fails_to_start(const struct develop *v, const struct record *r)
{
	const struct service *sv = supervisor_find(v->daemon->supervisor, r->service);
	const struct generation *g = sv ? service_find(sv, r->generation) : NULL;

	if (!g) /* gone with this worker: where nothing serves it has failed, else it was drained */
		return sv && !service_serving(sv);
	return g->state == GENERATION_STARTING || g->state == GENERATION_FAILED;
}

/* In words for who sits at the terminal; false: it is told as in the log, if at all. */
static bool tell_story(
        struct develop *v, const struct record *r, struct text *t, enum terminal_mark *ret_mark)
{
	*ret_mark = TERMINAL_OWN;
	switch ((int)r->type) {
	case RECORD_FILES_CHANGED:
		text_add(t, "%s", r->text);
		return true;
	case RECORD_BUILD_STARTED:
		text_add(t, "building");
		return true;
	case RECORD_BUILD_DONE:
		text_add(t, "built in %.2f s", seconds(r));
		return true;
	case RECORD_GENERATION_SERVING:
		*ret_mark = TERMINAL_GOOD;
		text_add(t, "generation %u serves (%.2f s)", r->generation, seconds(r));
		return true;
	case RECORD_GENERATION_FAILED:
		if (v->daemon->supervisor->state == SUPERVISOR_STOPPING)
			return true; /* that is how a start ends then */
		*ret_mark = TERMINAL_BAD;
		tell_failed(v, r, t);
		return true;
	case RECORD_DAEMON_READY:
		if (isatty(STDIN_FILENO))
			text_add(t, "rs + Enter reloads, ? tells more, Ctrl-C stops");
		return true;
	case RECORD_STOP_REQUESTED:
		text_add(t, "stopping: %s", r->text ? r->text : "");
		return true;
	case RECORD_DAEMON_STOPPED:
		text_add(t, "stopped");
		return true;
	case RECORD_WORKER_CRASHED:
		if (r->text && !fails_to_start(v, r)) {
			*ret_mark = TERMINAL_BAD;
			text_add(t, "worker %d %.*s", r->worker, (int)strcspn(r->text, ":\n"),
			        r->text);
		}
		return true;
	case RECORD_WORKER_RESTARTING:
		text_add(t, "worker %d is started again", r->worker);
		return true;
	case RECORD_CONFIG_REFUSED:
	case RECORD_CONFIG_NOTE:
	case RECORD_SOCKET_REFUSED:
	case RECORD_SOCKET_CLOSED:
	case RECORD_WATCH_NOTE:
		if (record_level(r->type) <= RECORD_ERROR)
			*ret_mark = TERMINAL_BAD;
		text_add(t, "%s", r->text ? r->text : record_type_to_string(r->type));
		return true;
	case RECORD_SERVICE_FAILED: /* what failed has been said */
		return true;
	default:
		return false;
	}
}

static void reload_pages(struct develop *v, const struct record *r)
{
	const struct service *sv = supervisor_find(v->daemon->supervisor, r->service);

	if (v->browsers && sv && sv->wanted_settings->dev.live_reload)
		browsers_reload(v->browsers);
}

static void on_record(void *data, enum record_level level, const struct record *r, const char *text)
{
	struct develop *v = data;
	enum terminal_mark mark = level <= RECORD_ERROR ? TERMINAL_BAD : TERMINAL_OWN;
	char story[2000];
	struct text t = TEXT_ON(story);

	if (r && r->type == RECORD_GENERATION_SERVING)
		reload_pages(v, r);
	if (v->level < RECORD_DEBUG && r && tell_story(v, r, &t, &mark))
		text = story;
	else if (level > v->level)
		return;
	if (*text)
		terminal_line(v->terminal, mark, r && r->service ? r->service : "handoffd", text,
		        strlen(text));
}

void develop_output(
        struct daemon *d, const char *service, bool is_stderr, const char *line, size_t length)
{
	if (d->develop)
		terminal_line(d->develop->terminal, is_stderr ? TERMINAL_ERR : TERMINAL_OUT,
		        service, line, length);
	else
		log_output(is_stderr, line, length);
}

/* ---- the keyboard ---- */

static void help(struct develop *v)
{
	say(v, TERMINAL_OWN,
	        "rs          read the configuration again and reload all services\n"
	        "rs NAME     the same for one service\n"
	        "?           this text\n"
	        "Ctrl-C      stop when all connections are done; a second time: at once");
}

static void reload(struct develop *v, const char *name)
{
	struct daemon *d = v->daemon;
	struct request_spec spec = {.id = FIRST_REQUEST | (++v->last_request & 0xffffff),
	        .kind = REQUEST_RELOAD,
	        .wait = WAIT_NONE,
	        .timeout = USEC_INFINITY,
	        .services = &name,
	        .n_services = name != NULL,
	        .cause = "keyboard"};
	char names[300];
	struct text t = TEXT_ON(names);

	if (!name || supervisor_find(d->supervisor, name)) {
		daemon_request(d, NULL, &spec);
		return;
	}
	requests_no_service(d->supervisor, name, &t);
	say(v, TERMINAL_BAD, "%s", names);
}

static void obey(struct develop *v, char *line)
{
	char *end = line + strlen(line);

	line += strspn(line, " \t");
	while (end > line && strchr(" \t\r", end[-1]))
		*--end = '\0';
	if (!*line)
		return;
	if (!strcmp(line, "rs"))
		reload(v, NULL);
	else if (!strncmp(line, "rs ", 3))
		reload(v, line + 3 + strspn(line + 3, " \t"));
	else if (!strcmp(line, "?") || !strcmp(line, "h") || !strcmp(line, "help"))
		help(v);
	else
		say(v, TERMINAL_BAD, "\"%s\" is no command; ? tells what there is", line);
}

static void take_bytes(struct develop *v, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (bytes[i] == '\n') {
			v->line[v->length] = '\0';
			if (!v->too_long)
				obey(v, v->line);
			v->length = 0;
			v->too_long = false;
		} else if (v->length + 1 < sizeof v->line) {
			v->line[v->length++] = bytes[i];
		} else {
			v->too_long = true;
		}
	}
}

/* At its end (a pipe that was closed) nothing more is read; everything goes on. */
static void on_input(struct ev_loop *loop, ev_io *io, int events)
{
	char bytes[1024];
	ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);

	(void)events;
	if (n > 0)
		take_bytes(io->data, bytes, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		ev_io_stop(loop, io);
}

/* As long as handoffd is in the background, what is typed is for others, and reading it fails with
 * EIO. Ctrl-D is nothing to us. */
static void on_keyboard(struct ev_loop *loop, ev_io *io, int events)
{
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
	struct develop *v = io->data;
	struct epoll_event edge;
	char bytes[1024];
	ssize_t n = 0;

	(void)epoll_wait(v->edges, &edge, 1, 0);
	for (int i = 0; n >= 0 && poll(&p, 1, 0) == 1 && !(p.revents & POLLHUP); i++) {
		if (i == READS_AT_ONCE) {
			ev_feed_event(loop, io, events); /* others first */
			return;
		}
		n = read(STDIN_FILENO, bytes, sizeof bytes);
		if (n > 0)
			take_bytes(v, bytes, (size_t)n);
	}
}

/* A terminal is looked at by edges: in the background it would be readable all the time. */
static void open_keyboard(struct develop *v)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	struct epoll_event e = {.events = EPOLLIN | EPOLLET};
	bool terminal = isatty(STDIN_FILENO);

	(void)sigaction(SIGTTIN, &ignore, NULL);
	v->edges = terminal ? epoll_create1(EPOLL_CLOEXEC) : -1;
	if (v->edges >= 0 && epoll_ctl(v->edges, EPOLL_CTL_ADD, STDIN_FILENO, &e) < 0)
		v->edges = close_fd(v->edges);
	if (v->edges >= 0)
		ev_io_init(&v->keyboard, on_keyboard, v->edges, EV_READ);
	else
		ev_io_init(&v->keyboard, on_input, STDIN_FILENO, EV_READ);
	v->keyboard.data = v;
	ev_io_start(v->daemon->loop, &v->keyboard);
	v->started = terminal ? STDIN_FILENO : isatty(STDOUT_FILENO) ? STDOUT_FILENO : -1;
}

bool develop_hung_up(const struct daemon *d)
{
	return d->develop && d->develop->started >= 0 && !isatty(d->develop->started);
}

/* ---- the whole ---- */

void develop_stranded(void *data, int fd, const char *path)
{
	struct daemon *d = data;

	relay_add(d->develop->relays, fd, path);
}

/* One port for all services: that of the first one which asks for it. */
static void open_browsers(struct develop *v, const struct config *c)
{
	struct ho_error error = {0};

	for (size_t i = 0; i < c->n_services && !v->browsers; i++)
		if (c->services[i].dev.live_reload &&
		        browsers_new(v->daemon->loop, (uint16_t)c->services[i].dev.live_reload,
		                &v->browsers, &error) < 0) {
			say(v, TERMINAL_BAD, "%s", error.text);
			return;
		}
}

int develop_new(struct daemon *d, struct ho_error *reterr)
{
	struct develop *v = calloc(1, sizeof *v);
	const char *level = getenv("HANDOFF_LOG");
	int r;

	if (!v)
		return ho_error_set(reterr, -ENOMEM, "not enough memory");
	v->daemon = d;
	v->level = level && !strcmp(level, "debug") ? RECORD_DEBUG : RECORD_WARNING;
	v->relays = relays_new(d->loop);
	r = v->relays ? terminal_new(d->loop, STDOUT_FILENO, &v->terminal, reterr)
	              : ho_error_set(reterr, -ENOMEM, "not enough memory");
	if (r < 0) {
		relays_free(v->relays);
		free(v);
		return r;
	}
	terminal_name(v->terminal, "handoffd");
	open_keyboard(v);
	d->develop = v;
	d->supervisor->development = true;
	log_sink(on_record, v);
	return 0;
}

void develop_begin(struct daemon *d)
{
	struct develop *v = d->develop;

	for (size_t i = 0; v && i < d->source.config->n_services; i++)
		terminal_name(v->terminal, d->source.config->services[i].name);
	if (v)
		open_browsers(v, d->source.config);
}

/* ---- from one handoffd to the next ---- */

json_t *develop_save(const struct daemon *d, struct saver *v)
{
	const struct develop *from = d->develop;
	json_t *j = json_object();

	save_member(v, j, "last_request", json_integer(from->last_request));
	save_member(v, j, "line", save_text(from->line, from->length));
	save_member(v, j, "too_long", json_boolean(from->too_long));
	save_member(v, j, "relays", relays_save(from->relays, v));
	return j;
}

void develop_load(struct daemon *d, const json_t *from, struct loader *l)
{
	struct develop *v = d->develop;
	_cleanup_free_ char *line = NULL;
	size_t n = 0;

	if (!v || !from)
		return;
	line = load_text(l, json_object_get(from, "line"), &n);
	if (line && n < sizeof v->line) {
		memcpy(v->line, line, n);
		v->length = n;
	}
	v->too_long = json_is_true(json_object_get(from, "too_long"));
	v->last_request = (uint32_t)load_number(from, "last_request");
	relays_load(v->relays, json_object_get(from, "relays"), l);
}

void develop_flush(const struct daemon *d)
{
	if (d->develop)
		terminal_flush(d->develop->terminal);
}

void develop_free(struct daemon *d)
{
	struct develop *v = d->develop;

	if (!v)
		return;
	log_sink(NULL, NULL);
	ev_io_stop(d->loop, &v->keyboard);
	(void)close_fd(v->edges);
	relays_free(v->relays);
	browsers_free(v->browsers);
	terminal_free(v->terminal);
	free(v);
	d->develop = NULL;
}
