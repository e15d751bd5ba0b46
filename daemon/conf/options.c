/* SPDX-License-Identifier: MIT */
/* The one-program form: options become the same raw tree as a file, so that exactly the same is
 * checked in the same way. */
#include "conf/load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "conf/build.h"
#include "conf/guard.h"

#define DEFAULT_LISTENER "listen"

static const struct key name_key = {
        .name = "name",
        .option = "name",
        .value_name = "NAME",
        .help = "name of the service (the command's)",
};

struct form {
	struct config *scratch;
	struct raw_block *root, *service;
	struct mistakes *m;
	const char *name;
};

static bool is_list(const struct key *k)
{
	return k->type == KEY_LIST || k->type == KEY_COMMAND || k->type == KEY_ENVIRON ||
	       k->type == KEY_DIALECT || k->type == KEY_CAPABILITIES || k->type == KEY_ADDRESS;
}

static const char *label_of(struct form *f, const char *key)
{
	char label[80];

	(void)snprintf(label, sizeof label, "--%s", key);
	return config_strdup(f->scratch, label);
}

static int add_value(struct form *f, struct raw_block *b, const struct key *key, const char *option,
        const char *text)
{
	struct raw_setting *s = raw_setting_find(b, key);
	const char *label;

	if (s && !is_list(key)) {
		mistakes_add(f->m, NULL, 0, "--%s: was already given; keep one of them", option);
		return 0;
	}
	if (!s) {
		label = label_of(f, option);
		s = label ? raw_setting_add(f->scratch, b, key, label, 0) : NULL;
	}
	return s && raw_value_add(f->scratch, s, text, 0) ? 0 : -ENOMEM;
}

/* "NAME=ADDRESS" or "ADDRESS". What is before "=" in a path is no name. */
static int add_listen(struct form *f, const struct key *key, const char *text)
{
	char name[CONFIG_MAX_NAME] = DEFAULT_LISTENER;
	const char *equal = strchr(text, '=');
	struct raw_block *b;

	if (equal && (size_t)(equal - text) < sizeof name) {
		char before[CONFIG_MAX_NAME];

		memcpy(before, text, (size_t)(equal - text));
		before[equal - text] = '\0';
		if (name_is_valid(before)) {
			(void)copy_string(name, sizeof name, before);
			text = equal + 1;
		}
	}
	for (b = f->service->blocks; b; b = b->next)
		if (!strcmp(b->title, name))
			break;
	if (!b)
		b = raw_block_add(f->scratch, f->service, RAW_LISTEN, name, 0);
	return b ? add_value(f, b, key, "listen", text) : -ENOMEM;
}

static int add_option(struct form *f, const struct config_option *o)
{
	enum raw_kind kind;
	const struct key *key = key_by_option(o->key, &kind);
	const char *value = o->value;

	if (!value && key && key->type == KEY_BOOL)
		value = "yes";
	if (!key && strcmp(o->key, name_key.name) != 0) {
		mistakes_add(f->m, NULL, 0, "--%s: there is no such option; see --help", o->key);
		return 0;
	}
	if (!value) {
		mistakes_add(f->m, NULL, 0, "--%s: needs a value", o->key);
		return 0;
	}
	if (!text_is_plain(value)) {
		mistakes_add(f->m, NULL, 0,
		        "--%s: the value has control characters or is not UTF-8", o->key);
		return 0;
	}
	if (!key) {
		f->name = value;
		return 0;
	}
	if (kind == RAW_LISTEN)
		return add_listen(f, key, value);
	return add_value(f, kind == RAW_ROOT ? f->root : f->service, key, o->key, value);
}

/* The command's base name as a name of a service. */
static void default_name(const char *command, char *name, size_t size)
{
	const char *slash = strrchr(command, '/');
	const char *base = slash ? slash + 1 : command;
	size_t n = 0;

	for (; *base && n < size - 1; base++) {
		char one[2] = {*base, '\0'};

		name[n] = *base;
		if (n > 0 && !strchr("-.", *base) && !name_is_valid(one))
			name[n] = '-';
		if (n > 0 || name_is_valid(one))
			n++;
	}
	name[n] = '\0';
	if (n == 0)
		(void)copy_string(name, size, "service");
}

static int add_command(struct form *f, char *const *command)
{
	const struct key *key = key_find(RAW_SERVICE, NULL, "command");
	struct raw_setting *s = raw_setting_add(f->scratch, f->service, key, "command", 0);

	if (!s)
		return -ENOMEM;
	for (; *command; command++) {
		if (!strcmp(*command, GUARD_EMPTY_LIST))
			mistakes_add(f->m, NULL, 0,
			        "command: an argument is the control character \\x01 alone");
		else if (!raw_value_add(f->scratch, s, *command, 0))
			return -ENOMEM;
	}
	return 0;
}

/* Fills `f`'s tree, whose service has no title before all options are known. */
static int add_all(
        struct form *f, const struct config_option *options, size_t n_options, char *const *command)
{
	char name[CONFIG_MAX_NAME] = "service";
	int e = 0;

	f->root = raw_block_add(f->scratch, NULL, RAW_ROOT, NULL, 0);
	f->service = f->root ? raw_block_add(f->scratch, f->root, RAW_SERVICE, "", 0) : NULL;
	if (!f->service)
		return -ENOMEM;
	for (size_t i = 0; i < n_options && e == 0; i++)
		e = add_option(f, &options[i]);
	if (e == 0 && command && command[0]) {
		default_name(command[0], name, sizeof name);
		e = add_command(f, command);
	} else if (e == 0) {
		mistakes_add(f->m, NULL, 0,
		        "no command is given; write it behind the options: handoffd -l 8080 "
		        "bin/server");
	}
	f->service->title = config_strdup(f->scratch, f->name ? f->name : name);
	return f->service->title ? e : -ENOMEM;
}

int config_from_options(const struct config_option *options, size_t n_options, char *const *command,
        const char *environment, struct config **ret, struct mistakes *mistakes)
{
	_cleanup_(config_unrefp) struct config *c = config_new(), *scratch = config_new();
	struct maker mk = {.c = c, .m = mistakes};
	struct form f = {.scratch = scratch, .m = mistakes};
	const size_t before = mistakes->count;
	int e = c && scratch ? add_all(&f, options, n_options, command) : -ENOMEM;

	if (e == 0)
		e = build_config(&mk, f.root, environment, command && command[0]);
	if (e == -ENOMEM)
		mistakes_add(mistakes, NULL, 0, "memory is short");
	if (e == 0 && (mistakes->count > before || mistakes->more))
		e = -EINVAL;
	if (e == 0)
		*ret = take_ptr(c);
	return e;
}

bool config_is_option(const char *key, const char **ret_value_name, const char **ret_help)
{
	enum raw_kind kind;
	const struct key *k = !strcmp(key, name_key.name) ? &name_key : key_by_option(key, &kind);

	if (!k)
		return false;
	*ret_value_name = k->value_name;
	*ret_help = k->help;
	return true;
}

void config_each_option(
        void (*each)(void *data, const char *key, const char *value_name, const char *help),
        void *data)
{
	static const enum raw_kind kinds[] = {RAW_LISTEN, RAW_SERVICE, RAW_ROOT};

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		size_t n;
		const struct key *keys = keys_of(kinds[k], &n);

		for (size_t i = 0; i < n; i++)
			if (keys[i].option)
				each(data, keys[i].option, keys[i].value_name, keys[i].help);
		if (kinds[k] == RAW_LISTEN)
			each(data, name_key.option, name_key.value_name, name_key.help);
	}
}
