/* SPDX-License-Identifier: MIT */
#include "process/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/socket_calls.h"
#include "system/fd.h"

#define STACK_BYTES ((size_t)64 << 10)
#define GUARD_BYTES ((size_t)64 << 10) /* a multiple of every page size in use */
#define START_TIMEOUT (10 * USEC_PER_SEC)
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The address sanitizer cannot follow a child that runs on a stack of its own. */
#if defined(__SANITIZE_ADDRESS__)
#define CAN_SHARE_MEMORY false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CAN_SHARE_MEMORY false
#endif
#endif
#ifndef CAN_SHARE_MEMORY
#define CAN_SHARE_MEMORY true
#endif

enum step {
	STEP_SESSION,
	STEP_DESCRIPTORS, /* index: the target */
	STEP_ADOPTION,
	STEP_LIMIT, /* index: of service->limits */
	STEP_NICE,
	STEP_CREDENTIALS, /* sub: the step, index: its */
	STEP_DIRECTORY,
	STEP_PRIVILEGES,
	STEP_EXECUTE, /* index: of paths */
};

/* What the child sends if it fails. */
struct failure {
	enum step step;
	int index;
	enum credentials_step sub;
	int error;
};

struct child {
	const struct spawn_plan *plan;
	char **paths; /* of the program, to be tried one after the other */
	int report;
	int calls; /* of a socket pair; -1: none */
	pid_t parent;
};

static _noreturn_ void fail(const struct child *c, struct failure f)
{
	(void)!write(c->report, &f, sizeof f);
	_exit(127);
}

static void reset_signals(void)
{
	struct sigaction action = {.sa_handler = SIG_DFL};

	/* Some numbers are refused (KILL, STOP, those of the C library): they need no reset. */
	for (int signo = 1; signo < _NSIG; signo++)
		(void)sigaction(signo, &action, NULL);
}

/* By hand, as printf is not for here. */
static void write_pid(char *to)
{
	unsigned pid = (unsigned)getpid();
	char digits[10];
	int n = 0;

	do
		digits[n++] = (char)('0' + pid % 10);
	while (pid /= 10);
	while (n > 0)
		*to++ = digits[--n];
	*to = '\0';
}

/* Out of the way of what is placed. */
static void lift(struct child *c, int *fd, int floor)
{
	int high = *fd < 0 || *fd >= floor ? *fd : fcntl(*fd, F_DUPFD_CLOEXEC, floor);

	if (*fd >= 0 && high < 0)
		fail(c, (struct failure){STEP_DESCRIPTORS, floor, 0, errno});
	*fd = high;
}

static void place_descriptors(struct child *c)
{
	const struct fdmap_plan *plan = c->plan->fds;
	int lifted[FDMAP_MAX_ENTRIES] = {0};

	lift(c, &c->report, plan->floor);
	lift(c, &c->calls, plan->floor);
	for (size_t i = 0; i < plan->count; i++) {
		const struct fdmap_step *s = &plan->steps[i];
		int r = 0;

		switch (s->kind) {
		case FDMAP_LIFT:
			r = lifted[s->slot] = fcntl(s->from, F_DUPFD_CLOEXEC, s->to);
			break;
		case FDMAP_PLACE:
			r = dup2(s->lifted ? lifted[s->slot] : s->from, s->to);
			break;
		case FDMAP_SEAL:
			r = close_range((unsigned)s->from, s->to == INT_MAX ? ~0u : (unsigned)s->to,
			        CLOSE_RANGE_CLOEXEC);
			break;
		}
		if (r < 0)
			fail(c, (struct failure){STEP_DESCRIPTORS,
			                s->kind == FDMAP_SEAL ? s->from : s->to, 0, errno});
	}
}

/* From here on bind(2) and listen(2) wait for handoffd; nothing before execve(2) calls them. */
static void announce_calls(const struct child *c)
{
	int fd, r;

	if (c->calls < 0)
		return;
	fd = socket_calls_install(socket_calls_paths(c->plan->service));
	if (fd < 0 && c->plan->adoption == ADOPTION_MUST)
		fail(c, (struct failure){STEP_ADOPTION, 0, 0, -fd});
	r = socket_calls_send(c->calls, fd);
	if (r < 0)
		fail(c, (struct failure){STEP_ADOPTION, 0, 0, -r});
	(void)close_fd(fd);
}

