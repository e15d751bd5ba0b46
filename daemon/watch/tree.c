/* SPDX-License-Identifier: MIT */
/* The directories of a tree and what was last seen in them. */
#include "watch/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "system/fd.h"
#include "watch/glob.h"

#define DEPTH_MAX 64
#define NODES_MAX 100000
#define NAMES_MAX 200000 /* of one directory */
#define RULES ".gitignore"

struct seen seen_of(const struct stat *st)
{
	return (struct seen){st->st_mode, st->st_dev, st->st_ino, st->st_size, st->st_mtim};
}

/* A directory is what is in it. */
bool seen_equal(const struct seen *a, const struct seen *b)
{
	if (a->mode != b->mode || a->dev != b->dev || a->ino != b->ino)
		return false;
	return S_ISDIR(a->mode) || (a->size == b->size && a->mtime.tv_sec == b->mtime.tv_sec &&
	                                   a->mtime.tv_nsec == b->mtime.tv_nsec);
}

uint64_t digest_add(uint64_t digest, const void *bytes, size_t n)
{
	const unsigned char *p = bytes;

	for (size_t i = 0; i < n; i++)
		digest = (digest ^ p[i]) * UINT64_C(0x100000001b3);
	return digest;
}

uint64_t seen_digest(const struct seen *s, uint64_t digest)
{
	const uint64_t file[] = {s->mode, s->dev, s->ino, (uint64_t)s->size,
	        (uint64_t)s->mtime.tv_sec, (uint64_t)s->mtime.tv_nsec};

	return digest_add(digest, file, S_ISDIR(s->mode) ? 3 * sizeof *file : sizeof file);
}

/* ---- what counts ---- */

/* The first list that names it decides: the user's own, then .gitignore from the inside out. */
static bool ignored(const struct node *n, const char *name, bool is_directory)
{
	const struct root *r = n->root;
	char path[PATH_MAX];
	struct text t = TEXT_ON(path);
	size_t length;
	int verdict;

	text_add(&t, "%s%s%s", n->shown, *n->shown ? "/" : "", name);
	verdict = ignore_verdict(r->watcher->user, path[0] == '/' ? path + 1 : path, is_directory);
	/* The way from a directory to `name` is the tail of the one from those around it. */
	t = TEXT_ON(path);
	text_add(&t, "%s/%s", n->path, name);
	for (const struct node *at = n; at && !verdict; at = at->parent) {
		length = strlen(at->path);
		if (at->ignore && length < t.len)
			verdict = ignore_verdict(at->ignore, path + length + 1, is_directory);
	}
	length = r->top ? strlen(r->top->path) : strlen(r->path);
	for (size_t i = 0; i < r->n_above && !verdict && length < t.len; i++) {
		char whole[PATH_MAX];
		struct text w = TEXT_ON(whole);

		text_add(&w, "%s/%s", r->above_prefix[i], path + length + 1);
		verdict = ignore_verdict(r->above[i], whole, is_directory);
	}
	if (!verdict)
		verdict = ignore_verdict(r->watcher->defaults, name, is_directory);
	return verdict > 0;
}

/* As the user would name it; false: it is none of those that he means. */
static bool is_meant(const struct node *n, const char *name, char *path, size_t size)
{
	struct text t = {.p = path, .size = size};

	text_add(&t, "%s%s%s", n->shown, *n->shown ? "/" : "", name);
	return !n->root->pattern || glob_match(n->root->pattern, path);
}

static void report(const struct node *n, const char *name, enum file_change change)
{
	char path[PATH_MAX];

	if (is_meant(n, name, path, sizeof path))
		watcher_report(n->root->watcher, path, change);
}

/* ---- entries ---- */

