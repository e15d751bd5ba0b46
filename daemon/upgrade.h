/* SPDX-License-Identifier: MIT */
/* One program of handoffd in the place of another, in the same process: the new one is asked
 * whether it understands the state, and only then executed. */
#ifndef UPGRADE_H
#define UPGRADE_H

#include "daemon.h"

/* The way this program was called, which the next one is called by too; `argv` is borrowed for
 * ever. */
void upgrade_remember(char **argv);

/* Somebody asks for it. Calls that wait for it are answered by whoever goes on. */
void upgrade_begin(struct daemon *d);
/* Does it if the new program has been asked and agreed; does not return then. To be called when
 * nothing is at hand. */
void upgrade_if_ready(struct daemon *d);
void upgrade_free(struct daemon *d);

/* In the new program, before anything else: is there something to take over? From then until
 * upgrade_commit() its end, whether it crashes, hangs, or returns, leads back to the former one. */
void upgrade_receive(void);
void upgrade_commit(void);
/* The same at once; returns if there is none, or that fails. */
void upgrade_go_back(const char *why);
/* In the former one, after that: why; else NULL. */
const char *upgrade_came_back(void);
/* The document that the old one left (a reference) and with it its descriptors, by name; NULL: this
 * is no upgrade. */
json_t *upgrade_take(void);
/* Is this program only started to see whether it starts? Then it shall read what it reads, and say
 * upgrade_check_snapshot(). Asked once. */
bool upgrade_is_trial(void);
/* handoffd --check-snapshot: is the document on standard input understood? An exit code. */
int upgrade_check_snapshot(void);
/* Executes the program from the beginning; returns only on failure. */
void upgrade_start_over(void);

#endif
