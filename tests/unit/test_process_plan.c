/* SPDX-License-Identifier: MIT */
/* The pure parts of starting a worker: descriptor maps against a model, the variables of each
 * dialect word for word, substitutions, sd_notify datagrams, lines and tails, process trees. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "process/dialect.h"
#include "process/einhorn.h"
#include "process/environment.h"
#include "process/fdmap.h"
#include "process/notify.h"
#include "process/output.h"
#include "process/substitute.h"
#include "process/tree.h"

/* ---- descriptor maps ---- */

#define MODEL_FDS 64

/* A descriptor table: what each number refers to (0: closed), and its close-on-exec flag. */
struct model {
	int file[MODEL_FDS];
	bool cloexec[MODEL_FDS];
};

static void carry_out(struct model *m, const struct fdmap_plan *plan)
{
	int lifted[FDMAP_MAX_ENTRIES];

	for (size_t i = 0; i < plan->count; i++) {
		const struct fdmap_step *s = &plan->steps[i];
		int from = s->from, to = s->to;

		switch (s->kind) {
		case FDMAP_LIFT:
			assert_int_not_equal(m->file[from], 0);
			while (m->file[to])
				to++;
			assert_true(to < MODEL_FDS);
			m->file[to] = m->file[from];
			m->cloexec[to] = true;
			lifted[s->slot] = to;
			break;
		case FDMAP_PLACE:
			from = s->lifted ? lifted[s->slot] : from;
			assert_int_not_equal(m->file[from], 0);
			assert_int_not_equal(from, to);
			m->file[to] = m->file[from];
			m->cloexec[to] = false;
			break;
		case FDMAP_SEAL:
			for (int fd = from; fd < MODEL_FDS && fd <= to; fd++)
				m->cloexec[fd] = true;
			break;
		}
	}
}

static void check_map(const int *from, const int *to, size_t n)
{
	struct fdmap map = {0};
	struct fdmap_plan plan;
	struct model m = {0};
	int expected[MODEL_FDS] = {0};

	for (int fd = 0; fd < 16; fd++)
		m.file[fd] = 100 + fd; /* all open, none close-on-exec: the careless case */
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(fdmap_add(&map, from[i], to[i]), 0);
		expected[to[i]] = 100 + from[i];
	}
	fdmap_make(&map, &plan);
	carry_out(&m, &plan);
	for (int fd = 0; fd < MODEL_FDS; fd++) {
		int seen = m.file[fd] && !m.cloexec[fd] ? m.file[fd] : 0;

		if (seen != expected[fd])
			fail_msg("descriptor %d is %d, not %d", fd, seen, expected[fd]);
	}
}

static void test_every_small_map(void **state)
{
	/* Four sources, each any of 0..7 (also the same twice), placed at 0, 3, 4 and 6. */
	static const int to[] = {0, 3, 4, 6};
	int from[4];
	unsigned checked = 0;

	(void)state;
	for (from[0] = 0; from[0] < 8; from[0]++)
		for (from[1] = 0; from[1] < 8; from[1]++)
			for (from[2] = 0; from[2] < 8; from[2]++)
				for (from[3] = 0; from[3] < 8; from[3]++)
					for (size_t n = 0; n <= 4; n++, checked++)
						check_map(from, to, n);
	assert_int_equal(checked, 8 * 8 * 8 * 8 * 5);
}

static void test_map_refuses(void **state)
{
	struct fdmap map = {0};

	(void)state;
	assert_int_equal(fdmap_add(&map, 5, 3), 0);
	assert_int_equal(fdmap_add(&map, 6, 3), -EEXIST);
	assert_int_equal(fdmap_add(&map, -1, 4), -EINVAL);
	assert_int_equal(fdmap_add(&map, 1, -4), -EINVAL);
	for (int i = 1; i < FDMAP_MAX_ENTRIES; i++)
		assert_int_equal(fdmap_add(&map, 1, 3 + 2 * i), 0);
	assert_int_equal(fdmap_add(&map, 1, 1000), -E2BIG);
	fdmap_make(&map, &(struct fdmap_plan){0}); /* the largest plan has room */
}

/* ---- dialects ---- */

