/* SPDX-License-Identifier: MIT */
/* Judges the body of one answer, byte by byte as it comes. By default it has to be
 * "pid=<pid> generation=<generation> n=<nonce>\n" and then `size` letters which follow from the
 * nonce; otherwise it has to contain the nonce, or to be an exact text. */
#ifndef TOOLS_LOAD_CHECK_H
#define TOOLS_LOAD_CHECK_H

#include "core/base.h"

#define MAX_NONCE 64 /* with the final NUL */

enum check_mode { CHECK_PATTERN, CHECK_NONCE, CHECK_TEXT, CHECK_NONE };

struct check_rule {
	enum check_mode mode;
	const char *text; /* of CHECK_TEXT */
};

struct check {
	struct check_rule rule;
	char nonce[MAX_NONCE];
	uint64_t size;
	uint64_t at;     /* bytes judged */
	char line[160];  /* CHECK_PATTERN: the first line; CHECK_NONCE: the last bytes seen */
	size_t line_len; /* bytes in it */
	bool line_done, found;
	uint64_t pid, generation; /* of the first line */
	const char *problem;      /* the first one, or NULL */
};

void check_init(struct check *c, const struct check_rule *rule, const char *nonce, uint64_t size);
void check_bytes(struct check *c, const char *p, size_t n);
/* NULL if the whole body was right, else what was wrong with it. */
const char *check_end(struct check *c);

#endif
