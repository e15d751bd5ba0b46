/* SPDX-License-Identifier: MIT */
#include "process/socket_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "process/socket_path.h"
#include "system/fd.h"

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
/* The shortest IPv4 address; netlink's are shorter. */
#define SHORTEST_ADDRESS 16

/* ---- the filter ---- */

#ifdef ARCHITECTURE
static int install(struct sock_fprog *program, unsigned long flags)
{
	long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program);

	return r < 0 ? -errno : (int)r;
}

/* A socket of MPTCP is refused as by a kernel without it, because a group cannot steer it: whoever
 * asks for one (Go does) then takes TCP. */
#define FIELD(f) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, f))
#define IF(op, value, yes, no) BPF_JUMP(BPF_JMP | (op) | BPF_K, value, yes, no)
#define ANSWER(what) BPF_STMT(BPF_RET | BPF_K, what)
#ifndef __NR_unlink
#define __NR_unlink __NR_unlinkat
#endif
static struct sock_filter tcp_filter[] = {
        FIELD(arch),
        IF(BPF_JEQ, ARCHITECTURE, 0, 8),
        FIELD(nr),
        IF(BPF_JEQ, __NR_listen, 7, 0),
        IF(BPF_JEQ, __NR_bind, 0, 2),
        FIELD(args[2]),
        IF(BPF_JGE, SHORTEST_ADDRESS, 4, 3),
        IF(BPF_JEQ, __NR_socket, 0, 2),
        FIELD(args[2]),
        IF(BPF_JEQ, IPPROTO_MPTCP, 2, 0),
        ANSWER(SECCOMP_RET_ALLOW),
        ANSWER(SECCOMP_RET_USER_NOTIF),
        ANSWER(SECCOMP_RET_ERRNO | EPROTONOSUPPORT),
};
/* Most that connect do it by IP: the length of the address tells. */
static struct sock_filter path_filter[] = {
        FIELD(arch),
        IF(BPF_JEQ, ARCHITECTURE, 0, 13),
        FIELD(nr),
        IF(BPF_JEQ, __NR_listen, 12, 0),
        IF(BPF_JEQ, __NR_bind, 11, 0),
        IF(BPF_JEQ, __NR_unlink, 10, 0),
        IF(BPF_JEQ, __NR_unlinkat, 9, 0),
        IF(BPF_JEQ, __NR_connect, 3, 0),
        IF(BPF_JEQ, __NR_socket, 0, 6),
        FIELD(args[2]),
        IF(BPF_JEQ, IPPROTO_MPTCP, 6, 4),
        FIELD(args[2]),
        IF(BPF_JEQ, sizeof(struct sockaddr_in), 2, 0),
        IF(BPF_JEQ, sizeof(struct sockaddr_in6), 1, 0),
        IF(BPF_JA, 1, 0, 0),
        ANSWER(SECCOMP_RET_ALLOW),
        ANSWER(SECCOMP_RET_USER_NOTIF),
        ANSWER(SECCOMP_RET_ERRNO | EPROTONOSUPPORT),
};
#undef FIELD
#undef IF
#undef ANSWER

int socket_calls_install(bool paths)
{
	struct sock_fprog program = {
	        .len = paths ? ARRAY_SIZE(path_filter) : ARRAY_SIZE(tcp_filter),
	        .filter = paths ? path_filter : tcp_filter};
	/* Before Linux 5.16 a filter without SPEC_ALLOW slows the program down. */
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW |
	                      SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	int r = install(&program, flags);

	if (r == -EINVAL) { /* before Linux 5.19 */
		flags &= ~SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
		r = install(&program, flags);
	}
	if (r == -EACCES && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) {
		r = install(&program, flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
		if (r == -EINVAL)
			r = install(&program, flags);
	}
	return r;
}
#else
int socket_calls_install(bool paths)
{
	(void)paths;
	return -ENOSYS;
}
#endif

bool socket_calls_paths(const struct service_config *s)
{
	for (size_t i = 0; i < s->n_listeners; i++)
		if (s->listeners[i].address.kind == ADDRESS_UNIX ||
		        s->listeners[i].address.kind == ADDRESS_ABSTRACT)
			return true;
	return false;
}

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int))];
};

