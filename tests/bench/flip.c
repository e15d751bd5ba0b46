/* SPDX-License-Identifier: MIT */
/* bench-flip STEERING PORT COUNT: what it costs to turn all new connections to another generation.
 * Opens two generations of listeners on 127.0.0.1:PORT, turns COUNT times from one to the other and
 * prints the cost of each call in nanoseconds, one a line, after the steering that was in use. */
#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sockets/sockets.h"

static void fail(const struct ho_error *e)
{
	(void)fprintf(stderr, "bench-flip: %s\n", e->text);
	exit(1);
}

static uint64_t nanoseconds(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct config *configuration(const char *port_text)
{
	struct config *c = config_new();
	struct service_config *s = c ? config_alloc(c, sizeof *s) : NULL;
	struct listener_config *l = c ? config_alloc(c, sizeof *l) : NULL;
	struct ho_error e = {0};
	uint64_t port;

	if (!parse_number(port_text, UINT16_MAX, &port))
		(void)ho_error_set(&e, -1, "\"%s\" is no port", port_text);
	else if (!s || !l)
		(void)ho_error_set(&e, -1, "memory is short");
	if (e.code)
		fail(&e);
	service_config_defaults(s);
	s->name = "web";
	s->listeners = l;
	s->n_listeners = 1;
	*l = (struct listener_config){.name = "http", .backlog = 1024, .mode = 0666};
	l->address = (struct address){.kind = ADDRESS_TCP,
	        .ip = {127, 0, 0, 1},
	        .port = (uint16_t)port,
	        .text = "tcp:127.0.0.1"};
	c->services = s;
	c->n_services = 1;
	return c;
}

static void turn(struct sockets *s, struct listener_set *sets[2], uint64_t count)
{
	struct ho_error e = {0};

	for (uint64_t i = 0; i < count; i++) {
		struct share shares[2] = {{sets[i & 1], SHARE_ALL}, {sets[!(i & 1)], 0}};
		uint64_t before = nanoseconds();

		if (sockets_steer(s, shares, 2, false, &e) < 0)
			fail(&e);
		(void)printf("%llu\n", (unsigned long long)(nanoseconds() - before));
	}
}

int main(int argc, char **argv)
{
	struct sockets_options options = {0};
	struct listener_set *sets[2];
	struct ho_error e = {0};
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
	struct sockets *s;
	struct config *c;
	uint64_t count;

	if (!loop || argc != 4 || !parse_number(argv[3], 1000000, &count)) {
		(void)fprintf(stderr, "usage: bench-flip ebpf|cbpf PORT COUNT\n");
		return 2;
	}
	options.no_ebpf = strcmp(argv[1], "cbpf") == 0;
	if (sockets_new(loop, &options, &s, &e) < 0)
		fail(&e);
	c = configuration(argv[2]);
	for (uint32_t i = 0; i < 2; i++)
		if (listener_set_open(s, c, c->services, i + 1, &sets[i], &e) < 0)
			fail(&e);
	(void)printf("%s\n", steering_to_string(sockets_steering(s)));
	turn(s, sets, count);
	for (int i = 0; i < 2; i++)
		(void)listener_set_close(sets[i]);
	(void)sockets_free(s);
	(void)config_unref(c);
	ev_loop_destroy(loop);
	return 0;
}
