/* SPDX-License-Identifier: MIT */
/* The control server on a real socket, with scripted clients in the same thread: the loop is turned
 * while a client waits for its bytes. */
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "control/control.h"
#include "system/fd.h"
#include "wire/wire.h"

#define PATIENCE (20 * USEC_PER_SEC)
#define MANAGER "dev.handoff.Manager."
#define MAX_CALLS 10000

struct world {
	struct ev_loop *loop;
	struct control *control;
	char directory[64], path[96];
	struct control_call *calls[MAX_CALLS]; /* that wait, in the order they came */
	uint32_t ids[MAX_CALLS];
	size_t n_calls;
	size_t n_gone, n_refused;
	uid_t refused_uid;
	struct request_spec last; /* strings of it in the next two */
	char services[128], cause[128];
	bool answer_at_once;
};

static struct world world;

static void on_status(void *data, struct control_call *call, const char *service)
{
	struct view view = {811, "0.1.0", "production", "running", "ebpf", NULL, now_usec(), NULL,
	        0, {"root", 0, true, true}};

	(void)data;
	if (service)
		control_answer_error(call, CODE_USAGE, "there is no such service");
	else
		control_answer_status(call, &view);
}

static struct result result_of(uint32_t generation, enum outcome_code code, const char *outcome)
{
	struct result r = {.service = "web",
	        .request = REQUEST_RELOAD,
	        .generation = generation,
	        .code = code,
	        .outcome = outcome};

	(void)snprintf(r.text, sizeof r.text, "text of %s", outcome);
	return r;
}

static void on_request(void *data, struct control_call *call, const struct request_spec *spec)
{
	struct world *w = data;
	struct text names = TEXT_ON(w->services);

	for (size_t i = 0; i < spec->n_services; i++)
		text_add(&names, "%s,", spec->services[i]);
	w->last = *spec;
	(void)copy_string(w->cause, sizeof w->cause, spec->cause);
	assert_true(spec->id);
	if (w->answer_at_once) {
		struct result r = result_of(spec->id, CODE_DONE, "serving");

		control_answer(call, &r, 1);
		return;
	}
	assert_true(w->n_calls < MAX_CALLS);
	w->calls[w->n_calls] = call;
	w->ids[w->n_calls++] = spec->id;
}

static void on_gone(void *data, struct control_call *call, uint32_t id)
{
	struct world *w = data;

	w->n_gone++;
	for (size_t i = 0; i < w->n_calls; i++)
		if (w->calls[i] == call) {
			assert_int_equal(w->ids[i], id);
			w->calls[i] = NULL;
			return;
		}
	fail_msg("an unknown call has gone");
}

static void on_services(void *data, struct control_call *call)
{
	static const char *const names[] = {"web", "we\xffird"};

	(void)data;
	control_answer_services(call, names, 2);
}

static void on_logs(void *data, struct control_call *call, const char *service, bool follow)
{
	static const struct control_log logs[] = {
	        {3, 0, 12, "serving", "one\n\xfftwo\n"}, {2, 0, 11, "gone", ""}};

	(void)data;
	control_answer_logs(call, service, logs, 2, follow);
}

static void on_refused(void *data, uid_t uid, pid_t pid, const char *method, const char *why)
{
	struct world *w = data;

	(void)pid;
	(void)method;
	(void)why;
	w->n_refused++;
	w->refused_uid = uid;
}

static int server_start(const char *group, struct ho_error *e)
{
	struct control_options options = {.path = world.path, .change_group = group};
	struct control_handlers handlers = {.status = on_status,
	        .services = on_services,
	        .request = on_request,
	        .gone = on_gone,
	        .logs = on_logs,
	        .refused = on_refused,
	        .data = &world};

	return control_new(world.loop, &options, &handlers, &world.control, e);
}

