/* SPDX-License-Identifier: MIT */
/* What a watcher is made of; for the watch room alone. */
#ifndef WATCH_INTERNAL_H
#define WATCH_INTERNAL_H

#include <ev.h>
#include <limits.h>
#include <sys/stat.h>

#include "watch/ignore.h"
#include "watch/watch.h"

#define REPORT_MAX 32
#define WD_BUCKETS 1024

struct node;
struct root;

/* Who wants to know about a directory. */
struct subscription {
	struct subscription *next; /* of the same bucket */
	int wd;                    /* -1: none */
	struct root *root;
	struct node *node;            /* NULL: a point of the root */
	char *name;                   /* of a point: only this name counts */
	struct subscription *sibling; /* of the same root's points */
};

/* What is known of a file. */
struct seen {
	mode_t mode; /* 0: not there */
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

struct entry {
	char *name;
	struct seen seen;
	struct node *node; /* a directory that is watched */
	unsigned stamp;
};

/* A directory of a tree. */
struct node {
	struct root *root;
	struct node *parent;
	char *name;  /* in the parent; NULL of the top */
	char *path;  /* to open it */
	char *shown; /* "" is the base itself */
	dev_t dev;
	ino_t ino;
	struct subscription sub;
	struct entry *entries; /* sorted by name */
	size_t n, size;
	struct ignore *ignore; /* its .gitignore, or NULL */
	unsigned depth;
	unsigned stamp; /* of its last scan */
};

/* One path of the configuration. */
struct root {
	struct watcher *watcher;
	char *path;    /* absolute, links as written */
	char *shown;   /* as the user wrote it, without "./" and final slashes */
	char *pattern; /* of shown paths; NULL: all */
	bool follow;   /* "current/" */
	bool dirty;
	bool written;     /* somebody wrote to the file in this moment */
	struct seen seen; /* what the path leads to; of the last time that it existed */
	char *target;     /* of a pointer: where it led to then */
	bool pointer;
	struct node *top; /* of a tree */
	struct subscription *points;
	struct ignore *above[16]; /* .gitignore of the directories around it, inmost first */
	char *above_prefix[16];   /* the way from there to here */
	size_t n_above;
};

struct watcher {
	struct ev_loop *loop;
	struct watch_handlers handlers;
	char *base;
	struct ignore *user, *defaults;
	struct root *roots;
	size_t n_roots;
	int fd; /* inotify; -1: polling */
	ev_io io;
	ev_timer timer;
	usec_t poll;
	bool polling, polling_told, too_many_told;
	bool rescan, quiet; /* quiet: nothing is reported, as everything is new */
	unsigned stamp;
	size_t n_nodes;
	struct subscription *by_wd[WD_BUCKETS];
	struct {
		char *path;
		enum file_change change;
	} reports[REPORT_MAX];
	unsigned n_reports, more;
	uint64_t digest;
	bool digested; /* it is of what is known now */
};

/* watch.c */
void watcher_report(struct watcher *w, const char *path, enum file_change change);
/* Subscribes to the directory at `path`; without inotify it does nothing. */
void watcher_subscribe(struct watcher *w, struct subscription *s, const char *path);
void watcher_unsubscribe(struct watcher *w, struct subscription *s);
void watcher_note(struct watcher *w, bool *told, const char *format, ...) _printf_(3, 4);

/* tree.c */
struct node *node_new(struct root *r, struct node *parent, const char *name);
struct node *node_free(struct node *n);
/* Looks at everything in it. */
void node_scan(struct node *n);
/* Looks at one name in it; `written`: somebody wrote to it in this moment. */
void node_look(struct node *n, const char *name, bool written);

/* root.c */
int root_init(struct root *r, struct watcher *w, const char *path);
void root_done(struct root *r);
/* Follows the path again, and tells if it leads elsewhere. */
void root_refresh(struct root *r);
bool seen_equal(const struct seen *a, const struct seen *b);
/* FNV-1a, of what seen_equal() compares, and of all that would be reported of a directory. */
uint64_t digest_add(uint64_t digest, const void *bytes, size_t n);
uint64_t seen_digest(const struct seen *s, uint64_t digest);
uint64_t node_digest(const struct node *n, uint64_t digest);
struct seen seen_of(const struct stat *st);

#endif
