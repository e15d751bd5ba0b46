/* SPDX-License-Identifier: MIT */
/* A path as another process means it, and what a file that it makes would be like. */
#ifndef PROCESS_SOCKET_PATH_H
#define PROCESS_SOCKET_PATH_H

#include <stdint.h>

#include "process/process.h"

/* The string at `from` in the memory of `tid`; false if there is none, or it does not fit. */
bool socket_path_read(pid_t tid, uint64_t from, char *ret, size_t size);
/* Opens the directory that `path` of the thread lies in, without its last component; `base` is its
 * number of the directory that the path begins at, or AT_FDCWD. The result's directory is owned by
 * the caller. 0 or negative errno. */
int socket_path_open(pid_t tid, int base, const char *path, struct socket_path *ret);
/* User, group and umask of files that the thread makes. */
int socket_path_maker(pid_t tid, struct socket_maker *ret);
/* The process of a thread; negative errno. */
int socket_path_process(pid_t tid);

bool socket_memory_read(pid_t tid, uint64_t from, void *to, size_t n);

#endif
