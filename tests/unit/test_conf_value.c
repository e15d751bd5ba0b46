/* SPDX-License-Identifier: MIT */
/* The parsers of single values, as tables: what is read, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "conf/load.h"

static void test_durations(void **state)
{
	static const struct {
		const char *text;
		usec_t usec;
		const char *formatted;
	} good[] = {
	        {"0", 0, "0"},
	        {"0s", 0, "0"},
	        {"1us", 1, "1us"},
	        {"250ms", 250000, "250ms"},
	        {"10s", 10000000, "10s"},
	        {"90s", 90000000, "1min 30s"},
	        {"1min 30s", 90000000, "1min 30s"},
	        {"1m30s", 90000000, "1min 30s"},
	        {"2h", 7200000000, "2h"},
	        {"36h", 129600000000, "1d 12h"},
	        {"9999d 23h 59min 59s 999ms 999us", 863999999999999,
	                "9999d 23h 59min 59s 999ms 999us"},
	        {"infinity", USEC_INFINITY, "infinity"},
	};
	static const char *const bad[] = {
	        "",
	        " ",
	        "1",
	        "60",
	        "s",
	        "-1s",
	        "+1s",
	        "1 s",
	        "1.5s",
	        "1S",
	        "1s ",
	        " 1s",
	        "1sec",
	        "1s1",
	        "10000d",
	        "9999d 24h",
	        "18446744073709551616s",
	        "99999999999999999999999999s",
	        "infinity ",
	        "Infinity",
	        "1s infinity",
	        "1e3s",
	        "0x1s",
	        "1\n",
	};
	char buffer[32];
	usec_t d;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		if (!parse_duration(good[i].text, &d) || d != good[i].usec)
			fail_msg("\"%s\" was not read rightly", good[i].text);
		assert_string_equal(format_duration(d, buffer, sizeof buffer), good[i].formatted);
		assert_true(parse_duration(buffer, &d) && d == good[i].usec);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse_duration(bad[i], &d))
			fail_msg("\"%s\" was read", bad[i]);
}

static void test_sizes(void **state)
{
	static const char *const bad[] = {
	        "",
	        "K",
	        "1KB",
	        "1 K",
	        "-1",
	        "1P",
	        "18446744073709551615",
	        "16777216T",
	        "1.5G",
	        "K1",
	};
	uint64_t n;

	(void)state;
	assert_true(parse_size("0", &n) && n == 0);
	assert_true(parse_size("4096", &n) && n == 4096);
	assert_true(parse_size("64K", &n) && n == 65536);
	assert_true(parse_size("1G", &n) && n == 1u << 30);
	assert_true(parse_size("3m", &n) && n == 3u << 20);
	assert_true(parse_size("2T", &n) && n == 2ull << 40);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse_size(bad[i], &n))
			fail_msg("\"%s\" was read", bad[i]);
}

static void test_shares(void **state)
{
	static const char *const bad[] = {
	        "",
	        "5",
	        "%",
	        "101%",
	        "100.01%",
	        "0.001%",
	        ".5%",
	        "5.%",
	        "5 %",
	        "-5%",
	        "5%%",
	        "5.0a%",
	};
	unsigned n;

	(void)state;
	assert_true(parse_share("0%", &n) && n == 0);
	assert_true(parse_share("5%", &n) && n == 500);
	assert_true(parse_share("0.25%", &n) && n == 25);
	assert_true(parse_share("0.5%", &n) && n == 50);
	assert_true(parse_share("0.05%", &n) && n == 5);
	assert_true(parse_share("100%", &n) && n == SHARE_ALL);
	assert_true(parse_share("100.00%", &n) && n == SHARE_ALL);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse_share(bad[i], &n))
			fail_msg("\"%s\" was read", bad[i]);
}

static void test_signals(void **state)
{
	static const char *const bad[] = {
	        "", "SIG", "term", "0", "-1", "65", "TERM ", "SIGSIGTERM"};
	int sig;

	(void)state;
	assert_true(parse_signal("TERM", &sig) && sig == SIGTERM);
	assert_true(parse_signal("SIGTERM", &sig) && sig == SIGTERM);
	assert_true(parse_signal("15", &sig) && sig == SIGTERM);
	assert_true(parse_signal("USR2", &sig) && sig == SIGUSR2);
	assert_true(parse_signal("WINCH", &sig) && sig == SIGWINCH);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse_signal(bad[i], &sig))
			fail_msg("\"%s\" was read", bad[i]);
}

static void test_addresses(void **state)
{
	static const struct {
		const char *text, *canonical;
		enum address_kind kind;
		bool ipv6, dual;
		uint16_t port;
	} good[] = {
	        {"8080", "tcp:*:8080", ADDRESS_TCP, true, true, 8080},
	        {"*:8080", "tcp:*:8080", ADDRESS_TCP, true, true, 8080},
	        {"tcp:8080", "tcp:*:8080", ADDRESS_TCP, true, true, 8080},
	        {"udp:53", "udp:*:53", ADDRESS_UDP, true, true, 53},
	        {"[::]:8080", "tcp:[::]:8080", ADDRESS_TCP, true, true, 8080},
	        {"[0:0::0]:8080", "tcp:[::]:8080", ADDRESS_TCP, true, true, 8080},
	        {"[::1]:8080", "tcp:[::1]:8080", ADDRESS_TCP, true, false, 8080},
	        {"[fe80::1%1]:80", "tcp:[fe80::1%1]:80", ADDRESS_TCP, true, false, 80},
	        {"[fe80::1%lo]:80", "tcp:[fe80::1%1]:80", ADDRESS_TCP, true, false, 80},
	        {"0.0.0.0:1", "tcp:0.0.0.0:1", ADDRESS_TCP, false, false, 1},
	        {"tcp:127.0.0.1:65535", "tcp:127.0.0.1:65535", ADDRESS_TCP, false, false, 65535},
	        {"udp:127.0.0.1:53", "udp:127.0.0.1:53", ADDRESS_UDP, false, false, 53},
	        {"/run/x.sock", "unix:/run/x.sock", ADDRESS_UNIX, false, false, 0},
	        {"unix:/run/x", "unix:/run/x", ADDRESS_UNIX, false, false, 0},
	        {"unix:@name", "unix:@name", ADDRESS_ABSTRACT, false, false, 0},
	        {"systemd:http", "systemd:http", ADDRESS_SYSTEMD, false, false, 0},
	};
	struct config *c = config_new();
	struct address a;
	char why[200];

	(void)state;
	assert_non_null(c);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		if (!parse_address(c, good[i].text, false, &a, why, sizeof why))
			fail_msg("\"%s\": %s", good[i].text, why);
		assert_string_equal(a.text, good[i].canonical);
		assert_int_equal(a.kind, good[i].kind);
		assert_int_equal(a.ipv6, good[i].ipv6);
		assert_int_equal(a.dual, good[i].dual);
		assert_int_equal(a.port, good[i].port);
		assert_true(parse_address(c, a.text, false, &a, why, sizeof why));
		assert_string_equal(a.text, good[i].canonical);
	}
	assert_true(parse_address(c, "53", true, &a, why, sizeof why));
	assert_string_equal(a.text, "udp:*:53");
	assert_true(parse_address(c, "127.0.0.1:53", false, &a, why, sizeof why));
	assert_memory_equal(a.ip, "\x7f\0\0\1", 4);
	assert_true(parse_address(c, "unix:@name", false, &a, why, sizeof why));
	assert_string_equal(a.path, "name");
	/* The shortest buffer for the reason is not overrun. */
	assert_false(parse_address(c, "example.org:53", false, &a, why, 8));
	assert_int_equal(strlen(why), 7);
	config_unref(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_durations),
	        cmocka_unit_test(test_sizes),
	        cmocka_unit_test(test_shares),
	        cmocka_unit_test(test_signals),
	        cmocka_unit_test(test_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
