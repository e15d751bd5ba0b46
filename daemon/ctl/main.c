/* SPDX-License-Identifier: MIT */
/* handoffctl: the options and the table of commands. Usage and help are printed from the tables. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "conf/load.h"
#include "ctl/ctl.h"

/* Which options a command takes, besides those for all. */
enum {
	TAKES_ALL = 0,
	TAKES_JSON = 1 << 0,
	TAKES_WAIT = 1 << 1,
	TAKES_TIMEOUT = 1 << 2,
	TAKES_FOR = 1 << 3,
	TAKES_FOLLOW = 1 << 4,
	TAKES_LINES = 1 << 5,
	TAKES_CONFIG = 1 << 6,
};

struct ctl_option {
	const char *name;
	int letter; /* for getopt; no short form above 255 */
	unsigned takes;
	const char *value, *help;
};

static const struct ctl_option ctl_options[] = {
        {"socket", 's', TAKES_ALL, "PATH", "control socket of handoffd"},
        {"json", 'j' + 256, TAKES_JSON, NULL, "print JSON"},
        {"help", 'h', TAKES_ALL, NULL, "this help, or that of a command"},
        {"version", 'V' + 256, TAKES_ALL, NULL, "print the version"},
        {"wait", 'w' + 256, TAKES_WAIT, "serving|drained|none", "what to wait for"},
        {"timeout", 't' + 256, TAKES_TIMEOUT, "DURATION", "how long to wait; the work goes on"},
        {"for", 'F' + 256, TAKES_FOR, "serving|drained", "what to wait for (serving)"},
        {"follow", 'f', TAKES_FOLLOW, NULL, "go on with what happens from now on"},
        {"lines", 'n', TAKES_LINES, "N", "the newest N (all that are kept; 10 with --follow)"},
        {"config", 'c', TAKES_CONFIG, "FILE", "configuration file"},
        {"environment", 'e', TAKES_CONFIG, "NAME", "as handoffd -e"},
};

struct command {
	const char *name, *arguments;
	int min, max; /* number of arguments; max -1: any */
	unsigned takes;
	int (*run)(struct ctl *ctl);
	const char *help;
};

static int command_help(struct ctl *ctl);

