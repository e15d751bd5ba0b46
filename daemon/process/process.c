/* SPDX-License-Identifier: MIT */
/* One worker from start to end. Whatever a handler does with a process, also process_free(), is
 * allowed in the middle of anything here: a process is held while it calls out, and goes away when
 * it is let go. */
#include "process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/internal.h"
#include "process/tree.h"
#include "system/fd.h"

/* At its end a worker's pipes are read to the end, unless somebody goes on filling them. */
#define LAST_WORDS_BYTES ((size_t)1 << 20)
#define LAST_WORDS_DATAGRAMS 512
#define MAX_REAPED 65536
#define MAX_DEPTH 64

int processes_new(struct ev_loop *loop, const struct process_handlers *handlers,
        struct processes **ret, struct ho_error *reterr)
{
	struct processes *ps;

	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return ho_error_set(
		        reterr, -errno, "cannot become child subreaper: %s", strerror(errno));
	ps = calloc(1, sizeof *ps);
	if (!ps)
		return ho_error_set(reterr, -ENOMEM, "no memory for the table of processes");
	ps->loop = loop;
	ps->handlers = *handlers;
	(void)cgroup_find(&ps->home); /* else without */
	*ret = ps;
	return 0;
}

struct processes *processes_free(struct processes *ps)
{
	if (!ps)
		return NULL;
	while (ps->builds)
		(void)build_free(ps->builds);
	while (ps->first) {
		HO_ASSERT(ps->first->held == 0);
		(void)process_free(ps->first);
	}
	ps->helper = helper_free(ps->helper);
	process_leave_home(ps);
	free(ps);
	return NULL;
}

void process_destroy(struct process *p)
{
	siginfo_t info;

	(void)checker_free(p->checker);
	socket_calls_stop(&p->calls);
	if (p->ready_fd >= 0)
		ev_io_stop(p->ps->loop, &p->ready_io);
	(void)close_fd(p->ready_fd);
	ev_io_stop(p->ps->loop, &p->exit_io);
	if (p->pidfd >= 0)
		(void)waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG);
	(void)close_fd(p->pidfd);
	notify_stop(&p->notify);
	einhorn_stop(&p->einhorn);
	channel_done(&p->channel);
	output_done(&p->outputs[0]);
	output_done(&p->outputs[1]);
	tail_done(&p->tail);
	tail_done(&p->tail_now);
	assembly_done(&p->assembly);
	tree_known_done(&p->known);
	cgroup_done(&p->cgroup);
	(void)release_unref(p->release);
	free(p);
}

struct process *process_free(struct process *p)
{
	if (!p || p->freed)
		return NULL;
	p->freed = true;
	if (p->link) {
		if (!p->ended && !p->attached)
			p->ps->running--;
		*p->link = p->next;
		if (p->next)
			p->next->link = p->link;
	}
	if (p->held == 0)
		process_destroy(p);
	return NULL;
}

static void hold(struct process *p)
{
	p->held++;
}

/* False if it is gone. */
static bool let_go(struct process *p)
{
	if (--p->held > 0)
		return !p->freed;
	if (!p->freed)
		return true;
	process_destroy(p);
	return false;
}

static bool deliver(struct process *p, const struct notify_message *m)
{
	p->ps->handlers.notified(p->ps->handlers.data, p, m);
	return !p->freed;
}

/* Callbacks of the parts return whether the process is still wanted; it is never destroyed inside
 * of them, as everything that calls them holds it. */

static bool tell_channel(struct process *p)
{
	const struct notify_message m = {.kind = NOTIFY_HELLO,
	        .number = p->channel.fd < 0   ? CHANNEL_NONE
	                  : p->channel.drains ? CHANNEL_DRAINS
	                                      : CHANNEL_OPEN,
	        .fd = -1,
	        .page_fd = -1};

	return deliver(p, &m);
}

/* What a worker may say on its channel. */
static bool on_channel_word(void *arg, const struct notify_message *m)
{
	struct process *p = arg;

	if (m->kind != NOTIFY_DRAINS || p->channel.drains)
		return true;
	p->channel.drains = true;
	return tell_channel(p);
}

