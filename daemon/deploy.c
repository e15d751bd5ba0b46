/* SPDX-License-Identifier: MIT */
/* The release link: moved for a deploy after everything that can be looked at was found good, and
 * back again when the deploy comes to nothing. */
#include "daemon.h"
#include "system/log.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void remember(const struct live_generation *g, const char *text)
{
	struct daemon *d = g->daemon;
	struct link_word *w = &d->link_words[d->n_link_words++ % LINK_WORDS_MAX];

	(void)copy_string(w->text, sizeof w->text, text);
	w->service = g->service;
	w->generation = g->generation;
}

const char *daemon_link_word(const struct daemon *d, const struct result *r)
{
	const struct service *sv = supervisor_find(d->supervisor, r->service);
	bool moves = r->request == REQUEST_DEPLOY || r->request == REQUEST_ROLLBACK;

	for (unsigned i = 0; sv && moves && i < LINK_WORDS_MAX; i++) {
		const struct link_word *w = &d->link_words[i];

		if (w->service == sv->id && w->generation == r->generation)
			return w->text;
	}
	return NULL;
}

static void tell(struct live_generation *g, enum record_type type, const char *format, ...)
        _printf_(3, 4);
static void tell(struct live_generation *g, enum record_type type, const char *format, ...)
{
	struct daemon *d = g->daemon;
	const struct service *sv = supervisor_service(d->supervisor, g->service);
	struct record r = {.type = type, RECORD_NONE};
	char text[2 * PATH_MAX];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	r.service = sv ? sv->name : NULL;
	r.generation = g->generation;
	r.text = text;
	log_record(&r);
	if (d->control)
		control_publish(d->control, &r);
	daemon_tell_waiting(d, g->service, &r);
	if (type == RECORD_RELEASE_RESTORED)
		remember(g, text);
}

/* A program that is named by a path can be looked at before it is started. */
static int check_command(
        const struct service_config *s, const char *directory, struct ho_error *reterr)
{
	const char *program = s->command.items[0];
	_cleanup_free_ char *path = NULL;

	if (!strchr(program, '/') || strchr(program, '{'))
		return 0;
	if (program[0] == '/')
		path = strdup(program);
	else if (asprintf(&path, "%s/%s", directory, program) < 0)
		path = NULL;
	if (!path)
		return ho_error_set(reterr, -ENOMEM, "no memory to look at a release");
	if (access(path, X_OK) < 0)
		return ho_error_set(reterr, -errno,
		        "the command \"%.300s\" of the release cannot be executed: %s", path,
		        strerror(errno));
	return 0;
}

int daemon_release(const struct generation *cg, const struct prepare *how,
        struct live_generation *g, struct ho_error *reterr)
{
	const struct service_config *s = cg->settings;
	_cleanup_free_ char *configured = NULL;
	_cleanup_free_ char *directory = NULL;
	int r = 0;

	if (how->link && !s->directory)
		return ho_error_set(reterr, -EINVAL,
		        "service \"%s\" has no directory; set it to the link that leads to the "
		        "release",
		        s->name);
	if (how->link) {
		r = release_directory(cg->config, s, cg->id, &configured, reterr);
		if (r >= 0)
			r = link_plan(configured, how->release, how->confined, &g->link, &directory,
			        reterr);
		if (r >= 0)
			r = check_command(s, directory, reterr);
	} else if (how->release) {
		directory = strdup(how->release);
		if (!directory)
			r = ho_error_set(reterr, -ENOMEM, "no memory for a release");
	}
	if (r >= 0)
		r = release_new_at(cg->config, s, cg->id, directory, &g->release, reterr);
	if (r >= 0)
		g->release->environment_name = cg->config->environment;
	return r;
}

int daemon_move_link(struct live_generation *g, struct ho_error *reterr)
{
	int r = link_apply(&g->link, reterr);

	if (r >= 0)
		tell(g, RECORD_RELEASE_LINKED, "%s -> %s (before: %s)", g->link.path, g->link.after,
		        g->link.before ? g->link.before : "none");
	return r;
}

/* A later deploy has moved it on already, be it to the same release: that would go back to where
 * this one had led it. Returns whether there is one. */
