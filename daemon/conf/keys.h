/* SPDX-License-Identifier: MIT */
/* Every key there is, as one table: its name in the file, its option in the one-program form, its
 * help, how its value is checked and where it goes. Reading, checking, printing and --help all
 * follow it. */
#ifndef CONF_KEYS_H
#define CONF_KEYS_H

#include "conf/load.h"
#include "conf/raw.h"

enum key_type {
	KEY_WORD,   /* one of `words`; its index is stored */
	KEY_NUMBER, /* from min to max */
	KEY_NICE,   /* -20 to 19 */
	KEY_OCTAL,  /* permissions, up to max */
	KEY_BOOL,
	KEY_SIZE,
	KEY_DURATION, /* from min to max; infinity if max is */
	KEY_PAUSE,    /* a duration or "off", which is stored as infinity */
	KEY_SHARE,
	KEY_SIGNAL,
	KEY_STRING,
	KEY_LIST,    /* of non-empty strings */
	KEY_COMMAND, /* list of at least `min`, of which only the first must not be empty */
	KEY_ENVIRON,
	KEY_DIALECT,
	KEY_READY,
	KEY_LIMIT,        /* offset is the RLIMIT_ number */
	KEY_CAPABILITIES, /* list of words, kept as one text */
	KEY_ADDRESS,
};

struct key {
	const char *name;   /* "drain.deadline": the key deadline of the block drain */
	const char *option; /* "drain-deadline"; NULL: not an option */
	const char *value_name, *help;
	enum key_type type;
	size_t offset; /* in struct config, service_config or listener_draft */
	uint64_t min, max;
	const char *const *words;
};

/* What a listen block says, before it is taken apart into addresses. */
struct listener_draft {
	const char *name;
	int line; /* of the block */
	struct address *addresses;
	int *lines; /* of each address */
	size_t n_addresses;
	int backlog;
	unsigned mode;
	const char *owner, *group;
	const struct raw_setting *unix_only; /* a setting that only UNIX sockets have */
};

/* The keys of a kind of block; an environment has those of a service. */
const struct key *keys_of(enum raw_kind kind, size_t *ret_count);
/* NULL if there is none. `section` is "drain" or NULL, `name` "deadline". */
const struct key *key_find(enum raw_kind kind, const char *section, const char *name);
const struct key *key_by_option(const char *option, enum raw_kind *ret_kind);
/* "drain" of "drain.deadline" as its length, or 0; and "deadline". */
size_t key_section_length(const struct key *k);
const char *key_leaf(const struct key *k);

/* Names of the bits of service_config.dialects, NULL-terminated. */
extern const char *const dialect_words[];

/* The nearest of several candidates to a mistyped word. */
struct nearest {
	const char *word, *best;
	unsigned distance;
};
void nearest_try(struct nearest *n, const char *candidate);

/* Values as they are set. */
struct maker {
	struct config *c;
	struct mistakes *m;
	const char *file; /* NULL: the command line */
	bool oom;
};

/* Sets a value, or says in words why not. `target` is what the key's offset refers to. */
void key_set(struct maker *mk, const struct raw_setting *s, void *target);

/* "file:line: label: what", or "label: what" of an option. */
void wrong(struct maker *mk, const struct raw_setting *s, int line, const char *format, ...)
        _printf_(4, 5);

/* A value as messages show it: cut, without control characters. Returns the buffer. */
#define SHOWN_SIZE 84
const char *shown(const char *text, char buffer[SHOWN_SIZE]);

/* [A-Za-z0-9_.-]{1,63}, not beginning with '-' or '.' */
bool name_is_valid(const char *name);

#endif
