/* SPDX-License-Identifier: MIT */
/* The effective configuration in the file's own syntax; what it prints can be loaded again. */
#include "conf/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>

#include "conf/build.h"
#include "conf/guard.h"
#include "core/capability.h"

/* In double quotes, with escapes for what the file must not contain. */
static void print_quoted(FILE *f, const char *text)
{
	const bool plain = text_is_plain(text);

	(void)fputc('"', f);
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p == '\n')
			(void)fputs("\\n", f);
		else if (*p == '"' || *p == '\\' || *p == '$')
			(void)fprintf(f, "\\%c", *p);
		else if (*p < ' ' || *p == 0x7f || (*p >= 0x80 && !plain))
			(void)fprintf(f, "\\x%02x", *p);
		else
			(void)fputc(*p, f);
	}
	(void)fputc('"', f);
}

static void print_list(FILE *f, const struct string_list *list)
{
	(void)fputc('{', f);
	for (size_t i = 0; i < list->count; i++) {
		(void)fputs(i ? ", " : "", f);
		print_quoted(f, list->items[i]);
	}
	(void)fputc('}', f);
}

static void print_origin(FILE *f, struct origin o)
{
	char buffer[SHOWN_SIZE];

	if (!o.file)
		(void)fputs("  # default\n", f);
	else if (o.line)
		(void)fprintf(f, "  # %s:%d\n", shown(o.file, buffer), o.line);
	else
		(void)fprintf(f, "  # %s\n", shown(o.file, buffer));
}

static void format_size(uint64_t n, char *buffer, size_t size)
{
	static const char letters[] = "KMGT";
	char letter[2] = "";

	for (size_t i = 0; n && n % 1024 == 0 && letters[i]; i++) {
		n /= 1024;
		letter[0] = letters[i];
	}
	(void)snprintf(buffer, size, "%llu%s", (unsigned long long)n, letter);
}

static void format_limit(uint64_t n, char *buffer, size_t size)
{
	if (n == UINT64_MAX)
		(void)copy_string(buffer, size, "infinity");
	else
		(void)snprintf(buffer, size, "%llu", (unsigned long long)n);
}

static const struct limit_config *find_limit(const struct service_config *s, const struct key *k)
{
	for (size_t i = 0; i < s->n_limits; i++)
		if (s->limits[i].resource == (int)k->offset)
			return &s->limits[i];
	return NULL;
}

static bool format_ready(FILE *f, const struct ready_config *r)
{
	char *text = NULL, duration[40];
	int n;

	switch ((int)r->by) {
	case READY_HTTP:
	case READY_EXEC:
		n = asprintf(&text, "%s:%s", ready_by_to_string(r->by), r->argument);
		break;
	case READY_FD:
		n = asprintf(&text, "fd:%d", r->fd);
		break;
	case READY_AFTER:
		n = asprintf(
		        &text, "after:%s", format_duration(r->after, duration, sizeof duration));
		break;
	default:
		n = asprintf(&text, "%s", ready_by_to_string(r->by));
	}
	if (n < 0)
		return false;
	print_quoted(f, text);
	free(text);
	return true;
}

static void print_dialects(FILE *f, unsigned bits)
{
	bool first = true;

	(void)fputc('{', f);
	for (unsigned i = 0; dialect_words[i]; i++) {
		if (!(bits & 1u << i))
			continue;
		(void)fprintf(f, "%s\"%s\"", first ? "" : ", ", dialect_words[i]);
		first = false;
	}
	(void)fputs(bits ? "}" : "\"none\"}", f);
}

/* The words are plain. */
static void print_capabilities(FILE *f, const char *text)
{
	(void)fputs("{\"", f);
	for (; *text; text++)
		if (*text == ',')
			(void)fputs("\", \"", f);
		else
			(void)fputc(*text, f);
	(void)fputs("\"}", f);
}

