/* SPDX-License-Identifier: MIT */
/* The processes of a worker, found in /proc: the members of its session (which the main process
 * leads), and the descendants of all of these by parent, also where they left the session. A
 * process that left the session and whose parent is gone cannot be told from others any more and is
 * not found. */
#ifndef PROCESS_TREE_H
#define PROCESS_TREE_H

#include <sys/types.h>

#include "core/base.h"

struct tree_entry {
	pid_t pid, parent, session;
	char state;
	uint64_t start; /* since boot, in clock ticks: with the pid an identity */
	bool member;
};

/* 0, or negative errno (-ESRCH: no such process). */
int tree_entry_read(pid_t pid, struct tree_entry *ret);

/* Every process of the machine, ours marked as `member`; `*ret` is to be freed. `main_gone`: the
 * main process was reaped, so whoever has its pid now is a stranger. Returns the count or negative
 * errno. */
ssize_t tree_scan(pid_t main_pid, bool main_gone, struct tree_entry **ret);
/* Marks the members; `entries` ascend by pid. Pure. */
void tree_mark(struct tree_entry *entries, size_t n, pid_t main_pid, bool main_gone);

/* Entries ascend by pid; NULL: it is not among them. */
const struct tree_entry *tree_find(const struct tree_entry *entries, size_t n, pid_t pid);

/* How many children this process has, those included that ended and were not waited for; -errno
 * where the kernel does not tell (CONFIG_PROC_CHILDREN). We are single-threaded. */
ssize_t tree_count_children(void);

/* Sends `signo` to every member, to the main process only if asked. SIGKILL is repeated until no
 * new member appears. Returns how many were reached, or negative errno. */
int tree_signal(pid_t main_pid, bool main_gone, int signo, bool include_main);

/* True if this very process (pid and start) was there to get the signal. */
bool tree_signal_one(const struct tree_entry *e, int signo);

/* Processes by identity, for a tree of which the main process may end without our being told who is
 * left: their parent is then somebody else. Zeroed: none. */
struct tree_known {
	struct tree_entry *entries;
	size_t n;
};
/* Those of the tree at this moment, while its main process lives; the earlier ones stay as long as
 * they live. */
int tree_known_update(struct tree_known *k, pid_t main_pid);
bool tree_known_has(const struct tree_known *k, pid_t pid);
/* Those that still live; zombies do not. */
void tree_known_each(const struct tree_known *k, void (*each)(pid_t pid, void *arg), void *arg);
/* All but `without` (0: none); returns how many were reached. */
int tree_known_signal(const struct tree_known *k, int signo, pid_t without);
void tree_known_done(struct tree_known *k);

#endif
