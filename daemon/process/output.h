/* SPDX-License-Identifier: MIT */
/* What a worker writes: lines out of a pipe, and the last of them kept for messages. Bytes are
 * passed on as they are, whether they are text or not; a line longer than OUTPUT_MAX_LINE comes in
 * parts. */
#ifndef PROCESS_OUTPUT_H
#define PROCESS_OUTPUT_H

#include <ev.h>

#include "core/base.h"
#include "state/fields.h"

#define OUTPUT_MAX_LINE 8192
#define OUTPUT_READ_BYTES ((size_t)64 << 10)
#define TAIL_MAX_LINES 256
#define TAIL_MAX_BYTES 16384
#define TOLD_LINES 16 /* of these, in messages */
#define TOLD_BYTES ((size_t)2048)

/* The last lines, each with its newline. Whoever writes little needs little. */
struct tail {
	char *text; /* terminated; NULL: nothing yet, see tail_text() */
	size_t size, length;
	unsigned lines;
};
const char *tail_text(const struct tail *t);
void tail_done(struct tail *t);
/* As much of the other's as memory allows. */
void tail_copy(struct tail *t, const struct tail *from);
/* Zero bytes become '?', as the tail is a string; a line longer than the tail is cut, one for which
 * there is no memory is left out. */
void tail_add(struct tail *t, const char *line, size_t length);
/* The last of its text: so many whole lines and bytes at most, of the last line as much as that. */
const char *tail_last(const struct tail *t, unsigned lines, size_t bytes);

/* What another handoffd has kept of it. */
void tail_load(struct tail *t, struct loader *l, const json_t *from);

struct lines {
	char *bytes; /* of the line begun; NULL: none is */
	size_t length;
	/* Returns false if the rest must not be touched any more. */
	bool (*line)(void *data, bool is_stderr, const char *line, size_t length);
	void *data;
	bool is_stderr;
};
void lines_done(struct lines *l);
/* Both return false if the callback did. */
bool lines_feed(struct lines *l, const char *bytes, size_t n);
/* The line that was begun when another handoffd read. */
void lines_load(struct lines *to, struct loader *l, const json_t *from);
/* Passes on the line begun, if any. */
bool lines_flush(struct lines *l);

struct output {
	struct ev_loop *loop; /* NULL: never started */
	ev_io io;
	int fd;
	struct lines lines;
};
/* Takes ownership of `fd` (non-blocking); `lines` is set up by the caller before. `readable` is
 * called with io.data == lines.data and is to call output_read(). */
void output_start(struct output *o, struct ev_loop *loop, int fd,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events));
void output_stop(struct output *o);
/* And forgets the line begun. */
void output_done(struct output *o);
/* Reads what is there, at most `limit` bytes (OUTPUT_READ_BYTES for one wake-up), without blocking;
 * false if the callback said so. */
bool output_read(struct output *o, size_t limit);

#endif
