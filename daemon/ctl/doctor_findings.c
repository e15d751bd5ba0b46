/* SPDX-License-Identifier: MIT */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/doctor.h"

static const char *const verdicts[] = {
        [VERDICT_GOOD] = "good",
        [VERDICT_NOTE] = "note",
        [VERDICT_BAD] = "bad",
};

static const struct {
	unsigned bit;
	const char *name;
} dialects[] = {
        {DIALECT_SYSTEMD, "systemd"},
        {DIALECT_SERVER_STARTER, "server-starter"},
        {DIALECT_EINHORN, "einhorn"},
        {DIALECT_NGINX, "nginx"},
        {DIALECT_PHP_FPM, "php-fpm"},
        {DIALECT_UNICORN, "unicorn"},
        {DIALECT_PUMA, "puma"},
        {DIALECT_STDIN, "stdin"},
};

void finding(struct findings *f, const char *check, enum verdict v, const char *format, ...)
{
	char text[3000];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	(void)json_array_append_new(
	        f->list, json_pack("{s:s, s:s, s:o}", "check", check, "verdict", verdicts[v],
	                         "text", wire_text(text, strlen(text))));
}

static bool is_graceful(const struct farewell *w)
{
	return w->tried && w->exited && !w->left && w->had_request && w->answered;
}

int findings_signal(const struct findings *f)
{
	if (is_graceful(&f->term) || !f->quit.exited)
		return SIGTERM;
	return is_graceful(&f->quit) || !f->term.exited ? SIGQUIT : SIGTERM;
}

/* ---- the block ---- */

static void put_string(FILE *f, const char *s)
{
	(void)fputc('"', f);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			(void)fputc('\\', f);
		(void)fputc(*s, f);
	}
	(void)fputc('"', f);
}

static void put_list(FILE *f, const char *key, const struct string_list *l)
{
	if (!l->count)
		return;
	(void)fprintf(f, "\t%s = {", key);
	for (size_t i = 0; i < l->count; i++) {
		(void)fputs(i ? ", " : "", f);
		put_string(f, l->items[i]);
	}
	(void)fputs("}\n", f);
}

static void put_setting(FILE *f, const char *key, const char *value)
{
	if (!value)
		return;
	(void)fprintf(f, "\t%s = ", key);
	put_string(f, value);
	(void)fputc('\n', f);
}

static void put_capabilities(FILE *f, const char *names)
{
	if (names) /* several in one string are understood as well */
		(void)fprintf(f, "\tcapabilities = {\"%s\"}\n", names);
}

static void put_listeners(FILE *f, const struct service_config *s)
{
	for (size_t i = 0; i < s->n_listeners; i++) {
		bool first = true;

		for (size_t k = 0; k < i; k++)
			first &= strcmp(s->listeners[i].name, s->listeners[k].name) != 0;
		if (!first)
			continue;
		(void)fputs("\tlisten ", f);
		put_string(f, s->listeners[i].name);
		(void)fputs(" { address = {", f);
		for (size_t k = i; k < s->n_listeners; k++) {
			if (strcmp(s->listeners[i].name, s->listeners[k].name) != 0)
				continue;
			(void)fputs(k > i ? ", " : "", f);
			put_string(f, s->listeners[k].address.text);
		}
		(void)fputs("} }\n", f);
	}
}

static void put_dialect(FILE *f, unsigned bits)
{
	const char *between = "\tdialect = {";

	if (bits == DIALECT_SYSTEMD || !bits)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(dialects); i++) {
		if (!(bits & dialects[i].bit))
			continue;
		(void)fprintf(f, "%s\"%s\"", between, dialects[i].name);
		between = ", ";
	}
	(void)fputs("}\n", f);
}

char *findings_block(const struct findings *f, const struct service_config *s)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	if (!out)
		return NULL;
	(void)fputs("service ", out);
	put_string(out, s->name);
	(void)fputs(" {\n", out);
	put_list(out, "command", &s->command);
	put_setting(out, "directory", s->directory);
	put_setting(out, "user", s->user);
	put_setting(out, "group", s->group);
	put_capabilities(out, s->capabilities);
	put_list(out, "environ", &s->environ);
	put_list(out, "environment-file", &s->environment_files);
	if (s->workers > 1)
		(void)fprintf(out, "\tworkers = %u\n", s->workers);
	put_listeners(out, s);
	if (s->n_listeners)
		(void)fprintf(out, "\tsockets = \"%s\"\n", f->adopted ? "adopt" : "pass");
	if (!f->adopted)
		put_dialect(out, f->dialect);
	if (!f->adopted && f->listen_pid == LISTEN_PID_NONE)
		put_setting(out, "listen-pid", "none");
	(void)fprintf(out, "\tready { by = \"%s\" }\n",
	        f->says_ready    ? "notify"
	        : s->n_listeners ? "accepting"
	                         : "auto");
	if (findings_signal(f) == SIGQUIT)
		(void)fputs("\tdrain { signal = \"QUIT\" }\n", out);
	(void)fputs("}\n", out);
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}

/* ---- the answer ---- */

/* The first line goes on behind what is there, further ones are indented. */
static void print_text(const char *text)
{
	size_t n = strcspn(text, "\n");
	_cleanup_free_ char *first = strndup(text, n);

	put_text(stdout, first ? first : "", 0);
	(void)fputc('\n', stdout);
	while (text[n] == '\n')
		n++;
	if (text[n])
		put_lines(stdout, "          ", text + n);
}

static void print_words(
        const struct findings *f, const struct shield *shield, const struct service_config *s)
{
	static const char *const marks[] = {"ok  ", "note", "BAD "};
	const json_t *item;
	size_t i;

	(void)printf("%s, tried aside: processes and network of its own, files covered by a layer "
	             "in memory%s%s%s\n\n",
	        s->name, *shield->bare ? " (read-only: " : "", shield->bare,
	        *shield->bare ? ")" : "");
	json_array_foreach(f->list, i, item)
	{
		const char *v = member(item, "verdict");
		int k = !strcmp(v, "good") ? 0 : !strcmp(v, "note") ? 1 : 2;

		(void)printf("  %s  %s: ", marks[k], member(item, "check"));
		print_text(member(item, "text"));
	}
	(void)fputc('\n', stdout);
}

int findings_print(const struct findings *f, const struct shield *shield,
        const struct service_config *s, bool as_json)
{
	_cleanup_free_ char *block = f->ran ? findings_block(f, s) : NULL;
	int code = f->ran && f->replaced ? CODE_DONE : CODE_FAILED;

	if (as_json) {
		_cleanup_json_ json_t *j = json_pack("{s:i, s:o, s:b, s:O, s:o, s:o}", "version", 1,
		        "service", wire_string(s->name), "fit", code == CODE_DONE, "findings",
		        f->list, "read_only", wire_string(*shield->bare ? shield->bare : NULL),
		        "configuration", wire_string(block));

		if (j)
			put_json(j);
		return code;
	}
	print_words(f, shield, s);
	if (block)
		(void)fputs(block, stdout);
	else
		(void)printf("No configuration can be given for a program that does not run.\n");
	return code;
}
