/* SPDX-License-Identifier: MIT */
/* See save.h. A process is known by its pid and the time of its start. */
#include "process/save.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/internal.h"
#include "process/tree.h"
#include "system/fd.h"

#define ENVIRON_MAX ((size_t)256 << 10)
#define DEPTH_MAX 64
#define STRAY_MSEC 2000

/* clang-format off */
static const struct field process_fields[] = {
        FIELD(process, pid),
        FIELD(process, start),
        FIELD(process, foreign),
        FIELD(process, attached),
        FIELD(process, calls_error),
        FIELD_NOT(process, ended), /* as the core knows it */
        FIELD(process, notify.name),
        FIELD(process, notify.strangers),
        FIELD(process, channel.drains),
        FIELD_NOT(process, ps),
        FIELD_NOT(process, next),
        FIELD_NOT(process, link),
        FIELD_NOT(process, release),
        FIELD_NOT(process, user),
        FIELD_NOT(process, pidfd),
        FIELD_NOT(process, exit_io),
        FIELD_NOT(process, ready_fd),
        FIELD_NOT(process, ready_io),
        FIELD_NOT(process, notify),
        FIELD_NOT(process, channel),
        FIELD_NOT(process, einhorn),
        FIELD_NOT(process, known),
        FIELD_NOT(process, cgroup),
        FIELD_NOT(process, outputs),
        FIELD_NOT(process, tail),
        FIELD_NOT(process, tail_now),
        FIELD_NOT(process, assembly),
        FIELD_NOT(process, checker),
        FIELD_NOT(process, calls),
        FIELD_NOT(process, held),
        FIELD_NOT(process, freed),
};
/* clang-format on */

/* ---- releases ---- */

static const struct field release_fields[] = {
        FIELD(release, directory),
        FIELD(release, previous),
        FIELD(release, previous_release),
        FIELD(release, grouped),
        FIELD_NOT(release, cgroup),
        FIELD_NOT(release, config),
        FIELD_NOT(release, service),
        FIELD_NOT(release, environ),
        FIELD_NOT(release, generation),
        FIELD_NOT(release, environment_name),
        FIELD_NOT(release, refs),
};

json_t *release_save(const struct release *r, struct saver *v)
{
	json_t *j = save_fields(v, release_fields, ARRAY_SIZE(release_fields), r);
	json_t *variables = json_array();

	for (char **e = r->environ; e && *e; e++)
		save_item(v, variables, save_text(*e, strlen(*e)));
	save_member(v, j, "environ", variables);
	return j;
}

struct release *release_load(struct config *config, const struct service_config *service,
        uint32_t generation, const json_t *from, struct loader *l)
{
	const json_t *variables = json_object_get(from, "environ");
	size_t n = json_array_size(variables);
	struct release *r = calloc(1, sizeof *r);
	char **items = calloc(n + 1, sizeof *items);

	if (!r || !items) {
		free(r);
		free(items);
		load_failed(l, "memory is short");
		return NULL;
	}
	*r = (struct release){.config = config_ref(config),
	        .service = service,
	        .environ = items,
	        .generation = generation,
	        .environment_name = config->environment,
	        .refs = 1};
	load_fields(l, from, release_fields, ARRAY_SIZE(release_fields), r);
	for (size_t i = 0; i < n; i++)
		if (!(items[i] = load_text(l, json_array_get(variables, i), NULL)))
			load_failed(l, "an environment variable is none");
	if (l->failed)
		r = release_unref(r);
	return r;
}

/* ---- how it ended ---- */

/* <linux/pidfd.h> of Linux 6.15; only what was there from its beginning. */
struct exit_report {
	uint64_t mask, cgroup;
	uint32_t pid, tgid, ppid, ids[8];
	int32_t exit_code;
};
#define REPORT_EXIT (UINT64_C(1) << 3)
#define GET_REPORT _IOWR(0xff, 11, struct exit_report)

struct exit_info pidfd_exit_info(int pidfd)
{
	struct exit_report r = {.mask = REPORT_EXIT};

	if (ioctl(pidfd, GET_REPORT, &r) < 0 || !(r.mask & REPORT_EXIT))
		return (struct exit_info){0};
	if (WIFEXITED(r.exit_code))
		return (struct exit_info){CLD_EXITED, WEXITSTATUS(r.exit_code)};
	return (struct exit_info){
	        WCOREDUMP(r.exit_code) ? CLD_DUMPED : CLD_KILLED, WTERMSIG(r.exit_code)};
}