static bool mend_later(struct daemon *d, const struct live_generation *g)
{
	const struct service *sv = supervisor_service(d->supervisor, g->service);

	for (unsigned i = 0; sv && i < sv->n_generations; i++) {
		struct live_generation *o = sv->generations[i]->shell;
		char *before;

		if (!o || o->generation <= g->generation || !o->link.before ||
		        strcmp(o->link.path, g->link.path) != 0 ||
		        strcmp(o->link.before, g->link.after) != 0)
			continue;
		before = g->link.before ? strdup(g->link.before) : NULL;
		if (g->link.before && !before)
			return true;
		free(o->link.before);
		o->link.before = before;
		return true;
	}
	return false;
}

static const struct field link_fields[] = {
        FIELD(link_change, path),
        FIELD(link_change, before),
        FIELD(link_change, after),
};

/* Of those that are about to go with their generation. */
json_t *deploy_save(const struct daemon *d, struct saver *v)
{
	const struct action_list *l = &d->actions;
	json_t *list = json_array();

	for (size_t i = l->carried; i < l->n; i++) {
		const struct action *a = &l->items[i];
		const struct live_generation *g = a->shell;
		const struct service *sv = supervisor_service(d->supervisor, a->service);

		if (a->type == ACTION_RESTORE_LINK && g && g->link.path &&
		        !(sv && service_find(sv, a->generation)))
			save_item(v, list,
			        save_fields(v, link_fields, ARRAY_SIZE(link_fields), &g->link));
	}
	return list;
}

void deploy_load(const json_t *from, struct loader *l)
{
	const json_t *item;
	size_t i;

	json_array_foreach(from, i, item)
	{
		struct link_change c = {0};
		struct ho_error error = {0};

		load_fields(l, item, link_fields, ARRAY_SIZE(link_fields), &c);
		if (c.path && c.after && link_undo(&c, &error) < 0)
			log_line(RECORD_ERROR, "%s", error.text);
		link_change_done(&c);
	}
}

void daemon_restore_link(struct daemon *d, const struct action *a)
{
	struct live_generation *g = a->shell;
	struct ho_error error = {0};
	int r;

	if (!g || !g->link.path)
		return;
	r = mend_later(d, g) ? 1 : link_undo(&g->link, &error);
	if (r == 0)
		tell(g, RECORD_RELEASE_RESTORED, "%s -> %s again", g->link.path,
		        g->link.before ? g->link.before : "nothing");
	else
		tell(g, RECORD_RELEASE_RESTORED, "%s was not put back: %s", g->link.path,
		        r < 0 ? error.text : "something else has changed it since");
	link_change_done(&g->link);
}

/* How much of `release` follows the link in the service's directory. */
static char *without_rest(const char *release, const char *directory, const char *link)
{
	const char *rest = directory + strlen(link);
	size_t n = strlen(release), k = strlen(rest);

	while (k && rest[k - 1] == '/')
		k--;
	if (n > k && !strncmp(release + n - k, rest, k))
		return strndup(release, n - k);
	return NULL;
}

static int point(
        struct live_generation *g, const char *from, struct link_change *c, struct ho_error *reterr)
{
	const struct service_config *s = g->release->service;
	_cleanup_free_ char *directory = NULL;
	_cleanup_free_ char *link = NULL;
	_cleanup_free_ char *target = NULL;
	_cleanup_free_ char *there = NULL;
	int r = release_directory(g->release->config, s, g->generation, &directory, reterr);

	if (r < 0)
		return r;
	if (!strcmp(g->release->directory, from) || !link_leads_to(directory, from))
		return 1; /* it leads elsewhere: somebody knows better */
	link = link_find(directory);
	target = link ? without_rest(g->release->directory, directory, link) : NULL;
	if (!target)
		return 1; /* no link on the way: nothing to be pointed */
	r = link_plan(directory, target, false, c, &there, reterr);
	return r < 0 ? r : link_apply(c, reterr);
}

void daemon_point_back(struct daemon *d, const struct action *a)
{
	struct live_generation *g = a->shell;
	struct link_change c = {0};
	struct ho_error error = {0};
	int r;

	(void)d;
	if (!g || !g->release || !g->release->service->directory)
		return;
	r = point(g, a->from, &c, &error);
	if (r == 0)
		tell(g, RECORD_RELEASE_RESTORED, "%s -> %s", c.path, c.after);
	else if (r < 0)
		tell(g, RECORD_RELEASE_RESTORED, "the release link was not put back: %s",
		        error.text);
	link_change_done(&c);
}
