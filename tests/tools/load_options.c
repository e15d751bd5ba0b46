/* SPDX-License-Identifier: MIT */
/* Command line of the load client: one table gives options, help and where each value goes. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define MAX_CONNECTIONS 100000
#define MAX_RATE 1e6
#define MAX_SPREAD 250

enum value {
	TARGET,
	RATE,
	TIME,
	NUMBER,
	TEXT,
	EXPECT_BODY,
	EXPECT_NONCE,
	ANY_BODY,
	FOREVER,
	FLAG,
	HELP
};

struct option_row {
	const char *name, *argument; /* argument NULL: takes none */
	enum value value;
	size_t offset; /* in struct load_options */
	uint64_t max;  /* of NUMBER */
	const char *help;
};

#define AT(field) offsetof(struct load_options, field)
static const struct option_row rows[] = {
        {"target", "ADDRESS", TARGET, 0, 0,
                "127.0.0.1:80, [::1]:80, unix:/path or unix:@name; repeatable"},
        {"rate", "N", RATE, AT(rate), 0, "short connections a second, whatever becomes of them"},
        {"duration", "TIME", TIME, AT(duration), 0, "how long (10s)"},
        {"until-signal", NULL, FOREVER, 0, 0, "until SIGINT or SIGTERM instead"},
        {"keepalive", "N", NUMBER, AT(keepalive), MAX_CONNECTIONS,
                "connections with one request after the other"},
        {"requests-per-connection", "N", NUMBER, AT(requests_per_connection), UINT32_MAX,
                "... after which each is made anew (100; 0: never)"},
        {"think", "TIME", TIME, AT(think), 0, "... and the pause between two (20ms)"},
        {"slow", "N", NUMBER, AT(slow), MAX_CONNECTIONS,
                "requests always in flight which ask for sleep="},
        {"slow-ms", "N", NUMBER, AT(slow_time), 3600000, "... and for how long (700)"},
        {"partial", "N", NUMBER, AT(partial), MAX_CONNECTIONS,
                "connections which send a request in two halves"},
        {"partial-gap", "TIME", TIME, AT(partial_gap), 0, "... and the time between them (300ms)"},
        {"hold", "N", NUMBER, AT(hold), MAX_CONNECTIONS,
                "connections kept idle, with one request at the end"},
        {"size", "N", NUMBER, AT(size), UINT32_MAX,
                "bytes of body to ask for, after the first line (100)"},
        {"path", "PATH", TEXT, AT(path), 0, "what to ask for (/)"},
        {"file", NULL, FLAG, AT(fixed), 0, "the answer is a file: it has the empty nonce (n=)"},
        {"redis", NULL, FLAG, AT(redis), 0,
                "GET the key \"path\" of redis, BLPOP before it to be slow"},
        {"expect-nonce", NULL, EXPECT_NONCE, 0, 0, "any body which contains the nonce is right"},
        {"expect-body", "TEXT", EXPECT_BODY, 0, 0, "only this body is right"},
        {"any-body", NULL, ANY_BODY, 0, 0, "every complete body is right"},
        {"timeout", "TIME", TIME, AT(timeout), 0, "of one request (30s)"},
        {"stall", "TIME", TIME, AT(stall), 0, "gaps between answers to list (50ms)"},
        {"max-outstanding", "N", NUMBER, AT(max_outstanding), MAX_CONNECTIONS,
                "short connections at a time (10000)"},
        {"spread", "N", NUMBER, AT(spread), MAX_SPREAD,
                "use the source addresses 127.0.0.1 to 127.0.0.N"},
        {"json", NULL, FLAG, AT(json), 0, "summary in JSON"},
        {"verbose", NULL, FLAG, AT(verbose), 0, "tell on stderr what happens (-v)"},
        {"help", NULL, HELP, 0, 0, "this text"},
};

static void usage(void)
{
	(void)puts("Usage: handoff-load --target ADDRESS [options]\n"
	           "Open-loop load which verifies every answer. SIGUSR1 sets a mark; the time "
	           "until a new\n"
	           "worker's first answer after it is reported. Exit code 0: no failure, 1: "
	           "failures, 2: usage.\n");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		(void)printf("  --%s%s%-*s %s\n", rows[i].name, rows[i].argument ? " " : "",
		        (int)(28 - strlen(rows[i].name) - (rows[i].argument != NULL)),
		        rows[i].argument ? rows[i].argument : "", rows[i].help);
}

/* "10s", "1.5s", "20ms", "2m"; without a unit it is seconds. */
static bool parse_time(const char *text, usec_t *ret)
{
	char *unit;
	double n = strtod(text, &unit);
	double factor = !*unit || !strcmp(unit, "s") ? 1e6
	                : !strcmp(unit, "ms")        ? 1e3
	                : !strcmp(unit, "m")         ? 6e7
	                                             : 0;

	if (unit == text || factor == 0 || !(n >= 0 && n * factor <= 1e13))
		return false;
	*ret = (usec_t)(n * factor);
	return true;
}

