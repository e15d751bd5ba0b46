/* SPDX-License-Identifier: MIT */
/* One netlink socket for requests, thrown away after every failure so that no rest of an old answer
 * is taken for a new one. Answers are checked for size before they are read. */
#include "sockets/diag.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "sockets/tag.h"

#define BUFFER_BYTES 32768 /* the kernel never makes a larger piece of a dump */

struct answer {
	diag_found found;
	void *arg;
	bool unix_sockets;
	bool dump; /* otherwise one message is the whole answer */
};

void diag_done(struct diag *d)
{
	if (d->socket)
		(void)mnl_socket_close(d->socket);
	free(d->buffer);
	*d = (struct diag){0};
}

static int diag_open(struct diag *d)
{
	int r;

	if (d->socket)
		return 0;
	if (!d->buffer && !(d->buffer = malloc(BUFFER_BYTES)))
		return -ENOMEM;
	/* Not blocking: the answer is there when the request returns, or there is something wrong.
	 */
	d->socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (!d->socket)
		return -errno;
	if (mnl_socket_bind(d->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
		r = -errno;
		diag_done(d);
		return r;
	}
	return 0;
}

/* "local port is one of these" in inet_diag's byte code: a comparison is two operations, whose
 * `yes` is the next one, here a jump to the end, and whose `no` is behind that jump; the last `no`
 * leads beyond the end, which refuses the socket. Returns the number of operations. */
static size_t port_filter(
        const struct diag_ports *ports, struct inet_diag_bc_op ops[3 * DIAG_MAX_PORTS])
{
	const size_t n = 3 * ports->n - 1;
	size_t i, k = 0;

	for (i = 0; i < ports->n; i++) {
		ops[k++] = (struct inet_diag_bc_op){INET_DIAG_BC_S_EQ, 8, 12};
		ops[k++] = (struct inet_diag_bc_op){INET_DIAG_BC_NOP, 4, ports->port[i]};
		if (k < n) {
			ops[k] = (struct inet_diag_bc_op){
			        INET_DIAG_BC_JMP, 4, (uint16_t)((n - k) * sizeof *ops)};
			k++;
		}
	}
	return n;
}

static void put_inet_request(struct nlmsghdr *h, const struct diag_request *r)
{
	struct inet_diag_bc_op ops[3 * DIAG_MAX_PORTS];
	struct inet_diag_req_v2 *q = mnl_nlmsg_put_extra_header(h, sizeof *q);

	q->sdiag_family = (uint8_t)r->family;
	q->sdiag_protocol = IPPROTO_TCP;
	q->idiag_ext = r->info ? 1 << (INET_DIAG_INFO - 1) : 0;
	q->idiag_states = r->states;
	if (r->ports && r->ports->n)
		mnl_attr_put(
		        h, INET_DIAG_REQ_BYTECODE, port_filter(r->ports, ops) * sizeof ops[0], ops);
}

static void put_unix_request(struct nlmsghdr *h, uint32_t states, uint32_t inode)
{
	struct unix_diag_req *q = mnl_nlmsg_put_extra_header(h, sizeof *q);

	q->sdiag_family = AF_UNIX;
	q->udiag_states = states;
	q->udiag_ino = inode;
	q->udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_RQLEN;
	memset(q->udiag_cookie, 0xff, sizeof q->udiag_cookie);
}

static uint64_t cookie_of(const uint32_t cookie[2])
{
	return cookie[0] | (uint64_t)cookie[1] << 32;
}

static void read_tcp_info(const struct nlattr *a, struct diag_socket *s)
{
	struct tcp_info info = {0};
	const size_t n = mnl_attr_get_payload_len(a);
	uint32_t sent, received;

	if (n < offsetof(struct tcp_info, tcpi_last_ack_recv))
		return;
	memcpy(&info, mnl_attr_get_payload(a), n < sizeof info ? n : sizeof info);
	sent = info.tcpi_last_data_sent;
	received = info.tcpi_last_data_recv;
	/* Both start with the connection. */
	s->idle = (sent < received ? sent : received) * USEC_PER_MSEC;
	s->age = (sent < received ? received : sent) * USEC_PER_MSEC;
}

static bool read_inet(const struct nlmsghdr *h, struct diag_socket *s)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(h);
	const struct nlattr *a;

	if (mnl_nlmsg_get_payload_len(h) < sizeof *m)
		return false;
	s->family = m->idiag_family;
	s->state = m->idiag_state;
	s->local_port = ntohs(m->id.idiag_sport);
	s->remote_port = ntohs(m->id.idiag_dport);
	memcpy(s->local, m->id.idiag_src, sizeof s->local);
	memcpy(s->remote, m->id.idiag_dst, sizeof s->remote);
	s->interface = m->id.idiag_if;
	s->inode = m->idiag_inode;
	s->cookie = cookie_of(m->id.idiag_cookie);
	s->queued_in = m->idiag_rqueue;
	s->queued_out = m->idiag_wqueue;
	mnl_attr_for_each(a, h, sizeof *m)
	{
		if (mnl_attr_get_type(a) == INET_DIAG_SOCKOPT)
			s->tag = tag_from_sockopt(
			        mnl_attr_get_payload(a), mnl_attr_get_payload_len(a));
		else if (mnl_attr_get_type(a) == INET_DIAG_INFO)
			read_tcp_info(a, s);
	}
	return true;
}

