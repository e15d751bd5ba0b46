/* SPDX-License-Identifier: MIT */
/* What of the control socket outlives a handoffd: the socket; and after an upgrade also those who
 * are connected, with what they have asked and were not answered. */
#ifndef CONTROL_SAVE_H
#define CONTROL_SAVE_H

#include "control/control.h"
#include "state/fields.h"

json_t *control_save(const struct control *c, struct saver *v, bool with_clients);
/* NULL after a failure, or when there was no control socket. Calls that wait for a request are
 * found by control_find(); those that wait for anything else were answered before. */
struct control *control_load(struct ev_loop *loop, const struct control_options *options,
        const struct control_handlers *handlers, const json_t *from, struct loader *l);

#endif
