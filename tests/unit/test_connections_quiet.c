/* SPDX-License-Identifier: MIT */
/* Quiet or not: a client of our own on a TUN device stops in the middle of its handshake. */
#include <linux/if_tun.h>
#include <netinet/ip.h>

#include "test_connections.h"

#define SERVER "10.9.0.1"
#define CLIENT "10.9.0.2"
#define CLIENT_PORT 20000

static int tun = -1;

static int interface_up(void)
{
	struct ifreq r = {.ifr_name = "tun0", .ifr_flags = IFF_TUN | IFF_NO_PI};
	struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;
	int fd, bad;

	tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tun < 0 || ioctl(tun, TUNSETIFF, &r) < 0)
		return -errno;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	a->sin_family = AF_INET;
	(void)inet_pton(AF_INET, SERVER, &a->sin_addr);
	bad = ioctl(fd, SIOCSIFADDR, &r) < 0;
	(void)inet_pton(AF_INET, "255.255.255.0", &a->sin_addr);
	bad |= ioctl(fd, SIOCSIFNETMASK, &r) < 0;
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	bad |= ioctl(fd, SIOCSIFFLAGS, &r) < 0;
	(void)close(fd);
	return bad ? -EIO : 0;
}

static uint32_t add_up(const void *bytes, size_t n, uint32_t sum)
{
	const uint8_t *b = bytes;
	size_t i;

	for (i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)(b[i] << 8 | b[i + 1]);
	return sum;
}

static uint16_t checksum(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/* One packet of client `i`: SYN, or the ACK that completes the handshake. */
static void send_packet(int i, bool syn, uint32_t ack)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} p = {.ip = {.version = 4,
	               .ihl = 5,
	               .ttl = 64,
	               .protocol = IPPROTO_TCP,
	               .tot_len = htons(sizeof p)},
	        .tcp = {.source = htons((uint16_t)(CLIENT_PORT + i)),
	                .dest = htons(PORT),
	                .doff = 5,
	                .window = htons(60000),
	                .seq = htonl(syn ? 1000 : 1001),
	                .ack_seq = htonl(ack),
	                .syn = syn,
	                .ack = !syn}};

	(void)inet_pton(AF_INET, CLIENT, &p.ip.saddr);
	(void)inet_pton(AF_INET, SERVER, &p.ip.daddr);
	p.ip.check = checksum(add_up(&p.ip, sizeof p.ip, 0));
	p.tcp.check = checksum(
	        add_up(&p.ip.saddr, 8, add_up(&p.tcp, sizeof p.tcp, IPPROTO_TCP + sizeof p.tcp)));
	assert_int_equal(write(tun, &p, sizeof p), sizeof p);
}

/* The sequence number of the SYN/ACK that client `i` got. */
static uint32_t syn_ack(int i)
{
	_Alignas(4) uint8_t b[2048];
	const struct tcphdr *t = (const void *)(b + 20);
	struct pollfd p = {.fd = tun, .events = POLLIN};
	ssize_t n;

	for (;;) {
		assert_int_equal(poll(&p, 1, 5000), 1);
		n = read(tun, b, sizeof b);
		if (n >= 40 && b[0] == 0x45 && b[9] == IPPROTO_TCP && t->syn && t->ack &&
		        ntohs(t->dest) == CLIENT_PORT + i)
			return ntohl(t->seq);
	}
}

static void forget_packets(void)
{
	uint8_t b[2048];

	while (read(tun, b, sizeof b) > 0)
		;
}

/* Asks until the answer is not "not yet", or for as long. */
static int ask(struct quiet_check *q, usec_t as_long, struct inflight *n)
{
	const usec_t begun = now_usec();
	int r;

	do
		r = quiet_check_again(q, n);
	while (!r && now_usec() - begun < as_long);
	return r;
}

static struct quiet_check *check(struct lab *l, int listener, bool shared)
{
	struct endpoint_list list = endpoint_of(l, listener, shared, shared ? TAG_NONE : 9);
	struct quiet_check *q;

	assert_int_equal(quiet_check_new_on(l->c, &list, &q), 0);
	return q;
}

static void test_half_open(void **state)
{
	struct lab *l = *state;
	int old = tcp_listener(SERVER, PORT, 9, false), young, a;
	struct quiet_check *q;
	struct inflight n;
	uint32_t seq;

	steer(old, 0);
	young = tcp_listener(SERVER, PORT, 4, false);
	send_packet(0, true, 0);
	seq = syn_ack(0);
	steer(old, 1);
	q = check(l, old, false);
	assert_int_equal(ask(q, 60 * USEC_PER_MSEC, &n), 0);
	assert_int_equal(n.half_open, 1);
	assert_int_equal(n.queued, 0);
	/* Another one, which is the young generation's, does not matter. */
	send_packet(1, true, 0);
	(void)syn_ack(1);
	send_packet(0, false, seq + 1);
	assert_int_equal(ask(q, 60 * USEC_PER_MSEC, &n), 0);
	assert_int_equal(n.queued, 1);
	a = accepted(old);
	assert_int_equal(ask(q, USEC_PER_SEC, &n), 1);
	assert_int_equal(n.queued, 0);
	assert_int_equal(n.half_open, 0);
	quiet_check_free(q);
	reset_on_close(a);
	(void)close(a);
	(void)close(old);
	(void)close(young);
	forget_packets();
}

/* Never answered: the check itself has shortened how long that can last. */
static void test_retries(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener(SERVER, PORT, 9, false), value = 0;
	socklen_t size = sizeof value;
	struct quiet_check *q = check(l, listener, false);

	assert_int_equal(getsockopt(listener, IPPROTO_TCP, TCP_SYNCNT, &value, &size), 0);
	assert_int_equal(value, 2);
	quiet_check_free(q);
	assert_int_equal(getsockopt(listener, IPPROTO_TCP, TCP_SYNCNT, &value, &size), 0);
	assert_int_equal(value, 5);
	(void)close(listener);
}

static void test_queue(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, 9, false), c, a;
	struct quiet_check *q;
	struct inflight n;

	c = client("127.0.0.1", PORT);
	q = check(l, listener, false);
	assert_int_equal(ask(q, 30 * USEC_PER_MSEC, &n), 0);
	assert_int_equal(n.queued, 1);
	a = accepted(listener);
	assert_int_equal(ask(q, USEC_PER_SEC, &n), 1);
	assert_int_equal(n.total, 0);
	quiet_check_free(q);
	/* Not at once: a packet may have chosen its listener just before the flip. */
	q = check(l, listener, false);
	assert_int_equal(quiet_check_again(q, &n), 0);
	assert_int_equal(ask(q, USEC_PER_SEC, &n), 1);
	quiet_check_free(q);
	(void)close(a);
	(void)close(c);
	(void)close(listener);
}

static void test_shared(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, TAG_NONE, false);
	int c = client("127.0.0.1", PORT);
	struct quiet_check *q = check(l, listener, true);
	struct inflight n;

	assert_int_equal(quiet_check_again(q, &n), 1);
	assert_int_equal(n.queued, 0);
	quiet_check_free(q);
	(void)close(c);
	(void)close(listener);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_half_open),
	        TEST(test_retries),
	        TEST(test_queue),
	        TEST(test_shared),
	};
	int r;

	own_network();
	r = interface_up();
	if (r < 0) {
		(void)printf("skipped: a TUN device: %s\n", strerror(-r));
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