static void print_signal(FILE *f, int sig)
{
	const char *name = sigabbrev_np(sig);

	if (name)
		(void)fprintf(f, "\"%s\"", name);
	else
		(void)fprintf(f, "\"%d\"", sig);
}

static void print_share(FILE *f, unsigned share)
{
	if (share % 100)
		(void)fprintf(f, "\"%u.%02u%%\"", share / 100, share % 100);
	else
		(void)fprintf(f, "\"%u%%\"", share / 100);
}

/* The value of a key that has a simple type, as it is written behind "=". */
static bool print_simple(FILE *f, const struct key *k, const void *place)
{
	char buffer[64];

	switch ((int)k->type) {
	case KEY_WORD:
		(void)fprintf(f, "\"%s\"", k->words[*(const unsigned *)place]);
		break;
	case KEY_NUMBER:
		(void)fprintf(f, "%u", *(const unsigned *)place);
		break;
	case KEY_OCTAL:
		(void)fprintf(f, "\"%04o\"", *(const unsigned *)place);
		break;
	case KEY_BOOL:
		(void)fputs(*(const bool *)place ? "yes" : "no", f);
		break;
	case KEY_SIZE:
		format_size(*(const uint64_t *)place, buffer, sizeof buffer);
		(void)fprintf(f, "\"%s\"", buffer);
		break;
	case KEY_PAUSE:
	case KEY_DURATION:
		(void)format_duration(*(const usec_t *)place, buffer, sizeof buffer);
		(void)fprintf(f, "\"%s\"",
		        k->type == KEY_PAUSE && *(const usec_t *)place == USEC_INFINITY ? "off"
		                                                                        : buffer);
		break;
	case KEY_SHARE:
		print_share(f, *(const unsigned *)place);
		break;
	case KEY_SIGNAL:
		print_signal(f, *(const int *)place);
		break;
	case KEY_STRING:
		print_quoted(f, *(const char *const *)place);
		break;
	case KEY_CAPABILITIES:
		print_capabilities(f, *(const char *const *)place);
		break;
	case KEY_LIST:
	case KEY_COMMAND:
	case KEY_ENVIRON:
		print_list(f, place);
		break;
	case KEY_DIALECT:
		print_dialects(f, *(const unsigned *)place);
		break;
	default:
		return false;
	}
	return true;
}

static bool print_value(FILE *f, const struct service_config *s, const struct key *k)
{
	const struct limit_config *limit;
	char soft[32], hard[32];

	switch ((int)k->type) {
	case KEY_NICE:
		(void)fprintf(f, "%d", s->nice);
		return true;
	case KEY_READY:
		return format_ready(f, &s->ready);
	case KEY_LIMIT:
		limit = find_limit(s, k);
		format_limit(limit->soft, soft, sizeof soft);
		format_limit(limit->hard, hard, sizeof hard);
		(void)fprintf(f, "\"%s:%s\"", soft, hard);
		return true;
	default:
		return print_simple(f, k, (const char *)s + k->offset);
	}
}

/* Has the key a value that can be written? What is not set at all cannot. */
static bool has_value(const struct service_config *s, const struct key *k)
{
	const void *place = (const char *)s + k->offset;

	switch ((int)k->type) {
	case KEY_NICE:
		return s->nice_set;
	case KEY_OCTAL:
		return s->umask >= 0;
	case KEY_LIMIT:
		return find_limit(s, k) != NULL;
	case KEY_STRING:
	case KEY_CAPABILITIES:
		return *(const char *const *)place != NULL;
	case KEY_LIST:
	case KEY_COMMAND:
	case KEY_ENVIRON:
		return ((const struct string_list *)place)->count > 0;
	default:
		return true;
	}
}

static bool same_listener(const struct listener_config *a, const struct listener_config *b)
{
	return !strcmp(a->name, b->name);
}

