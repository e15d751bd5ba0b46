/* SPDX-License-Identifier: MIT */
#include "past.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "process/save.h"
#include "snapshot.h"
#include "sockets/save.h"
#include "system/fd.h"
#include "system/log.h"
#include "upgrade.h"

static int begin(struct past *p, bool crashed, struct ho_error *reterr)
{
	p->crashed = crashed;
	p->loader = calloc(1, sizeof *p->loader);
	if (!p->loader)
		return ho_error_set(reterr, -ENOMEM, "not enough memory");
	loader_begin(p->loader, json_object_get(p->doc, "fds"));
	return 0;
}

int past_find(struct daemon *d, struct past *p, struct ho_error *reterr)
{
	int r;

	p->doc = upgrade_take();
	if (p->doc)
		return begin(p, false, reterr);
	r = systemd_listen_fds(&d->passed, &d->passed_names, reterr);
	if (r < 0)
		return r;
	d->n_passed = r;
	p->doc = store_take_passed(&d->n_passed, d->passed, d->passed_names);
	return p->doc ? begin(p, true, reterr) : 0;
}

void past_find_file(struct daemon *d, struct past *p)
{
	if (p->doc || !d->control)
		return;
	p->doc = store_find_file(control_path(d->control));
	if (p->doc && begin(p, true, NULL) < 0)
		past_done(p);
}

/* Nothing can be made of it: all that is left of it ends, and everything is started anew. */
static int start_over(struct daemon *d, struct past *p, const char *why)
{
	log_line(RECORD_ERROR,
	        "cannot go on where the former handoffd was, everything is started anew: %s", why);
	processes_settle_strays(NULL, (pid_t)load_number(p->doc, "pid"), 0, NULL, NULL);
	store_open(d, d->control ? control_path(d->control) : NULL, p->doc, p->loader);
	store_close(d, true);
	d->control = control_free(d->control);
	upgrade_start_over();
	return -ECANCELED;
}

int past_load(struct daemon *d, struct past *p, struct ho_error *reterr)
{
	int r = snapshot_check_format(p->doc, reterr);

	if (r == 0 && snapshot_load(d, p->doc, p->loader) < 0)
		r = ho_error_set(reterr, -EBADMSG, "%s", p->loader->error.text);
	if (r < 0 && p->crashed)
		return start_over(d, p, reterr->text);
	return r;
}

void past_load_control(struct daemon *d, struct past *p, const struct control_options *options,
        const struct control_handlers *handlers)
{
	snapshot_connect(d, p->doc, p->loader, options, handlers);
	if (d->control)
		control_answer_upgrade(d->control, upgrade_came_back());
}

/* Steering may have been under way. */
static void steer_again(struct daemon *d)
{
	struct ho_error error = {0};

	for (size_t i = 0; i < d->supervisor->n_slots; i++) {
		const struct service *sv = d->supervisor->services[i];

		/* a turn that is made again tells by itself what came of it */
		if (sv && sv->turn == TURN_NONE && service_serving(sv) &&
		        daemon_steer(d, sv, &error) < 0)
			log_line(RECORD_ERROR, "%s", error.text);
	}
}

static void tell_not_asked(const struct service *sv, const struct generation *g)
{
	log_line(RECORD_WARNING,
	        "generation %u of service \"%s\" goes on with the sockets that it has bound; "
	        "bind(2) "
	        "and listen(2) of more would fail (ENOSYS) since handoffd died: reload it if it "
	        "does that",
	        g->id, sv->name);
}

/* Until a worker has said hello again it is known as one that has no channel, else it would be told
 * to drain by a message that it cannot get. */
static void find_lost(const struct service *sv, const struct generation *g)
{
	bool asked = true;

	for (unsigned i = 0; i < g->n_workers; i++) {
		struct worker *w = &g->workers[i];
		const struct live_worker *live = w->shell;

		if (live && !process_has_channel(live->process))
			w->hello = w->drains = false;
		asked &= !live || live->rest || process_is_asked(live->process);
	}
	if (!asked && g->adopted && !g->taken)
		tell_not_asked(sv, g);
}

/* What did not outlive the crash. */
static void find_all_lost(struct daemon *d)
{
	for (size_t i = 0; i < d->supervisor->n_slots; i++) {
		const struct service *sv = d->supervisor->services[i];

		for (unsigned k = 0; sv && k < sv->n_generations; k++)
			find_lost(sv, sv->generations[k]);
	}
}

void past_resume(struct daemon *d, struct past *p)
{
	find_all_lost(d);
	store_open(d, d->control ? control_path(d->control) : NULL, p->doc, p->loader);
	d->watched = json_object_get(p->doc, "watched");
	daemon_resume(d, p->crashed);
	d->watched = NULL;
	if (p->crashed)
		steer_again(d);
	daemon_watch_rests(d);
	past_done(p);
}

void past_done(struct past *p)
{
	if (p->loader)
		loader_done(p->loader);
	free(p->loader);
	json_decref(p->doc);
	*p = (struct past){0};
}
