/* SPDX-License-Identifier: MIT */
/* Which processes belong to a worker: those of its tree (tree.h), and where cgroups are delegated
 * all that are in its own, whoever their parent is now. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "process/internal.h"
#include "system/fd.h"

/* ---- cgroups ---- */

void processes_make_cgroup(struct processes *ps, struct release *r)
{
	char name[CONFIG_MAX_NAME + 16];
	int result = -ENOENT;

	if (!ps->home.path)
		return;
	(void)snprintf(name, sizeof name, "%s-%" PRIu32, r->service->name, r->generation);
	if (r->grouped) /* by the handoffd before us */
		result = cgroup_open(&ps->home, name, &r->cgroup);
	if (result == -ENOENT)
		result = cgroup_make(&ps->home, name, &r->cgroup);
	r->grouped = result == 0;
	cgroup_sweep(&ps->home);
}

const struct cgroup *process_make_cgroup(struct process *p, unsigned worker)
{
	char name[16];

	(void)snprintf(name, sizeof name, "%u", worker);
	return cgroup_make(&p->release->cgroup, name, &p->cgroup) == 0 ? &p->cgroup : NULL;
}

void process_find_cgroup(struct process *p, unsigned worker)
{
	char name[16];

	(void)snprintf(name, sizeof name, "%u", worker);
	(void)cgroup_open(&p->release->cgroup, name, &p->cgroup);
	if (!p->ended)
		process_check_cgroup(p);
}

void process_check_cgroup(struct process *p)
{
	if (!cgroup_holds(&p->cgroup, p->pid))
		cgroup_done(&p->cgroup);
}

void process_leave_home(struct processes *ps)
{
	if (ps->home.path)
		(void)close_fd(ps->home.fd);
	free(ps->home.path);
}

/* ---- signals ---- */

struct telling {
	struct process *p;
	int signo;
	int reached;
};

/* Whoever is in the tree as well is told there. */
static void tell_stray(pid_t pid, void *arg)
{
	struct telling *t = arg;
	struct tree_entry e;

	if (!process_is_in_tree(t->p, pid) && tree_entry_read(pid, &e) == 0)
		t->reached += tree_signal_one(&e, t->signo);
}

int process_signal_tree(struct process *p, int signo, bool include_main)
{
	struct telling t = {.p = p, .signo = signo};
	int r;

	if (!p->attached) {
		cgroup_each(&p->cgroup, tell_stray, &t);
		if (signo == SIGKILL && (include_main || p->ended))
			(void)cgroup_kill(&p->cgroup); /* nobody slips through by forking */
		r = tree_signal(p->pid, p->ended, signo, include_main);
		return r < 0 && !t.reached ? r : (r > 0 ? r : 0) + t.reached;
	}
	if (!p->ended)
		(void)tree_known_update(&p->known, p->pid);
	return tree_known_signal(&p->known, signo, include_main ? 0 : p->pid);
}

/* ---- all of them ---- */

/* What a worker leaves behind becomes ours, as we are the subreaper: with no other children than
 * running workers there is nothing of it, and the long way through /proc is spared. */
static bool left_nothing(const struct process *p)
{
	return p->ended && !p->attached && !p->ps->foreign &&
	       tree_count_children() == (ssize_t)(p->ps->running + p->ps->helpers);
}

struct one_of {
	size_t i;
	void (*each)(size_t i, pid_t pid, void *arg);
	void *arg;
};

static void each_known(pid_t pid, void *arg)
{
	const struct one_of *one = arg;

	one->each(one->i, pid, one->arg);
}

struct strays {
	struct one_of one;
	const struct process *p;
	const struct tree_entry *entries;
	size_t n;
};

/* In the cgroup, but not found in the tree. */
static void each_stray(pid_t pid, void *arg)
{
	const struct strays *s = arg;
	const struct tree_entry *e = tree_find(s->entries, s->n, pid);

	if (!(e && e->member) && !tree_known_has(&s->p->known, pid))
		s->one.each(s->one.i, pid, s->one.arg);
}

void processes_each(struct process *const *list, size_t n,
        void (*each)(size_t i, pid_t pid, void *arg), void *arg)
{
	_cleanup_free_ struct tree_entry *entries = NULL;
	ssize_t found = 0;

	for (size_t i = 0; i < n; i++) {
		const struct process *p = list[i];
		struct strays strays;
		struct one_of one = {i, each, arg};

		if (left_nothing(p))
			continue;
		if (!entries)
			found = tree_scan(p->pid, p->ended, &entries);
		else
			tree_mark(entries, (size_t)found, p->pid, p->ended);
		for (ssize_t k = 0; k < found; k++)
			if (entries[k].member && !tree_known_has(&p->known, entries[k].pid))
				each(i, entries[k].pid, arg);
		tree_known_each(&p->known, each_known, &one);
		strays = (struct strays){one, p, entries, found > 0 ? (size_t)found : 0};
		cgroup_each(&p->cgroup, each_stray, &strays);
	}
}

struct one {
	void (*each)(pid_t pid, void *arg);
	void *arg;
};

static void of_one(size_t i, pid_t pid, void *arg)
{
	const struct one *one = arg;

	(void)i;
	one->each(pid, one->arg);
}

void process_each(struct process *p, void (*each)(pid_t pid, void *arg), void *arg)
{
	struct one one = {each, arg};

	processes_each(&p, 1, of_one, &one);
}
