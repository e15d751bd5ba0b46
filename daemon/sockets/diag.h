/* SPDX-License-Identifier: MIT */
/* Asks the kernel about sockets over NETLINK_SOCK_DIAG; the one user of libmnl. A request is
 * answered within the call: some hundred microseconds for the walk, about one more for each socket
 * found. Knows nothing of generations. Needs no privilege. */
#ifndef SOCKETS_DIAG_H
#define SOCKETS_DIAG_H

#include "core/base.h"

#define DIAG_MAX_PORTS 32 /* above it no filter in the kernel: all ports are shown */

struct mnl_socket;
struct diag { /* zeroed: not open; opened by the first request, and anew after a failure */
	struct mnl_socket *socket;
	uint32_t sequence;
	char *buffer;
	bool unix_sockets; /* of the dump that was begun */
};
void diag_done(struct diag *d);

/* Local TCP ports in host order; n = 0: every port. */
struct diag_ports {
	uint16_t port[DIAG_MAX_PORTS];
	size_t n;
};

struct diag_socket {
	uint8_t family, state;            /* TCP_* */
	uint8_t tag;                      /* TCP: see tag.h; 0xff: none */
	uint16_t local_port, remote_port; /* host order */
	uint8_t local[16], remote[16];    /* network order; IPv4 in the first four */
	uint32_t interface;               /* it is bound to, or 0 */
	uint32_t inode;                   /* 0: no process has a descriptor of it */
	uint64_t cookie;
	uint32_t queued_in, queued_out; /* bytes; of a UNIX listener: connections, limit */
	usec_t idle;                    /* TCP with `info`; else USEC_INFINITY */
	usec_t age;                     /* the same: it is at least so old; else 0 */
	const char *name;               /* UNIX: as bound, not terminated; only during the call */
	size_t name_len;
	uint32_t file_inode, file_device; /* UNIX: of the bound path, or 0 */
};
typedef void (*diag_found)(const struct diag_socket *s, void *arg);

struct diag_request {
	int family;      /* AF_INET, AF_INET6: TCP (AF_INET6 shows IPv4-mapped ones too); AF_UNIX */
	uint32_t states; /* bits 1 << TCP_* */
	bool info;       /* TCP: fill `idle` */
	const struct diag_ports *ports; /* TCP; NULL: every port */
};
/* A dump is read in pieces, of at most some hundred sockets each, and `d` serves nothing else until
 * it has ended. `next` calls `found` for each of a piece; 1: more will come, 0: that was all.
 * -EINTR or -ENOBUFS: what was found may be incomplete, ask again. */
int diag_dump_begin(struct diag *d, const struct diag_request *r);
int diag_dump_next(struct diag *d, diag_found found, void *arg);
/* Looks up one UNIX socket by its inode; `name` of the result is NULL. */
int diag_unix_socket(struct diag *d, uint32_t inode, struct diag_socket *ret);

/* Destruction of TCP sockets of this network namespace, told by the kernel. The socket is not
 * blocking. */
int destroy_events_open(const struct diag_ports *ports, int buffer_bytes, int *ret_fd);
int destroy_events_filter(int fd, const struct diag_ports *ports);
/* Reads at most `max`; returns how many were read (0: none waits), -ENOBUFS when events were lost.
 */
int destroy_events_read(int fd, unsigned max, void (*gone)(uint64_t cookie, void *arg), void *arg);

#endif
