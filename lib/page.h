/* SPDX-License-Identifier: MIT */
/* What a worker and handoffd share: one page of memory (a sealed memfd that the worker makes and
 * sends with its hello), and a socket on which handoffd sends words, one or more lines KEY=VALUE in
 * each datagram. Private to libhandoff and handoffd; a new member takes room at the end of its
 * line, a changed meaning takes a new version. The protocol is described in handoff-protocol(7). */
#ifndef HANDOFF_PAGE_H
#define HANDOFF_PAGE_H

#include <stdatomic.h>
#include <stdint.h>

#define HANDOFF_PAGE_MAGIC 0x66646e68u
#define HANDOFF_PAGE_VERSION 1
#define HANDOFF_PAGE_SIZE 4096
#define HANDOFF_WORD_MAX 1024 /* bytes of a datagram */

/* Sums of both kinds of cells are the numbers; a sum below 0 is none. */
struct handoff_cells {
	_Alignas(64) _Atomic int64_t connections;
	_Atomic int64_t busy;      /* connections with a request under way */
	_Atomic int64_t requests;  /* under way */
	_Atomic int64_t served;    /* requests that have ended */
	_Atomic uint32_t draining; /* of the loop: the drain has begun; here, as it is looked at
	                              whenever one of the others is changed */
};

struct handoff_page {
	uint32_t magic, version;
	struct handoff_cells loop;    /* written by the thread of the loop alone: no locked cycle */
	struct handoff_cells threads; /* added to by any thread */
	/* Written by handoffd: the generation that serves; 0: none yet. */
	_Alignas(64) _Atomic uint32_t serving;
};

#endif
