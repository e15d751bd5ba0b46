/* SPDX-License-Identifier: MIT */
/* Completion for shells, made from the tables of commands. The scripts hold every word; only the
 * names of services are asked for when they are wanted, and not waited for. */
#include <string.h>

#include "ctl/commands.h"
#include "wire/interface.h"

#define PATIENCE (300 * USEC_PER_MSEC) /* somebody is typing */

/* One word of what a command or option takes, without what is around it; "" behind the last one. */
struct place {
	char what[64];
	bool repeats; /* all that follow are like this one */
};

static const char *next_place(const char *spec, struct place *ret)
{
	struct text t = TEXT_ON(ret->what);
	size_t n;

	spec += strspn(spec, " [");
	n = strcspn(spec, " ].");
	text_add_bytes(&t, spec, n);
	spec += n;
	ret->repeats = *spec == '.';
	return spec + strcspn(spec, " ");
}

static bool is_words(const char *what)
{
	return strchr(what, '|') != NULL;
}

static void print_words(const char *what)
{
	for (; *what; what++)
		(void)putchar(*what == '|' ? ' ' : *what);
}

static void print_commands(void)
{
	for (const struct command *c = commands; c->name; c++)
		(void)printf("%s%s", c == commands ? "" : " ", c->name);
}

/* What completes `what`, as a line of bash. */
static void bash_offer(const char *what)
{
	if (is_words(what)) {
		(void)printf("words=\"");
		print_words(what);
		(void)printf("\"");
	} else if (!strcmp(what, "SERVICE")) {
		(void)printf("words=$(handoffctl \"${socket[@]}\" completion services "
		             "2>/dev/null)");
	} else if (!strcmp(what, "COMMAND")) {
		(void)printf("words=\"");
		print_commands();
		(void)printf("\"");
	} else if (!strcmp(what, "DIR")) {
		(void)printf("kind=-d");
	} else if (!strcmp(what, "FILE") || !strcmp(what, "PATH")) {
		(void)printf("kind=-f");
	} else {
		(void)printf("return");
	}
	(void)printf(" ;;\n");
}

static void bash_option_name(const struct ctl_option *o, const char *between)
{
	if (o->letter < 256)
		(void)printf("-%c%s", o->letter, between);
	(void)printf("--%s", o->name);
}

/* Does it take other words with other commands? */
static bool has_variants(const struct ctl_option *o)
{
	const struct ctl_option *next = o + 1;

	return (next->name && !strcmp(next->name, o->name)) ||
	       (o > ctl_options && !strcmp(o[-1].name, o->name));
}

static void bash_values(void)
{
	(void)printf("\tcase $command:$before in\n");
	for (const struct ctl_option *o = ctl_options; o->name; o++) {
		const char *between = "\t";

		if (!o->value)
			continue;
		for (const struct command *c = commands; has_variants(o) && c->name; c++) {
			if (!command_takes(c, o))
				continue;
			(void)printf("%s%s:--%s", between, c->name, o->name);
			between = " | ";
		}
		if (!has_variants(o)) {
			(void)printf("\t*:");
			bash_option_name(o, " | *:");
		}
		(void)printf(") ");
		bash_offer(o->value);
	}
	(void)printf("\tesac\n");
}

static void bash_options(void)
{
	(void)printf("\t\tcase $command in\n");
	for (const struct command *c = commands; c->name; c++) {
		(void)printf("\t\t%s) words=\"", c->name);
		for (const struct ctl_option *o = ctl_options; o->name; o++)
			if (command_takes(c, o))
				(void)printf("--%s ", o->name);
		(void)printf("\" ;;\n");
	}
	(void)printf("\t\t*) words=\"--json --socket --help --version\" ;;\n\t\tesac\n");
}

static void bash_arguments(void)
{
	(void)printf("\t\tcase $command:$number in\n\t\t:*) ");
	bash_offer("COMMAND");
	for (const struct command *c = commands; c->name; c++) {
		const char *spec = c->arguments;
		struct place p;

		for (unsigned n = 0; *spec; n++) {
			spec = next_place(spec, &p);
			(void)printf("\t\t%s:", c->name);
			if (p.repeats)
				(void)printf("*) ");
			else
				(void)printf("%u) ", n);
			bash_offer(p.what);
		}
	}
	(void)printf("\t\tesac\n");
}

static void print_bash(void)
{
	(void)printf("# Completion of handoffctl for bash, made by `handoffctl completion bash`.\n"
	             "_handoffctl()\n{\n"
	             "\tlocal cur=${COMP_WORDS[COMP_CWORD]} before= command= number=0 socket=() "
	             "words= kind= "
	             "i word\n"
	             "\tCOMPREPLY=()\n"
	             "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	             "\t\tword=${COMP_WORDS[i]}\n"
	             "\t\t[[ $word == = && $before == --* ]] && continue\n"
	             "\t\tcase $before in\n\t\t-s | --socket) socket=(-s \"$word\") ;;\n\t\tesac\n"
	             "\t\tcase $before in\n\t\t");
	for (const struct ctl_option *o = ctl_options, *first = NULL; o->name; o++) {
		if (!o->value || (first && !strcmp(first->name, o->name)))
			continue;
		(void)printf("%s", first ? " | " : "");
		bash_option_name(o, " | ");
		first = o;
	}
	(void)printf(") before= ; continue ;;\n\t\tesac\n"
	             "\t\tbefore=$word\n"
	             "\t\tcase $word in\n\t\t-*) ;;\n"
	             "\t\t*) if [[ $command ]]; then number=$((number + 1)); else "
	             "command=$word; fi ;;\n"
	             "\t\tesac\n\tdone\n"
	             "\t[[ $cur == = ]] && cur=\n");
	bash_values();
	(void)printf("\tif [[ $words || $kind ]]; then\n\t\t:\n"
	             "\telif [[ $cur == -* ]]; then\n");
	bash_options();
	(void)printf("\telse\n");
	bash_arguments();
	/* compgen -W would expand what is in the names */
	(void)printf("\tfi\n"
	             "\tif [[ $kind ]]; then\n"
	             "\t\tcompopt -o filenames 2>/dev/null\n"
	             "\t\tmapfile -t COMPREPLY < <(compgen $kind -- \"$cur\")\n\t\treturn\n\tfi\n"
	             "\tread -r -d '' -a words <<<\"$words\"\n"
	             "\tfor word in \"${words[@]}\"; do\n"
	             "\t\t[[ $word == \"$cur\"* ]] && COMPREPLY+=(\"$word\")\n\tdone\n"
	             "\treturn 0\n}\ncomplete -F _handoffctl handoffctl\n");
}

