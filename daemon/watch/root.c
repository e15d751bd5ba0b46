/* SPDX-License-Identifier: MIT */
/* One path of the configuration: where it leads, through which links, and what is there. */
#include "watch/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "system/fd.h"
#include "watch/glob.h"

#define LINKS_MAX 40

/* ---- taking the text apart ---- */

/* "src/lib" of "./src/lib/" */
static void tidy(char *path)
{
	size_t n;

	while (!strncmp(path, "./", 2)) {
		n = 2 + strspn(path + 2, "/");
		memmove(path, path + n, strlen(path + n) + 1);
	}
	for (n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
		path[n - 1] = '\0';
	if (!strcmp(path, "."))
		path[0] = '\0';
}

/* The directories before the first component with a wildcard. */
static void cut_pattern(char *path)
{
	char *wild = path + strcspn(path, "*?[");

	while (wild > path && wild[-1] != '/')
		wild--;
	*wild = '\0';
	tidy(path);
}

/* .gitignore of the directories around the root, up to that of the repository. */
static void load_above(struct root *r)
{
	char path[PATH_MAX], *slash;

	if (!copy_string(path, sizeof path, r->path))
		return;
	for (size_t n = 0; n < ARRAY_SIZE(r->above) && (slash = strrchr(path, '/')) && slash > path;
	        n++) {
		_cleanup_close_ int fd = -1;
		bool top;

		/* is the root itself the top of a repository? */
		fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		top = fd >= 0 && faccessat(fd, ".git", F_OK, 0) == 0;
		if (n > 0 && fd >= 0) {
			r->above[r->n_above] = ignore_load(fd, ".gitignore");
			r->above_prefix[r->n_above] = strdup(r->path + strlen(path) + 1);
			if (r->above[r->n_above] && r->above_prefix[r->n_above])
				r->n_above++;
			else {
				r->above[r->n_above] = ignore_free(r->above[r->n_above]);
				free(r->above_prefix[r->n_above]);
			}
		}
		if (top)
			return;
		*slash = '\0';
	}
	/* No repository: what lies around has no say. */
	while (r->n_above) {
		r->n_above--;
		r->above[r->n_above] = ignore_free(r->above[r->n_above]);
		free(r->above_prefix[r->n_above]);
	}
}

int root_init(struct root *r, struct watcher *w, const char *path)
{
	size_t n = strlen(path);
	int made;

	*r = (struct root){.watcher = w, .follow = n && path[n - 1] == '/'};
	r->shown = strdup(path);
	if (!r->shown)
		return -ENOMEM;
	tidy(r->shown);
	if (glob_is_pattern(r->shown)) {
		r->pattern = strdup(r->shown);
		r->follow = true;
		cut_pattern(r->shown);
	}
	made = r->shown[0] == '/' || !*r->shown
	               ? asprintf(&r->path, "%s", *r->shown ? r->shown : w->base)
	               : asprintf(&r->path, "%s/%s", w->base, r->shown);
	if (made < 0 || (!r->pattern && glob_is_pattern(path)))
		return -ENOMEM;
	r->follow |= !*r->shown;
	load_above(r);
	root_refresh(r);
	return 0;
}

static void drop_points(struct root *r)
{
	struct subscription *s;

	while ((s = r->points)) {
		r->points = s->sibling;
		watcher_unsubscribe(r->watcher, s);
		free(s->name);
		free(s);
	}
}

void root_done(struct root *r)
{
	drop_points(r);
	r->top = node_free(r->top);
	for (size_t i = 0; i < r->n_above; i++) {
		ignore_free(r->above[i]);
		free(r->above_prefix[i]);
	}
	free(r->path);
	free(r->shown);
	free(r->pattern);
	free(r->target);
}

/* ---- the way ---- */

static void add_point(struct root *r, const char *directory, const char *name)
{
	struct subscription *s = calloc(1, sizeof *s);

	if (!s)
		return;
	*s = (struct subscription){.wd = -1, .root = r, .name = strdup(name), .sibling = r->points};
	r->points = s;
	if (s->name)
		watcher_subscribe(r->watcher, s, *directory ? directory : "/");
}

/* One component less. */
static void go_up(char *path)
{
	char *slash = strrchr(path, '/');

	if (slash)
		*slash = '\0';
}

struct way {
	char here[PATH_MAX]; /* resolved until now; "" is the root directory */
	char left[PATH_MAX]; /* not yet */
	unsigned links;
};

/* Puts the link's target before what is left. */
static bool follow_link(struct way *w, const char *path, const char *rest)
{
	char target[PATH_MAX], whole[PATH_MAX];
	struct text t = TEXT_ON(whole);
	ssize_t n = readlink(path, target, sizeof target - 1);

	if (n < 0 || ++w->links > LINKS_MAX)
		return false;
	target[n] = '\0';
	text_add(&t, "%s%s%s", target, *rest ? "/" : "", rest);
	if (t.cut)
		return false;
	if (target[0] == '/')
		w->here[0] = '\0';
	memcpy(w->left, whole, t.len + 1);
	return true;
}

/* One component; false: there is no way on. */
static bool walk_one(struct root *r, struct way *w)
{
	char name[NAME_MAX + 1], path[PATH_MAX], rest[PATH_MAX];
	struct text t = TEXT_ON(path);
	const char *at = w->left + strspn(w->left, "/");
	size_t n = strcspn(at, "/");
	struct stat st;
	bool last;

	if (n == 0) {
		w->left[0] = '\0';
		return true;
	}
	if (n > NAME_MAX)
		return false;
	memcpy(name, at, n);
	name[n] = '\0';
	at += n;
	at += strspn(at, "/");
	last = !*at;
	memcpy(rest, at, strlen(at) + 1);
	memmove(w->left, at, strlen(at) + 1);
	if (!strcmp(name, "."))
		return true;
	if (!strcmp(name, "..")) {
		go_up(w->here);
		return true;
	}
	text_add(&t, "%s/%s", w->here, name);
	if (t.cut)
		return false;
	if (lstat(path, &st) < 0) {
		add_point(r, w->here, name);
		return false;
	}
	if (last || S_ISLNK(st.st_mode))
		add_point(r, w->here, name);
	if (!S_ISLNK(st.st_mode)) {
		memcpy(w->here, path, t.len + 1);
		return true;
	}
	return follow_link(w, path, rest);
}

static bool walk(struct root *r, struct way *w)
{
	*w = (struct way){0};
	if (!copy_string(w->left, sizeof w->left, r->path))
		return false;
	while (w->left[0])
		if (!walk_one(r, w))
			return false;
	return true;
}

void root_refresh(struct root *r)
{
	struct watcher *watcher = r->watcher;
	struct way w;
	struct seen now = {0};
	struct stat st;
	bool changed;

	drop_points(r);
	r->dirty = false;
	if (walk(r, &w) && stat(*w.here ? w.here : "/", &st) == 0)
		now = seen_of(&st);
	if (!now.mode) { /* it is waited for; a tree that is gone has changed, a pointer not */
		if (r->top)
			watcher_report(watcher, *r->shown ? r->shown : ".", FILE_WRITTEN);
		r->top = node_free(r->top);
		return;
	}
	r->pointer = !r->follow && lstat(r->path, &st) == 0 && S_ISLNK(st.st_mode);
	changed = r->pointer ? !r->target || strcmp(r->target, w.here) != 0
	                     : !seen_equal(&now, &r->seen) ||
	                               (S_ISDIR(now.mode) ? !r->top : r->written);
	r->written = false;
	free(r->target);
	r->target = strdup(w.here);
	r->seen = now;
	if (!changed)
		return;
	r->top = node_free(r->top);
	if (!r->pointer && S_ISDIR(now.mode))
		r->top = node_new(r, NULL, NULL);
	else if (r->pattern)
		return;
	watcher_report(watcher, *r->shown ? r->shown : ".", FILE_WRITTEN);
}
