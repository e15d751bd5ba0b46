/* SPDX-License-Identifier: MIT */
/* Any text is either refused with words or gives a configuration that, printed, loads again and
 * prints the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Printed text without the comments that tell origins; no printed value contains "  # ". */
static void strip(char *text)
{
	for (char *line = text; line && *line; line = strchr(line, '\n')) {
		char *end, *comment, *next;

		line += *line == '\n';
		end = line + strcspn(line, "\n");
		comment = NULL;
		for (next = line; (next = strstr(next, "  # ")) && next < end; next++)
			comment = next;
		if (comment)
			memset(comment, ' ', (size_t)(end - comment));
	}
}

/* Lines compared without the blanks at their ends. */
static bool same(const char *a, const char *b)
{
	for (;; a++, b++) {
		while (*a == ' ' && a[strspn(a, " ")] == '\n')
			a++;
		while (*b == ' ' && b[strspn(b, " ")] == '\n')
			b++;
		if (*a != *b)
			return false;
		if (!*a)
			return true;
	}
}

static void require(bool good, const char *what, const struct mistakes *m, const char *text)
{
	if (good)
		return;
	fprintf(stderr, "%s: %s\n%s\n", what, m->count ? m->lines[0] : "", text ? text : "");
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mistakes m = {0};
	struct config *c = NULL, *again = NULL;
	char *first, *second;
	int e = config_parse("fuzz", (const char *)data, size, size % 2 ? "dev" : NULL, &c, &m);

	require((e == 0) == (m.count == 0), "result and mistakes differ", &m, NULL);
	if (e == 0) {
		first = config_print(c);
		require(first != NULL, "not printed", &m, NULL);
		e = config_parse("again", first, strlen(first), NULL, &again, &m);
		require(e == 0, "printed text is refused", &m, first);
		second = config_print(again);
		require(second != NULL, "not printed again", &m, first);
		strip(first);
		strip(second);
		require(same(first, second), "printed differently", &m, first);
		free(first);
		free(second);
	}
	config_unref(c);
	config_unref(again);
	mistakes_done(&m);
	return 0;
}
