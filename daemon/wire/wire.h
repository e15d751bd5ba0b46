/* SPDX-License-Identifier: MIT */
/* Varlink framing: one JSON object and a NUL byte a message, over a UNIX stream socket. Both ends
 * use it, so what it reads is never trusted: size, depth, encoding and repeated keys are checked
 * here and nowhere else. It knows nothing of methods. */
#ifndef WIRE_WIRE_H
#define WIRE_WIRE_H

#include <jansson.h>

#include "core/base.h"

#define WIRE_MAX_CALL ((size_t)1 << 20)    /* a message to handoffd */
#define WIRE_MAX_REPLY ((size_t)256 << 20) /* a message from it */
#define WIRE_MAX_DEPTH 64

#define _cleanup_json_ _cleanup_(json_decrefp)

/* `n` bytes of any origin as a JSON string: what is not UTF-8, and NUL, becomes U+FFFD. NULL when
 * memory is short. */
json_t *wire_text(const char *bytes, size_t n);
/* The same of a string; NULL gives null. */
json_t *wire_string(const char *s);

/* One object out of one message. -EBADMSG and words, or -ENOMEM. */
int wire_decode(const char *bytes, size_t n, json_t **ret, struct ho_error *reterr);
/* The object as a message, its NUL included in `ret_size`; heap, NULL when memory is short. */
char *wire_encode(const json_t *object, size_t *ret_size);

/* Bytes that came, until they are messages. */
struct wire_reader {
	char *p;
	size_t start, scanned, end,
	        size; /* start <= scanned <= end <= size; [start, end) is unread */
	size_t max;   /* bytes of a message, and of all that is kept */
};
void wire_reader_init(struct wire_reader *r, size_t max);
void wire_reader_done(struct wire_reader *r);
/* Can more be read before a message is taken out? */
bool wire_reader_has_room(const struct wire_reader *r);
/* recv(2) once. The number of bytes, 0 at the end of the stream, or negative errno: -EAGAIN,
 * -ENOMEM, -EMSGSIZE without room. */
int wire_reader_fill(struct wire_reader *r, int fd);
/* 1 and the next object; 0 when there is no whole message yet; -EMSGSIZE, -EBADMSG or -ENOMEM and
 * words: the stream is of no use any more. */
int wire_reader_next(struct wire_reader *r, json_t **ret, struct ho_error *reterr);

/* Bytes that wait for the peer. */
struct wire_writer {
	char *p;
	size_t start, end, size;
	size_t max; /* bytes that may wait */
};
void wire_writer_init(struct wire_writer *w, size_t max);
void wire_writer_done(struct wire_writer *w);
size_t wire_writer_waiting(const struct wire_writer *w);
/* All or nothing: 0, -ENOBUFS beyond the bound, or -ENOMEM. */
int wire_writer_add(struct wire_writer *w, const char *bytes, size_t n);
/* Sends what the socket takes without blocking or SIGPIPE: 0 (some may still wait) or negative
 * errno. */
int wire_writer_send(struct wire_writer *w, int fd);

#endif