static int setup(void **state)
{
	struct ho_error e;

	(void)state;
	memset(&world, 0, sizeof world);
	(void)snprintf(world.directory, sizeof world.directory, "/tmp/control-test-XXXXXX");
	assert_non_null(mkdtemp(world.directory));
	assert_int_equal(chmod(world.directory, 0755), 0);
	(void)snprintf(world.path, sizeof world.path, "%s/c.sock", world.directory);
	world.loop = ev_loop_new(EVFLAG_AUTO);
	assert_non_null(world.loop);
	assert_int_equal(server_start(NULL, &e), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	world.control = control_free(world.control);
	assert_int_equal(access(world.path, F_OK), -1);
	ev_loop_destroy(world.loop);
	assert_int_equal(rmdir(world.directory), 0);
	return 0;
}

static void turn(void)
{
	ev_run(world.loop, EVRUN_NOWAIT);
}

/* Enough turns for whatever is due already. */
static void settle(void)
{
	for (int i = 0; i < 8; i++)
		turn();
}

struct peer_end {
	int fd;
	struct wire_reader reader;
};

static int try_connect(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	assert_true(copy_string(a.sun_path, sizeof a.sun_path, path));
	if (!connect(fd, (struct sockaddr *)&a, sizeof a))
		return fd;
	close_fd(fd);
	return -errno;
}

static struct peer_end peer_new(void)
{
	struct peer_end p = {.fd = try_connect(world.path)};

	assert_true(p.fd >= 0);
	wire_reader_init(&p.reader, WIRE_MAX_REPLY);
	turn();
	return p;
}

static void peer_done(struct peer_end *p)
{
	p->fd = close_fd(p->fd);
	wire_reader_done(&p->reader);
	settle();
}

static void send_bytes(struct peer_end *p, const char *bytes, size_t n)
{
	usec_t end = now_usec() + PATIENCE;

	while (n) {
		ssize_t sent = send(p->fd, bytes, n, MSG_NOSIGNAL);

		assert_true(sent > 0 || errno == EAGAIN);
		if (sent > 0) {
			bytes += sent;
			n -= (size_t)sent;
		}
		turn();
		assert_true(now_usec() < end);
	}
	turn();
}

/* `text` is a message without its NUL. */
static void say(struct peer_end *p, const char *text)
{
	send_bytes(p, text, strlen(text) + 1);
}

/* The next message; NULL when the server has closed. */
static json_t *hear(struct peer_end *p)
{
	usec_t end = now_usec() + PATIENCE;

	for (;;) {
		struct pollfd f = {.fd = p->fd, .events = POLLIN};
		json_t *j = NULL;
		int r = wire_reader_next(&p->reader, &j, NULL);

		assert_true(r >= 0);
		if (r == 1)
			return j;
		r = wire_reader_fill(&p->reader, p->fd);
		if (r == 0 || r == -ECONNRESET)
			return NULL;
		assert_true(r > 0 || r == -EAGAIN);
		if (now_usec() > end)
			fail_msg("nothing came");
		turn();
		(void)poll(&f, 1, 5);
	}
}

static void expect_text(json_t *j, const char *text)
{
	char *s = j ? json_dumps(j, JSON_COMPACT) : NULL;

	assert_non_null(s);
	assert_string_equal(s, text);
	free(s);
	json_decref(j);
}

static void expect_closed(struct peer_end *p)
{
	assert_null(hear(p));
}

static void expect_error(struct peer_end *p, const char *error)
{
	_cleanup_json_ json_t *j = hear(p);

	assert_non_null(j);
	assert_string_equal(json_string_value(json_object_get(j, "error")), error);
}

static int failed_code(struct peer_end *p)
{
	_cleanup_json_ json_t *j = hear(p);
	int code = -1;

	assert_non_null(j);
	assert_int_equal(json_unpack(j, "{s:{s:i, s:s, s:[]}}", "parameters", "code", &code, "text",
	                         &(const char *){NULL}, "results"),
	        0);
	assert_string_equal(json_string_value(json_object_get(j, "error")), MANAGER "Failed");
	return code;
}

static void answer(size_t call, enum outcome_code code, const char *outcome)
{
	struct result r = result_of(7, code, outcome);

	assert_non_null(world.calls[call]);
	control_answer(world.calls[call], &r, 1);
	world.calls[call] = NULL;
}

static void publish(const char *text)
{
	struct record r = {RECORD_NONE, .type = RECORD_CONFIG_NOTE, .text = text};

	control_publish(world.control, &r);
}

static void test_status(void **state)
{
	struct peer_end p = peer_new();
	_cleanup_json_ json_t *j = NULL;

	(void)state;
	say(&p, "{\"method\":\"" MANAGER "GetStatus\"}");
	j = hear(&p);
	assert_int_equal(
	        json_integer_value(json_object_get(
	                json_object_get(json_object_get(j, "parameters"), "status"), "version")),
	        1);
	say(&p, "{\"method\":\"" MANAGER "GetStatus\",\"parameters\":{\"service\":\"x\"}}");
	assert_int_equal(failed_code(&p), CODE_USAGE);
	peer_done(&p);
}

static void test_request(void **state)
{
	struct peer_end p = peer_new();
	struct result two[] = {
	        result_of(7, CODE_CUT, "cut"), result_of(8, CODE_GENERATION_FAILED, "failed")};

	(void)state;
	say(&p, "{\"method\":\"" MANAGER "Reload\",\"parameters\":{\"services\":"
	        "[\"web\",\"b\",\"web\"],\"wait\":\"drained\",\"timeout\":1.5}}");
	assert_int_equal(world.n_calls, 1);
	assert_string_equal(world.services, "web,b,");
	assert_int_equal(world.last.kind, REQUEST_RELOAD);
	assert_int_equal(world.last.wait, WAIT_DRAINED);
	assert_int_equal(world.last.timeout, 1500000);
	assert_non_null(strstr(world.cause, "uid "));
	answer(0, CODE_DONE, "serving");
	expect_text(hear(&p), "{\"parameters\":{\"version\":1,\"exit_code\":0,\"results\":[{"
	                      "\"service\":\"web\",\"request\":\"reload\",\"generation\":7,"
	                      "\"outcome\":\"serving\",\"exit_code\":0,\"cut\":0,"
	                      "\"text\":\"text of serving\"}]}}");
	say(&p, "{\"method\":\"" MANAGER "Wait\",\"parameters\":{\"service\":\"web\"}}");
	assert_int_equal(world.last.kind, REQUEST_WAIT);
	assert_int_equal(world.last.wait, WAIT_SERVING);
	assert_true(world.last.timeout == USEC_INFINITY);
	control_answer(world.calls[1], two, 2);
	expect_text(hear(&p),
	        "{\"error\":\"" MANAGER
	        "Failed\",\"parameters\":{\"code\":3,\"text\":\"text of failed\","
	        "\"results\":[{\"service\":\"web\",\"request\":\"reload\",\"generation\":7,"
	        "\"outcome\":\"cut\",\"exit_code\":6,\"cut\":0,\"text\":\"text of cut\"},{"
	        "\"service\":\"web\",\"request\":\"reload\",\"generation\":8,\"outcome\":"
	        "\"failed\","
	        "\"exit_code\":3,\"cut\":0,\"text\":\"text of failed\"}]}}");
	peer_done(&p);
	assert_int_equal(world.n_gone, 0);
}

static void test_progress(void **state)
{
	struct peer_end p = peer_new();
	struct record r = {RECORD_NONE, .type = RECORD_GENERATION_READY, .service = "web"};
	_cleanup_json_ json_t *j = NULL;

	(void)state;
	say(&p, "{\"method\":\"" MANAGER "Reload\",\"more\":true}");
	control_progress(world.calls[0], &r);
	answer(0, CODE_TIMED_OUT, "timed-out");
	j = hear(&p);
	assert_true(json_is_true(json_object_get(j, "continues")));
	assert_string_equal(
	        json_string_value(json_object_get(
	                json_object_get(json_object_get(j, "parameters"), "progress"), "event")),
	        "generation-ready");
	expect_error(&p, MANAGER "Failed");
	/* Who did not ask for it gets none. */
	say(&p, "{\"method\":\"" MANAGER "Reload\"}");
	control_progress(world.calls[1], &r);
	answer(1, CODE_DONE, "serving");
	json_decref(j);
	j = hear(&p);
	assert_null(json_object_get(j, "continues"));
	peer_done(&p);
}

static void test_wrong_calls(void **state)
{
#define INVALID "org.varlink.service.InvalidParameter"
	static const struct {
		const char *message, *error;
	} cases[] = {
	        {"{}", INVALID},
	        {"{\"method\":1}", INVALID},
	        {"{\"method\":\"" MANAGER "GetStatus\",\"upgrade\":true}", INVALID},
	        {"{\"method\":\"" MANAGER "GetStatus\",\"more\":1}", INVALID},
	        {"{\"method\":\"" MANAGER "GetStatus\",\"parameters\":[]}", INVALID},
	        {"{\"method\":\"" MANAGER "GetStatus\",\"parameters\":{\"servise\":\"a\"}}",
	                INVALID},
	        {"{\"method\":\"" MANAGER "GetStatus\",\"parameters\":{\"service\":1}}", INVALID},
	        {"{\"method\":\"" MANAGER "GetStatus\",\"parameters\":{\"service\":\"\"}}",
	                INVALID},
	        {"{\"method\":\"" MANAGER "Nothing\"}", "org.varlink.service.MethodNotFound"},
	        {"{\"method\":\"a.b.C\"}", "org.varlink.service.InterfaceNotFound"},
	        {"{\"method\":\"\"}", "org.varlink.service.InterfaceNotFound"},
	        {"{\"method\":\"" MANAGER "Stop\"}", INVALID},
	        {"{\"method\":\"" MANAGER "Stop\",\"parameters\":{\"services\":[]}}", INVALID},
	        {"{\"method\":\"" MANAGER "Stop\",\"parameters\":{\"services\":[\"\"]}}", INVALID},
	        {"{\"method\":\"" MANAGER "Stop\",\"parameters\":{\"services\":\"web\"}}", INVALID},
	        {"{\"method\":\"" MANAGER "Stop\",\"parameters\":{\"services\":[\"a\"],"
	         "\"wait\":\"serving\"}}",
	                INVALID},
	        {"{\"method\":\"" MANAGER "Reload\",\"parameters\":{\"timeout\":-1}}", INVALID},
	        {"{\"method\":\"" MANAGER "Reload\",\"parameters\":{\"timeout\":\"1\"}}", INVALID},
	        {"{\"method\":\"" MANAGER "Reload\",\"parameters\":{\"wait\":\"never\"}}", INVALID},
	        {"{\"method\":\"" MANAGER "Wait\"}", INVALID},
	        {"{\"method\":\"" MANAGER "Wait\",\"parameters\":{\"service\":\"a\","
	         "\"for\":\"none\"}}",
	                INVALID},
	        {"{\"method\":\"" MANAGER "Logs\"}", INVALID},
	        {"{\"method\":\"" MANAGER "Events\",\"parameters\":{\"lines\":-1}}", INVALID},
	        {"{\"method\":\"" MANAGER "Events\",\"parameters\":{\"follow\":true}}",
	                "org.varlink.service.ExpectedMore"},
	        {"{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":"
	         "{\"interface\":\"x\"}}",
	                "org.varlink.service.InterfaceNotFound"},
	};
	struct peer_end p = peer_new();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		say(&p, cases[i].message);
		expect_error(&p, cases[i].error);
	}
	assert_int_equal(world.n_calls, 0);
	peer_done(&p);
}

