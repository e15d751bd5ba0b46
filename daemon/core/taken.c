/* SPDX-License-Identifier: MIT */
/* See taken.h. */
#include "core/taken.h"
#include "core/drain.h"
#include "core/service.h"
#include "core/supervisor.h"

bool taken_is_foreign(const struct generation *g)
{
	return g->taken && (g->state == GENERATION_STARTING || g->state == GENERATION_READY ||
	                           g->state == GENERATION_SERVING || g->state == GENERATION_FAILED);
}

void taken_serving(struct service *sv, struct generation *g)
{
	struct supervisor *s = sv->supervisor;

	generation_set_state(g, GENERATION_SERVING);
	sv->rolling = NULL;
	supervisor_record(s, RECORD_GENERATION_SERVING, sv, g, NULL)->text =
	        "taken over: it serves until the first own generation is ready";
	service_set_state(sv, SERVICE_SERVING);
}

void taken_give_up(struct service *sv, const char *why)
{
	sv->waiting = false;
	roll_done(&sv->waiting_roll);
	sv->finished = true;
	targets_started(sv, 0);
	service_result(sv, REQUEST_START, 0, CODE_FAILED, "failed", why);
}

void taken_failed(struct generation *g)
{
	taken_forget(g);
	g->service->waiting = false;
	roll_done(&g->service->waiting_roll);
	g->service->finished = true;
	targets_started(g->service, 0);
}

void taken_forget_worker(struct generation *g, struct worker *w)
{
	supervisor_act(g->service->supervisor, ACTION_FORGET_WORKER, g->service, g, w);
	w->shell = NULL;
	w->pid = 0;
	w->state = WORKER_ABSENT;
	w->retry_at = w->kill_at = USEC_INFINITY;
}

void taken_forget(struct generation *g)
{
	for (unsigned i = 0; i < g->n_workers; i++)
		if (worker_alive(&g->workers[i]) && g->workers[i].state != WORKER_STARTING)
			taken_forget_worker(g, &g->workers[i]);
}

bool taken_leave(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	struct generation *g = service_serving(sv);
	bool stopping = sv->state == SERVICE_STOPPING;

	if (!g || !taken_is_foreign(g) || sv->n_generations > 1)
		return false;
	if (!stopping && (!sv->attempted || sv->own_served || sv->waiting || sv->rolling))
		return false;
	supervisor_record(s, RECORD_SERVER_LEFT, sv, g, NULL)->text =
	        generation_has_processes(g) ? "the server that was taken over goes on as before, "
	                                      "without handoffd"
	                                    : "the server that was taken over is gone";
	taken_forget(g);
	g->share = 0;
	drain_release(g);
	if (stopping)
		return true;
	sv->finished = true;
	service_set_state(sv, SERVICE_FAILED);
	return true;
}
