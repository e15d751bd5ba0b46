/* SPDX-License-Identifier: MIT */
/* Checks the text of one setting and stores what it means. Every value that is not wholly right
 * becomes a mistake that says what would be; nothing is stored then. Pure. */
#include "conf/keys.h"

#include <stdio.h>
#include <string.h>
#include <signal.h>
#include <sys/resource.h>

#include "conf/guard.h"
#include "core/capability.h"

#define MAX_ITEMS 4096

const char *shown(const char *text, char buffer[SHOWN_SIZE])
{
	size_t n = 0;

	for (; text[n] && n < SHOWN_SIZE - 4; n++)
		buffer[n] = (unsigned char)text[n] < ' ' || text[n] == 0x7f ? '?' : text[n];
	(void)copy_string(buffer + n, 4, text[n] ? "..." : "");
	return buffer;
}

void wrong(struct maker *mk, const struct raw_setting *s, int line, const char *format, ...)
{
	char what[600];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(what, sizeof what, format, ap);
	va_end(ap);
	mistakes_add(mk->m, mk->file, mk->file ? line : 0, "%s: %s", s->label, what);
}

/* "x" is not ...; what would be right. */
static void wrong_value(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, const char *what)
{
	char buffer[SHOWN_SIZE];

	wrong(mk, s, v->line, "\"%s\" is not %s", shown(v->text, buffer), what);
}

bool name_is_valid(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && n < CONFIG_MAX_NAME && name[0] != '-' && name[0] != '.' &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") ==
	               n;
}

static bool is_empty_list(const struct raw_value *v)
{
	return !strcmp(v->text, GUARD_EMPTY_LIST);
}

static const char *keep(struct maker *mk, const char *text)
{
	const char *copy = config_strdup(mk->c, text);

	if (!copy)
		mk->oom = true;
	return copy;
}

static void set_word(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, unsigned *target)
{
	struct nearest n = {.word = v->text};
	char choices[200], buffer[SHOWN_SIZE];
	struct text t = TEXT_ON(choices);

	for (unsigned i = 0; s->key->words[i]; i++) {
		if (!strcmp(s->key->words[i], v->text)) {
			*target = i;
			return;
		}
		nearest_try(&n, s->key->words[i]);
		text_add(&t, "%s%s",
		        !i                     ? ""
		        : s->key->words[i + 1] ? ", "
		                               : " or ",
		        s->key->words[i]);
	}
	if (n.best)
		wrong(mk, s, v->line, "\"%s\" is unknown; did you mean \"%s\"?",
		        shown(v->text, buffer), n.best);
	else
		wrong(mk, s, v->line, "\"%s\" is unknown; write %s", shown(v->text, buffer),
		        choices);
}

static void set_number(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, unsigned *target)
{
	char what[80];
	uint64_t n;

	if (parse_number(v->text, s->key->max, &n) && n >= s->key->min) {
		*target = (unsigned)n;
		return;
	}
	(void)snprintf(what, sizeof what, "a number from %u to %u", (unsigned)s->key->min,
	        (unsigned)s->key->max);
	wrong_value(mk, s, v, what);
}

static void set_nice(struct maker *mk, const struct raw_setting *s, const struct raw_value *v,
        struct service_config *service)
{
	bool negative = v->text[0] == '-';
	uint64_t n;

	if (!parse_number(v->text + negative, negative ? 20 : 19, &n)) {
		wrong_value(mk, s, v, "a number from -20 to 19");
		return;
	}
	service->nice = negative ? -(int)n : (int)n;
	service->nice_set = true;
}

static void set_octal(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, unsigned *target)
{
	size_t n = strlen(v->text);
	unsigned mode = 0;

	if (n < 1 || n > 4 || strspn(v->text, "01234567") != n) {
		wrong_value(mk, s, v, "an octal mode; write for example \"0022\"");
		return;
	}
	for (const char *p = v->text; *p; p++)
		mode = mode << 3 | (unsigned)(*p - '0');
	if (mode > s->key->max)
		wrong_value(mk, s, v, "an octal mode up to 0777");
	else
		*target = mode;
}

static void set_bool(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, bool *target)
{
	static const char *const words[] = {"no", "yes", "false", "true", "off", "on"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (!strcmp(words[i], v->text)) {
			*target = i % 2;
			return;
		}
	}
	wrong_value(mk, s, v, "yes or no");
}