/* ---- saving and loading ---- */

static uint64_t inode_of(int fd)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 ? st.st_ino : 0;
}

/* The pipe that the worker writes to, from its end: it must be the very one. */
static int open_pipe_again(const struct process *p, int i, uint64_t inode)
{
	char path[64];
	int fd;

	if (!inode || p->ended)
		return -1;
	(void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)p->pid, i + 1);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0 && inode_of(fd) == inode)
		return fd;
	return close_fd(fd);
}

/* Of a server that was taken over, whose tree cannot be found once its main process is gone. */
static json_t *save_known(struct saver *v, const struct tree_known *k)
{
	json_t *list = json_array();

	for (size_t i = 0; i < k->n; i++) {
		save_item(v, list, json_integer(k->entries[i].pid));
		save_item(v, list, json_integer((json_int_t)k->entries[i].start));
	}
	return list;
}

static void load_known(struct loader *l, const json_t *from, struct process *p)
{
	size_t n = json_array_size(from) / 2;
	struct tree_known *k = &p->known;

	k->entries = calloc(n + 1, sizeof *k->entries);
	if (!k->entries) {
		load_failed(l, "memory is short");
		return;
	}
	for (; k->n < n; k->n++)
		k->entries[k->n] = (struct tree_entry){
		        .pid = (pid_t)json_integer_value(json_array_get(from, 2 * k->n)),
		        .start = (uint64_t)json_integer_value(json_array_get(from, 2 * k->n + 1))};
	if (p->pidfd >= 0)
		(void)tree_known_update(k, p->pid);
}

json_t *process_save(const struct process *p, struct saver *v)
{
	json_t *j = save_fields(v, process_fields, ARRAY_SIZE(process_fields), p);
	json_t *begun = json_array(), *pipes = json_array();
	const char *log =
	        v->brief ? tail_last(&p->tail, TOLD_LINES, TOLD_BYTES) : tail_text(&p->tail);

	save_member(v, j, "log", save_text(log, strlen(log)));
	for (int i = 0; i < 2; i++) {
		const struct output *o = &p->outputs[i];

		save_item(
		        v, begun, save_text(o->lines.bytes ? o->lines.bytes : "", o->lines.length));
		save_item(v, pipes, json_integer(o->loop ? (json_int_t)inode_of(o->fd) : 0));
		if (o->loop)
			save_fd(v, o->fd, "worker-%d-%" PRIu64 ".output%d", (int)p->pid, p->start,
			        i);
	}
	save_member(v, j, "begun", begun);
	save_member(v, j, "pipes", pipes);
	if (p->attached)
		save_member(v, j, "known", save_known(v, &p->known));
	save_fd(v, p->pidfd, "worker-%d-%" PRIu64 ".pidfd", (int)p->pid, p->start);
	save_fd(v, p->notify.fd, "worker-%d-%" PRIu64 ".notify", (int)p->pid, p->start);
	save_fd(v, p->ready_fd, "worker-%d-%" PRIu64 ".ready", (int)p->pid, p->start);
	save_fd(v, p->channel.fd, "worker-%d-%" PRIu64 ".channel", (int)p->pid, p->start);
	save_fd(v, p->channel.page_fd, "worker-%d-%" PRIu64 ".page", (int)p->pid, p->start);
	if (p->einhorn.loop)
		save_fd(v, einhorn_fd(&p->einhorn), "worker-%d-%" PRIu64 ".einhorn", (int)p->pid,
		        p->start);
	if (p->calls.loop)
		save_fd(v, p->calls.fd, "worker-%d-%" PRIu64 ".calls", (int)p->pid, p->start);
	return j;
}

/* The same process, or an error that says there is none. */
static int open_pidfd(struct process *p)
{
	struct tree_entry e;
	int fd = pidfd_open(p->pid, 0);

	if (fd < 0)
		return -errno;
	if (tree_entry_read(p->pid, &e) < 0 || e.start != p->start) {
		(void)close_fd(fd);
		return -ESRCH;
	}
	return fd;
}

