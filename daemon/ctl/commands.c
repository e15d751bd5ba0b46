/* SPDX-License-Identifier: MIT */
#include "ctl/commands.h"

#include <string.h>

const struct ctl_option ctl_options[] = {
        {"socket", 's', TAKES_ALL, "PATH", "control socket of handoffd"},
        {"json", 'j' + 256, TAKES_JSON, NULL, "print JSON"},
        {"help", 'h', TAKES_ALL, NULL, "this help, or that of a command"},
        {"version", 'V' + 256, TAKES_ALL, NULL, "print the version"},
        {"wait", 'w' + 256, TAKES_WAIT, "serving|drained|none", "what to wait for"},
        {"wait", 'w' + 256, TAKES_WAIT_SERVING, "serving|none", "what to wait for"},
        {"wait", 'w' + 256, TAKES_WAIT_DRAINED, "drained|none", "what to wait for"},
        {"timeout", 't' + 256, TAKES_TIMEOUT, "DURATION", "how long to wait; the work goes on"},
        {"release", 'r' + 256, TAKES_RELEASE, "DIR",
                "directory that the release link shall lead to"},
        {"canary", 'C' + 256, TAKES_ROLL | TAKES_CANARY, "PERCENT",
                "share of new connections for the new generation at first"},
        {"hold", 'H' + 256, TAKES_ROLL | TAKES_CANARY, "DURATION",
                "then it gets all of them (infinity: by `promote`)"},
        {"keep-warm", 'W' + 256, TAKES_ROLL, "DURATION",
                "how long the old generation stays whole for a rollback"},
        {"for", 'F' + 256, TAKES_FOR, "serving|drained", "what to wait for (serving)"},
        {"follow", 'f', TAKES_FOLLOW, NULL, "go on with what happens from now on"},
        {"watch", 'W', TAKES_WATCH, NULL, "show it again whenever it changes, until q"},
        {"lines", 'n', TAKES_LINES, "N", "the newest N (all that are kept; 10 with --follow)"},
        {"generation", 'g', TAKES_GENERATION, "N", "of this one only"},
        {"config", 'c', TAKES_CONFIG, "FILE", "configuration file"},
        {"listen", 'l', TAKES_LISTEN, "ADDRESS", "where a command is to listen that is tried"},
        {"environment", 'e', TAKES_CONFIG, "NAME", "as handoffd -e"},
        {0},
};
_Static_assert(ARRAY_SIZE(ctl_options) <= MAX_OPTIONS + 1, "too many options");