static void on_channel_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct process *p = io->data;
	char bytes[NOTIFY_MAX_BYTES];
	ssize_t n;

	(void)loop;
	(void)events;
	hold(p);
	n = channel_read(&p->channel, bytes, sizeof bytes);
	if (n > 0) {
		notify_parse(bytes, (size_t)n, on_channel_word, p);
	} else if (n < 0) {
		channel_close(&p->channel);
		p->channel.drains = false;
		(void)tell_channel(p);
	}
	(void)let_go(p);
}

static bool on_hello(struct process *p, const struct notify_message *m)
{
	if (channel_open(&p->channel, p->ps->loop, m->fd, m->page_fd, on_channel_readable, p) < 0 ||
	        channel_tell(&p->channel, "HELLO=1") < 0)
		return true;
	p->channel.drains = m->number != 0;
	return tell_channel(p);
}

static bool on_message(void *data, const struct notify_message *m)
{
	struct process *p = data;

	return m->kind == NOTIFY_HELLO ? on_hello(p, m) : deliver(p, m);
}

static bool on_line(void *data, bool is_stderr, const char *line, size_t length)
{
	struct process *p = data;

	tail_add(&p->tail, line, length);
	if (p->ps->handlers.output)
		p->ps->handlers.output(p->ps->handlers.data, p, is_stderr, line, length);
	return !p->freed;
}

bool process_is_in_tree(const struct process *p, pid_t pid)
{
	for (int depth = 0; depth < MAX_DEPTH && pid > 1; depth++) {
		struct tree_entry e;

		if (pid == p->pid)
			return !p->ended;
		if (tree_entry_read(pid, &e) < 0)
			return false;
		if (e.session == p->pid)
			return true;
		pid = e.parent;
	}
	return false;
}

static bool belongs(const struct process *p, pid_t pid)
{
	return process_is_in_tree(p, pid) || cgroup_holds(&p->cgroup, pid);
}

/* A helper that said its word and ended cannot be looked at any more; then its user must do. */
static bool accepts_sender(void *data, pid_t pid, uid_t uid)
{
	const struct process *p = data;
	struct tree_entry e;

	if (pid == p->pid || belongs(p, pid))
		return true;
	return tree_entry_read(pid, &e) == -ESRCH &&
	       (uid == p->assembly.credentials.uid || uid == 0);
}

void process_on_notify(struct ev_loop *loop, ev_io *io, int events)
{
	struct process *p = io->data;

	(void)loop;
	(void)events;
	hold(p);
	(void)notify_read(&p->notify, NOTIFY_READS);
	(void)let_go(p);
}

static void on_einhorn_ack(void *data)
{
	const struct notify_message m = {.kind = NOTIFY_READY, .fd = -1};
	struct process *p = data;

	hold(p);
	(void)deliver(p, &m);
	(void)let_go(p);
}

static void on_output_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct process *p = io->data;

	(void)loop;
	(void)events;
	hold(p);
	(void)output_read(&p->outputs[io == &p->outputs[1].io], OUTPUT_READ_BYTES);
	(void)let_go(p);
}

/* True when the newline was there, or can come no more. */
static bool ready_fd_done(struct process *p, bool *ret_ready)
{
	char bytes[512];
	ssize_t n = read(p->ready_fd, bytes, sizeof bytes);

	if (n < 0)
		return errno != EAGAIN && errno != EINTR;
	*ret_ready = memchr(bytes, '\n', (size_t)n) != NULL;
	return n == 0 || *ret_ready;
}

/* False if the process is not wanted any more. */
static bool read_ready_fd(struct process *p)
{
	const struct notify_message m = {.kind = NOTIFY_READY_FD, .fd = -1};
	bool ready = false;

	if (p->ready_fd < 0 || !ready_fd_done(p, &ready))
		return true;
	ev_io_stop(p->ps->loop, &p->ready_io);
	p->ready_fd = close_fd(p->ready_fd);
	return !ready || deliver(p, &m);
}

static void on_ready_fd_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct process *p = io->data;

	(void)loop;
	(void)events;
	hold(p);
	(void)read_ready_fd(p);
	(void)let_go(p);
}

/* What it said before its end comes before the news of its end. */
static bool read_last_words(struct process *p)
{
	if (!read_ready_fd(p) || !notify_read(&p->notify, LAST_WORDS_DATAGRAMS))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(p->outputs); i++) {
		if (!output_read(&p->outputs[i], LAST_WORDS_BYTES) ||
		        !lines_flush(&p->outputs[i].lines))
			return false;
	}
	return true;
}