static const struct command commands[] = {
        {"status", "[SERVICE]", 0, 1, TAKES_JSON, command_status,
                "services, generations, workers, connections, the last result"},
        {"reload", "[SERVICE...]", 0, -1, TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT, command_reload,
                "start a new generation (of all services), wait until it serves"},
        {"stop", "SERVICE...", 1, -1, TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT, command_stop,
                "finish the connections, then stop"},
        {"start", "SERVICE...", 1, -1, TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT, command_start,
                "start what was stopped"},
        {"restart", "SERVICE...", 1, -1, TAKES_JSON | TAKES_WAIT | TAKES_TIMEOUT, command_restart,
                "stop, then start; reload does it without a gap"},
        {"wait", "SERVICE", 1, 1, TAKES_JSON | TAKES_FOR | TAKES_TIMEOUT, command_wait,
                "wait until a service serves or is drained"},
        {"events", "", 0, 0, TAKES_JSON | TAKES_FOLLOW | TAKES_LINES, command_events,
                "what happened, one JSON object a line"},
        {"logs", "SERVICE", 1, 1, TAKES_JSON, command_logs,
                "the last output of each worker, also of dead ones"},
        {"config", "check|show [FILE]", 1, 2, TAKES_CONFIG, command_config,
                "validate a configuration file, or print its effective settings"},
        {"help", "[COMMAND]", 0, 1, TAKES_ALL, command_help, "this help"},
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static int unknown_command(const char *name)
{
	const char *near = NULL;
	unsigned best = 3;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		unsigned d = edit_distance(name, commands[i].name, 2);

		if (d < best) {
			best = d;
			near = commands[i].name;
		}
	}
	return complain(CODE_USAGE,
	        "there is no command \"%s\"%s%s%s; `handoffctl help` lists them", name,
	        near ? ", did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static void print_options(unsigned takes, bool all)
{
	for (size_t i = 0; i < ARRAY_SIZE(ctl_options); i++) {
		const struct ctl_option *o = &ctl_options[i];
		char left[64];
		struct text t = TEXT_ON(left);

		if (all ? o->takes & ~(unsigned)TAKES_JSON : !(o->takes & takes))
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

static int command_help(struct ctl *ctl)
{
	const struct command *c = ctl->n_arguments ? find_command(ctl->arguments[0]) : NULL;

	if (ctl->n_arguments && !c)
		return unknown_command(ctl->arguments[0]);
	if (c) {
		(void)printf("handoffctl [-s PATH] %s%s%s%s\n  %s\n", c->name,
		        c->takes ? " [options]" : "", *c->arguments ? " " : "", c->arguments,
		        c->help);
		print_options(c->takes, false);
		return 0;
	}
	(void)printf("handoffctl [-s PATH] [--json] COMMAND [options] [arguments]\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		print_command(&commands[i]);
	(void)putchar('\n');
	print_options(0, true);
	(void)printf("\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the new "
	             "generation\n"
	             "failed and the old one goes on, 4 timed out, 5 handoffd cannot be reached, 6 "
	             "done but\n"
	             "connections were cut, 7 not allowed, 8 superseded by a later request.\n");
	return 0;
}

/* 0, or an exit code. */
static int take_option(struct ctl *ctl, const struct ctl_option *o, const char *value)
{
	switch (o->letter) {
	case 's':
		ctl->socket = value;
		return 0;
	case 'j' + 256:
		ctl->json = true;
		return 0;
	case 'w' + 256:
	case 'F' + 256:
		ctl->wait = value;
		if (!strcmp(value, "serving") || !strcmp(value, "drained") ||
		        (!strcmp(value, "none") && !strcmp(o->name, "wait")))
			return 0;
		return complain(CODE_USAGE, "--%s takes %s, not \"%s\"", o->name, o->value, value);
	case 't' + 256:
		if (parse_duration(value, &ctl->timeout))
			return 0;
		return complain(CODE_USAGE,
		        "--timeout takes a time such as 30s or 5min, not \"%s\"", value);
	case 'f':
		ctl->follow = true;
		return 0;
	case 'n':
		ctl->lines_set = parse_number(value, 1000000, &ctl->lines);
		if (ctl->lines_set)
			return 0;
		return complain(CODE_USAGE, "--lines takes a number, not \"%s\"", value);
	case 'c':
		ctl->config = value;
		return 0;
	case 'e':
		ctl->environment = value;
		return 0;
	default:
		return 0;
	}
}

struct parsed {
	bool help, version;
	const struct ctl_option *used[ARRAY_SIZE(ctl_options)];
};

static int parse_options(struct ctl *ctl, struct parsed *p, int argc, char **argv)
{
	struct option table[ARRAY_SIZE(ctl_options) + 1] = {0};
	char letters[2 * ARRAY_SIZE(ctl_options) + 1];
	struct text t = TEXT_ON(letters);
	int letter, r;

	for (size_t i = 0; i < ARRAY_SIZE(ctl_options); i++) {
		const struct ctl_option *o = &ctl_options[i];

		table[i] = (struct option){
		        .name = o->name, .has_arg = o->value != NULL, .val = o->letter};
		if (o->letter < 256)
			text_add(&t, "%c%s", o->letter, o->value ? ":" : "");
	}
	while ((letter = getopt_long(argc, argv, letters, table, NULL)) != -1) {
		size_t i = 0;

		if (letter == '?')
			return CODE_USAGE; /* getopt has said why */
		while (ctl_options[i].letter != letter)
			i++;
		p->used[i] = &ctl_options[i];
		p->help |= letter == 'h';
		p->version |= letter == 'V' + 256;
		r = take_option(ctl, &ctl_options[i], optarg);
		if (r)
			return r;
	}
	return 0;
}

static int check_usage(const struct ctl *ctl, const struct command *c, const struct parsed *p)
{
	for (size_t i = 0; i < ARRAY_SIZE(ctl_options); i++)
		if (p->used[i] && p->used[i]->takes && !(p->used[i]->takes & c->takes))
			return complain(
			        CODE_USAGE, "%s does not take --%s", c->name, p->used[i]->name);
	if (ctl->n_arguments < c->min)
		return complain(CODE_USAGE, "%s needs %s", c->name, c->arguments);
	if (c->max >= 0 && ctl->n_arguments > c->max)
		return complain(CODE_USAGE, "%s takes no \"%s\"; usage: handoffctl %s %s", c->name,
		        ctl->arguments[c->max], c->name, c->arguments);
	return 0;
}

static int run(int argc, char **argv)
{
	struct ctl ctl = {.timeout = USEC_INFINITY};
	struct parsed parsed = {0};
	const struct command *c;
	int r = parse_options(&ctl, &parsed, argc, argv);

	if (r)
		return r;
	if (parsed.version) {
		(void)printf("handoffctl %s\n", HANDOFF_VERSION);
		return 0;
	}
	if (optind == argc && !parsed.help)
		return complain(CODE_USAGE, "which command? `handoffctl help` lists them");
	if (parsed.help) {
		ctl.arguments = argv + optind;
		ctl.n_arguments = optind < argc;
		return command_help(&ctl);
	}
	ctl.command = argv[optind];
	ctl.arguments = argv + optind + 1;
	ctl.n_arguments = argc - optind - 1;
	c = find_command(ctl.command);
	if (!c)
		return unknown_command(ctl.command);
	r = check_usage(&ctl, c, &parsed);
	return r ? r : c->run(&ctl);
}

int main(int argc, char **argv)
{
	int r = run(argc, argv);

	if (fflush(stdout) || ferror(stdout))
		return complain(r ? r : CODE_FAILED, "the output cannot be written");
	return r;
}
