/* SPDX-License-Identifier: MIT */
/* The tables of options and commands. Usage, help and completion are made from them, so that a
 * command is known to all when it has its line there. */
#ifndef CTL_COMMANDS_H
#define CTL_COMMANDS_H

#include "ctl/ctl.h"

/* Which options a command takes, besides those for all. */
enum {
	TAKES_ALL = 0,
	TAKES_JSON = 1 << 0,
	TAKES_WAIT = 1 << 1, /* of any kind, */
	TAKES_WAIT_SERVING = 1 << 13,
	TAKES_WAIT_DRAINED = 1 << 14, /* or of these alone */
	TAKES_TIMEOUT = 1 << 2,
	TAKES_FOR = 1 << 3,
	TAKES_FOLLOW = 1 << 4,
	TAKES_LINES = 1 << 5,
	TAKES_CONFIG = 1 << 6,
	TAKES_ROLL = 1 << 7,   /* how a roll-out is done */
	TAKES_CANARY = 1 << 8, /* a part of it: that of a canary */
	TAKES_RELEASE = 1 << 9,
	TAKES_GENERATION = 1 << 10,
	TAKES_WATCH = 1 << 11,
	TAKES_LISTEN = 1 << 12,
};

/* An option that takes other words with other commands has a line for each.
 * `value` names what the option takes, and so how it is completed: words with | between them, PATH,
 * FILE or DIR, and other capitals for what nobody can guess. */
struct ctl_option {
	const char *name;
	int letter; /* for getopt; no short form above 255 */
	unsigned takes;
	const char *value, *help;
};

/* `arguments` is completed as the value of an option is; also SERVICE and COMMAND. */
struct command {
	const char *name, *arguments;
	int min, max; /* number of arguments; max -1: any */
	unsigned takes;
	int (*run)(struct ctl *ctl);
	const char *help;
};

#define MAX_OPTIONS 32

/* Both end with an entry without a name. */
extern const struct ctl_option ctl_options[];
extern const struct command commands[];

/* Does the command take it? A command of NULL takes what all take. */
bool command_takes(const struct command *c, const struct ctl_option *o);
/* NULL: there is none. */
const struct command *find_command(const char *name);
/* Complains, and says which was perhaps meant. */
int unknown_command(const char *name);

int command_help(struct ctl *ctl);
int command_completion(struct ctl *ctl);

#endif
