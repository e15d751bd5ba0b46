/* SPDX-License-Identifier: MIT */
/* What a reader finds after the writer died: at every byte of a write, what was there before or
 * what came after it. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "state/slots.h"
#include "system/fd.h"

#define IMAGE_MAX ((size_t)64 << 10)

struct image {
	char bytes[IMAGE_MAX];
	size_t n;
};

static void take(int fd, struct image *ret)
{
	ssize_t n = pread(fd, ret->bytes, sizeof ret->bytes, 0);

	assert_in_range(n, 0, sizeof ret->bytes - 1);
	ret->n = (size_t)n;
	memset(ret->bytes + n, 0, sizeof ret->bytes - (size_t)n);
}

static char *read_image(const struct image *i)
{
	struct slots s = {.fd = memfd_create("image", MFD_CLOEXEC)};
	char *text;

	assert_true(s.fd >= 0);
	assert_int_equal(pwrite(s.fd, i->bytes, i->n, 0), (ssize_t)i->n);
	text = slots_read(&s);
	close_fd(s.fd);
	return text;
}

static void expect(const struct image *i, const char *text)
{
	char *found = read_image(i);

	if (text)
		assert_string_equal(found, text);
	else
		assert_null(found);
	free(found);
}

/* The writer died when it had written so many of these bytes. */
static void tear(const struct image *before, const struct image *after, size_t from, size_t to,
        const char *text)
{
	struct image torn = *before;

	torn.n = after->n > before->n ? after->n : before->n;
	for (size_t at = from; at < to; at++) {
		expect(&torn, text);
		torn.bytes[at] = after->bytes[at];
	}
}

/* The text first, then its head; the room of what was replaced is given back after both. */
static void tear_all(const struct image *before, const struct image *after, size_t text_at,
        size_t length, size_t head_at, const char *was, const char *is)
{
	struct image torn = *before;

	tear(before, after, text_at, text_at + length, was);
	torn.n = after->n > before->n ? after->n : before->n;
	memcpy(torn.bytes + text_at, after->bytes + text_at, length);
	tear(&torn, after, head_at, head_at + 40, was);
	expect(after, is);
}

static void test_torn(void **state)
{
	static struct image images[6];
	struct slots s = {.fd = memfd_create("slots", MFD_CLOEXEC)};
	uint64_t end;

	(void)state;
	assert_true(s.fd >= 0);
	take(s.fd, &images[0]);
	assert_int_equal(slots_write(&s, "first", 5), 0);
	take(s.fd, &images[1]);
	tear_all(&images[0], &images[1], s.at, 5, 40, NULL, "first");
	end = s.end;
	assert_int_equal(slots_add(&s, " more", 5), 0);
	take(s.fd, &images[2]);
	tear_all(&images[1], &images[2], end + 40, 5, end, "first", "first more");
	end = s.end;
	assert_int_equal(slots_add(&s, " and more", 9), 0);
	take(s.fd, &images[3]);
	tear_all(&images[2], &images[3], end + 40, 9, end, "first more", "first more and more");
	assert_int_equal(slots_write(&s, "second", 6), 0); /* behind */
	take(s.fd, &images[4]);
	tear_all(&images[3], &images[4], s.at, 6, 0, "first more and more", "second");
	assert_int_equal(slots_write(&s, "third", 5), 0); /* in front again */
	take(s.fd, &images[5]);
	tear_all(&images[4], &images[5], s.at, 5, 40, "second", "third");
	close_fd(s.fd);
}

/* An addition to a text of before, just where one to the newest would be. */
static void test_stale(void **state)
{
	static struct image old, now;
	struct slots s = {.fd = memfd_create("slots", MFD_CLOEXEC)};

	(void)state;
	assert_int_equal(slots_write(&s, "first", 5), 0);
	assert_int_equal(slots_add(&s, " more", 5), 0);
	take(s.fd, &old);
	assert_int_equal(slots_write(&s, "other", 5), 0);
	assert_int_equal(slots_write(&s, "third", 5), 0);
	assert_int_equal(s.at + 5 + 40 + 5, old.n);
	take(s.fd, &now);
	memcpy(now.bytes + now.n, old.bytes + now.n, old.n - now.n);
	now.n = old.n;
	expect(&now, "third");
	close_fd(s.fd);
}

