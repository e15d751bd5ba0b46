/* SPDX-License-Identifier: MIT */
/* handoffctl as it is built, against a control server in this process: exit codes and what it
 * prints where. */
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "control/control.h"
#include "system/fd.h"

#define PATIENCE (20 * USEC_PER_SEC)
#define MAX_ARGUMENTS 16

struct world {
	struct ev_loop *loop;
	struct control *control;
	char directory[64], path[96], program[PATH_MAX];
	struct request_spec last;
	char services[128];
	struct result results[2]; /* the answer to the next request */
	size_t n_results;
	bool progress, close_instead;
	char out[16384], err[16384]; /* of the last run */
};

static struct world world;

static void on_status(void *data, struct control_call *call, const char *service)
{
	static const struct result last = {
	        .service = "web", .request = REQUEST_RELOAD, .generation = 7, .outcome = "serving"};
	struct view_listener listener = {
	        "http", "tcp:0.0.0.0:8080", "ebpf", "bound", "ebpf", 0, 4096, "tcp:127.0.0.1:8080"};
	struct view_worker worker = {
	        0, 9001, "serving", 4, true, now_usec(), 0, "\033[31mred\xc2\x9b", NULL, 0, 0};
	struct view_generation generations[] = {
	        {.id = 7,
	                .state = "serving",
	                .share = SHARE_ALL,
	                .release = "/srv/web/releases/42",
	                .started = now_usec(),
	                .in_flight = 12,
	                .in_flight_known = true,
	                .deadline_in = USEC_INFINITY,
	                .oldest = USEC_INFINITY,
	                .baked_in = USEC_INFINITY,
	                .drains_in = USEC_INFINITY,
	                .workers = &worker,
	                .n_workers = 1},
	        {.id = 6,
	                .state = "draining",
	                .started = 0,
	                .in_flight = 3,
	                .in_flight_known = true,
	                .drain_by = "idle",
	                .deadline_in = 41 * USEC_PER_SEC,
	                .oldest = 12 * USEC_PER_SEC,
	                .baked_in = USEC_INFINITY,
	                .drains_in = USEC_INFINITY},
	};
	struct view_service web = {
	        "web", "serving", 7, false, &last, &listener, 1, generations, 2, false};
	struct view view = {811, "0.1.0", "production", "running", "ebpf", NULL, now_usec(), &web,
	        1, {"root", 0, true, true}};

	(void)data;
	if (service && strcmp(service, "web"))
		control_answer_error(call, CODE_USAGE, "there is no service \"nosuch\"");
	else
		control_answer_status(call, &view);
}

static void on_request(void *data, struct control_call *call, const struct request_spec *spec)
{
	struct text names = TEXT_ON(world.services);
	struct record r = {RECORD_NONE, .type = RECORD_GENERATION_READY, .service = "web",
	        .generation = 7, .text = "ready after 2 s"};

	(void)data;
	for (size_t i = 0; i < spec->n_services; i++)
		text_add(&names, "%s,", spec->services[i]);
	world.last = *spec;
	if (world.progress)
		control_progress(call, &r);
	if (world.close_instead) {
		ev_break(world.loop, EVBREAK_ALL);
		return;
	}
	control_answer(call, world.results, world.n_results);
}

static void on_gone(void *data, struct control_call *call, uint32_t id)
{
	(void)data;
	(void)call;
	(void)id;
}

static void on_services(void *data, struct control_call *call)
{
	static const char *const names[] = {"web", "we\xffird"};

	(void)data;
	control_answer_services(call, names, 2);
}

static void on_logs(void *data, struct control_call *call, const char *service, bool follow)
{
	static const struct control_log log = {3, 0, 12, "gone", "one\n\033[2Jtwo\n"};

	(void)data;
	control_answer_logs(call, service, &log, 1, follow);
}

static void on_refused(void *data, uid_t uid, pid_t pid, const char *method, const char *why)
{
	(void)data;
	(void)uid;
	(void)pid;
	(void)method;
	(void)why;
}

