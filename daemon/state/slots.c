/* SPDX-License-Identifier: MIT */
#include "state/slots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST 4096 /* where texts begin */
#define TEXT_MAX ((uint64_t)1 << 30)

#define SMALL ((uint64_t)64 << 10)

static const char magic[8] = "HOSTATE", magic_of_more[8] = "HOMORE";

/* Two of these at the beginning, used in turn; and one before each addition, with the sequence of
 * the text that it was made to. */
struct head {
	char magic[8];
	uint64_t sequence, at, length, checksum;
};

/* FNV-1a. */
static uint64_t add(uint64_t sum, const void *bytes, size_t n)
{
	const unsigned char *p = bytes;

	for (size_t i = 0; i < n; i++)
		sum = (sum ^ p[i]) * UINT64_C(0x100000001b3);
	return sum;
}

static uint64_t checksum(const struct head *h, const char *text)
{
	uint64_t sum = add(UINT64_C(0xcbf29ce484222325), h, offsetof(struct head, checksum));

	return add(sum, text, h->length);
}

static int write_all(int fd, const void *bytes, size_t n, uint64_t at)
{
	const char *p = bytes;

	while (n > 0) {
		ssize_t done = pwrite(fd, p, n, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		p += done;
		n -= (size_t)done;
		at += (uint64_t)done;
	}
	return 0;
}

static bool read_all(int fd, void *bytes, size_t n, uint64_t at)
{
	char *p = bytes;

	while (n > 0) {
		ssize_t done = pread(fd, p, n, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		p += done;
		n -= (size_t)done;
		at += (uint64_t)done;
	}
	return true;
}

static struct head head_of(
        const char kind[8], uint64_t sequence, uint64_t at, const char *text, size_t n)
{
	struct head h = {.sequence = sequence, .at = at, .length = n};

	memcpy(h.magic, kind, sizeof h.magic);
	h.checksum = checksum(&h, text);
	return h;
}

/* Gives back room; where that cannot be, it is used again later. */
static void give_back(const struct slots *s, uint64_t at, uint64_t n)
{
	if (at < s->end || ftruncate(s->fd, (off_t)s->end) < 0)
		(void)fallocate(
		        s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n);
}

/* The head comes last: with it the text is in force. */
static int write_both(struct slots *s, const struct head *h, uint64_t place, const char *text)
{
	int r = write_all(s->fd, text, h->length, h->at);

	if (r == 0)
		r = write_all(s->fd, h, sizeof *h, place);
	if (r < 0) /* on a full disk the rest would be in the way of what is tried next */
		give_back(s, h->at, h->length);
	return r;
}

int slots_write(struct slots *s, const char *text, size_t n)
{
	bool in_front = !s->sequence || FIRST + n <= s->at;
	const uint64_t before = s->at;
	struct head h = head_of(magic, s->sequence + 1, in_front ? FIRST : s->end, text, n);
	int r = write_both(s, &h, h.sequence % 2 * sizeof h, text);

	if (r < 0)
		return r;
	s->sequence = h.sequence;
	s->at = h.at;
	s->length = n;
	s->end = h.at + n;
	give_back(s, in_front ? s->end : before, in_front ? 0 : h.at - before);
	return 0;
}

int slots_add(struct slots *s, const char *text, size_t n)
{
	struct head h = head_of(magic_of_more, s->sequence, s->end + sizeof h, text, n);
	int r = write_both(s, &h, s->end, text);

	if (r == 0)
		s->end = h.at + n;
	return r;
}

bool slots_has_grown(const struct slots *s, unsigned times)
{
	uint64_t base = s->length > SMALL ? s->length : SMALL;

	return s->sequence && s->end - (s->at + s->length) > times * base;
}

/* Behind what is in *text. */
static bool read_text(int fd, const struct head *h, char **text, size_t *n)
{
	char *more;

	if (h->length > TEXT_MAX - *n || !(more = realloc(*text, *n + h->length + 1)))
		return false;
	*text = more;
	more += *n;
	if (!read_all(fd, more, h->length, h->at) || checksum(h, more) != h->checksum)
		return false;
	*n += h->length;
	return true;
}

static char *read_slot(int fd, unsigned which, struct head *h)
{
	char *text = NULL;
	size_t n = 0;

	if (read_all(fd, h, sizeof *h, which * sizeof *h) &&
	        !memcmp(h->magic, magic, sizeof magic) && h->sequence &&
	        read_text(fd, h, &text, &n))
		return text;
	free(text);
	return NULL;
}

static void read_additions(struct slots *s, char **text)
{
	size_t n = s->length;
	struct head h;

	while (read_all(s->fd, &h, sizeof h, s->end) &&
	        !memcmp(h.magic, magic_of_more, sizeof magic) && h.sequence == s->sequence &&
	        h.at == s->end + sizeof h && read_text(s->fd, &h, text, &n))
		s->end = h.at + h.length;
	(*text)[n] = '\0';
}

char *slots_read(struct slots *s)
{
	struct head heads[2] = {0};
	char *texts[2];
	unsigned best;

	for (unsigned i = 0; i < 2; i++)
		texts[i] = read_slot(s->fd, i, &heads[i]);
	best = texts[1] && (!texts[0] || heads[1].sequence > heads[0].sequence);
	free(texts[!best]);
	if (!texts[best])
		return NULL;
	s->sequence = heads[best].sequence;
	s->at = heads[best].at;
	s->length = heads[best].length;
	s->end = s->at + s->length;
	read_additions(s, &texts[best]);
	return texts[best];
}
