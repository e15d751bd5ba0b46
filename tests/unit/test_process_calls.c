/* SPDX-License-Identifier: MIT */
/* The socket calls of a worker are asked about: what is told of them, what the worker hears. The
 * workers are this program itself with an argument; what they saw is their exit status. */
#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/config.h"
#include "process/process.h"
#include "system/fd.h"

#define TIME_LIMIT 20.
#define NOBODY 65534
#define PORT 8080

struct world {
	struct ev_loop *loop;
	ev_timer limit;
	struct processes *ps;
	struct config *config;
	struct service_config *service;
	struct release *release;
	struct process *process;
	struct exit_info how;
	bool ended, late;
	int answer;   /* what `asked` returns; BIND_FOR_IT: binds and listens itself */
	bool dawdles; /* lets signals come meanwhile */
	unsigned binds, listens;
	struct socket_call last;
	bool blocking;
	int given; /* -1: TCP */
	char seen[400];
};
#define BIND_FOR_IT 2

static const char *self;

/* ---- workers ---- */

static int tcp(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t n = sizeof value;

	return getsockopt(fd, SOL_SOCKET, name, &value, &n) < 0 ? -1 : value;
}

static int bind_port(int fd, int port)
{
	const struct sockaddr_in in = {.sin_family = AF_INET,
	        .sin_port = htons((uint16_t)port),
	        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	return bind(fd, (const struct sockaddr *)&in, sizeof in) < 0 ? errno : 0;
}

static int bound_to(int fd)
{
	struct sockaddr_in in = {0};
	socklen_t n = sizeof in;

	return getsockname(fd, (struct sockaddr *)&in, &n) < 0 ? 0 : ntohs(in.sin_port);
}

/* An errno, or 0 if what it has is what it wanted. */
static int binds_and_listens(int port)
{
	int fd = tcp(), r = bind_port(fd, port);

	if (r)
		return r;
	if (listen(fd, 7) < 0)
		return errno;
	return bound_to(fd) == port ? 0 : 200;
}

static void *thread_main(void *arg)
{
	*(int *)arg = binds_and_listens(PORT);
	return NULL;
}

static int in_a_thread(void)
{
	pthread_t thread;
	int r = 201;

	if (pthread_create(&thread, NULL, thread_main, &r) || pthread_join(thread, NULL))
		return 202;
	return r;
}

static int in_a_grandchild(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(binds_and_listens(PORT));
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 203;
}

/* None of these is worth a question, and all have to work. */
static int others(void)
{
	struct sockaddr_nl nl = {.nl_family = AF_NETLINK};
	char pair[2] = {0, 'x'};
	struct sockaddr address = {.sa_family = AF_UNIX};
	int n = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), u = socket(AF_UNIX, SOCK_STREAM, 0);
	int udp = socket(AF_INET, SOCK_DGRAM, 0), client = tcp();

	memcpy(address.sa_data, pair, sizeof pair);
	if (bind(n, (struct sockaddr *)&nl, sizeof nl) < 0)
		return 1;
	if (bind(u, &address, sizeof address) < 0 || listen(u, 1) < 0)
		return 2;
	if (bind_port(udp, PORT))
		return 3;
	if (bind_port(client, 0) || !bound_to(client))
		return 4;
	if (bind(client, NULL, 16) == 0 || errno != EFAULT)
		return 5;
	if (bind_port(-1, PORT) != EBADF || listen(-1, 1) == 0 || errno != EBADF)
		return 6;
	if (bind(client, &address, 100000) == 0 || errno != EINVAL)
		return 7;
	if (bind(client, &address, (socklen_t)-1) == 0 || errno != EINVAL)
		return 8;
	if (socket(AF_INET, SOCK_STREAM, 262) >= 0 || errno != EPROTONOSUPPORT)
		return 9;
	return 0;
}