static int setup(void **state)
{
	struct control_options options = {.path = world.path};
	struct control_handlers handlers = {.status = on_status,
	        .services = on_services,
	        .request = on_request,
	        .gone = on_gone,
	        .logs = on_logs,
	        .refused = on_refused,
	        .data = &world};
	ssize_t n;
	char *slash;

	(void)state;
	memset(&world, 0, sizeof world);
	n = readlink("/proc/self/exe", world.program, sizeof world.program - 64);
	assert_true(n > 0);
	for (int up = 0; up < 2; up++) {
		slash = strrchr(world.program, '/');
		assert_non_null(slash);
		*slash = '\0';
	}
	(void)strcat(world.program, "/daemon/handoffctl");
	(void)snprintf(world.directory, sizeof world.directory, "/tmp/ctl-test-XXXXXX");
	assert_non_null(mkdtemp(world.directory));
	(void)snprintf(world.path, sizeof world.path, "%s/c.sock", world.directory);
	world.loop = ev_loop_new(EVFLAG_AUTO);
	assert_non_null(world.loop);
	assert_int_equal(control_new(world.loop, &options, &handlers, &world.control, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	world.control = control_free(world.control);
	ev_loop_destroy(world.loop);
	assert_int_equal(rmdir(world.directory), 0);
	return 0;
}

static void read_back(int fd, char *to, size_t size)
{
	ssize_t n = pread(fd, to, size - 1, 0);

	assert_true(n >= 0);
	to[n] = '\0';
}

/* Runs it with the words of `line`; its exit code. */
static int ctl(const char *line)
{
	char words[1024];
	char *argv[MAX_ARGUMENTS] = {world.program}, *rest = NULL;
	_cleanup_close_ int out = memfd_create("out", MFD_CLOEXEC);
	_cleanup_close_ int err = memfd_create("err", MFD_CLOEXEC);
	usec_t end = now_usec() + PATIENCE;
	int n = 1, status = 0;
	pid_t pid;

	if (access(world.program, X_OK)) {
		print_message("skipped: %s is not built\n", world.program);
		skip();
	}
	assert_true(copy_string(words, sizeof words, line));
	for (char *w = strtok_r(words, " ", &rest); w; w = strtok_r(NULL, " ", &rest)) {
		assert_true(n < MAX_ARGUMENTS - 1);
		argv[n++] = w;
	}
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		if (dup2(out, 1) < 0 || dup2(err, 2) < 0 ||
		        setenv("HANDOFF_CONTROL", world.path, 1))
			_exit(99);
		execv(world.program, argv);
		_exit(99);
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_usec() > end) {
			(void)kill(pid, SIGKILL);
			(void)waitpid(pid, NULL, 0);
			fail_msg("handoffctl %s does not end", line);
		}
		if (world.control)
			ev_run(world.loop, EVRUN_NOWAIT);
		if (world.close_instead && world.last.cause)
			world.control = control_free(world.control);
		(void)poll(NULL, 0, 1);
	}
	read_back(out, world.out, sizeof world.out);
	read_back(err, world.err, sizeof world.err);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void expect_in(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" lacks \"%s\"", text, part);
}

static void set_result(size_t i, enum outcome_code code, const char *outcome, const char *text)
{
	world.results[i] = (struct result){.service = "web",
	        .request = REQUEST_RELOAD,
	        .generation = 7,
	        .code = code,
	        .outcome = outcome,
	        .cut = code == CODE_CUT ? 3 : 0};
	(void)copy_string(world.results[i].text, sizeof world.results[i].text, text);
	world.n_results = i + 1;
}

