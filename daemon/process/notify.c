/* SPDX-License-Identifier: MIT */
#include "process/notify.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "system/fd.h"

#define SCM_MAX_FDS 253 /* of the kernel */

/* Length of the UTF-8 sequence at `p` (at most `n` bytes), 0 if it is none. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
	size_t length = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (length == 0 || length > n || p[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < length; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return length;
}

/* Makes text fit to be shown: control characters become blanks, what is no UTF-8 becomes '?'. */
static void clean_text(char *text)
{
	unsigned char *p = (unsigned char *)text;
	size_t left = strlen(text), n;

	for (; left > 0; p += n, left -= n) {
		n = utf8_length(p, left);
		if (n == 0 || (n == 2 && p[0] == 0xc2 && p[1] < 0xa0))
			memset(p, '?', n = n ? n : 1);
		else if (*p < 0x20 || *p == 0x7f)
			*p = ' ';
	}
}

static const char *value_of(const char *line, const char *key)
{
	size_t n = strlen(key);

	return strncmp(line, key, n) == 0 && line[n] == '=' ? line + n + 1 : NULL;
}

static bool parse_line(char *line, struct notify_message *m)
{
	static const struct {
		const char *line;
		enum notify_kind kind;
	} words[] = {
	        {"READY=1", NOTIFY_READY},
	        {"STOPPING=1", NOTIFY_STOPPING},
	        {"RELOADING=1", NOTIFY_RELOADING},
	        {"WATCHDOG=1", NOTIFY_WATCHDOG},
	        {"WATCHDOG=trigger", NOTIFY_WATCHDOG_TRIGGER},
	        {"FDSTORE=1", NOTIFY_FDSTORE},
	        {"FDSTOREREMOVE=1", NOTIFY_FDREMOVE},
	        {"HANDOFF_HELLO=1", NOTIFY_HELLO},
	        {"HANDOFF_DRAINS=1", NOTIFY_DRAINS},
	        {"HANDOFF_FETCH=1", NOTIFY_FETCH},
	};
	static const struct {
		const char *key;
		enum notify_kind kind;
		uint64_t max;
	} numbers[] = {
	        {"ERRNO", NOTIFY_ERRNO, INT32_MAX},
	        {"EXTEND_TIMEOUT_USEC", NOTIFY_EXTEND, UINT64_MAX - 1},
	        {"MAINPID", NOTIFY_MAINPID_IGNORED, INT32_MAX},
	};

	*m = (struct notify_message){.fd = -1, .candidate = -1, .page_fd = -1};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(line, words[i].line) == 0) {
			m->kind = words[i].kind;
			return true;
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		const char *value = value_of(line, numbers[i].key);

		if (value) {
			m->kind = numbers[i].kind;
			return parse_number(value, numbers[i].max, &m->number);
		}
	}
	m->text = value_of(line, "FDNAME");
	if (m->text) {
		m->kind = NOTIFY_FDNAME;
		return true;
	}
	m->text = value_of(line, "HANDOFF_KEEP");
	if (m->text) {
		m->kind = NOTIFY_KEEP;
		return true;
	}
	m->text = value_of(line, "HANDOFF_LIVE");
	if (m->text) {
		m->kind = NOTIFY_LIVE;
		return true;
	}
	m->text = value_of(line, "STATUS");
	if (!m->text)
		return false;
	m->kind = NOTIFY_STATUS;
	clean_text(line + strlen("STATUS="));
	return true;
}

void notify_parse(const char *bytes, size_t length,
        bool (*each)(void *arg, const struct notify_message *m), void *arg)
{
	char copy[NOTIFY_MAX_BYTES + 1];
	struct notify_message m;

	while (length > 0 && bytes[length - 1] == '\0')
		length--;
	if (length > NOTIFY_MAX_BYTES || memchr(bytes, '\0', length))
		return;
	memcpy(copy, bytes, length);
	copy[length] = '\0';
	for (char *line = copy, *next; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (parse_line(line, &m) && !each(arg, &m))
			return;
	}
}

/* What came beside one datagram. */
struct beside {
	struct ucred from;
	bool known;
	int fds[SCM_MAX_FDS];
	size_t n_fds;
};

static void take_control(struct msghdr *h, struct beside *ret)
{
	ret->known = false;
	ret->n_fds = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof ret->from)) {
			memcpy(&ret->from, CMSG_DATA(c), sizeof ret->from);
			ret->known = ret->from.pid > 0;
		}
		if (c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int))
			if (ret->n_fds < SCM_MAX_FDS)
				memcpy(&ret->fds[ret->n_fds++], CMSG_DATA(c) + at, sizeof(int));
	}
}

/* As systemd has it for names of descriptors: printable, no colon; "stored" without one. */
static bool valid_name(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n >= CONFIG_MAX_NAME)
		return false;
	for (; *name; name++)
		if (*name <= ' ' || *name >= 0x7f || *name == ':')
			return false;
	return true;
}

struct delivery {
	struct notify *notify;
	bool alive;
	bool store, forget, fetch, hello, drains;
	char name[CONFIG_MAX_NAME], layout[CONFIG_MAX_NAME], live[CONFIG_MAX_NAME];
};