/* Calls of a service that has a path: all are answered, none is made. */
static int paths(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "./web.sock"};
	const socklen_t exact = offsetof(struct sockaddr_un, sun_path) + strlen(un.sun_path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), tmp = open("/tmp", O_PATH | O_DIRECTORY);
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED || tmp < 0 || chdir("/tmp") < 0 || munmap(page + 4096, 4096) < 0)
		return 1;
	(void)umask(027);
	if (unlink("/tmp/first") < 0 || unlinkat(tmp, "second", 0) < 0)
		return 2;
	memcpy(page + 4096 - 6, "third", 6);
	if (unlink(page + 4096 - 6) < 0)
		return 3;
	if (unlink(page + 8191) == 0 || errno != EFAULT || unlink("") == 0 || errno != ENOENT)
		return 4;
	if (connect(fd, (struct sockaddr *)&un, exact) == 0 || errno != ECONNREFUSED)
		return 5;
	if (bind(fd, (struct sockaddr *)&un, exact) < 0)
		return 6;
	un = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(un.sun_path + 1, "name", 4);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (bind(fd, (struct sockaddr *)&un, offsetof(struct sockaddr_un, sun_path) + 5) < 0)
		return 7;
	/* In its place is a socket that listens, under the same flag. */
	if (option(fd, SO_ACCEPTCONN) != 1 || fcntl(fd, F_GETFD) != FD_CLOEXEC)
		return 8;
	return connect(tcp(),
	               (struct sockaddr *)&(struct sockaddr_in){
	                       .sin_family = AF_INET, .sin_port = 1},
	               sizeof(struct sockaddr_in)) == 0;
}

static void nothing(int signo)
{
	(void)signo;
}

static int interrupted(void)
{
	struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 500}, {0, 500}};
	int r;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 50; i++) {
		r = binds_and_listens(PORT + i);
		if (r)
			return r;
	}
	return 0;
}

/* Its end is not to be seen by handoffd, which reaps whoever has ended when it is forgotten. */
static int binds_and_stops(void)
{
	int r = binds_and_listens(PORT);

	(void)raise(SIGSTOP);
	return r;
}

static int child(const char *what)
{
	return !strcmp(what, "bind")          ? binds_and_listens(PORT)
	       : !strcmp(what, "stops")       ? binds_and_stops()
	       : !strcmp(what, "thread")      ? in_a_thread()
	       : !strcmp(what, "grandchild")  ? in_a_grandchild()
	       : !strcmp(what, "others")      ? others()
	       : !strcmp(what, "interrupted") ? interrupted()
	       : !strcmp(what, "paths")       ? paths()
	       : !strcmp(what, "nnp")         ? prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	                                      : 255;
}

/* ---- handoffd's side ---- */

/* Tells what was called on what, and answers without doing it. */
static int on_path(struct world *w, const struct socket_call *call)
{
	static const char *const kinds[] = {"bind", "listen", "unlink", "connect"};
	struct text t = {.p = w->seen, .size = sizeof w->seen, .len = strlen(w->seen)};
	struct stat tmp, st;

	assert_int_equal(stat("/tmp", &tmp), 0);
	if (call->path) {
		assert_int_equal(fstat(call->path->directory, &st), 0);
		assert_int_equal(st.st_ino, tmp.st_ino);
	}
	text_add(&t, "%s %s", kinds[call->kind], call->path ? call->path->name : "@");
	if (call->path && call->kind == CALL_BIND)
		text_add(&t, " %04o", (unsigned)call->maker.umask);
	text_add(&t, "; ");
	if (!call->path)
		*call->give = w->given;
	return call->kind == CALL_CONNECT ? -ECONNREFUSED : 0;
}

