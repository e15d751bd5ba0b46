/* SPDX-License-Identifier: MIT */
/* Linear probing; removal shifts back, so that there are no tombstones to clean up. */
#include "sockets/cookie_set.h"

#include <stdlib.h>
#include <string.h>

#define SMALLEST 64
#define KEEP_MISSED 2

static size_t home(const struct cookie_set *s, uint64_t cookie)
{
	return (size_t)((cookie * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (s->size - 1);
}

static size_t slot_of(const struct cookie_set *s, uint64_t cookie)
{
	size_t i = home(s, cookie);

	while (s->slots[i].cookie && s->slots[i].cookie != cookie)
		i = (i + 1) & (s->size - 1);
	return i;
}

void cookie_set_done(struct cookie_set *s)
{
	free(s->slots);
	*s = (struct cookie_set){0};
}

void cookie_set_clear(struct cookie_set *s)
{
	struct cookie_entry *slots = s->slots;
	size_t size = s->size;

	if (size)
		memset(slots, 0, size * sizeof *slots);
	*s = (struct cookie_set){.slots = slots, .size = size};
}

void cookie_set_begin(struct cookie_set *s)
{
	s->round++;
}

/* Keeps the table at most two thirds full. */
static bool make_room(struct cookie_set *s)
{
	struct cookie_set bigger = *s;
	size_t i;

	if (s->size && s->count + 1 <= s->size / 3 * 2)
		return true;
	bigger.size = s->size ? s->size * 2 : SMALLEST;
	bigger.slots = calloc(bigger.size, sizeof *bigger.slots);
	if (!bigger.slots)
		return false;
	for (i = 0; i < s->size; i++) {
		if (s->slots[i].cookie)
			bigger.slots[slot_of(&bigger, s->slots[i].cookie)] = s->slots[i];
	}
	free(s->slots);
	*s = bigger;
	return true;
}

struct cookie_entry *cookie_set_add(struct cookie_set *s, uint64_t cookie, usec_t now)
{
	struct cookie_entry *e;

	if (!cookie)
		return NULL;
	e = (struct cookie_entry *)cookie_set_find(s, cookie);
	if (!e) {
		if (!make_room(s))
			return NULL;
		e = &s->slots[slot_of(s, cookie)];
		*e = (struct cookie_entry){.cookie = cookie, .seen = now};
		if (!s->count++ || now < s->oldest) {
			s->oldest = now;
			s->n_oldest = 0;
		}
		s->n_oldest += now == s->oldest;
	}
	e->round = s->round;
	e->missed = 0;
	return e;
}

const struct cookie_entry *cookie_set_find(const struct cookie_set *s, uint64_t cookie)
{
	size_t i;

	if (!s->size || !cookie)
		return NULL;
	i = slot_of(s, cookie);
	return s->slots[i].cookie ? &s->slots[i] : NULL;
}

void cookie_set_flags(struct cookie_set *s, struct cookie_entry *e, bool idle, bool queued)
{
	s->n_idle += (size_t)idle - (size_t)e->idle;
	s->n_queued += (size_t)queued - (size_t)e->queued;
	e->idle = idle;
	e->queued = queued;
}

static void find_oldest(struct cookie_set *s)
{
	size_t i;

	s->oldest = USEC_INFINITY;
	s->n_oldest = 0;
	for (i = 0; i < s->size; i++) {
		if (!s->slots[i].cookie || s->slots[i].seen > s->oldest)
			continue;
		if (s->slots[i].seen < s->oldest)
			s->n_oldest = 0;
		s->oldest = s->slots[i].seen;
		s->n_oldest++;
	}
}

static void remove_slot(struct cookie_set *s, size_t hole)
{
	const size_t mask = s->size - 1;
	const usec_t seen = s->slots[hole].seen;
	size_t i;

	cookie_set_flags(s, &s->slots[hole], false, false);
	for (i = (hole + 1) & mask; s->slots[i].cookie; i = (i + 1) & mask) {
		/* May move into the hole only if that is not before its home. */
		if (((i - home(s, s->slots[i].cookie)) & mask) < ((i - hole) & mask))
			continue;
		s->slots[hole] = s->slots[i];
		hole = i;
	}
	s->slots[hole].cookie = 0;
	s->count--;
	/* Few distinct times exist (one a dump), so this search is rare. */
	if (seen == s->oldest && !--s->n_oldest)
		find_oldest(s);
}

bool cookie_set_remove(struct cookie_set *s, uint64_t cookie)
{
	const struct cookie_entry *e = cookie_set_find(s, cookie);

	if (!e)
		return false;
	remove_slot(s, (size_t)(e - s->slots));
	return true;
}

size_t cookie_set_sweep(struct cookie_set *s)
{
	size_t i, missing = 0;

	for (i = 0; i < s->size; i++) {
		if (s->slots[i].cookie && s->slots[i].round != s->round) {
			s->slots[i].missed++;
			missing += s->slots[i].missed < KEEP_MISSED;
		}
	}
	for (i = 0; i < s->size; i++) {
		while (s->slots[i].cookie && s->slots[i].missed >= KEEP_MISSED)
			remove_slot(s, i);
	}
	return missing;
}