static bool deliver(void *arg, const struct notify_message *m)
{
	struct delivery *d = arg;

	if (m->kind == NOTIFY_FDNAME) {
		if (valid_name(m->text))
			(void)copy_string(d->name, sizeof d->name, m->text);
		return true;
	}
	if (m->kind == NOTIFY_KEEP) {
		if (valid_name(m->text))
			(void)copy_string(d->layout, sizeof d->layout, m->text);
		return true;
	}
	if (m->kind == NOTIFY_LIVE) {
		(void)copy_string(d->live, sizeof d->live, m->text);
		return true;
	}
	if (m->kind == NOTIFY_FDSTORE || m->kind == NOTIFY_FDREMOVE || m->kind == NOTIFY_FETCH) {
		d->store |= m->kind == NOTIFY_FDSTORE;
		d->forget |= m->kind == NOTIFY_FDREMOVE;
		d->fetch |= m->kind == NOTIFY_FETCH;
		return true;
	}
	if (m->kind == NOTIFY_HELLO || m->kind == NOTIFY_DRAINS) {
		d->hello |= m->kind == NOTIFY_HELLO;
		d->drains |= m->kind == NOTIFY_DRAINS;
		return true;
	}
	d->alive = d->notify->message(d->notify->data, m);
	return d->alive;
}

/* FDNAME may stand before or after the word that it belongs to. */
static void deliver_fds(struct delivery *d, const struct beside *b)
{
	struct notify_message m = {
	        .kind = NOTIFY_FDREMOVE, .text = d->name, .fd = -1, .candidate = -1, .page_fd = -1};

	if (d->alive && d->hello && b->n_fds) {
		m = (struct notify_message){.kind = NOTIFY_HELLO,
		        .number = d->drains,
		        .fd = b->fds[0],
		        .candidate = -1,
		        .page_fd = b->n_fds > 1 ? b->fds[1] : -1};
		d->alive = d->notify->message(d->notify->data, &m);
		return;
	}
	if (d->alive && d->forget)
		d->alive = d->notify->message(d->notify->data, &m);
	m.kind = NOTIFY_FDSTORE;
	for (size_t i = 0; d->alive && d->store && i < b->n_fds; i++) {
		m.fd = b->fds[i];
		d->alive = d->notify->message(d->notify->data, &m);
	}
	if (d->alive && d->fetch && b->n_fds == 1) {
		m.kind = NOTIFY_FETCH;
		m.fd = b->fds[0];
		d->alive = d->notify->message(d->notify->data, &m);
	}
	if (d->alive && d->layout[0] && b->n_fds == 2) {
		m.kind = NOTIFY_KEEP;
		m.fd = b->fds[0];
		m.candidate = b->fds[1];
		m.layout = d->layout;
		d->alive = d->notify->message(d->notify->data, &m);
	}
	if (d->alive && d->live[0] && b->n_fds == 1) {
		m = (struct notify_message){.kind = NOTIFY_LIVE,
		        .text = d->live,
		        .fd = b->fds[0],
		        .candidate = -1,
		        .page_fd = -1};
		d->alive = d->notify->message(d->notify->data, &m);
	}
}

bool notify_read(struct notify *n, unsigned limit)
{
	bool alive = true;

	while (alive && n->fd >= 0 && limit-- > 0) {
		union {
			char bytes[CMSG_SPACE(sizeof(struct ucred)) +
			           CMSG_SPACE(SCM_MAX_FDS * sizeof(int))];
			struct cmsghdr align;
		} control;
		char bytes[NOTIFY_MAX_BYTES];
		struct delivery d = {.notify = n, .alive = true, .name = "stored"};
		struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
		struct msghdr h = {.msg_iov = &iov,
		        .msg_iovlen = 1,
		        .msg_control = &control,
		        .msg_controllen = sizeof control};
		ssize_t got = recvmsg(n->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		struct beside b;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			break;
		take_control(&h, &b);
		if (!b.known || !n->accepts(n->data, b.from.pid, b.from.uid)) {
			n->strangers++;
		} else if (!(h.msg_flags & MSG_TRUNC)) {
			notify_parse(bytes, (size_t)got, deliver, &d);
			deliver_fds(&d, &b);
			alive = d.alive;
		}
		/* also those that nobody asked for: that answers BARRIER=1 */
		for (size_t i = 0; i < b.n_fds; i++)
			(void)close_fd(b.fds[i]);
	}
	return alive;
}

static int make_name(struct notify *n)
{
	uint64_t random[2];

	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		return -EIO;
	(void)snprintf(n->name, sizeof n->name, "@handoffd/%ld/%016llx%016llx", (long)getpid(),
	        (unsigned long long)random[0], (unsigned long long)random[1]);
	return 0;
}

static int bind_name(const struct notify *n, int fd)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	size_t length;

	length = strlen(n->name);
	memcpy(a.sun_path + 1, n->name + 1, length - 1);
	if (bind(fd, (struct sockaddr *)&a,
	            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) < 0)
		return -errno;
	return 0;
}

void notify_watch(struct notify *n, struct ev_loop *loop,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events))
{
	n->loop = loop;
	ev_io_init(&n->io, readable, n->fd, EV_READ);
	n->io.data = n->data;
	ev_io_start(loop, &n->io);
}

int notify_rebind(struct notify *n, struct ev_loop *loop,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events))
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1, r = fd < 0 ? -errno : 0;

	if (r == 0 && setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
		r = -errno;
	if (r == 0)
		r = bind_name(n, fd);
	if (r < 0)
		return r;
	n->fd = take_fd(fd);
	notify_watch(n, loop, readable);
	return 0;
}

int notify_start(struct notify *n, struct ev_loop *loop,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events), struct ho_error *reterr)
{
	int r = make_name(n);

	if (r == 0)
		r = notify_rebind(n, loop, readable);
	if (r < 0)
		return ho_error_set(
		        reterr, r, "cannot open a notify socket for a worker: %s", strerror(-r));
	return 0;
}

void notify_stop(struct notify *n)
{
	if (!n->loop || n->fd < 0)
		return;
	ev_io_stop(n->loop, &n->io);
	n->fd = close_fd(n->fd);
}