static const struct address tcp4 = {.kind = ADDRESS_TCP, .ip = {127, 0, 0, 1}, .port = 8080};
static const struct address tcp6 = {
        .kind = ADDRESS_TCP, .ipv6 = true, .ip = {[15] = 1}, .port = 8081};
static const struct address udp4 = {.kind = ADDRESS_UDP, .port = 53};
static const struct address unix_path = {.kind = ADDRESS_UNIX, .path = "/run/a.sock"};
static const struct address unknown = {.kind = ADDRESS_SYSTEMD, .path = "x"};

static const struct dialect_fd fds[] = {{"http", &tcp4}, {"http", &tcp6}, {"dns", &udp4},
        {"admin-api", &unix_path}, {"given", &unknown}};

static const struct dialect_input input = {
        .fds = fds, .n_fds = ARRAY_SIZE(fds), .generation = 7, .worker = 2, .parent = 4711};

static void assert_environment(struct environment *e, const char *expected)
{
	char buffer[4096];
	struct text t = TEXT_ON(buffer);

	assert_int_equal(e->failed, 0);
	for (size_t i = 0; i < e->count; i++)
		text_add(&t, "%s\n", e->items[i]);
	assert_string_equal(buffer, expected);
	environment_done(e);
}

static void assert_dialect(unsigned dialect, const char *expected)
{
	struct environment e = {0};

	dialect_add(&e, dialect, &input);
	assert_environment(&e, expected);
}

static void test_dialects(void **state)
{
	(void)state;
	assert_dialect(DIALECT_SYSTEMD, "LISTEN_FDS=5\nLISTEN_FDNAMES=http:http:dns:admin-api:"
	                                "given\nLISTEN_PID=0000000000\n");
	assert_dialect(DIALECT_SERVER_STARTER,
	        "SERVER_STARTER_PORT=127.0.0.1:8080=3;[::1]:8081=4;0.0.0.0:53=5;/run/a.sock=6\n"
	        "SERVER_STARTER_GENERATION=7\n");
	assert_dialect(DIALECT_EINHORN,
	        "EINHORN_MASTER_PID=4711\nEINHORN_SOCK_PATH=/proc/self/fd/8\n"
	        "EINHORN_CHILD_INDEX=2\nEINHORN_FD_COUNT=5\nEINHORN_FD_0=3\nEINHORN_FD_1=4\n"
	        "EINHORN_FD_2=5\nEINHORN_FD_3=6\nEINHORN_FD_4=7\nEINHORN_FDS=3 4 5 6 7\n");
	assert_dialect(DIALECT_NGINX, "NGINX=3;4;5;6;7;\n");
	assert_dialect(DIALECT_PHP_FPM,
	        "FPM_SOCKETS=127.0.0.1:8080=3,::1:8081=4,0.0.0.0:53=5,/run/a.sock=6\n");
	assert_dialect(DIALECT_UNICORN, "UNICORN_FD=3,4,5,6,7\n");
	assert_dialect(DIALECT_PUMA,
	        "PUMA_INHERIT_0=3:tcp://127.0.0.1:8080\nPUMA_INHERIT_1=4:tcp://[::1]:8081\n"
	        "PUMA_INHERIT_2=6:unix:///run/a.sock\n");
	assert_dialect(DIALECT_STDIN, "");
	assert_dialect(0, "");
}

static bool is_ack(const char *line)
{
	return einhorn_is_ack(line, strlen(line));
}

static void test_einhorn_acknowledgement(void **state)
{
	(void)state;
	assert_true(is_ack("{\"command\":\"worker:ack\",\"pid\":7}\n"));
	assert_true(is_ack("{\"pid\": 7, \"command\" : \"worker:ack\"}\n"));
	assert_true(is_ack("---%0Acommand: worker:ack%0Apid: 7%0A\n"));
	assert_true(is_ack("{command: 'worker:ack'}\n"));
	assert_false(is_ack(""));
	assert_false(is_ack("command"));
	assert_false(is_ack("worker:ack"));
	assert_false(is_ack("{\"command\":\"worker:ping\",\"id\":\"worker:ack\"}\n"));
	assert_false(einhorn_is_ack("command:worker:ack", sizeof "command:worker:ac" - 1));
}

