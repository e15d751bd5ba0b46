/* SPDX-License-Identifier: MIT */
/* The checked parsers of single values: durations, sizes, shares, signals. Pure. */
#include "conf/load.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define MAX_DAYS 10000 /* so that every duration fits the buffers of format_duration() */

static const struct {
	const char *name;
	usec_t usec;
} units[] = {
        {"d", 86400 * USEC_PER_SEC},
        {"h", 3600 * USEC_PER_SEC},
        {"min", 60 * USEC_PER_SEC},
        {"m", 60 * USEC_PER_SEC},
        {"s", USEC_PER_SEC},
        {"ms", USEC_PER_MSEC},
        {"us", 1},
};

static usec_t unit_of(const char *name, size_t length)
{
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (strlen(units[i].name) == length && !memcmp(units[i].name, name, length))
			return units[i].usec;
	return 0;
}

/* Digits at *text as a number; moves *text behind them. */
static bool take_number(const char **text, uint64_t max, uint64_t *ret)
{
	char digits[24];
	size_t n = strspn(*text, "0123456789");

	if (n == 0 || n >= sizeof digits)
		return false;
	memcpy(digits, *text, n);
	digits[n] = '\0';
	*text += n;
	return parse_number(digits, max, ret);
}

bool parse_duration(const char *text, usec_t *ret)
{
	const usec_t max = MAX_DAYS * 86400 * USEC_PER_SEC;
	usec_t sum = 0;

	if (!strcmp(text, "infinity")) {
		*ret = USEC_INFINITY;
		return true;
	}
	if (!strcmp(text, "0")) {
		*ret = 0;
		return true;
	}
	do {
		uint64_t n;
		size_t length;
		usec_t unit;

		if (!take_number(&text, max, &n))
			return false;
		length = strspn(text, "abcdefghijklmnopqrstuvwxyz");
		unit = unit_of(text, length);
		if (unit == 0 || n >= (max - sum + unit - 1) / unit)
			return false;
		sum += n * unit;
		text += length;
		if (*text == ' ' && text[1])
			text += strspn(text, " ");
	} while (*text);
	*ret = sum;
	return true;
}

char *format_duration(usec_t d, char *buffer, size_t size)
{
	struct text t = {.p = buffer, .size = size};

	buffer[0] = '\0';
	if (d == USEC_INFINITY || d == 0) {
		text_add(&t, "%s", d ? "infinity" : "0");
		return buffer;
	}
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (d < units[i].usec)
			continue;
		text_add(&t, "%s%llu%s", t.len ? " " : "", (unsigned long long)(d / units[i].usec),
		        units[i].name);
		d %= units[i].usec;
	}
	return buffer;
}

bool parse_size(const char *text, uint64_t *ret)
{
	uint64_t n;
	unsigned shift = 0;

	if (!take_number(&text, UINT64_MAX - 1, &n))
		return false;
	if (*text) {
		const char *letter = strchr("KkMmGgTt", *text);

		if (!letter || text[1])
			return false;
		shift = 10 * ((unsigned)(letter - "KkMmGgTt") / 2 + 1);
	}
	if (n > (UINT64_MAX - 1) >> shift)
		return false;
	*ret = n << shift;
	return true;
}

bool parse_share(const char *text, unsigned *ret)
{
	const unsigned percent = SHARE_ALL / 100;
	uint64_t whole, part = 0;

	if (!take_number(&text, 100, &whole))
		return false;
	if (*text == '.') {
		size_t digits = strspn(text + 1, "0123456789");

		text++;
		if (digits > 2 || !take_number(&text, percent - 1, &part))
			return false;
		if (digits == 1)
			part *= 10;
	}
	if (strcmp(text, "%") != 0 || whole * percent + part > SHARE_ALL)
		return false;
	*ret = (unsigned)(whole * percent + part);
	return true;
}

bool parse_signal(const char *text, int *ret)
{
	uint64_t n;

	if (parse_number(text, (uint64_t)SIGRTMAX, &n)) {
		*ret = (int)n;
		return n > 0;
	}
	if (!strncmp(text, "SIG", 3))
		text += 3;
	for (int i = 1; i < 32; i++) {
		const char *name = sigabbrev_np(i);

		if (name && !strcmp(name, text)) {
			*ret = i;
			return true;
		}
	}
	return false;
}
