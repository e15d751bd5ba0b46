/* SPDX-License-Identifier: MIT */
/* The form in which an address is bound: only sockets of the same form can take over connections
 * from one another. For the sockets room alone. */
#ifndef SOCKETS_FORMS_H
#define SOCKETS_FORMS_H

#include "core/config.h"

/* Forms in which one program may bind a port that is configured alone: 0.0.0.0 and [::], 127.0.0.1
 * and
 * [::1], … */
#define FORMS_MAX 4

bool form_is_wildcard(const struct address *a);
/* "tcp:0.0.0.0:80", "tcp:*:80" for a dual-stack wildcard */
void form_print(struct text *t, const struct address *a);
/* Does a group at `have` divide the connections of a socket at `want`? */
bool form_equal(const struct address *want, const struct address *have);
/* Can both not be bound by programs that know nothing of one another? */
bool form_collides(const struct address *a, const struct address *b);
/* May a program bind this form where that address is configured? So it is with a port alone, and
 * with an IPv4 address that is bound as an IPv6 one (::ffff:127.0.0.1, as Java does). */
bool form_allowed(const struct address *configured, const struct address *form);
/* Takes the address from `form`, and nothing else. */
void form_copy(struct address *to, const struct address *form);
/* An IPv4 address that is written as an IPv6 one becomes itself. */
void form_unmap(struct address *a);
/* A program may have a network namespace of its own, with the same addresses. */
bool form_in_our_network(int fd);

#endif
