/* SPDX-License-Identifier: MIT */
/* Real workers: what they find when they start, what is heard of them, how they end. The workers
 * are this program itself with an argument, or the shell. */
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <grp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/config.h"
#include "process/process.h"
#include "system/fd.h"

#define TIME_LIMIT 20.
#define NOBODY 65534

struct world {
	struct ev_loop *loop;
	ev_timer limit;
	bool late;
	struct processes *ps;
	struct config *config;
	struct service_config *service;
	struct release *release;
	struct passed_fd fds[CONFIG_MAX_LISTENERS];
	size_t n_fds;
	struct process *process;
	char out[1 << 17], err[4096]; /* lines, each with its newline */
	size_t out_length, err_length, longest;
	unsigned ready, stopping, ready_fd, exec_ready, stop_at_ready;
	char status[256], order[64];
	struct exit_info how;
	unsigned exited;
	struct ho_error error;
};

static const char *self;

static void note(struct world *w, char what)
{
	size_t n = strlen(w->order);

	if (n + 1 < sizeof w->order)
		w->order[n] = what;
}

static void on_exited(void *data, struct process *p, struct exit_info how)
{
	struct world *w = data;

	assert_ptr_equal(process_user(p), w);
	note(w, 'X');
	w->how = how;
	w->exited++;
	ev_break(w->loop, EVBREAK_ONE);
}

static void on_notified(void *data, struct process *p, const struct notify_message *m)
{
	struct world *w = data;

	assert_ptr_equal(process_user(p), w);
	w->ready += m->kind == NOTIFY_READY;
	w->stopping += m->kind == NOTIFY_STOPPING;
	w->ready_fd += m->kind == NOTIFY_READY_FD;
	w->exec_ready += m->kind == NOTIFY_EXEC_READY;
	if (m->kind == NOTIFY_READY)
		note(w, 'R');
	if (m->kind == NOTIFY_STATUS)
		(void)copy_string(w->status, sizeof w->status, m->text);
	if (w->stop_at_ready && m->kind == NOTIFY_READY)
		w->process = process_free(p);
	ev_break(w->loop, EVBREAK_ONE);
}

static void on_output(
        void *data, struct process *p, bool is_stderr, const char *line, size_t length)
{
	struct world *w = data;
	char *to = is_stderr ? w->err : w->out;
	size_t size = is_stderr ? sizeof w->err : sizeof w->out;
	size_t *used = is_stderr ? &w->err_length : &w->out_length;

	assert_ptr_equal(process_user(p), w);
	note(w, 'O');
	if (length > w->longest)
		w->longest = length;
	assert_true(*used + length + 2 < size);
	memcpy(to + *used, line, length);
	*used += length;
	to[(*used)++] = '\n';
	to[*used] = '\0';
	ev_break(w->loop, EVBREAK_ONE);
}

static void on_limit(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct world *w = timer->data;

	(void)events;
	w->late = true;
	ev_break(loop, EVBREAK_ONE);
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	const struct process_handlers handlers = {on_exited, on_notified, on_output, w, NULL};

	assert_non_null(w);
	w->loop = ev_loop_new(EVFLAG_AUTO);
	assert_non_null(w->loop);
	ev_timer_init(&w->limit, on_limit, TIME_LIMIT, 0.);
	w->limit.data = w;
	ev_timer_start(w->loop, &w->limit);
	w->config = config_new();
	assert_non_null(w->config);
	w->config->environment = "test";
	w->service = config_alloc(w->config, sizeof *w->service);
	assert_non_null(w->service);
	service_config_defaults(w->service);
	w->service->name = "web";
	assert_int_equal(processes_new(w->loop, &handlers, &w->ps, &w->error), 0);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	if (w->process)
		(void)process_signal_tree(w->process, SIGKILL, true);
	w->ps = processes_free(w->ps);
	w->release = release_unref(w->release);
	w->config = config_unref(w->config);
	ev_loop_destroy(w->loop);
	for (size_t i = 0; i < w->n_fds; i++)
		(void)close_fd(w->fds[i].fd);
	free(w);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return 0;
}

