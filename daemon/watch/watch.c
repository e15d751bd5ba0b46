/* SPDX-License-Identifier: MIT */
/* The watcher: inotify or the clock on one side, roots and their trees on the other. */
#include "watch/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "system/fd.h"

#define MASK                                                                                       \
	(IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MODIFY | IN_CLOSE_WRITE |        \
	        IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR | IN_EXCL_UNLINK)
#define READS_MAX 64 /* of one wake-up */
#define POLL_USEC (1 * USEC_PER_SEC)
/* Looking may take this part of the time. */
#define POLL_SHARE 20

void watcher_report(struct watcher *w, const char *path, enum file_change change)
{
	if (w->quiet)
		return;
	for (unsigned i = w->n_reports; i-- > 0;) {
		if (strcmp(w->reports[i].path, path) != 0)
			continue;
		if ((w->reports[i].change == FILE_GONE) == (change == FILE_GONE))
			return; /* once is enough */
		break;
	}
	if (w->n_reports < REPORT_MAX) {
		w->reports[w->n_reports].change = change;
		w->reports[w->n_reports].path = strdup(path);
		if (w->reports[w->n_reports].path) {
			w->n_reports++;
			return;
		}
	}
	w->more++;
}

static void deliver(struct watcher *w)
{
	unsigned n = w->n_reports, more = w->more;

	w->digested = false;
	w->n_reports = w->more = 0;
	for (unsigned i = 0; i < n; i++) {
		w->handlers.changed(w->handlers.data, w->reports[i].path, w->reports[i].change,
		        i + 1 < n ? 0 : more);
		free(w->reports[i].path);
	}
}

void watcher_note(struct watcher *w, bool *told, const char *format, ...)
{
	char text[300];
	va_list ap;

	if (*told)
		return;
	*told = true;
	va_start(ap, format);
	(void)vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	w->handlers.note(w->handlers.data, text);
}

/* ---- subscriptions ---- */

static void poll_instead(struct watcher *w, int error)
{
	w->polling = true;
	if (w->poll == USEC_INFINITY)
		watcher_note(w, &w->polling_told,
		        "%s: the files are looked at every second instead%s",
		        error == ENOSPC   ? "there are no inotify watches left "
		                            "(fs.inotify.max_user_watches)"
		        : error == EMFILE ? "there are no inotify instances left "
		                            "(fs.inotify.max_user_instances)"
		                          : strerror(error),
		        error == ENOSPC || error == EMFILE
		                ? "; raise the limit with sysctl(8), or ignore more in watch-ignore"
		                : "");
}

void watcher_subscribe(struct watcher *w, struct subscription *s, const char *path)
{
	struct subscription **bucket;

	if (w->fd < 0 || w->polling)
		return;
	s->wd = inotify_add_watch(w->fd, path, MASK);
	if (s->wd < 0) {
		/* what has gone meanwhile, or may not be read, is seen by those around it */
		if (errno == ENOSPC || errno == ENOMEM)
			poll_instead(w, errno);
		return;
	}
	bucket = &w->by_wd[(unsigned)s->wd % WD_BUCKETS];
	s->next = *bucket;
	*bucket = s;
}

void watcher_unsubscribe(struct watcher *w, struct subscription *s)
{
	struct subscription **at;
	bool others = false;

	if (s->wd < 0)
		return;
	for (at = &w->by_wd[(unsigned)s->wd % WD_BUCKETS]; *at && *at != s; at = &(*at)->next)
		;
	if (*at)
		*at = s->next;
	for (const struct subscription *o = w->by_wd[(unsigned)s->wd % WD_BUCKETS]; o; o = o->next)
		others |= o->wd == s->wd;
	if (!others && w->fd >= 0)
		(void)inotify_rm_watch(w->fd, s->wd);
	s->wd = -1;
}

/* ---- what inotify says ---- */

static void tell(struct watcher *w, struct subscription *s, const struct inotify_event *e)
{
	const char *name = e->len ? e->name : "";
	struct node *n = s->node;

	if (!n) {
		if (!*name || (s->name && !strcmp(s->name, name))) {
			s->root->dirty = true;
			s->root->written |= (e->mask & IN_MODIFY) != 0;
		}
		return;
	}
	if (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT)) {
		s->root->dirty |= !n->parent;
		return;
	}
	if (!*name)
		return;
	if (!strcmp(name, ".gitignore")) {
		w->rescan = true;
		return;
	}
	node_look(n, name, e->mask & IN_MODIFY);
}

static void one_event(struct watcher *w, const struct inotify_event *e)
{
	struct subscription *first, *s;
	unsigned done = 0, at;

	if (e->mask & IN_Q_OVERFLOW) {
		w->rescan = true;
		return;
	}
	/* Directories may be added and dropped meanwhile: those not served yet are found anew. */
	do {
		first = w->by_wd[(unsigned)e->wd % WD_BUCKETS];
		at = 0;
		for (s = first; s; s = s->next)
			if (s->wd == e->wd && at++ == done)
				break;
		if (s)
			tell(w, s, e);
		done++;
	} while (s && done < 64);
}

static void scan_all(struct watcher *w, bool quiet)
{
	w->quiet |= quiet;
	w->rescan = true;
	w->stamp++;
	for (size_t i = 0; i < w->n_roots; i++) {
		root_refresh(&w->roots[i]);
		if (w->roots[i].top)
			node_scan(w->roots[i].top);
	}
	w->rescan = false;
	w->quiet = false;
}