static char *random_text(unsigned *seed, size_t *n)
{
	static char text[400];

	*n = (size_t)rand_r(seed) % (sizeof text - 1) + 1;
	for (size_t i = 0; i < *n; i++)
		text[i] = (char)('a' + rand_r(seed) % 26);
	text[*n] = '\0';
	return text;
}

/* What is left in the file of earlier texts and of failed tries is never taken for an addition. */
static void test_many(void **state)
{
	char want[32 << 10] = "";
	struct slots s = {.fd = memfd_create("slots", MFD_CLOEXEC)}, again;
	unsigned seed = 1;

	(void)state;
	assert_true(s.fd >= 0);
	for (int i = 0; i < 2000; i++) {
		bool whole = i == 0 || rand_r(&seed) % 8 == 0 || strlen(want) > sizeof want - 1000;
		size_t n;
		char *found, *text = random_text(&seed, &n);

		assert_int_equal((whole ? slots_write : slots_add)(&s, text, n), 0);
		if (whole)
			want[0] = '\0';
		strcat(want, text);
		again = (struct slots){.fd = s.fd};
		found = slots_read(&again);
		assert_string_equal(found, want);
		assert_int_equal(again.end, s.end);
		assert_int_equal(again.sequence, s.sequence);
		free(found);
	}
	close_fd(s.fd);
}

static void set_limit(rlim_t bytes)
{
	struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};

	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_no_room(void **state)
{
	static char long_text[6000];
	static struct image before, after;
	struct slots s = {.fd = memfd_create("slots", MFD_CLOEXEC)};

	(void)state;
	(void)signal(SIGXFSZ, SIG_IGN);
	memset(long_text, 'x', sizeof long_text - 1);
	assert_int_equal(slots_write(&s, "first", 5), 0);
	take(s.fd, &before);
	set_limit(s.end + 1000);
	assert_int_equal(slots_add(&s, long_text, sizeof long_text - 1), -EFBIG);
	take(s.fd, &after);
	assert_int_equal(after.n, before.n); /* what could be written is not left there */
	assert_int_equal(slots_write(&s, long_text, sizeof long_text - 1), -EFBIG);
	take(s.fd, &after);
	assert_int_equal(after.n, before.n);
	expect(&after, "first");
	assert_int_equal(slots_add(&s, " more", 5), 0);
	set_limit(RLIM_INFINITY);
	assert_int_equal(slots_add(&s, " and more", 9), 0);
	take(s.fd, &after);
	expect(&after, "first more and more");
	close_fd(s.fd);
}

static void test_grown(void **state)
{
	static char text[80 << 10];
	struct slots s = {.fd = memfd_create("slots", MFD_CLOEXEC)};

	(void)state;
	memset(text, 'x', sizeof text);
	assert_false(slots_has_grown(&s, 1));
	assert_int_equal(slots_write(&s, text, sizeof text), 0);
	assert_int_equal(slots_add(&s, text, sizeof text / 2), 0);
	assert_false(slots_has_grown(&s, 1));
	assert_int_equal(slots_add(&s, text, sizeof text), 0);
	assert_true(slots_has_grown(&s, 1));
	assert_false(slots_has_grown(&s, 4));
	assert_int_equal(slots_write(&s, text, sizeof text), 0);
	assert_false(slots_has_grown(&s, 1));
	close_fd(s.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_torn),
	        cmocka_unit_test(test_stale), cmocka_unit_test(test_many),
	        cmocka_unit_test(test_no_room), cmocka_unit_test(test_grown)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
