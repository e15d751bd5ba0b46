/* SPDX-License-Identifier: MIT */
/* The whole state as one document; see snapshot.c. The format number grows only when an older
 * version would misunderstand a newer document, not when a member is added; a document has the
 * smallest one that does for what is in it, so that an older version can be gone back to. */
#ifndef SNAPSHOT_H
#define SNAPSHOT_H

#include <jansson.h>

#include "control/control.h"
#include "core/supervisor.h"
#include "state/fields.h"

#define SNAPSHOT_FIRST_FORMAT 1
#define SNAPSHOT_FORMAT 2 /* builds, servers that were taken over, development mode */
/* The second one begins with the first: who says it can also be started for trial. */
#define SNAPSHOT_OK "handoffd: the state is understood"
#define SNAPSHOT_OK_TRY SNAPSHOT_OK "; try me"

struct daemon;

/* With what only an upgrade can hand on (connected clients, last words). NULL when memory is short.
 */
json_t *snapshot_make(const struct daemon *d, struct saver *v);

/* The same in pieces, each of which can be written anew when it has changed. With `changed`, those
 * that have changed since supervisor_forget_changes() and sockets_forget_changes(), with the
 * configurations that the saver did not know. `take` gets the reference; NULL: memory is short. */
typedef void snapshot_taker(void *data, const char *name, json_t *piece);
void snapshot_pieces(
        const struct daemon *d, struct saver *v, bool changed, snapshot_taker *take, void *data);
#define SNAPSHOT_SERVICE "service-"
#define SNAPSHOT_GROUP "group-"
#define SNAPSHOT_CONFIG "config-"
#define SNAPSHOT_REST "rest"
#define SNAPSHOT_NAME_MAX 32
/* The document that the pieces make, by their names; NULL: they make none. */
json_t *snapshot_join(const json_t *pieces);

int snapshot_check_format(const json_t *doc, struct ho_error *reterr);
/* The part that can be tried without descriptors. */
void snapshot_load_core(
        struct supervisor *s, struct action_list *out, const json_t *doc, struct loader *l);
/* Into a daemon whose rooms are open and empty. What is wrong is in the loader. */
int snapshot_load(struct daemon *d, const json_t *doc, struct loader *l);
/* The control socket, at last: d->control stays NULL where there is none to take over. */
void snapshot_connect(struct daemon *d, const json_t *doc, struct loader *l,
        const struct control_options *options, const struct control_handlers *handlers);

#endif