/* Inside single quotes and a specification of _arguments. */
static void zsh_text(const char *s)
{
	for (; *s; s++) {
		if (*s == '\'')
			(void)printf("'\\''");
		else if (strchr("[]:\\", *s))
			(void)printf("\\%c", *s);
		else
			(void)putchar(*s);
	}
}

/* ":message:action" of _arguments. */
static void zsh_offer(const char *what)
{
	static const struct {
		const char *what, *action;
	} actions[] = {
	        {"SERVICE", "service:_handoffctl_services"},
	        {"COMMAND", "command:_handoffctl_commands"},
	        {"DIR", "directory:_files -/"},
	        {"FILE", "file:_files"},
	        {"PATH", "file:_files"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
		if (strcmp(what, actions[i].what))
			continue;
		(void)printf(":%s", actions[i].action);
		return;
	}
	if (is_words(what)) {
		(void)printf(":what:(");
		print_words(what);
		(void)printf(")");
	} else {
		(void)printf(":%s: ", what);
	}
}

static void zsh_options(const struct command *c)
{
	for (const struct ctl_option *o = ctl_options; o->name; o++) {
		/* --json stands before the command as well. */
		if (!command_takes(c, o) && (c || strcmp(o->name, "json")))
			continue;
		(void)printf(" \\\n\t\t\t");
		if (o->letter < 256)
			(void)printf(
			        "'(-%c --%s)'{-%c,--%s}'[", o->letter, o->name, o->letter, o->name);
		else
			(void)printf("'--%s[", o->name);
		zsh_text(o->help);
		(void)printf("]");
		if (o->value)
			zsh_offer(o->value);
		(void)printf("'");
	}
}

static void zsh_arguments(const struct command *c)
{
	const char *spec = c->arguments;
	struct place p;

	for (unsigned n = 1; *spec; n++) {
		spec = next_place(spec, &p);
		(void)printf(" \\\n\t\t\t'");
		if (p.repeats)
			(void)printf("*");
		else
			(void)printf("%u", n);
		zsh_offer(p.what);
		(void)printf("'");
	}
}

static void print_zsh(void)
{
	(void)printf("#compdef handoffctl\n"
	             "# Completion of handoffctl for zsh, made by `handoffctl completion zsh`.\n"
	             "_handoffctl_services() {\n"
	             "\tlocal at=${opt_args[-s]:-${opt_args[--socket]:-$socket}}\n"
	             "\tlocal -a names\n"
	             "\tnames=(${(f)\"$(handoffctl ${at:+-s} ${at:+${(Q)at}} "
	             "completion services 2>/dev/null)\"})\n"
	             "\tcompadd -a names\n}\n"
	             "_handoffctl_commands() {\n\tlocal -a names\n\tnames=(\n");
	for (const struct command *c = commands; c->name; c++) {
		(void)printf("\t\t'%s:", c->name);
		zsh_text(c->help);
		(void)printf("'\n");
	}
	(void)printf("\t)\n\t_describe command names\n}\n"
	             "_handoffctl() {\n"
	             "\tlocal curcontext=$curcontext state line\n"
	             "\tlocal -A opt_args\n"
	             "\t_arguments -C");
	zsh_options(NULL);
	(void)printf(" \\\n\t\t\t'1:command:_handoffctl_commands' '*::argument:->argument'\n"
	             "\t[[ $state == argument ]] || return\n"
	             "\tlocal socket=${opt_args[-s]:-${opt_args[--socket]}}\n"
	             "\tcase $words[1] in\n");
	for (const struct command *c = commands; c->name; c++) {
		(void)printf("\t%s)\n\t\t_arguments", c->name);
		zsh_options(c);
		zsh_arguments(c);
		(void)printf("\n\t\t;;\n");
	}
	(void)printf("\tesac\n}\n_handoffctl \"$@\"\n");
}

/* Silence when handoffd is not there, or busy: nothing is offered then. */
static int print_services(struct ctl *ctl)
{
	_cleanup_json_ json_t *reply = NULL;
	json_t *name;
	size_t i;
	int r;

	ctl->patience = PATIENCE;
	r = client_ask(ctl, INTERFACE_MANAGER ".ListServices", json_object(), &reply);
	if (r)
		return r;
	json_array_foreach(json_object_get(reply, "services"), i, name)
	{
		put_text(stdout, json_string_value(name) ? json_string_value(name) : "", 0);
		(void)putchar('\n');
	}
	return 0;
}

int command_completion(struct ctl *ctl)
{
	const char *what = ctl->arguments[0];

	if (!strcmp(what, "services"))
		return print_services(ctl);
	if (!strcmp(what, "bash"))
		print_bash();
	else if (!strcmp(what, "zsh"))
		print_zsh();
	else
		return complain(
		        CODE_USAGE, "completion does not know \"%s\", but bash and zsh", what);
	return 0;
}
