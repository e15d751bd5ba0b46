/* SPDX-License-Identifier: MIT */
#include "state/fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "system/fd.h"

/* ---- saving ---- */

void saver_begin(struct saver *v, bool with_fds)
{
	*v = (struct saver){.fds = with_fds ? json_object() : NULL, .configs = json_object()};
	v->failed = !v->configs || (with_fds && !v->fds);
}

void saver_done(struct saver *v)
{
	json_decref(v->fds);
	json_decref(v->configs);
	free(v->known);
	*v = (struct saver){.failed = v->failed};
}

void save_member(struct saver *v, json_t *object, const char *key, json_t *value)
{
	if (json_object_set_new(object, key, value) < 0)
		v->failed = true;
}

void save_item(struct saver *v, json_t *array, json_t *value)
{
	if (json_array_append_new(array, value) < 0)
		v->failed = true;
}

void save_fd(struct saver *v, int fd, const char *format, ...)
{
	char name[128];
	va_list ap;

	if (fd < 0 || !v->fds)
		return;
	va_start(ap, format);
	(void)vsnprintf(name, sizeof name, format, ap);
	va_end(ap);
	save_member(v, v->fds, name, json_integer(fd));
}

/* What is no UTF-8 is a list of numbers. */
json_t *save_text(const char *bytes, size_t n)
{
	json_t *j = memchr(bytes, 0, n) ? NULL : json_stringn(bytes, n);

	if (j)
		return j;
	j = json_array();
	for (size_t i = 0; j && i < n; i++)
		if (json_array_append_new(j, json_integer((unsigned char)bytes[i])) < 0) {
			json_decref(j);
			return NULL;
		}
	return j;
}

static json_t *save_string(const char *s)
{
	return s ? save_text(s, strlen(s)) : json_null();
}

static json_t *save_strings(struct saver *v, const struct string_list *list)
{
	json_t *j = json_array();

	for (size_t i = 0; i < list->count; i++)
		save_item(v, j, save_string(list->items[i]));
	return j;
}

static uint64_t read_unsigned(const void *at, size_t size)
{
	uint64_t value = 0; /* little endian machines only: see CMakeLists.txt */

	memcpy(&value, at, size);
	return value;
}

static json_t *save_field(struct saver *v, const struct field *f, const void *at)
{
	switch (f->kind) {
	case FIELD_BOOL:
		return json_boolean(*(const bool *)at);
	case FIELD_SIGNED:
		return json_integer(*(const int *)at);
	case FIELD_UNSIGNED: /* above INT64_MAX, as USEC_INFINITY, it is negative */
		return json_integer((json_int_t)read_unsigned(at, f->size));
	case FIELD_NAMED:
		return json_string(f->to_name(*(const unsigned *)at));
	case FIELD_TEXT:
		return save_text(at, strnlen(at, f->size));
	case FIELD_BYTES: {
		json_t *j = json_array();

		for (size_t i = 0; i < f->size; i++)
			save_item(v, j, json_integer(((const uint8_t *)at)[i]));
		return j;
	}
	case FIELD_STRING:
	case FIELD_STATIC:
		return save_string(*(const char *const *)at);
	case FIELD_STRINGS:
		return save_strings(v, at);
	case FIELD_LEFT_OUT:
		break;
	}
	return json_null();
}

static bool is_zero(const struct field *f, const char *at)
{
	switch (f->kind) {
	case FIELD_BOOL:
	case FIELD_SIGNED:
	case FIELD_UNSIGNED:
		return read_unsigned(at, f->size) == 0;
	case FIELD_TEXT:
		return !*at;
	case FIELD_STRING:
	case FIELD_STATIC:
		return !*(const char *const *)(const void *)at;
	case FIELD_NAMED:
	case FIELD_BYTES:
	case FIELD_STRINGS:
	case FIELD_LEFT_OUT:
		break;
	}
	return false;
}

json_t *save_fields(struct saver *v, const struct field *fields, size_t n, const void *from)
{
	json_t *object = json_object();

	for (size_t i = 0; i < n; i++) {
		const char *at = (const char *)from + fields[i].offset;

		if (fields[i].kind != FIELD_LEFT_OUT && !(v->brief && is_zero(&fields[i], at)))
			save_member(v, object, fields[i].name, save_field(v, &fields[i], at));
	}
	return object;
}

