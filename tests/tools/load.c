/* SPDX-License-Identifier: MIT */
/* handoff-load: the client which says whether a hand-off was noticed. It offers its load on
 * schedule, whether answers come or not (a client that waits stops offering load while the server
 * stalls), and verifies every byte of every answer. */
#include "load.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#define TICK 0.001
#define STARTS_A_TICK 1000
#define END_GRACE (30 * USEC_PER_SEC)

usec_t load_now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (usec_t)t.tv_sec * USEC_PER_SEC + (usec_t)t.tv_nsec / 1000;
}

void load_say(const struct load *l, const char *format, ...)
{
	va_list ap;

	if (!l->options.verbose)
		return;
	(void)fprintf(stderr, "%9.3f ", (double)usec_sub(load_now(), l->started) / USEC_PER_SEC);
	va_start(ap, format);
	(void)vfprintf(stderr, format, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
}

void load_check_finished(struct load *l)
{
	if (l->stopping && !l->conns)
		ev_break(l->loop, EVBREAK_ALL);
}

/* Starts the short connections which are due. Late ones keep the time at which they were due, so
 * that a stall of this client shows in the latencies and in schedule_lag, and hides nothing. */
static void start_due(struct load *l, usec_t elapsed)
{
	double rate = l->options.rate;
	uint64_t due = (uint64_t)((double)elapsed / USEC_PER_SEC * rate);
	usec_t now = load_now();

	for (int i = 0; i < STARTS_A_TICK && l->scheduled < due; i++, l->scheduled++) {
		usec_t at = l->started +
		            (usec_t)((double)(l->scheduled + 1) / rate * (double)USEC_PER_SEC);

		if (usec_sub(now, at) > l->stats.schedule_lag)
			l->stats.schedule_lag = usec_sub(now, at);
		if (l->outstanding < l->options.max_outstanding)
			conn_start(l, KIND_SHORT, at);
		else if (!l->stats.skipped++)
			load_say(l, "the cap on outstanding connections is reached");
	}
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int events)
{
	struct load *l = w->data;
	usec_t elapsed = usec_sub(load_now(), l->started);

	(void)loop, (void)events;
	start_due(l, elapsed < l->options.duration ? elapsed : l->options.duration);
}

static void on_grace_end(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop, (void)events;
	conns_give_up(w->data);
}

static void load_stop(struct load *l)
{
	if (l->stopping) {
		conns_give_up(l);
		return;
	}
	l->stopping = true;
	l->stats.ended_at = load_now();
	load_say(l, "stopping");
	ev_timer_stop(l->loop, &l->tick);
	ev_timer_stop(l->loop, &l->end);
	ev_timer_set(&l->grace, (double)END_GRACE / USEC_PER_SEC, 0);
	ev_timer_start(l->loop, &l->grace);
	conns_stop(l);
	load_check_finished(l);
}

static void on_end(struct ev_loop *loop, ev_timer *w, int events)
{
	struct load *l = w->data;

	(void)loop, (void)events;
	/* Rate and duration alone say how many there are, not how late the last tick was. */
	start_due(l, l->options.duration);
	load_stop(l);
}

/* A second signal does not wait for the requests which run. */
static void on_stop_signal(struct ev_loop *loop, ev_signal *w, int events)
{
	(void)loop, (void)events;
	load_stop(w->data);
}

static void on_mark(struct ev_loop *loop, ev_signal *w, int events)
{
	struct load *l = w->data;

	(void)loop, (void)events;
	stats_mark(&l->stats, load_now());
	load_say(l, "mark");
}

static void load_start(struct load *l)
{
	const struct load_options *o = &l->options;

	ev_timer_init(&l->tick, on_tick, TICK, TICK);
	ev_timer_init(&l->end, on_end, (double)o->duration / USEC_PER_SEC, 0);
	ev_timer_init(&l->grace, on_grace_end, 0, 0);
	ev_signal_init(&l->term, on_stop_signal, SIGTERM);
	ev_signal_init(&l->interrupt, on_stop_signal, SIGINT);
	ev_signal_init(&l->mark, on_mark, SIGUSR1);
	l->tick.data = l->end.data = l->grace.data = l;
	l->term.data = l->interrupt.data = l->mark.data = l;
	ev_signal_start(l->loop, &l->term);
	ev_signal_start(l->loop, &l->interrupt);
	ev_signal_start(l->loop, &l->mark);
	l->started = l->stats.started_at = l->stats.last_answer = load_now();
	if (o->duration != USEC_INFINITY)
		ev_timer_start(l->loop, &l->end);
	if (o->rate > 0)
		ev_timer_start(l->loop, &l->tick);
	for (uint64_t i = 0; i < o->keepalive; i++)
		conn_start(l, KIND_KEEPALIVE, l->started);
	for (uint64_t i = 0; i < o->slow; i++)
		conn_start(l, KIND_SLOW, l->started);
	for (uint64_t i = 0; i < o->partial; i++)
		conn_start(l, KIND_PARTIAL, l->started);
	for (uint64_t i = 0; i < o->hold; i++)
		conn_start(l, KIND_HOLD, l->started);
	load_say(l, "started");
}

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int main(int argc, char **argv)
{
	struct ho_error error = {0};
	struct load *l = calloc(1, sizeof *l);
	int result;

	HO_ASSERT(l);
	result = load_options_parse(&l->options, argc, argv, &error);
	if (result) {
		if (result != -ECANCELED)
			(void)fprintf(stderr, "handoff-load: %s\n", error.text);
		free(l);
		return result == -ECANCELED ? 0 : 2;
	}
	(void)setvbuf(stderr, NULL, _IOLBF, 0);
	raise_file_limit();
	if (getrandom(&l->run, sizeof l->run, 0) != sizeof l->run)
		l->run = (uint32_t)load_now();
	l->loop = ev_loop_new(EVFLAG_AUTO);
	HO_ASSERT(l->loop);
	load_start(l);
	(void)ev_run(l->loop, 0);
	ev_loop_destroy(l->loop);
	stats_end(&l->stats, l->options.stall);
	if (l->options.json)
		result = stats_print_json(&l->stats);
	else
		stats_print_text(&l->stats);
	if (result)
		(void)fprintf(
		        stderr, "handoff-load: cannot print the summary: %s\n", strerror(-result));
	else
		result = stats_failed(&l->stats) ? 1 : 0;
	free(l);
	return result < 0 ? 1 : result;
}
