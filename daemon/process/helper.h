/* SPDX-License-Identifier: MIT */
/* A program of handoffd's own that runs aside for a moment and is asked for its verdict. */
#ifndef PROCESS_HELPER_H
#define PROCESS_HELPER_H

#include "process/process.h"

struct helper;

/* Starts it: see processes_run(). */
int helper_new(struct processes *ps, const char *const argv[], int input, usec_t limit,
        helper_done done, void *data, struct helper **ret, struct ho_error *reterr);
/* Kills it if it runs, tells nobody. Accepts NULL, returns NULL. */
struct helper *helper_free(struct helper *h);
pid_t helper_pid(const struct helper *h);
/* Its process is a zombie: reaps it, frees it, tells. */
void helper_ended(struct helper *h);

#endif