static void test_usage(void **state)
{
	static const struct {
		const char *line;
		int code;
		const char *words;
	} cases[] = {
	        {"", 2, "which command?"},
	        {"relaod", 2, "did you mean \"reload\""},
	        {"launch", 2, "there is no command"},
	        {"stop", 2, "needs SERVICE"},
	        {"status a b", 2, "takes no \"b\""},
	        {"status --follow", 2, "does not take --follow"},
	        {"reload --wait never", 2, "--wait of reload takes"},
	        {"wait web --for none", 2, "--for of wait takes"},
	        {"reload --timeout soon", 2, "--timeout takes"},
	        {"events --lines x", 2, "--lines takes"},
	        {"config guess", 2, "check, show and diff"},
	        {"config check /nonexistent.conf", 2, "/nonexistent.conf"},
	        {"--nonsense status", 2, "unrecognized option"},
	        {"-s /nonexistent/c.sock status", 5, "is it running? -s names another socket"},
	        {"status nosuch", 2, "there is no service"},
	        {"logs", 2, "needs SERVICE"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int code = ctl(cases[i].line);

		if (code != cases[i].code)
			fail_msg("%s: exit code %d, %s", cases[i].line, code, world.err);
		expect_in(world.err, cases[i].words);
		assert_string_equal(world.out, "");
	}
	assert_int_equal(ctl("help"), 0);
	expect_in(world.out, "reload [SERVICE...]");
	assert_int_equal(ctl("help reload"), 0);
	expect_in(world.out, "--timeout DURATION");
	assert_int_equal(ctl("--version"), 0);
	expect_in(world.out, "handoffctl ");
}

static void test_outcomes(void **state)
{
	static const enum outcome_code codes[] = {CODE_FAILED, CODE_USAGE, CODE_GENERATION_FAILED,
	        CODE_TIMED_OUT, CODE_NOT_ALLOWED, CODE_SUPERSEDED};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		set_result(0, codes[i], "failed", "the cause\nlast words\033[0m");
		assert_int_equal(ctl("reload"), codes[i]);
		expect_in(world.err, "web: reload -> failed, generation 7");
		expect_in(world.err, ": the cause\n    last words?[0m\n");
		assert_int_equal(strstr(world.err, "the old one goes on serving") != NULL,
		        codes[i] == CODE_GENERATION_FAILED);
		assert_string_equal(world.out, "");
	}
	set_result(0, CODE_CUT, "cut", "stopped");
	assert_int_equal(ctl("stop web"), CODE_CUT);
	assert_string_equal(
	        world.err, "web: reload -> cut, generation 7: stopped (3 connections cut)\n");
	assert_int_equal(world.last.kind, REQUEST_STOP);
	set_result(0, CODE_DONE, "serving", "");
	assert_int_equal(ctl("reload web b --wait drained --timeout 1min"), 0);
	assert_string_equal(world.out, "web: reload -> serving, generation 7\n");
	assert_string_equal(world.services, "web,b,");
	assert_int_equal(world.last.wait, WAIT_DRAINED);
	assert_int_equal(world.last.timeout, 60 * USEC_PER_SEC);
	assert_int_equal(ctl("wait web --for drained"), 0);
	assert_int_equal(world.last.kind, REQUEST_WAIT);
	assert_int_equal(world.last.wait, WAIT_DRAINED);
	assert_int_equal(ctl("start web"), 0);
	assert_int_equal(world.last.kind, REQUEST_START);
	assert_int_equal(ctl("restart web"), 0);
	assert_int_equal(world.last.kind, REQUEST_RESTART);
}

static void test_json_result(void **state)
{
	(void)state;
	set_result(0, CODE_GENERATION_FAILED, "failed", "the cause");
	world.progress = true;
	assert_int_equal(ctl("--json reload"), 3);
	assert_string_equal(world.out,
	        "{\"version\": 1, \"exit_code\": 3, \"results\": [{\"service\": \"web\", "
	        "\"request\": \"reload\", \"generation\": 7, \"outcome\": \"failed\", "
	        "\"exit_code\": 3, \"cut\": 0, \"text\": \"the cause\"}]}\n");
	assert_string_equal(world.err,
	        "web: reload -> failed, generation 7; the old one goes on serving: the cause\n");
	set_result(0, CODE_DONE, "serving", "fine");
	assert_int_equal(ctl("reload --json"), 0);
	expect_in(world.out, "{\"version\": 1, \"exit_code\": 0, \"results\": [{");
	assert_string_equal(world.err, "");
}