static void test_introspection(void **state)
{
	struct peer_end p = peer_new();
	_cleanup_json_ json_t *j = NULL;

	(void)state;
	say(&p, "{\"method\":\"org.varlink.service.GetInfo\"}");
	j = hear(&p);
	assert_int_equal(
	        json_array_size(json_object_get(json_object_get(j, "parameters"), "interfaces")),
	        2);
	json_decref(j);
	say(&p, "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":"
	        "{\"interface\":\"dev.handoff.Manager\"}}");
	j = hear(&p);
	assert_non_null(strstr(
	        json_string_value(json_object_get(json_object_get(j, "parameters"), "description")),
	        "interface dev.handoff.Manager\n"));
	peer_done(&p);
}

static void test_logs(void **state)
{
	struct peer_end p = peer_new();

	(void)state;
	say(&p, "{\"method\":\"" MANAGER "Logs\",\"parameters\":{\"service\":\"web\"}}");
	expect_text(hear(&p),
	        "{\"parameters\":{\"version\":1,\"service\":\"web\",\"workers\":[{\"generation\":3,"
	        "\"worker\":0,\"pid\":12,\"state\":\"serving\",\"lines\":[\"one\","
	        "\"\xef\xbf\xbdtwo\"]},{\"generation\":2,\"worker\":0,\"pid\":11,"
	        "\"state\":\"gone\",\"lines\":[]}]}}");
	peer_done(&p);
}