static void set_duration(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, usec_t *target)
{
	const struct key *k = s->key;
	char low[32], high[32], buffer[SHOWN_SIZE];
	usec_t d;

	if (k->type == KEY_PAUSE && !strcmp(v->text, "off")) {
		*target = USEC_INFINITY;
	} else if (!parse_duration(v->text, &d)) {
		wrong_value(mk, s, v, "a duration; write for example \"20s\"");
	} else if (d > k->max) {
		wrong(mk, s, v->line, "\"%s\" is too long; at most %s", shown(v->text, buffer),
		        format_duration(k->max, high, sizeof high));
	} else if (d < k->min) {
		wrong(mk, s, v->line, "\"%s\" is too short; at least %s", shown(v->text, buffer),
		        format_duration(k->min, low, sizeof low));
	} else {
		*target = d;
	}
}

static void set_signal(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, int *target)
{
	int sig;

	if (!parse_signal(v->text, &sig))
		wrong_value(mk, s, v, "a signal; write for example \"TERM\" or \"QUIT\"");
	else if (sig == SIGKILL || sig == SIGSTOP)
		wrong(mk, s, v->line,
		        "a program cannot finish its work on %s; write for example "
		        "\"TERM\"",
		        v->text);
	else
		*target = sig;
}

static void set_string(struct maker *mk, const struct raw_setting *s, const struct raw_value *v,
        const char **target)
{
	if (!*v->text)
		wrong(mk, s, v->line, "an empty value says nothing; leave the key out");
	else
		*target = keep(mk, v->text);
}

static bool environ_item(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, size_t *ret_name)
{
	const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
	size_t n = strspn(v->text, letters);

	if (n == 0 || v->text[n] != '=' || strchr("0123456789", v->text[0])) {
		wrong_value(mk, s, v, "KEY=VALUE with a key of letters, digits and _");
		return false;
	}
	*ret_name = n;
	if (!strncmp(v->text, "HANDOFF_", 8) || !strncmp(v->text, "LISTEN_", 7) ||
	        !strncmp(v->text, "NOTIFY_SOCKET=", 14)) {
		wrong(mk, s, v->line,
		        "%.*s is set by handoffd itself; HANDOFF_*, LISTEN_* and "
		        "NOTIFY_SOCKET cannot be set",
		        n > 60 ? 60 : (int)n, v->text);
		return false;
	}
	return true;
}

/* Is the variable of `v` set by an item before it? */
static bool set_before(const struct string_list *list, const struct raw_value *v, size_t name)
{
	for (size_t i = 0; i < list->count; i++)
		if (!strncmp(list->items[i], v->text, name + 1))
			return true;
	return false;
}

static bool item_is_good(struct maker *mk, const struct raw_setting *s, const struct raw_value *v,
        const struct string_list *before)
{
	size_t name;

	switch ((int)s->key->type) {
	case KEY_ENVIRON:
		if (!environ_item(mk, s, v, &name))
			return false;
		if (set_before(before, v, name)) {
			wrong(mk, s, v->line, "%.*s is set twice; keep one of them",
			        name > 60 ? 60 : (int)name, v->text);
			return false;
		}
		return true;
	case KEY_COMMAND:
		if (*v->text || v != s->values)
			return true;
		wrong(mk, s, v->line, "the program's name is empty");
		return false;
	default:
		if (*v->text)
			return true;
		wrong(mk, s, v->line, "an empty item says nothing; leave it out");
		return false;
	}
}

static void set_list(struct maker *mk, const struct raw_setting *s, struct string_list *target)
{
	struct string_list list = {0};

	if (s->n_values > MAX_ITEMS) {
		wrong(mk, s, s->line, "has more than %d items", MAX_ITEMS);
		return;
	}
	/* A shell splits a line into words, handoffd does not. On the command line it was split. */
	if (s->key->type == KEY_COMMAND && s->n_values == 1 && mk->file &&
	        strchr(s->values->text, ' ')) {
		wrong(mk, s, s->line,
		        "write each argument as a string of its own: "
		        "{\"bin/server\", \"--port\", \"8080\"}");
		return;
	}
	list.items = config_alloc(mk->c, (s->n_values + 1) * sizeof *list.items);
	if (!list.items) {
		mk->oom = true;
		return;
	}
	for (const struct raw_value *v = s->values; v; v = v->next) {
		if (is_empty_list(v))
			continue;
		if (item_is_good(mk, s, v, &list))
			list.items[list.count++] = keep(mk, v->text);
		if (mk->oom)
			return;
	}
	if (list.count < s->key->min && is_empty_list(s->values))
		wrong(mk, s, s->line,
		        "is empty; write for example {\"bin/server\", \"--port\", "
		        "\"8080\"}");
	*target = list;
}

