/* SPDX-License-Identifier: MIT */
/* Sockets that a program binds itself, taken into the set of its generation: bound and made to
 * listen on its behalf, on the socket it has, so that everything it has set stays; and a member of
 * the group of the address beside those of other generations.
 *
 * All generations have to bind an address in the same form (0.0.0.0, [::], or the address itself),
 * since the kernel prefers some forms to others and could not be told who gets a connection. */
#ifndef SOCKETS_ADOPT_H
#define SOCKETS_ADOPT_H

#include "sockets/connections.h"
#include "sockets/group.h"
#include "sockets/sockets.h"
#include "sockets/unix_name.h"

/* Who has a socket, and by what number: a thread. */
struct socket_holder {
	pid_t pid;
	int fd;
};

/* A UNIX address as the kernel would find it: `name` in `directory`, or abstract. */
struct unix_target {
	int directory; /* -1: abstract */
	const char *name;
	size_t length; /* of an abstract name; it may hold any byte */
};

/* A process of the generation wants to bind its TCP socket `fd` (borrowed) to an address with a
 * port. 0: done; negative errno: what it is to be told, with words in `reterr` if an operator
 * should know; 1: no address of the set, the kernel may do it. While the generation is `starting` a
 * socket in another form than earlier ones have is bound, as it may be closed again at once: so
 * development servers find out whether a port is free. It never listens, whatever the program is
 * told; see listener_set_apart(). */
int listener_set_bind(struct listener_set *set, int fd, struct socket_holder holder,
        const struct sockaddr_storage *to, socklen_t length, bool starting,
        struct ho_error *reterr);
/* Has the program kept such a socket since the last look, so that it was no test? The words for it
 * are in `reterr`. */
bool listener_set_apart(struct listener_set *set, struct ho_error *reterr);
/* The same for the path or abstract name of a UNIX stream socket. An abstract name can be had only
 * once, and we have it: then *ret_give is the socket (borrowed) that is to take the place of the
 * program's. `directory` and `name`: of a path. */
int listener_set_bind_unix(struct listener_set *set, int fd, struct socket_holder holder,
        const struct unix_target *target, const struct unix_look *look, int *ret_give,
        struct ho_error *reterr);
/* Is it an address of the set that its program does not listen on yet? Then whoever asks whether
 * another one does is to hear that nobody does. */
bool listener_set_awaits(const struct listener_set *set, const struct unix_target *target);
/* Is it the path of a listener, or a private name behind one? These stay when a program removes
 * them: they are removed here when their time has come. */
bool listener_set_keeps(const struct listener_set *set, const struct unix_target *target);

/* The same for listen(2); 1: not a socket that was bound here. `ret_fresh` (after 0): it did not
 * listen before. */
int listener_set_listen(
        struct listener_set *set, int fd, int backlog, bool *ret_fresh, struct ho_error *reterr);

/* While clients come to sockets of the program, but at most once a second, it is looked whether it
 * still has them: nothing runs where nobody comes. `seek` is called (from the loop) when one is not
 * where it was, and does what listener_set_sweep() needs; it returns whether one was lost. */
void listener_set_seek_lost(struct listener_set *set, bool (*seek)(void *data), void *data);
/* The address of a socket which the last sweep has found without anybody who has it, but kept; each
 * is told once. NULL: none. */
const char *listener_set_orphan(struct listener_set *set);

/* Looks for sockets that the program has closed again, or that died with their process: no process
 * of the generation (`lister`) and none of the machine holds them. Those are given up; but while
 * the generation is no longer `starting`, the last listening ones of an address are kept, so that
 * clients wait for the next worker in their queue. Returns whether any was. */
bool listener_set_sweep(struct listener_set *set, process_lister lister, void *data, bool starting);

/* What tells sockets apart, whatever descriptor they are seen through; 0: unknown. */
uint64_t adopt_cookie(int fd);

/* The address of the set that an adopted socket stands at, as it was configured; NULL: none. */
const char *listener_set_address(struct listener_set *set, int fd);
bool listener_set_has_adopted(const struct listener_set *set);

/* "tcp:0.0.0.0:80", "tcp:*:80" for a dual-stack wildcard, "unix:/path", "unix:@name": where a
 * socket is bound. False if it is not bound. */
bool adopt_describe(int fd, char *ret, size_t size);

/* For the sockets room: a client has arrived at the listener; and from now on, tell the next. */
/* Has its program a socket that listener_set_bind() let be though it cannot be used? Words in
 * `reterr`. */
bool adopt_is_apart(const struct member *m, struct ho_error *reterr);
void adopt_on_arrival(struct group_context *x, int fd);
void adopt_look_again(struct group_context *x);

#endif
