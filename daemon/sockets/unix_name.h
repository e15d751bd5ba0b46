/* SPDX-License-Identifier: MIT */
/* A UNIX stream path that several listeners stand behind, one at a time. Every listener is bound to
 * a private, hidden name beside the public one; link(2) and rename(2) put it in the public place in
 * one step. A public name that somebody removes is put back. The directory must be writable for us,
 * and should not be for those we do not trust. */
#ifndef SOCKETS_UNIX_NAME_H
#define SOCKETS_UNIX_NAME_H

#include "sockets/group.h"

/* Watches the directories of all public names. */
struct unix_names *unix_names_new(struct ev_loop *loop);
/* Only when no name is left. Accepts NULL. */
struct unix_names *unix_names_free(struct unix_names *all);

/* Takes the public place of `c`: refuses if something else than a dead socket is there, and removes
 * what a crashed handoffd left beside it. With `taken` a server listens there already. */
int unix_name_open(struct unix_names *all, const char *token, const struct listener_config *c,
        bool taken, struct unix_name **ret, struct ho_error *reterr);
/* The same for the place that another handoffd had: nothing is looked at. */
int unix_name_restore(
        struct unix_names *all, const char *token, const char *path, struct unix_name **ret);
/* Who had the public name there, if anybody. */
void unix_name_set_published(struct unix_name *u, const struct member *m);
const struct member *unix_name_published(const struct unix_name *u);
/* Removes the public name if it is still ours. Accepts NULL. */
struct unix_name *unix_name_close(struct unix_name *u);

/* Fills fd and unix_path of `m`: listening under a private name with the mode and the owner that
 * the configuration says. */
int unix_name_join(struct unix_name *u, struct member *m, struct ho_error *reterr);
/* The socket that has the public name gets a private one as well. */
int unix_name_take(struct unix_name *u, struct member *m);
/* Removes the private name. */
void unix_name_drop(struct unix_name *u, struct member *m);
/* Removes the private name, and leaves the public one to the socket. */
void unix_name_abandon(struct unix_name *u, struct member *m);
/* Closes m->fd and removes its private name. */
void unix_name_leave(struct unix_name *u, struct member *m);
/* The name of the listener that new clients are to find: the newest that its program made, or ours;
 * NULL: there is none yet. */
const char *unix_name_path(const struct member *m);

/* What the file of a socket is to be like. */
struct unix_look {
	uid_t uid;
	gid_t gid;
	mode_t mode;
};
/* Is the last component `name`, in the directory of the descriptor, the public name? */
bool unix_name_is_public(const struct unix_name *u, int directory, const char *name);
/* Or one of its private ones? */
bool unix_name_is_private(const struct unix_name *u, int directory, const char *name);
/* Binds a socket of the program to a private name of its own; *ret is that. */
int unix_name_bind(const struct unix_name *u, int fd, uint64_t serial,
        const struct listener_config *c, const struct unix_look *look, struct sockaddr_un *ret);
/* Removes the private name of such a socket. */
void unix_name_unbind(const struct unix_name *u, const struct sockaddr_un *un);

/* Gives the public name to `m`; NULL: to nobody, it is removed. The file of a socket that the
 * program made takes over owner and mode of the one it replaces: what the program did to the public
 * name was meant for its own. */
int unix_name_publish(struct unix_name *u, const struct member *m, struct ho_error *reterr);

#endif
