/* SPDX-License-Identifier: MIT */
/* Descriptors that workers gave us to keep, as systemd's descriptor store does for services
 * (sd_pid_notify_with_fds(3)): every worker that is started later gets them behind its sockets,
 * with their names in LISTEN_FDNAMES. */
#include "daemon.h"
#include "system/fd.h"
#include "system/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool same_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

void kept_add(struct daemon *d, uint32_t service, const char *name, int fd)
{
	struct kept_fd *kept;
	size_t n = 0;
	int own;

	for (size_t i = 0; i < d->n_kept; i++) {
		if (d->kept[i].service != service)
			continue;
		if (same_file(d->kept[i].fd, fd) && !strcmp(d->kept[i].name, name))
			return; /* what is there already is kept once */
		n++;
	}
	if (n >= KEPT_FDS_MAX) {
		log_line(RECORD_WARNING,
		        "descriptor \"%s\" of a worker is not kept: a service may have %d of them",
		        name, KEPT_FDS_MAX);
		return;
	}
	own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	kept = own < 0 ? NULL : reallocarray(d->kept, d->n_kept + 1, sizeof *kept);
	if (!kept) {
		log_line(RECORD_ERROR, "descriptor \"%s\" of a worker is not kept: %s", name,
		        strerror(errno));
		close_fd(own);
		return;
	}
	d->kept = kept;
	kept[d->n_kept] = (struct kept_fd){.service = service, .fd = own};
	(void)copy_string(kept[d->n_kept].name, sizeof kept->name, name);
	d->n_kept++;
}

void kept_remove(struct daemon *d, uint32_t service, const char *name)
{
	size_t n = 0;

	for (size_t i = 0; i < d->n_kept; i++) {
		if (d->kept[i].service == service && (!name || !strcmp(d->kept[i].name, name)))
			close_fd(d->kept[i].fd);
		else
			d->kept[n++] = d->kept[i];
	}
	d->n_kept = n;
}

size_t kept_pass(const struct daemon *d, uint32_t service, struct passed_fd *fds, size_t room)
{
	/* what it is, if it is a socket, is found out where it matters */
	static const struct address unknown = {.kind = ADDRESS_SYSTEMD, .path = "", .text = "kept"};
	size_t n = 0;

	for (size_t i = 0; i < d->n_kept && n < room; i++)
		if (d->kept[i].service == service)
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
