/* SPDX-License-Identifier: MIT */
/* Watchers and builds of services: what they tell becomes events. */
#include "daemon.h"
#include "process/save.h"
#include "system/log.h"
#include "watch/watch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- watching ---- */

static void on_changed(void *data, const char *path, enum file_change change, unsigned more)
{
	const struct live_watch *w = data;
	struct event ev = {.type = EVENT_FILES_CHANGED, .service = w->service, .text = path};

	ev.files.change = change;
	ev.files.more = more;
	daemon_post(w->daemon, &ev);
}

static void on_note(void *data, const char *text)
{
	struct live_watch *w = data;
	struct record r = {.type = RECORD_WATCH_NOTE, RECORD_NONE};

	r.service = w->settings->name;
	r.text = text;
	log_record(&r);
	if (w->daemon->control)
		control_publish(w->daemon->control, &r);
}

static struct live_watch *free_watch(struct live_watch *w)
{
	watcher_free(w->watcher);
	config_unref(w->config);
	free(w->base);
	free(w);
	return NULL;
}

void daemon_forget_watch(struct daemon *d, uint32_t service)
{
	struct live_watch **at, *w;

	for (at = &d->watches; *at && (*at)->service != service; at = &(*at)->next)
		;
	w = *at;
	if (!w)
		return;
	*at = w->next;
	free_watch(w);
}

static bool same_list(const struct string_list *a, const struct string_list *b)
{
	for (size_t i = 0; i < a->count && i < b->count; i++)
		if (strcmp(a->items[i], b->items[i]) != 0)
			return false;
	return a->count == b->count;
}

/* Relative paths start where the program runs. */
static char *base_of(const struct service_config *s)
{
	char here[PATH_MAX], *base = NULL;

	if (s->directory && s->directory[0] == '/')
		return strdup(s->directory);
	if (!getcwd(here, sizeof here))
		return NULL;
	if (asprintf(&base, s->directory ? "%s/%s" : "%s", here, s->directory) < 0)
		return NULL;
	return base;
}

static bool is_current(const struct live_watch *w, const struct service_config *s, const char *base)
{
	return w && !strcmp(w->base, base) && same_list(&w->settings->watch, &s->watch) &&
	       same_list(&w->settings->watch_ignore, &s->watch_ignore) &&
	       w->settings->watch_poll == s->watch_poll;
}

/* What has changed while nobody looked: between one handoffd and the next. */
static void look_back(const struct live_watch *w)
{
	const json_t *item;
	size_t i;

	json_array_foreach(w->daemon->watched, i, item)
	{
		struct event ev = {.type = EVENT_FILES_CHANGED,
		        .service = w->service,
		        .text = "files",
		        .files.change = FILE_WRITTEN};

		if (load_number(item, "service") == w->service &&
		        load_number(item, "digest") != watcher_digest(w->watcher))
			daemon_post(w->daemon, &ev);
	}
}

static int begin_watch(struct daemon *d, const struct service *sv, char *base, struct ho_error *e)
{
	const struct service_config *s = sv->wanted_settings;
	struct watch_options options = {.base = base,
	        .paths = &s->watch,
	        .ignore = &s->watch_ignore,
	        .poll = s->watch_poll};
	struct watch_handlers handlers = {.changed = on_changed, .note = on_note};
	struct live_watch *w = calloc(1, sizeof *w);
	int r;

	if (!w) {
		free(base);
		return ho_error_set(e, -ENOMEM, "no memory to watch files");
	}
	*w = (struct live_watch){.daemon = d,
	        .service = sv->id,
	        .config = config_ref(sv->wanted),
	        .settings = s,
	        .base = base};
	handlers.data = w;
	r = watcher_new(d->loop, &options, &handlers, &w->watcher, e);
	if (r < 0) {
		free_watch(w);
		return r;
	}
	w->next = d->watches;
	d->watches = w;
	look_back(w);
	return 0;
}

void daemon_watch_files(struct daemon *d, const struct action *a)
{
	const struct service *sv = supervisor_service(d->supervisor, a->service);
	const struct service_config *s = sv ? sv->wanted_settings : NULL;
	struct ho_error error = {.text = "no memory to watch files"};
	struct live_watch *w;
	char *base;
	int r;

	for (w = d->watches; w && w->service != a->service; w = w->next)
		;
	if (!s || !s->watch.count) {
		daemon_forget_watch(d, a->service);
		return;
	}
	base = base_of(s);
	if (base && is_current(w, s, base)) {
		free(base);
		return;
	}
	daemon_forget_watch(d, a->service);
	r = base ? begin_watch(d, sv, base, &error) : -ENOMEM;
	if (r < 0)
		log_line(RECORD_ERROR, "changes of files of service \"%s\" are not seen: %s",
		        s->name, error.text);
}

