/* SPDX-License-Identifier: MIT */
/* How a client's address becomes a number, the same in both programs, so that a client keeps its
 * side when the kind of program changes. For words w0, w1 of the address (w1 is 0 for IPv4): h = w0
 * * FIRST ^ w1, then the finaliser of MurmurHash3. */
#ifndef SOCKETS_HASH_H
#define SOCKETS_HASH_H

#define HASH_FIRST 0x9e3779b1u
#define HASH_SHIFT_1 16
#define HASH_MUL_1 0x85ebca6bu
#define HASH_SHIFT_2 13
#define HASH_MUL_2 0xc2b2ae35u
#define HASH_SHIFT_3 16

#endif
