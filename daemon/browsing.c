/* SPDX-License-Identifier: MIT */
/* Who is still connected: a browse through the connections of a service, answered piece by piece as
 * the client takes them. */
#include "daemon.h"

#include <errno.h>
#include <stdlib.h>

#define PIECE 1024

struct browsing {
	struct browse *browse;
	uint32_t generations[GENERATIONS_MAX]; /* of its sets */
	struct control_connection *list;       /* of the present piece, with room for their peers */
	char (*peers)[sizeof((struct connection_info *)0)->peer];
	size_t n, size;
	bool short_of_memory;
};

static bool make_room(struct browsing *b)
{
	size_t size = b->size ? 2 * b->size : PIECE;
	void *list = reallocarray(b->list, size, sizeof *b->list), *peers;

	if (!list)
		return false;
	b->list = list;
	peers = reallocarray(b->peers, size, sizeof *b->peers);
	if (!peers)
		return false;
	b->peers = peers;
	b->size = size;
	return true;
}

static void on_found(const struct connection_info *i, void *arg)
{
	struct browsing *b = arg;

	if (b->n == b->size && !make_room(b)) {
		b->short_of_memory = true;
		return;
	}
	(void)copy_string(b->peers[b->n], sizeof *b->peers, i->peer);
	b->list[b->n++] = (struct control_connection){
	        .generation = b->generations[i->owner],
	        .listener = i->listener,
	        .state = i->state,
	        .age = i->age || i->idle != USEC_INFINITY ? i->age : USEC_INFINITY,
	        .idle = i->idle,
	        .queued_in = i->queued_in,
	        .queued_out = i->queued_out,
	        .worker = i->worker,
	        .pid = i->pid,
	};
}

static void next(void *data, struct control_call *call)
{
	struct browsing *b = data;
	int r;

	b->n = 0;
	r = browse_next(b->browse, on_found, b);
	if (r < 0 || b->short_of_memory) {
		control_answer_error(
		        call, CODE_FAILED, "the connections could not be listed to the end");
		return;
	}
	for (size_t i = 0; i < b->n; i++)
		b->list[i].peer = b->peers[i]; /* where they are now */
	if (b->n || !r)
		control_answer_connections(call, b->list, b->n, !r);
}

static void browsing_free(void *data)
{
	struct browsing *b = data;

	if (!b)
		return;
	(void)browse_free(b->browse);
	free(b->list);
	free(b->peers);
	free(b);
}

/* All processes of the workers, as a child of one may hold a connection. */
struct adding {
	struct browse *browse;
	struct process **processes;
	size_t *owners;
	int *workers;
	size_t n;
	int result;
};

static void add_process(size_t i, pid_t pid, void *arg)
{
	struct adding *a = arg;

	if (!a->result)
		a->result = browse_add_process(a->browse, a->owners[i], a->workers[i], pid);
}

static void add_workers(struct adding *a, const struct generation *g, size_t owner)
{
	for (unsigned k = 0; k < g->n_workers; k++) {
		const struct live_worker *w = g->workers[k].shell;

		if (!w)
			continue;
		a->processes[a->n] = w->process;
		a->owners[a->n] = owner;
		a->workers[a->n++] = (int)k;
	}
}

static int add_processes(struct browsing *b, const struct service *sv)
{
	struct adding a = {.browse = b->browse};
	size_t room = 1, owner = 0;

	for (unsigned i = 0; i < sv->n_generations; i++)
		room += sv->generations[i]->n_workers;
	a.processes = calloc(room, sizeof(struct process *));
	a.owners = calloc(room, sizeof *a.owners);
	a.workers = calloc(room, sizeof *a.workers);
	if (!a.processes || !a.owners || !a.workers)
		a.result = -ENOMEM;
	for (unsigned i = 0; i < sv->n_generations && !a.result; i++)
		if (owner < GENERATIONS_MAX && sv->generations[i]->id == b->generations[owner])
			add_workers(&a, sv->generations[i], owner++);
	if (!a.result)
		processes_each(a.processes, a.n, add_process, &a);
	free(a.processes);
	free(a.owners);
	free(a.workers);
	return a.result;
}

static struct browsing *browsing_new(
        struct daemon *d, const struct service *sv, uint32_t generation, struct ho_error *reterr)
{
	struct browsing *b = calloc(1, sizeof *b);
	struct listener_set *sets[GENERATIONS_MAX];
	size_t n = 0;

	for (unsigned i = 0; b && i < sv->n_generations; i++) {
		const struct live_generation *g = sv->generations[i]->shell;

		if (!g || !g->set || (generation && sv->generations[i]->id != generation))
			continue;
		b->generations[n] = sv->generations[i]->id;
		sets[n++] = g->set;
	}
	if (!b || browse_new(d->connections, sets, n, &b->browse, reterr) < 0)
		goto fail;
	if (add_processes(b, sv) < 0) {
		(void)ho_error_set(reterr, -ENOMEM, "handoffd is short of memory");
		goto fail;
	}
	return b;
fail:
	browsing_free(b);
	return NULL;
}

void daemon_answer_connections(
        struct daemon *d, struct control_call *call, const char *service, uint32_t generation)
{
	static const struct control_stream stream = {next, browsing_free};
	const struct service *sv = supervisor_find(d->supervisor, service);
	struct ho_error error = {.text = "handoffd is short of memory"};
	struct browsing *b;

	if (!sv) {
		daemon_refuse_service(d, call, service);
		return;
	}
	if (generation && !service_find(sv, generation)) {
		control_answer_error(call, CODE_USAGE, "the service has no such generation");
		return;
	}
	b = browsing_new(d, sv, generation, &error);
	if (b)
		control_stream(call, &stream, b);
	else
		control_answer_error(call, CODE_FAILED, error.text);
}
