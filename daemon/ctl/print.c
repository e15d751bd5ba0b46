/* SPDX-License-Identifier: MIT */
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "ctl/ctl.h"

void put_text(FILE *f, const char *text, unsigned columns)
{
	const unsigned char *s = (const unsigned char *)text;
	unsigned used = 0;

	for (; *s; s++) {
		/* C1 controls are two bytes in UTF-8, and terminals obey them too. */
		bool c1 = s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0;

		if ((*s & 0xc0) != 0x80 && columns && used++ == columns)
			return;
		if (c1)
			s++;
		if (c1 || (*s < 0x20 && *s != '\t') || *s == 0x7f)
			(void)fputc('?', f);
		else
			(void)fputc(*s, f);
	}
}

size_t text_fitting(const char *text, unsigned columns)
{
	const char *s = text;

	for (unsigned used = 0; *s; s++)
		if ((*s & 0xc0) != 0x80 && used++ == columns)
			break;
	return (size_t)(s - text);
}

unsigned text_columns(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

void put_lines(FILE *f, const char *indent, const char *text)
{
	while (*text) {
		size_t n = strcspn(text, "\n");
		_cleanup_free_ char *line = strndup(text, n);

		(void)fputs(indent, f);
		put_text(f, line ? line : "", 0);
		(void)fputc('\n', f);
		text += n + (text[n] == '\n');
	}
}

static char complaint[1024];

const char *last_complaint(void)
{
	return complaint;
}

int complain(int code, const char *format, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	va_start(ap, format);
	if (vasprintf(&text, format, ap) < 0)
		text = NULL;
	va_end(ap);
	screen_restore();
	(void)fputs("handoffctl: ", stderr);
	(void)copy_string(complaint, sizeof complaint, text ? text : "memory is short");
	put_text(stderr, text ? text : complaint, 0);
	(void)fputc('\n', stderr);
	return code;
}

void put_json(const json_t *j)
{
	/* What is cut by a full disk shows when stdout is closed. */
	(void)json_dumpf(j, stdout, JSON_REAL_PRECISION(15));
	(void)fputc('\n', stdout);
	(void)fflush(stdout);
}

unsigned terminal_columns(void)
{
	struct winsize size;
	const char *term = getenv("TERM");

	if (!isatty(STDOUT_FILENO) || !term || !*term || !strcmp(term, "dumb"))
		return 0;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_col < 20)
		return 80;
	return size.ws_col;
}

bool wants_colour(void)
{
	const char *no = getenv("NO_COLOR");

	return terminal_columns() && !(no && *no);
}

bool wants_utf8(void)
{
	(void)setlocale(LC_CTYPE, "");
	return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

const char *member(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

void add_duration(struct text *t, const json_t *seconds)
{
	static const struct {
		double seconds;
		const char *unit;
	} units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
	double s = json_number_value(seconds);
	size_t i = 0;

	if (!json_is_number(seconds)) {
		text_add(t, "-");
		return;
	}
	while (i + 1 < ARRAY_SIZE(units) && s < 2 * units[i].seconds)
		i++;
	text_add(t, "%.0f%s", s / units[i].seconds, units[i].unit);
}

void add_bytes(struct text *t, double bytes)
{
	static const char *const units[] = {"", "K", "M", "G", "T"};
	size_t i = 0;

	while (i + 1 < ARRAY_SIZE(units) && bytes >= 1024) {
		bytes /= 1024;
		i++;
	}
	text_add(t, "%.*f%s", i && bytes < 10 ? 1 : 0, bytes, units[i]);
}

bool read_time(const char *rfc3339, time_t *ret)
{
	struct tm tm = {0};

	if (!strptime(rfc3339, "%Y-%m-%dT%H:%M:%S", &tm))
		return false;
	*ret = timegm(&tm);
	return true;
}

void add_local_time(struct text *t, const char *rfc3339)
{
	struct tm tm, today;
	time_t now = time(NULL), then;
	char buffer[32];

	if (!read_time(rfc3339, &then))
		return;
	if (!localtime_r(&then, &tm) || !localtime_r(&now, &today))
		return;
	if (strftime(buffer, sizeof buffer,
	            tm.tm_year == today.tm_year && tm.tm_yday == today.tm_yday
	                    ? "%H:%M:%S"
	                    : "%Y-%m-%d %H:%M:%S",
	            &tm))
		text_add(t, "%s", buffer);
}
