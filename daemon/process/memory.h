/* SPDX-License-Identifier: MIT */
/* How much memory a process has to itself. */
#ifndef PROCESS_MEMORY_H
#define PROCESS_MEMORY_H

#include <stdint.h>
#include <sys/types.h>

/* Resident bytes that are backed by no file and no shared memory, from /proc/PID/statm (proc(5)),
 * which costs the same however large the process is; 0 when it is gone. */
uint64_t process_memory(pid_t pid);

#endif
