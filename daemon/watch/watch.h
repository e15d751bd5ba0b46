/* SPDX-License-Identifier: MIT */
/* Tells when files change: whole trees, single files, and version pointers.
 *
 * What is watched is remembered as it was (kind, inode, size, time), and a change is a difference
 * to that, whatever way it was found: inotify only says where to look. So it does not matter how an
 * editor saves, a file that was only opened has not changed, and after an overflow everything is
 * looked at again. Where inotify's limits are reached, or on request, everything is looked at from
 * time to time.
 *
 *   src, src/        a tree: every file in it, links to directories are followed
 *   server.py        a file
 *   current          a symbolic link is a version pointer: only where it leads to counts;
 *                    "current/" with a slash means the tree that it leads to
 *   src/ ** / *.js   (without the blanks) what of a tree matches the pattern
 */
#ifndef WATCH_WATCH_H
#define WATCH_WATCH_H

#include "core/base.h"
#include "core/config.h"
#include "core/event.h"

struct ev_loop;
struct watcher;

struct watch_options {
	const char *base; /* absolute; relative paths start here */
	const struct string_list *paths, *ignore;
	usec_t poll; /* look at everything so often instead; USEC_INFINITY: inotify */
};

struct watch_handlers {
	/* A file has changed, as the user would name it; `more` others with it. May not free the
	 * watcher. */
	void (*changed)(void *data, const char *path, enum file_change change, unsigned more);
	/* It works, but not as it should: once for each reason. */
	void (*note)(void *data, const char *text);
	void *data;
};

/* Looks at everything for the first time. A path that does not exist is waited for. Fails only for
 * want of memory. */
int watcher_new(struct ev_loop *loop, const struct watch_options *options,
        const struct watch_handlers *handlers, struct watcher **ret, struct ho_error *reterr);
struct watcher *watcher_free(struct watcher *w);
/* A number that another watcher of the same paths has too if all is as this one has last seen it.
 */
uint64_t watcher_digest(struct watcher *w);
/* Tells now what has changed until now. */
void watcher_flush(struct watcher *w);

#endif