void process_ended(struct process *p)
{
	struct exit_info how = {0};
	siginfo_t info = {0};
	int r;

	hold(p);
	if (!p->ended && read_last_words(p)) {
		do
			r = waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG);
		while (r < 0 && errno == EINTR);
		if (r == 0 && info.si_pid != 0)
			how = (struct exit_info){.code = info.si_code, .status = info.si_status};
		else
			how = pidfd_exit_info(p->pidfd);
		p->ended = true;
		p->ps->running -= !p->attached;
		p->checker = checker_free(p->checker);
		ev_io_stop(p->ps->loop, &p->exit_io);
		p->pidfd = close_fd(p->pidfd);
		p->ps->handlers.exited(p->ps->handlers.data, p, how);
	}
	(void)let_go(p);
}

static void on_exit_readable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	process_ended(io->data);
}

static struct process *find_main(struct processes *ps, pid_t pid)
{
	for (struct process *p = ps->first; p; p = p->next) {
		if (p->pid == pid && !p->ended)
			return p;
	}
	return NULL;
}

static struct checker *find_checker(struct processes *ps, pid_t pid)
{
	for (struct process *p = ps->first; p; p = p->next) {
		if (p->checker && checker_pid(p->checker) == pid)
			return p->checker;
	}
	return NULL;
}

void processes_reap(struct processes *ps)
{
	/* Each round takes one zombie away, so this ends; a worker or a check among them would be
	 * shown for ever, and its exit is wanted, so its end is dealt with on the spot. */
	for (int i = 0; i < MAX_REAPED; i++) {
		siginfo_t info = {0};
		struct checker *c;
		struct build *b;
		struct process *p;

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0) {
			if (errno == EINTR)
				continue;
			return;
		}
		if (info.si_pid == 0)
			return;
		p = find_main(ps, info.si_pid);
		c = p ? NULL : find_checker(ps, info.si_pid);
		b = p || c ? NULL : build_find(ps->builds, info.si_pid);
		if (p)
			process_ended(p);
		else if (c)
			checker_ended(c);
		else if (b)
			build_ended(b);
		else if (ps->helper && helper_pid(ps->helper) == info.si_pid)
			helper_ended(ps->helper);
		else
			(void)waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG);
	}
}

struct process *processes_find(struct processes *ps, pid_t pid)
{
	struct process *p = find_main(ps, pid);

	for (struct process *in = p ? NULL : ps->first; in; in = in->next)
		if (cgroup_holds(&in->cgroup, pid))
			return in;

	for (int depth = 0; !p && depth < MAX_DEPTH && pid > 1; depth++) {
		struct tree_entry e;

		if (tree_entry_read(pid, &e) < 0)
			return NULL;
		for (p = ps->first; p && p->pid != e.session; p = p->next)
			;
		pid = e.parent;
		p = p ? p : find_main(ps, pid);
	}
	return p;
}

static int on_asked(void *data, const struct socket_call *call)
{
	struct process *p = data;

	return p->ps->handlers.asked(p->ps->handlers.data, p, call);
}

void process_read_ready(struct process *p, int fd)
{
	p->ready_fd = fd;
	ev_io_init(&p->ready_io, on_ready_fd_readable, fd, EV_READ);
	p->ready_io.data = p;
	ev_io_start(p->ps->loop, &p->ready_io);
}

void process_read_output(struct process *p, int i, int fd)
{
	output_start(&p->outputs[i], p->ps->loop, fd, on_output_readable);
}

void process_read_channel(struct process *p, int fd, int page_fd, bool drains)
{
	channel_restore(&p->channel, p->ps->loop, fd, page_fd, on_channel_readable, p);
	p->channel.drains = drains;
}

void process_read_calls(struct process *p, int fd)
{
	socket_calls_start(
	        &p->calls, p->ps->loop, fd, socket_calls_paths(p->release->service), on_asked, p);
}

static int open_ends(
        struct process *p, const struct process_spec *spec, struct ends *e, struct ho_error *reterr)
{
	const struct credentials *c = &p->assembly.credentials;
	int fd = -1, r = 0;