static void apply_settings(const struct child *c)
{
	const struct service_config *s = c->plan->service;
	enum credentials_step sub;
	int index = 0, r;

	if (s->umask >= 0)
		(void)umask((mode_t)s->umask);
	for (size_t i = 0; i < s->n_limits; i++) {
		struct rlimit limit = {
		        .rlim_cur = s->limits[i].soft, .rlim_max = s->limits[i].hard};

		if (setrlimit((__rlimit_resource_t)s->limits[i].resource, &limit) < 0)
			fail(c, (struct failure){STEP_LIMIT, (int)i, 0, errno});
	}
	if (s->nice_set && setpriority(PRIO_PROCESS, 0, s->nice) < 0)
		fail(c, (struct failure){STEP_NICE, 0, 0, errno});
	r = credentials_apply(c->plan->credentials, &sub, &index);
	if (r < 0)
		fail(c, (struct failure){STEP_CREDENTIALS, index, sub, -r});
	/* after the credentials, whose change ends it */
	if (c->plan->follows)
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
	if (c->plan->directory && chdir(c->plan->directory) < 0)
		fail(c, (struct failure){STEP_DIRECTORY, 0, 0, errno});
	if (s->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail(c, (struct failure){STEP_PRIVILEGES, 0, 0, errno});
}

/* As execvp(3): a directory of PATH where it is missing or forbidden is passed over. */
static _noreturn_ void execute(const struct child *c)
{
	struct failure f = {STEP_EXECUTE, 0, 0, ENOENT};

	for (int i = 0; c->paths[i]; i++) {
		(void)execve(c->paths[i], c->plan->argv, c->plan->environ);
		if (errno == ENOENT && access(c->paths[i], F_OK) == 0)
			f = (struct failure){STEP_EXECUTE, i, 0, ENOENT};
		else if (errno != ENOENT && errno != ENOTDIR)
			f = (struct failure){STEP_EXECUTE, i, 0, errno};
		else
			continue;
		if (errno != EACCES)
			break;
	}
	fail(c, f);
}

static int child_main(void *argument)
{
	struct child *c = argument;
	sigset_t none;

	reset_signals();
	if (c->plan->cgroup)
		(void)cgroup_enter(c->plan->cgroup);
	if (c->plan->listen_pid)
		write_pid(c->plan->listen_pid);
	if (c->plan->watchdog_pid)
		write_pid(c->plan->watchdog_pid);
	if (setsid() < 0)
		fail(c, (struct failure){STEP_SESSION, 0, 0, errno});
	place_descriptors(c);
	announce_calls(c);
	apply_settings(c);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	/* Until it is executed the next handoffd would not know it for a worker. */
	if (getppid() != c->parent)
		_exit(127);
	execute(c);
}

static void free_paths(char **paths)
{
	for (size_t i = 0; paths && paths[i]; i++)
		free(paths[i]);
	free(paths);
}

static const char *find_path(char *const *environ_list)
{
	for (; *environ_list; environ_list++) {
		if (strncmp(*environ_list, "PATH=", 5) == 0)
			return *environ_list + 5;
	}
	return DEFAULT_PATH;
}

/* Every path at which the program may be, in order; NULL when memory is short. */
static char **make_paths(const struct spawn_plan *plan)
{
	const char *name = plan->argv[0], *path = find_path(plan->environ);
	bool direct = strchr(name, '/') != NULL;
	size_t n = 2, used = 0;
	char **paths;

	for (const char *p = path; *p; p++)
		n += *p == ':';
	paths = calloc(n + 1, sizeof *paths);
	if (!paths)
		return NULL;
	do {
		size_t length = strcspn(path, ":");
		int r = direct || length == 0
		                ? asprintf(&paths[used], "%s", name)
		                : asprintf(&paths[used], "%.*s/%s", (int)length, path, name);

		if (r < 0) {
			paths[used] = NULL;
			free_paths(paths);
			return NULL;
		}
		used++;
		path += length;
	} while (!direct && *path++ == ':');
	return paths;
}

/* The interpreter a script names in its first line, or "". */
static void read_interpreter(int directory, const char *path, char *to, size_t size)
{
	_cleanup_close_ int fd =
	        openat(directory, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	ssize_t n = fd < 0 ? -1 : read(fd, to, size - 1);
	char *start = to + 2;

	if (n < 3 || to[0] != '#' || to[1] != '!') {
		to[0] = '\0';
		return;
	}
	to[n] = '\0';
	start += strspn(start, " \t");
	start[strcspn(start, " \t\r\n")] = '\0';
	memmove(to, start, strlen(start) + 1);
}

/* Why a file that can be named cannot be executed, as far as it can be seen from outside. */
static void explain_execute(
        struct text *t, const struct spawn_plan *plan, const char *path, int error)
{
	_cleanup_close_ int directory =
	        plan->directory ? open(plan->directory, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	int at = plan->directory ? directory : AT_FDCWD;
	char interpreter[256];
	struct stat st;

	if (fstatat(at, path, &st, 0) < 0)
		return;
	if (S_ISDIR(st.st_mode)) {
		text_add(t, " (it is a directory)");
	} else if (error == ENOENT && S_ISREG(st.st_mode)) {
		read_interpreter(at, path, interpreter, sizeof interpreter);
		if (interpreter[0])
			text_add(t, " (the file is there, but its interpreter \"%s\" is not)",
			        interpreter);
		else
			text_add(t,
			        " (the file is there, but not the loader or interpreter it needs)");
	} else if (error == EACCES && !(st.st_mode & 0111)) {
		text_add(t, " (its mode is %04o: not executable)", st.st_mode & 07777);
	} else if (error == EACCES) {
		text_add(t, " (the user it runs as may not execute it or enter its directory)");
	} else if (error == ENOEXEC) {
		text_add(t, " (neither a script with #! in its first line nor a program for this "
		            "machine)");
	}
}

static void describe_execute(
        struct text *t, const struct spawn_plan *plan, char *const *paths, const struct failure *f)
{
	const char *name = plan->argv[0], *path = paths[f->index];

	text_add(t, "execute \"%.150s\"", strchr(name, '/') ? name : path);
	if (plan->directory && path[0] != '/')
		text_add(t, " in %.150s", plan->directory);
	text_add(t, ": %s", strerror(f->error));
	explain_execute(t, plan, path, f->error);
}

static void describe_limit(struct text *t, const struct limit_config *l)
{
	static const struct {
		int resource;
		const char *name;
	} names[] = {{RLIMIT_AS, "AS"}, {RLIMIT_CORE, "CORE"}, {RLIMIT_CPU, "CPU"},
	        {RLIMIT_DATA, "DATA"}, {RLIMIT_FSIZE, "FSIZE"}, {RLIMIT_LOCKS, "LOCKS"},
	        {RLIMIT_MEMLOCK, "MEMLOCK"}, {RLIMIT_MSGQUEUE, "MSGQUEUE"}, {RLIMIT_NICE, "NICE"},
	        {RLIMIT_NOFILE, "NOFILE"}, {RLIMIT_NPROC, "NPROC"}, {RLIMIT_RSS, "RSS"},
	        {RLIMIT_RTPRIO, "RTPRIO"}, {RLIMIT_RTTIME, "RTTIME"},
	        {RLIMIT_SIGPENDING, "SIGPENDING"}, {RLIMIT_STACK, "STACK"}};
	const char *name = "?";

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (names[i].resource == l->resource)
			name = names[i].name;
	}
	text_add(t, "set RLIMIT_%s to ", name);
	if (l->soft == UINT64_MAX)
		text_add(t, "unlimited");
	else
		text_add(t, "%llu", (unsigned long long)l->soft);
	if (l->hard == UINT64_MAX && l->soft != l->hard)
		text_add(t, " (hard: unlimited)");
	else if (l->soft != l->hard)
		text_add(t, " (hard: %llu)", (unsigned long long)l->hard);
}

static int describe(const struct spawn_plan *plan, char *const *paths, const struct failure *f,
        struct ho_error *reterr)
{
	const struct service_config *s = plan->service;
	char buffer[sizeof reterr->text];
	struct text t = TEXT_ON(buffer);

	switch (f->step) {
	case STEP_SESSION:
		text_add(&t, "open a session");
		break;
	case STEP_DESCRIPTORS:
		text_add(&t, "place descriptor %d", f->index);
		break;
	case STEP_ADOPTION:
		return ho_error_set(reterr, -f->error,
		        "cannot take over the sockets of service \"%s\" (sockets = \"adopt\"): "
		        "seccomp with user notification is not possible here: %s",
		        s->name, strerror(f->error));
	case STEP_LIMIT:
		describe_limit(&t, &s->limits[f->index]);
		break;
	case STEP_NICE:
		text_add(&t, "set the nice value to %d", s->nice);
		break;
	case STEP_CREDENTIALS:
		credentials_describe(&t, s, f->sub, f->index);
		break;
	case STEP_DIRECTORY:
		text_add(&t, "enter directory \"%.200s\"", plan->directory);
		break;
	case STEP_PRIVILEGES:
		text_add(&t, "forbid new privileges");
		break;
	case STEP_EXECUTE:
		if (!strchr(plan->argv[0], '/') && f->error == ENOENT &&
		        access(paths[f->index], F_OK) < 0) {
			text_add(&t, "execute \"%.100s\": not found in PATH (%.200s)",
			        plan->argv[0], find_path(plan->environ));
			return ho_error_set(reterr, -ENOENT, "cannot %s", buffer);
		}
		describe_execute(&t, plan, paths, f);
		return ho_error_set(reterr, -f->error, "cannot %s", buffer);
	}
	return ho_error_set(reterr, -f->error, "cannot %s: %s", buffer, strerror(f->error));
}

/* 0: it has been executed; 1: it failed; negative errno: time is up. */
static int await_report(int fd, struct failure *ret)
{
	usec_t end = usec_add(now_usec(), START_TIMEOUT);

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		usec_t left = usec_sub(end, now_usec());
		int r = poll(&p, 1, (int)(left / USEC_PER_MSEC));
		ssize_t n;

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -ETIMEDOUT;
		n = read(fd, ret, sizeof *ret);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		return n == (ssize_t)sizeof *ret;
	}
}

static void end_child(int pidfd)
{
	siginfo_t info;
	int r;

	(void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	do
		r = waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
	while (r < 0 && errno == EINTR);
}

/* The child runs in our memory, on a stack of its own with a guard below, while we wait. */
static pid_t start_sharing(struct child *c, int *ret_pidfd)
{
	char *stack = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
	        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	pid_t pid;

	if (stack == MAP_FAILED)
		return -errno;
	pid = mprotect(stack, GUARD_BYTES, PROT_NONE);
	if (pid == 0)
		pid = clone(child_main, stack + GUARD_BYTES + STACK_BYTES,
		        CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, c, ret_pidfd);
	if (pid < 0)
		pid = -errno;
	(void)munmap(stack, GUARD_BYTES + STACK_BYTES);
	return pid;
}

static pid_t start_on_copy(struct child *c, int *ret_pidfd)
{
	pid_t pid = fork();
	int error;

	if (pid == 0)
		_exit(child_main(c));
	if (pid < 0)
		return -errno;
	*ret_pidfd = pidfd_open(pid, 0);
	if (*ret_pidfd >= 0)
		return pid;
	error = errno;
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	return -error;
}

/* Returns the pid or negative errno. No signal may find the child before its handlers are reset. */
static pid_t start_child(struct child *c, int *ret_pidfd)
{
	sigset_t all, before;
	pid_t pid;

	(void)sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, &before);
	if (CAN_SHARE_MEMORY && !c->plan->credentials->apart)
		pid = start_sharing(c, ret_pidfd);
	else
		pid = start_on_copy(c, ret_pidfd);
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	return pid;
}

static int open_calls(struct child *c, int *ret_ours, int *ret_theirs)
{
	int ends[2];

	if (c->plan->adoption == ADOPTION_NO)
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	*ret_ours = ends[0];
	*ret_theirs = c->calls = ends[1];
	return 0;
}

static int run(struct child *c, struct spawned *ret, struct ho_error *reterr)
{
	_cleanup_close_ int read_end = -1, write_end = -1, pidfd = -1, calls = -1, theirs = -1;
	struct failure failure = {0};
	int ends[2], r;
	pid_t pid;

	c->parent = getpid();
	if (pipe2(ends, O_CLOEXEC) < 0)
		return ho_error_set(reterr, -errno, "cannot start \"%.200s\": no pipe: %s",
		        c->plan->argv[0], strerror(errno));
	read_end = ends[0];
	write_end = c->report = ends[1];
	r = open_calls(c, &calls, &theirs);
	if (r < 0)
		return ho_error_set(reterr, r, "cannot start \"%.200s\": no socket pair: %s",
		        c->plan->argv[0], strerror(-r));
	pid = start_child(c, &pidfd);
	if (pid < 0)
		return ho_error_set(reterr, pid, "cannot start a process for \"%.200s\": %s",
		        c->plan->argv[0], strerror(-pid));
	write_end = close_fd(write_end);
	theirs = close_fd(theirs);
	r = await_report(read_end, &failure);
	if (r == 0) {
		*ret = (struct spawned){.pid = pid,
		        .pidfd = take_fd(pidfd),
		        .calls_fd = calls < 0 ? -ENODATA : socket_calls_receive(calls)};
		return 0;
	}
	end_child(pidfd);
	if (r < 0)
		return ho_error_set(reterr, r, "\"%.200s\" was not executed within 10 s: %s",
		        c->plan->argv[0], strerror(-r));
	return describe(c->plan, c->paths, &failure, reterr);
}

int spawn(const struct spawn_plan *plan, struct spawned *ret, struct ho_error *reterr)
{
	struct child c = {.plan = plan, .calls = -1};
	int r;

	if (!plan->argv[0] || !plan->argv[0][0])
		return ho_error_set(reterr, -EINVAL, "there is no command to execute");
	c.paths = make_paths(plan);
	if (!c.paths)
		return ho_error_set(
		        reterr, -ENOMEM, "cannot start \"%.200s\": no memory", plan->argv[0]);
	r = run(&c, ret, reterr);
	free_paths(c.paths);
	return r;
}