static void test_gone(void **state)
{
	struct peer_end p = peer_new(), half = peer_new();

	(void)state;
	say(&p, "{\"method\":\"" MANAGER "Reload\"}");
	say(&half, "{\"method\":\"" MANAGER "Reload\"}");
	assert_int_equal(world.n_calls, 2);
	/* One that has said all still waits. */
	assert_int_equal(shutdown(half.fd, SHUT_WR), 0);
	settle();
	assert_int_equal(world.n_gone, 0);
	peer_done(&p);
	assert_int_equal(world.n_gone, 1);
	answer(1, CODE_DONE, "serving");
	json_decref(hear(&half));
	expect_closed(&half);
	peer_done(&half);
	assert_int_equal(world.n_gone, 1);
}

static size_t event_count(json_t *j)
{
	size_t n = json_array_size(json_object_get(json_object_get(j, "parameters"), "events"));

	assert_non_null(j);
	json_decref(j);
	return n;
}

static void test_events(void **state)
{
	struct peer_end p = peer_new(), q = peer_new();
	_cleanup_json_ json_t *j = NULL;
	json_t *list;

	(void)state;
	for (int i = 0; i < 1003; i++) {
		char text[16];

		(void)snprintf(text, sizeof text, "%d", i);
		publish(text);
	}
	say(&p, "{\"method\":\"" MANAGER "Events\"}");
	j = hear(&p);
	list = json_object_get(json_object_get(j, "parameters"), "events");
	assert_int_equal(json_array_size(list), 1000);
	assert_string_equal(
	        json_string_value(json_object_get(json_array_get(list, 0), "text")), "3");
	assert_string_equal(
	        json_string_value(json_object_get(json_array_get(list, 999), "text")), "1002");
	say(&p, "{\"method\":\"" MANAGER "Events\",\"more\":true,\"parameters\":{\"follow\":true,"
	        "\"lines\":2}}");
	assert_int_equal(event_count(hear(&p)), 2);
	say(&q, "{\"method\":\"" MANAGER "Events\",\"more\":true,\"parameters\":{\"follow\":true,"
	        "\"lines\":0}}");
	assert_int_equal(event_count(hear(&q)), 0);
	publish("new");
	assert_int_equal(event_count(hear(&p)), 1);
	peer_done(&p);
	publish("newer");
	assert_int_equal(event_count(hear(&q)), 1);
	assert_int_equal(event_count(hear(&q)), 1);
	peer_done(&q);
}

