/* SPDX-License-Identifier: MIT */
/* handoffd's end of a libhandoff worker's private channel: words to the worker, and the page of
 * memory in which it counts (lib/page.h). Whatever the worker does with its ends harms nobody but
 * itself: the page is sealed, its numbers are looked at as doubtful, nothing here blocks. */
#ifndef PROCESS_CHANNEL_H
#define PROCESS_CHANNEL_H

#include <ev.h>

#include "core/base.h"
#include "process/process.h"

struct handoff_page;

struct channel {
	struct ev_loop *loop;
	ev_io io;
	int fd;                    /* -1: none */
	bool drains;               /* it can drain by message */
	int page_fd;
	struct handoff_page *page; /* NULL: none; stays when the channel has ended */
};

/* Takes the descriptors of a hello; they are borrowed, `page_fd` may be -1. A page that is not as
 * it should be is left out. -EBUSY: there is a channel already, and its other end is open. */
int channel_open(struct channel *c, struct ev_loop *loop, int fd, int page_fd,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events), void *data);
/* The descriptors of another handoffd, which are owned from now on; each may be -1. */
void channel_restore(struct channel *c, struct ev_loop *loop, int fd, int page_fd,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events), void *data);
void channel_close(struct channel *c);
void channel_done(struct channel *c);

/* The bytes of one datagram; 0: none at the moment; negative errno: it has ended. */
ssize_t channel_read(struct channel *c, char *bytes, size_t size);
int channel_tell(struct channel *c, const char *words);
void channel_set_serving(struct channel *c, uint32_t generation);
bool channel_counts(const struct channel *c, struct worker_counts *ret);

#endif
