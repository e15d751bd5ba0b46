/* SPDX-License-Identifier: MIT */
#include "process/checker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/fd.h"

#define PAUSE_SECONDS 0.2

/* A run that cannot be started is a run that failed: it is tried again. */
static int run(struct checker *c, struct ho_error *reterr)
{
	_cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct fdmap map = {0};
	struct spawned spawned;
	int r;

	if (null_fd < 0)
		return ho_error_set(reterr, -errno, "cannot open /dev/null: %s", strerror(errno));
	for (int fd = 0; fd < 3; fd++)
		(void)fdmap_add(&map, null_fd, fd);
	fdmap_make(&map, &c->fds);
	r = spawn(&c->plan, &spawned, reterr);
	if (r < 0)
		return r;
	c->pid = spawned.pid;
	c->pidfd = spawned.pidfd;
	ev_io_set(&c->exit_io, c->pidfd, EV_READ);
	ev_io_start(c->loop, &c->exit_io);
	return 0;
}

static void start_again_later(struct checker *c)
{
	ev_timer_set(&c->again, PAUSE_SECONDS, 0.);
	ev_timer_start(c->loop, &c->again);
}

static void on_again(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct checker *c = timer->data;

	(void)loop;
	(void)events;
	if (run(c, NULL) < 0)
		start_again_later(c);
}

void checker_ended(struct checker *c)
{
	siginfo_t info = {0};

	if (waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG) < 0 && errno == EINTR)
		return;
	ev_io_stop(c->loop, &c->exit_io);
	c->pidfd = close_fd(c->pidfd);
	if (info.si_code == CLD_EXITED && info.si_status == 0)
		c->succeeded(c->data);
	else
		start_again_later(c);
}

static void on_exit_readable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	checker_ended(io->data);
}

int checker_new(struct ev_loop *loop, const char *command, const struct spawn_plan *like,
        struct environment *environment, void (*succeeded)(void *data), void *data,
        struct checker **ret, struct ho_error *reterr)
{
	static char shell[] = "/bin/sh", option[] = "-c";
	struct checker *c = calloc(1, sizeof *c);
	char *copy = strdup(command);
	int r;

	if (!c || !copy) {
		free(c);
		free(copy);
		environment_done(environment);
		return ho_error_set(reterr, -ENOMEM, "cannot run \"%.200s\": no memory", command);
	}
	*c = (struct checker){.loop = loop,
	        .pidfd = -1,
	        .argv = {shell, option, copy, NULL},
	        .environment = *environment,
	        .plan = *like,
	        .succeeded = succeeded,
	        .data = data};
	*environment = (struct environment){0};
	c->plan.argv = c->argv;
	c->plan.environ = c->environment.items;
	c->plan.listen_pid = c->plan.watchdog_pid = NULL;
	c->plan.fds = &c->fds;
	c->plan.adoption = ADOPTION_NO;
	ev_io_init(&c->exit_io, on_exit_readable, -1, EV_READ);
	ev_timer_init(&c->again, on_again, 0., 0.);
	c->exit_io.data = c->again.data = c;
	r = run(c, reterr);
	if (r < 0)
		(void)checker_free(c);
	else
		*ret = c;
	return r;
}

struct checker *checker_free(struct checker *c)
{
	siginfo_t info;

	if (!c)
		return NULL;
	ev_timer_stop(c->loop, &c->again);
	ev_io_stop(c->loop, &c->exit_io);
	if (c->pidfd >= 0) {
		/* Not reaped yet, so the number is still its own. What is left of it when we look
		 * too early is reaped as any orphan. */
		(void)kill(-c->pid, SIGKILL);
		(void)waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG);
		(void)close_fd(c->pidfd);
	}
	environment_done(&c->environment);
	free(c->argv[2]);
	free(c);
	return NULL;
}

pid_t checker_pid(const struct checker *c)
{
	return c->pidfd >= 0 ? c->pid : 0;
}