static void after_events(struct watcher *w)
{
	if (w->rescan)
		scan_all(w, false);
	for (size_t i = 0; i < w->n_roots; i++)
		if (w->roots[i].dirty)
			root_refresh(&w->roots[i]);
	deliver(w);
}

static void start_polling(struct watcher *w);

static void read_events(struct watcher *w)
{
	_Alignas(struct inotify_event) char bytes[16384];
	ssize_t n;

	for (int i = 0; i < READS_MAX && w->fd >= 0; i++) {
		n = read(w->fd, bytes, sizeof bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		for (char *p = bytes; p < bytes + n;) {
			const struct inotify_event *e = (const void *)p;

			one_event(w, e);
			p += sizeof *e + e->len;
		}
	}
	after_events(w);
	if (w->polling)
		start_polling(w);
}

static void on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	read_events(io->data);
}

/* ---- polling ---- */

static void look(struct watcher *w)
{
	scan_all(w, false);
	deliver(w);
}

static void on_tick(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct watcher *w = timer->data;
	usec_t start = now_usec(), wait = w->poll == USEC_INFINITY ? POLL_USEC : w->poll, took;

	(void)events;
	look(w);
	took = now_usec() - start;
	if (wait < POLL_SHARE * took)
		wait = POLL_SHARE * took;
	ev_timer_set(timer, (double)wait / USEC_PER_SEC, 0.);
	ev_timer_start(loop, timer);
}

static void start_polling(struct watcher *w)
{
	usec_t wait = w->poll == USEC_INFINITY ? POLL_USEC : w->poll;

	if (ev_is_active(&w->timer))
		return;
	if (w->fd >= 0) {
		ev_io_stop(w->loop, &w->io);
		w->fd = close_fd(w->fd);
	}
	ev_timer_set(&w->timer, (double)wait / USEC_PER_SEC, 0.);
	ev_timer_start(w->loop, &w->timer);
}

/* ---- the whole ---- */

static int make_ignores(struct watcher *w, const struct string_list *user)
{
	int r;

	w->user = ignore_new();
	w->defaults = ignore_new();
	r = w->user && w->defaults ? ignore_add_defaults(w->defaults) : -ENOMEM;
	for (size_t i = 0; r == 0 && i < user->count; i++) {
		const char *line = user->items[i];

		line += strncmp(line, "./", 2) ? 0 : 2;
		r = ignore_add(w->user, line, strlen(line));
	}
	return r;
}

static int init(struct watcher *w, const struct watch_options *o)
{
	int r = make_ignores(w, o->ignore);

	w->base = strdup(o->base);
	w->roots = calloc(o->paths->count + 1, sizeof *w->roots);
	if (!w->base || !w->roots)
		r = -ENOMEM;
	if (r == 0 && w->poll == USEC_INFINITY) {
		w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
		if (w->fd < 0)
			poll_instead(w, errno);
	}
	w->quiet = true;
	for (size_t i = 0; r == 0 && i < o->paths->count; i++) {
		bool told = false;

		r = root_init(&w->roots[i], w, o->paths->items[i]);
		w->n_roots++;
		if (r == 0 && !w->roots[i].seen.mode) /* a slip of the pen, perhaps */
			watcher_note(w, &told, "there is no \"%s\" to be watched yet",
			        o->paths->items[i]);
	}
	w->quiet = false;
	return r;
}

int watcher_new(struct ev_loop *loop, const struct watch_options *options,
        const struct watch_handlers *handlers, struct watcher **ret, struct ho_error *reterr)
{
	struct watcher *w = calloc(1, sizeof *w);
	int r;

	if (!w)
		return ho_error_set(reterr, -ENOMEM, "no memory to watch files");
	w->loop = loop;
	w->handlers = *handlers;
	w->fd = -1;
	w->poll = options->poll;
	w->polling = w->poll != USEC_INFINITY;
	ev_io_init(&w->io, on_readable, -1, EV_READ);
	ev_init(&w->timer, on_tick);
	w->io.data = w->timer.data = w;
	r = init(w, options);
	if (r < 0) {
		(void)watcher_free(w);
		return ho_error_set(reterr, r, "no memory to watch files");
	}
	if (w->polling) {
		start_polling(w);
	} else {
		ev_io_set(&w->io, w->fd, EV_READ);
		ev_io_start(loop, &w->io);
	}
	*ret = w;
	return 0;
}

struct watcher *watcher_free(struct watcher *w)
{
	if (!w)
		return NULL;
	ev_io_stop(w->loop, &w->io);
	ev_timer_stop(w->loop, &w->timer);
	w->fd = close_fd(w->fd);
	for (size_t i = 0; i < w->n_roots; i++)
		root_done(&w->roots[i]);
	for (unsigned i = 0; i < w->n_reports; i++)
		free(w->reports[i].path);
	free(w->roots);
	free(w->base);
	ignore_free(w->user);
	ignore_free(w->defaults);
	free(w);
	return NULL;
}

uint64_t watcher_digest(struct watcher *w)
{
	if (w->digested)
		return w->digest;
	w->digest = UINT64_C(0xcbf29ce484222325);
	for (size_t i = 0; i < w->n_roots; i++) {
		const struct root *r = &w->roots[i];

		if (r->pointer && r->target)
			w->digest = digest_add(w->digest, r->target, strlen(r->target) + 1);
		else if (!r->pointer)
			w->digest = seen_digest(&r->seen, w->digest);
		if (r->top)
			w->digest = node_digest(r->top, w->digest);
	}
	w->digested = true;
	return w->digest;
}

void watcher_flush(struct watcher *w)
{
	if (w->fd >= 0)
		read_events(w);
	else
		look(w);
}
