/* SPDX-License-Identifier: MIT */
/* Processes are stopped and go on; real ones. */
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "process/cgroup.h"
#include "process/freeze.h"
#include "process/tree.h"

#define TIME_LIMIT 20

struct world {
	struct ev_loop *loop;
	pid_t pids[4]; /* of which the first is our child, the second its child */
	size_t n;
	bool done;
};

static void list(void *data, void (*each)(pid_t pid, void *arg), void *arg)
{
	const struct world *w = data;

	for (size_t i = w->n; i-- > 0;) /* in no good order */
		each(w->pids[i], arg);
}

static void on_done(void *data)
{
	((struct world *)data)->done = true;
}

static char state_of(pid_t pid)
{
	struct tree_entry e;

	return tree_entry_read(pid, &e) < 0 ? '?' : e.state;
}

static void wait_for_state(pid_t pid, bool stopped)
{
	while ((state_of(pid) == 'T') != stopped)
		assert_int_not_equal(state_of(pid), '?');
}

/* Waits for its child as a shell with job control does, and tells by its status what it saw. */
static _noreturn_ void be_parent(int report)
{
	pid_t child = fork();
	int status;

	if (child == 0)
		for (;;)
			(void)pause();
	if (write(report, &child, sizeof child) != sizeof child)
		_exit(3);
	for (;;) {
		if (waitpid(child, &status, WUNTRACED) < 0) {
			if (errno == EINTR)
				continue;
			_exit(2);
		}
		_exit(WIFSTOPPED(status));
	}
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	int ends[2];

	assert_non_null(w);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
	assert_int_equal(pipe(ends), 0);
	w->loop = ev_loop_new(EVFLAG_AUTO);
	w->pids[0] = fork();
	assert_true(w->pids[0] >= 0);
	if (w->pids[0] == 0)
		be_parent(ends[1]);
	assert_int_equal(read(ends[0], &w->pids[1], sizeof(pid_t)), sizeof(pid_t));
	(void)close(ends[0]);
	(void)close(ends[1]);
	w->n = 2;
	*state = w;
	(void)alarm(TIME_LIMIT);
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	(void)kill(w->pids[1], SIGKILL);
	(void)kill(w->pids[0], SIGCONT); /* where a test has failed */
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	ev_loop_destroy(w->loop);
	free(w);
	(void)alarm(0);
	return 0;
}

static struct freeze *stop(struct world *w)
{
	struct freeze *f = freeze_new(w->loop, NULL, list, w, on_done, w);

	assert_non_null(f);
	while (!w->done)
		ev_run(w->loop, EVRUN_ONCE);
	return f;
}

static void test_stops_and_goes_on(void **state)
{
	struct world *w = *state;
	struct freeze *f = stop(w);

	assert_int_equal(state_of(w->pids[0]), 'T');
	assert_int_equal(state_of(w->pids[1]), 'T');
	assert_null(freeze_free(f));
	wait_for_state(w->pids[0], false);
	wait_for_state(w->pids[1], false);
}

/* The child is stopped after its parent and goes on before it. */
static void test_a_parent_sees_nothing(void **state)
{
	struct world *w = *state;
	int status;

	for (int i = 0; i < 20; i++) {
		w->done = false;
		(void)freeze_free(stop(w));
	}
	assert_int_equal(kill(w->pids[1], SIGTERM), 0);
	assert_int_equal(waitpid(w->pids[0], &status, 0), w->pids[0]);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* A signal that comes meanwhile waits. */
static void test_a_signal_waits(void **state)
{
	struct world *w = *state;
	struct freeze *f = stop(w);
	int status;

	assert_int_equal(kill(w->pids[1], SIGTERM), 0);
	assert_int_equal(state_of(w->pids[1]), 'T');
	(void)freeze_free(f);
	assert_int_equal(waitpid(w->pids[0], &status, 0), w->pids[0]);
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_who_was_stopped_stays_so(void **state)
{
	struct world *w = *state;

	assert_int_equal(kill(w->pids[0], SIGSTOP), 0);
	wait_for_state(w->pids[0], true);
	(void)freeze_free(stop(w));
	wait_for_state(w->pids[1], false);
	assert_int_equal(state_of(w->pids[0]), 'T');
	assert_int_equal(kill(w->pids[0], SIGCONT), 0);
}

/* ---- by cgroup ---- */

/* With the child, but not with its parent in it. */
static struct cgroup make_cgroup(const struct world *w)
{
	static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	struct cgroup top = {-1, (char[]){""}}, c = {0};
	char name[40];

	for (size_t i = 0; i < ARRAY_SIZE(places) && top.fd < 0; i++) {
		(void)snprintf(name, sizeof name, "%s/cgroup.procs", places[i]);
		if (access(name, W_OK) == 0)
			top.fd = open(places[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (top.fd < 0) {
		print_message("no right to make cgroups\n");
		skip();
	}
	(void)snprintf(name, sizeof name, "handoff-test-%d", (int)getpid());
	assert_int_equal(cgroup_make(&top, name, &c), 0);
	assert_int_equal(cgroup_make(&top, name, &c), -EEXIST); /* it is in use */
	(void)close(top.fd);
	(void)snprintf(name, sizeof name, "%d", (int)w->pids[1]);
	top.fd = openat(c.fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(top.fd, name, strlen(name)), strlen(name));
	(void)close(top.fd);
	assert_true(cgroup_holds(&c, w->pids[1]));
	assert_false(cgroup_holds(&c, w->pids[0]));
	return c;
}

static void remember(pid_t pid, void *arg)
{
	*(pid_t *)arg = pid;
}

static void test_frozen_by_the_kernel(void **state)
{
	struct world *w = *state;
	struct cgroup c = make_cgroup(w);
	int events = cgroup_open_events(&c), status;
	struct freeze *f = freeze_new(w->loop, &c, list, w, on_done, w);
	pid_t inside = 0;

	while (!w->done)
		ev_run(w->loop, EVRUN_ONCE);
	assert_true(cgroup_is_frozen(events));
	assert_int_not_equal(state_of(w->pids[1]), 'T');
	assert_int_equal(state_of(w->pids[0]), 'T');
	(void)freeze_free(f);
	while (cgroup_is_frozen(events))
		;
	assert_int_equal(cgroup_freeze(&c, true), 0);
	freeze_end(&c, list, w); /* by another handoffd */
	while (cgroup_is_frozen(events))
		;
	(void)close(events);
	cgroup_each(&c, remember, &inside);
	assert_int_equal(inside, w->pids[1]);
	assert_int_equal(cgroup_kill(&c), 0);
	assert_int_equal(waitpid(w->pids[0], &status, 0), w->pids[0]);
	assert_int_equal(WEXITSTATUS(status), 0);
	cgroup_done(&c);
	assert_null(c.path);
}

static void test_nobody_is_there(void **state)
{
	struct world *w = *state;

	w->n = 0;
	(void)freeze_free(stop(w));
	w->pids[2] = 0x7ffffff0; /* nobody */
	w->done = false;
	w->n = 3;
	(void)freeze_free(stop(w));
	assert_null(freeze_free(NULL));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_stops_and_goes_on),
	        TEST(test_a_parent_sees_nothing),
	        TEST(test_a_signal_waits),
	        TEST(test_who_was_stopped_stays_so),
	        TEST(test_frozen_by_the_kernel),
	        TEST(test_nobody_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