int socket_calls_send(int socket, int fd_or_error)
{
	int error = fd_or_error < 0 ? fd_or_error : 0;
	union control control = {.bytes = {0}};
	struct iovec io = {.iov_base = &error, .iov_len = sizeof error};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};

	if (fd_or_error >= 0) {
		struct cmsghdr *h;

		m.msg_control = control.bytes;
		m.msg_controllen = sizeof control.bytes;
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof fd_or_error);
		memcpy(CMSG_DATA(h), &fd_or_error, sizeof fd_or_error);
	}
	return sendmsg(socket, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int socket_calls_receive(int socket)
{
	int error = 0, fd;
	union control control = {.bytes = {0}};
	struct iovec io = {.iov_base = &error, .iov_len = sizeof error};
	struct msghdr m = {.msg_iov = &io,
	        .msg_iovlen = 1,
	        .msg_control = control.bytes,
	        .msg_controllen = sizeof control.bytes};
	ssize_t n = recvmsg(socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *h = n == sizeof error ? CMSG_FIRSTHDR(&m) : NULL;

	if (n < 0)
		return -errno;
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS &&
	        h->cmsg_len == CMSG_LEN(sizeof fd)) {
		memcpy(&fd, CMSG_DATA(h), sizeof fd);
		return fd;
	}
	return n == sizeof error && error < 0 ? error : -ENODATA;
}

/* ---- what the caller has ---- */

/* A descriptor of the caller's, as our own (close-on-exec by itself). */
static int take_descriptor(pid_t tid, int theirs)
{
	_cleanup_close_ int pidfd = pidfd_open(tid, PIDFD_THREAD);
	int fd, tgid;

	if (pidfd < 0 && errno == EINVAL) { /* before Linux 6.9 */
		tgid = socket_path_process(tid);
		if (tgid < 0)
			return tgid;
		pidfd = pidfd_open(tgid, 0);
	}
	if (pidfd < 0)
		return -errno;
	fd = pidfd_getfd(pidfd, theirs, 0);
	return fd < 0 ? -errno : fd;
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t n = sizeof value;

	return getsockopt(fd, SOL_SOCKET, name, &value, &n) < 0 ? -1 : value;
}

/* ---- one call ---- */

/* An address of TCP or UDP with a port, or of a UNIX socket; what the rest means is looked at
 * later. */
static bool read_address(const struct seccomp_notif *n, struct socket_call *call)
{
	uint32_t length = (uint32_t)n->data.args[2];
	const struct sockaddr_in *in = (const struct sockaddr_in *)&call->address;

	if (length < sizeof call->address.ss_family + 1 || length > sizeof call->address ||
	        !socket_memory_read((pid_t)n->pid, n->data.args[1], &call->address, length))
		return false;
	call->length = length;
	if (call->address.ss_family == AF_UNIX)
		return length <= sizeof(struct sockaddr_un);
	if (call->kind != CALL_BIND || length < SHORTEST_ADDRESS)
		return false;
	if (call->address.ss_family == AF_INET)
		return in->sin_port != 0;
	return call->address.ss_family == AF_INET6 && length >= sizeof(struct sockaddr_in6) &&
	       in->sin_port != 0; /* at the same place */
}

/* What the call says in memory of the caller. False: nothing that concerns us. */
static bool read_words(const struct seccomp_notif *n, struct socket_call *call, char *path)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&call->address;
	size_t room = PATH_MAX;

	switch (call->kind) {
	case CALL_LISTEN:
		return true;
	case CALL_UNLINK:
		return socket_path_read((pid_t)n->pid, n->data.args[n->data.nr == __NR_unlinkat],
		               path, room) &&
		       path[0];
	case CALL_BIND:
	case CALL_CONNECT:
		break;
	}
	if (!read_address(n, call))
		return false;
	if (un->sun_family == AF_UNIX && un->sun_path[0]) {
		room = call->length - offsetof(struct sockaddr_un, sun_path);
		memcpy(path, un->sun_path, room);
		path[room] = '\0'; /* it need not be in there */
	}
	return true;
}