json_t *save_config(struct saver *v, struct config *c)
{
	struct config **known;
	size_t i, place = v->n_known;
	char number[24];

	if (!c)
		return json_integer(-1);
	for (i = 0; i < v->n_known; i++) {
		if (v->known[i] == c)
			return json_integer((json_int_t)i);
		if (!v->known[i])
			place = i;
	}
	if (place == v->n_known) {
		known = reallocarray(v->known, place + 1, sizeof *known);
		if (!known)
			return NULL;
		v->known = known;
		v->n_known++;
	}
	v->known[place] = c;
	(void)snprintf(number, sizeof number, "%zu", place);
	save_member(v, v->configs, number, config_to_json(v, c));
	return json_integer((json_int_t)place);
}

/* ---- loading ---- */

void loader_begin(struct loader *l, json_t *fds)
{
	*l = (struct loader){.fds = json_incref(fds)};
}

void loader_done(struct loader *l)
{
	const char *name;
	json_t *fd;

	json_object_foreach(l->fds, name, fd) close_fd((int)json_integer_value(fd));
	json_object_clear(l->fds);
	json_decref(l->fds);
	for (size_t i = 0; i < l->n_configs; i++)
		config_unref(l->configs[i]);
	free(l->configs);
	l->fds = NULL;
	l->configs = NULL;
	l->n_configs = 0;
}

void load_failed(struct loader *l, const char *format, ...)
{
	va_list ap;

	if (l->failed)
		return;
	l->failed = true;
	l->error.code = -74; /* EBADMSG */
	va_start(ap, format);
	(void)vsnprintf(l->error.text, sizeof l->error.text, format, ap);
	va_end(ap);
}

char *load_text(struct loader *l, const json_t *from, size_t *ret_n)
{
	size_t n = json_is_string(from) ? json_string_length(from) : json_array_size(from);
	char *text;

	if (!json_is_string(from) && !json_is_array(from))
		return NULL;
	text = malloc(n + 1);
	if (!text) {
		load_failed(l, "memory is short");
		return NULL;
	}
	if (json_is_string(from))
		memcpy(text, json_string_value(from), n);
	for (size_t i = 0; json_is_array(from) && i < n; i++)
		text[i] = (char)json_integer_value(json_array_get(from, i));
	text[n] = '\0';
	if (ret_n)
		*ret_n = n;
	return text;
}

static char *load_string(struct loader *l, const json_t *from)
{
	char *text = load_text(l, from, NULL), *copy;

	if (!text || !l->arena)
		return text;
	copy = config_strdup(l->arena, text);
	free(text);
	if (!copy)
		load_failed(l, "memory is short");
	return copy;
}

/* Text that lives for ever: there are few of them. */
static const char *load_static(struct loader *l, const json_t *from)
{
	static struct known {
		struct known *next;
		char text[];
	} * first;
	char *text = load_text(l, from, NULL);
	struct known *k;

	if (!text)
		return NULL;
	for (k = first; k && strcmp(k->text, text) != 0; k = k->next)
		;
	if (!k) {
		k = malloc(sizeof *k + strlen(text) + 1);
		if (k) {
			(void)strcpy(k->text, text);
			k->next = first;
			first = k;
		} else {
			load_failed(l, "memory is short");
		}
	}
	free(text);
	return k ? k->text : NULL;
}

static void load_strings(struct loader *l, const json_t *from, struct string_list *to)
{
	size_t n = json_array_size(from);

	HO_ASSERT(l->arena);
	to->items = config_alloc(l->arena, (n + 1) * sizeof *to->items);
	to->count = 0;
	if (!to->items) {
		load_failed(l, "memory is short");
		return;
	}
	for (; to->count < n; to->count++) {
		to->items[to->count] = load_string(l, json_array_get(from, to->count));
		if (!to->items[to->count]) {
			load_failed(l, "a list of strings has something else in it");
			return;
		}
	}
}

static bool load_unsigned(const json_t *j, void *to, size_t size)
{
	uint64_t value = (uint64_t)json_integer_value(j);

	if (!json_is_integer(j) || (size < sizeof value && value >> (8 * size)))
		return false;
	memcpy(to, &value, size);
	return true;
}

static bool load_named(const struct field *f, const json_t *j, unsigned *to)
{
	const char *name = json_string_value(j);

	for (unsigned i = 0; name && i < f->n_names; i++)
		if (f->to_name(i) && !strcmp(f->to_name(i), name)) {
			*to = i;
			return true;
		}
	return false;
}