static void set_list(struct world *w, struct string_list *list, const char *first, va_list ap)
{
	list->items = config_alloc(w->config, 32 * sizeof *list->items);
	assert_non_null(list->items);
	for (list->count = 0; first; first = va_arg(ap, const char *)) {
		assert_true(list->count < 31);
		list->items[list->count++] = first;
	}
}

static void command(struct world *w, const char *first, ...)
{
	va_list ap;

	va_start(ap, first);
	set_list(w, &w->service->command, first, ap);
	va_end(ap);
}

static void environ_of(struct world *w, const char *first, ...)
{
	va_list ap;

	va_start(ap, first);
	set_list(w, &w->service->environ, first, ap);
	va_end(ap);
}

static void pass(struct world *w, const char *name, int fd)
{
	static const struct address address = {.kind = ADDRESS_TCP,
	        .ip = {127, 0, 0, 1},
	        .port = 8080,
	        .text = "tcp:127.0.0.1:8080"};

	w->fds[w->n_fds++] = (struct passed_fd){.fd = fd, .name = name, .address = &address};
}

static int start_captured(struct world *w, bool capture)
{
	struct process_spec spec = {
	        .worker = 5, .fds = w->fds, .n_fds = w->n_fds, .capture = capture};
	int r = release_new(w->config, w->service, 7, &w->release, &w->error);

	if (r < 0)
		return r;
	spec.release = w->release;
	return process_start(w->ps, &spec, w, &w->process, &w->error);
}

static void start(struct world *w)
{
	if (start_captured(w, true) < 0)
		fail_msg("%s", w->error.text);
}

#define WAIT_FOR(w, condition)                                                                     \
	do {                                                                                       \
		while (!(condition) && !(w)->late)                                                 \
			ev_run((w)->loop, EVRUN_ONCE);                                             \
		if ((w)->late)                                                                     \
			fail_msg("no " #condition " in time; output: %s%s", (w)->out, (w)->err);   \
	} while (0)

static void run(struct world *w)
{
	start(w);
	WAIT_FOR(w, w->exited);
}

/* The end is the first thing that is noticed: all the rest must be found on the way. */
static void run_and_reap(struct world *w)
{
	siginfo_t info;

	start(w);
	assert_int_equal(waitid(P_PID, (id_t)process_pid(w->process), &info, WEXITED | WNOWAIT), 0);
	processes_reap(w->ps);
	assert_int_equal(w->exited, 1);
}

static void assert_exit(const struct world *w, int code, int status)
{
	assert_int_equal(w->exited, 1);
	assert_int_equal(w->how.code, code);
	assert_int_equal(w->how.status, status);
}

/* As a worker: every open descriptor but the one that looks, with what it is. */
static int list_descriptors(void)
{
	for (int fd = 0; fd < 4096; fd++) {
		char path[64], target[128];
		ssize_t n;

		(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof target - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		printf("%d %s\n", fd, target);
	}
	return 0;
}

static int print_environment(void)
{
	for (char **e = environ; *e; e++)
		puts(*e);
	return 0;
}

static int print_status(void)
{
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof line, f)) {
		if (strncmp(line, "Sig", 3) == 0 || strncmp(line, "Cap", 3) == 0 ||
		        strncmp(line, "Uid", 3) == 0 || strncmp(line, "Gid", 3) == 0 ||
		        strncmp(line, "Groups", 6) == 0 || strncmp(line, "NoNewPrivs", 10) == 0)
			(void)fputs(line, stdout);
	}
	if (f)
		(void)fclose(f);
	printf("pid %d session %d\n", getpid(), getsid(0));
	return 0;
}

/* Sends argv[2] to NOTIFY_SOCKET, from a child of a child if argv[1] says so. */
static int send_notify(const char *text, bool from_grandchild)
{
	const char *name = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (!name || fd < 0 || strlen(name) >= sizeof a.sun_path)
		return 1;
	if (from_grandchild) {
		pid_t child = fork();

		if (child) {
			(void)waitpid(child, NULL, 0);
			return 0;
		}
		(void)setsid();
	}
	memcpy(a.sun_path, name, strlen(name));
	a.sun_path[0] = '\0';
	if (sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a,
	            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))) < 0)
		return 1;
	(void)close(fd);
	return 0;
}

