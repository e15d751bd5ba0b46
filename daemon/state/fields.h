/* SPDX-License-Identifier: MIT */
/* Structures as JSON and back, by tables: a member of a structure that shall outlive this process
 * is one line. Members that a document lacks keep what they have, and members that nobody knows are
 * passed over, so that older and newer versions read each other. Descriptors are not in the
 * document, they are beside it, by name. */
#ifndef STATE_FIELDS_H
#define STATE_FIELDS_H

#include <jansson.h>

#include "core/base.h"
#include "core/config.h"

enum field_kind {
	FIELD_BOOL,
	FIELD_SIGNED,
	FIELD_UNSIGNED,
	FIELD_NAMED,   /* an enumeration, by its names */
	FIELD_TEXT,    /* an array of characters */
	FIELD_BYTES,   /* an array of numbers below 256 */
	FIELD_STRING,  /* a pointer: heap, or of the arena of the configuration that is loaded */
	FIELD_STATIC,  /* a pointer to text that is never freed */
	FIELD_STRINGS, /* a string_list, of an arena */
	FIELD_LEFT_OUT
};

struct field {
	const char *name;
	enum field_kind kind;
	size_t offset, size;
	const char *(*to_name)(unsigned value);
	unsigned n_names;
};

#define FIELD_KIND_(s, m)                                                                          \
	_Generic(((struct s *)0)->m,                                                               \
	        bool: FIELD_BOOL,                                                                  \
	        int: FIELD_SIGNED,                                                                 \
	        char *: __builtin_types_compatible_p(__typeof__(((struct s *)0)->m), char *)       \
	                ? FIELD_STRING                                                             \
	                : FIELD_TEXT,                                                              \
	        const char *: FIELD_STRING,                                                        \
	        uint8_t *: FIELD_BYTES,                                                            \
	        struct string_list: FIELD_STRINGS,                                                 \
	        default: FIELD_UNSIGNED)
#define FIELD_AS_(s, m, k)                                                                         \
	{                                                                                          \
		.name = #m, .kind = (k), .offset = offsetof(struct s, m),                          \
		.size = sizeof(((struct s *)0)->m),                                                \
	}
/* Numbers, truth values, arrays of characters, owned strings. */
#define FIELD(s, m) FIELD_AS_(s, m, FIELD_KIND_(s, m))
#define FIELD_OF_BYTES(s, m) FIELD_AS_(s, m, FIELD_BYTES)
#define FIELD_OF_STATIC_TEXT(s, m) FIELD_AS_(s, m, FIELD_STATIC)
/* An enumeration whose values may be renumbered by other versions. */
#define FIELD_BY_NAME(s, m, function, count)                                                       \
	{                                                                                          \
		.name = #m, .kind = FIELD_NAMED, .offset = offsetof(struct s, m),                  \
		.size = sizeof(((struct s *)0)->m),                                                \
		.to_name = (const char *(*)(unsigned))(function), .n_names = (count),              \
	}
/* Made anew, or kept by hand: named so that nothing is forgotten (tests/docs/fields). */
#define FIELD_NOT(s, m)                                                                            \
	{                                                                                          \
		.name = #m, .kind = FIELD_LEFT_OUT                                                 \
	}

/* Failures are remembered: `failed` is looked at once, at the end. */
struct saver {
	json_t *fds;           /* name -> descriptor; NULL: none are asked for */
	json_t *configs;       /* number -> those that became known here */
	struct config **known; /* all, by their numbers; NULL: a number that is free */
	size_t n_known;
	/* Written often: what workers wrote is left out but for the last of it, and members that
	 * are zero (so a new one has to mean nothing then). */
	bool brief;
	bool failed;
};
void saver_begin(struct saver *v, bool with_fds);
void saver_done(struct saver *v);
/* Each takes the reference to `value`; NULL means that memory was short. */
void save_member(struct saver *v, json_t *object, const char *key, json_t *value);
void save_item(struct saver *v, json_t *array, json_t *value);
json_t *save_fields(struct saver *v, const struct field *fields, size_t n, const void *from);
/* Bytes of any kind. */
json_t *save_text(const char *bytes, size_t n);
/* Nothing for a negative descriptor. Names are not used twice in the life of a machine. */
void save_fd(struct saver *v, int fd, const char *format, ...) _printf_(3, 4);
/* The number of a configuration, which is saved once; -1 for NULL. */
json_t *save_config(struct saver *v, struct config *c);

struct loader {
	json_t *fds;
	struct config **configs;
	size_t n_configs;
	struct config *arena; /* of strings; NULL: heap */
	bool brief;           /* what is lacking is zero */
	bool failed;
	struct ho_error error; /* the first one */
};
/* `fds` is referenced. What is not taken of it stays open until loader_done(). */
void loader_begin(struct loader *l, json_t *fds);
void loader_done(struct loader *l);
void load_failed(struct loader *l, const char *format, ...) _printf_(2, 3);
void load_fields(
        struct loader *l, const json_t *from, const struct field *fields, size_t n, void *to);
/* Heap, with its length; NULL if there is none or memory is short. */
char *load_text(struct loader *l, const json_t *from, size_t *ret_n);
/* The descriptor, which is the caller's from then on; -1: there is none. */
int load_fd(struct loader *l, const char *format, ...) _printf_(2, 3);
bool load_has_fd(const struct loader *l, const char *format, ...) _printf_(2, 3);
uint64_t load_number(const json_t *object, const char *key);
/* Borrowed; NULL: none. */
struct config *load_config(struct loader *l, const json_t *number);

#define CONFIGS_MAX 16384 /* at once, of running generations */
/* state/config.c */
json_t *config_to_json(struct saver *v, const struct config *c);
struct config *config_from_json(struct loader *l, const json_t *from);
void load_configs(struct loader *l, const json_t *list);

#endif