static int on_asked(void *data, struct process *p, const struct socket_call *call)
{
	struct world *w = data;

	assert_ptr_equal(process_user(p), w);
	w->binds += call->kind == CALL_BIND;
	w->listens += call->kind == CALL_LISTEN;
	w->last = *call;
	if (w->given >= 0)
		return on_path(w, call);
	if (call->fd < 0)
		return 1;
	w->blocking = !(fcntl(call->fd, F_GETFL) & O_NONBLOCK);
	if (w->dawdles)
		usleep(2000); /* being slow is what is tested */
	if (w->answer != BIND_FOR_IT)
		return w->answer;
	if (call->kind == CALL_LISTEN)
		return listen(call->fd, call->backlog) < 0 ? -errno : 0;
	return bind(call->fd, (const struct sockaddr *)&call->address, call->length) < 0 ? -errno
	                                                                                 : 0;
}

static void on_exited(void *data, struct process *p, struct exit_info how)
{
	struct world *w = data;

	(void)p;
	w->how = how;
	w->ended = true;
	ev_break(w->loop, EVBREAK_ONE);
}

static void on_notified(void *data, struct process *p, const struct notify_message *m)
{
	(void)data;
	(void)p;
	(void)m;
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
	const struct process_handlers handlers = {
	        .exited = on_exited, .notified = on_notified, .data = w, .asked = on_asked};
	struct ho_error error;

	assert_non_null(w);
	w->given = -1;
	w->loop = ev_loop_new(EVFLAG_AUTO);
	ev_timer_init(&w->limit, on_limit, TIME_LIMIT, 0.);
	w->limit.data = w;
	ev_timer_start(w->loop, &w->limit);
	w->config = config_new();
	w->config->environment = "test";
	w->service = config_alloc(w->config, sizeof *w->service);
	assert_non_null(w->service);
	service_config_defaults(w->service);
	w->service->name = "web";
	assert_int_equal(processes_new(w->loop, &handlers, &w->ps, &error), 0);
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
	free(w);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return 0;
}

/* The exit status of the worker. */
static int run(struct world *w, const char *what, enum adoption adoption)
{
	struct process_spec spec = {.adoption = adoption};
	struct ho_error error;
	const char **items = config_alloc(w->config, 4 * sizeof *items);

	items[0] = self;
	items[1] = "child";
	items[2] = what;
	w->service->command = (struct string_list){items, 3};
	if (release_new(w->config, w->service, 1, &w->release, &error) < 0)
		fail_msg("%s", error.text);
	spec.release = w->release;
	if (process_start(w->ps, &spec, w, &w->process, &error) < 0)
		fail_msg("%s", error.text);
	if (process_adoption_error(w->process) < 0) {
		print_message("no seccomp notifications here: %s\n",
		        strerror(-process_adoption_error(w->process)));
		skip();
	}
	while (!w->ended && !w->late)
		ev_run(w->loop, EVRUN_ONCE);
	assert_false(w->late);
	assert_int_equal(w->how.code, CLD_EXITED);
	return w->how.status;
}

/* ---- tests ---- */

