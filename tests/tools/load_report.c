/* SPDX-License-Identifier: MIT */
/* The summary of a load, as JSON (version 1; times in seconds since its start) and as text. */
#include "load_stats.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static double seconds(usec_t t)
{
	return (double)t / USEC_PER_SEC;
}

static double since_start(const struct stats *s, usec_t t)
{
	return seconds(usec_sub(t, s->started_at));
}

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static uint64_t failures_of_kind(const struct stats *s, size_t kind)
{
	uint64_t n = 0;

	for (size_t class = 0; class < N_FAILURES; class ++)
		n += s->failures[kind][class];
	return n;
}

static uint64_t failures_of_class(const struct stats *s, size_t class)
{
	uint64_t n = 0;

	for (size_t kind = 0; kind < N_KINDS; kind++)
		n += s->failures[kind][class];
	return n;
}

static uint64_t answered(const struct stats *s)
{
	uint64_t n = 0;

	for (size_t kind = 0; kind < N_KINDS; kind++)
		n += s->answers[kind];
	return n;
}

static json_t *failures_json(const struct stats *s)
{
	json_t *all = json_object();

	for (size_t class = 0; class < N_FAILURES; class ++)
		json_object_set_new(all, failure_names[class], number(failures_of_class(s, class)));
	return all;
}

static json_t *examples_json(const struct stats *s)
{
	json_t *all = json_array();

	for (size_t i = 0; i < s->n_examples; i++) {
		const struct example *e = &s->examples[i];
		const char *name = e->error ? strerrorname_np(e->error) : NULL;

		json_array_append_new(
		        all, json_pack("{s:f, s:s, s:s, s:s, s:s?, s:i, s:I, s:i, s:s}", "at",
		                     since_start(s, e->at), "class", failure_names[e->class],
		                     "kind", kind_names[e->kind], "target", e->target, "errno",
		                     name, "status", e->status, "request", (json_int_t)e->request,
		                     "port", (int)e->port, "detail", e->detail));
	}
	return all;
}

static json_t *kinds_json(const struct stats *s)
{
	json_t *all = json_object();

	for (size_t kind = 0; kind < N_KINDS; kind++) {
		const struct histogram *h = &s->latency[kind];
		json_t *failures = json_object();

		for (size_t class = 0; class < N_FAILURES; class ++)
			if (s->failures[kind][class])
				json_object_set_new(failures, failure_names[class],
				        number(s->failures[kind][class]));
		json_object_set_new(all, kind_names[kind],
		        json_pack("{s:I, s:I, s:I, s:o, s:{s:f, s:f, s:f, s:f}}", "started",
		                (json_int_t)s->started[kind], "ok", (json_int_t)s->answers[kind],
		                "failed", (json_int_t)failures_of_kind(s, kind), "failures",
		                failures, "latency", "p50", seconds(histogram_at(h, 0.5)), "p99",
		                seconds(histogram_at(h, 0.99)), "p999",
		                seconds(histogram_at(h, 0.999)), "max", seconds(h->max)));
	}
	return all;
}

static json_t *workers_json(const struct stats *s)
{
	json_t *all = json_array();

	for (size_t i = 0; i < s->n_workers; i++) {
		const struct worker_seen *w = &s->workers[i];
		json_t *one = json_pack("{s:I, s:I, s:f, s:f}", "pid", (json_int_t)w->pid,
		        "generation", (json_int_t)w->generation, "first", since_start(s, w->first),
		        "last", since_start(s, w->last));
		uint64_t total = 0;

		for (size_t kind = 0; kind < N_KINDS; kind++) {
			json_object_set_new(one, kind_names[kind], number(w->answers[kind]));
			total += w->answers[kind];
		}
		json_object_set_new(one, "ok", number(total));
		json_array_append_new(all, one);
	}
	return all;
}

/* Answers of each generation: {"1": {"ok": 5, "short": 5, …}}. */
static json_t *generations_json(const struct stats *s)
{
	json_t *all = json_object();

	for (size_t i = 0; i < s->n_workers; i++) {
		const struct worker_seen *w = &s->workers[i];
		char name[24];
		json_t *one;
		json_int_t total;

		(void)snprintf(name, sizeof name, "%" PRIu64, w->generation);
		one = json_object_get(all, name);
		if (!one) {
			one = json_object();
			json_object_set_new(all, name, one);
		}
		total = json_integer_value(json_object_get(one, "ok"));
		for (size_t kind = 0; kind < N_KINDS; kind++) {
			json_int_t before =
			        json_integer_value(json_object_get(one, kind_names[kind]));

			total += (json_int_t)w->answers[kind];
			json_object_set_new(one, kind_names[kind],
			        json_integer(before + (json_int_t)w->answers[kind]));
		}
		json_object_set_new(one, "ok", json_integer(total));
	}
	return all;
}

