/* SPDX-License-Identifier: MIT */
/* What workers gave us to keep over their generations.
 *
 * Descriptors (FDSTORE=1), as systemd's descriptor store does for services
 * (sd_pid_notify_with_fds(3)): every worker that is started later gets them behind its sockets,
 * with their names in LISTEN_FDNAMES.
 *
 * Memory (HANDOFF_KEEP=layout, libhandoff's handoff_keep()): each copy was made for a generation,
 * which had it in a layout of its own. A generation uses the newest copy that was made for it or an
 * older one, never one of a generation that failed or was turned back. So one that fails takes what
 * it made with it, the older one finds all as it was, and a copy goes when no generation is left
 * that could use it. Who is first is decided here, one request after the other: whatever workers
 * race for, there is one copy of each name for a generation.
 *
 * Descriptors of handoff_keep_fd() (HANDOFF_KEEP=-) are also given to those alone who ask. */
#include "daemon.h"
#include "system/fd.h"
#include "system/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define KEPT_FD "-" /* in place of a layout */

static bool same_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

/* Takes a duplicate; NULL, with a word in the log, if it cannot be kept. */
static struct kept_fd *add(struct daemon *d, uint32_t service, const char *name, int fd)
{
	struct kept_fd *kept;
	size_t n = 0;
	int own;

	for (size_t i = 0; i < d->n_kept; i++)
		n += d->kept[i].service == service;
	if (n >= KEPT_FDS_MAX) {
		log_line(RECORD_WARNING,
		        "descriptor \"%s\" of a worker is not kept: a service may have %d of them",
		        name, KEPT_FDS_MAX);
		return NULL;
	}
	own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	kept = own < 0 ? NULL : reallocarray(d->kept, d->n_kept + 1, sizeof *kept);
	if (!kept) {
		log_line(RECORD_ERROR, "descriptor \"%s\" of a worker is not kept: %s", name,
		        strerror(errno));
		close_fd(own);
		return NULL;
	}
	d->kept = kept;
	kept += d->n_kept++;
	*kept = (struct kept_fd){.service = service, .serial = ++d->last_kept, .fd = own};
	d->changed = true;
	(void)copy_string(kept->name, sizeof kept->name, name);
	return kept;
}

void kept_add(struct daemon *d, uint32_t service, const char *name, int fd)
{
	for (size_t i = 0; i < d->n_kept; i++)
		if (d->kept[i].service == service && !d->kept[i].layout[0] &&
		        same_file(d->kept[i].fd, fd) && !strcmp(d->kept[i].name, name))
			return; /* what is there already is kept once */
	(void)add(d, service, name, fd);
}

/* Closes and forgets those that are marked by service 0. */
static void sweep(struct daemon *d)
{
	size_t n = 0;

	for (size_t i = 0; i < d->n_kept; i++) {
		if (!d->kept[i].service)
			close_fd(d->kept[i].fd);
		else
			d->kept[n++] = d->kept[i];
	}
	d->changed |= n != d->n_kept;
	d->n_kept = n;
}

void kept_remove(struct daemon *d, uint32_t service, const char *name)
{
	for (size_t i = 0; i < d->n_kept; i++)
		if (d->kept[i].service == service && (!name || !strcmp(d->kept[i].name, name)))
			d->kept[i].service = 0;
	sweep(d);
}

size_t kept_pass(const struct daemon *d, uint32_t service, struct passed_fd *fds, size_t room)
{
	/* what it is, if it is a socket, is found out where it matters */
	static const struct address unknown = {.kind = ADDRESS_SYSTEMD, .path = "", .text = "kept"};
	size_t n = 0;

	for (size_t i = 0; i < d->n_kept && n < room; i++)
		if (d->kept[i].service == service && !d->kept[i].layout[0])
			fds[n++] = (struct passed_fd){d->kept[i].fd, d->kept[i].name, &unknown};
	return n;
}

void kept_free(struct daemon *d)
{
	for (size_t i = 0; i < d->n_kept; i++)
		close_fd(d->kept[i].fd);
	free(d->kept);
	d->kept = NULL;
	d->n_kept = 0;
}