/* A follower that does not read is closed; one that reads is not hurt. */
static void test_slow_follower(void **state)
{
	struct peer_end slow = peer_new(), good = peer_new();
	char text[8192];
	int n = 0;

	(void)state;
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	say(&slow, "{\"method\":\"" MANAGER "Events\",\"more\":true,\"parameters\":"
	           "{\"follow\":true}}");
	say(&good, "{\"method\":\"" MANAGER "Events\",\"more\":true,\"parameters\":"
	           "{\"follow\":true}}");
	event_count(hear(&good));
	for (int i = 0; i < 1000; i++) {
		publish(text);
		turn();
		assert_int_equal(event_count(hear(&good)), 1);
	}
	for (json_t *j; (j = hear(&slow)); n++)
		json_decref(j);
	assert_true(n < 400);
	peer_done(&good);
	peer_done(&slow);
}

static void test_garbage(void **state)
{
	static const char *const garbage[] = {"GET / HTTP/1.1\r\n\r\n", "[1]", ""};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(garbage); i++) {
		struct peer_end p = peer_new();

		/* What came before it is answered, what comes after it is not. */
		say(&p, "{\"method\":\"" MANAGER "GetStatus\"}");
		say(&p, garbage[i]);
		json_decref(hear(&p));
		assert_int_equal(failed_code(&p), CODE_USAGE);
		expect_closed(&p);
		peer_done(&p);
	}
}

static void test_endless_message(void **state)
{
	struct peer_end p = peer_new();
	char *blanks = malloc(WIRE_MAX_CALL + 1);

	(void)state;
	assert_non_null(blanks);
	memset(blanks, ' ', WIRE_MAX_CALL + 1);
	send_bytes(&p, blanks, WIRE_MAX_CALL + 1);
	assert_int_equal(failed_code(&p), CODE_USAGE);
	expect_closed(&p);
	peer_done(&p);
	/* The longest one that is allowed. */
	p = peer_new();
	memcpy(blanks, "{\"method\":\"x.Y\"}", 16);
	blanks[WIRE_MAX_CALL] = '\0';
	send_bytes(&p, blanks, WIRE_MAX_CALL + 1);
	expect_error(&p, "org.varlink.service.InterfaceNotFound");
	peer_done(&p);
	free(blanks);
}