static void read_unix_attribute(const struct nlattr *a, struct diag_socket *s)
{
	const size_t n = mnl_attr_get_payload_len(a);
	struct unix_diag_vfs vfs;
	struct unix_diag_rqlen queue;

	switch (mnl_attr_get_type(a)) {
	case UNIX_DIAG_NAME:
		s->name = mnl_attr_get_payload(a);
		s->name_len = n;
		break;
	case UNIX_DIAG_VFS:
		if (n < sizeof vfs)
			break;
		memcpy(&vfs, mnl_attr_get_payload(a), sizeof vfs);
		s->file_inode = vfs.udiag_vfs_ino;
		s->file_device = vfs.udiag_vfs_dev;
		break;
	case UNIX_DIAG_RQLEN:
		if (n < sizeof queue)
			break;
		memcpy(&queue, mnl_attr_get_payload(a), sizeof queue);
		s->queued_in = queue.udiag_rqueue;
		s->queued_out = queue.udiag_wqueue;
		break;
	default:
		break;
	}
}

static bool read_unix(const struct nlmsghdr *h, struct diag_socket *s)
{
	const struct unix_diag_msg *m = mnl_nlmsg_get_payload(h);
	const struct nlattr *a;

	if (mnl_nlmsg_get_payload_len(h) < sizeof *m)
		return false;
	s->family = AF_UNIX;
	s->state = m->udiag_state;
	s->inode = m->udiag_ino;
	s->cookie = cookie_of(m->udiag_cookie);
	mnl_attr_for_each(a, h, sizeof *m) read_unix_attribute(a, s);
	return true;
}

static int on_socket(const struct nlmsghdr *h, void *data)
{
	const struct answer *a = data;
	struct diag_socket s = {.tag = 0xff, .idle = USEC_INFINITY};

	if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
	        (a->unix_sockets ? read_unix(h, &s) : read_inet(h, &s)))
		a->found(&s, a->arg);
	return a->dump ? MNL_CB_OK : MNL_CB_STOP;
}

static int on_end(const struct nlmsghdr *h, void *data)
{
	int result = 0;

	(void)data;
	if (mnl_nlmsg_get_payload_len(h) >= sizeof result)
		memcpy(&result, mnl_nlmsg_get_payload(h), sizeof result);
	if (result >= 0)
		return MNL_CB_STOP;
	errno = -result;
	return MNL_CB_ERROR;
}

/* Sends the request that was built in the buffer. */
static int send_request(struct diag *d, struct nlmsghdr *h, bool dump)
{
	h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	h->nlmsg_flags = NLM_F_REQUEST | (dump ? NLM_F_DUMP : 0);
	h->nlmsg_seq = ++d->sequence;
	return mnl_socket_sendto(d->socket, h, h->nlmsg_len) < 0 ? -errno : 0;
}

/* Hands on what one piece of the answer tells. 1: more will come, 0: that was all. */
static int receive_piece(struct diag *d, struct answer *a)
{
	static mnl_cb_t control[] = {[NLMSG_ERROR] = on_end, [NLMSG_DONE] = on_end};
	ssize_t n = mnl_socket_recvfrom(d->socket, d->buffer, BUFFER_BYTES);
	int r;

	if (n < 0)
		return errno == EAGAIN ? -EIO : -errno;
	r = mnl_cb_run2(d->buffer, (size_t)n, d->sequence, mnl_socket_get_portid(d->socket),
	        on_socket, a, control, ARRAY_SIZE(control));
	return r < 0 ? -errno : r > MNL_CB_STOP;
}

int diag_dump_begin(struct diag *d, const struct diag_request *r)
{
	struct nlmsghdr *h;
	int result = diag_open(d);

	if (result < 0)
		return result;
	d->unix_sockets = r->family == AF_UNIX;
	h = mnl_nlmsg_put_header(d->buffer);
	if (d->unix_sockets)
		put_unix_request(h, r->states, 0);
	else
		put_inet_request(h, r);
	result = send_request(d, h, true);
	if (result < 0)
		diag_done(d);
	return result;
}

int diag_dump_next(struct diag *d, diag_found found, void *arg)
{
	struct answer a = {
	        .found = found, .arg = arg, .unix_sockets = d->unix_sockets, .dump = true};
	int r = receive_piece(d, &a);

	if (r < 0)
		diag_done(d);
	return r;
}

static void copy_socket(const struct diag_socket *s, void *arg)
{
	struct diag_socket *to = arg;

	*to = *s;
	to->name = NULL;
	to->name_len = 0;
}

int diag_unix_socket(struct diag *d, uint32_t inode, struct diag_socket *ret)
{
	struct answer a = {.found = copy_socket, .arg = ret, .unix_sockets = true};
	struct nlmsghdr *h;
	int r = diag_open(d);

	if (r < 0)
		return r;
	h = mnl_nlmsg_put_header(d->buffer);
	put_unix_request(h, UINT32_MAX, inode);
	*ret = (struct diag_socket){0};
	r = send_request(d, h, false);
	if (!r)
		r = receive_piece(d, &a);
	if (r < 0)
		diag_done(d);
	return r < 0 ? r : ret->inode == inode ? 0 : -ENOENT;
}
