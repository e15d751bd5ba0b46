/* SPDX-License-Identifier: MIT */
/* What can be seen of a process that somebody else has started. Reads /proc. */
#ifndef PROCESS_MANAGER_H
#define PROCESS_MANAGER_H

#include <sys/types.h>

#include "core/base.h"

/* Its short name; false if there is no such process. */
bool process_name(pid_t pid, char *ret, size_t size);
/* Has it a descriptor of the same socket? */
bool process_holds(pid_t pid, int socket);
/* Words to follow "process N": who would start it again when it ends, and how to keep him from it;
 * false: nobody is known who would. */
bool manager_find(pid_t pid, char *ret, size_t size);

#endif
