/* SPDX-License-Identifier: MIT */
/* From one configuration to another, as a list that can be read before anything is done. */
#ifndef CORE_PLAN_H
#define CORE_PLAN_H

#include "core/config.h"

/* X(ENUM, "word") */
#define PLAN_VERBS(X)                                                                              \
	X(ADD, "add")       /* a service that was not there */                                     \
	X(RENEW, "renew")   /* start a new generation of it */                                     \
	X(REMOVE, "remove") /* drain and stop it */                                                \
	X(OPEN, "open")     /* an address that it did not have */                                  \
	X(KEEP, "keep")                                                                            \
	X(CLOSE, "close")

enum plan_verb {
#define X(id, word) PLAN_##id,
	PLAN_VERBS(X)
#undef X
};
const char *plan_verb_to_string(enum plan_verb v);

struct plan_step {
	enum plan_verb verb;
	const char *service; /* borrowed from the configurations */
	const char *address; /* of OPEN, KEEP and CLOSE; else NULL */
};

struct plan {
	struct plan_step *steps;
	size_t n;
};

/* `before` may be NULL. Removals stand first, then the services in the order of `after`, each
 * followed by its addresses. 0 or -ENOMEM. */
int plan_make(const struct config *before, const struct config *after, struct plan *ret);
void plan_done(struct plan *p);
/* "remove api; renew web: keep tcp:0.0.0.0:80, open tcp:0.0.0.0:81" */
void plan_print(const struct plan *p, struct text *t);

#endif
