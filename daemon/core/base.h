/* SPDX-License-Identifier: MIT */
/* What every room stands on: time, errors, assertions, bounded text. Pure: no system call, no
 * clock, no output. */
#ifndef CORE_BASE_H
#define CORE_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Microseconds; as a point in time, of CLOCK_MONOTONIC. */
typedef uint64_t usec_t;
#define USEC_PER_MSEC ((usec_t)1000)
#define USEC_PER_SEC ((usec_t)1000000)
#define USEC_INFINITY UINT64_MAX

/* The whole of new connections; shares are parts of it (1 = 0.01 %). */
#define SHARE_ALL 10000u

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _noreturn_ __attribute__((noreturn))

/* a + b where USEC_INFINITY stays infinite and nothing wraps. */
usec_t usec_add(usec_t a, usec_t b);
/* a - b, but not below 0; an infinite a stays infinite. */
usec_t usec_sub(usec_t a, usec_t b);

void freep(void *p);
#define _cleanup_free_ _cleanup_(freep)

/* Takes the pointer out of a variable that has a cleanup attribute. */
#define take_ptr(p)                                                                                \
	({                                                                                         \
		__typeof__(p) taken_ = (p);                                                        \
		(p) = NULL;                                                                        \
		taken_;                                                                            \
	})

/* A failure as an operator reads it: what was attempted, on what, why, what happens next. `code` is
 * a negative errno. `where` is "file:line" of the setting it comes from, or empty. */
struct ho_error {
	int code;
	char text[400];
	char where[160];
};

/* Fills `e` (which may be NULL) and returns `code`, so that `return ho_error_set(...)` works. */
int ho_error_set(struct ho_error *e, int code, const char *format, ...) _printf_(3, 4);

/* Stays on in releases: a wrong table is worse than a restart. The hook, if set, records the last
 * events before the process aborts. */
extern void (*ho_assert_hook)(const char *expression, const char *file, int line);
void ho_assert_failed(const char *expression, const char *file, int line) _noreturn_;
#define HO_ASSERT(x)                                                                               \
	do {                                                                                       \
		if (__builtin_expect(!(x), 0))                                                     \
			ho_assert_failed(#x, __FILE__, __LINE__);                                  \
	} while (0)

/* Text built in the caller's buffer; never overflows, notes that it was cut. */
struct text {
	char *p;
	size_t len, size; /* `p` is always terminated; size > 0 */
	bool cut;
};
#define TEXT_ON(buffer)                                                                            \
	((struct text){.p = ((buffer)[0] = (char)0, (buffer)), .size = sizeof(buffer)})
void text_add(struct text *t, const char *format, ...) _printf_(2, 3);
void text_add_bytes(struct text *t, const char *bytes, size_t n);

/* Copies at most size - 1 bytes and terminates; returns false if it was cut. */
bool copy_string(char *to, size_t size, const char *from);

/* Whole string as a decimal number from 0 to `max`; false for anything else (signs, blanks,
 * overflow). */
bool parse_number(const char *text, uint64_t max, uint64_t *ret);

/* Edit distance for "did you mean", capped at `limit` + 1. */
unsigned edit_distance(const char *a, const char *b, unsigned limit);

#endif