	e->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (e->null_fd < 0)
		return ho_error_set(reterr, -errno, "cannot open /dev/null: %s", strerror(errno));
	for (int i = 0; r == 0 && spec->capture && i < 2; i++) {
		r = ends_pipe(c, &fd, &e->outputs[i], reterr);
		if (r == 0)
			process_read_output(p, i, fd);
	}
	if (r == 0 && ends_have_einhorn(spec))
		r = einhorn_start(&p->einhorn, p->ps->loop, &e->einhorn, reterr);
	if (r < 0 || spec->release->service->ready.by != READY_FD)
		return r;
	r = ends_pipe(c, &fd, &e->ready, reterr);
	if (r == 0)
		process_read_ready(p, fd);
	return r;
}

static struct spawn_plan make_plan(const struct process *p, const struct fdmap_plan *fds)
{
	return (struct spawn_plan){.argv = p->assembly.argv,
	        .environ = p->assembly.environment.items,
	        .listen_pid = p->assembly.listen_pid,
	        .watchdog_pid = p->assembly.watchdog_pid,
	        .directory = p->release->directory,
	        .fds = fds,
	        .service = p->release->service,
	        .credentials = &p->assembly.credentials};
}

static int start(struct process *p, const struct process_spec *spec, struct ho_error *reterr)
{
	struct ends ends = ENDS_NONE;
	struct fdmap_plan fds = {0};
	struct spawned spawned = {.pid = -1};
	struct spawn_plan plan = {0};
	struct tree_entry self;
	int r = notify_start(&p->notify, p->ps->loop, process_on_notify, reterr);

	if (r == 0)
		r = assembly_make(spec, p->notify.name, &p->assembly, reterr);
	if (r == 0)
		r = open_ends(p, spec, &ends, reterr);
	if (r == 0)
		r = ends_map(spec, &ends, &fds, reterr);
	if (r == 0) {
		plan = make_plan(p, &fds);
		plan.follows = spec->follows;
		plan.adoption = p->ps->handlers.asked ? spec->adoption : ADOPTION_NO;
		plan.cgroup = process_make_cgroup(p, spec->worker);
		r = spawn(&plan, &spawned, reterr);
	}
	ends_done(&ends);
	if (r < 0)
		return r;
	p->pid = spawned.pid;
	p->pidfd = spawned.pidfd;
	process_check_cgroup(p);
	if (spawned.calls_fd >= 0)
		process_read_calls(p, spawned.calls_fd);
	else if (plan.adoption != ADOPTION_NO)
		p->calls_error = spawned.calls_fd;
	if (tree_entry_read(p->pid, &self) == 0)
		p->start = self.start;
	return 0;
}

struct process *process_new(struct processes *ps, struct release *release, void *user)
{
	struct process *p = calloc(1, sizeof *p);

	if (!p)
		return NULL;
	p->ps = ps;
	p->user = user;
	p->release = release ? release_ref(release) : NULL;
	p->pidfd = p->ready_fd = p->notify.fd = p->channel.fd = p->channel.page_fd = -1;
	p->notify.accepts = accepts_sender;
	p->notify.message = on_message;
	p->notify.data = p->einhorn.data = p;
	p->einhorn.accepts = accepts_sender;
	p->einhorn.acknowledged = on_einhorn_ack;
	for (size_t i = 0; i < ARRAY_SIZE(p->outputs); i++) {
		p->outputs[i].fd = -1;
		p->outputs[i].lines.line = on_line;
		p->outputs[i].lines.data = p;
		p->outputs[i].lines.is_stderr = i == 1;
	}
	return p;
}

void process_add(struct process *p)
{
	struct processes *ps = p->ps;

	ev_io_init(&p->exit_io, on_exit_readable, p->pidfd, EV_READ);
	p->exit_io.data = p;
	if (p->pidfd >= 0)
		ev_io_start(ps->loop, &p->exit_io);
	else if (!p->ended) /* it has gone while nobody looked */
		ev_feed_event(ps->loop, &p->exit_io, EV_READ);
	p->link = &ps->first;
	p->next = ps->first;
	if (p->next)
		p->next->link = &p->next;
	ps->first = p;
	if (!p->ended && !p->attached)
		ps->running++;
	ps->foreign |= p->foreign;
}

int process_start(struct processes *ps, const struct process_spec *spec, void *user,
        struct process **ret, struct ho_error *reterr)
{
	struct process *p = process_new(ps, spec->release, user);
	int r;

	if (!p)
		return ho_error_set(reterr, -ENOMEM, "no memory for a worker of service \"%s\"",
		        spec->release->service->name);
	r = start(p, spec, reterr);
	if (r < 0) {
		process_destroy(p);
		return r;
	}
	process_add(p);
	*ret = p;
	return 0;
}

