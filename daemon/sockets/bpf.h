/* SPDX-License-Identifier: MIT */
/* The two programs that choose among the listeners of a SO_REUSEPORT group, from one rule.
 *
 * eBPF: one program, one socket array and one cell a group; the rule is data in the cell, the
 * sockets are named by slot, and nothing but bpf_program_new() needs CAP_BPF. Classic: the rule is
 * compiled into the program, which returns the index of a member of the group. What an index means
 * is not known here. */
#ifndef SOCKETS_BPF_H
#define SOCKETS_BPF_H

#include "core/base.h"

#define STEER_SIDES 64  /* of one rule */
#define STEER_SLOTS 256 /* of a socket array */
#define STEER_CONTROL 0 /* slot of the control listener: takes no connection when one migrates */

/* A connection throws a number below SHARE_ALL: at random, or with `sticky` out of its client's
 * address (IPv4) or network (/64 of IPv6). The first side with `below` greater than it gets the
 * connection, else `rest`. A client that the probe names exactly goes to `probe_to` whatever it
 * throws. */
struct steer_rule {
	bool sticky;
	size_t n;
	struct {
		unsigned below, to;
	} sides[STEER_SIDES];
	unsigned rest;
	uint16_t probe_port; /* host order; 0: no probe */
	bool probe_ipv6;
	uint8_t probe_from[16]; /* network order, IPv4 in the first four */
	unsigned probe_to;
};

/* Attaches the rule to the group of `fd`, in one step; `to` are indexes. */
int bpf_classic_attach(int fd, const struct steer_rule *rule);
/* A socket filter that drops every packet: on a listener, nobody can connect and nobody is refused.
 */
int bpf_drop_all(int fd);

struct bpf_program;
/* Loads a program with empty slots; -EPERM without CAP_BPF, -ENOSYS on old kernels. */
int bpf_program_new(struct bpf_program **ret, struct ho_error *reterr);
struct bpf_program *bpf_program_free(struct bpf_program *p);
/* Of another handoffd: its descriptors, which are owned from now on, also on failure. */
enum { BPF_CELL, BPF_SOCKETS, BPF_PROGRAM, BPF_FDS };
int bpf_program_restore(const int fds[BPF_FDS], struct bpf_program **ret);
void bpf_program_fds(const struct bpf_program *p, int ret[BPF_FDS]);
int bpf_program_attach(const struct bpf_program *p, int fd);
/* The socket must be listening; -EBUSY when it is in the array of another program. */
int bpf_program_put(const struct bpf_program *p, unsigned slot, int fd);
/* How many connections were sent to the slot since it was put there; those that migrated and probes
 * do not count, a client that tries again counts again. */
uint64_t bpf_program_sent(const struct bpf_program *p, unsigned slot);
void bpf_program_remove(const struct bpf_program *p, unsigned slot);
/* Makes the rule true; cannot fail and makes no system call. */
void bpf_program_apply(struct bpf_program *p, const struct steer_rule *rule);

#endif