/* ---- builds ---- */

static void on_build_output(void *data, bool is_stderr, const char *line, size_t length)
{
	const struct live_build *b = data;

	develop_output(b->daemon, b->name, is_stderr, line, length);
}

static void drop_build(struct live_build *b)
{
	struct live_build **at;

	for (at = &b->daemon->builds; *at != b; at = &(*at)->next)
		;
	*at = b->next;
	free(b);
}

static void tell_ended(const struct live_build *b, struct exit_info how, const char *text)
{
	struct event ev = {.type = EVENT_BUILD_ENDED,
	        .service = b->service,
	        .generation = b->generation,
	        .text = text};

	/* What it wrote last is told before its end. */
	for (struct live_watch *w = b->daemon->watches; w; w = w->next)
		if (w->service == b->service)
			watcher_flush(w->watcher);
	ev.exited.code = how.code;
	ev.exited.status = how.status;
	daemon_post(b->daemon, &ev);
}

static void on_build_ended(void *data, struct exit_info how, const char *tail)
{
	tell_ended(data, how, tail);
	drop_build(data);
}

void daemon_start_build(struct daemon *d, const struct action *a, struct release *release)
{
	struct live_build *b = calloc(1, sizeof *b);
	struct live_build lost = {.daemon = d, .service = a->service, .generation = a->generation};
	struct build_handlers handlers = {.output = on_build_output, .ended = on_build_ended};
	struct ho_error error = {.text = "not enough memory for a build"};
	int r = -ENOMEM;

	if (b) {
		*b = lost;
		(void)copy_string(b->name, sizeof b->name, release->service->name);
		b->next = d->builds;
		d->builds = b;
		handlers.data = b;
		handlers.follows = d->source.development;
		r = process_start_build(d->processes, release, &handlers, &b->build, &error);
	}
	if (r == 0)
		return;
	if (b)
		drop_build(b);
	tell_ended(&lost, (struct exit_info){0}, error.text);
}

/* ---- from one handoffd to the next ---- */

/* clang-format off */
static const struct field build_fields[] = {
        FIELD(live_build, service),
        FIELD(live_build, generation),
        FIELD(live_build, name),
        FIELD_NOT(live_build, daemon),
        FIELD_NOT(live_build, next),
        FIELD_NOT(live_build, build),
};
/* clang-format on */

json_t *changes_save(const struct daemon *d, struct saver *v)
{
	json_t *list = json_array();

	for (const struct live_build *b = d->builds; b; b = b->next) {
		json_t *j = save_fields(v, build_fields, ARRAY_SIZE(build_fields), b);

		save_member(v, j, "process", build_save(b->build, v));
		save_item(v, list, j);
	}
	return list;
}

json_t *changes_watched(const struct daemon *d)
{
	json_t *list = json_array();

	for (const struct live_watch *w = d->watches; w; w = w->next)
		(void)json_array_append_new(
		        list, json_pack("{s:I, s:I}", "service", (json_int_t)w->service, "digest",
		                      (json_int_t)watcher_digest(w->watcher)));
	return list;
}

static void load_build(struct daemon *d, const json_t *from, struct loader *l)
{
	struct build_handlers handlers = {.output = on_build_output, .ended = on_build_ended};
	struct live_build *b = calloc(1, sizeof *b);
	const struct live_generation *g;
	const struct generation *cg;
	struct service *sv;

	if (!b) {
		load_failed(l, "memory is short");
		return;
	}
	load_fields(l, from, build_fields, ARRAY_SIZE(build_fields), b);
	b->daemon = d;
	b->next = d->builds;
	d->builds = handlers.data = b;
	sv = supervisor_service(d->supervisor, b->service);
	cg = sv ? service_find(sv, b->generation) : NULL;
	g = cg ? cg->shell : NULL;
	if (g && g->release)
		b->build = process_load_build(
		        d->processes, g->release, &handlers, json_object_get(from, "process"), l);
	if (!b->build) /* it was ended with the handoffd that had begun it */
		drop_build(b);
}

void changes_load(struct daemon *d, const json_t *from, struct loader *l)
{
	for (size_t i = json_array_size(from); i-- > 0 && !l->failed;)
		load_build(d, json_array_get(from, i), l);
}

void daemon_stop_build(struct daemon *d, const struct action *a)
{
	for (struct live_build *b = d->builds; b; b = b->next)
		if (b->service == a->service && b->generation == a->generation) {
			build_stop(b->build);
			return;
		}
}

void changes_free(struct daemon *d)
{
	while (d->watches)
		daemon_forget_watch(d, d->watches->service);
	while (d->builds) {
		build_free(d->builds->build);
		drop_build(d->builds);
	}
}