int process_start_build(struct processes *ps, struct release *release,
        const struct build_handlers *handlers, struct build **ret, struct ho_error *reterr)
{
	return build_start(ps->loop, &ps->builds, &ps->running, release, handlers, ret, reterr);
}

int process_attach(struct processes *ps, pid_t pid, int pidfd, void *user, struct process **ret,
        struct ho_error *reterr)
{
	struct process *p = process_new(ps, NULL, user);
	struct tree_entry self;
	int r = p ? tree_known_update(&p->known, pid) : -ENOMEM;

	if (r == 0)
		r = tree_entry_read(pid, &self);
	if (r < 0) {
		(void)close_fd(pidfd);
		if (p)
			process_destroy(p);
		return ho_error_set(
		        reterr, r, "cannot watch process %d: %s", (int)pid, strerror(-r));
	}
	p->pid = pid;
	p->start = self.start;
	p->pidfd = pidfd;
	p->attached = true;
	process_add(p);
	*ret = p;
	return 0;
}

int process_adoption_error(const struct process *p)
{
	return p->calls_error;
}

bool process_is_asked(const struct process *p)
{
	return p->calls.loop != NULL;
}

pid_t process_pid(const struct process *p)
{
	return p->pid;
}

bool process_is(pid_t pid, uint64_t start)
{
	struct tree_entry e;

	return tree_entry_read(pid, &e) == 0 && e.start == start && e.state != 'Z';
}

bool process_is_foreign(const struct process *p)
{
	return p->foreign || p->attached;
}

void *process_user(const struct process *p)
{
	return p->user;
}

static struct tail *tail_now(struct process *p)
{
	tail_copy(&p->tail_now, &p->tail);
	/* Lines that are only begun count: they are often the last words. */
	for (size_t i = 0; i < ARRAY_SIZE(p->outputs); i++) {
		if (p->outputs[i].lines.length)
			tail_add(&p->tail_now, p->outputs[i].lines.bytes,
			        p->outputs[i].lines.length);
	}
	/* The last newline goes. */
	if (p->tail_now.length)
		p->tail_now.text[--p->tail_now.length] = '\0';
	return &p->tail_now;
}

const char *process_tail(struct process *p)
{
	return tail_last(tail_now(p), TOLD_LINES, TOLD_BYTES);
}

const char *process_log(struct process *p)
{
	return tail_text(tail_now(p));
}

bool process_has_channel(const struct process *p)
{
	return p->channel.fd >= 0;
}

int process_tell_serving(struct process *p, uint32_t generation)
{
	char words[32];

	(void)snprintf(words, sizeof words, "SERVING=%" PRIu32, generation);
	channel_set_serving(&p->channel, generation);
	return channel_tell(&p->channel, words);
}

int process_tell_drain(struct process *p, usec_t deadline)
{
	char words[32] = "DRAIN=infinity";

	if (deadline != USEC_INFINITY)
		(void)snprintf(words, sizeof words, "DRAIN=%" PRIu64, (uint64_t)deadline);
	return channel_tell(&p->channel, words);
}

bool process_counts(const struct process *p, struct worker_counts *ret)
{
	return channel_counts(&p->channel, ret);
}

int process_signal(struct process *p, int signo)
{
	if (p->pidfd < 0)
		return -ESRCH;
	if (p->attached) /* its children cannot be found any more once it is gone */
		(void)tree_known_update(&p->known, p->pid);
	return pidfd_send_signal(p->pidfd, signo, NULL, 0) < 0 ? -errno : 0;
}

static void on_checked(void *data)
{
	const struct notify_message m = {.kind = NOTIFY_EXEC_READY, .fd = -1};
	struct process *p = data;

	hold(p);
	(void)deliver(p, &m);
	(void)let_go(p);
}

int process_watch_exec(struct process *p, const char *command, struct ho_error *reterr)
{
	const struct spawn_plan plan = make_plan(p, NULL);
	struct environment environment;
	int r;

	if (p->ended)
		return ho_error_set(reterr, -ESRCH, "the worker has ended");
	p->checker = checker_free(p->checker);
	r = assembly_beside(&p->assembly, p->pid, &environment, reterr);
	if (r < 0)
		return r;
	return checker_new(
	        p->ps->loop, command, &plan, &environment, on_checked, p, &p->checker, reterr);
}
