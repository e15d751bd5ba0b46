/* SPDX-License-Identifier: MIT */
/* What of the sockets outlives a handoffd. Order: sockets_load() into fresh `sockets`, then
 * listener_set_load() for every set, then sockets_loaded(). Failures are noted in the loader. */
#ifndef SOCKETS_SAVE_H
#define SOCKETS_SAVE_H

#include "sockets/sockets.h"
#include "state/fields.h"

/* All but the groups, which are its member "groups", an array. */
json_t *sockets_save(const struct sockets *s, struct saver *v);
/* All groups, or those that have changed since sockets_forget_changes(): `take` gets the reference.
 */
void sockets_save_groups(const struct sockets *s, bool changed, struct saver *v,
        void (*take)(void *data, uint64_t id, json_t *group), void *data);
void sockets_forget_changes(struct sockets *s);
json_t *listener_set_save(const struct listener_set *set, struct saver *v);

void sockets_load(struct sockets *s, const json_t *from, struct loader *l);
/* NULL after a failure. */
struct listener_set *listener_set_load(struct sockets *s, struct config *config,
        const struct service_config *service, uint32_t generation, const json_t *from,
        struct loader *l);
/* Takes sockets that were opened, but not written down any more, out of their groups. */
void sockets_drop_unknown(const struct sockets *s, struct loader *l);
/* Puts the groups in order, with the parts of new connections that were in force; what belongs to a
 * set that was not loaded leaves them, a group without any is closed. */
void sockets_loaded(struct sockets *s, struct loader *l);

#endif