static void test_listen_pid_of_the_parent(void **state)
{
	struct dialect_input in = input;
	struct environment e = {0};

	(void)state;
	in.n_fds = 1;
	in.listen_pid = LISTEN_PID_PARENT;
	dialect_add(&e, DIALECT_SYSTEMD, &in);
	assert_string_equal(dialect_pid(&e, DIALECT_SYSTEMD, &in), "0000000000");
	assert_null(dialect_pid(&e, DIALECT_NGINX, &in));
	assert_environment(&e, "LISTEN_FDS=1\nLISTEN_FDNAMES=http\nLISTEN_PID=parent:0000000000\n");
	environment_put(&e, "LISTEN_PID=of the service");
	in.listen_pid = LISTEN_PID_NONE;
	dialect_add(&e, DIALECT_SYSTEMD, &in);
	assert_null(dialect_pid(&e, DIALECT_SYSTEMD, &in));
	assert_environment(&e, "LISTEN_FDS=1\nLISTEN_FDNAMES=http\n");
}

static void test_no_sockets_no_dialect(void **state)
{
	const struct dialect_input none = {.parent = 1};
	struct environment e = {0};

	(void)state;
	dialect_add(&e, ~0u, &none);
	dialect_add_handoff(&e, &none);
	assert_environment(&e, "");
}

static void test_handoff_names(void **state)
{
	struct environment e = {0};

	(void)state;
	dialect_add_handoff(&e, &input);
	assert_environment(&e, "HANDOFF_FD_HTTP=3\nHANDOFF_FD_HTTP_2=4\nHANDOFF_FD_DNS=5\n"
	                       "HANDOFF_FD_ADMIN_API=6\nHANDOFF_FD_GIVEN=7\n");
}

/* ---- environment ---- */

static void test_nothing_for_handoffd_is_inherited(void **state)
{
	const char *const from[] = {"LISTEN_PID=1", "LISTEN_PIDFDID=1", "NOTIFY_SOCKET=x",
	        "WATCHDOG_PID=1", "MAINPID=1", "HANDOFF_FD_X=1", "SERVER_STARTER_PORT=1",
	        "EINHORN_FDS=1", "NGINX=3;", "NGINXY=kept", "FPM_SOCKETS_1=x", "UNICORN_FD=3",
	        "PUMA_INHERIT_0=x", "GUNICORN_FD=1", "GUNICORN_PID=1", "LIGHTTPD_PREV_GEN=1",
	        "JOURNAL_STREAM=8:1", "INVOCATION_ID=1", "MAINPIDX=kept", "noequals", "=nokey",
	        "A=1", "A=2", NULL};
	struct environment e = {0};

	(void)state;
	environment_inherit(&e, (char *const *)from, true);
	assert_environment(&e, "NGINXY=kept\nINVOCATION_ID=1\nMAINPIDX=kept\nA=2\n");
	environment_inherit(&e, (char *const *)from, false);
	assert_environment(
	        &e, "NGINXY=kept\nJOURNAL_STREAM=8:1\nINVOCATION_ID=1\nMAINPIDX=kept\nA=2\n");
}

static void test_too_many_variables(void **state)
{
	struct environment e = {0};

	(void)state;
	for (int i = 0; i < ENVIRONMENT_MAX + 1; i++) {
		char key[32];

		assert_int_equal(e.failed, 0);
		(void)snprintf(key, sizeof key, "K%d", i);
		environment_set(&e, key, "%d", i);
	}
	assert_int_equal(e.failed, -E2BIG);
	assert_int_equal(e.count, ENVIRONMENT_MAX);
	environment_done(&e);
}

static void assert_file(const char *text, const char *expected)
{
	struct environment e = {0};
	struct ho_error error = {0};

	if (environment_parse(&e, "f", text, strlen(text), &error) == 0) {
		assert_environment(&e, expected);
	} else {
		assert_string_equal(error.text, expected);
		environment_done(&e);
	}
}

