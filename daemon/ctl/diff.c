/* SPDX-License-Identifier: MIT */
/* What a reload would change: the settings that run, beside those of the file as it is now. */
#include <stdlib.h>
#include <string.h>

#include "conf/load.h"
#include "ctl/ctl.h"
#include "wire/interface.h"

#define MAX_DEPTH 4

/* One setting out of what config_print() has written; the strings point into that text. */
struct setting {
	const char *service; /* "" for the global ones */
	char *key;           /* "listen http.address"; owned */
	const char *value, *origin;
};
struct settings {
	struct setting *items;
	size_t n;
};

static void settings_done(struct settings *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->items[i].key);
	free(s->items);
}

/* "listen "http"" without its quotes. */
static char *name_of(char *block)
{
	char *to = block;

	for (char *from = block; *from; from++)
		if (*from != '"')
			*to++ = *from;
	*to = '\0';
	return block;
}

static bool add(struct settings *s, char *const *blocks, size_t depth, char *line, const char *origin)
{
	char *equal = strstr(line, " = "), key[300];
	struct text t = TEXT_ON(key);
	struct setting *items;

	if (!equal)
		return true;
	*equal = '\0';
	for (size_t i = 1; i < depth; i++)
		text_add(&t, "%s.", blocks[i]);
	text_add(&t, "%s", line);
	items = realloc(s->items, (s->n + 1) * sizeof *items);
	if (!items)
		return false;
	s->items = items;
	items[s->n] = (struct setting){.service = depth ? strchr(blocks[0], ' ') + 1 : "",
	        .key = strdup(key),
	        .value = equal + 3,
	        .origin = origin};
	return items[s->n++].key != NULL;
}

/* Takes the lines apart; `text` is changed and stays in use. */
static bool read_settings(char *text, struct settings *s)
{
	char *blocks[MAX_DEPTH], *next;
	size_t depth = 0;

	for (char *line = text; line; line = next) {
		char *origin = NULL;
		size_t n;

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		line += strspn(line, "\t");
		for (char *at = line; (at = strstr(at, "  # ")); at += 4)
			origin = at;
		if (origin) {
			*origin = '\0';
			origin += 4;
		}
		n = strlen(line);
		if (!strcmp(line, "}") && depth) {
			depth--;
		} else if (n > 2 && !strcmp(line + n - 2, " {") && depth < MAX_DEPTH) {
			line[n - 2] = '\0';
			blocks[depth++] = name_of(line);
		} else if (!add(s, blocks, depth, line, origin ? origin : "")) {
			return false;
		}
	}
	return true;
}

int config_show_json(const struct config *config)
{
	_cleanup_free_ char *text = config_print(config);
	_cleanup_json_ json_t *list = json_array();
	_cleanup_json_ json_t *j = list ? json_pack("{s:i, s:O}", "version", 1, "settings", list) : NULL;
	struct settings s = {0};
	int r = 0;

	if (!text || !j || !read_settings(text, &s))
		r = complain(CODE_FAILED, "memory is short");
	for (size_t i = 0; !r && i < s.n; i++)
		(void)json_array_append_new(list,
		        json_pack("{s:o, s:o, s:o, s:o}", "service",
		                *s.items[i].service ? wire_string(s.items[i].service) : json_null(),
		                "key", wire_string(s.items[i].key), "value",
		                wire_string(s.items[i].value), "where",
		                wire_string(s.items[i].origin)));
	if (!r)
		put_json(j);
	settings_done(&s);
	return r;
}

static const struct setting *find(const struct settings *s, const char *service, const char *key)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->items[i].service, service) &&
		        (!key || !strcmp(s->items[i].key, key)))
			return &s->items[i];
	return NULL;
}

struct changes {
	json_t *list;
	bool plain;
};

static json_t *maybe(const char *text)
{
	return text ? wire_string(text) : json_null();
}

/* `key` NULL: the whole service. */
static void change(struct changes *c, const char *service, const char *key, const char *before,
        const char *after, const char *origin)
{
	char line[1024];
	struct text t = TEXT_ON(line);

	(void)json_array_append_new(
	        c->list, json_pack("{s:o, s:o, s:o, s:o, s:o}", "service",
	                         maybe(*service ? service : NULL), "key", maybe(key), "before",
	                         maybe(before), "after", maybe(after), "where", maybe(origin)));
	if (!c->plain)
		return;
	if (!key)
		text_add(&t, "%s: %s", service,
		        after ? "a new service, it is started"
		              : "not in the file any more, it is drained and stopped");
	else
		text_add(&t, "%s%s%s: %s -> %s", service, *service ? ": " : "", key,
		        before ? before : "(none)", after ? after : "(none)");
	if (after && origin && strcmp(origin, "default") != 0)
		text_add(&t, "  (%s)", origin);
	put_text(stdout, line, 0);
	(void)putchar('\n');
}

static void compare(struct changes *c, const struct settings *a, const struct settings *b)
{
	const char *last = "";

	for (size_t i = 0; i < a->n; i++) {
		const struct setting *s = &a->items[i], *now = find(b, s->service, s->key);

		if (*s->service && !find(b, s->service, NULL)) {
			if (strcmp(last, s->service) != 0)
				change(c, s->service, NULL, s->service, NULL, NULL);
			last = s->service;
		} else if (!now) {
			change(c, s->service, s->key, s->value, NULL, NULL);
		} else if (strcmp(s->value, now->value) != 0) {
			change(c, s->service, s->key, s->value, now->value, now->origin);
		}
	}
	last = "";
	for (size_t i = 0; i < b->n; i++) {
		const struct setting *s = &b->items[i];

		if (*s->service && !find(a, s->service, NULL)) {
			if (strcmp(last, s->service) != 0)
				change(c, s->service, NULL, NULL, s->service, s->origin);
			last = s->service;
		} else if (!find(a, s->service, s->key)) {
			change(c, s->service, s->key, NULL, s->value, s->origin);
		}
	}
}

int config_diff(const struct ctl *ctl, const char *running, const struct config *config)
{
	_cleanup_free_ char *before = strdup(running);
	_cleanup_free_ char *after = config_print(config);
	struct settings a = {0}, b = {0};
	struct changes c = {.list = json_array(), .plain = !ctl->json};
	int r = 0;

	if (!before || !after || !c.list || !read_settings(before, &a) ||
	        !read_settings(after, &b)) {
		r = complain(CODE_FAILED, "memory is short");
	} else {
		compare(&c, &a, &b);
		if (ctl->json) {
			_cleanup_json_ json_t *j =
			        json_pack("{s:i, s:O}", "version", 1, "changes", c.list);

			if (j)
				put_json(j);
		} else if (!json_array_size(c.list)) {
			(void)puts("no setting would change");
		}
	}
	settings_done(&a);
	settings_done(&b);
	json_decref(c.list);
	return r;
}
