/* SPDX-License-Identifier: MIT */
/* The mark that a connection inherits from its listener and that a sock_diag dump shows to
 * everybody: four IP options which mean nothing on a connected TCP socket, read as one number. It
 * needs no privilege. To be set after bind(2), because IP_FREEBIND would let a wrong address pass
 * there, and before listen(2), so that no connection lacks it. */
#ifndef SOCKETS_TAG_H
#define SOCKETS_TAG_H

#include "core/base.h"

#define TAG_COUNT 16
#define TAG_CONTROL 15 /* of control listeners, never of a generation */
#define TAG_NONE 0xff

/* `tag` < TAG_COUNT; 0 is what a fresh socket has. Negative errno when an option cannot be set. */
int tag_set(int fd, uint8_t tag);

/* What a socket has; TAG_NONE if it cannot be read. */
uint8_t tag_get(int fd);

/* The tag in an INET_DIAG_SOCKOPT attribute of `n` bytes; TAG_NONE if there are too few. */
uint8_t tag_from_sockopt(const uint8_t *bytes, size_t n);

#endif
