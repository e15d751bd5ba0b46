/* SPDX-License-Identifier: MIT */
/* Text to configuration. The only room that knows the parser library. */
#ifndef CONF_LOAD_H
#define CONF_LOAD_H

#include "core/base.h"
#include "core/config.h"

#define CONF_MAX_BYTES ((size_t)4 << 20)
#define CONF_MAX_MISTAKES 100

/* All mistakes of one attempt, in the order of the lines: "file:line: what, what would be right".
 */
struct mistakes {
	char **lines;
	size_t count;
	bool more; /* there were more than CONF_MAX_MISTAKES */
};
void mistakes_add(struct mistakes *m, const char *file, int line, const char *format, ...)
        _printf_(4, 5);
void mistakes_done(struct mistakes *m);

/* Reads and validates a file; `environment` (of -e or HANDOFF_ENVIRONMENT; NULL: the file's own
 * key) chooses the environment blocks. 0 and a config with one reference, or -EINVAL and the
 * mistakes, at least one, or another negative errno with one mistake that names the file. Reads the
 * file once, at most CONF_MAX_BYTES. */
int config_load(
        const char *file, const char *environment, struct config **ret, struct mistakes *mistakes);
/* The same from memory; `file` is for the messages. */
int config_parse(const char *file, const char *text, size_t length, const char *environment,
        struct config **ret, struct mistakes *mistakes);

/* Makes it one for development mode, before anybody else has it: other defaults where nothing is
 * set, and of its services only those named (NULL-terminated; NULL or none: all). -EINVAL and a
 * mistake if one of them is not there. */
int config_develop(struct config *c, char *const *only, struct mistakes *mistakes);

/* The one-program form. Options are collected first, then made into a configuration of one service.
 */
struct config_option {
	const char *key; /* "listen", "name", "ready", "drain-deadline", "environ", "control-socket"
	                    … */
	const char *value;
};
int config_from_options(const struct config_option *options, size_t n_options, char *const *command,
        const char *environment, struct config **ret, struct mistakes *mistakes);
/* Is `key` (with dashes) an option of the one-program form? Sets what its value looks like, for
 * --help. */
bool config_is_option(const char *key, const char **ret_value_name, const char **ret_help);
/* Calls `each` for every such option, in the order of the manual. */
void config_each_option(
        void (*each)(void *data, const char *key, const char *value_name, const char *help),
        void *data);

/* The effective settings in the file's own syntax, each with "# file:line" or "# default"; for
 * --print-config and `config show`. The text can be loaded again and gives the same configuration.
 * Heap, NULL when memory is short. */
char *config_print(const struct config *c);

/* The parsers, also for others that read such values. Each is false for anything that is not wholly
 * right. */
bool parse_duration(
        const char *text, usec_t *ret); /* "250ms", "10s", "1min 30s", "2h", "infinity", "0" */
bool parse_size(const char *text, uint64_t *ret);  /* "64K", "1G", "4096" */
bool parse_share(const char *text, unsigned *ret); /* "5%", "0.25%" of SHARE_ALL */
bool parse_signal(const char *text, int *ret);     /* "TERM", "SIGTERM", "15" */
/* Strings of `ret` are made in the config's arena. `why` (of `why_size`) gets what would be right.
 */
bool parse_address(struct config *arena, const char *text, bool udp, struct address *ret, char *why,
        size_t why_size);
/* "10s", "1min 30s": shortest exact form; buffer of at least 32 bytes. Returns the buffer. */
char *format_duration(usec_t d, char *buffer, size_t size);

#endif