static void test_half_message(void **state)
{
	struct peer_end p = peer_new(), q = peer_new();

	(void)state;
	send_bytes(&p, "{\"method\":\"" MANAGER, 20);
	say(&q, "{\"method\":\"" MANAGER "GetStatus\"}");
	json_decref(hear(&q));
	peer_done(&p);
	peer_done(&q);
}

/* Reload calls of one connection wait together, so that they can join each other; the answers come
 * in the order of the calls whatever the order in which they are given. */
static void test_pipelined_reloads(void **state)
{
	static const char reload[] = "{\"method\":\"" MANAGER "Reload\"}";
	static const char status[] = "{\"method\":\"" MANAGER "GetStatus\"}";
	struct peer_end p = peer_new();
	char *all = malloc(MAX_CALLS * sizeof reload);

	(void)state;
	assert_non_null(all);
	for (size_t i = 0; i < MAX_CALLS; i++)
		memcpy(all + i * sizeof reload, reload, sizeof reload);
	send_bytes(&p, all, MAX_CALLS * sizeof reload);
	say(&p, status);
	for (int i = 0; i < 1000 && world.n_calls < MAX_CALLS; i++)
		turn();
	assert_int_equal(world.n_calls, MAX_CALLS);
	for (size_t i = MAX_CALLS; i-- > 0;) {
		struct result r = result_of((uint32_t)i + 1, CODE_DONE, "serving");

		control_answer(world.calls[i], &r, 1);
	}
	for (json_int_t i = 0; i < MAX_CALLS; i++) {
		_cleanup_json_ json_t *j = hear(&p);
		json_int_t generation = 0;

		assert_int_equal(json_unpack(j, "{s:{s:[{s:I}]}}", "parameters", "results",
		                         "generation", &generation),
		        0);
		assert_int_equal(generation, i + 1);
	}
	{
		_cleanup_json_ json_t *j = hear(&p);

		assert_non_null(json_object_get(json_object_get(j, "parameters"), "status"));
	}
	free(all);
	peer_done(&p);
}

/* Other calls wait for those before them. */
static void test_pipelined_in_order(void **state)
{
	struct peer_end p = peer_new();

	(void)state;
	say(&p, "{\"method\":\"" MANAGER "Stop\",\"parameters\":{\"services\":[\"a\"]}}");
	say(&p, "{\"method\":\"" MANAGER "Start\",\"parameters\":{\"services\":[\"a\"]}}");
	say(&p, "{\"method\":\"" MANAGER "Reload\",\"oneway\":true}");
	settle();
	assert_int_equal(world.n_calls, 1);
	assert_int_equal(world.last.kind, REQUEST_STOP);
	answer(0, CODE_DONE, "stopped");
	json_decref(hear(&p));
	settle();
	assert_int_equal(world.n_calls, 2);
	assert_int_equal(world.last.kind, REQUEST_START);
	answer(1, CODE_DONE, "serving");
	json_decref(hear(&p));
	settle();
	assert_int_equal(world.n_calls, 3);
	say(&p, "{\"method\":\"x.Y\"}");
	answer(2, CODE_DONE, "serving");
	/* No reply to a call that wants none: this is the one to the next. */
	expect_error(&p, "org.varlink.service.InterfaceNotFound");
	peer_done(&p);
}

/* Thousands of calls whose replies nobody reads: nothing is lost, and not all is kept in memory. */
static void test_reader_that_waits(void **state)
{
	static const char call[] =
	        "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":"
	        "{\"interface\":\"dev.handoff.Manager\"}}";
	enum { N = 4000 };
	struct peer_end p = peer_new();

	(void)state;
	for (int i = 0; i < N; i++)
		say(&p, call);
	for (int i = 0; i < N; i++) {
		json_t *j = hear(&p);

		assert_non_null(j);
		json_decref(j);
	}
	peer_done(&p);
}

