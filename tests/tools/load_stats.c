/* SPDX-License-Identifier: MIT */
#include "load_stats.h"

#define KIND_NAME(name, text) [KIND_##name] = text,
#define FAILURE_NAME(name, text) [FAILURE_##name] = text,
const char *const kind_names[N_KINDS] = {KINDS(KIND_NAME)};
const char *const failure_names[N_FAILURES] = {FAILURES(FAILURE_NAME)};

/* Values below HISTOGRAM_SUB have a bucket each, above every power of two has HISTOGRAM_SUB. */
static size_t bucket_of(uint64_t value)
{
	unsigned shift;

	if (value < HISTOGRAM_SUB)
		return value;
	shift = 63 - (unsigned)__builtin_clzll(value) - 5;
	return (shift + 1) * HISTOGRAM_SUB + ((value >> shift) & (HISTOGRAM_SUB - 1));
}

static uint64_t bucket_end(size_t bucket)
{
	uint64_t shift = bucket / HISTOGRAM_SUB;

	if (!shift)
		return bucket;
	return ((HISTOGRAM_SUB + bucket % HISTOGRAM_SUB + 1) << (shift - 1)) - 1;
}

void histogram_add(struct histogram *h, uint64_t value)
{
	h->buckets[bucket_of(value)]++;
	h->count++;
	if (value > h->max)
		h->max = value;
}

uint64_t histogram_at(const struct histogram *h, double part)
{
	uint64_t wanted = (uint64_t)((double)h->count * part), seen = 0;

	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen > wanted)
			return bucket_end(i) < h->max ? bucket_end(i) : h->max;
	}
	return h->max;
}

/* NULL when the table is full; *ret_new when it was not in it. */
static struct worker_seen *find_worker(struct stats *s, const struct answer *a, bool *ret_new)
{
	struct worker_seen *w;

	*ret_new = false;
	/* The newest answer most: look there first. */
	for (size_t i = s->n_workers; i-- > 0;)
		if (s->workers[i].pid == a->pid && s->workers[i].generation == a->generation)
			return &s->workers[i];
	if (s->n_workers == MAX_WORKERS) {
		s->workers_dropped++;
		return NULL;
	}
	w = &s->workers[s->n_workers++];
	*w = (struct worker_seen){.pid = a->pid, .generation = a->generation, .first = a->now};
	*ret_new = true;
	return w;
}

static void note_new_worker(struct stats *s, const struct answer *a)
{
	for (size_t i = s->n_marks; i-- > 0 && !s->marks[i].first_new;)
		s->marks[i] = (struct mark){.at = s->marks[i].at,
		        .first_new = a->now,
		        .pid = a->pid,
		        .generation = a->generation};
}

static void note_gap(struct stats *s, usec_t now, usec_t stall)
{
	usec_t gap = usec_sub(now, s->last_answer);

	if (gap > s->longest_gap) {
		s->longest_gap = gap;
		s->longest_gap_at = s->last_answer;
	}
	if (gap >= stall && s->n_stalls < MAX_STALLS)
		s->stalls[s->n_stalls++] = (struct stall){.at = s->last_answer, .gap = gap};
	else if (gap >= stall)
		s->stalls_dropped++;
	s->last_answer = now;
}

static void note_slow(struct stats *s, const struct answer *a)
{
	if (s->n_slow == MAX_SLOW_ANSWERS) {
		s->slow_dropped++;
		return;
	}
	s->slow[s->n_slow++] = (struct slow_answer){.kind = a->kind,
	        .connected = a->connected,
	        .answered = a->now,
	        .pid = a->pid,
	        .generation = a->generation};
}

bool stats_answer(struct stats *s, const struct answer *a, usec_t stall)
{
	struct worker_seen *w;
	bool is_new = false;

	s->answers[a->kind]++;
	histogram_add(&s->latency[a->kind], a->latency);
	if (a->kind == KIND_SHORT || a->kind == KIND_KEEPALIVE)
		note_gap(s, a->now, stall);
	if (!a->known)
		return false;
	if (a->kind == KIND_SLOW || a->kind == KIND_PARTIAL || a->kind == KIND_HOLD)
		note_slow(s, a);
	w = find_worker(s, a, &is_new);
	if (w) {
		w->answers[a->kind]++;
		w->last = a->now;
	}
	if (is_new)
		note_new_worker(s, a);
	return is_new;
}

void stats_failure(struct stats *s, const struct example *e)
{
	s->failures[e->kind][e->class]++;
	if (s->n_examples < MAX_EXAMPLES)
		s->examples[s->n_examples++] = *e;
}

void stats_mark(struct stats *s, usec_t now)
{
	if (s->n_marks < MAX_MARKS)
		s->marks[s->n_marks++] = (struct mark){.at = now};
}

void stats_end(struct stats *s, usec_t stall)
{
	if ((s->started[KIND_SHORT] || s->started[KIND_KEEPALIVE]) && s->last_answer < s->ended_at)
		note_gap(s, s->ended_at, stall);
}

uint64_t stats_failed(const struct stats *s)
{
	uint64_t n = 0;

	for (size_t kind = 0; kind < N_KINDS; kind++)
		for (size_t class = 0; class < N_FAILURES; class ++)
			n += s->failures[kind][class];
	return n;
}
