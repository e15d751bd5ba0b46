/* SPDX-License-Identifier: MIT */
/* handoffctl: the command line, read as the tables of commands.c say. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "conf/load.h"
#include "ctl/commands.h"

static int take_duration(const struct ctl_option *o, const char *value, usec_t *ret, bool *ret_set)
{
	if (parse_duration(value, ret)) {
		if (ret_set)
			*ret_set = true;
		return 0;
	}
	return complain(
	        CODE_USAGE, "--%s takes a time such as 30s or 5min, not \"%s\"", o->name, value);
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
		ctl->wait = value; /* see check_usage() */
		return 0;
	case 't' + 256:
		return take_duration(o, value, &ctl->timeout, NULL);
	case 'H' + 256:
		return take_duration(o, value, &ctl->hold, &ctl->has_hold);
	case 'W' + 256:
		return take_duration(o, value, &ctl->keep_warm, &ctl->has_keep_warm);
	case 'C' + 256:
		ctl->has_canary = parse_share(value, &ctl->canary);
		if (ctl->has_canary)
			return 0;
		return complain(
		        CODE_USAGE, "--canary takes a share such as 5%%, not \"%s\"", value);
	case 'r' + 256:
		ctl->release = value;
		return 0;
	case 'f':
		ctl->follow = true;
		return 0;
	case 'W':
		ctl->watch = true;
		return 0;
	case 'n':
		ctl->lines_set = parse_number(value, 1000000, &ctl->lines);
		if (ctl->lines_set)
			return 0;
		return complain(CODE_USAGE, "--lines takes a number, not \"%s\"", value);
	case 'g':
		if (parse_number(value, UINT32_MAX, &ctl->generation) && ctl->generation)
			return 0;
		return complain(
		        CODE_USAGE, "--generation takes the number of one, not \"%s\"", value);
	case 'l':
		if (ctl->n_listen == ARRAY_SIZE(ctl->listen))
			return complain(CODE_USAGE, "too many addresses");
		ctl->listen[ctl->n_listen++] = value;
		return 0;
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
	const struct ctl_option *used[MAX_OPTIONS];
};

static int parse_options(struct ctl *ctl, struct parsed *p, int argc, char **argv)
{
	struct option table[MAX_OPTIONS + 1] = {0};
	char letters[2 * MAX_OPTIONS + 1];
	struct text t = TEXT_ON(letters);
	int letter, r;

	for (size_t i = 0; ctl_options[i].name; i++) {
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

/* Its line for the command; NULL: there is none. */
static const struct ctl_option *line_for(const struct command *c, const char *name)
{
	for (const struct ctl_option *o = ctl_options; o->name; o++)
		if (!strcmp(o->name, name) && command_takes(c, o))
			return o;
	return NULL;
}

static bool is_one_of(const char *words, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = words; n && *at; at += strcspn(at, "|"), at += *at == '|')
		if (strcspn(at, "|") == n && !strncmp(at, word, n))
			return true;
	return false;
}

static int check_usage(const struct ctl *ctl, const struct command *c, const struct parsed *p)
{
	for (size_t i = 0; i < MAX_OPTIONS; i++) {
		const struct ctl_option *used = p->used[i];
		const struct ctl_option *o = used ? line_for(c, used->name) : NULL;

		if (used && !o)
			return complain(CODE_USAGE, "%s does not take --%s", c->name, used->name);
		if (o && o->value && strchr(o->value, '|') && !is_one_of(o->value, ctl->wait))
			return complain(CODE_USAGE, "--%s of %s takes %s, not \"%s\"", o->name,
			        c->name, o->value, ctl->wait);
	}
	if (ctl->n_arguments < c->min)
		return complain(CODE_USAGE, "%s needs %s", c->name, c->arguments);
	if (c->max >= 0 && ctl->n_arguments > c->max)
		return complain(CODE_USAGE, "%s takes no \"%s\"; usage: handoffctl %s%s%s", c->name,
		        ctl->arguments[c->max], c->name, *c->arguments ? " " : "", c->arguments);
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
