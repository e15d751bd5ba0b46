/* SPDX-License-Identifier: MIT */
/* The descriptors that a worker gets besides its sockets, while handoffd has them: opened before it
 * is started, closed here afterwards; and which number each of all will have in it. */
#ifndef PROCESS_ENDS_H
#define PROCESS_ENDS_H

#include "core/base.h"
#include "process/credentials.h"
#include "process/fdmap.h"
#include "process/process.h"

struct ends {
	int null_fd, ready, einhorn, outputs[2];
};
#define ENDS_NONE ((struct ends){-1, -1, -1, {-1, -1}})

void ends_done(struct ends *e);
/* A pipe of which our end is non-blocking and the other belongs to the worker's user, so that it
 * can be opened again through /dev/stderr. */
int ends_pipe(const struct credentials *c, int *ret_ours, int *ret_theirs, struct ho_error *reterr);
/* Is there an acknowledgement to wait for at `einhorn`? */
bool ends_have_einhorn(const struct process_spec *spec);
int ends_map(const struct process_spec *spec, const struct ends *e, struct fdmap_plan *ret,
        struct ho_error *reterr);

#endif