static int be_worker(char **argv)
{
	if (strcmp(argv[1], "fds") == 0)
		return list_descriptors();
	if (strcmp(argv[1], "environment") == 0)
		return print_environment();
	if (strcmp(argv[1], "status") == 0)
		return print_status();
	if (strcmp(argv[1], "notify") == 0)
		return send_notify(argv[2], false);
	if (strcmp(argv[1], "notify-grandchild") == 0)
		return send_notify(argv[2], true);
	return 99;
}

static bool has_line(const char *out, const char *line)
{
	size_t n = strlen(line);

	for (const char *p = out; (p = strstr(p, line)); p++) {
		if ((p == out || p[-1] == '\n') && p[n] == '\n')
			return true;
	}
	return false;
}

static void assert_line(const struct world *w, const char *line)
{
	if (!has_line(w->out, line))
		fail_msg("no line \"%s\" in:\n%s%s", line, w->out, w->err);
}

static void test_descriptors_are_exact(void **state)
{
	struct world *w = *state;
	char line[128];
	const char *rest;

	command(w, self, "fds", NULL);
	(void)fcntl(0, F_DUPFD, 700); /* careless: not close-on-exec */
	/* High ones and low ones, in an order that overlaps the targets. */
	for (int i = 0; i < 6; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		assert_true(fd >= 0);
		pass(w, "http", fd);
	}
	for (int i = 0; i < 3; i++) {
		int fd = w->fds[i].fd;

		w->fds[i].fd = w->fds[5 - i].fd;
		w->fds[5 - i].fd = fd;
	}
	run(w);
	close_fd(700);
	assert_exit(w, CLD_EXITED, 0);
	assert_line(w, "0 /dev/null");
	for (int i = 0; i < 6; i++) {
		struct stat st;

		assert_int_equal(fstat(w->fds[i].fd, &st), 0);
		(void)snprintf(
		        line, sizeof line, "%d socket:[%lu]", 3 + i, (unsigned long)st.st_ino);
		assert_line(w, line);
	}
	rest = strstr(w->out, "\n8 ");
	assert_non_null(rest);
	assert_string_equal(strchr(rest + 1, '\n'), "\n");
}

