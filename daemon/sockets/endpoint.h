/* SPDX-License-Identifier: MIT */
/* A listening socket as seen from its connections: by what they are known in a dump. Internal to
 * connections; made from a descriptor alone, so it does not matter who bound the socket. */
#ifndef SOCKETS_ENDPOINT_H
#define SOCKETS_ENDPOINT_H

#include <sys/un.h>

#include "sockets/connections.h"
#include "sockets/cookie_set.h"
#include "sockets/diag.h"

enum endpoint_kind {
	ENDPOINT_TCP,
	ENDPOINT_UNIX,
	ENDPOINT_OTHER, /* has no connections: UDP */
};

struct endpoint {
	enum endpoint_kind kind;
	int fd;           /* borrowed */
	const char *name; /* borrowed */
	size_t owner;     /* of whom it is, as the maker of the survey counts */
	bool shared;      /* with other generations: its queue is nobody's */
	/* Connections are told apart by who holds them: `held` has the inodes. Without `held` all
	 * that the address has are counted: too many rather than too few. */
	bool by_inode;
	const struct cookie_set *held;
	/* TCP */
	uint8_t family, tag;
	bool any, dual;
	uint8_t ip[16];
	uint16_t port;
	uint32_t interface;
	/* UNIX */
	uint32_t inode;
	char path[sizeof((struct sockaddr_un *)0)->sun_path];
	size_t path_len;
	uint32_t file_inode, file_device; /* 0: has none */
};

/* Reads what the socket is. `shared` and `tag` as in struct listener_info. */
int endpoint_init(
        struct endpoint *e, struct diag *d, int fd, bool shared, uint8_t tag, const char *name);

/* A growing list of endpoints; zeroed: empty. */
struct endpoint_list {
	struct endpoint *items;
	size_t n, size;
};
int endpoint_list_add(struct endpoint_list *l, struct diag *d, int fd, bool shared, uint8_t tag,
        const char *name, size_t owner);
void endpoint_list_done(struct endpoint_list *l);
#define _cleanup_endpoints_ _cleanup_(endpoint_list_done)

/* Same local address and port, whoever's tag it has. */
bool endpoint_has_address(const struct endpoint *e, const struct diag_socket *s);
/* Connections in the accept queue now; 0 for a shared one with `held`. Negative errno. */
int endpoint_queue(const struct endpoint *e, struct diag *d, unsigned *ret);

/* Adds the inode of a socket that a link of /proc/PID/fd names, first seen at `note`; others are
 * left out. */
int held_inodes_link(int directory, const char *name, usec_t note, struct cookie_set *inodes);
/* Adds the inodes of every socket that the processes hold. A process that is gone holds none. */
int held_inodes(process_lister lister, void *data, struct cookie_set *ret);

#endif
