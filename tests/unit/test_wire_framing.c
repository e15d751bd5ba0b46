/* SPDX-License-Identifier: MIT */
/* Framing over a socket pair: what a peer may send, in whatever pieces, and what is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "wire/wire.h"

struct pair {
	int ours, peers;
	struct wire_reader reader;
};

static void pair_new(struct pair *p, size_t max)
{
	int fds[2];

	assert_int_equal(
	        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	p->ours = fds[0];
	p->peers = fds[1];
	wire_reader_init(&p->reader, max);
}

static void pair_done(struct pair *p)
{
	close(p->ours);
	close(p->peers);
	wire_reader_done(&p->reader);
}

static void say(struct pair *p, const char *bytes, size_t n)
{
	assert_int_equal(send(p->peers, bytes, n, MSG_NOSIGNAL), n);
}

/* One answer of the reader to a whole text. */
static int read_one(const char *bytes, size_t n, json_t **ret, struct ho_error *e)
{
	struct pair p;
	int r;

	pair_new(&p, WIRE_MAX_CALL);
	say(&p, bytes, n);
	do
		r = wire_reader_fill(&p.reader, p.ours);
	while (r > 0);
	assert_int_equal(r, -EAGAIN);
	r = wire_reader_next(&p.reader, ret, e);
	pair_done(&p);
	return r;
}

static void test_every_split(void **state)
{
	static const char two[] =
	        "{\"method\":\"a.b\",\"parameters\":{\"s\":\"\\u00e4\"}}\0{\"n\":1}";

	(void)state;
	for (size_t cut = 1; cut < sizeof two; cut++) {
		struct pair p;
		json_t *j = NULL;
		int n = 0, r;

		pair_new(&p, WIRE_MAX_CALL);
		for (int half = 0; half < 2; half++) {
			say(&p, two + (half ? cut : 0), half ? sizeof two - cut : cut);
			assert_true(wire_reader_fill(&p.reader, p.ours) > 0);
			while ((r = wire_reader_next(&p.reader, &j, NULL)) == 1) {
				if (n++ == 0)
					assert_string_equal(
					        json_string_value(json_object_get(j, "method")),
					        "a.b");
				else
					assert_int_equal(
					        json_integer_value(json_object_get(j, "n")), 1);
				json_decref(j);
			}
			assert_int_equal(r, 0);
		}
		assert_int_equal(n, 2);
		assert_int_equal(wire_reader_fill(&p.reader, p.ours), -EAGAIN);
		close(p.peers);
		p.peers = -1;
		assert_int_equal(wire_reader_fill(&p.reader, p.ours), 0);
		pair_done(&p);
	}
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *words;
	} cases[] = {
	        {"", "not JSON"},
	        {"{", "not JSON"},
	        {"[]", "not a JSON object"},
	        {"\"x\"", "not JSON"},
	        {"{\"a\":1,\"a\":2}", "duplicate"},
	        {"{\"a\":\"\xff\"}", "not JSON"},
	        {"{\"a\":\"\\u0000\"}", "not JSON"},
	        {"{\"a\":1e999}", "not JSON"},
	        {"{\"a\":99999999999999999999}", "not JSON"},
	        {"{} {}", "not JSON"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ho_error e = {0};
		json_t *j = NULL;

		assert_int_equal(
		        read_one(cases[i].text, strlen(cases[i].text) + 1, &j, &e), -EBADMSG);
		if (!strstr(e.text, cases[i].words))
			fail_msg("case %zu: \"%s\" lacks \"%s\"", i, e.text, cases[i].words);
	}
}

static void test_depth(void **state)
{
	char text[4 * WIRE_MAX_DEPTH + 64];
	struct ho_error e = {0};

	(void)state;
	for (int depth = WIRE_MAX_DEPTH; depth <= WIRE_MAX_DEPTH + 1; depth++) {
		struct text t = TEXT_ON(text);
		json_t *j = NULL;
		int r;

		/* Brackets in a string are no depth. */
		text_add(&t, "{\"a\":\"\\\"[[[[\",\"b\":");
		for (int i = 1; i < depth; i++)
			text_add(&t, "[");
		for (int i = 1; i < depth; i++)
			text_add(&t, "]");
		text_add(&t, "}");
		r = read_one(text, t.len + 1, &j, &e);
		assert_int_equal(r, depth <= WIRE_MAX_DEPTH ? 1 : -EBADMSG);
		json_decref(j);
	}
	assert_non_null(strstr(e.text, "deeper"));
}