static void test_progress_lines(void **state)
{
	(void)state;
	set_result(0, CODE_DONE, "serving", "done");
	world.progress = true;
	assert_int_equal(ctl("reload"), 0);
	expect_in(world.out, " web generation-ready (generation 7): ready after 2 s\nweb: reload -> serving, generation 7: done\n");
}

static void test_handoffd_dies(void **state)
{
	(void)state;
	world.close_instead = true;
	assert_int_equal(ctl("reload"), CODE_UNREACHABLE);
	expect_in(world.err, "has closed the connection");
}

static void test_status(void **state)
{
	(void)state;
	assert_int_equal(ctl("status web"), 0);
	expect_in(world.out, "web  serving  generation 7\n"
	                     "  http  tcp:0.0.0.0:8080 as tcp:127.0.0.1:8080  ebpf  queue 0/4096\n"
	                     "  7  serving    100%  12 in flight  since ");
	expect_in(world.out, "     worker 0  pid 9001  serving  4 in flight  ?[31mred?\n"
	                     "  6  draining     0%  3 in flight  oldest 12s  deadline in 41s\n"
	                     "  last: reload -> generation 7 serving (0)\n");
	assert_int_equal(ctl("--json status"), 0);
	expect_in(world.out, "{\"version\": 1, \"pid\": 811, ");
}

static void test_events(void **state)
{
	struct record r = {RECORD_NONE, .type = RECORD_DAEMON_READY};

	(void)state;
	for (int i = 0; i < 3; i++)
		control_publish(world.control, &r);
	assert_int_equal(ctl("events -n 2"), 0);
	expect_in(world.out, "\"event\": \"daemon-ready\"");
	expect_in(strchr(world.out, '\n') + 1, "\"event\": \"daemon-ready\"");
	assert_string_equal(strrchr(world.out, '}'), "}\n");
	assert_null(strchr(strchr(strchr(world.out, '\n') + 1, '\n') + 1, '{'));
}

static void test_logs(void **state)
{
	(void)state;
	assert_int_equal(ctl("logs web"), 0);
	assert_string_equal(world.out, "generation 3  worker 0  pid 12  gone\n  one\n  ?[2Jtwo\n");
	assert_int_equal(ctl("--json logs web"), 0);
	expect_in(world.out, "\"lines\": [\"one\", \"\\u001B[2Jtwo\"]");
}

/* A server that is none: handoffctl must not hang, crash or say that all is well. */
static void test_strange_servers(void **state)
{
	static const char *const replies[] = {"hello", "{}", "{\"error\":1}", "{\"error\":\"x\"}",
	        "{\"error\":\"dev.handoff.Manager.Failed\"}",
	        "{\"error\":\"dev.handoff.Manager.Failed\",\"parameters\":{\"code\":0}}",
	        "{\"parameters\":{}}", "{\"parameters\":{\"status\":[]}}"};

	(void)state;
	world.control = control_free(world.control);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(replies); i++) {
		const char *reply = replies[i / 2];
		struct sockaddr_un a = {.sun_family = AF_UNIX};
		_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		pid_t pid;
		int code;

		(void)copy_string(a.sun_path, sizeof a.sun_path, world.path);
		assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
		assert_int_equal(listen(fd, 1), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			char buffer[1000];
			int client = accept(fd, NULL, NULL);

			(void)!recv(client, buffer, sizeof buffer, 0);
			(void)send(client, reply, strlen(reply) + 1, MSG_NOSIGNAL);
			_exit(0);
		}
		code = ctl(i % 2 ? "status" : "reload");
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		if (code != CODE_FAILED)
			fail_msg("%s: exit code %d", reply, code);
		assert_int_equal(unlink(world.path), 0);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_usage),
	        TEST(test_outcomes),
	        TEST(test_json_result),
	        TEST(test_progress_lines),
	        TEST(test_handoffd_dies),
	        TEST(test_status),
	        TEST(test_events),
	        TEST(test_logs),
	        TEST(test_strange_servers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