const struct command commands[] = {
        {"status", "[SERVICE]", 0, 1, TAKES_JSON | TAKES_WATCH, command_status,
                "services, generations, workers, connections, the last result"},
        {"top", "", 0, 0, TAKES_ALL, command_top,
                "a live view for a terminal: generations, connections, memory"},
        {"reload", "[SERVICE...]", 0, -1, TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT | TAKES_ROLL,
                command_reload, "start a new generation (of all services), wait until it serves"},
        {"deploy", "SERVICE", 1, 1,
                TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT | TAKES_ROLL | TAKES_RELEASE,
                command_deploy,
                "point the release link at --release, then reload; back again if that fails"},
        {"promote", "SERVICE", 1, 1, TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT | TAKES_CANARY,
                command_promote, "give a held canary all new connections (or --canary of them)"},
        {"abort", "SERVICE", 1, 1, TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT, command_abort,
                "undo a held canary, or a start that is under way"},
        {"rollback", "SERVICE", 1, 1, TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT, command_rollback,
                "go back to the generation before, at once where it is still there"},
        {"scale", "SERVICE N", 2, 2, TAKES_JSON | TAKES_WAIT_SERVING | TAKES_TIMEOUT, command_scale,
                "run N workers, without a new generation"},
        {"stop", "SERVICE...", 1, -1, TAKES_JSON | TAKES_WAIT_DRAINED | TAKES_TIMEOUT, command_stop,
                "finish the connections, then stop"},
        {"start", "SERVICE...", 1, -1, TAKES_JSON | TAKES_WAIT_SERVING | TAKES_TIMEOUT,
                command_start, "start what was stopped"},
        {"restart", "SERVICE...", 1, -1, TAKES_JSON | TAKES_WAIT_SERVING | TAKES_TIMEOUT,
                command_restart, "stop, then start; reload does it without a gap"},
        {"wait", "SERVICE", 1, 1, TAKES_JSON | TAKES_FOR | TAKES_TIMEOUT, command_wait,
                "wait until a service serves or is drained"},
        {"events", "", 0, 0, TAKES_JSON | TAKES_FOLLOW | TAKES_LINES, command_events,
                "what happened, one JSON object a line"},
        {"logs", "SERVICE", 1, 1, TAKES_JSON | TAKES_FOLLOW | TAKES_LINES, command_logs,
                "the last output of each worker, also of dead ones"},
        {"upgrade", "", 0, 0, TAKES_JSON, command_upgrade,
                "put the installed handoffd in the place of the running one"},
        {"connections", "SERVICE", 1, 1, TAKES_JSON | TAKES_GENERATION, command_connections,
                "who is still connected: peer, age, idle time, worker"},
        {"config", "check|show|diff [FILE]", 1, 2, TAKES_CONFIG | TAKES_JSON, command_config,
                "validate a configuration file, print its effective settings, or what a reload "
                "changes"},
        {"doctor", "SERVICE", 1, -1, TAKES_JSON | TAKES_CONFIG | TAKES_LISTEN | TAKES_TIMEOUT,
                command_doctor,
                "try a program aside, tell how it behaves with handoffd and what to set"},
        {"completion", "bash|zsh|services", 1, 1, TAKES_ALL, command_completion,
                "print the completion for a shell, or the names it offers"},
        {"help", "[COMMAND]", 0, 1, TAKES_ALL, command_help, "this help"},
        {0},
};

bool command_takes(const struct command *c, const struct ctl_option *o)
{
	return !o->takes || (c && o->takes & c->takes);
}

const struct command *find_command(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

int unknown_command(const char *name)
{
	const char *near = NULL;
	unsigned best = 3;

	for (const struct command *c = commands; c->name; c++) {
		unsigned d = edit_distance(name, c->name, 2);

		if (d < best) {
			best = d;
			near = c->name;
		}
	}
	return complain(CODE_USAGE,
	        "there is no command \"%s\"%s%s%s; `handoffctl help` lists them", name,
	        near ? ", did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* Of a command, or those that stand before any. */
static void print_options(const struct command *c)
{
	for (const struct ctl_option *o = ctl_options; o->name; o++) {
		char left[64];
		struct text t = TEXT_ON(left);

		if (c ? !o->takes || !command_takes(c, o) : o->takes & ~(unsigned)TAKES_JSON)
			continue;
		if (o->letter < 256)
			text_add(&t, "-%c, ", o->letter);
		text_add(&t, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
		(void)printf("  %-30s %s\n", left, o->help);
	}
}

static void print_command(const struct command *c)
{
	char left[64];
	struct text t = TEXT_ON(left);

	text_add(&t, "%s %s", c->name, c->arguments);
	(void)printf("  %-24s %s\n", left, c->help);
}

int command_help(struct ctl *ctl)
{
	const struct command *c = ctl->n_arguments ? find_command(ctl->arguments[0]) : NULL;

	if (ctl->n_arguments && !c)
		return unknown_command(ctl->arguments[0]);
	if (c) {
		(void)printf("handoffctl [-s PATH] %s%s%s%s\n  %s\n", c->name,
		        c->takes ? " [options]" : "", *c->arguments ? " " : "", c->arguments,
		        c->help);
		print_options(c);
		return 0;
	}
	(void)printf("handoffctl [-s PATH] [--json] COMMAND [options] [arguments]\n\n");
	for (c = commands; c->name; c++)
		print_command(c);
	(void)putchar('\n');
	print_options(NULL);
	(void)printf("\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the new "
	             "generation\n"
	             "failed and the old one goes on, 4 timed out, 5 handoffd cannot be reached, 6 "
	             "done but\n"
	             "connections were cut, 7 not allowed, 8 superseded by a later request.\n");
	return 0;
}
