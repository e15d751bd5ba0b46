/* SPDX-License-Identifier: MIT */
#include "terminal/terminal.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "system/fd.h"

#define KEPT_MAX ((size_t)16 << 20)
#define WRITE_BYTES ((size_t)64 << 10)
#define NAMES_MAX 64
#define WIDTH_MAX 24
#define PREFIX_MAX 160
#define LAST_WAIT_MSEC 5000

struct terminal {
	struct ev_loop *loop;
	int fd;
	bool own_fd, socket;
	bool colour, unicode;
	ev_io io;
	char *bytes; /* kept: bytes[from] to bytes[to] */
	size_t from, to, size;
	unsigned long left_out;
	char names[NAMES_MAX][WIDTH_MAX + 1];
	unsigned n_names;
	int width;
};

/* ---- writing ---- */

/* As much as it takes at once; false: no more for now. */
static bool write_some(struct terminal *t)
{
	size_t n = t->to - t->from;
	ssize_t done;

	n = n < WRITE_BYTES ? n : WRITE_BYTES;
	done = t->socket ? send(t->fd, t->bytes + t->from, n, MSG_DONTWAIT | MSG_NOSIGNAL)
	                 : write(t->fd, t->bytes + t->from, n);
	if (done < 0 && errno != EAGAIN && errno != EINTR)
		t->from = t->to = 0; /* nobody is there any more */
	if (done < 0)
		return errno == EINTR;
	t->from += (size_t)done;
	if (t->from == t->to)
		t->from = t->to = 0;
	return t->to > 0;
}

static void keep(struct terminal *t, const char *bytes, size_t n)
{
	size_t used = t->to - t->from, size = t->size ? t->size : 4096;
	char *larger;

	if (t->to + n > t->size && t->from) {
		memmove(t->bytes, t->bytes + t->from, used);
		t->from = 0;
		t->to = used;
	}
	while (size < used + n)
		size *= 2;
	if (size > t->size) {
		larger = realloc(t->bytes, size);
		if (!larger)
			return;
		t->bytes = larger;
		t->size = size;
	}
	memcpy(t->bytes + t->to, bytes, n);
	t->to += n;
}

static void on_writable(struct ev_loop *loop, ev_io *io, int events)
{
	struct terminal *t = io->data;
	char note[100];
	int n;

	(void)events;
	(void)write_some(t);
	if (t->left_out && t->to - t->from < KEPT_MAX / 2) {
		n = snprintf(note, sizeof note,
		        "handoffd: %lu lines are left out, as they came faster than they were "
		        "read\n",
		        t->left_out);
		keep(t, note, (size_t)n);
		t->left_out = 0;
	}
	if (!t->to)
		ev_io_stop(loop, io);
}

/* ---- lines ---- */

static unsigned number_of(struct terminal *t, const char *name)
{
	for (unsigned i = 0; i < t->n_names; i++)
		if (!strncmp(t->names[i], name, WIDTH_MAX))
			return i;
	if (t->n_names == NAMES_MAX)
		return NAMES_MAX - 1;
	(void)copy_string(t->names[t->n_names], WIDTH_MAX + 1, name);
	if (t->width < (int)strlen(t->names[t->n_names]))
		t->width = (int)strlen(t->names[t->n_names]);
	return t->n_names++;
}

void terminal_name(struct terminal *t, const char *name)
{
	(void)number_of(t, name);
}

static void add_prefix(
        struct terminal *t, struct text *p, enum terminal_mark mark, const char *name)
{
	static const char colours[][12] = {
	        "36", "33", "32", "35", "34", "96", "93", "92", "95", "94"};
	const char *sign = mark == TERMINAL_OUT   ? t->unicode ? "│" : "|"
	                   : mark == TERMINAL_ERR ? "!"
	                   : t->unicode           ? "»"
	                                          : ">";
	const char *red = mark == TERMINAL_ERR || mark == TERMINAL_BAD ? "\033[31m" : "";
	unsigned n = number_of(t, name);

	if (!t->colour) {
		text_add(p, "%-*.*s %s ", t->width, WIDTH_MAX, name, sign);
		return;
	}
	text_add(p, "\033[%sm%-*.*s%s %s\033[0m ", colours[n % ARRAY_SIZE(colours)], t->width,
	        WIDTH_MAX, name, red, sign);
	if (mark == TERMINAL_OWN || mark == TERMINAL_GOOD || mark == TERMINAL_BAD)
		text_add(p, "\033[%sm",
		        mark == TERMINAL_OWN    ? "1"
		        : mark == TERMINAL_GOOD ? "1;32"
		                                : "1;31");
}