static void test_ready_descriptor(void **state)
{
	struct world *w = *state;

	command(w, "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; echo; echo >&9; exit 3", NULL);
	w->service->ready.by = READY_FD;
	w->service->ready.fd = 9;
	pass(w, "http", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	run(w);
	assert_exit(w, CLD_EXITED, 3);
	assert_int_equal(w->ready_fd, 1);
	assert_line(w, "0 1 2 3 4 9 "); /* 4 is that of ls */
}

static void test_ready_descriptor_collides(void **state)
{
	struct world *w = *state;

	command(w, "true", NULL);
	w->service->ready.by = READY_FD;
	w->service->ready.fd = 3;
	pass(w, "http", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	assert_int_equal(start_captured(w, true), -EEXIST);
	assert_non_null(strstr(w->error.text, "descriptor 3 cannot be used for readiness"));
}

static void test_stdin_dialect(void **state)
{
	struct world *w = *state;
	struct stat st;
	char line[64];

	command(w, self, "fds", NULL);
	w->service->dialects = DIALECT_STDIN;
	pass(w, "http", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	run(w);
	assert_int_equal(fstat(w->fds[0].fd, &st), 0);
	(void)snprintf(line, sizeof line, "0 socket:[%lu]", (unsigned long)st.st_ino);
	assert_line(w, line);
	line[0] = '3';
	assert_line(w, line);
}

static void test_environment_is_exact(void **state)
{
	struct world *w = *state;
	const char *at;
	char line[128];

	assert_int_equal(clearenv(), 0);
	(void)setenv("PATH", "/usr/bin:/bin", 1);
	(void)setenv("LISTEN_FDS", "9", 1);
	(void)setenv("LISTEN_PIDFDID", "1", 1);
	(void)setenv("NOTIFY_SOCKET", "/run/systemd/notify", 1);
	(void)setenv("WATCHDOG_USEC", "1", 1);
	(void)setenv("MAINPID", "1", 1);
	(void)setenv("HANDOFF_CONTROL", "x", 1);
	(void)setenv("EINHORN_FD_COUNT", "1", 1);
	(void)setenv("NGINX", "3;", 1);
	(void)setenv("INVOCATION_ID", "kept", 1);
	environ_of(w, "A=generation {generation} of {service}, {worker}",
	        "B={fd:web}/{fd:web:2}/{x}", NULL);
	command(w, self, "environment", NULL);
	pass(w, "web", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	pass(w, "web", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	pass(w, "admin-api", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	run(w);
	assert_exit(w, CLD_EXITED, 0);
	at = strstr(w->out, "NOTIFY_SOCKET=@handoffd/");
	assert_non_null(at);
	assert_true(strcspn(at, "\n") < 64);
	w->out[at - w->out] = '\0';
	(void)snprintf(line, sizeof line, "LISTEN_PID=%d", process_pid(w->process));
	assert_line(w, line);
	at = strstr(w->out, line);
	memmove(w->out + (at - w->out), at + strlen(line) + 1, strlen(at + strlen(line) + 1) + 1);
	assert_string_equal(w->out,
	        "PATH=/usr/bin:/bin\nINVOCATION_ID=kept\nA=generation 7 of web, 5\n"
	        "B=3/4/{x}\nLISTEN_FDS=3\nLISTEN_FDNAMES=web:web:admin-api\n"
	        "HANDOFF_FD_WEB=3\nHANDOFF_FD_WEB_2=4\nHANDOFF_FD_ADMIN_API=5\n"
	        "HANDOFF_SERVICE=web\nHANDOFF_GENERATION=7\nHANDOFF_WORKER=5\n"
	        "HANDOFF_ENVIRONMENT=test\n");
}

static void assert_start_fails(struct world *w, int code, const char *text)
{
	int r = start_captured(w, true);

	if (r != code || strcmp(w->error.text, text) != 0)
		fail_msg("%d \"%s\" instead of %d \"%s\"", r, r ? w->error.text : "", code, text);
	w->release = release_unref(w->release);
	errno = 0;
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

static void make_file(const char *directory, const char *name, const char *text, mode_t mode)
{
	char path[256];
	int fd;

	(void)snprintf(path, sizeof path, "%s/%s", directory, name);
	fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	(void)close(fd);
}

static void test_exec_errors_have_words(void **state)
{
	struct world *w = *state;
	char directory[] = "/tmp/handoff-test-XXXXXX", text[512];

	assert_non_null(mkdtemp(directory));
	w->service->directory = directory;
	make_file(directory, "script", "#!/no/such/interpreter -x\n", 0755);
	make_file(directory, "plain", "text", 0644);
	make_file(directory, "text", "hello\n", 0755);
	command(w, "./missing", NULL);
	(void)snprintf(text, sizeof text,
	        "cannot execute \"./missing\" in %s: No such file or directory", directory);
	assert_start_fails(w, -ENOENT, text);
	command(w, "./script", NULL);
	(void)snprintf(text, sizeof text,
	        "cannot execute \"./script\" in %s: No such file or directory (the file is there, "
	        "but its "
	        "interpreter \"/no/such/interpreter\" is not)",
	        directory);
	assert_start_fails(w, -ENOENT, text);
	command(w, "./plain", NULL);
	(void)snprintf(text, sizeof text,
	        "cannot execute \"./plain\" in %s: Permission denied (its mode is 0644: not "
	        "executable)",
	        directory);
	assert_start_fails(w, -EACCES, text);
	command(w, "./text", NULL);
	(void)snprintf(text, sizeof text,
	        "cannot execute \"./text\" in %s: Exec format error (neither a script with #! in "
	        "its first "
	        "line nor a program for this machine)",
	        directory);
	assert_start_fails(w, -ENOEXEC, text);
	w->service->directory = NULL;
	command(w, "/tmp", NULL);
	assert_start_fails(
	        w, -EACCES, "cannot execute \"/tmp\": Permission denied (it is a directory)");
	environ_of(w, "PATH=/nowhere:/bin", NULL);
	command(w, "no-such-program", NULL);
	assert_start_fails(w, -ENOENT,
	        "cannot execute \"no-such-program\": not found in PATH (/nowhere:/bin)");
	command(w, "true", "{fd:nothing}", NULL);
	assert_start_fails(
	        w, -EINVAL, "{fd:nothing}: service \"web\" passes no such listener to its workers");
	(void)snprintf(text, sizeof text, "rm -r %s", directory);
	assert_int_equal(system(text), 0);
}

static void test_path_is_searched(void **state)
{
	struct world *w = *state;
	char directory[] = "/tmp/handoff-test-XXXXXX", text[512];

	assert_non_null(mkdtemp(directory));
	make_file(directory, "tool", "#!/bin/sh\necho \"$PWD $0 $1\"\n", 0755);
	w->service->directory = directory;
	(void)snprintf(text, sizeof text, "PATH=/nowhere:%s:/bin", directory);
	environ_of(w, text, NULL);
	command(w, "tool", "{release}", NULL);
	run(w);
	(void)snprintf(text, sizeof text, "%s %s/tool %s", directory, directory, directory);
	assert_line(w, text);
	(void)snprintf(text, sizeof text, "rm -r %s", directory);
	assert_int_equal(system(text), 0);
}

static void test_settings_are_applied(void **state)
{
	struct world *w = *state;
	struct limit_config limits[] = {{RLIMIT_NOFILE, 77, 99}, {RLIMIT_CORE, 0, 0}};

	w->service->limits = limits;
	w->service->n_limits = 2;
	w->service->umask = 0027;
	w->service->nice = 3;
	w->service->nice_set = true;
	w->service->no_new_privileges = true;
	command(w, "sh", "-c",
	        "umask; ulimit -Sn; ulimit -Hn; ulimit -c; nice; pwd; grep NoNewPrivs "
	        "/proc/self/status",
	        NULL);
	w->service->directory = "/usr";
	run(w);
	assert_string_equal(w->out, "0027\n77\n99\n0\n3\n/usr\nNoNewPrivs:\t1\n");
}

static void test_limit_error_has_words(void **state)
{
	struct world *w = *state;
	struct limit_config limit = {RLIMIT_NOFILE, 100, 50};

	w->service->limits = &limit;
	w->service->n_limits = 1;
	command(w, "true", NULL);
	assert_start_fails(
	        w, -EINVAL, "cannot set RLIMIT_NOFILE to 100 (hard: 50): Invalid argument");
}

static void test_signals_are_reset(void **state)
{
	struct world *w = *state;
	sigset_t set, before;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGUSR1);
	assert_int_equal(sigprocmask(SIG_BLOCK, &set, &before), 0);
	command(w, self, "status", NULL);
	run(w);
	assert_int_equal(sigprocmask(SIG_SETMASK, &before, &set), 0);
	assert_true(sigismember(&set, SIGTERM) && !sigismember(&set, SIGINT));
	(void)signal(SIGPIPE, SIG_DFL);
	(void)signal(SIGHUP, SIG_DFL);
	assert_line(w, "SigBlk:\t0000000000000000");
	assert_line(w, "SigIgn:\t0000000000000000");
}

static void test_session_is_its_own(void **state)
{
	struct world *w = *state;
	char line[64];

	command(w, self, "status", NULL);
	run(w);
	(void)snprintf(line, sizeof line, "pid %d session %d", process_pid(w->process),
	        process_pid(w->process));
	assert_line(w, line);
}

static void need_root(void)
{
	if (geteuid() != 0) {
		print_message("skipped: changing the user needs root\n");
		skip();
	}
}

static void test_user_is_applied(void **state)
{
	struct world *w = *state;
	const char *groups[] = {"4", "daemon", NULL};

	need_root();
	w->service->user = "nobody";
	w->service->groups = (struct string_list){groups, 2};
	command(w, "sh", "-c",
	        "grep -E '^(Uid|Gid|Groups|Cap(Prm|Eff|Amb))' /proc/self/status; echo $USER $HOME; "
	        "echo again > "
	        "/dev/stderr; " /* which opens the pipe anew */,
	        NULL);
	run(w);
	assert_exit(w, CLD_EXITED, 0);
	assert_line(w, "Uid:\t65534\t65534\t65534\t65534");
	assert_line(w, "Gid:\t65534\t65534\t65534\t65534");
	assert_line(w, "Groups:\t1 4 ");
	assert_line(w, "CapPrm:\t0000000000000000");
	assert_line(w, "CapEff:\t0000000000000000");
	assert_line(w, "nobody /nonexistent");
	assert_string_equal(w->err, "again\n");
}

static void test_numeric_user(void **state)
{
	struct world *w = *state;

	need_root();
	w->service->user = "54321";
	command(w, self, "status", NULL);
	assert_start_fails(w, -ESRCH,
	        "user 54321 has no entry in the password database, so a group must be set");
	w->service->group = "54322";
	run(w);
	assert_line(w, "Uid:\t54321\t54321\t54321\t54321");
	assert_line(w, "Gid:\t54322\t54322\t54322\t54322");
	assert_line(w, "Groups:\t ");
}

static void test_capabilities_are_applied(void **state)
{
	struct world *w = *state;

	need_root();
	w->service->user = "nobody";
	w->service->capabilities = "net_bind_service,^cap_net_raw";
	command(w, "grep", "^Cap", "/proc/self/status", NULL);
	run(w);
	assert_line(w, "CapInh:\t0000000000002400");
	assert_line(w, "CapPrm:\t0000000000002400");
	assert_line(w, "CapEff:\t0000000000002400");
	assert_line(w, "CapAmb:\t0000000000002400");
	assert_line(w, "CapBnd:\t0000000000002400");
}

static void test_directory_is_entered_as_the_user(void **state)
{
	struct world *w = *state;
	char directory[] = "/tmp/handoff-test-XXXXXX", text[128];

	need_root();
	assert_non_null(mkdtemp(directory)); /* 0700 */
	w->service->directory = directory;
	w->service->user = "nobody";
	w->service->capabilities = "^cap_net_bind_service";
	command(w, "true", NULL);
	(void)snprintf(
	        text, sizeof text, "cannot enter directory \"%s\": Permission denied", directory);
	assert_start_fails(w, -EACCES, text);
	assert_int_equal(rmdir(directory), 0);
}

static void test_unknown_names_have_words(void **state)
{
	struct world *w = *state;

	command(w, "true", NULL);
	w->service->user = "no-such-user";
	assert_start_fails(w, -ESRCH, "there is no user \"no-such-user\"");
	w->service->user = NULL;
	w->service->group = "no-such-group";
	assert_start_fails(w, -ESRCH, "there is no group \"no-such-group\"");
	w->service->group = NULL;
	w->service->capabilities = "^cap_fly";
	assert_start_fails(w, -EINVAL, "\"^cap_fly\" is not a list of capabilities");
}

static void test_user_needs_root(void **state)
{
	struct world *w = *state;

	need_root();
	assert_int_equal(seteuid(NOBODY), 0);
	w->service->user = "daemon";
	command(w, "true", NULL);
	(void)start_captured(w, true);
	assert_int_equal(seteuid(0), 0);
	assert_string_equal(w->error.text, "cannot run service \"web\" as user \"daemon\": "
	                                   "handoffd itself does not run as root");
}

static void test_exit_status(void **state)
{
	struct world *w = *state;

	command(w, "sh", "-c", "exit 143", NULL);
	run(w);
	assert_exit(w, CLD_EXITED, 143);
	assert_int_equal(process_signal(w->process, SIGTERM), -ESRCH);
}

static void test_exit_by_signal(void **state)
{
	struct world *w = *state;

	command(w, "sleep", "1000", NULL);
	start(w);
	assert_int_equal(process_signal(w->process, SIGTERM), 0);
	WAIT_FOR(w, w->exited);
	assert_exit(w, CLD_KILLED, SIGTERM);
}

static void test_exit_with_core(void **state)
{
	struct world *w = *state;
	struct limit_config limit = {RLIMIT_CORE, UINT64_MAX, UINT64_MAX};
	struct rlimit now;

	if (getrlimit(RLIMIT_CORE, &now) < 0 || now.rlim_max != RLIM_INFINITY) {
		print_message("skipped: cores are forbidden here\n");
		skip();
	}
	w->service->limits = &limit;
	w->service->n_limits = 1;
	w->service->directory = "/proc/self"; /* where no core can be written, though it is tried */
	command(w, "sh", "-c", "kill -QUIT $$", NULL);
	run(w);
	assert_true(w->how.code == CLD_DUMPED || w->how.code == CLD_KILLED);
	assert_int_equal(w->how.status, SIGQUIT);
}

static void test_ready_just_before_the_end(void **state)
{
	struct world *w = *state;

	command(w, self, "notify", "STATUS=caf\xc3\xa9\x01\xff\nREADY=1\nSTOPPING=1\n", NULL);
	run_and_reap(w);
	assert_exit(w, CLD_EXITED, 0);
	assert_int_equal(w->ready, 1);
	assert_int_equal(w->stopping, 1);
	assert_string_equal(w->status, "caf\xc3\xa9 ?");
	assert_string_equal(w->order, "RX");
}

static void test_ready_of_a_grandchild(void **state)
{
	struct world *w = *state;
	char text[256];

	(void)snprintf(text, sizeof text, "%s notify-grandchild READY=1; exit 0", self);
	command(w, "sh", "-c", text, NULL);
	run(w);
	assert_int_equal(w->ready, 1);
}

static void test_ready_of_a_stranger(void **state)
{
	struct world *w = *state;
	char name[128];

	command(w, "sh", "-c", "echo $NOTIFY_SOCKET; exec sleep 1000", NULL);
	start(w);
	WAIT_FOR(w, w->out_length);
	w->out[w->out_length - 1] = '\0';
	(void)copy_string(name, sizeof name, w->out);
	(void)setenv("NOTIFY_SOCKET", name, 1);
	assert_int_equal(send_notify("READY=1", false), 0); /* from us: not one of the worker's */
	(void)unsetenv("NOTIFY_SOCKET");
	assert_int_equal(process_signal(w->process, SIGTERM), 0);
	WAIT_FOR(w, w->exited); /* whose delivery reads all that came before */
	assert_int_equal(w->ready, 0);
}

static void test_freed_inside_of_a_handler(void **state)
{
	struct world *w = *state;
	char text[256];

	(void)snprintf(
	        text, sizeof text, "echo one; %s notify 'READY=1\nSTOPPING=1'; echo two", self);
	command(w, "sh", "-c", text, NULL);
	w->stop_at_ready = 1;
	start(w);
	WAIT_FOR(w, w->ready);
	assert_null(w->process);
	assert_int_equal(w->stopping, 0);
}

static void test_output_comes_in_lines(void **state)
{
	struct world *w = *state;

	command(w, "sh", "-c",
	        "echo one; echo error >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf "
	        "'last \\377'",
	        NULL);
	run_and_reap(w);
	assert_string_equal(w->err, "error\n");
	assert_int_equal(w->longest, 8192);
	assert_int_equal(w->out_length, 4 + 20000 + 3 + 6 + 1);
	assert_string_equal(w->out + w->out_length - 8, "\nlast \xff\n");
	assert_int_equal(w->order[strlen(w->order) - 1], 'X');
}

static void test_tail(void **state)
{
	struct world *w = *state;

	command(w, "sh", "-c", "for i in $(seq 1 40); do echo line $i; done >&2; printf end >&2",
	        NULL);
	run(w);
	assert_string_equal(process_tail(w->process),
	        "line 26\nline 27\nline 28\nline 29\nline 30\nline 31\nline 32\nline 33\nline "
	        "34\nline 35\n"
	        "line 36\nline 37\nline 38\nline 39\nline 40\nend");
}

static void test_last_words_of_a_pipe_still_held(void **state)
{
	struct world *w = *state;

	command(w, "sh", "-c", "sleep 1000 & printf 'no newline'", NULL);
	run(w);
	assert_string_equal(w->out, "no newline\n");
	assert_string_equal(w->order, "OX");
	assert_int_equal(process_signal_tree(w->process, SIGKILL, false), 1);
}

static void test_leftovers_are_ended(void **state)
{
	struct world *w = *state;
	char text[512];
	pid_t inside, outside;

	/* One left in the session, one whose parent is there but which has left the session. */
	(void)snprintf(text, sizeof text,
	        "sleep 1000 & echo $!; sh -c 'setsid sh -c \"echo \\$\\$; exec sleep 1000\" & "
	        "wait' & exec sleep 1000");
	command(w, "sh", "-c", text, NULL);
	start(w);
	WAIT_FOR(w, w->out_length && strchr(w->out, '\n') != w->out + w->out_length - 1);
	inside = (pid_t)strtol(w->out, NULL, 10);
	outside = (pid_t)strtol(strchr(w->out, '\n'), NULL, 10);
	assert_ptr_equal(processes_find(w->ps, inside), w->process);
	assert_ptr_equal(processes_find(w->ps, outside), w->process);
	assert_null(processes_find(w->ps, getpid()));
	assert_int_equal(process_signal(w->process, SIGKILL), 0);
	WAIT_FOR(w, w->exited);
	assert_true(process_signal_tree(w->process, SIGKILL, false) >= 2);
	while (kill(outside, 0) == 0 || kill(inside, 0) == 0) {
		siginfo_t info;

		/* They came to us as orphans. */
		assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT), 0);
		processes_reap(w->ps);
	}
	assert_int_equal(process_signal_tree(w->process, SIGKILL, true), 0);
}

static void test_reap_leaves_status(void **state)
{
	struct world *w = *state;

	command(w, "sh", "-c", "exit 42", NULL);
	run_and_reap(w);
	processes_reap(w->ps);
	assert_exit(w, CLD_EXITED, 42);
}

static void test_exec_readiness(void **state)
{
	struct world *w = *state;
	char directory[] = "/tmp/handoff-test-XXXXXX", check[256];

	assert_non_null(mkdtemp(directory));
	w->service->directory = directory;
	command(w, "sleep", "1000", NULL);
	start(w);
	/* Fails the first time, succeeds the second; looks at directory and environment on the way.
	 */
	(void)snprintf(check, sizeof check,
	        "test \"$MAINPID\" = %d && test $HANDOFF_WORKER = 5 && test -z \"$LISTEN_FDS\" && "
	        "if test -e first; then rm first; else touch first; false; fi",
	        process_pid(w->process));
	assert_int_equal(process_watch_exec(w->process, check, &w->error), 0);
	WAIT_FOR(w, w->exec_ready);
	assert_int_equal(w->exec_ready, 1);
	assert_int_equal(process_signal(w->process, SIGKILL), 0);
	WAIT_FOR(w, w->exited);
	assert_int_equal(rmdir(directory), 0);
}

static unsigned count_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_nothing_leaks(void **state)
{
	struct world *w = *state;
	unsigned before;

	command(w, "true", NULL);
	w->service->ready.by = READY_FD;
	w->service->ready.fd = 20;
	run(w); /* opens what the loop needs */
	w->process = process_free(w->process);
	before = count_descriptors();
	for (int i = 0; i < 300; i++) {
		w->exited = 0;
		w->release = release_unref(w->release);
		w->service->command.items[0] = i % 10 ? "true" : "/no/such/program";
		if (i % 10) {
			run(w);
			w->process = process_free(w->process);
		} else {
			assert_int_equal(start_captured(w, true), -ENOENT);
		}
	}
	assert_int_equal(count_descriptors(), before);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	        TEST(test_descriptors_are_exact), TEST(test_ready_descriptor),
	        TEST(test_ready_descriptor_collides), TEST(test_stdin_dialect),
	        TEST(test_exec_errors_have_words), TEST(test_path_is_searched),
	        TEST(test_settings_are_applied), TEST(test_limit_error_has_words),
	        TEST(test_signals_are_reset), TEST(test_session_is_its_own),
	        TEST(test_user_is_applied), TEST(test_numeric_user),
	        TEST(test_capabilities_are_applied), TEST(test_directory_is_entered_as_the_user),
	        TEST(test_unknown_names_have_words), TEST(test_user_needs_root),
	        TEST(test_exit_status), TEST(test_exit_by_signal), TEST(test_exit_with_core),
	        TEST(test_ready_just_before_the_end), TEST(test_ready_of_a_grandchild),
	        TEST(test_ready_of_a_stranger), TEST(test_freed_inside_of_a_handler),
	        TEST(test_output_comes_in_lines), TEST(test_tail),
	        TEST(test_last_words_of_a_pipe_still_held), TEST(test_leftovers_are_ended),
	        TEST(test_reap_leaves_status), TEST(test_exec_readiness), TEST(test_nothing_leaks),
	        TEST(test_environment_is_exact), /* changes our own: the last */
	};

	if (argc > 1)
		return be_worker(argv);
	self = realpath("/proc/self/exe", NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
