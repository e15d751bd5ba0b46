/* SPDX-License-Identifier: MIT */
#include "watch/glob.h"

#include <string.h>

bool glob_is_pattern(const char *text)
{
	return text[strcspn(text, "*?[")] != '\0';
}

/* Behind the class at `p` ("[...]"), or NULL if `c` is not in it; a class that is not closed is a
 * plain "[". */
static const char *match_class(const char *p, char c)
{
	bool negated = p[1] == '!' || p[1] == '^', found = false;
	const char *at = p + 1 + negated;

	do {
		unsigned char low, high;

		if (!*at)
			return c == '[' ? p + 1 : NULL;
		at += *at == '\\' && at[1];
		low = high = (unsigned char)*at++;
		if (*at == '-' && at[1] && at[1] != ']') {
			high = (unsigned char)at[1];
			at += 2;
		}
		found |= (unsigned char)c >= low && (unsigned char)c <= high;
	} while (*at != ']');
	return found != negated ? at + 1 : NULL;
}

/* Behind one character of the pattern that matches `c`, or NULL. */
static const char *match_one(const char *p, char c)
{
	switch (*p) {
	case '\0':
		return NULL;
	case '?':
		return c != '/' ? p + 1 : NULL;
	case '[':
		return c != '/' ? match_class(p, c) : NULL;
	case '\\':
		p += p[1] != '\0';
		break;
	default:
		break;
	}
	return *p == c ? p + 1 : NULL;
}

/* Two places to come back to are enough: a later star makes all earlier ones of its kind needless.
 */
bool glob_match(const char *pattern, const char *path)
{
	const char *p = pattern, *s = path, *next;
	const char *star = NULL, *star_at = NULL, *deep = NULL, *deep_at = NULL;

	while (*s) {
		if (*p == '*') {
			bool first = p == pattern || p[-1] == '/';

			if (first && p[1] == '*' && !p[2])
				return true;
			if (first && p[1] == '*' && p[2] == '/') {
				deep = p += 3;
				deep_at = s;
				star = NULL;
				continue;
			}
			while (*p == '*')
				p++;
			star = p;
			star_at = s;
			continue;
		}
		next = match_one(p, *s);
		if (next) {
			p = next;
			s++;
			continue;
		}
		if (star && *star_at != '/') {
			p = star;
			s = ++star_at;
			continue;
		}
		deep_at = deep ? strchr(deep_at, '/') : NULL;
		if (!deep_at)
			return false;
		p = deep;
		s = ++deep_at;
		star = NULL;
	}
	while (*p == '*')
		p++;
	return !*p;
}