/* The length of an escape sequence; `ret_colour`: it changes nothing but how text looks. */
static size_t escape_length(const char *p, size_t n, bool *ret_colour)
{
	size_t i = 2;

	*ret_colour = false;
	if (n < 2)
		return n;
	if (p[1] == '[') { /* CSI */
		while (i < n && (unsigned char)p[i] >= 0x20 && (unsigned char)p[i] < 0x40)
			i++;
		*ret_colour = i < n && p[i] == 'm';
		return i < n ? i + 1 : n;
	}
	if (p[1] == ']' || p[1] == 'P' || p[1] == '_' || p[1] == '^') { /* strings, to BEL or ST */
		while (i < n && p[i] != '\a' && p[i] != '\033')
			i++;
		return i + 1 < n && p[i] == '\033' ? i + 2 : i < n ? i + 1 : n;
	}
	return 2;
}

/* Only text, tabs and colours; of a line that was written over and over the last state. */
static size_t clean(char *to, const char *from, size_t n, bool *ret_coloured)
{
	size_t out = 0, length;
	bool colour;

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)from[i];

		if (c == '\r') {
			out = i + 1 < n ? 0 : out;
		} else if (c == '\033') {
			length = escape_length(from + i, n - i, &colour);
			if (colour) {
				memcpy(to + out, from + i, length);
				out += length;
				*ret_coloured = true;
			}
			i += length - 1;
		} else if (c == '\t' || (c >= ' ' && c != 0x7f)) {
			to[out++] = (char)c;
		}
	}
	return out;
}

static void one_line(struct terminal *t, enum terminal_mark mark, const char *name,
        const char *text, size_t length)
{
	char prefix[PREFIX_MAX], *line;
	struct text p = TEXT_ON(prefix);
	bool coloured = mark != TERMINAL_OUT && mark != TERMINAL_ERR && t->colour;
	size_t n;

	if (t->left_out || t->to - t->from + length > KEPT_MAX) {
		t->left_out++;
		return;
	}
	add_prefix(t, &p, mark, name);
	line = malloc(p.len + length + 8);
	if (!line) {
		t->left_out++;
		return;
	}
	memcpy(line, prefix, p.len);
	n = p.len + clean(line + p.len, text, length, &coloured);
	if (coloured) {
		memcpy(line + n, "\033[0m", 4);
		n += 4;
	}
	line[n++] = '\n';
	keep(t, line, n);
	free(line);
}

void terminal_line(struct terminal *t, enum terminal_mark mark, const char *name, const char *text,
        size_t length)
{
	const char *end;

	do {
		end = memchr(text, '\n', length);
		one_line(t, mark, name, text, end ? (size_t)(end - text) : length);
		if (end) {
			length -= (size_t)(end + 1 - text);
			text = end + 1;
		}
	} while (end && length);
	ev_io_start(t->loop, &t->io);
}

/* ---- the whole ---- */

static bool is_unicode(void)
{
	static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *value = getenv(names[i]);

		if (value && *value)
			return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
	}
	return true;
}

static bool is_colourful(int fd)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(fd) && !(no && *no) && !(term && !strcmp(term, "dumb"));
}

/* Others have the same open file (a shell, the terminal's other windows): whether it blocks is not
 * for us to change, so it is opened a second time. */
static void open_again(struct terminal *t, int fd)
{
	char path[40];
	struct stat st;

	t->fd = fd;
	if (fstat(fd, &st) < 0)
		return;
	t->socket = S_ISSOCK(st.st_mode);
	if (!S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode))
		return;
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return;
	t->fd = fd;
	t->own_fd = true;
}

int terminal_new(struct ev_loop *loop, int fd, struct terminal **ret, struct ho_error *reterr)
{
	struct terminal *t = calloc(1, sizeof *t);

	if (!t)
		return ho_error_set(reterr, -ENOMEM, "no memory for the terminal");
	t->loop = loop;
	t->colour = is_colourful(fd);
	t->unicode = is_unicode();
	open_again(t, fd);
	ev_io_init(&t->io, on_writable, t->fd, EV_WRITE);
	t->io.data = t;
	*ret = t;
	return 0;
}

void terminal_flush(struct terminal *t)
{
	usec_t until = now_usec() + LAST_WAIT_MSEC * USEC_PER_MSEC;
	struct pollfd p;

	while (t->to && now_usec() < until) {
		p = (struct pollfd){.fd = t->fd, .events = POLLOUT};
		if (write_some(t))
			continue;
		if (t->to && (errno != EAGAIN || poll(&p, 1, LAST_WAIT_MSEC) != 1))
			break;
	}
}

struct terminal *terminal_free(struct terminal *t)
{
	if (!t)
		return NULL;
	ev_io_stop(t->loop, &t->io);
	terminal_flush(t);
	if (t->own_fd)
		(void)close_fd(t->fd);
	free(t->bytes);
	free(t);
	return NULL;
}
