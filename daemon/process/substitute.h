/* SPDX-License-Identifier: MIT */
/* Words in braces in command, environ and directory: {fd:NAME}, {fd:NAME:2} (second address of that
 * listener), {generation}, {worker}, {service}, {release}, {environment}.
 *
 * Any other text in braces stays as it is, so that JSON and templates in arguments need no care. A
 * doubled brace before a known word stands for the word itself: {{worker} becomes {worker}. Pure.
 */
#ifndef PROCESS_SUBSTITUTE_H
#define PROCESS_SUBSTITUTE_H

#include "core/base.h"
#include "process/dialect.h"

struct substitution {
	const char *service, *environment;
	uint32_t generation;
	/* For what belongs to a worker; both NULL where a worker is not known yet (directory): the
	 * words {worker}, {release} and {fd:...} are mistakes there. */
	const struct dialect_input *input;
	const char *release; /* NULL: no directory configured, {release} is a mistake */
};

/* `*ret` is to be freed. Fails with words: a listener that the service does not pass, a word that
 * has no value there, no memory. */
int substitute(const char *text, const struct substitution *s, char **ret, struct ho_error *reterr);

#endif
