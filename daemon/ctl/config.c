/* SPDX-License-Identifier: MIT */
/* A configuration file as handoffd would read it; no handoffd need run, but for `diff`. */
#include <stdlib.h>
#include <string.h>

#include "conf/load.h"
#include "ctl/ctl.h"
#include "wire/interface.h"

#define DEFAULT_FILE "/etc/handoffd/handoffd.conf"

static void print_mistakes(const struct mistakes *m)
{
	for (size_t i = 0; i < m->count; i++)
		put_lines(stderr, "", m->lines[i]);
	if (m->more)
		(void)fputs("… and more\n", stderr);
}

/* As a document; `config` NULL: the file is wrong. */
static void print_check(const char *file, const struct config *config, const struct mistakes *m)
{
	_cleanup_json_ json_t *lines = json_array();
	_cleanup_json_ json_t *j =
	        lines ? json_pack("{s:i, s:o, s:b, s:I, s:O}", "version", 1, "file",
	                        wire_string(file), "correct", config != NULL, "services",
	                        (json_int_t)(config ? config->n_services : 0), "mistakes", lines)
	              : NULL;

	for (size_t i = 0; i < m->count; i++)
		(void)json_array_append_new(lines, wire_string(m->lines[i]));
	if (j)
		put_json(j);
}

/* What runs, and from which file and environment; false if the exit code tells why not. */
static bool ask_running(struct ctl *ctl, json_t **ret, int *ret_code)
{
	*ret_code = client_ask(ctl, INTERFACE_MANAGER ".GetConfig", json_object(), ret);
	if (!*ret_code && !json_is_string(json_object_get(*ret, "config")))
		*ret_code = complain(CODE_FAILED, "handoffd answered without its configuration");
	return !*ret_code;
}

int command_config(struct ctl *ctl)
{
	const char *what = ctl->arguments[0];
	const char *environment =
	        ctl->environment ? ctl->environment : getenv("HANDOFF_ENVIRONMENT");
	const char *file = ctl->n_arguments > 1 ? ctl->arguments[1] : ctl->config;
	_cleanup_(config_unrefp) struct config *config = NULL;
	_cleanup_json_ json_t *running = NULL;
	_cleanup_free_ char *text = NULL;
	struct mistakes mistakes = {0};
	int e;

	bool diff = !strcmp(what, "diff");

	if (strcmp(what, "check") && strcmp(what, "show") && !diff)
		return complain(
		        CODE_USAGE, "config does not know \"%s\", but check, show and diff", what);
	if (ctl->n_arguments > 1 && ctl->config)
		return complain(CODE_USAGE, "the file is named twice: \"%s\" and \"%s\"", file,
		        ctl->config);
	if (diff && !ask_running(ctl, &running, &e))
		return e;
	if (diff && !file && !*member(running, "file"))
		return complain(
		        CODE_USAGE, "handoffd runs without a file; name the one that is meant");
	if (diff && !file)
		file = member(running, "file");
	if (diff && !environment)
		environment = member(running, "environment");
	if (!file)
		file = DEFAULT_FILE;
	e = config_load(file, environment, &config, &mistakes);
	if (ctl->json && !strcmp(what, "check"))
		print_check(file, config, &mistakes);
	print_mistakes(&mistakes);
	mistakes_done(&mistakes);
	if (e)
		return CODE_USAGE;
	if (!strcmp(what, "check")) {
		if (!ctl->json)
			(void)printf("%s: correct, %zu service%s\n", file, config->n_services,
			        config->n_services == 1 ? "" : "s");
		return 0;
	}
	if (diff)
		return config_diff(ctl, member(running, "config"), config);
	if (ctl->json)
		return config_show_json(config);
	text = config_print(config);
	if (!text)
		return complain(CODE_FAILED, "memory is short");
	(void)fputs(text, stdout);
	return 0;
}
