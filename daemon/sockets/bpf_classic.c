/* SPDX-License-Identifier: MIT */
/* The rule as a classic BPF program: needs no privilege, attached anew for every change. At offset
 * 0 the program sees the payload of TCP; the headers are reached from SKF_NET_OFF. */
#include "sockets/bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <string.h>
#include <sys/socket.h>

#include "sockets/hash.h"

struct code {
	struct sock_filter insn[256];
	unsigned short n;
};

static unsigned short emit(struct code *c, unsigned op, uint32_t k)
{
	HO_ASSERT(c->n < ARRAY_SIZE(c->insn));
	c->insn[c->n] = (struct sock_filter){.code = (uint16_t)op, .k = k};
	return c->n++;
}

/* Of a conditional jump emitted at `at`: to here if it is not taken / is taken. */
static void land_false(struct code *c, unsigned short at)
{
	c->insn[at].jf = (uint8_t)(c->n - at - 1);
}

static void land_true(struct code *c, unsigned short at)
{
	c->insn[at].jt = (uint8_t)(c->n - at - 1);
}

static uint32_t word(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void emit_load(struct code *c, unsigned size, int offset)
{
	emit(c, BPF_LD | size | BPF_ABS, (uint32_t)offset);
}

static void emit_probe(struct code *c, const struct steer_rule *r)
{
	const int source = SKF_NET_OFF + (r->probe_ipv6 ? 8 : 12);
	const size_t words = r->probe_ipv6 ? 4 : 1;
	unsigned short miss[6];
	size_t n = 0;

	emit_load(c, BPF_W, SKF_AD_OFF + SKF_AD_PROTOCOL);
	miss[n++] = emit(c, BPF_JMP | BPF_JEQ | BPF_K, r->probe_ipv6 ? ETH_P_IPV6 : ETH_P_IP);
	for (size_t i = 0; i < words; i++) {
		emit_load(c, BPF_W, source + 4 * (int)i);
		miss[n++] = emit(c, BPF_JMP | BPF_JEQ | BPF_K, word(r->probe_from + 4 * i));
	}
	if (r->probe_ipv6) {
		emit(c, BPF_LDX | BPF_W | BPF_IMM, 40);
	} else {
		emit_load(c, BPF_B, SKF_NET_OFF);
		emit(c, BPF_ALU | BPF_AND | BPF_K, 15);
		emit(c, BPF_ALU | BPF_LSH | BPF_K, 2);
		emit(c, BPF_MISC | BPF_TAX, 0);
	}
	emit(c, BPF_LD | BPF_H | BPF_IND, (uint32_t)SKF_NET_OFF);
	miss[n++] = emit(c, BPF_JMP | BPF_JEQ | BPF_K, r->probe_port);
	HO_ASSERT(n <= ARRAY_SIZE(miss));
	emit(c, BPF_RET | BPF_K, r->probe_to);
	for (size_t i = 0; i < n; i++)
		land_false(c, miss[i]);
}

/* A = A ^ A >> shift */
static void emit_fold(struct code *c, unsigned shift)
{
	emit(c, BPF_MISC | BPF_TAX, 0);
	emit(c, BPF_ALU | BPF_RSH | BPF_K, shift);
	emit(c, BPF_ALU | BPF_XOR | BPF_X, 0);
}

static void emit_throw(struct code *c, bool sticky)
{
	unsigned short ipv6, over;

	if (sticky) {
		emit_load(c, BPF_W, SKF_AD_OFF + SKF_AD_PROTOCOL);
		ipv6 = emit(c, BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IPV6);
		emit(c, BPF_LDX | BPF_W | BPF_IMM, 0);
		emit_load(c, BPF_W, SKF_NET_OFF + 12);
		over = emit(c, BPF_JMP | BPF_JA, 0);
		land_true(c, ipv6);
		emit_load(c, BPF_W, SKF_NET_OFF + 12);
		emit(c, BPF_MISC | BPF_TAX, 0);
		emit_load(c, BPF_W, SKF_NET_OFF + 8);
		c->insn[over].k = c->n - over - 1u;
		emit(c, BPF_ALU | BPF_MUL | BPF_K, HASH_FIRST);
		emit(c, BPF_ALU | BPF_XOR | BPF_X, 0);
		emit_fold(c, HASH_SHIFT_1);
		emit(c, BPF_ALU | BPF_MUL | BPF_K, HASH_MUL_1);
		emit_fold(c, HASH_SHIFT_2);
		emit(c, BPF_ALU | BPF_MUL | BPF_K, HASH_MUL_2);
		emit_fold(c, HASH_SHIFT_3);
	} else {
		emit_load(c, BPF_W, SKF_AD_OFF + SKF_AD_RANDOM);
	}
	emit(c, BPF_ALU | BPF_MOD | BPF_K, SHARE_ALL);
}

int bpf_classic_attach(int fd, const struct steer_rule *r)
{
	struct code c = {.n = 0};
	struct sock_fprog program = {.filter = c.insn};

	HO_ASSERT(r->n <= STEER_SIDES);
	if (r->probe_port)
		emit_probe(&c, r);
	if (r->n > 0 && r->sides[0].below >= SHARE_ALL) {
		emit(&c, BPF_RET | BPF_K, r->sides[0].to);
	} else if (r->n > 0) {
		emit_throw(&c, r->sticky);
		for (size_t i = 0; i < r->n; i++) {
			unsigned short next =
			        emit(&c, BPF_JMP | BPF_JGE | BPF_K, r->sides[i].below);

			emit(&c, BPF_RET | BPF_K, r->sides[i].to);
			land_true(&c, next);
		}
	}
	emit(&c, BPF_RET | BPF_K, r->rest);
	program.len = c.n;
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) < 0)
		return -errno;
	return 0;
}

int bpf_drop_all(int fd)
{
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = {.len = 1, .filter = &drop};

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
		return -errno;
	return 0;
}
