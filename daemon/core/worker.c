/* SPDX-License-Identifier: MIT */
#include "core/worker.h"

#include <stdio.h>
#include <string.h>

usec_t worker_backoff(unsigned failures)
{
	const usec_t first = 100 * USEC_PER_MSEC, last = 30 * USEC_PER_SEC;

	if (failures > 8)
		return last;
	return (first << failures) < last ? first << failures : last;
}

bool worker_may_tell(struct worker *w, usec_t now)
{
	const usec_t each = USEC_PER_SEC, at_once = 10 * USEC_PER_SEC;

	if (w->told_until < now)
		w->told_until = now;
	if (w->told_until - now >= at_once)
		return false;
	w->told_until += each;
	return true;
}

void describe_exit(char *buffer, size_t size, int code, int status, uint64_t lost)
{
	enum { EXITED = 1, DUMPED = 3 }; /* CLD_EXITED, CLD_DUMPED */
	const char *name = sigabbrev_np(status);

	if (code == EXITED)
		(void)snprintf(buffer, size, "exited with status %d", status);
	else if (code)
		(void)snprintf(buffer, size, "was ended by signal %d (%s%s%s)", status,
		        name ? "SIG" : "", name ? name : "a real-time one",
		        code == DUMPED ? ", core dumped" : "");
	else
		(void)snprintf(buffer, size, "is gone");
	if (lost)
		(void)snprintf(buffer + strlen(buffer), size - strlen(buffer),
		        " with %llu connection%s", (unsigned long long)lost, lost == 1 ? "" : "s");
}

void add_last_words(struct text *t, const char *words)
{
	size_t room = t->size - 1 - t->len, n = words ? strlen(words) : 0;
	const char *line;

	if (!n || room < 3)
		return;
	if (n > room - 2) {
		words += n - (room - 2);
		line = strchr(words, '\n');
		words = line ? line + 1 : words;
	}
	text_add(t, ":\n%s", words);
}
