/* SPDX-License-Identifier: MIT */
#include "conf/procfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/guard.h"
#include "conf/keys.h"

#define FIRST_PORT 5000
#define PORT_STEP 100
#define MAX_LINE 8192

bool procfile_is_one(const char *file)
{
	const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;

	return !strcmp(name, "Procfile") || !strncmp(name, "Procfile.", 9);
}

/* One setting with up to three values. */
static int set(struct config *scratch, struct raw_block *b, const char *name, int line,
        const char *one, const char *two, const char *three)
{
	const struct key *key = key_find(b->kind, NULL, name);
	struct raw_setting *s = raw_setting_add(scratch, b, key, key->name, line);
	const char *const values[] = {one, two, three};

	for (size_t i = 0; s && i < ARRAY_SIZE(values) && values[i]; i++)
		if (!raw_value_add(scratch, s, values[i], line))
			return -ENOMEM;
	return s ? 0 : -ENOMEM;
}

/* ".env" beside the Procfile, or NULL. */
static const char *env_file(const char *file, char *buffer, size_t size)
{
	const char *slash = strrchr(file, '/');
	struct text t = {.p = buffer, .size = size};

	buffer[0] = '\0';
	text_add(&t, "%.*s.env", slash ? (int)(slash + 1 - file) : 0, file);
	return !t.cut && access(buffer, F_OK) == 0 ? buffer : NULL;
}

/* May the program take the place of the shell, so that it is told itself to stop? */
static bool is_simple(const char *command)
{
	static const char *const words[] = {"cd ", "exec ", "export ", "if ", "for ", "while ",
	        "until ", "case ", "set ", "source ", ". ", "test ", "echo ", "trap ", "umask ",
	        "unset ", "eval ", "ulimit "};
	size_t name = strspn(command, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	                              "0123456789_./-+");

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strncmp(command, words[i], strlen(words[i])))
			return false;
	return name && (command[name] == ' ' || !command[name]) && !strpbrk(command, ";&|()`<>{}");
}

static int add_service(struct config *scratch, struct raw_block *root, const char *file,
        const char *name, const char *command, int line)
{
	struct raw_block *s = raw_block_add(scratch, root, RAW_SERVICE, name, line), *l;
	const char *env = getenv("PORT");
	char path[1024], variable[32], port[16], whole[MAX_LINE + 8];
	uint64_t first = FIRST_PORT;
	int r;

	if (!s)
		return -ENOMEM;
	if (env)
		(void)parse_number(env, 65535, &first);
	(void)snprintf(port, sizeof port, "%llu",
	        (unsigned long long)(first + PORT_STEP * (root->n_blocks - 1)));
	(void)snprintf(variable, sizeof variable, "PORT=%s", port);
	(void)snprintf(whole, sizeof whole, "%s%s", is_simple(command) ? "exec " : "", command);
	r = set(scratch, s, "command", line, "/bin/sh", "-c", whole);
	if (r == 0)
		r = set(scratch, s, "environ", line, variable, NULL, NULL);
	if (r == 0 && env_file(file, path, sizeof path))
		r = set(scratch, s, "environment-file", line, path, NULL, NULL);
	if (r < 0 || strcmp(name, "web") != 0)
		return r;
	l = raw_block_add(scratch, s, RAW_LISTEN, "http", line);
	return l ? set(scratch, l, "address", line, port, NULL, NULL) : -ENOMEM;
}

/* "web: bin/server --port $PORT" */
static int one_line(struct config *scratch, struct raw_block *root, const char *file, char *text,
        int line, struct mistakes *mistakes)
{
	char *colon, *end;

	text += strspn(text, " \t");
	for (end = text + strlen(text); end > text && strchr(" \t\r", end[-1]);)
		*--end = '\0';
	if (!*text || *text == '#')
		return 0;
	colon = strchr(text, ':');
	if (!colon || !colon[1 + strspn(colon + 1, " \t")]) {
		mistakes_add(mistakes, file, line,
		        "this is no line of a Procfile; write for example \"web: bin/server\"");
		return 0;
	}
	*colon = '\0';
	colon += 1 + strspn(colon + 1, " \t");
	if (!text_is_plain(colon)) {
		mistakes_add(
		        mistakes, file, line, "the command has control characters or is not UTF-8");
		return 0;
	}
	return add_service(scratch, root, file, text, colon, line);
}

int procfile_read(const char *file, const char *text, size_t length, struct config *scratch,
        struct raw_block **ret, struct mistakes *mistakes)
{
	struct raw_block *root = raw_block_add(scratch, NULL, RAW_ROOT, NULL, 0);
	char line[MAX_LINE];
	int r = root ? 0 : -ENOMEM;

	for (int number = 1; r == 0 && length > 0; number++) {
		const char *end = memchr(text, '\n', length);
		size_t n = end ? (size_t)(end - text) : length, used = n + (end != NULL);

		if (n >= sizeof line || memchr(text, '\0', n)) {
			mistakes_add(mistakes, file, number,
			        "the line is longer than %d bytes, or has a zero byte",
			        MAX_LINE - 1);
		} else {
			memcpy(line, text, n);
			line[n] = '\0';
			r = one_line(scratch, root, file, line, number, mistakes);
		}
		text += used;
		length -= used;
		if (root->n_blocks > CONFIG_MAX_SERVICES)
			break;
	}
	if (r == 0 && root->n_blocks > CONFIG_MAX_SERVICES)
		mistakes_add(mistakes, file, 0, "more than %d services", CONFIG_MAX_SERVICES);
	*ret = root;
	return r;
}
