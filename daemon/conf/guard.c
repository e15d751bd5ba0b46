/* SPDX-License-Identifier: MIT */
/* The loader guard. libconfuse 3.3 expands ${VAR}, ends a string at a NUL byte, takes a file cut in
 * the middle of a block, eats stray characters, counts the lines of comments twice and keeps the
 * state of its scanner after an unterminated string. So the text is walked once by the parser's own
 * lexical rules: comments become blanks, empty lists become a mark that the parser reports, and
 * what would make it silently wrong is refused. Nothing is interpreted here: that is the parser's
 * part. */
#include "conf/guard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 16 /* the parser recurses with every open brace */

struct walk {
	struct guarded *g;
	const char *file;
	struct mistakes *m;
	size_t at;
	int line;
	bool fatal;
	int open_lines[MAX_DEPTH]; /* of the open braces */
	size_t depth;
};

/* Length of the valid UTF-8 sequence at `p`, 0 if there is none. */
static size_t utf8_length(const unsigned char *p, size_t left)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	uint32_t c;

	if (n < 2)
		return n;
	if (p[0] > 0xf4 || n > left)
		return 0;
	c = p[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : n;
}

static bool is_control(unsigned char c)
{
	return (c < 0x20 && c != '\t' && c != '\n') || c == 0x7f;
}

bool text_is_plain(const char *text)
{
	size_t left = strlen(text), n;

	for (; left; text += n, left -= n) {
		n = utf8_length((const unsigned char *)text, left);
		if (n == 0 || is_control((unsigned char)*text))
			return false;
	}
	return true;
}

