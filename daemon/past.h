/* SPDX-License-Identifier: MIT */
/* What was before: the handoffd that this one replaces, or that has died, and whose services go on.
 */
#ifndef PAST_H
#define PAST_H

#include "daemon.h"

struct past {
	json_t *doc; /* NULL: there was nobody */
	bool crashed;
	struct loader *loader; /* has what is not taken over yet */
};

/* Before anything else, as it takes over descriptors. What systemd passed as sockets is left in
 * d->passed. 0 or negative errno with words. */
int past_find(struct daemon *d, struct past *p, struct ho_error *reterr);
/* The same with a file beside the control socket, which we have now. */
void past_find_file(struct daemon *d, struct past *p);
/* Takes it over, except for the control socket; then that, if it was there. What fails is told. */
int past_load(struct daemon *d, struct past *p, struct ho_error *reterr);
void past_load_control(struct daemon *d, struct past *p, const struct control_options *options,
        const struct control_handlers *handlers);
/* Goes on. */
void past_resume(struct daemon *d, struct past *p);
void past_done(struct past *p);

#endif