static bool is_child(const struct process *p)
{
	struct tree_entry e;

	return tree_entry_read(p->pid, &e) == 0 && e.start == p->start && e.parent == getpid();
}

static void load_outputs(
        struct process *p, const json_t *begun, const json_t *pipes, struct loader *l)
{
	for (int i = 0; i < 2; i++) {
		int fd = load_fd(l, "worker-%d-%" PRIu64 ".output%d", (int)p->pid, p->start, i);

		lines_load(&p->outputs[i].lines, l, json_array_get(begun, (size_t)i));
		if (fd < 0)
			fd = open_pipe_again(p, i,
			        (uint64_t)json_integer_value(json_array_get(pipes, (size_t)i)));
		if (fd >= 0)
			process_read_output(p, i, fd);
	}
}

static void load_ends(struct process *p, struct loader *l)
{
	int fd = load_fd(l, "worker-%d-%" PRIu64 ".channel", (int)p->pid, p->start);
	int page = load_fd(l, "worker-%d-%" PRIu64 ".page", (int)p->pid, p->start);

	process_read_channel(p, fd, page, p->channel.drains);
	fd = load_fd(l, "worker-%d-%" PRIu64 ".einhorn", (int)p->pid, p->start);
	if (fd >= 0)
		einhorn_restore(&p->einhorn, p->ps->loop, fd);

	p->notify.fd = load_fd(l, "worker-%d-%" PRIu64 ".notify", (int)p->pid, p->start);
	if (p->notify.fd >= 0)
		notify_watch(&p->notify, p->ps->loop, process_on_notify);
	else if (!p->ended) /* what it says is not heard any more if that fails */
		(void)notify_rebind(&p->notify, p->ps->loop, process_on_notify);
	fd = load_fd(l, "worker-%d-%" PRIu64 ".ready", (int)p->pid, p->start);
	if (fd >= 0)
		process_read_ready(p, fd);
	fd = load_fd(l, "worker-%d-%" PRIu64 ".calls", (int)p->pid, p->start);
	if (fd >= 0)
		process_read_calls(p, fd);
}

struct process *process_load(struct processes *ps, const struct process_spec *spec, void *user,
        bool ended, const json_t *from, struct loader *l)
{
	struct process *p = process_new(ps, spec->release, user);
	struct ho_error error = {0};

	if (!p) {
		load_failed(l, "memory is short");
		return NULL;
	}
	load_fields(l, from, process_fields, ARRAY_SIZE(process_fields), p);
	tail_load(&p->tail, l, json_object_get(from, "log"));
	p->ended = ended;
	if (p->pid <= 1 || p->attached == (spec->release != NULL) ||
	        (!p->attached && assembly_make(spec, p->notify.name, &p->assembly, &error) < 0))
		load_failed(l, "worker %d cannot be taken over: %s", (int)p->pid, error.text);
	if (l->failed) {
		process_destroy(p);
		return NULL;
	}
	p->pidfd = load_fd(l, "worker-%d-%" PRIu64 ".pidfd", (int)p->pid, p->start);
	if (!p->ended && p->pidfd < 0)
		p->pidfd = open_pidfd(p);
	if (p->attached) {
		load_known(l, json_object_get(from, "known"), p);
	} else {
		p->foreign |= !is_child(p);
		process_find_cgroup(p, spec->worker);
		load_ends(p, l);
		load_outputs(p, json_object_get(from, "begun"), json_object_get(from, "pipes"), l);
	}
	process_add(p);
	return p;
}

/* ---- strays ---- */

/* NULL: it is gone, or not to be read. */
static char *read_environ(pid_t pid, size_t *ret_n)
{
	_cleanup_free_ char *text = malloc(ENVIRON_MAX + 1);
	_cleanup_close_ int fd = -1;
	char path[64];
	size_t n = 0;
	ssize_t got = 1;

	(void)snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (!text || fd < 0)
		return NULL;
	while (got > 0 && n < ENVIRON_MAX) {
		got = read(fd, text + n, ENVIRON_MAX - n);
		n += got > 0 ? (size_t)got : 0;
	}
	text[n] = '\0';
	*ret_n = n;
	return take_ptr(text);
}

