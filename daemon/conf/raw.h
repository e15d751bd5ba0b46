/* SPDX-License-Identifier: MIT */
/* What was written, before it means anything: blocks, settings and values as text, each with its
 * line. Made by the reader from a file and by the one-program form from options; all of it lives in
 * a scratch arena. */
#ifndef CONF_RAW_H
#define CONF_RAW_H

#include "core/config.h"

struct key;

struct raw_value {
	struct raw_value *next;
	const char *text;
	int line;
};

struct raw_setting {
	struct raw_setting *next;
	const struct key *key;
	const char *label; /* how messages call it: "drain.deadline", "--drain-deadline" */
	int line;
	struct raw_value *values, *last;
	size_t n_values;
	bool twice; /* was said */
};

enum raw_kind { RAW_ROOT, RAW_SERVICE, RAW_ENVIRONMENT, RAW_LISTEN };

struct raw_block {
	struct raw_block *next;
	enum raw_kind kind;
	const char *title; /* NULL of the root */
	int line;
	struct raw_setting *settings, *last_setting;
	struct raw_block *blocks, *last_block;
	size_t n_blocks;
};

/* Each returns NULL when memory is short. */
struct raw_block *raw_block_add(struct config *arena, struct raw_block *parent, enum raw_kind kind,
        const char *title, int line);
struct raw_setting *raw_setting_add(struct config *arena, struct raw_block *b,
        const struct key *key, const char *label, int line);
struct raw_value *raw_value_add(
        struct config *arena, struct raw_setting *s, const char *text, int line);

struct raw_setting *raw_setting_find(const struct raw_block *b, const struct key *key);

#endif