static void test_environment_files(void **state)
{
	(void)state;
	assert_file("", "");
	assert_file("\n# A=1\n;B=2\n  C=3  \r\n", "C=3\n");
	assert_file("A=1\nA=2", "A=2\n");
	assert_file("export A=1\nexport\tB= 2 # 3", "A=1\nB=2 # 3\n");
	assert_file("A=\"a \\\"b\\\\\\n\\x\" \nB='a\\n\"b'\n", "A=a \"b\\\n\\x\nB=a\\n\"b\n");
	assert_file("A=\"1\n2\"\nB=3\n", "A=1\n2\nB=3\n");
	assert_file("A=\nB=''\nC=\"\"", "A=\nB=\nC=\n");
	assert_file("A=b=c", "A=b=c\n");
	assert_file("A=a\"b\"", "A=a\"b\"\n");
	assert_file("export=1\nexported=2", "export=1\nexported=2\n");
	assert_file("A=1\n\nno",
	        "f:3: this is not KEY=VALUE (a key has letters, digits and underscores)");
	assert_file(
	        "1A=1", "f:1: this is not KEY=VALUE (a key has letters, digits and underscores)");
	assert_file("=1", "f:1: this is not KEY=VALUE (a key has letters, digits and underscores)");
	assert_file(
	        "A-B=1", "f:1: this is not KEY=VALUE (a key has letters, digits and underscores)");
	assert_file("A=1\nB=\"2\nC=3\n", "f:2: the quote is not closed");
	assert_file("B=\"\\", "f:1: the quote is not closed");
	assert_file("\"", "f:1: this is not KEY=VALUE (a key has letters, digits and underscores)");
	assert_file("A=\"2\n\"\nB='1' 2", "f:3: there is text after the closing quote");
}

static void test_zero_byte_in_a_file(void **state)
{
	struct environment e = {0};
	struct ho_error error;

	(void)state;
	assert_int_equal(environment_parse(&e, "f", "A=1\0B", 5, &error), -EINVAL);
	assert_string_equal(error.text, "\"f\" has a zero byte in it");
}

/* ---- substitutions ---- */

static void assert_filled(const struct substitution *s, const char *text, const char *expected)
{
	struct ho_error error = {0};
	char *filled = NULL;

	if (substitute(text, s, &filled, &error) == 0)
		assert_string_equal(filled, expected);
	else
		assert_string_equal(error.text, expected);
	free(filled);
}

static void test_substitutions(void **state)
{
	struct substitution s = {"web", "production", 7, &input, "/srv/42"};

	(void)state;
	assert_filled(&s, "", "");
	assert_filled(&s, "{service}-{generation}.{worker} {release} {environment}",
	        "web-7.2 /srv/42 production");
	assert_filled(&s, "fd@{fd:http} fd@{fd:http:2} {fd:admin-api}", "fd@3 fd@4 6");
	assert_filled(&s, "{\"a\":{\"b\":1}} {} { {word} {worker",
	        "{\"a\":{\"b\":1}} {} { {word} {worker");
	assert_filled(&s, "{{worker} {{worker}} {{.Name}} {{{worker}",
	        "{worker} {worker}} {{.Name}} {{worker}");
	assert_filled(&s, "{fd:none}",
	        "{fd:none}: service \"web\" passes no such listener to its workers");
	assert_filled(&s, "{fd:http:3}",
	        "{fd:http:3}: service \"web\" passes no such listener to its workers");
	assert_filled(&s, "{fd:http:0}",
	        "{fd:http:0}: after the second colon comes the number of an address, from 1");
	s.release = NULL;
	assert_filled(&s, "{release}", "{release} has no value: service \"web\" has no directory");
	s.input = NULL;
	assert_filled(&s, "/srv/{service}/{generation}", "/srv/web/7");
	assert_filled(
	        &s, "/srv/{worker}", "{worker} cannot be used in the directory of service \"web\"");
	assert_filled(&s, "/srv/{fd:http}",
	        "{fd:http} cannot be used in the directory of service \"web\"");
}

/* ---- sd_notify ---- */

static bool add_message(void *arg, const struct notify_message *m)
{
	static const char *const names[] = {"ready", "stopping", "status", "errno", "extend",
	        "watchdog", "trigger", "reloading", "ready-fd", "exec-ready", "mainpid", "fdname",
	        "fdstore", "fdremove", "hello", "drains", "keep", "fetch", "live"};

	text_add(arg, "%s", names[m->kind]);
	if (m->number)
		text_add(arg, ":%llu", (unsigned long long)m->number);
	if (m->text)
		text_add(arg, ":%s", m->text);
	text_add(arg, " ");
	return m->kind != NOTIFY_STOPPING;
}