const char *stray_variable(const struct stray *s, const char *name)
{
	const char *end = s->environ + s->n;
	size_t length = strlen(name);

	for (const char *p = s->environ; p < end; p += strlen(p) + 1)
		if (!strncmp(p, name, length) && p[length] == '=')
			return p + length + 1;
	return "";
}

/* Of the pipe that is its standard output or error; 0: it is none. */
static uint64_t pipe_of(pid_t pid, int fd)
{
	char path[64], target[64] = "";
	struct stat st;

	(void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
	if (readlink(path, target, sizeof target - 1) < 0 || strncmp(target, "pipe:", 5) != 0 ||
	        stat(path, &st) < 0)
		return 0;
	return st.st_ino;
}

json_t *stray_to_json(const struct stray *s)
{
	return json_pack("{s:i, s:I, s:s, s:[I, I]}", "pid", (int)s->pid, "start",
	        (json_int_t)s->start, "notify.name", stray_variable(s, "NOTIFY_SOCKET"), "pipes",
	        (json_int_t)pipe_of(s->pid, 1), (json_int_t)pipe_of(s->pid, 2));
}

static bool is_known(const json_t *workers, pid_t pid)
{
	const json_t *w;
	size_t i;

	json_array_foreach(workers, i,
	        w) if ((pid_t)load_number(json_object_get(w, "process"), "pid") == pid) return true;
	return false;
}

/* It, or an ancestor of it. */
static bool is_of_known(
        const struct tree_entry *entries, size_t n, const json_t *workers, pid_t pid)
{
	for (int depth = 0; depth < DEPTH_MAX && pid > 1; depth++) {
		size_t i = 0;

		if (is_known(workers, pid))
			return true;
		while (i < n && entries[i].pid != pid)
			i++;
		pid = i < n ? entries[i].parent : 0;
	}
	return false;
}

static void end_stray(pid_t pid)
{
	_cleanup_close_ int fd = pidfd_open(pid, 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};

	(void)tree_signal(pid, false, SIGKILL, true);
	if (fd >= 0)
		(void)poll(&p, 1, STRAY_MSEC);
}

void processes_end_builds(const json_t *builds)
{
	const json_t *item;
	size_t i;

	json_array_foreach(builds, i, item)
	{
		const json_t *build = json_object_get(item, "process");
		pid_t pid = (pid_t)load_number(build, "pid");

		if (pid > 1 && process_is(pid, load_number(build, "start")))
			end_stray(pid);
		else if (pid > 1) /* what it has left behind; of another process nothing */
			(void)tree_signal(pid, true, SIGKILL, false);
	}
}

struct build *process_load_build(struct processes *ps, struct release *release,
        const struct build_handlers *handlers, const json_t *from, struct loader *l)
{
	return build_load(ps->loop, &ps->builds, &ps->running, release, handlers, from, l);
}

/* Was it started by this handoffd? A worker has its notify socket, a build its pid. */
static bool is_worker_of(const struct stray *s, pid_t former)
{
	char mark[64];

	(void)snprintf(mark, sizeof mark, "@handoffd/%d/", (int)former);
	return !strncmp(stray_variable(s, "NOTIFY_SOCKET"), mark, strlen(mark));
}

static bool is_build_of(const struct stray *s, pid_t former)
{
	uint64_t pid;

	return parse_number(stray_variable(s, BUILD_VARIABLE), INT32_MAX, &pid) &&
	       (pid_t)pid == former;
}

void processes_settle_strays(const json_t *workers, pid_t former, uint64_t since,
        bool (*keeps)(void *data, const struct stray *s), void *data)
{
	struct tree_entry *entries = NULL;
	ssize_t n = tree_scan(0, false, &entries);
	for (ssize_t i = 0; i < n; i++) {
		const struct tree_entry *e = &entries[i];
		struct stray s = {.pid = e->pid, .start = e->start};
		_cleanup_free_ char *text = NULL;

		/* a worker leads its session; older ones are known, or were left alone before */
		if (e->pid != e->session || e->start < since || e->state == 'Z' ||
		        is_of_known(entries, (size_t)n, workers, e->pid))
			continue;
		s.environ = text = read_environ(e->pid, &s.n);
		if (text && (is_build_of(&s, former) ||
		                    (is_worker_of(&s, former) && !(keeps && keeps(data, &s)))))
			end_stray(e->pid);
	}
	free(entries);
}