/* ---- memory ---- */

/* Did this generation fail, or was it turned back? */
static bool is_abandoned(const struct service *sv, uint32_t generation)
{
	const struct generation *g = sv ? service_find(sv, generation) : NULL;

	return g && (g->state == GENERATION_FAILED || g->rolled_back);
}

/* The newest copy that a generation may use and that is older than `before`. */
static const struct kept_fd *newest_copy(const struct daemon *d, uint32_t service, const char *name,
        uint32_t generation, uint32_t before)
{
	const struct service *sv = supervisor_service(d->supervisor, service);
	const struct kept_fd *found = NULL;

	for (size_t i = 0; i < d->n_kept; i++) {
		const struct kept_fd *k = &d->kept[i];

		if (k->service != service || !k->layout[0] || strcmp(k->name, name) != 0)
			continue;
		if (k->generation > generation || k->generation >= before ||
		        (k->generation != generation && is_abandoned(sv, k->generation)))
			continue;
		if (!found || k->generation > found->generation)
			found = k;
	}
	return found;
}

/* One word and at most two descriptors. Whoever does not read has had his chance. */
static void answer(int socket, const char *word, int first, int second)
{
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (char *)word, .iov_len = strlen(word)};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
	const int fds[] = {first, second};
	const size_t n = (first >= 0) + (second >= 0);

	if (n) {
		struct cmsghdr *c = &control.align;

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(n * sizeof(int));
	}
	(void)sendmsg(socket, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* In place of what has the name. */
static void store(struct daemon *d, uint32_t service, const struct notify_message *m)
{
	struct kept_fd *k = NULL;
	int own;

	for (size_t i = 0; i < d->n_kept && !k; i++)
		if (d->kept[i].service == service && !strcmp(d->kept[i].name, m->text))
			k = &d->kept[i];
	own = k ? fcntl(m->candidate, F_DUPFD_CLOEXEC, 3) : -1;
	if (k && own >= 0) {
		close_fd(k->fd);
		k->fd = own;
		k->serial = ++d->last_kept; /* it is another one for whoever has stored it */
	} else {
		k = k ? NULL : add(d, service, m->text, m->candidate);
	}
	if (k) {
		(void)copy_string(k->layout, sizeof k->layout, KEPT_FD);
		k->generation = 0;
	}
	answer(m->fd, k ? "new" : "full", k ? k->fd : -1, -1);
}

void kept_claim(
        struct daemon *d, uint32_t service, uint32_t generation, const struct notify_message *m)
{
	const struct kept_fd *k = newest_copy(d, service, m->text, generation, UINT32_MAX), *old;
	struct kept_fd *added;

	if (!strcmp(m->layout, KEPT_FD)) {
		store(d, service, m);
		return;
	}
	if (k && !strcmp(k->layout, m->layout)) {
		old = newest_copy(d, service, m->text, generation, k->generation);
		answer(m->fd, "have", k->fd, old ? old->fd : -1);
		return;
	}
	if (k && k->generation == generation) {
		answer(m->fd, "other", -1, -1);
		return;
	}
	added = add(d, service, m->text, m->candidate);
	if (!added) {
		answer(m->fd, "full", -1, -1);
		return;
	}
	(void)copy_string(added->layout, sizeof added->layout, m->layout);
	added->generation = generation;
	old = newest_copy(d, service, m->text, generation, generation);
	answer(m->fd, "new", added->fd, old ? old->fd : -1);
}

void kept_fetch(const struct daemon *d, uint32_t service, const struct notify_message *m)
{
	for (size_t i = d->n_kept; i-- > 0;)
		if (d->kept[i].service == service && !strcmp(d->kept[i].name, m->text) &&
		        (!d->kept[i].layout[0] || !strcmp(d->kept[i].layout, KEPT_FD))) {
			answer(m->fd, "have", d->kept[i].fd, -1);
			return;
		}
	answer(m->fd, "none", -1, -1);
}

/* Is there a generation, other than the one that goes, that was begun at `first` or later, but
 * before `end`? */
static bool has_user(const struct service *sv, uint32_t first, uint32_t end, uint32_t gone)
{
	for (unsigned i = 0; i < sv->n_generations; i++) {
		uint32_t id = sv->generations[i]->id;

		if (id != gone && id >= first && id < end)
			return true;
	}
	return false;
}

/* The next newer copy of the same memory. */
static const struct kept_fd *successor(const struct daemon *d, const struct kept_fd *of)
{
	const struct kept_fd *found = NULL;

	for (size_t i = 0; i < d->n_kept; i++) {
		const struct kept_fd *k = &d->kept[i];

		if (k->service == of->service && k->layout[0] && !strcmp(k->name, of->name) &&
		        k->generation > of->generation &&
		        (!found || k->generation < found->generation))
			found = k;
	}
	return found;
}

void kept_released(struct daemon *d, uint32_t service, uint32_t generation)
{
	const struct service *sv = supervisor_service(d->supervisor, service);
	const struct generation *serving = sv ? service_serving(sv) : NULL;

	if (!serving)
		return;
	/* an older one serves: this one failed or was turned back */
	for (size_t i = 0; serving->id < generation && i < d->n_kept; i++)
		if (d->kept[i].service == service && d->kept[i].layout[0] &&
		        d->kept[i].generation == generation)
			d->kept[i].service = 0;
	sweep(d);
	for (size_t i = 0; i < d->n_kept; i++) {
		const struct kept_fd *next = d->kept[i].service == service && d->kept[i].layout[0]
		                                     ? successor(d, &d->kept[i])
		                                     : NULL;

		if (next && !has_user(sv, d->kept[i].generation, next->generation, generation))
			d->kept[i].service = 0;
	}
	sweep(d);
}

/* ---- without systemd's store: from the workers ---- */

void kept_identify(const struct kept_fd *k, struct saver *v, json_t *to)
{
	struct stat st;

	if (fstat(k->fd, &st) < 0)
		return;
	save_member(v, to, "device", json_integer((json_int_t)st.st_dev));
	save_member(v, to, "inode", json_integer((json_int_t)st.st_ino));
}

static const json_t *find_lost(const json_t *kept, const json_t *fds, uint64_t service,
        const struct stat *st, char *ret_name, size_t size)
{
	const json_t *k;
	size_t i;

	json_array_foreach(kept, i, k)
	{
		(void)snprintf(ret_name, size, "kept-%" PRIu64, load_number(k, "serial"));
		if (load_number(k, "service") == service && load_number(k, "inode") == st->st_ino &&
		        load_number(k, "device") == st->st_dev && !json_object_get(fds, ret_name))
			return k;
	}
	return NULL;
}

/* The descriptor may be another one by now. */
static void fetch_one(
        const json_t *kept, json_t *fds, uint64_t service, int pidfd, int directory, int theirs)
{
	char name[64], number[16];
	struct stat st;
	_cleanup_close_ int fd = -1;

	(void)snprintf(number, sizeof number, "%d", theirs);
	if (fstatat(directory, number, &st, 0) < 0 ||
	        !find_lost(kept, fds, service, &st, name, sizeof name))
		return;
	fd = pidfd_getfd(pidfd, theirs, 0);
	if (fd < 0 || fstat(fd, &st) < 0 || !find_lost(kept, fds, service, &st, name, sizeof name))
		return;
	if (json_object_set_new(fds, name, json_integer(fd)) == 0)
		(void)take_fd(fd);
}

void kept_fetch_back(const json_t *kept, json_t *fds, uint64_t service, pid_t pid)
{
	_cleanup_close_ int pidfd = json_array_size(kept) ? pidfd_open(pid, 0) : -1;
	char path[64];
	DIR *directory;
	struct dirent *e;
	uint64_t theirs;

	(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	directory = pidfd < 0 ? NULL : opendir(path);
	while (directory && (e = readdir(directory)))
		if (parse_number(e->d_name, INT_MAX, &theirs))
			fetch_one(kept, fds, service, pidfd, dirfd(directory), (int)theirs);
	if (directory)
		(void)closedir(directory);
}