static bool is_valid(const struct socket_calls *c, const struct seccomp_notif *n)
{
	uint64_t id = n->id;

	return ioctl(c->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

/* Whether the descriptor is the program's mistake, or the caller is on its way out. */
static bool is_ordinary(int error)
{
	return error == -EBADF || error == -ESRCH;
}

static enum socket_call_kind kind_of(const struct seccomp_notif *n)
{
	return n->data.nr == __NR_bind      ? CALL_BIND
	       : n->data.nr == __NR_listen  ? CALL_LISTEN
	       : n->data.nr == __NR_connect ? CALL_CONNECT
	                                    : CALL_UNLINK;
}

static bool is_ours(const struct socket_calls *c, const struct socket_call *call)
{
	const int domain = option(call->fd, SO_DOMAIN);

	if (option(call->fd, SO_TYPE) != SOCK_STREAM ||
	        (!(domain == AF_UNIX && c->paths) && option(call->fd, SO_PROTOCOL) != IPPROTO_TCP))
		return false;
	return call->kind != CALL_BIND || domain == call->address.ss_family;
}

/* Puts a descriptor of ours in the place of theirs, with their flag of close-on-exec. */
static int give(const struct socket_calls *c, const struct seccomp_notif *n, int fd)
{
	struct seccomp_notif_addfd a = {.id = n->id,
	        .flags = SECCOMP_ADDFD_FLAG_SETFD,
	        .srcfd = (uint32_t)fd,
	        .newfd = (uint32_t)n->data.args[0]};
	char path[64], text[256], *line;
	_cleanup_close_ int info = -1;
	unsigned flags = 0;
	ssize_t size;

	(void)snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", (int)n->pid, (int)n->data.args[0]);
	info = open(path, O_RDONLY | O_CLOEXEC);
	size = info < 0 ? -1 : read(info, text, sizeof text - 1);
	text[size > 0 ? size : 0] = '\0';
	line = strstr(text, "flags:");
	if (line && sscanf(line, "flags: %o", &flags) == 1)
		a.newfd_flags = flags & O_CLOEXEC;
	return ioctl(c->fd, SECCOMP_IOCTL_NOTIF_ADDFD, &a) < 0 ? -errno : 0;
}

/* Returns what is answered: 0 or negative errno; 1: the kernel shall do as it was told. */
static int ask(const struct socket_calls *c, const struct seccomp_notif *n)
{
	int ours = -1;
	struct socket_call call = {.kind = kind_of(n),
	        .fd = -1,
	        .caller = (pid_t)n->pid,
	        .theirs = (int)n->data.args[0],
	        .backlog = (int)n->data.args[1],
	        .give = &ours};
	const bool on_socket = call.kind == CALL_BIND || call.kind == CALL_LISTEN;
	struct socket_path where = {.directory = -1};
	_cleanup_close_ int fd = -1, directory = -1;
	char path[PATH_MAX + 1] = "";
	int r;

	if (n->pid == 0)
		return 1;
	if (!read_words(n, &call, path)) {
		/* Nothing for us, or a caller that we may not look at at all: that is told. */
		fd = on_socket ? take_descriptor((pid_t)n->pid, call.theirs) : -EBADF;
		if (fd != -EPERM || !is_valid(c, n))
			return 1;
		call.fd = fd;
		return c->asked(c->data, &call);
	}
	if (on_socket)
		call.fd = fd = take_descriptor((pid_t)n->pid, (int)n->data.args[0]);
	if (path[0]) {
		r = socket_path_open((pid_t)n->pid,
		        n->data.nr == __NR_unlinkat ? (int)n->data.args[0] : AT_FDCWD, path,
		        &where);
		if (r < 0)
			return 1; /* the kernel knows what to say */
		directory = where.directory;
		call.path = &where;
		if (call.kind == CALL_BIND && socket_path_maker((pid_t)n->pid, &call.maker) < 0)
			return 1;
	}
	/* Only now is what was read and taken known to be the caller's. */
	if (!is_valid(c, n))
		return 1;
	if (on_socket && ((fd < 0 && is_ordinary(fd)) || (fd >= 0 && !is_ours(c, &call))))
		return 1;
	r = c->asked(c->data, &call);
	return r == 0 && ours >= 0 ? give(c, n, ours) : r;
}

static void on_call(struct ev_loop *loop, ev_io *io, int events)
{
	struct socket_calls *c = io->data;
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	struct seccomp_notif n = {0};
	struct seccomp_notif_resp answer = {0};
	int r;

	(void)loop;
	(void)events;
	if (poll(&p, 1, 0) <= 0)
		return;
	if (!(p.revents & POLLIN)) { /* every process that had the filter is gone */
		socket_calls_stop(c);
		return;
	}
	/* Does not wait: at worst the call was taken back meanwhile. */
	if (ioctl(c->fd, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0)
		return;
	r = ask(c, &n);
	answer.id = n.id;
	if (r > 0)
		answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else
		answer.error = r;
	/* ENOENT: the caller was killed, or a signal took its call back: then it comes again. */
	(void)ioctl(c->fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

void socket_calls_start(struct socket_calls *c, struct ev_loop *loop, int fd, bool paths,
        socket_asked asked, void *data)
{
	*c = (struct socket_calls){
	        .loop = loop, .fd = fd, .paths = paths, .asked = asked, .data = data};
	/* Linux 6.6: the answer hands the processor over at once. */
	(void)ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	ev_io_init(&c->io, on_call, fd, EV_READ);
	c->io.data = c;
	ev_io_start(loop, &c->io);
}

void socket_calls_stop(struct socket_calls *c)
{
	if (!c->loop || c->fd < 0)
		return;
	ev_io_stop(c->loop, &c->io);
	c->fd = close_fd(c->fd);
}