static void test_is_asked(void **state)
{
	struct world *w = *state;
	const struct sockaddr_in *in = (const struct sockaddr_in *)&w->last.address;

	w->answer = -EADDRINUSE;
	assert_int_equal(run(w, "bind", ADOPTION_MUST), EADDRINUSE);
	assert_int_equal(w->binds, 1);
	assert_int_equal(w->listens, 0);
	assert_int_equal(in->sin_family, AF_INET);
	assert_int_equal(ntohs(in->sin_port), PORT);
	assert_int_equal(in->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	assert_int_equal(w->last.length, sizeof *in);
	assert_true(w->blocking);
}

static void bound_for_it(struct world *w, const char *what)
{
	w->answer = BIND_FOR_IT;
	assert_int_equal(run(w, what, ADOPTION_IF_POSSIBLE), 0);
	assert_int_equal(w->binds, 1);
	assert_int_equal(w->listens, 1);
	assert_int_equal(w->last.backlog, 7);
}

static void test_bound_for_it(void **state)
{
	bound_for_it(*state, "bind");
}

static void test_bound_for_a_thread(void **state)
{
	bound_for_it(*state, "thread");
}

static void test_bound_for_a_grandchild(void **state)
{
	bound_for_it(*state, "grandchild");
}

static void test_goes_on_as_if_nobody_asked(void **state)
{
	struct world *w = *state;

	w->answer = 1;
	assert_int_equal(run(w, "bind", ADOPTION_MUST), 0);
	assert_int_equal(w->binds, 1);
	assert_int_equal(w->listens, 1);
}

static void test_not_asked(void **state)
{
	struct world *w = *state;

	w->answer = -EADDRINUSE;
	assert_int_equal(run(w, "bind", ADOPTION_NO), 0);
	assert_int_equal(w->binds, 0);
}

static void test_other_sockets(void **state)
{
	struct world *w = *state;

	w->answer = -EADDRINUSE;
	assert_int_equal(run(w, "others", ADOPTION_MUST), 0);
	assert_int_equal(w->binds, 0);
	assert_int_equal(w->listens, 0);
}

static void test_paths(void **state)
{
	struct world *w = *state;

	w->service->listeners = config_alloc(w->config, sizeof *w->service->listeners);
	w->service->listeners[0].address.kind = ADDRESS_UNIX;
	w->service->n_listeners = 1;
	w->given = tcp();
	assert_int_equal(listen(w->given, 1), 0);
	assert_int_equal(run(w, "paths", ADOPTION_MUST), 0);
	assert_string_equal(w->seen, "unlink first; unlink second; unlink third; connect web.sock; "
	                             "bind web.sock 0027; bind @; ");
	w->given = close_fd(w->given);
}

static void test_signals_meanwhile(void **state)
{
	struct world *w = *state;

	w->answer = BIND_FOR_IT;
	w->dawdles = true;
	assert_int_equal(run(w, "interrupted", ADOPTION_MUST), 0);
	assert_in_range(w->binds, 50, 60);
}

/* A program that may gain privileges may do so still, if handoffd has any itself. */
static void test_new_privileges(void **state)
{
	struct world *w = *state;

	assert_int_equal(run(w, "nnp", ADOPTION_MUST), geteuid() == 0 ? 0 : 1);
}

static void test_another_user(void **state)
{
	struct world *w = *state;

	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	w->service->user = "nobody";
	bound_for_it(w, "bind");
}

/* handoffd forgets a worker that waits for an answer. */
static void test_forgotten(void **state)
{
	struct world *w = *state;
	struct process_spec spec = {.adoption = ADOPTION_MUST};
	const char *items[] = {self, "child", "stops", NULL};
	struct ho_error error;
	int status;
	pid_t pid;

	w->service->command = (struct string_list){items, 3};
	assert_int_equal(release_new(w->config, w->service, 1, &w->release, &error), 0);
	spec.release = w->release;
	assert_int_equal(process_start(w->ps, &spec, w, &w->process, &error), 0);
	pid = process_pid(w->process);
	w->process = process_free(w->process);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(kill(pid, SIGCONT), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), ENOSYS);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_is_asked),
	        TEST(test_bound_for_it),
	        TEST(test_bound_for_a_thread),
	        TEST(test_bound_for_a_grandchild),
	        TEST(test_goes_on_as_if_nobody_asked),
	        TEST(test_not_asked),
	        TEST(test_other_sockets),
	        TEST(test_paths),
	        TEST(test_signals_meanwhile),
	        TEST(test_new_privileges),
	        TEST(test_another_user),
	        TEST(test_forgotten),
	};
	char path[4096];
	ssize_t n;

	if (argc == 3 && !strcmp(argv[1], "child"))
		return child(argv[2]);
	n = readlink("/proc/self/exe", path, sizeof path - 1);
	if (n < 0)
		return 1;
	path[n] = '\0';
	self = path;
	/* Ports are free in a network of our own. */
	if (unshare(CLONE_NEWNET) < 0) {
		printf("SKIP: no network namespace: %s\n", strerror(errno));
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
