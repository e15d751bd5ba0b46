/* SPDX-License-Identifier: MIT */
#include "process/build.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/assemble.h"
#include "process/ends.h"
#include "process/output.h"
#include "process/spawn.h"
#include "process/tree.h"
#include "system/fd.h"

#define KILL_AFTER_SECONDS 2.
#define LAST_BYTES ((size_t)1 << 20)

struct build {
	struct build *next, **list;
	size_t *running;
	struct ev_loop *loop;
	struct build_handlers handlers;
	struct release *release;
	struct assembly assembly;
	pid_t pid;
	uint64_t start; /* with the pid an identity */
	int pidfd;      /* -1: not started, or reaped */
	ev_io exit_io;
	ev_timer kill;
	bool told;
	struct output outputs[2];
	struct tail tail;
};

static bool on_line(void *data, bool is_stderr, const char *line, size_t length)
{
	struct build *b = data;

	tail_add(&b->tail, line, length);
	b->handlers.output(b->handlers.data, is_stderr, line, length);
	return true;
}

static void on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct build *b = io->data;

	(void)loop;
	(void)events;
	(void)output_read(&b->outputs[io == &b->outputs[1].io], OUTPUT_READ_BYTES);
}

static void on_exit_readable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	build_ended(io->data);
}

static void on_kill(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct build *b = timer->data;

	(void)loop;
	(void)events;
	(void)tree_signal(b->pid, false, SIGKILL, true);
}

static int make_outputs(struct build *b, int *theirs, struct ho_error *reterr)
{
	int fd, r = 0;

	for (int i = 0; r == 0 && i < 2; i++) {
		r = ends_pipe(&b->assembly.credentials, &fd, &theirs[i], reterr);
		if (r == 0)
			output_start(&b->outputs[i], b->loop, fd, on_readable);
	}
	return r;
}

static int start(struct build *b, struct ho_error *reterr)
{
	const struct process_spec spec = {
	        .release = b->release, .capture = true, .command = &b->release->service->build};
	_cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int theirs[2] = {-1, -1}, r;
	struct fdmap map = {0};
	struct fdmap_plan fds;
	struct spawn_plan plan;
	struct spawned spawned;
	struct tree_entry self;

	if (null_fd < 0)
		return ho_error_set(reterr, -errno, "cannot open /dev/null: %s", strerror(errno));
	r = assembly_make(&spec, "", &b->assembly, reterr);
	if (r == 0)
		r = make_outputs(b, theirs, reterr);
	if (r == 0) {
		environment_unset(&b->assembly.environment, "NOTIFY_SOCKET");
		environment_unset(&b->assembly.environment, "WATCHDOG_USEC");
		environment_unset(&b->assembly.environment, "WATCHDOG_PID");
		environment_set(&b->assembly.environment, BUILD_VARIABLE, "%ld", (long)getpid());
		(void)fdmap_add(&map, null_fd, 0);
		(void)fdmap_add(&map, theirs[0], 1);
		(void)fdmap_add(&map, theirs[1], 2);
		fdmap_make(&map, &fds);
		plan = (struct spawn_plan){.argv = b->assembly.argv,
		        .environ = b->assembly.environment.items,
		        .directory = b->release->directory,
		        .fds = &fds,
		        .service = b->release->service,
		        .follows = b->handlers.follows,
		        .credentials = &b->assembly.credentials};
		r = spawn(&plan, &spawned, reterr);
	}
	(void)close_fd(theirs[0]);
	(void)close_fd(theirs[1]);
	if (r < 0)
		return r;
	b->pid = spawned.pid;
	b->pidfd = spawned.pidfd;
	if (tree_entry_read(b->pid, &self) == 0)
		b->start = self.start;
	return 0;
}

/* NULL when memory is short. */
static struct build *new_build(struct ev_loop *loop, struct build **list, size_t *running,
        struct release *release, const struct build_handlers *handlers)
{
	struct build *b = calloc(1, sizeof *b);

	if (!b)
		return NULL;
	*b = (struct build){.next = *list,
	        .list = list,
	        .running = running,
	        .loop = loop,
	        .handlers = *handlers,
	        .release = release_ref(release),
	        .pidfd = -1};
	*list = b;
	ev_io_init(&b->exit_io, on_exit_readable, -1, EV_READ);
	ev_timer_init(&b->kill, on_kill, KILL_AFTER_SECONDS, 0.);
	b->exit_io.data = b->kill.data = b;
	for (size_t i = 0; i < ARRAY_SIZE(b->outputs); i++) {
		b->outputs[i].fd = -1;
		b->outputs[i].lines.line = on_line;
		b->outputs[i].lines.data = b;
		b->outputs[i].lines.is_stderr = i == 1;
	}
	return b;
}

static void watch(struct build *b)
{
	++*b->running;
	ev_io_set(&b->exit_io, b->pidfd, EV_READ);
	ev_io_start(b->loop, &b->exit_io);
}

int build_start(struct ev_loop *loop, struct build **list, size_t *running, struct release *release,
        const struct build_handlers *handlers, struct build **ret, struct ho_error *reterr)
{
	struct build *b = new_build(loop, list, running, release, handlers);
	int r;

	if (!b)
		return ho_error_set(reterr, -ENOMEM, "no memory for a build");
	r = start(b, reterr);
	if (r < 0) {
		(void)build_free(b);
		return r;
	}
	watch(b);
	*ret = b;
	return 0;
}