/* Bytes that cannot be part of a text; true if there are none. */
static bool check_bytes(const char *file, char *text, size_t length, struct mistakes *m)
{
	size_t before = m->count;
	int line = 1;

	if (length >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		memset(text, ' ', 3); /* the byte order mark of some editors */
	for (size_t i = 0, n; i < length && m->count < CONF_MAX_MISTAKES; i += n) {
		unsigned char c = (unsigned char)text[i];

		n = utf8_length((const unsigned char *)text + i, length - i);
		if (c == '\r' && i + 1 < length && text[i + 1] == '\n')
			text[i] = ' ';
		else if (c == 0)
			mistakes_add(m, file, line, "NUL byte, this is not a text file");
		else if (n == 0)
			mistakes_add(m, file, line,
			        "byte 0x%02x is not UTF-8, save the file as UTF-8", c);
		else if (is_control(c))
			mistakes_add(m, file, line, "control character 0x%02x, take it out", c);
		if (n == 0)
			n = 1;
		if (c == '\n')
			line++;
	}
	return m->count == before && !m->more;
}

static char peek(const struct walk *w, size_t ahead)
{
	return w->at + ahead < w->g->length ? w->g->text[w->at + ahead] : '\0';
}

static void fatal(struct walk *w, int line, const char *what)
{
	mistakes_add(w->m, w->file, line, "%s", what);
	w->fatal = true;
}

/* Makes `n` bytes blank for the parser. */
static void blank(struct guarded *g, size_t from, size_t n)
{
	for (size_t i = from; i < from + n; i++) {
		if (g->text[i] == '\n')
			continue;
		g->text[i] = ' ';
		g->mask[i] = ' ';
	}
}

static void refuse_expansion(struct walk *w)
{
	mistakes_add(w->m, w->file, w->line,
	        "${...} is not expanded here; write the value itself, or '${...}' in single quotes "
	        "for a literal one");
	/* It must never reach the parser; in a bare word its braces would be taken for a block's.
	 */
	for (size_t i = w->at; i < w->g->length && w->g->text[i] != '\n'; i++) {
		bool last = w->g->text[i] == '}';

		if (last || i < w->at + 2)
			w->g->text[i] = w->g->mask[i] = '_';
		if (last)
			break;
	}
}

/* An escape in a double-quoted string; false if the parser would stop or end the string there. */
static bool check_escape(struct walk *w)
{
	const char *hex = "0123456789abcdefABCDEF";
	unsigned value = 0;

	if (peek(w, 1) >= '0' && peek(w, 1) <= '9') {
		fatal(w, w->line, "escapes like \\033 are not known here, write \\x1b");
		return false;
	}
	if (peek(w, 1) != 'x' || !peek(w, 2) || !strchr(hex, peek(w, 2)))
		return true;
	value = (unsigned)strtoul((char[]){peek(w, 2), '\0'}, NULL, 16);
	if (peek(w, 3) && strchr(hex, peek(w, 3)))
		value = value << 4 | (unsigned)strtoul((char[]){peek(w, 3), '\0'}, NULL, 16);
	if (value <= 1) {
		fatal(w, w->line, "a string cannot contain the control characters \\x00 and \\x01");
		return false;
	}
	return true;
}

static void walk_string(struct walk *w)
{
	const char quote = peek(w, 0);
	size_t begin = w->at++;

	for (; w->at < w->g->length && !w->fatal; w->at++) {
		char c = peek(w, 0);

		if (c == '\\' && (quote == '\'' || check_escape(w)) && peek(w, 1)) {
			w->at++;
			if (peek(w, 0) == '\n')
				w->line++;
		} else if (c == '$' && peek(w, 1) == '{' && quote == '"') {
			refuse_expansion(w);
		} else if (c == '\n') {
			break;
		} else if (c == quote) {
			w->at++;
			for (size_t i = begin; i < w->at; i++)
				if (w->g->mask[i] != '\n')
					w->g->mask[i] = GUARD_QUOTED;
			return;
		}
	}
	if (!w->fatal)
		fatal(w, w->line, "a string has no closing quote on its line");
}

static void walk_block_comment(struct walk *w)
{
	int line = w->line;
	size_t begin = w->at;

	for (w->at += 2; w->at < w->g->length; w->at++) {
		if (peek(w, 0) == '\n')
			w->line++;
		if (peek(w, 0) == '*' && peek(w, 1) == '/') {
			w->at += 2;
			blank(w->g, begin, w->at - begin);
			return;
		}
	}
	fatal(w, line, "the comment that begins here is never closed with */");
}

static void walk_line_comment(struct walk *w)
{
	size_t begin = w->at;

	while (w->at < w->g->length && peek(w, 0) != '\n')
		w->at++;
	blank(w->g, begin, w->at - begin);
}

static void walk_open(struct walk *w)
{
	if (w->depth == MAX_DEPTH) {
		fatal(w, w->line, "blocks are nested too deeply");
		return;
	}
	w->open_lines[w->depth++] = w->line;
	w->at++;
}

static void walk_close(struct walk *w)
{
	if (w->depth == 0) {
		fatal(w, w->line, "\"}\" closes nothing, take it out");
		return;
	}
	w->depth--;
	w->at++;
}

static void walk_word(struct walk *w)
{
	for (; peek(w, 0) && !strchr(" \t\n#\"'={}()+,*", peek(w, 0)); w->at++)
		if (peek(w, 0) == '$' && peek(w, 1) == '{')
			refuse_expansion(w);
}

static void walk_one(struct walk *w)
{
	char c = peek(w, 0);

	if (c == '\n')
		w->line++;
	if (c == '"' || c == '\'')
		walk_string(w);
	else if (c == '#' || (c == '/' && peek(w, 1) == '/'))
		walk_line_comment(w);
	else if (c == '/' && peek(w, 1) == '*')
		walk_block_comment(w);
	else if (c == '{')
		walk_open(w);
	else if (c == '}')
		walk_close(w);
	else if (strchr("*()", c) || (c == '+' && peek(w, 1) != '='))
		fatal(w, w->line, "write a value with *, +, ( or ) in quotes");
	else if (strchr(" \t\n=,+", c))
		w->at++;
	else
		walk_word(w);
}

/* "= { }" becomes "= MARK": the parser tells nobody about an empty list. */
static void mark_empty_lists(struct guarded *g)
{
	size_t open = 0;
	bool after_equal = false, in_list = false;

	for (size_t i = 0; i < g->length; i++) {
		char c = g->mask[i];

		if (strchr(" \t\n", c))
			continue;
		if (in_list && c == '}') {
			g->text[open] = g->mask[open] = GUARD_EMPTY_LIST[0];
			g->text[i] = g->mask[i] = ' ';
		}
		in_list = after_equal && c == '{';
		if (in_list)
			open = i;
		after_equal = c == '=';
	}
}

int guard_prepare(
        struct guarded *g, const char *file, const char *text, size_t length, struct mistakes *m)
{
	static const char end[] = "\n" GUARD_SENTINEL " = 1\n";
	struct walk w = {.g = g, .file = file, .m = m, .line = 1};

	*g = (struct guarded){.length = length};
	if (length > CONF_MAX_BYTES) {
		mistakes_add(m, file, 0,
		        "the file is larger than %zu MiB, which no configuration is",
		        CONF_MAX_BYTES >> 20);
		return -EINVAL;
	}
	g->text = malloc(length + sizeof end);
	g->mask = malloc(length + sizeof end);
	if (!g->text || !g->mask)
		return -ENOMEM;
	memcpy(g->text, text, length);
	if (!check_bytes(file, g->text, length, m))
		return -EINVAL;
	memcpy(g->mask, g->text, length);
	while (w.at < length && !w.fatal)
		walk_one(&w);
	if (w.depth && !w.fatal)
		fatal(&w, w.open_lines[w.depth - 1],
		        "\"{\" is never closed; is a \"}\" missing, or is the file cut?");
	g->last_line = w.line;
	mark_empty_lists(g);
	memcpy(g->text + length, end, sizeof end);
	memcpy(g->mask + length, end, sizeof end);
	return w.fatal ? -EINVAL : 0;
}

void guard_done(struct guarded *g)
{
	free(g->text);
	free(g->mask);
	*g = (struct guarded){0};
}

static size_t skip_blanks(const struct guarded *g, size_t i)
{
	while (i < g->length && strchr(" \t\n", g->mask[i]))
		i++;
	return i;
}

static size_t skip_word(const struct guarded *g, size_t i)
{
	const bool quoted = i < g->length && g->mask[i] == GUARD_QUOTED;

	/* A continued string has newlines in its mask as well; such a title is not looked for. */
	while (i < g->length && (g->mask[i] == GUARD_QUOTED) == quoted &&
	        !strchr(" \t\n={}+,", g->mask[i]))
		i++;
	return i;
}

/* Behind the brace that closes the one at `i`, or 0. */
static size_t skip_braces(const struct guarded *g, size_t i)
{
	size_t depth = 0;

	for (; i < g->length; i++) {
		depth += g->mask[i] == '{';
		depth -= g->mask[i] == '}';
		if (depth == 0)
			return i + 1;
	}
	return 0;
}

/* Behind the setting or block whose name ends at `i`, or 0 if none can be made out. */
static size_t setting_end(const struct guarded *g, size_t i)
{
	size_t name_end = i, word;

	i = skip_blanks(g, i);
	if (i >= g->length)
		return 0;
	if (g->mask[i] == '+')
		i++;
	if (i < g->length && g->mask[i] == '=') {
		i = skip_blanks(g, i + 1);
		return i < g->length && g->mask[i] == '{' ? skip_braces(g, i) : skip_word(g, i);
	}
	word = skip_word(g, i);
	if (word > i && !memchr(g->mask + name_end, '\n', i - name_end))
		i = skip_blanks(g, word); /* a title */
	return i < g->length && g->mask[i] == '{' ? skip_braces(g, i) : 0;
}

/* To the end of the line of a name that has no value, or 0 if braces are in the way. */
static size_t line_end(const struct guarded *g, size_t i)
{
	for (; i < g->length && g->mask[i] != '\n'; i++)
		if (strchr("={}", g->mask[i]))
			return 0;
	return i;
}

bool guard_blank(struct guarded *g, const char *name, int line, bool without_value, int *ret_line)
{
	const size_t n = strlen(name);
	size_t begin = 0, end = 0;
	bool at_start = true;
	int current = 1;

	for (size_t i = 0; i + n <= g->length && current <= line && n > 0; i++) {
		char c = g->mask[i];

		if (at_start && (without_value || current == line) &&
		        !memcmp(g->mask + i, name, n) && skip_word(g, i) == i + n) {
			size_t e = setting_end(g, i + n);

			if (without_value && e == 0)
				e = line_end(g, i + n);
			if (e > i && !(without_value && g->mask[skip_blanks(g, i + n)] == '=')) {
				begin = i;
				end = e;
				*ret_line = current;
				if (!without_value)
					break;
			}
		}
		at_start = strchr(" \t\n{},=\002", c) != NULL;
		current += c == '\n';
	}
	if (end == 0)
		return false;
	blank(g, begin, end - begin);
	return true;
}
