/* SPDX-License-Identifier: MIT */
/* The rule as data for one eBPF program: raw bpf(2), no library. The cell is an array map of one
 * value, mapped into our memory.
 *
 * Why a change is atomic: a rule is written into the next table of a ring, then the number of that
 * table, one aligned word, is stored. A program run reads that word once. It would have to stand
 * still over 63 changes to see a table being rewritten. */
#include "sockets/bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sockets/hash.h"
#include "system/fd.h"

#define RING 64 /* a power of two */

struct table {
	uint32_t sticky;
	uint32_t rest;
	struct {
		uint32_t below, to;
	} sides[STEER_SIDES];
};

struct cell {
	uint32_t active;     /* table in use */
	uint32_t probe_port; /* network order; 0: none */
	uint32_t probe_to;
	uint32_t reserved;
	uint32_t probe_from[4]; /* network order; IPv4 in the first */
	uint64_t sent[STEER_SLOTS];
	struct table ring[RING];
};

struct bpf_program {
	int cell_fd, sockets_fd, program_fd;
	struct cell *cell;
};

static int bpf(int command, union bpf_attr *attr)
{
	long r = syscall(SYS_bpf, command, attr, sizeof *attr);

	return r < 0 ? -errno : (int)r;
}

static int map_new(uint32_t type, uint32_t value_size, uint32_t n, uint32_t flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.map_type = type;
	attr.key_size = sizeof(uint32_t);
	attr.value_size = value_size;
	attr.max_entries = n;
	attr.map_flags = flags;
	return bpf(BPF_MAP_CREATE, &attr); /* close-on-exec by itself */
}

/* An assembler of one page: forward jumps are emitted with a gap and landed later. */
struct code {
	struct bpf_insn insn[384];
	unsigned n;
};

static unsigned emit(
        struct code *c, uint8_t op, unsigned dst, unsigned src, int offset, int32_t imm)
{
	HO_ASSERT(c->n < ARRAY_SIZE(c->insn));
	c->insn[c->n] = (struct bpf_insn){.code = op,
	        .dst_reg = dst & 15,
	        .src_reg = src & 15,
	        .off = (int16_t)offset,
	        .imm = imm};
	return c->n++;
}

static void land(struct code *c, unsigned at)
{
	c->insn[at].off = (int16_t)(c->n - at - 1);
}

enum { R0, R1, R2, R3, R4, R5, CTX, CELL, R8, MIGRATING, FP };

