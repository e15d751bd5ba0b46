/* SPDX-License-Identifier: MIT */
/* The listening sockets of every service, one set a generation, and who of them gets new
 * connections.
 *
 * Every address of a TCP service is one SO_REUSEPORT group: a control listener of our own, never
 * passed to anybody, and one listener for each generation. A program in the kernel chooses among
 * them: an eBPF program where CAP_BPF allows it, else a classic BPF program. UNIX paths are
 * switched by link(2) and rename(2) of a private name over the public one. Where neither is
 * possible the one socket is shared by all generations.
 *
 * Nothing here decides anything: `sockets_steer()` is told the wanted shares and applies them. All
 * calls are made from the loop's thread and do not block. */
#ifndef SOCKETS_SOCKETS_H
#define SOCKETS_SOCKETS_H

#include <sys/socket.h>
#include <sys/types.h>

#include "core/base.h"
#include "core/config.h"

#define ADDRESS_SOCKETS_MAX 64 /* that one generation may have at one address */

struct ev_loop;
struct sockets;      /* all groups of the daemon */
struct listener_set; /* the listeners of one generation of one service */

enum steering { STEERING_EBPF, STEERING_CBPF, STEERING_RENAME, STEERING_SHARED };
enum listener_origin { ORIGIN_BOUND, ORIGIN_SYSTEMD, ORIGIN_ADOPTED, ORIGIN_TAKEN };
/* What becomes of clients that wait at a listener of which the last process was killed: a program
 * of ours or the kernel's own rule moves them to the next one; it is our socket, and the next
 * worker finds them there; they are reset. */
enum rescue { RESCUE_EBPF, RESCUE_SYSCTL, RESCUE_HELD, RESCUE_NONE };
const char *steering_to_string(enum steering s);
const char *rescue_to_string(enum rescue r);
const char *listener_origin_to_string(enum listener_origin o);

struct sockets_options {
	bool no_ebpf; /* never try eBPF (tests, and HANDOFF_STEERING=cbpf in the environment) */
	int n_passed; /* descriptors that systemd passed, with their names: the descriptors
	               * are owned by `sockets` once sockets_new() has succeeded */
	int *passed;
	char **passed_names;
	/* Takes a client's connection (`fd`, owned from now on) out of the queue of a listener that
	 * nobody will ever accept from, while its address is steered; `path` is the public one of a
	 * UNIX socket, else NULL. NULL: such ones are reset. */
	void (*stranded)(void *data, int fd, const char *path);
	void *stranded_data;
};

/* Finds out what the kernel permits. */
int sockets_new(struct ev_loop *loop, const struct sockets_options *options, struct sockets **ret,
        struct ho_error *reterr);
/* Closes everything and removes socket files. Accepts NULL. */
struct sockets *sockets_free(struct sockets *s);

/* Who writes down what outlives us. Members may be NULL. */
struct sockets_writer {
	/* A listener is about to leave a group in which that changes what numbers mean. */
	void (*write_now)(void *data);
	/* What listener_set_save() gives for a set of this owner is about to change. */
	void (*changed)(void *data, uint32_t owner);
	void (*closed)(void *data, uint64_t group);
	void *data;
};
void sockets_set_writer(struct sockets *s, const struct sockets_writer *writer);

/* What a TCP listener is steered by on this machine, as `status` shows it. */
enum steering sockets_steering(const struct sockets *s);

/* Opens listeners for every address of `service`: all of them or none. They are listening and get
 * no connection until sockets_steer() says so (unless the address is shared). The set keeps a
 * reference to `config`, which owns `service`. */
int listener_set_open(struct sockets *s, struct config *config,
        const struct service_config *service, uint32_t generation, struct listener_set **ret,
        struct ho_error *reterr);
