/* SPDX-License-Identifier: MIT */
/* The kernel multicasts the end of every TCP socket of the network namespace; a filter on our
 * socket lets through those of the ports that matter. The message carries the cookie, and no tag.
 */
#include "sockets/diag.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/filter.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>

#include "system/fd.h"

#define GROUP(g) (1u << ((g)-1))

int destroy_events_filter(int fd, const struct diag_ports *ports)
{
	struct sock_filter code[DIAG_MAX_PORTS + 3];
	struct sock_fprog program = {.filter = code};
	size_t i, k = 0;

	code[k++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_H | BPF_ABS,
	        NLMSG_HDRLEN + offsetof(struct inet_diag_msg, id.idiag_sport));
	for (i = 0; i < ports->n; i++)
		code[k++] = (struct sock_filter)BPF_JUMP(
		        BPF_JMP | BPF_JEQ | BPF_K, ports->port[i], (uint8_t)(ports->n - i), 0);
	code[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, ports->n ? 0 : UINT32_MAX);
	code[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
	program.len = (unsigned short)k;
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0 ? -errno
	                                                                                  : 0;
}

int destroy_events_open(const struct diag_ports *ports, int buffer_bytes, int *ret_fd)
{
	/* Mapped connections of a dual-stack listener belong to the group of IPv6. */
	const struct sockaddr_nl groups = {.nl_family = AF_NETLINK,
	        .nl_groups = GROUP(SKNLGRP_INET_TCP_DESTROY) | GROUP(SKNLGRP_INET6_TCP_DESTROY)};
	_cleanup_close_ int fd = -1;
	int r;

	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	if (fd < 0)
		return -errno;
	/* Beyond net.core.rmem_max only with CAP_NET_ADMIN; a smaller buffer means more dumps. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes) < 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
	r = destroy_events_filter(fd, ports);
	if (r < 0)
		return r;
	if (bind(fd, (const struct sockaddr *)&groups, sizeof groups) < 0)
		return -errno;
	*ret_fd = take_fd(fd);
	return 0;
}

int destroy_events_read(int fd, unsigned max, void (*gone)(uint64_t cookie, void *arg), void *arg)
{
	_Alignas(struct nlmsghdr) char buffer[8192];
	const struct nlmsghdr *h;
	const struct inet_diag_msg *m;
	struct sockaddr_nl from;
	socklen_t from_len;
	unsigned n;
	ssize_t len;
	int left;

	for (n = 0; n < max; n++) {
		from_len = sizeof from;
		len = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &from_len);
		if (len < 0 && errno == EAGAIN)
			break;
		if (len < 0)
			return -errno;
		if (from_len != sizeof from || from.nl_pid != 0)
			continue; /* not from the kernel */
		left = (int)len;
		for (h = (void *)buffer; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
			m = mnl_nlmsg_get_payload(h);
			if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
			        mnl_nlmsg_get_payload_len(h) >= sizeof *m)
				gone(m->id.idiag_cookie[0] | (uint64_t)m->id.idiag_cookie[1] << 32,
				        arg);
		}
	}
	return (int)n;
}
