/* SPDX-License-Identifier: MIT */
#include "load_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PATTERN_PERIOD 26

/* The same function as in contrib/examples/sleepd.c: FNV-1a chooses the first letter. */
static uint64_t pattern_start(const char *nonce)
{
	uint32_t hash = 2166136261;

	for (; *nonce; nonce++)
		hash = (hash ^ (unsigned char)*nonce) * 16777619;
	return hash % PATTERN_PERIOD;
}

void check_init(struct check *c, const struct check_rule *rule, const char *nonce, uint64_t size)
{
	*c = (struct check){.rule = *rule, .size = size};
	(void)copy_string(c->nonce, sizeof c->nonce, nonce);
}

static void check_line(struct check *c)
{
	char again[sizeof c->line];

	/* Written again it has to be the same: then nothing stands between or behind the fields. */
	if (sscanf(c->line, "pid=%" SCNu64 " generation=%" SCNu64, &c->pid, &c->generation) == 2)
		(void)snprintf(again, sizeof again, "pid=%" PRIu64 " generation=%" PRIu64 " n=%s",
		        c->pid, c->generation, c->nonce);
	else
		again[0] = '\0';
	if (strcmp(c->line, again) != 0)
		c->problem = strstr(c->line, " n=") && !strstr(c->line, c->nonce)
		                     ? "answer to another request"
		                     : "malformed first line";
	c->line_done = true;
}

static void check_pattern(struct check *c, const char *p, size_t n)
{
	uint64_t start;

	for (; n && !c->line_done && !c->problem; p++, n--) {
		if (*p == '\n') {
			check_line(c);
		} else if (*p == '\0' || c->line_len == sizeof c->line - 1) {
			c->problem = "malformed first line";
		} else {
			c->line[c->line_len++] = *p;
		}
	}
	if (n > c->size - c->at && !c->problem)
		c->problem = "more bytes than asked for";
	start = pattern_start(c->nonce);
	for (size_t i = 0; i < n && !c->problem; i++, c->at++)
		if (p[i] != (char)('a' + (start + c->at) % PATTERN_PERIOD))
			c->problem = "wrong byte in the pattern";
}

/* `line` keeps the last bytes, in which the nonce may have begun. */
static void check_contains(struct check *c, const char *p, size_t n)
{
	size_t len = strlen(c->nonce), keep;
	char joint[sizeof c->line];

	while (n && !c->found) {
		size_t part = n < sizeof joint - len ? n : sizeof joint - len;

		memcpy(joint, c->line, c->line_len);
		memcpy(joint + c->line_len, p, part);
		c->found = memmem(joint, c->line_len + part, c->nonce, len);
		keep = c->line_len + part < len ? c->line_len + part : len - 1;
		memcpy(c->line, joint + c->line_len + part - keep, keep);
		c->line_len = keep;
		p += part;
		n -= part;
	}
}

static void check_text(struct check *c, const char *p, size_t n)
{
	size_t left = strlen(c->rule.text) - c->at;

	if (n > left || memcmp(p, c->rule.text + c->at, n) != 0)
		c->problem = "not the expected text";
	c->at += n;
}

void check_bytes(struct check *c, const char *p, size_t n)
{
	if (c->problem)
		return;
	switch (c->rule.mode) {
	case CHECK_PATTERN:
		check_pattern(c, p, n);
		break;
	case CHECK_NONCE:
		check_contains(c, p, n);
		break;
	case CHECK_TEXT:
		check_text(c, p, n);
		break;
	case CHECK_NONE:
		break;
	}
}

const char *check_end(struct check *c)
{
	if (c->problem)
		return c->problem;
	switch (c->rule.mode) {
	case CHECK_PATTERN:
		return !c->line_done ? "no first line" : c->at < c->size ? "too few bytes" : NULL;
	case CHECK_NONCE:
		return c->found ? NULL : "the nonce is not in the answer";
	case CHECK_TEXT:
		return c->at == strlen(c->rule.text) ? NULL : "not the expected text";
	case CHECK_NONE:
		break;
	}
	return NULL;
}
