/* SPDX-License-Identifier: MIT */
#include "process/socket_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

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
int socket_calls_install(void)
{
#define FIELD(f) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, f))
#define IF(op, value, yes, no) BPF_JUMP(BPF_JMP | (op) | BPF_K, value, yes, no)
	struct sock_filter filter[] = {
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
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPROTONOSUPPORT),
	};
#undef FIELD
#undef IF
	struct sock_fprog program = {.len = ARRAY_SIZE(filter), .filter = filter};
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
int socket_calls_install(void)
{
	return -ENOSYS;
}
#endif

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

static int thread_group(pid_t tid)
{
	char path[64], text[512], *line;
	_cleanup_close_ int fd = -1;
	int tgid = -1;
	ssize_t n;

	(void)snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (n <= 0)
		return -ESRCH;
	text[n] = '\0';
	line = strstr(text, "\nTgid:");
	return line && sscanf(line, "\nTgid: %d", &tgid) == 1 && tgid > 0 ? tgid : -ESRCH;
}

/* A descriptor of the caller's, as our own (close-on-exec by itself). */
static int take_descriptor(pid_t tid, int theirs)
{
	_cleanup_close_ int pidfd = pidfd_open(tid, PIDFD_THREAD);
	int fd, tgid;

	if (pidfd < 0 && errno == EINVAL) { /* before Linux 6.9 */
		tgid = thread_group(tid);
		if (tgid < 0)
			return tgid;
		pidfd = pidfd_open(tgid, 0);
	}
	if (pidfd < 0)
		return -errno;
	fd = pidfd_getfd(pidfd, theirs, 0);
	return fd < 0 ? -errno : fd;
}

static bool read_memory(pid_t tid, uint64_t from, void *to, size_t n)
{
	struct iovec ours = {.iov_base = to, .iov_len = n};
	struct iovec theirs = {.iov_base = (void *)(uintptr_t)from, .iov_len = n};
	_cleanup_close_ int fd = -1;
	char path[64];

	if (process_vm_readv(tid, &ours, 1, &theirs, 1, 0) == (ssize_t)n)
		return true;
	(void)snprintf(path, sizeof path, "/proc/%d/mem", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && pread(fd, to, n, (off_t)from) == (ssize_t)n;
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t n = sizeof value;

	return getsockopt(fd, SOL_SOCKET, name, &value, &n) < 0 ? -1 : value;
}

/* ---- one call ---- */

/* An address of TCP or UDP with a port; what the rest means is looked at later. */
static bool read_address(const struct seccomp_notif *n, struct socket_call *call)
{
	uint32_t length = (uint32_t)n->data.args[2];
	const struct sockaddr_in *in = (const struct sockaddr_in *)&call->address;

	if (length < SHORTEST_ADDRESS || length > sizeof call->address ||
	        !read_memory((pid_t)n->pid, n->data.args[1], &call->address, length))
		return false;
	call->length = length;
	if (call->address.ss_family == AF_INET)
		return in->sin_port != 0;
	return call->address.ss_family == AF_INET6 && length >= sizeof(struct sockaddr_in6) &&
	       in->sin_port != 0; /* at the same place */
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

/* Returns what is answered: 0 or negative errno; 1: the kernel shall do as it was told. */
static int ask(const struct socket_calls *c, const struct seccomp_notif *n)
{
	struct socket_call call = {.kind = n->data.nr == __NR_bind ? CALL_BIND : CALL_LISTEN,
	        .caller = (pid_t)n->pid,
	        .theirs = (int)n->data.args[0],
	        .backlog = (int)n->data.args[1]};
	_cleanup_close_ int fd = -1;

	if (n->pid == 0 || (call.kind == CALL_BIND && !read_address(n, &call)))
		return 1;
	call.fd = fd = take_descriptor((pid_t)n->pid, (int)n->data.args[0]);
	/* Only now is what was read and taken known to be the caller's. */
	if (!is_valid(c, n))
		return 1;
	if (fd < 0 && is_ordinary(fd))
		return 1;
	if (fd >= 0 &&
	        (option(fd, SO_TYPE) != SOCK_STREAM || option(fd, SO_PROTOCOL) != IPPROTO_TCP))
		return 1;
	if (fd >= 0 && call.kind == CALL_BIND && option(fd, SO_DOMAIN) != call.address.ss_family)
		return 1;
	return c->asked(c->data, &call);
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

void socket_calls_start(
        struct socket_calls *c, struct ev_loop *loop, int fd, socket_asked asked, void *data)
{
	*c = (struct socket_calls){.loop = loop, .fd = fd, .asked = asked, .data = data};
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