static void move(struct code *c, unsigned dst, unsigned src)
{
	emit(c, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

static void set(struct code *c, unsigned dst, int32_t value)
{
	emit(c, BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value);
}

static void add(struct code *c, unsigned dst, int32_t value)
{
	emit(c, BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, value);
}

static void load(struct code *c, unsigned size, unsigned dst, unsigned src, size_t offset)
{
	emit(c, (uint8_t)(BPF_LDX | BPF_MEM | size), dst, src, (int)offset, 0);
}

static void load_map(struct code *c, unsigned dst, int fd)
{
	emit(c, BPF_LD | BPF_DW | BPF_IMM, dst, BPF_PSEUDO_MAP_FD, 0, fd);
	emit(c, 0, 0, 0, 0, 0);
}

static void call(struct code *c, int function)
{
	emit(c, BPF_JMP | BPF_CALL, 0, 0, 0, function);
}

static unsigned jump_if(struct code *c, unsigned op, unsigned reg, int32_t value)
{
	return emit(c, (uint8_t)(BPF_JMP | op | BPF_K), reg, 0, 0, value);
}

static unsigned jump_if_reg(struct code *c, unsigned op, unsigned reg, unsigned other)
{
	return emit(c, (uint8_t)(BPF_JMP | op | BPF_X), reg, other, 0, 0);
}

static unsigned jump(struct code *c)
{
	return emit(c, BPF_JMP | BPF_JA, 0, 0, 0, 0);
}

/* On the stack. */
#define SLOT (-4)
#define PORT (-8)
#define SOURCE (-24) /* 16 bytes */
#define BASE (-32)   /* address of the cell */

/* The client's address, zeros behind it, to SOURCE; returns the jump that is taken when it cannot
 * be read (a connection that migrates has no packet). */
static unsigned emit_source(struct code *c)
{
	unsigned ipv6;

	emit(c, BPF_ST | BPF_MEM | BPF_DW, FP, 0, SOURCE, 0);
	emit(c, BPF_ST | BPF_MEM | BPF_DW, FP, 0, SOURCE + 8, 0);
	set(c, R2, 8);
	set(c, R4, 16);
	load(c, BPF_W, R1, CTX, offsetof(struct sk_reuseport_md, eth_protocol));
	ipv6 = jump_if(c, BPF_JNE, R1, htons(ETH_P_IP));
	set(c, R2, 12);
	set(c, R4, 4);
	land(c, ipv6);
	move(c, R1, CTX);
	move(c, R3, FP);
	add(c, R3, SOURCE);
	set(c, R5, BPF_HDR_START_NET);
	call(c, BPF_FUNC_skb_load_bytes_relative);
	return jump_if(c, BPF_JNE, R0, 0);
}

static void load_stack(struct code *c, unsigned size, unsigned dst, int offset)
{
	emit(c, (uint8_t)(BPF_LDX | BPF_MEM | size), dst, FP, offset, 0);
}

/* Falls through unless the connection is the probe; returns the jump that is taken if it is. */
static unsigned emit_probe(struct code *c)
{
	unsigned miss[16], n = 0, hit;

	load(c, BPF_W, R8, CELL, offsetof(struct cell, probe_port));
	miss[n++] = jump_if(c, BPF_JEQ, R8, 0);
	move(c, R1, CTX);
	set(c, R2, 0); /* at 0 is the header of TCP */
	move(c, R3, FP);
	add(c, R3, PORT);
	set(c, R4, 2);
	call(c, BPF_FUNC_skb_load_bytes);
	miss[n++] = jump_if(c, BPF_JNE, R0, 0);
	load_stack(c, BPF_H, R1, PORT);
	miss[n++] = jump_if_reg(c, BPF_JNE, R1, R8);
	miss[n++] = emit_source(c);
	for (int i = 0; i < 4; i++) {
		load_stack(c, BPF_W, R1, SOURCE + 4 * i);
		load(c, BPF_W, R2, CELL, offsetof(struct cell, probe_from) + 4 * (size_t)i);
		miss[n++] = jump_if_reg(c, BPF_JNE, R1, R2);
	}
	load(c, BPF_W, R2, CELL, offsetof(struct cell, probe_to));
	hit = jump(c);
	HO_ASSERT(n <= ARRAY_SIZE(miss));
	for (unsigned i = 0; i < n; i++)
		land(c, miss[i]);
	return hit;
}

static void emit_fold(struct code *c, int shift)
{
	emit(c, BPF_ALU | BPF_MOV | BPF_X, R1, R0, 0, 0);
	emit(c, BPF_ALU | BPF_RSH | BPF_K, R1, 0, 0, shift);
	emit(c, BPF_ALU | BPF_XOR | BPF_X, R0, R1, 0, 0);
}

/* R0 = a number below SHARE_ALL; CELL points to the table. */
static void emit_throw(struct code *c)
{
	unsigned random, unreadable, thrown;

	load(c, BPF_W, R1, CELL, offsetof(struct table, sticky));
	random = jump_if(c, BPF_JEQ, R1, 0);
	unreadable = emit_source(c);
	load_stack(c, BPF_W, R0, SOURCE);
	emit(c, BPF_ALU | BPF_END | BPF_TO_BE, R0, 0, 0, 32);
	emit(c, BPF_ALU | BPF_MUL | BPF_K, R0, 0, 0, (int32_t)HASH_FIRST);
	load_stack(c, BPF_W, R1, SOURCE + 4);
	emit(c, BPF_ALU | BPF_END | BPF_TO_BE, R1, 0, 0, 32);
	emit(c, BPF_ALU | BPF_XOR | BPF_X, R0, R1, 0, 0);
	emit_fold(c, HASH_SHIFT_1);
	emit(c, BPF_ALU | BPF_MUL | BPF_K, R0, 0, 0, (int32_t)HASH_MUL_1);
	emit_fold(c, HASH_SHIFT_2);
	emit(c, BPF_ALU | BPF_MUL | BPF_K, R0, 0, 0, (int32_t)HASH_MUL_2);
	emit_fold(c, HASH_SHIFT_3);
	thrown = jump(c);
	land(c, random);
	land(c, unreadable);
	call(c, BPF_FUNC_get_prandom_u32);
	land(c, thrown);
	emit(c, BPF_ALU | BPF_MOD | BPF_K, R0, 0, 0, SHARE_ALL);
}

/* R2 = slot that the active table gives to the connection. */
static void emit_choice(struct code *c)
{
	unsigned hit[STEER_SIDES];

	load(c, BPF_W, R8, CELL, offsetof(struct cell, active));
	emit(c, BPF_ALU64 | BPF_AND | BPF_K, R8, 0, 0, RING - 1);
	emit(c, BPF_ALU64 | BPF_MUL | BPF_K, R8, 0, 0, sizeof(struct table));
	emit(c, BPF_ALU64 | BPF_ADD | BPF_X, CELL, R8, 0, 0);
	add(c, CELL, offsetof(struct cell, ring));
	emit_throw(c);
	for (size_t i = 0; i < STEER_SIDES; i++) {
		load(c, BPF_W, R2, CELL, offsetof(struct table, sides[0].to) + 8 * i);
		load(c, BPF_W, R1, CELL, offsetof(struct table, sides[0].below) + 8 * i);
		hit[i] = jump_if_reg(c, BPF_JLT, R0, R1);
	}
	load(c, BPF_W, R2, CELL, offsetof(struct table, rest));
	for (size_t i = 0; i < STEER_SIDES; i++)
		land(c, hit[i]);
}

/* One more for the slot in R2. Processors may be many: the addition is atomic. */
static void emit_count(struct code *c)
{
	unsigned outside = jump_if(c, BPF_JGE, R2, STEER_SLOTS);

	load_stack(c, BPF_DW, R1, BASE);
	move(c, R3, R2);
	emit(c, BPF_ALU64 | BPF_LSH | BPF_K, R3, 0, 0, 3);
	emit(c, BPF_ALU64 | BPF_ADD | BPF_X, R1, R3, 0, 0);
	set(c, R3, 1);
	emit(c, BPF_STX | BPF_ATOMIC | BPF_DW, R1, R3, offsetof(struct cell, sent), BPF_ADD);
	land(c, outside);
}

static void emit_program(struct code *c, int cell_fd, int sockets_fd)
{
	unsigned fresh, moved, no_cell, probed, taken, refused, counted;

	move(c, CTX, R1);
	emit(c, BPF_ST | BPF_MEM | BPF_W, FP, 0, SLOT, 0);
	load_map(c, R1, cell_fd);
	move(c, R2, FP);
	add(c, R2, SLOT);
	call(c, BPF_FUNC_map_lookup_elem);
	no_cell = jump_if(c, BPF_JEQ, R0, 0);
	move(c, CELL, R0);
	emit(c, BPF_STX | BPF_MEM | BPF_DW, FP, CELL, BASE, 0);
	set(c, MIGRATING, 0);
	load(c, BPF_DW, R1, CTX, offsetof(struct sk_reuseport_md, migrating_sk));
	fresh = jump_if(c, BPF_JEQ, R1, 0);
	set(c, MIGRATING, 1);
	moved = jump(c);
	land(c, fresh);
	probed = emit_probe(c);
	land(c, moved);
	emit_choice(c);
	taken = jump_if(c, BPF_JEQ, MIGRATING, 0);
	/* Nobody would ever accept it there. */
	refused = jump_if(c, BPF_JEQ, R2, STEER_CONTROL);
	counted = jump(c);
	land(c, taken);
	emit_count(c);
	land(c, counted);
	land(c, probed);
	emit(c, BPF_STX | BPF_MEM | BPF_W, FP, R2, SLOT, 0);
	move(c, R1, CTX);
	load_map(c, R2, sockets_fd);
	move(c, R3, FP);
	add(c, R3, SLOT);
	set(c, R4, 0);
	call(c, BPF_FUNC_sk_select_reuseport);
	/* With an empty slot this means any member: after a crash of ours the one that is left. */
	land(c, no_cell);
	set(c, R0, SK_PASS);
	emit(c, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	land(c, refused);
	set(c, R0, SK_DROP);
	emit(c, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static int program_load(const struct code *c, char *log, size_t log_size)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.prog_type = BPF_PROG_TYPE_SK_REUSEPORT;
	attr.expected_attach_type = BPF_SK_REUSEPORT_SELECT_OR_MIGRATE;
	attr.insns = (uintptr_t)c->insn;
	attr.insn_cnt = c->n;
	attr.license = (uintptr_t) "Dual BSD/GPL";
	(void)copy_string(attr.prog_name, sizeof attr.prog_name, "handoff_steer");
	if (log) {
		attr.log_level = 1;
		attr.log_buf = (uintptr_t)log;
		attr.log_size = (uint32_t)log_size;
	}
	return bpf(BPF_PROG_LOAD, &attr);
}

/* The verifier's verdict is in its last lines. */
static int load_failed(const struct code *c, int code, struct ho_error *reterr)
{
	enum { LOG_SIZE = 256 * 1024 };
	_cleanup_free_ char *log = malloc(LOG_SIZE);
	const char *last = "";
	size_t n;

	if (log && code != -EPERM) {
		log[0] = '\0';
		(void)close_fd(program_load(c, log, LOG_SIZE));
		for (n = strlen(log); n > 0 && log[n - 1] == '\n'; n--)
			log[n - 1] = '\0';
		last = n > 200 ? log + n - 200 : log;
		for (char *p = log; *p; p++)
			if (*p == '\n')
				*p = ' ';
	}
	return ho_error_set(reterr, code, "cannot load the steering program: %s%s%s",
	        strerror(-code), *last ? ": " : "", last);
}

static int map_cell(struct bpf_program *p)
{
	void *mapped =
	        mmap(NULL, sizeof(struct cell), PROT_READ | PROT_WRITE, MAP_SHARED, p->cell_fd, 0);

	if (mapped == MAP_FAILED)
		return -errno;
	p->cell = mapped;
	return 0;
}

int bpf_program_restore(const int fds[BPF_FDS], struct bpf_program **ret)
{
	struct bpf_program *p = calloc(1, sizeof *p);
	int r = p ? 0 : -ENOMEM;

	if (!p) {
		for (int i = 0; i < BPF_FDS; i++)
			(void)close_fd(fds[i]);
		return r;
	}
	p->cell_fd = fds[BPF_CELL];
	p->sockets_fd = fds[BPF_SOCKETS];
	p->program_fd = fds[BPF_PROGRAM];
	r = map_cell(p);
	if (r < 0)
		(void)bpf_program_free(p);
	else
		*ret = p;
	return r;
}

void bpf_program_fds(const struct bpf_program *p, int ret[BPF_FDS])
{
	ret[BPF_CELL] = p->cell_fd;
	ret[BPF_SOCKETS] = p->sockets_fd;
	ret[BPF_PROGRAM] = p->program_fd;
}

int bpf_program_new(struct bpf_program **ret, struct ho_error *reterr)
{
	struct code c = {.n = 0};
	struct bpf_program *p = calloc(1, sizeof *p);
	int r;

	if (!p)
		return ho_error_set(reterr, -ENOMEM, "no memory for a steering program");
	p->cell_fd = p->sockets_fd = p->program_fd = -1;
	r = p->cell_fd = map_new(BPF_MAP_TYPE_ARRAY, sizeof(struct cell), 1, BPF_F_MMAPABLE);
	if (r >= 0)
		r = p->sockets_fd =
		        map_new(BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, sizeof(uint64_t), STEER_SLOTS, 0);
	if (r < 0) {
		(void)bpf_program_free(p);
		return ho_error_set(reterr, r, "cannot create the maps of a steering program: %s",
		        strerror(-r));
	}
	r = map_cell(p);
	if (r < 0) {
		(void)bpf_program_free(p);
		return ho_error_set(
		        reterr, r, "cannot map the cell of a steering program: %s", strerror(-r));
	}
	emit_program(&c, p->cell_fd, p->sockets_fd);
	r = p->program_fd = program_load(&c, NULL, 0);
	if (r < 0) {
		r = load_failed(&c, r, reterr);
		(void)bpf_program_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

struct bpf_program *bpf_program_free(struct bpf_program *p)
{
	if (!p)
		return NULL;
	if (p->cell)
		(void)munmap(p->cell, sizeof *p->cell);
	(void)close_fd(p->program_fd);
	(void)close_fd(p->sockets_fd);
	(void)close_fd(p->cell_fd);
	free(p);
	return NULL;
}

int bpf_program_attach(const struct bpf_program *p, int fd)
{
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &p->program_fd,
	            sizeof p->program_fd) < 0)
		return -errno;
	return 0;
}

int bpf_program_put(const struct bpf_program *p, unsigned slot, int fd)
{
	union bpf_attr attr;
	uint32_t key = slot;
	uint64_t value = (uint64_t)fd;

	HO_ASSERT(slot < STEER_SLOTS);
	__atomic_store_n(&p->cell->sent[slot], 0, __ATOMIC_RELAXED);
	memset(&attr, 0, sizeof attr);
	attr.map_fd = (uint32_t)p->sockets_fd;
	attr.key = (uintptr_t)&key;
	attr.value = (uintptr_t)&value;
	return bpf(BPF_MAP_UPDATE_ELEM, &attr);
}

uint64_t bpf_program_sent(const struct bpf_program *p, unsigned slot)
{
	return slot < STEER_SLOTS ? __atomic_load_n(&p->cell->sent[slot], __ATOMIC_RELAXED) : 0;
}

void bpf_program_remove(const struct bpf_program *p, unsigned slot)
{
	union bpf_attr attr;
	uint32_t key = slot;

	memset(&attr, 0, sizeof attr);
	attr.map_fd = (uint32_t)p->sockets_fd;
	attr.key = (uintptr_t)&key;
	(void)bpf(BPF_MAP_DELETE_ELEM, &attr); /* empty already: its socket was closed */
}

static void apply_table(struct cell *cell, const struct steer_rule *r)
{
	struct table t = {.sticky = r->sticky, .rest = r->rest};
	uint32_t active = cell->active & (RING - 1), next = (active + 1) & (RING - 1);

	for (size_t i = 0; i < r->n; i++) {
		t.sides[i].below = r->sides[i].below;
		t.sides[i].to = r->sides[i].to;
	}
	if (!memcmp(&t, &cell->ring[active], sizeof t))
		return;
	cell->ring[next] = t;
	__atomic_store_n(&cell->active, next, __ATOMIC_RELEASE);
}

void bpf_program_apply(struct bpf_program *p, const struct steer_rule *r)
{
	struct cell *cell = p->cell;
	uint32_t from[4] = {0};

	HO_ASSERT(r->n <= STEER_SIDES);
	apply_table(cell, r);
	/* A run that sees half of a change compares with a mixture that is nobody's address. */
	__atomic_store_n(&cell->probe_port, 0, __ATOMIC_RELEASE);
	if (!r->probe_port)
		return;
	memcpy(from, r->probe_from, r->probe_ipv6 ? 16 : 4);
	for (size_t i = 0; i < ARRAY_SIZE(from); i++)
		__atomic_store_n(&cell->probe_from[i], from[i], __ATOMIC_RELAXED);
	__atomic_store_n(&cell->probe_to, r->probe_to, __ATOMIC_RELAXED);
	__atomic_store_n(&cell->probe_port, htons(r->probe_port), __ATOMIC_RELEASE);
}