static void assert_datagram(const char *bytes, size_t n, const char *expected)
{
	char buffer[NOTIFY_MAX_BYTES + 64];
	struct text t = TEXT_ON(buffer);

	notify_parse(bytes, n, add_message, &t);
	assert_string_equal(buffer, expected);
}

static void test_datagrams(void **state)
{
	char large[NOTIFY_MAX_BYTES + 1];

	(void)state;
#define DATAGRAM(text, expected) assert_datagram(text, sizeof text - 1, expected)
	DATAGRAM("", "");
	DATAGRAM("READY=1", "ready ");
	DATAGRAM("READY=1\n\0", "ready ");
	DATAGRAM("READY=1\0STATUS=x", "");
	DATAGRAM("READY=0\nREADY=11\n READY=1\nX=1\n\n=\nSTATUS", "");
	DATAGRAM("RELOADING=1\nMONOTONIC_USEC=5\nWATCHDOG=1\nWATCHDOG=trigger",
	        "reloading watchdog trigger ");
	DATAGRAM("ERRNO=2\nERRNO=-2\nERRNO=\nERRNO=99999999999\nMAINPID=77\n",
	        "errno:2 mainpid:77 ");
	DATAGRAM("EXTEND_TIMEOUT_USEC=5000000\nBARRIER=1", "extend:5000000 ");
	DATAGRAM("FDSTORE=1\nFDNAME=a b\nFDSTOREREMOVE=1\nFDSTORE=2",
	        "fdstore fdname:a b fdremove ");
	DATAGRAM("HANDOFF_KEEP=1.4096\nHANDOFF_FETCH=1\nHANDOFF_FETCH=0\nHANDOFF_LIVE=both-1-2",
	        "keep:1.4096 fetch live:both-1-2 ");
	DATAGRAM("HANDOFF_HELLO=1\nHANDOFF_DRAINS=1\nHANDOFF_HELLO=2", "hello drains ");
	DATAGRAM("EXTEND_TIMEOUT_USEC=18446744073709551616", "");
	DATAGRAM("STATUS=\nSTATUS=a=b\tc\x1b[1m", "status: status:a=b c [1m ");
	DATAGRAM("STATUS=\xe2\x82\xac \xc0\x80 \xed\xa0\x80 \xf5 \xe2\x82",
	        "status:\xe2\x82\xac ?? ??? ? ?? ");
	DATAGRAM("STATUS=\xc2\x9b", "status:?? ");
	DATAGRAM("READY=1\nSTOPPING=1\nREADY=1", "ready stopping ");
	memset(large, 'x', sizeof large);
	memcpy(large, "READY=1\n", 8);
	assert_datagram(large, NOTIFY_MAX_BYTES, "ready ");
	assert_datagram(large, NOTIFY_MAX_BYTES + 1, "");
}

/* ---- output ---- */

static bool add_line(void *data, bool is_stderr, const char *line, size_t length)
{
	assert_false(is_stderr);
	if (length > 100)
		text_add(data, "<%zu>", length);
	else
		text_add_bytes(data, line, length);
	text_add(data, "|");
	return !(length == 4 && memcmp(line, "stop", 4) == 0);
}

static void test_lines(void **state)
{
	static char big[3 * OUTPUT_MAX_LINE];
	char buffer[256];
	struct text t = TEXT_ON(buffer);
	struct lines *l = calloc(1, sizeof *l);

	(void)state;
	assert_non_null(l);
	l->line = add_line;
	l->data = &t;
	assert_true(lines_feed(l, "a", 1));
	assert_true(lines_feed(l, "b\n\ncd", 5));
	assert_true(lines_flush(l));
	assert_true(lines_flush(l));
	assert_string_equal(buffer, "ab||cd|");
	t = TEXT_ON(buffer);
	memset(big, 'x', sizeof big);
	big[OUTPUT_MAX_LINE] = '\n'; /* a line of just the largest size */
	big[sizeof big - 1] = '\n';
	assert_true(lines_feed(l, big, sizeof big));
	assert_string_equal(buffer, "<8192>|<8192>|<8190>|");
	t = TEXT_ON(buffer);
	assert_false(lines_feed(l, "stop\nmore\n", 10));
	assert_string_equal(buffer, "stop|");
	t = TEXT_ON(buffer);
	assert_true(lines_feed(l, "begun", 5)); /* fills the room later, and more */
	assert_true(lines_feed(l, big, OUTPUT_MAX_LINE + 1));
	assert_string_equal(buffer, "<8192>|xxxxx|");
	lines_done(l);
	free(l);
}