/* ---- from one handoffd to the next ---- */

/* clang-format off */
static const struct field build_fields[] = {
        FIELD(build, pid),
        FIELD(build, start),
        FIELD(build, told),
        FIELD_NOT(build, next),
        FIELD_NOT(build, list),
        FIELD_NOT(build, running),
        FIELD_NOT(build, loop),
        FIELD_NOT(build, handlers),
        FIELD_NOT(build, release),
        FIELD_NOT(build, assembly),
        FIELD_NOT(build, pidfd),
        FIELD_NOT(build, exit_io),
        FIELD_NOT(build, kill),
        FIELD_NOT(build, outputs),
        FIELD_NOT(build, tail),
};
/* clang-format on */

json_t *build_save(const struct build *b, struct saver *v)
{
	json_t *j = save_fields(v, build_fields, ARRAY_SIZE(build_fields), b), *begun;

	if (v->brief) /* after a crash it is ended: see processes_end_builds() */
		return j;
	begun = json_array();
	for (int i = 0; i < 2; i++) {
		const struct output *o = &b->outputs[i];

		save_item(
		        v, begun, save_text(o->lines.bytes ? o->lines.bytes : "", o->lines.length));
		if (o->loop)
			save_fd(v, o->fd, "build-%d-%" PRIu64 ".output%d", (int)b->pid, b->start,
			        i);
	}
	save_fd(v, b->pidfd, "build-%d-%" PRIu64 ".pidfd", (int)b->pid, b->start);
	save_member(v, j, "begun", begun);
	save_member(v, j, "log", save_text(tail_text(&b->tail), b->tail.length));
	return j;
}

static void load_output(struct build *b, int i, const json_t *begun, struct loader *l)
{
	int fd = load_fd(l, "build-%d-%" PRIu64 ".output%d", (int)b->pid, b->start, i);

	lines_load(&b->outputs[i].lines, l, begun);
	if (fd >= 0)
		output_start(&b->outputs[i], b->loop, fd, on_readable);
}

struct build *build_load(struct ev_loop *loop, struct build **list, size_t *running,
        struct release *release, const struct build_handlers *handlers, const json_t *from,
        struct loader *l)
{
	struct build *b = new_build(loop, list, running, release, handlers);
	const json_t *begun = json_object_get(from, "begun");

	if (!b) {
		load_failed(l, "memory is short");
		return NULL;
	}
	load_fields(l, from, build_fields, ARRAY_SIZE(build_fields), b);
	b->pidfd = load_fd(l, "build-%d-%" PRIu64 ".pidfd", (int)b->pid, b->start);
	if (b->pidfd < 0) {
		(void)build_free(b);
		return NULL;
	}
	watch(b);
	tail_load(&b->tail, l, json_object_get(from, "log"));
	for (int i = 0; i < 2; i++)
		load_output(b, i, json_array_get(begun, (size_t)i), l);
	if (b->told)
		ev_timer_start(loop, &b->kill);
	return b;
}

struct build *build_find(struct build *list, pid_t pid)
{
	for (; list; list = list->next)
		if (list->pidfd >= 0 && list->pid == pid)
			return list;
	return NULL;
}

void build_ended(struct build *b)
{
	struct exit_info how = {0};
	siginfo_t info = {0};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(b->outputs); i++) {
		(void)output_read(&b->outputs[i], LAST_BYTES);
		(void)lines_flush(&b->outputs[i].lines);
	}
	/* what it has left behind is part of it; its own number is still its own */
	(void)tree_signal(b->pid, false, SIGKILL, false);
	do
		r = waitid(P_PIDFD, (id_t)b->pidfd, &info, WEXITED | WNOHANG);
	while (r < 0 && errno == EINTR);
	if (r == 0 && info.si_pid != 0)
		how = (struct exit_info){.code = info.si_code, .status = info.si_status};
	ev_io_stop(b->loop, &b->exit_io);
	b->pidfd = close_fd(b->pidfd);
	--*b->running;
	if (b->tail.length)
		b->tail.text[--b->tail.length] = '\0';
	b->handlers.ended(b->handlers.data, how, tail_last(&b->tail, TOLD_LINES, TOLD_BYTES));
	(void)build_free(b);
}

void build_stop(struct build *b)
{
	(void)tree_signal(b->pid, false, b->told ? SIGKILL : SIGTERM, true);
	if (!b->told)
		ev_timer_start(b->loop, &b->kill);
	b->told = true;
}

struct build *build_free(struct build *b)
{
	struct build **at;
	siginfo_t info;

	if (!b)
		return NULL;
	for (at = b->list; *at != b; at = &(*at)->next)
		;
	*at = b->next;
	ev_timer_stop(b->loop, &b->kill);
	ev_io_stop(b->loop, &b->exit_io);
	if (b->pidfd >= 0) {
		(void)tree_signal(b->pid, false, SIGKILL, true);
		(void)waitid(P_PIDFD, (id_t)b->pidfd, &info, WEXITED | WNOHANG);
		b->pidfd = close_fd(b->pidfd);
		--*b->running;
	}
	output_done(&b->outputs[0]);
	output_done(&b->outputs[1]);
	tail_done(&b->tail);
	assembly_done(&b->assembly);
	release_unref(b->release);
	free(b);
	return NULL;
}