static void test_many_clients(void **state)
{
	enum { N = 1100 };
	struct rlimit limit;
	static struct peer_end peers[N];

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_cur < 2 * N + 64) {
		print_message(
		        "skipped: only %llu descriptors\n", (unsigned long long)limit.rlim_cur);
		skip();
	}
	for (int i = 0; i < N; i++) {
		peers[i] = peer_new();
		if (i < 1024)
			say(&peers[i], "{\"method\":\"" MANAGER "Reload\"}");
	}
	assert_int_equal(world.n_calls, 1024);
	assert_int_equal(world.n_refused, N - 1024);
	for (int i = 1024; i < N; i++) {
		assert_int_equal(failed_code(&peers[i]), CODE_FAILED);
		expect_closed(&peers[i]);
	}
	for (size_t i = 0; i < 1024; i++)
		answer(i, CODE_DONE, "serving");
	for (int i = 0; i < 1024; i++) {
		json_t *j = hear(&peers[i]);

		assert_non_null(json_object_get(j, "parameters"));
		json_decref(j);
	}
	for (int i = 0; i < N; i++)
		peer_done(&peers[i]);
	peers[0] = peer_new();
	say(&peers[0], "{\"method\":\"" MANAGER "GetStatus\"}");
	json_decref(hear(&peers[0]));
	peer_done(&peers[0]);
}

