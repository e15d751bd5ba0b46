/* SPDX-License-Identifier: MIT */
#include "process/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/internal.h"
#include "system/fd.h"

/* Less than a pipe holds, so that whoever writes it does not wait for us to read. */
#define TEXT_MAX 4096

struct helper {
	struct processes *ps;
	pid_t pid;
	int pidfd, output;
	ev_io exit_io;
	ev_timer limit;
	bool late;
	helper_done done;
	void *data;
};

static void on_exit_readable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	helper_ended(io->data);
}

static void on_limit(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct helper *h = timer->data;

	(void)loop;
	(void)events;
	h->late = true;
	(void)pidfd_send_signal(h->pidfd, SIGKILL, NULL, 0);
}

/* Signals as they are by default: ours are blocked. */
static int start(struct helper *h, const char *const argv[], int input, int output)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	if (posix_spawn_file_actions_init(&files))
		return -ENOMEM;
	if (posix_spawnattr_init(&attributes)) {
		(void)posix_spawn_file_actions_destroy(&files);
		return -ENOMEM;
	}
	r = posix_spawn_file_actions_adddup2(&files, input, STDIN_FILENO);
	if (!r)
		r = posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
	if (!r)
		r = posix_spawn_file_actions_adddup2(&files, output, STDERR_FILENO);
	if (!r)
		r = posix_spawnattr_setsigmask(&attributes, &none);
	if (!r)
		r = posix_spawnattr_setsigdefault(&attributes, &all);
	if (!r)
		r = posix_spawnattr_setflags(
		        &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	if (!r)
		r = posix_spawn(
		        &h->pid, argv[0], &files, &attributes, (char *const *)argv, environ);
	(void)posix_spawn_file_actions_destroy(&files);
	(void)posix_spawnattr_destroy(&attributes);
	return -r;
}

int helper_new(struct processes *ps, const char *const argv[], int input, usec_t limit,
        helper_done done, void *data, struct helper **ret, struct ho_error *reterr)
{
	struct helper *h = calloc(1, sizeof *h);
	int ends[2], r;

	if (!h || pipe2(ends, O_CLOEXEC) < 0) {
		free(h);
		return ho_error_set(
		        reterr, -ENOMEM, "cannot run \"%.200s\": %s", argv[0], strerror(errno));
	}
	*h = (struct helper){.ps = ps, .pidfd = -1, .output = ends[0], .done = done, .data = data};
	r = start(h, argv, input, ends[1]);
	(void)close_fd(ends[1]);
	if (r == 0)
		h->pidfd = pidfd_open(h->pid, 0);
	if (r == 0 && h->pidfd < 0) {
		r = -errno;
		(void)kill(h->pid, SIGKILL); /* not reaped yet, so it is still its own number */
	}
	if (r < 0) {
		(void)close_fd(h->output);
		free(h);
		return ho_error_set(reterr, r, "cannot run \"%.200s\": %s", argv[0], strerror(-r));
	}
	ev_io_init(&h->exit_io, on_exit_readable, h->pidfd, EV_READ);
	ev_timer_init(&h->limit, on_limit, (double)limit / USEC_PER_SEC, 0.);
	h->exit_io.data = h->limit.data = h;
	ev_io_start(ps->loop, &h->exit_io);
	ev_timer_start(ps->loop, &h->limit);
	ps->helpers++;
	*ret = h;
	return 0;
}

static void forget(struct helper *h)
{
	ev_io_stop(h->ps->loop, &h->exit_io);
	ev_timer_stop(h->ps->loop, &h->limit);
	(void)close_fd(h->pidfd);
	(void)close_fd(h->output);
	h->ps->helper = NULL;
	h->ps->helpers--;
	free(h);
}

struct helper *helper_free(struct helper *h)
{
	if (!h)
		return NULL;
	(void)pidfd_send_signal(h->pidfd, SIGKILL, NULL, 0);
	forget(h);
	return NULL;
}

pid_t helper_pid(const struct helper *h)
{
	return h->pid;
}

void helper_ended(struct helper *h)
{
	const struct helper was = *h;
	char text[TEXT_MAX];
	siginfo_t info = {0};
	ssize_t n;

	if (waitid(P_PIDFD, (id_t)h->pidfd, &info, WEXITED | WNOHANG) < 0 && errno == EINTR)
		return;
	(void)fcntl(h->output, F_SETFL, O_NONBLOCK); /* a process that it left may have the pipe */
	n = read(h->output, text, sizeof text - 1);
	text[n > 0 ? n : 0] = '\0';
	forget(h);
	was.done(was.data, info.si_code == CLD_EXITED && info.si_status == 0,
	        was.late ? NULL : text);
}

int processes_run(struct processes *ps, const char *const argv[], int input, usec_t limit,
        helper_done done, void *data, struct ho_error *reterr)
{
	if (ps->helper)
		return ho_error_set(reterr, -EBUSY, "another check is under way");
	return helper_new(ps, argv, input, limit, done, data, &ps->helper, reterr);
}
