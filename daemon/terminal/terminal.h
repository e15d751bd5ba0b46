/* SPDX-License-Identifier: MIT */
/* One terminal (or pipe, or file) for the output of several services: whole lines, each with the
 * name of its service in front, in a colour of its own, names aligned.
 *
 * Nobody waits for a slow terminal: what it does not take is kept, up to a limit; beyond that lines
 * are left out, and their number is said. */
#ifndef TERMINAL_TERMINAL_H
#define TERMINAL_TERMINAL_H

#include "core/base.h"

struct ev_loop;
struct terminal;

enum terminal_mark {
	TERMINAL_OUT,  /* a service's standard output: "web │ text" */
	TERMINAL_ERR,  /* and its standard error: "web ! text" */
	TERMINAL_OWN,  /* about the service: "web » text" */
	TERMINAL_GOOD, /* the same, as good news */
	TERMINAL_BAD,  /* and bad ones */
};

/* Writes to `fd` (borrowed, its flags are left alone). Colours if it is a terminal and neither
 * NO_COLOR nor TERM=dumb is set. */
int terminal_new(struct ev_loop *loop, int fd, struct terminal **ret, struct ho_error *reterr);
/* Writes what is left, for at most 5 s. */
void terminal_flush(struct terminal *t);
/* The same first. Accepts NULL. */
struct terminal *terminal_free(struct terminal *t);

/* Gives the name the next colour and a place in the column of names. */
void terminal_name(struct terminal *t, const char *name);
/* A line, or several ones; what would move the cursor is taken out of it. */
void terminal_line(struct terminal *t, enum terminal_mark mark, const char *name, const char *text,
        size_t length);

#endif