/* Without descriptors the loop must rest, and clients come in once there are some again. */
static void test_no_descriptors(void **state)
{
	struct rlimit limit, low;
	struct peer_end p;
	usec_t start = now_usec();

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	p.fd = try_connect(world.path);
	assert_true(p.fd >= 0);
	wire_reader_init(&p.reader, WIRE_MAX_REPLY);
	low = limit;
	low.rlim_cur = (rlim_t)p.fd + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	turn();
	/* Nothing happens before it tries again, but that libev finds out once that nobody
	 * listens to the descriptor any more. */
	for (int turns = 0; turns < 2; turns++)
		ev_run(world.loop, EVRUN_ONCE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_true(now_usec() - start > 500 * USEC_PER_MSEC);
	say(&p, "{\"method\":\"" MANAGER "GetStatus\"}");
	json_decref(hear(&p));
	peer_done(&p);
}

/* What a child with that user and these groups gets as an answer: its code, or 100 + errno of
 * connect. */
static int code_as(uid_t uid, gid_t gid, const gid_t *groups, size_t n_groups, const char *message)
{
	usec_t end = now_usec() + PATIENCE;
	pid_t pid = fork();
	int status = 0;

	assert_true(pid >= 0);
	if (!pid) {
		char reply[4096];
		const char *at;
		ssize_t n;
		int fd;

		if (setgroups(n_groups, groups) || setresgid(gid, gid, gid) ||
		        setresuid(uid, uid, uid))
			_exit(99);
		fd = try_connect(world.path);
		if (fd < 0)
			_exit(100 - fd);
		(void)fcntl(fd, F_SETFL, 0);
		(void)send(fd, message, strlen(message) + 1, MSG_NOSIGNAL);
		n = recv(fd, reply, sizeof reply - 1, 0);
		if (n <= 0)
			_exit(98);
		reply[n - 1] = '\0';
		at = strstr(reply, "\"code\":");
		_exit(at ? atoi(at + 7) : 0);
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		assert_true(now_usec() < end);
		turn();
		(void)poll(NULL, 0, 1);
	}
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_rights(void **state)
{
	static const char status[] = "{\"method\":\"" MANAGER "GetStatus\"}";
	static const char reload[] = "{\"method\":\"" MANAGER "Reload\"}";
	const struct group *adm = getgrnam("adm");
	struct stat st;
	struct ho_error e;
	gid_t groups[2] = {1, adm ? adm->gr_gid : 0};

	(void)state;
	if (geteuid() || !adm) {
		print_message("skipped: needs root and a group adm\n");
		skip();
	}
	world.answer_at_once = true;
	assert_int_equal(stat(world.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	assert_int_equal(st.st_gid, getegid());
	assert_int_equal(code_as(65534, 65534, NULL, 0, status), 100 + EACCES);
	/* The socket's group may read. */
	assert_int_equal(code_as(65534, getegid(), NULL, 0, status), 0);
	assert_int_equal(code_as(65534, getegid(), NULL, 0, reload), CODE_NOT_ALLOWED);
	assert_int_equal(world.n_refused, 1);
	assert_int_equal(world.refused_uid, 65534);
	assert_int_equal(code_as(0, 0, NULL, 0, reload), 0);

	world.control = control_free(world.control);
	assert_int_equal(server_start("adm", &e), 0);
	assert_int_equal(stat(world.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	assert_int_equal(st.st_gid, adm->gr_gid);
	assert_int_equal(code_as(65534, 65534, groups, 2, reload), 0);
	assert_int_equal(code_as(65534, adm->gr_gid, NULL, 0, reload), 0);
	assert_int_equal(code_as(65534, 65534, groups, 1, reload), 100 + EACCES);
	assert_int_equal(chmod(world.path, 0666), 0);
	assert_int_equal(code_as(65534, 65534, groups, 1, status), 0);
	assert_int_equal(code_as(65534, 65534, groups, 1, reload), CODE_NOT_ALLOWED);

	world.control = control_free(world.control);
	assert_int_equal(server_start("no-such-group", &e), -EINVAL);
	assert_non_null(strstr(e.text, "no-such-group"));
}

static void test_socket_file(void **state)
{
	struct control *first = world.control;
	char kept[sizeof world.path], longer[200];
	struct ho_error e;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd;

	(void)state;
	/* A living server keeps its place. */
	assert_int_equal(server_start(NULL, &e), -EADDRINUSE);
	assert_non_null(strstr(e.text, "another handoffd"));
	world.control = control_free(first);

	/* A dead one's is taken. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	memcpy(a.sun_path, world.path, sizeof world.path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(server_start(NULL, &e), 0);
	close_fd(fd);
	/* Our file is removed only while it is ours. */
	assert_int_equal(unlink(world.path), 0);
	fd = open(world.path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	close_fd(fd);
	world.control = control_free(world.control);
	assert_int_equal(access(world.path, F_OK), 0);

	/* A file that is no socket stays. */
	assert_int_equal(server_start(NULL, &e), -EEXIST);
	assert_int_equal(unlink(world.path), 0);

	memcpy(kept, world.path, sizeof kept);
	memset(longer, 'x', sizeof longer);
	longer[sizeof longer - 1] = '\0';
	{
		struct control_options options = {.path = longer};
		struct control_handlers handlers = {.status = on_status,
		        .services = on_services,
		        .request = on_request,
		        .gone = on_gone,
		        .logs = on_logs,
		        .refused = on_refused,
		        .data = &world};

		assert_int_equal(control_new(world.loop, &options, &handlers, &world.control, &e),
		        -ENAMETOOLONG);
		assert_non_null(strstr(e.text, "107"));
	}
	/* The directory is made. */
	(void)snprintf(world.path, sizeof world.path, "%s/d/c.sock", world.directory);
	assert_int_equal(server_start(NULL, &e), 0);
	world.control = control_free(world.control);
	(void)snprintf(world.path, sizeof world.path, "%s/d", world.directory);
	assert_int_equal(rmdir(world.path), 0);
	memcpy(world.path, kept, sizeof kept);
}

static void test_flush(void **state)
{
	struct peer_end p = peer_new();

	(void)state;
	say(&p, "{\"method\":\"" MANAGER "Reload\"}");
	answer(0, CODE_DONE, "stopped");
	control_flush(world.control);
	assert_int_equal(try_connect(world.path), -ENOENT);
	world.control = control_free(world.control);
	json_decref(hear(&p));
	expect_closed(&p);
	close_fd(p.fd);
	wire_reader_done(&p.reader);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_status),
	        TEST(test_request),
	        TEST(test_progress),
	        TEST(test_wrong_calls),
	        TEST(test_introspection),
	        TEST(test_logs),
	        TEST(test_gone),
	        TEST(test_events),
	        TEST(test_slow_follower),
	        TEST(test_garbage),
	        TEST(test_endless_message),
	        TEST(test_half_message),
	        TEST(test_pipelined_reloads),
	        TEST(test_pipelined_in_order),
	        TEST(test_reader_that_waits),
	        TEST(test_many_clients),
	        TEST(test_no_descriptors),
	        TEST(test_rights),
	        TEST(test_socket_file),
	        TEST(test_flush),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