static void set_dialect(struct maker *mk, const struct raw_setting *s, unsigned *target)
{
	unsigned bits = 0;
	bool none = false;
	char buffer[SHOWN_SIZE];

	for (const struct raw_value *v = s->values; v; v = v->next) {
		struct nearest n = {.word = v->text};
		unsigned bit = 0;

		if (is_empty_list(v) || !strcmp(v->text, "none")) {
			none = true;
			continue;
		}
		for (unsigned i = 0; dialect_words[i]; i++) {
			if (!strcmp(dialect_words[i], v->text))
				bit = 1u << i;
			nearest_try(&n, dialect_words[i]);
		}
		bits |= bit;
		if (!bit && n.best)
			wrong(mk, s, v->line, "\"%s\" is unknown; did you mean \"%s\"?",
			        shown(v->text, buffer), n.best);
		else if (!bit)
			wrong(mk, s, v->line,
			        "\"%s\" is unknown; write systemd, server-starter, "
			        "einhorn, nginx, php-fpm, unicorn, puma, stdin or none",
			        shown(v->text, buffer));
	}
	if (none && bits)
		wrong(mk, s, s->line, "\"none\" stands alone");
	*target = bits;
}

static void wrong_capability(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v)
{
	struct nearest n = {.word = v->text};
	char buffer[SHOWN_SIZE];

	for (unsigned i = 0; capability_name(i); i++)
		nearest_try(&n, capability_name(i));
	if (n.best)
		wrong(mk, s, v->line, "\"%s\" is no capability; did you mean \"%s\"?",
		        shown(v->text, buffer), n.best);
	else
		wrong(mk, s, v->line,
		        "\"%s\" is no capability; write for example {\"net_bind_service\"}, "
		        "{\"none\"} or {\"all\"}",
		        shown(v->text, buffer));
}

/* Kept as one text: "all", "none", or "chown,kill". */
static void set_capabilities(struct maker *mk, const struct raw_setting *s, const char **target)
{
	const char *alone = is_empty_list(s->values) ? "none" : NULL;
	char names[1024] = "";
	struct text t = TEXT_ON(names);
	uint64_t bits = 0, more;

	for (const struct raw_value *v = s->values; v && !is_empty_list(v); v = v->next) {
		if (!strcmp(v->text, "all") || !strcmp(v->text, "none"))
			alone = v->text;
		else if (capabilities_parse(v->text, &more))
			bits |= more;
		else
			wrong_capability(mk, s, v);
	}
	if (alone && s->n_values > 1) {
		wrong(mk, s, s->line, "\"%s\" stands alone", alone);
		return;
	}
	capabilities_add(&t, bits, ",");
	*target = keep(mk, alone ? alone : names);
}

/* The forms with an argument: http:/path, exec:COMMAND, fd:N, after:TIME. False: none of them. */
static bool set_ready_form(struct maker *mk, const struct raw_setting *s, const struct raw_value *v,
        struct ready_config *r)
{
	uint64_t n;

	if (!strncmp(v->text, "http:", 5)) {
		r->by = READY_HTTP;
		r->argument = keep(mk, v->text + 5);
		if (v->text[5] != '/' || strpbrk(v->text, " \t\r\n") || !text_is_plain(v->text))
			wrong(mk, s, v->line,
			        "the path of http: begins with \"/\" and has no "
			        "blanks; write for example \"http:/healthz\"");
	} else if (!strncmp(v->text, "exec:", 5)) {
		r->by = READY_EXEC;
		r->argument = keep(mk, v->text + 5);
		if (!v->text[5 + strspn(v->text + 5, " \t\n")])
			wrong(mk, s, v->line,
			        "exec: needs a command; write for example "
			        "\"exec:bin/check\"");
	} else if (!strncmp(v->text, "fd:", 3)) {
		r->by = READY_FD;
		if (!parse_number(v->text + 3, 1023, &n) || n < 3)
			wrong(mk, s, v->line,
			        "fd: needs a descriptor from 3 to 1023; write for "
			        "example \"fd:3\"");
		else
			r->fd = (int)n;
	} else if (!strncmp(v->text, "after:", 6)) {
		r->by = READY_AFTER;
		if (!parse_duration(v->text + 6, &r->after) || r->after == USEC_INFINITY)
			wrong(mk, s, v->line,
			        "after: needs a duration; write for example "
			        "\"after:2s\"");
	} else {
		return false;
	}
	return true;
}

static void set_ready(struct maker *mk, const struct raw_setting *s, const struct raw_value *v,
        struct ready_config *target)
{
	struct ready_config r = {.fd = -1, .timeout = target->timeout};
	struct nearest n = {.word = v->text};
	char buffer[SHOWN_SIZE];