static void print_listener(FILE *f, const struct service_config *s, size_t from, size_t to)
{
	const struct listener_config *l = &s->listeners[from];
	bool has_path = false;

	(void)fprintf(f, "\tlisten \"%s\" {\n\t\taddress = {", l->name);
	for (size_t i = from; i < to; i++) {
		has_path = has_path || s->listeners[i].address.kind == ADDRESS_UNIX;
		(void)fputs(i > from ? ", " : "", f);
		print_quoted(f, s->listeners[i].address.text);
	}
	(void)fputc('}', f);
	print_origin(f, l->origin);
	(void)fprintf(f, "\t\tbacklog = %d\n", l->backlog);
	if (has_path)
		(void)fprintf(f, "\t\tmode = \"%04o\"\n", (unsigned)l->mode);
	if (l->owner) {
		(void)fputs("\t\towner = ", f);
		print_quoted(f, l->owner);
		(void)fputc('\n', f);
	}
	if (l->group) {
		(void)fputs("\t\tgroup = ", f);
		print_quoted(f, l->group);
		(void)fputc('\n', f);
	}
	(void)fputs("\t}\n", f);
}

/* A remark, as no value says the same. */
static void print_usual_capabilities(FILE *f, const struct service_config *s)
{
	char names[400];
	struct text t = TEXT_ON(names);

	capabilities_add(&t, CAPABILITIES_OF_WORKERS, ", ");
	if (s->user && strcmp(s->user, "root") != 0)
		(void)fputs("\t# capabilities: none", f);
	else
		(void)fprintf(f, "\t# capabilities: as root at most %s; otherwise none", names);
	(void)fputs("  # default\n", f);
}

static bool print_service(FILE *f, const struct service_config *s)
{
	size_t n, open = 0, to;
	const struct key *keys = keys_of(RAW_SERVICE, &n);
	bool good = true;

	(void)fprintf(f, "\nservice \"%s\" {", s->name);
	print_origin(f, s->origin);
	for (size_t i = 0; i < s->n_listeners; i = to) {
		for (to = i + 1; to < s->n_listeners; to++)
			if (!same_listener(&s->listeners[i], &s->listeners[to]))
				break;
		print_listener(f, s, i, to);
	}
	for (size_t i = 0; i < n; i++) {
		const struct key *k = &keys[i];
		size_t section = key_section_length(k);
		const struct origin *o = origin_of(s, k->name);

		if (k->type == KEY_CAPABILITIES && !s->capabilities)
			print_usual_capabilities(f, s);
		if (!has_value(s, k))
			continue;
		if (open &&
		        strncmp(keys[open].name, k->name, key_section_length(&keys[open]) + 1)) {
			(void)fputs("\t}\n", f);
			open = 0;
		}
		if (section && !open) {
			(void)fprintf(f, "\t%.*s {\n", (int)section, k->name);
			open = i;
		}
		(void)fprintf(f, "%s\t%s = ", open ? "\t" : "", key_leaf(k));
		good = print_value(f, s, k) && good;
		print_origin(f, o ? *o : (struct origin){0});
	}
	(void)fputs(open ? "\t}\n}\n" : "}\n", f);
	return good;
}

char *config_print(const struct config *c)
{
	char *text = NULL;
	size_t size, n;
	const struct key *keys = keys_of(RAW_ROOT, &n);
	FILE *f = open_memstream(&text, &size);
	bool good = true;

	if (!f)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		const char *const *value = (const void *)((const char *)c + keys[i].offset);

		if (!*value)
			continue;
		(void)fprintf(f, "%s = ", keys[i].name);
		print_quoted(f, *value);
		print_origin(
		        f, i < c->n_global_origins ? c->global_origins[i] : (struct origin){0});
	}
	for (size_t i = 0; i < c->n_services; i++)
		good = print_service(f, &c->services[i]) && good;
	if (ferror(f))
		good = false;
	if (fclose(f) != 0 || !good) {
		free(text);
		return NULL;
	}
	return text;
}
