/* SPDX-License-Identifier: MIT */
#include "state/slots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST 4096 /* where texts begin */
#define TEXT_MAX ((uint64_t)1 << 30)

static const char magic[8] = "HOSTATE";

/* Two of these at the beginning, used in turn. */
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

int slots_write(struct slots *s, const char *text, size_t n)
{
	struct head h = {.sequence = s->sequence + 1, .length = n};
	bool in_front = !s->sequence || FIRST + n <= s->at;
	int r;

	h.at = in_front ? FIRST : s->at + s->length;
	memcpy(h.magic, magic, sizeof h.magic);
	h.checksum = checksum(&h, text);
	r = write_all(s->fd, text, n, h.at);
	if (r == 0)
		r = write_all(s->fd, &h, sizeof h, h.sequence % 2 * sizeof h);
	if (r < 0)
		return r;
	s->sequence = h.sequence;
	s->at = h.at;
	s->length = n;
	return 0;
}

static char *read_slot(int fd, unsigned which, struct head *h)
{
	char *text;

	if (!read_all(fd, h, sizeof *h, which * sizeof *h) ||
	        memcmp(h->magic, magic, sizeof magic) != 0 || h->length > TEXT_MAX || !h->sequence)
		return NULL;
	text = malloc(h->length + 1);
	if (text && read_all(fd, text, h->length, h->at) && checksum(h, text) == h->checksum) {
		text[h->length] = '\0';
		return text;
	}
	free(text);
	return NULL;
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
	if (texts[best]) {
		s->sequence = heads[best].sequence;
		s->at = heads[best].at;
		s->length = heads[best].length;
	}
	return texts[best];
}