static bool load_bytes(const json_t *j, uint8_t *to, size_t size)
{
	for (size_t i = 0; i < size; i++)
		to[i] = (uint8_t)json_integer_value(json_array_get(j, i));
	return json_array_size(j) == size;
}

static bool load_chars(struct loader *l, const json_t *j, char *to, size_t size)
{
	_cleanup_free_ char *text = load_text(l, j, NULL);

	return text && copy_string(to, size, text);
}

/* False: it is not what it should be. */
static bool load_field(struct loader *l, const struct field *f, const json_t *j, void *to)
{
	switch (f->kind) {
	case FIELD_BOOL:
		*(bool *)to = json_is_true(j);
		return json_is_boolean(j);
	case FIELD_SIGNED:
		*(int *)to = (int)json_integer_value(j);
		return json_is_integer(j);
	case FIELD_UNSIGNED:
		return load_unsigned(j, to, f->size);
	case FIELD_NAMED:
		return load_named(f, j, to);
	case FIELD_TEXT:
		return load_chars(l, j, to, f->size);
	case FIELD_BYTES:
		return load_bytes(j, to, f->size);
	case FIELD_STRING:
		*(char **)to = load_string(l, j);
		return *(char **)to || json_is_null(j);
	case FIELD_STATIC:
		*(const char **)to = load_static(l, j);
		return *(const char **)to || json_is_null(j);
	case FIELD_STRINGS:
		load_strings(l, j, to);
		return json_is_array(j);
	case FIELD_LEFT_OUT:
		break;
	}
	return true;
}

/* See is_zero(). */
static bool has_zero(const struct field *f)
{
	return f->kind != FIELD_NAMED && f->kind != FIELD_BYTES && f->kind != FIELD_STRINGS &&
	       f->kind != FIELD_LEFT_OUT;
}

void load_fields(
        struct loader *l, const json_t *from, const struct field *fields, size_t n, void *to)
{
	if (!json_is_object(from)) {
		load_failed(l, "something is missing");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		const json_t *j = json_object_get(from, fields[i].name);

		if (!j && l->brief && has_zero(&fields[i]))
			memset((char *)to + fields[i].offset, 0, fields[i].size);
		if (j && !load_field(l, &fields[i], j, (char *)to + fields[i].offset))
			load_failed(
			        l, "\"%s\" is not what this version understands", fields[i].name);
	}
}

static json_t *find_fd(const struct loader *l, char *name, size_t size, const char *format,
        va_list ap) _printf_(4, 0);
static json_t *find_fd(
        const struct loader *l, char *name, size_t size, const char *format, va_list ap)
{
	(void)vsnprintf(name, size, format, ap);
	return json_object_get(l->fds, name);
}

int load_fd(struct loader *l, const char *format, ...)
{
	char name[128];
	json_t *j;
	va_list ap;
	int fd;

	va_start(ap, format);
	j = find_fd(l, name, sizeof name, format, ap);
	va_end(ap);
	if (!j)
		return -1;
	fd = (int)json_integer_value(j);
	(void)json_object_del(l->fds, name);
	return fd;
}

bool load_has_fd(const struct loader *l, const char *format, ...)
{
	char name[128];
	json_t *j;
	va_list ap;

	va_start(ap, format);
	j = find_fd(l, name, sizeof name, format, ap);
	va_end(ap);
	return j != NULL;
}

uint64_t load_number(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

struct config *load_config(struct loader *l, const json_t *number)
{
	json_int_t n = json_is_integer(number) ? json_integer_value(number) : -1;

	return n >= 0 && (size_t)n < l->n_configs ? l->configs[n] : NULL;
}

void load_configs(struct loader *l, const json_t *list)
{
	size_t n = json_array_size(list);

	l->configs = n <= CONFIGS_MAX ? calloc(n + 1, sizeof *l->configs) : NULL;
	if (!l->configs) {
		load_failed(l, "too many configurations, or memory is short");
		return;
	}
	for (l->n_configs = 0; l->n_configs < n && !l->failed; l->n_configs++) {
		const json_t *from = json_array_get(list, l->n_configs);

		if (!json_is_null(from))
			l->configs[l->n_configs] = config_from_json(l, from);
	}
}