/* For sockets_writer.changed(). */
void listener_set_own(struct listener_set *set, uint32_t owner);
/* Closes our descriptors and forgets the set. Only when no process of the generation is left: then
 * ours are the last ones. What still waits in a queue moves to the steered generation where the
 * kernel can do that (eBPF), and is reset otherwise. The groups' members are verified and
 * the program put back in order. The last set of an address closes its group and removes the socket
 * file. Accepts NULL, returns NULL. */
struct listener_set *listener_set_close(struct listener_set *set);

size_t listener_set_count(const struct listener_set *set);
/* Listener i belongs to service->listeners[i]; where systemd passed several descriptors of one
 * name, the further ones follow after the last of these. */
struct listener_info {
	const struct listener_config *config;
	int fd; /* ours, to be passed; borrowed. -1: the program binds its own */
	enum steering steering;
	enum listener_origin origin;
	uint8_t tag;           /* inherited by its connections, see connections.h; 0xff: none */
	const char *unix_name; /* private path of a UNIX listener, else NULL */
};
struct listener_info listener_set_info(const struct listener_set *set, size_t i);
/* Its address as it is really bound: the program may have chosen a form of it. Returns `ret`. */
const char *listener_set_form(const struct listener_set *set, size_t i, char *ret, size_t size);
enum rescue listener_set_rescue(const struct listener_set *set, size_t i);

/* Shall accept(2) wait on the socket of listener i? All who have a descriptor of it have the same
 * flag. */
int listener_set_blocking(const struct listener_set *set, size_t i, bool blocking);
/* The sockets at which listener i gets connections, at most `max`: ours, or those that the program
 * bound itself as soon as there are any. */
size_t listener_set_fds(const struct listener_set *set, size_t i, int *ret, size_t max);
/* Accept queue (connections that wait) and its limit; 0 or negative errno. */
int listener_set_queue(
        const struct listener_set *set, size_t i, unsigned *ret_queue, unsigned *ret_limit);

/* Connections sent to all of its TCP listeners since it was opened; -EOPNOTSUPP where that is not
 * counted (only eBPF does), or there are none. */
int listener_set_sent(const struct listener_set *set, uint64_t *ret);

/* One generation's part of the new connections. */
struct share {
	struct listener_set *set;
	unsigned part; /* of SHARE_ALL */
};
/* Makes the parts true for every address that any of the sets has: `shares` names every living set
 * of the service, those that get nothing with part 0; the parts make SHARE_ALL or 0 in all. An
 * address which no set with a part has gets no new connections any more: TCP clients are neither
 * refused nor accepted, they try again and reach whoever gets the next part; a UNIX path is removed
 * until then. A UNIX path has no parts, the set with the greatest one gets it. The order of the
 * calls of listener_set_open() is that of age. With `sticky` a client address always goes to the
 * same side, and raising a part moves nobody back. On failure everything is as it was before. Takes
 * effect before it returns. */
int sockets_steer(struct sockets *s, const struct share *shares, size_t n, bool sticky,
        struct ho_error *reterr);

/* Everything that waits in the queues of the set goes to `stranded`. */
void listener_set_strand(struct listener_set *set);

/* Where a probe of listener `i` has to come from so that this generation and no other receives it:
 * a bound, not yet connected, non-blocking client socket, and the address to connect to. Until
 * listener_set_probe_end() connections from this one source go to the set; all others are not
 * touched. -EOPNOTSUPP for shared listeners with more than one generation. At most one probe runs
 * for an address at a time: -EBUSY. */
int listener_set_probe_begin(struct listener_set *set, size_t i, int *ret_fd,
        struct sockaddr_storage *ret_to, socklen_t *ret_to_len, struct ho_error *reterr);
void listener_set_probe_end(struct listener_set *set, size_t i);

/* Descriptors that systemd passed and no service of the configuration names: their names go to
 * `report`, one call each. */
void sockets_unclaimed(const struct sockets *s, const struct config *config,
        void (*report)(const char *name, void *data), void *data);

#endif
