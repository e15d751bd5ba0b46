/* SPDX-License-Identifier: MIT */
#include "process/substitute.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const words[] = {"generation", "worker", "service", "release", "environment"};

static bool is_known(const char *word)
{
	if (strncmp(word, "fd:", 3) == 0)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(word, words[i]) == 0)
			return true;
	}
	return false;
}

static int add_fd(
        FILE *out, const char *word, const struct substitution *s, struct ho_error *reterr)
{
	char name[2 * CONFIG_MAX_NAME];
	char *colon;
	uint64_t nth = 1;
	int fd;

	(void)copy_string(name, sizeof name, word + 3);
	colon = strrchr(name, ':');
	if (colon) {
		*colon = '\0';
		if (!parse_number(colon + 1, CONFIG_MAX_LISTENERS, &nth) || nth == 0)
			return ho_error_set(reterr, -EINVAL,
			        "{%s}: after the second colon comes the number of an address, from "
			        "1",
			        word);
	}
	fd = dialect_find(s->input, name, (unsigned)nth);
	if (fd < 0)
		return ho_error_set(reterr, -EINVAL,
		        "{%s}: service \"%s\" passes no such listener to its workers", word,
		        s->service);
	(void)fprintf(out, "%d", fd);
	return 0;
}

static int add_word(
        FILE *out, const char *word, const struct substitution *s, struct ho_error *reterr)
{
	if (strcmp(word, "generation") == 0)
		(void)fprintf(out, "%u", s->generation);
	else if (strcmp(word, "service") == 0)
		(void)fputs(s->service, out);
	else if (strcmp(word, "environment") == 0)
		(void)fputs(s->environment, out);
	else if (!s->input)
		return ho_error_set(reterr, -EINVAL,
		        "{%s} cannot be used in the directory of service \"%s\"", word, s->service);
	else if (strcmp(word, "worker") == 0)
		(void)fprintf(out, "%u", s->input->worker);
	else if (strncmp(word, "fd:", 3) == 0)
		return add_fd(out, word, s, reterr);
	else if (s->release)
		(void)fputs(s->release, out);
	else
		return ho_error_set(reterr, -EINVAL,
		        "{release} has no value: service \"%s\" has no directory", s->service);
	return 0;
}

/* Copies the word of "{word}" at `p` if it is a known one; returns the length of all, or 0. */
static size_t known_word(const char *p, char *word, size_t size)
{
	size_t n = *p == '{' ? strcspn(p + 1, "{}") : 0;

	if (n == 0 || n >= size || p[n + 1] != '}')
		return 0;
	memcpy(word, p + 1, n);
	word[n] = '\0';
	return is_known(word) ? n + 2 : 0;
}

int substitute(const char *text, const struct substitution *s, char **ret, struct ho_error *reterr)
{
	char word[2 * CONFIG_MAX_NAME];
	char *made = NULL;
	size_t made_bytes = 0;
	FILE *out = open_memstream(&made, &made_bytes);
	int r = 0;

	if (!out)
		return ho_error_set(reterr, -ENOMEM, "no memory for \"%.100s\"", text);
	while (r == 0 && *text) {
		size_t n = known_word(text, word, sizeof word);

		if (n) {
			r = add_word(out, word, s, reterr);
		} else if (*text == '{' && (n = known_word(text + 1, word, sizeof word))) {
			text++;
			(void)fprintf(out, "{%s}", word);
		} else {
			n = 1;
			(void)fputc(*text, out);
		}
		text += n;
	}
	if ((ferror(out) | fclose(out)) && r == 0)
		r = ho_error_set(reterr, -ENOMEM, "no memory for a substitution");
	if (r < 0)
		free(made);
	else
		*ret = made;
	return r;
}