static bool parse_rate(const char *text, double *ret)
{
	char *end;

	*ret = strtod(text, &end);
	return end != text && !*end && *ret >= 0 && *ret <= MAX_RATE;
}

static int unix_target(struct target *t, const char *path)
{
	struct sockaddr_un *a = (struct sockaddr_un *)&t->address;
	size_t n = strlen(path);

	if (!n || n >= sizeof a->sun_path)
		return -EINVAL;
	a->sun_family = AF_UNIX;
	memcpy(a->sun_path, path, n);
	t->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	if (path[0] == '@')
		a->sun_path[0] = '\0';
	else
		t->length++;
	return 0;
}

static int tcp_target(struct target *t, const char *text)
{
	struct addrinfo hints = {
	        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	const char *colon = strrchr(text, ':');
	char host[128];
	size_t n;

	if (!colon || colon == text || (size_t)(colon - text) >= sizeof host)
		return -EINVAL;
	n = (size_t)(colon - text);
	memcpy(host, text, n);
	host[n] = '\0';
	if (host[0] == '[' && host[n - 1] == ']') {
		memmove(host, host + 1, n - 2);
		host[n - 2] = '\0';
	}
	if (!host[0] || getaddrinfo(host, colon + 1, &hints, &found))
		return -EINVAL;
	memcpy(&t->address, found->ai_addr, found->ai_addrlen);
	t->length = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static bool add_target(struct load_options *o, const char *text)
{
	struct target *t = &o->targets[o->n_targets];

	if (o->n_targets == MAX_TARGETS)
		return false;
	t->text = text;
	if (!strncmp(text, "unix:", 5) ? unix_target(t, text + 5) : tcp_target(t, text))
		return false;
	o->n_targets++;
	return true;
}

/* Puts one option into its place; false if its argument makes no sense. */
static bool take(struct load_options *o, const struct option_row *row, const char *argument)
{
	void *field = (char *)o + row->offset;

	switch (row->value) {
	case TARGET:
		return add_target(o, argument);
	case RATE:
		return parse_rate(argument, field);
	case TIME:
		return parse_time(argument, field);
	case NUMBER:
		return parse_number(argument, row->max, field);
	case TEXT:
		*(const char **)field = argument;
		return argument[0] == '/' && strlen(argument) < 256 && !strpbrk(argument, " \r\n");
	case EXPECT_BODY:
		o->rule = (struct check_rule){.mode = CHECK_TEXT, .text = argument};
		return true;
	case EXPECT_NONCE:
		o->rule = (struct check_rule){.mode = CHECK_NONCE};
		return true;
	case ANY_BODY:
		o->rule = (struct check_rule){.mode = CHECK_NONE};
		return true;
	case FOREVER:
		o->duration = USEC_INFINITY;
		return true;
	case FLAG:
		*(int *)field = 1;
		return true;
	case HELP:
		usage();
		return true;
	}
	return false;
}

static int judge(const struct load_options *o, struct ho_error *reterr_error)
{
	if (!o->n_targets)
		return ho_error_set(reterr_error, -EINVAL, "nothing to load: --target is missing");
	if (!(o->rate > 0) && !o->keepalive && !o->slow && !o->partial && !o->hold)
		return ho_error_set(reterr_error, -EINVAL,
		        "no load: give --rate, --keepalive, --slow, --partial or --hold");
	if (!o->timeout)
		return ho_error_set(reterr_error, -EINVAL, "--timeout has to be more than 0");
	return 0;
}

int load_options_parse(struct load_options *o, int argc, char **argv, struct ho_error *reterr_error)
{
	struct option table[ARRAY_SIZE(rows) + 1] = {0};

	*o = (struct load_options){.duration = 10 * USEC_PER_SEC,
	        .requests_per_connection = 100,
	        .think = 20 * USEC_PER_MSEC,
	        .slow_time = 700,
	        .partial_gap = 300 * USEC_PER_MSEC,
	        .timeout = 30 * USEC_PER_SEC,
	        .stall = 50 * USEC_PER_MSEC,
	        .size = 100,
	        .max_outstanding = 10000,
	        .path = "/"};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		table[i] = (struct option){.name = rows[i].name,
		        .has_arg = rows[i].argument ? required_argument : no_argument,
		        .val = 256 + (int)i};
	for (int c; (c = getopt_long(argc, argv, "v", table, NULL)) >= 0;) {
		const struct option_row *row;

		if (c == 'v') {
			o->verbose = 1;
			continue;
		}
		if (c == '?')
			return ho_error_set(reterr_error, -EINVAL, "wrong usage; see --help");
		row = &rows[c - 256];
		if (!take(o, row, optarg))
			return ho_error_set(reterr_error, -EINVAL, "--%s: cannot use \"%s\"",
			        row->name, optarg);
		if (row->value == HELP)
			return -ECANCELED;
	}
	o->slow_time *= USEC_PER_MSEC; /* given in milliseconds */
	if (optind < argc)
		return ho_error_set(reterr_error, -EINVAL, "unexpected \"%s\"", argv[optind]);
	return judge(o, reterr_error);
}
