/* SPDX-License-Identifier: MIT */
/* handoffd's status as handoffd sends it; nothing is asked for again and again. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"
#include "wire/interface.h"

struct view {
	int (*draw)(void *data, FILE *f, json_t *status, unsigned columns);
	void *data;
	struct screen *screen; /* NULL: one behind the other */
};

static int show(const struct view *v, json_t *reply)
{
	json_t *status = json_object_get(reply, "status");
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *f = v->screen ? open_memstream(&text, &size) : stdout;
	int r;

	if (!json_is_object(status))
		return complain(CODE_FAILED, "handoffd answered without a status");
	if (!f)
		return complain(CODE_FAILED, "memory is short");
	r = v->draw(v->data, f, status, v->screen ? screen_columns(v->screen) : terminal_columns());
	if (!v->screen) {
		(void)fflush(stdout);
		return r;
	}
	if (fclose(f))
		return r ? r : complain(CODE_FAILED, "memory is short");
	if (!r)
		screen_show(v->screen, text);
	return r;
}

/* SCREEN_READABLE: perhaps. */
static enum screen_event wait_for(const struct view *v, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (v->screen)
		return screen_wait(v->screen, fd);
	(void)poll(&p, 1, -1);
	return SCREEN_READABLE;
}

static int follow(struct client *c, const struct view *v)
{
	_cleanup_json_ json_t *last = NULL;
	enum screen_event event = SCREEN_READABLE;
	int r = CLIENT_NOTHING;

	while (event != SCREEN_QUIT && !ferror(stdout)) {
		_cleanup_json_ json_t *reply = NULL;

		if (event == SCREEN_READABLE)
			r = client_receive_now(c, &reply, NULL, NULL);
		if (r > 0)
			return r;
		if (reply) {
			json_decref(last);
			last = json_incref(reply);
		}
		if (last && (reply || event == SCREEN_RESIZED)) {
			int shown = show(v, last);

			if (shown)
				return shown;
		}
		event = reply ? SCREEN_READABLE : wait_for(v, c->fd);
	}
	return 0;
}

int watch(const struct ctl *ctl, bool on_screen,
        int (*draw)(void *data, FILE *f, json_t *status, unsigned columns), void *data)
{
	struct view v = {draw, data, NULL};
	struct client c;
	int r = client_follow(&c, ctl, INTERFACE_MANAGER ".Monitor", json_object());

	if (r)
		return r;
	if (on_screen)
		r = screen_open(&v.screen);
	if (!r)
		r = follow(&c, &v);
	v.screen = screen_close(v.screen);
	client_close(&c);
	return r;
}