static void test_tails(void **state)
{
	static char big[TAIL_MAX_BYTES * 2];
	struct tail *t = calloc(1, sizeof *t);

	(void)state;
	assert_non_null(t);
	assert_string_equal(tail_last(t, 5, 100), "");
	for (int i = 0; i < 20 + TAIL_MAX_LINES; i++) {
		char line[16];

		tail_add(t, line, (size_t)snprintf(line, sizeof line, "%d", i));
	}
	assert_int_equal(strncmp(t->text, "20\n21\n", 6), 0);
	assert_int_equal(t->lines, TAIL_MAX_LINES);
	assert_string_equal(tail_last(t, 3, 100), "273\n274\n275\n");
	assert_string_equal(tail_last(t, 3, 8), "274\n275\n");
	assert_string_equal(tail_last(t, 1000, sizeof big), t->text);
	assert_string_equal(tail_last(t, 3, 2), "5\n");
	tail_add(t, big, TAIL_MAX_BYTES / 2);
	memset(big, 'x', sizeof big);
	tail_add(t, big, TAIL_MAX_BYTES / 2 - 10);
	assert_int_equal(t->lines, 4); /* from "274" on */
	assert_non_null(strstr(t->text, "\n275\n????"));
	assert_int_equal(strlen(t->text), t->length);
	tail_add(t, big, sizeof big);
	assert_int_equal(t->lines, 1);
	assert_int_equal(t->length, TAIL_MAX_BYTES);
	assert_int_equal(strlen(tail_last(t, 16, 2048)), 2048);
	tail_done(t);
	free(t);
}

/* ---- trees ---- */

static void test_tree_marks(void **state)
{
	/* pid, parent, session; 100 is the worker's main process */
	struct tree_entry e[] = {
	        {.pid = 1, .parent = 0, .session = 1},
	        {.pid = 50, .parent = 1, .session = 50},
	        {.pid = 90, .parent = 120, .session = 90}, /* below one that left the session */
	        {.pid = 100, .parent = 50, .session = 100},
	        {.pid = 110, .parent = 100, .session = 100},
	        {.pid = 111, .parent = 1, .session = 100}, /* an orphan */
	        {.pid = 120, .parent = 110, .session = 120},
	        {.pid = 130, .parent = 50, .session = 130},
	};
	static const bool expected[] = {false, false, true, true, true, true, true, false};

	(void)state;
	tree_mark(e, ARRAY_SIZE(e), 100, false);
	for (size_t i = 0; i < ARRAY_SIZE(e); i++)
		assert_int_equal(e[i].member, expected[i]);
	for (size_t i = 0; i < ARRAY_SIZE(e); i++)
		e[i].member = false;
	tree_mark(e, ARRAY_SIZE(e), 100, true); /* its pid has gone to somebody else */
	for (size_t i = 0; i < ARRAY_SIZE(e); i++)
		assert_false(e[i].member);
	e[3] = (struct tree_entry){.pid = 99, .parent = 1, .session = 99};
	tree_mark(e, ARRAY_SIZE(e), 100, true);
	assert_true(e[4].member && e[5].member && e[6].member && e[2].member);
	assert_false(e[3].member);
	tree_mark(NULL, 0, 100, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_every_small_map),
	        cmocka_unit_test(test_map_refuses),
	        cmocka_unit_test(test_dialects),
	        cmocka_unit_test(test_einhorn_acknowledgement),
	        cmocka_unit_test(test_listen_pid_of_the_parent),
	        cmocka_unit_test(test_no_sockets_no_dialect),
	        cmocka_unit_test(test_handoff_names),
	        cmocka_unit_test(test_nothing_for_handoffd_is_inherited),
	        cmocka_unit_test(test_too_many_variables),
	        cmocka_unit_test(test_environment_files),
	        cmocka_unit_test(test_zero_byte_in_a_file),
	        cmocka_unit_test(test_substitutions),
	        cmocka_unit_test(test_datagrams),
	        cmocka_unit_test(test_lines),
	        cmocka_unit_test(test_tails),
	        cmocka_unit_test(test_tree_marks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
