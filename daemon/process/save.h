/* SPDX-License-Identifier: MIT */
/* What of the workers' processes outlives a handoffd. */
#ifndef PROCESS_SAVE_H
#define PROCESS_SAVE_H

#include "process/process.h"
#include "state/fields.h"

json_t *release_save(const struct release *r, struct saver *v);
/* NULL after a failure. */
struct release *release_load(struct config *config, const struct service_config *service,
        uint32_t generation, const json_t *from, struct loader *l);

json_t *process_save(const struct process *p, struct saver *v);
/* Watches a process that another handoffd, or this one before it was replaced, has started.
 * `ended`: its end has been told of already; otherwise, if it has ended, `exited` is called at the
 * next turn of the loop. `spec` describes what it was started with, without a release: a server
 * that was taken over. NULL after a failure. */
struct process *process_load(struct processes *ps, const struct process_spec *spec, void *user,
        bool ended, const json_t *from, struct loader *l);

/* As build_load() in build.h. */
json_t *build_save(const struct build *b, struct saver *v);
struct build *process_load_build(struct processes *ps, struct release *release,
        const struct build_handlers *handlers, const json_t *from, struct loader *l);

/* Ends the builds (documents with their `process`) of a handoffd that has died, as nobody can learn
 * any more how they end. Waits until they are gone, so that none is beside the next one. */
void processes_end_builds(const json_t *builds);
/* A worker that was being started in the moment of a crash: nobody wrote down that it runs. */
struct stray {
	pid_t pid;
	uint64_t start;      /* in clock ticks since boot */
	const char *environ; /* assignments of `n` bytes in all, each with its zero byte */
	size_t n;
};
/* "" if it is not there; lives as long as the stray. */
const char *stray_variable(const struct stray *s, const char *name);
/* As process_save() would have written it, as far as that can be known; NULL: memory is short. */
json_t *stray_to_json(const struct stray *s);
/* Calls `keeps` for every worker that the handoffd with the pid `former` has started since then and
 * that is not among `workers` (documents with their `process`, to which it may add one). Those that
 * it does not want, or all if it is NULL, are ended, and so are builds that nobody wrote down;
 * waits until they are gone, so that their sockets are out of the way. */
void processes_settle_strays(const json_t *workers, pid_t former, uint64_t since,
        bool (*keeps)(void *data, const struct stray *s), void *data);

#endif
