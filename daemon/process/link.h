/* SPDX-License-Identifier: MIT */
/* The release link: the symbolic link on the way to a service's directory (current -> releases/42),
 * by which a release is put into force. It is changed in one step, by rename(2). */
#ifndef PROCESS_LINK_H
#define PROCESS_LINK_H

#include "core/base.h"

/* What was changed; strings owned. */
struct link_change {
	char *path;   /* of the link; NULL: nothing */
	char *before; /* what it held; NULL: there was none */
	char *after;
};
void link_change_done(struct link_change *c);

/* The path of the release link in `directory`; NULL: there is none, or memory is short. */
char *link_find(const char *directory);
/* Does `directory` lead to the release, or did it until that was deleted? */
bool link_leads_to(const char *directory, const char *release);
/* Finds the release link in `directory` (the last of its components that is a link; or itself, if
 * there is nothing yet) and works out what it has to hold in order to lead to `release`. Nothing is
 * changed. *ret_directory is where the service's directory will be then, links resolved. With
 * `confined` the release must be in the folder of the one that the link leads to now. */
int link_plan(const char *directory, const char *release, bool confined, struct link_change *ret,
        char **ret_directory, struct ho_error *reterr);
/* Does it. */
int link_apply(const struct link_change *c, struct ho_error *reterr);
/* 0: as it was before; 1: somebody else has changed it since, it was left alone. */
int link_undo(const struct link_change *c, struct ho_error *reterr);

#endif
