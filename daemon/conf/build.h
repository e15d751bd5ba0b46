/* SPDX-License-Identifier: MIT */
/* Raw tree to configuration. */
#ifndef CONF_BUILD_H
#define CONF_BUILD_H

#include "conf/keys.h"

/* Makes the configuration in mk->c from the tree. `environment` (NULL: the tree's own) chooses the
 * environment blocks. With `whole` false, nothing is said about what is missing, as it may be among
 * what could not be read. Mistakes go to mk->m; 0 or -ENOMEM. */
int build_config(
        struct maker *mk, const struct raw_block *root, const char *environment, bool whole);

/* The cross-checks of one service, and of all listeners together. */
void check_service(struct maker *mk, const struct service_config *s, bool whole);
void check_addresses(struct maker *mk);

/* Where a key of a service was set, rightly or not; NULL: nowhere. */
const struct origin *origin_of(const struct service_config *s, const char *key);

#endif
