/* SPDX-License-Identifier: MIT */
/* Lists in the order written. Pure. */
#include "conf/raw.h"

struct raw_block *raw_block_add(struct config *arena, struct raw_block *parent, enum raw_kind kind,
        const char *title, int line)
{
	struct raw_block *b = config_alloc(arena, sizeof *b);

	if (!b)
		return NULL;
	b->kind = kind;
	b->line = line;
	b->title = title ? config_strdup(arena, title) : NULL;
	if (title && !b->title)
		return NULL;
	if (!parent)
		return b;
	*(parent->blocks ? &parent->last_block->next : &parent->blocks) = b;
	parent->last_block = b;
	parent->n_blocks++;
	return b;
}

struct raw_setting *raw_setting_add(struct config *arena, struct raw_block *b,
        const struct key *key, const char *label, int line)
{
	struct raw_setting *s = config_alloc(arena, sizeof *s);

	if (!s)
		return NULL;
	s->key = key;
	s->label = label;
	s->line = line;
	*(b->settings ? &b->last_setting->next : &b->settings) = s;
	b->last_setting = s;
	return s;
}

struct raw_value *raw_value_add(
        struct config *arena, struct raw_setting *s, const char *text, int line)
{
	struct raw_value *v = config_alloc(arena, sizeof *v);

	if (!v)
		return NULL;
	v->line = line;
	v->text = config_strdup(arena, text);
	if (!v->text)
		return NULL;
	*(s->values ? &s->last->next : &s->values) = v;
	s->last = v;
	s->n_values++;
	return v;
}

struct raw_setting *raw_setting_find(const struct raw_block *b, const struct key *key)
{
	for (struct raw_setting *s = b->settings; s; s = s->next)
		if (s->key == key)
			return s;
	return NULL;
}