static json_t *marks_json(const struct stats *s)
{
	json_t *all = json_array();

	for (size_t i = 0; i < s->n_marks; i++) {
		const struct mark *m = &s->marks[i];
		json_t *one = json_pack("{s:f}", "at", since_start(s, m->at));

		if (m->first_new)
			(void)json_object_update_new(
			        one, json_pack("{s:f, s:I, s:I}", "first_new_after",
			                     seconds(usec_sub(m->first_new, m->at)), "pid",
			                     (json_int_t)m->pid, "generation",
			                     (json_int_t)m->generation));
		else
			json_object_set_new(one, "first_new_after", json_null());
		json_array_append_new(all, one);
	}
	return all;
}

static json_t *stalls_json(const struct stats *s)
{
	json_t *all = json_array();

	for (size_t i = 0; i < s->n_stalls; i++)
		json_array_append_new(
		        all, json_pack("{s:f, s:f}", "at", since_start(s, s->stalls[i].at), "gap",
		                     seconds(s->stalls[i].gap)));
	return all;
}

/* When each slow request's connection was there and when and by whom it was answered. */
static json_t *slow_json(const struct stats *s)
{
	json_t *all = json_array();

	for (size_t i = 0; i < s->n_slow; i++) {
		const struct slow_answer *a = &s->slow[i];

		json_array_append_new(
		        all, json_pack("{s:s, s:f, s:f, s:I, s:I}", "kind", kind_names[a->kind],
		                     "connected", since_start(s, a->connected), "answered",
		                     since_start(s, a->answered), "generation",
		                     (json_int_t)a->generation, "pid", (json_int_t)a->pid));
	}
	return all;
}

int stats_print_json(const struct stats *s)
{
	json_t *all = json_pack("{s:i, s:f, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
	        "version", 1, "duration", since_start(s, s->ended_at), "ok",
	        (json_int_t)answered(s), "failed", (json_int_t)stats_failed(s), "failures",
	        failures_json(s), "examples", examples_json(s), "kinds", kinds_json(s),
	        "generations", generations_json(s), "workers", workers_json(s), "marks",
	        marks_json(s), "stalls", stalls_json(s), "slow_answers", slow_json(s));
	json_t *rest = json_pack("{s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I}",
	        "longest_gap", seconds(s->longest_gap), "longest_gap_at",
	        since_start(s, s->longest_gap_at), "skipped", (json_int_t)s->skipped,
	        "outstanding_max", (json_int_t)s->outstanding_max, "idle_closed",
	        (json_int_t)s->idle_closed, "hold_closed", (json_int_t)s->hold_closed, "moved",
	        (json_int_t)s->moved, "queue_full", (json_int_t)s->queue_full, "schedule_lag",
	        seconds(s->schedule_lag), "workers_dropped", (json_int_t)s->workers_dropped,
	        "stalls_dropped", (json_int_t)s->stalls_dropped, "slow_dropped",
	        (json_int_t)s->slow_dropped);
	int result = 0;

	if (!all || !rest || json_object_update(all, rest) < 0)
		result = -ENOMEM;
	else if (json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) < 0 ||
	         putchar('\n') < 0 || fflush(stdout) != 0)
		result = -EIO;
	json_decref(all);
	json_decref(rest);
	return result;
}

void stats_print_text(const struct stats *s)
{
	(void)printf("%" PRIu64 " right answers, %" PRIu64
	             " failures in %.3f s; longest gap %.1f ms\n",
	        answered(s), stats_failed(s), since_start(s, s->ended_at),
	        seconds(s->longest_gap) * 1e3);
	for (size_t kind = 0; kind < N_KINDS; kind++) {
		const struct histogram *h = &s->latency[kind];

		if (s->started[kind])
			(void)printf("%-10s %8" PRIu64 " right %6" PRIu64
			             " failed   p50 %.2f  p99 %.2f  max %.2f ms\n",
			        kind_names[kind], s->answers[kind], failures_of_kind(s, kind),
			        seconds(histogram_at(h, 0.5)) * 1e3,
			        seconds(histogram_at(h, 0.99)) * 1e3, seconds(h->max) * 1e3);
	}
	for (size_t class = 0; class < N_FAILURES; class ++)
		if (failures_of_class(s, class))
			(void)printf("%-15s %6" PRIu64 "\n", failure_names[class],
			        failures_of_class(s, class));
	for (size_t i = 0; i < s->n_marks; i++)
		if (s->marks[i].first_new)
			(void)printf("mark at %.3f s: a new worker after %.1f ms\n",
			        since_start(s, s->marks[i].at),
			        seconds(usec_sub(s->marks[i].first_new, s->marks[i].at)) * 1e3);
	if (s->skipped)
		(void)printf(
		        "%" PRIu64 " connections not started: too many outstanding\n", s->skipped);
}
