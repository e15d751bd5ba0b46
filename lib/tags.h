/* SPDX-License-Identifier: MIT */
/* A connection carries the tag of the listener that accepted it, by which handoffd counts it to a
 * generation (four IP options, see handoffd's sockets/tag.c). Whoever takes a connection over gives
 * it the tag of its own listener of that address. */
#ifndef TAGS_H
#define TAGS_H

#include <netinet/in.h>
#include <stddef.h>

#define TAG_OPTIONS 4
#define TAGS_MAX 64 /* listeners; connections of more keep the tag they have */

struct tags {
	struct {
		struct sockaddr_storage address;
		int values[TAG_OPTIONS];
	} of[TAGS_MAX];
	size_t n;
};

/* From the TCP sockets that were passed to this process. */
void tags_learn(struct tags *t);
/* Leaves sockets alone that are of no such address, or no TCP sockets. */
void tags_put(const struct tags *t, int fd);

#endif
