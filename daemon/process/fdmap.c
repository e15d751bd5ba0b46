/* SPDX-License-Identifier: MIT */
#include "process/fdmap.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

int fdmap_add(struct fdmap *m, int from, int to)
{
	size_t at = 0;

	if (from < 0 || to < 0)
		return -EINVAL;
	if (m->count == FDMAP_MAX_ENTRIES)
		return -E2BIG;
	while (at < m->count && m->entries[at].to < to)
		at++;
	if (at < m->count && m->entries[at].to == to)
		return -EEXIST;
	memmove(&m->entries[at + 1], &m->entries[at], (m->count - at) * sizeof m->entries[0]);
	m->entries[at] = (struct fdmap_entry){.from = from, .to = to};
	m->count++;
	return 0;
}

static bool is_target(const struct fdmap *m, int fd)
{
	for (size_t i = 0; i < m->count; i++) {
		if (m->entries[i].to == fd)
			return true;
	}
	return false;
}

static void add_step(struct fdmap_plan *p, struct fdmap_step step)
{
	HO_ASSERT(p->count < FDMAP_MAX_STEPS);
	p->steps[p->count++] = step;
}

void fdmap_make(const struct fdmap *m, struct fdmap_plan *ret)
{
	int next = 0;

	ret->count = 0;
	ret->floor = m->count ? m->entries[m->count - 1].to + 1 : 0;
	for (size_t i = 0; i < m->count; i++) {
		if (is_target(m, m->entries[i].from))
			add_step(ret, (struct fdmap_step){.kind = FDMAP_LIFT,
			                      .slot = i,
			                      .from = m->entries[i].from,
			                      .to = ret->floor});
	}
	for (size_t i = 0; i < m->count; i++)
		add_step(ret, (struct fdmap_step){.kind = FDMAP_PLACE,
		                      .slot = i,
		                      .lifted = is_target(m, m->entries[i].from),
		                      .from = m->entries[i].from,
		                      .to = m->entries[i].to});
	for (size_t i = 0; i < m->count; i++) {
		if (m->entries[i].to > next)
			add_step(ret, (struct fdmap_step){.kind = FDMAP_SEAL,
			                      .from = next,
			                      .to = m->entries[i].to - 1});
		next = m->entries[i].to + 1;
	}
	add_step(ret, (struct fdmap_step){.kind = FDMAP_SEAL, .from = next, .to = INT_MAX});
}
