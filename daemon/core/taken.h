/* SPDX-License-Identifier: MIT */
/* A server that ran unmanaged is generation 0 of its service: its processes and sockets are taken,
 * it serves at once, and the first own generation is started beside it.
 *
 * Until an own generation has taken its place it is not ours to end: it is never told or killed,
 * and when it is given up (the own generation failed, or handoffd stops) it is left as it was. From
 * then on it is warm, drained and stopped like any other, but never started again. */
#ifndef CORE_TAKEN_H
#define CORE_TAKEN_H

#include "core/generation.h"

struct supervisor;

/* Of the first configuration: a service whose server is to be taken over, and how many processes
 * were named. */
struct taken_service {
	const char *service;
	unsigned processes;
};

/* Is it a server that no own generation has taken the place of? */
bool taken_is_foreign(const struct generation *g);
/* It could not be taken: nothing else is tried, as its addresses are not free. */
void taken_give_up(struct service *sv, const char *why);
void taken_failed(struct generation *g);
/* It serves. */
void taken_serving(struct service *sv, struct generation *g);
/* Its processes are not ours any more; does not signal them. */
void taken_forget(struct generation *g);
void taken_forget_worker(struct generation *g, struct worker *w);
/* Leaves a foreign server as it was when nothing else is to come; true if it did. Not before every
 * own generation is gone: while one has sockets, new connections are steered. */
bool taken_leave(struct service *sv);

#endif
