/* SPDX-License-Identifier: MIT */
#include "process/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "system/fd.h"

#define MAX_PROCESSES ((size_t)1 << 20)
#define MAX_ROUNDS 16

int tree_entry_read(pid_t pid, struct tree_entry *ret)
{
	struct tree_entry e = {.pid = pid};
	char path[64], stat[1024];
	_cleanup_close_ int fd = -1;
	int parent, session;
	const char *p;
	ssize_t n;

	(void)snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	n = read(fd, stat, sizeof stat - 1);
	if (n <= 0)
		return n < 0 ? -errno : -ESRCH;
	stat[n] = '\0';
	/* The name in parentheses may contain anything, also parentheses. */
	p = strrchr(stat, ')');
	if (!p || sscanf(p + 1,
	                  " %c %d %*d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
	                  "%*d %" SCNu64,
	                  &e.state, &parent, &session, &e.start) != 4)
		return -EBADMSG;
	e.parent = parent;
	e.session = session;
	*ret = e;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct tree_entry *x = a, *y = b;

	return (x->pid > y->pid) - (x->pid < y->pid);
}

const struct tree_entry *tree_find(const struct tree_entry *entries, size_t n, pid_t pid)
{
	const struct tree_entry key = {.pid = pid};

	return n ? bsearch(&key, entries, n, sizeof *entries, compare) : NULL;
}

void tree_mark(struct tree_entry *entries, size_t n, pid_t main_pid, bool main_gone)
{
	bool again = true;

	if (n == 0)
		return;
	/* The kernel gives no pid to a new process while a session of that number lives. */
	if (main_gone && tree_find(entries, n, main_pid))
		return;
	for (size_t i = 0; i < n; i++)
		entries[i].member = entries[i].session == main_pid || entries[i].pid == main_pid;
	/* Each round marks at least one, or is the last. */
	while (again) {
		again = false;
		for (size_t i = 0; i < n; i++) {
			const struct tree_entry *parent;

			if (entries[i].member)
				continue;
			parent = tree_find(entries, n, entries[i].parent);
			if (parent && parent->member)
				again = entries[i].member = true;
		}
	}
}

ssize_t tree_scan(pid_t main_pid, bool main_gone, struct tree_entry **ret)
{
	_cleanup_free_ struct tree_entry *entries = NULL;
	size_t n = 0, size = 0;
	DIR *proc = opendir("/proc");
	struct dirent *d;

	if (!proc)
		return -errno;
	while (n < MAX_PROCESSES && (d = readdir(proc))) {
		uint64_t pid;

		if (!parse_number(d->d_name, INT32_MAX, &pid))
			continue;
		if (n == size) {
			struct tree_entry *more;

			size = size ? 2 * size : 256;
			more = reallocarray(entries, size, sizeof *entries);
			if (!more) {
				(void)closedir(proc);
				return -ENOMEM;
			}
			entries = more;
		}
		if (tree_entry_read((pid_t)pid, &entries[n]) == 0)
			n++;
	}
	(void)closedir(proc);
	if (n)
		qsort(entries, n, sizeof *entries, compare);
	tree_mark(entries, n, main_pid, main_gone);
	*ret = take_ptr(entries);
	return (ssize_t)n;
}

ssize_t tree_count_children(void)
{
	char path[64], buffer[4096];
	_cleanup_close_ int fd = -1;
	ssize_t n, count = 0;

	(void)snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)getpid());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while ((n = read(fd, buffer, sizeof buffer)) > 0)
		for (ssize_t i = 0; i < n; i++)
			count += buffer[i] == ' '; /* one behind each, proc(5) */
	return n < 0 ? -errno : count;
}

/* True if this very process was there to get the signal. */
bool tree_signal_one(const struct tree_entry *e, int signo)
{
	_cleanup_close_ int fd = pidfd_open(e->pid, 0);
	struct tree_entry now;

	/* The pid may have gone to another process between the look and the open, not after it. */
	if (fd < 0 || tree_entry_read(e->pid, &now) < 0 || now.start != e->start)
		return false;
	return pidfd_send_signal(fd, signo, NULL, 0) == 0;
}

int tree_signal(pid_t main_pid, bool main_gone, int signo, bool include_main)
{
	_cleanup_free_ struct tree_entry *before = NULL;
	size_t n_before = 0;
	int reached = 0;

	for (int round = 0; round < MAX_ROUNDS; round++) {
		struct tree_entry *now = NULL;
		ssize_t n = tree_scan(main_pid, main_gone, &now);
		int fresh = 0;

		if (n < 0)
			return reached ? reached : (int)n;
		for (size_t i = 0; i < (size_t)n; i++) {
			const struct tree_entry *e = &now[i], *known;

			if (!e->member || e->state == 'Z' || e->state == 'X' ||
			        (e->pid == main_pid && !include_main))
				continue;
			known = tree_find(before, n_before, e->pid);
			if (known && known->member && known->start == e->start)
				continue;
			fresh += tree_signal_one(e, signo);
		}
		free(before);
		before = now;
		n_before = (size_t)n;
		reached += fresh;
		if (signo != SIGKILL || fresh == 0)
			break;
	}
	return reached;
}

/* ---- known by identity ---- */

static bool is_alive(const struct tree_entry *e)
{
	struct tree_entry now;

	return tree_entry_read(e->pid, &now) == 0 && now.start == e->start && now.state != 'Z' &&
	       now.state != 'X';
}

static bool is_new(const struct tree_known *k, const struct tree_entry *e)
{
	for (size_t i = 0; i < k->n; i++)
		if (k->entries[i].pid == e->pid && k->entries[i].start == e->start)
			return false;
	return true;
}

int tree_known_update(struct tree_known *k, pid_t main_pid)
{
	_cleanup_free_ struct tree_entry *entries = NULL;
	ssize_t n = tree_scan(main_pid, false, &entries);
	struct tree_entry *more;
	size_t kept = 0;

	if (n < 0)
		return (int)n;
	more = reallocarray(k->entries, k->n + (size_t)n, sizeof *more);
	if (!more)
		return -ENOMEM;
	k->entries = more;
	for (size_t i = 0; i < k->n; i++)
		if (is_alive(&more[i]))
			more[kept++] = more[i];
	k->n = kept;
	for (size_t i = 0; i < (size_t)n; i++)
		if (entries[i].member && is_new(k, &entries[i]))
			k->entries[k->n++] = entries[i];
	return 0;
}

bool tree_known_has(const struct tree_known *k, pid_t pid)
{
	for (size_t i = 0; i < k->n; i++)
		if (k->entries[i].pid == pid)
			return true;
	return false;
}

void tree_known_each(const struct tree_known *k, void (*each)(pid_t pid, void *arg), void *arg)
{
	for (size_t i = 0; i < k->n; i++)
		if (is_alive(&k->entries[i]))
			each(k->entries[i].pid, arg);
}

int tree_known_signal(const struct tree_known *k, int signo, pid_t without)
{
	int reached = 0;

	for (size_t i = 0; i < k->n; i++)
		if (k->entries[i].pid != without)
			reached += tree_signal_one(&k->entries[i], signo);
	return reached;
}

void tree_known_done(struct tree_known *k)
{
	free(k->entries);
	*k = (struct tree_known){0};
}
