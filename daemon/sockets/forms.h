/* SPDX-License-Identifier: MIT */
/* The form in which an address is bound: only sockets of the same form can take over connections
 * from one another. For the sockets room alone. */
#ifndef SOCKETS_FORMS_H
#define SOCKETS_FORMS_H

#include "core/config.h"

bool form_is_wildcard(const struct address *a);
/* "tcp:0.0.0.0:80", "tcp:*:80" for a dual-stack wildcard */
void form_print(struct text *t, const struct address *a);
/* Does a group at `have` divide the connections of a socket at `want`? */
bool form_equal(const struct address *want, const struct address *have);
/* A program may have a network namespace of its own, with the same addresses. */
bool form_in_our_network(int fd);

#endif