static void test_bound(void **state)
{
	enum { MAX = 1000 };
	char text[MAX + 2];

	(void)state;
	for (int more = 0; more <= 1; more++) {
		struct pair p;
		struct ho_error e = {0};
		json_t *j = NULL;
		int r, fills = 0;

		memset(text, ' ', sizeof text);
		memcpy(text, "{}", 2);
		text[MAX + more] = '\0';
		pair_new(&p, MAX);
		say(&p, text, (size_t)(MAX + more));
		assert_int_equal(wire_reader_fill(&p.reader, p.ours), MAX + more);
		assert_int_equal(wire_reader_next(&p.reader, &j, &e), more ? -EMSGSIZE : 0);
		say(&p, "", 1);
		while (wire_reader_has_room(&p.reader) && fills++ < 100 &&
		        wire_reader_fill(&p.reader, p.ours) > 0)
			;
		r = wire_reader_next(&p.reader, &j, &e);
		assert_int_equal(r, more ? -EMSGSIZE : 1);
		json_decref(j);
		if (more)
			assert_int_equal(wire_reader_fill(&p.reader, p.ours), -EMSGSIZE);
		pair_done(&p);
	}
}

/* Many messages through a small reader, so that what is left moves within the buffer. */
static void test_stream(void **state)
{
	struct pair p;
	struct wire_writer w;
	int sent = 0, got = 0;

	(void)state;
	pair_new(&p, 5000);
	wire_writer_init(&w, 20000);
	while (got < 5000) {
		json_t *j = NULL;
		int r;

		while (sent < 5000) {
			char text[400];

			(void)snprintf(text, sizeof text, "{\"n\":%d,\"fill\":\"%0*d\"}", sent,
			        sent * 7 % 300 + 1, 0);
			if (wire_writer_add(&w, text, strlen(text) + 1))
				break;
			sent++;
		}
		assert_true(wire_writer_waiting(&w) <= 20000);
		assert_int_equal(wire_writer_send(&w, p.peers), 0);
		r = wire_reader_fill(&p.reader, p.ours);
		assert_true(r > 0);
		while ((r = wire_reader_next(&p.reader, &j, NULL)) == 1) {
			assert_int_equal(json_integer_value(json_object_get(j, "n")), got++);
			json_decref(j);
		}
		assert_int_equal(r, 0);
	}
	wire_writer_done(&w);
	pair_done(&p);
}

static void test_writer(void **state)
{
	struct pair p;
	struct wire_writer w;
	char bytes[1024] = {0};
	size_t waited;

	(void)state;
	pair_new(&p, 10);
	wire_writer_init(&w, 1 << 20);
	while (!wire_writer_add(&w, bytes, sizeof bytes))
		;
	assert_int_equal(wire_writer_add(&w, bytes, sizeof bytes), -ENOBUFS);
	waited = wire_writer_waiting(&w);
	assert_int_equal(waited, 1 << 20);
	assert_int_equal(wire_writer_send(&w, p.ours), 0);
	assert_true(wire_writer_waiting(&w) < waited);
	assert_true(wire_writer_waiting(&w) > 0);
	close(p.peers);
	p.peers = -1;
	assert_int_equal(wire_writer_send(&w, p.ours), -EPIPE);
	wire_writer_done(&w);
	pair_done(&p);
}

static void test_any_bytes(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		const char *text;
	} cases[] = {
	        {"plain", 5, "plain"},
	        {"\xc3\xa4", 2, "\xc3\xa4"},
	        {"a\xff\x62", 3, "a\xef\xbf\xbd\x62"},
	        {"a\0b", 3, "a\xef\xbf\xbd\x62"},
	        {"\xe2\x82", 2, "\xef\xbf\xbd\xef\xbf\xbd"},
	        {"\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
	        {"\xff\xf0\x9f\x98\x80", 5, "\xef\xbf\xbd\xf0\x9f\x98\x80"},
	        {"\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd"},
	        {"", 0, ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *j = wire_text(cases[i].bytes, cases[i].n);

		assert_non_null(j);
		assert_string_equal(json_string_value(j), cases[i].text);
		json_decref(j);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_every_split),
	        cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_depth),
	        cmocka_unit_test(test_bound),
	        cmocka_unit_test(test_stream),
	        cmocka_unit_test(test_writer),
	        cmocka_unit_test(test_any_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