	if (set_ready_form(mk, s, v, &r)) {
		*target = r;
		return;
	}
	for (int by = READY_AUTO; by <= READY_LISTENING; by++) {
		if (!strcmp(v->text, ready_by_to_string((enum ready_by)by))) {
			r.by = (enum ready_by)by;
			*target = r;
			return;
		}
		nearest_try(&n, ready_by_to_string((enum ready_by)by));
	}
	if (n.best)
		wrong(mk, s, v->line, "\"%s\" is unknown; did you mean \"%s\"?",
		        shown(v->text, buffer), n.best);
	else
		wrong(mk, s, v->line,
		        "\"%s\" is unknown; write auto, notify, accepting, "
		        "listening, http:/path, exec:COMMAND, fd:N or after:TIME",
		        shown(v->text, buffer));
}

static bool parse_limit(const char *text, uint64_t *ret)
{
	if (!strcmp(text, "infinity") || !strcmp(text, "unlimited")) {
		*ret = UINT64_MAX;
		return true;
	}
	return parse_size(text, ret);
}

static void set_limit(struct maker *mk, const struct raw_setting *s, const struct raw_value *v,
        struct service_config *service)
{
	struct limit_config limit = {.resource = (int)s->key->offset}, *slot;
	char soft[24] = "";
	const char *colon = strchr(v->text, ':');
	size_t n = colon ? (size_t)(colon - v->text) : strlen(v->text);

	if (n < sizeof soft)
		memcpy(soft, v->text, n);
	soft[sizeof soft - 1] = '\0';
	if (!parse_limit(soft, &limit.soft) ||
	        !parse_limit(colon ? colon + 1 : soft, &limit.hard)) {
		wrong_value(mk, s, v,
		        "a limit; write for example \"65536\", \"1024:4096\" or "
		        "\"infinity\"");
		return;
	}
	if (limit.soft > limit.hard) {
		wrong(mk, s, v->line, "the soft limit (before \":\") is above the hard one");
		return;
	}
	if (!service->limits)
		service->limits = config_alloc(mk->c, RLIM_NLIMITS * sizeof *service->limits);
	if (!service->limits) {
		mk->oom = true;
		return;
	}
	for (slot = service->limits; slot < service->limits + service->n_limits; slot++)
		if (slot->resource == limit.resource)
			break;
	if (slot == service->limits + service->n_limits)
		service->n_limits++;
	*slot = limit;
}

static void set_scalar(
        struct maker *mk, const struct raw_setting *s, const struct raw_value *v, void *target)
{
	char *place = (char *)target + s->key->offset;

	switch (s->key->type) {
	case KEY_WORD:
		set_word(mk, s, v, (unsigned *)(void *)place);
		break;
	case KEY_NUMBER:
		set_number(mk, s, v, (unsigned *)(void *)place);
		break;
	case KEY_NICE:
		set_nice(mk, s, v, target);
		break;
	case KEY_OCTAL:
		set_octal(mk, s, v, (unsigned *)(void *)place);
		break;
	case KEY_BOOL:
		set_bool(mk, s, v, (bool *)place);
		break;
	case KEY_SIZE:
		if (!parse_size(v->text, (uint64_t *)(void *)place))
			wrong_value(mk, s, v, "a size; write for example \"512M\"");
		break;
	case KEY_DURATION:
	case KEY_PAUSE:
		set_duration(mk, s, v, (usec_t *)(void *)place);
		break;
	case KEY_SHARE:
		if (!parse_share(v->text, (unsigned *)(void *)place))
			wrong_value(mk, s, v, "a share from 0% to 100%; write for example \"5%\"");
		break;
	case KEY_SIGNAL:
		set_signal(mk, s, v, (int *)(void *)place);
		break;
	case KEY_STRING:
		set_string(mk, s, v, (const char **)(void *)place);
		break;
	case KEY_READY:
		set_ready(mk, s, v, &((struct service_config *)target)->ready);
		break;
	case KEY_LIMIT:
		set_limit(mk, s, v, target);
		break;
	case KEY_LIST:
	case KEY_COMMAND:
	case KEY_ENVIRON:
	case KEY_DIALECT:
	case KEY_CAPABILITIES:
	case KEY_ADDRESS:
		HO_ASSERT(!"a list is not a scalar");
	}
}

void key_set(struct maker *mk, const struct raw_setting *s, void *target)
{
	char *place = (char *)target + s->key->offset;

	switch ((int)s->key->type) {
	case KEY_LIST:
	case KEY_COMMAND:
	case KEY_ENVIRON:
		set_list(mk, s, (struct string_list *)(void *)place);
		break;
	case KEY_DIALECT:
		set_dialect(mk, s, (unsigned *)(void *)place);
		break;
	case KEY_CAPABILITIES:
		set_capabilities(mk, s, (const char **)(void *)place);
		break;
	default:
		if (s->n_values != 1 || is_empty_list(s->values))
			wrong(mk, s, s->line, "takes one value, not a list");
		else
			set_scalar(mk, s, s->values, target);
	}
}