static size_t place_of(const struct node *n, const char *name, bool *ret_found)
{
	size_t low = 0, high = n->n;

	*ret_found = false;
	while (low < high) {
		size_t middle = (low + high) / 2;
		int c = strcmp(n->entries[middle].name, name);

		if (c == 0) {
			*ret_found = true;
			return middle;
		}
		if (c < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct entry *insert(struct node *n, size_t at, const char *name)
{
	if (n->n == n->size) {
		size_t size = n->size ? 2 * n->size : 16;
		struct entry *entries = realloc(n->entries, size * sizeof *entries);

		if (!entries)
			return NULL;
		n->entries = entries;
		n->size = size;
	}
	memmove(&n->entries[at + 1], &n->entries[at], (n->n - at) * sizeof n->entries[0]);
	n->entries[at] = (struct entry){.name = strdup(name)};
	if (!n->entries[at].name) {
		memmove(&n->entries[at], &n->entries[at + 1], (n->n - at) * sizeof n->entries[0]);
		return NULL;
	}
	n->n++;
	return &n->entries[at];
}

static void drop(struct node *n, size_t at)
{
	free(n->entries[at].name);
	n->entries[at].node = node_free(n->entries[at].node);
	n->n--;
	memmove(&n->entries[at], &n->entries[at + 1], (n->n - at) * sizeof n->entries[0]);
}

/* Was there anything in it that counts? Reports one file of it. */
static void report_gone(const struct node *n)
{
	if (n->n)
		report(n, n->entries[0].name, FILE_GONE);
}

/* ---- directories ---- */

/* Would it be watched twice, or without end? */
static bool is_around(const struct node *n, const struct stat *st)
{
	for (; n; n = n->parent)
		if (n->dev == st->st_dev && n->ino == st->st_ino)
			return true;
	return false;
}

struct node *node_new(struct root *r, struct node *parent, const char *name)
{
	struct watcher *w = r->watcher;
	struct node *n;
	struct stat st;
	int wrong = 0;

	if (w->n_nodes == NODES_MAX) {
		watcher_note(w, &w->too_many_told,
		        "more than %d directories are to be watched; the rest is left out",
		        NODES_MAX);
		return NULL;
	}
	n = calloc(1, sizeof *n);
	if (!n)
		return NULL;
	w->n_nodes++;
	n->root = r;
	n->parent = parent;
	n->depth = parent ? parent->depth + 1 : 0;
	n->sub = (struct subscription){.wd = -1, .root = r, .node = n};
	if (parent) {
		wrong |= asprintf(&n->path, "%s/%s", parent->path, name) < 0;
		wrong |= asprintf(&n->shown, "%s%s%s", parent->shown, *parent->shown ? "/" : "",
		                 name) < 0;
	} else {
		n->path = strdup(r->path);
		n->shown = strdup(r->shown);
		wrong |= !n->path || !n->shown;
	}
	if (wrong || stat(n->path, &st) < 0 || !S_ISDIR(st.st_mode) || n->depth == DEPTH_MAX ||
	        is_around(parent, &st))
		return node_free(n);
	n->dev = st.st_dev;
	n->ino = st.st_ino;
	watcher_subscribe(w, &n->sub, n->path);
	node_scan(n);
	return n;
}

struct node *node_free(struct node *n)
{
	if (!n)
		return NULL;
	watcher_unsubscribe(n->root->watcher, &n->sub);
	while (n->n)
		drop(n, n->n - 1);
	free(n->entries);
	ignore_free(n->ignore);
	free(n->path);
	free(n->shown);
	n->root->watcher->n_nodes--;
	free(n);
	return NULL;
}

/* ---- looking ---- */

static bool leads_to_directory(const struct node *n, const char *name, const struct seen *s)
{
	char path[PATH_MAX];
	struct text t = TEXT_ON(path);
	struct stat st;

	if (!S_ISLNK(s->mode))
		return S_ISDIR(s->mode);
	text_add(&t, "%s/%s", n->path, name);
	return !t.cut && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void gone(struct node *n, size_t at)
{
	struct entry *e = &n->entries[at];

	if (e->node)
		report_gone(e->node);
	else
		report(n, e->name, FILE_GONE);
	drop(n, at);
}

static void appeared(struct node *n, struct entry *e, bool is_directory, bool found)
{
	if (is_directory)
		e->node = node_new(n->root, n, e->name);
	else
		report(n, e->name, found ? FILE_WRITTEN : FILE_APPEARED);
}

void node_look(struct node *n, const char *name, bool written)
{
	char path[PATH_MAX];
	struct text t = TEXT_ON(path);
	struct seen now = {0};
	struct stat st;
	struct entry *e;
	size_t at;
	bool found, is_directory;

	text_add(&t, "%s/%s", n->path, name);
	if (!t.cut && lstat(path, &st) == 0)
		now = seen_of(&st);
	at = place_of(n, name, &found);
	if (!now.mode) {
		if (found)
			gone(n, at);
		return;
	}
	is_directory = leads_to_directory(n, name, &now);
	if (ignored(n, name, is_directory) ||
	        (!is_directory && !S_ISREG(now.mode) && !S_ISLNK(now.mode))) {
		if (found) /* the rules have changed */
			drop(n, at);
		return;
	}
	if (found && seen_equal(&n->entries[at].seen, &now)) {
		e = &n->entries[at];
		e->stamp = n->root->watcher->stamp;
		if (written && !e->node)
			report(n, name, FILE_WRITTEN);
		/* a link's target may have come or gone */
		if ((e->node != NULL) == is_directory || !S_ISLNK(now.mode))
			return;
	}
	if (found && n->entries[at].node) {
		report_gone(n->entries[at].node);
		n->entries[at].node = node_free(n->entries[at].node);
	}
	e = found ? &n->entries[at] : insert(n, at, name);
	if (!e)
		return;
	e->seen = now;
	e->stamp = n->root->watcher->stamp;
	appeared(n, e, is_directory, found);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted, so that each is added behind the last one. */
static size_t read_names(const char *path, char ***ret)
{
	size_t n = 0, size = 0;
	char **names = NULL, **larger;
	struct dirent *d;
	DIR *dir = opendir(path);

	while (dir && n < NAMES_MAX && (d = readdir(dir))) {
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		if (n == size) {
			size = size ? 2 * size : 64;
			larger = realloc(names, size * sizeof *names);
			if (!larger)
				break;
			names = larger;
		}
		names[n] = strdup(d->d_name);
		if (!names[n])
			break;
		n++;
	}
	if (dir)
		(void)closedir(dir);
	if (n)
		qsort(names, n, sizeof *names, compare);
	*ret = names;
	return n;
}

void node_scan(struct node *n)
{
	struct watcher *w = n->root->watcher;
	_cleanup_close_ int fd = open(n->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char **names = NULL;
	size_t count = read_names(n->path, &names);
	unsigned stamp = n->stamp = w->stamp;

	ignore_free(n->ignore);
	n->ignore = fd >= 0 ? ignore_load(fd, RULES) : NULL;
	for (size_t i = 0; i < count; i++) {
		node_look(n, names[i], false);
		free(names[i]);
	}
	free(names);
	for (size_t i = n->n; i-- > 0;) {
		struct node *child = n->entries[i].node;

		if (n->entries[i].stamp != stamp)
			gone(n, i);
		else if (child && w->rescan && child->stamp != stamp)
			node_scan(child);
	}
}

uint64_t node_digest(const struct node *n, uint64_t digest)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < n->n; i++) {
		const struct entry *e = &n->entries[i];

		if (e->node) { /* not deeper than DEPTH_MAX */
			digest = node_digest(e->node, digest);
		} else if (is_meant(n, e->name, path, sizeof path)) {
			digest = digest_add(digest, path, strlen(path) + 1);
			digest = seen_digest(&e->seen, digest);
		}
	}
	return digest;
}
