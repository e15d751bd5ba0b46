/* SPDX-License-Identifier: MIT */
/* Servers that run unmanaged (--take-over PID): found and judged before anything is begun, then
 * given to the core as generation 0 of the service whose addresses they have. */
#include "daemon.h"
#include "process/manager.h"
#include "process/tree.h"
#include "sockets/cookie_set.h"
#include "sockets/take.h"
#include "system/fd.h"
#include "system/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define SOCKETS_MAX 1024 /* of one server */

struct taken_server {
	pid_t pid;
	int pidfd;
	const struct service_config *service;
	struct taken_socket *sockets;
	size_t n;
};

/* ---- the sockets of a process tree ---- */

/* Looks at one socket, which it may keep (*fd = -1). */
typedef int (*socket_seen)(void *data, int *fd, struct socket_holder holder, uint64_t inode);

struct scan {
	struct cookie_set seen; /* inodes */
	socket_seen each;
	void *data;
	int denied; /* the first failure to look */
};

static int scan_descriptor(struct scan *s, int directory, pid_t pid, int pidfd, const char *name)
{
	_cleanup_close_ int fd = -1;
	uint64_t theirs, inode;
	char link[64];
	ssize_t n = readlinkat(directory, name, link, sizeof link - 1);

	if (n < (ssize_t)sizeof "socket:[]" || memcmp(link, "socket:[", 8) != 0)
		return 0;
	link[n - 1] = '\0';
	if (!parse_number(name, INT32_MAX, &theirs) || !parse_number(link + 8, UINT64_MAX, &inode))
		return 0;
	if (cookie_set_find(&s->seen, inode))
		return 0;
	if (!cookie_set_add(&s->seen, inode, 0))
		return -ENOMEM;
	fd = pidfd_getfd(pidfd, (int)theirs, 0);
	if (fd < 0 && errno != EBADF && errno != ESRCH && !s->denied)
		s->denied = -errno;
	return fd < 0 ? 0 : s->each(s->data, &fd, (struct socket_holder){pid, (int)theirs}, inode);
}

static int scan_process(struct scan *s, pid_t pid)
{
	_cleanup_close_ int pidfd = pidfd_open(pid, 0);
	const struct dirent *entry;
	char path[64];
	DIR *d;
	int r = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	d = pidfd < 0 ? NULL : opendir(path);
	if (!d) {
		if (errno != ENOENT && errno != ESRCH && !s->denied)
			s->denied = -errno;
		return 0;
	}
	while (r >= 0 && (entry = readdir(d)))
		r = scan_descriptor(s, dirfd(d), pid, pidfd, entry->d_name);
	(void)closedir(d);
	return r;
}

static int scan_tree(struct scan *s, pid_t pid)
{
	_cleanup_free_ struct tree_entry *entries = NULL;
	ssize_t n = tree_scan(pid, false, &entries);
	int r = n < 0 ? (int)n : 0;

	for (ssize_t i = 0; r >= 0 && i < n; i++) {
		if (!entries[i].member)
			continue;
		r = entries[i].pid == getpid() ? -ELOOP : scan_process(s, entries[i].pid);
	}
	cookie_set_done(&s->seen);
	return r;
}

/* ---- one server ---- */

struct judgement {
	const struct config *config;
	struct taken_server *server;
	struct text others; /* where it listens besides */
	bool elsewhere;
	const struct service_config *second; /* one more service that has addresses of it */
};

static void add_other(struct judgement *j, int fd)
{
	char where[160];

	if (take_describe(fd, where, sizeof where) && !strstr(j->others.p, where))
		text_add(&j->others, "%s%s", j->others.len ? ", " : "", where);
}

static int judge_socket(void *data, int *fd, struct socket_holder holder, uint64_t inode)
{
	struct judgement *j = data;
	struct taken_server *server = j->server;
	const struct service_config *service = NULL;
	struct taken_socket *more;
	ssize_t listener = -1;

	(void)inode;
	for (size_t i = 0; listener < 0 && i < j->config->n_services; i++) {
		service = &j->config->services[i];
		listener = take_match(service, *fd);
	}
	if (listener >= 0 && take_is_elsewhere(*fd)) {
		j->elsewhere = true;
		return 0;
	}
	if (listener < 0) {
		add_other(j, *fd);
		return 0;
	}
	if (server->service && server->service != service)
		j->second = service;
	server->service = service;
	if (server->n == SOCKETS_MAX)
		return -ENOBUFS;
	more = reallocarray(server->sockets, server->n + 1, sizeof *more);
	if (!more)
		return -ENOMEM;
	server->sockets = more;
	more[server->n++] = (struct taken_socket){take_fd(*fd), holder, (size_t)listener};
	return 0;
}

static void name_process(struct text *t, pid_t pid)
{
	char name[64];

	text_add(t, "process %d", (int)pid);
	if (process_name(pid, name, sizeof name))
		text_add(t, " (%s)", name);
}

static void add_addresses(struct text *t, const struct config *c)
{
	const char *between = "";

	for (size_t i = 0; i < c->n_services; i++)
		for (size_t k = 0; k < c->services[i].n_listeners; k++, between = ", ")
			text_add(t, "%s%s", between, c->services[i].listeners[k].address.text);
}

static int refuse_unmatched(
        const struct judgement *j, const char *who, int denied, struct ho_error *reterr)
{
	char addresses[300];
	struct text t = TEXT_ON(addresses);

	if (denied == -EPERM || denied == -EACCES)
		return ho_error_set(reterr, denied,
		        "cannot take %s over: its descriptors must not be looked at (needs root or "
		        "CAP_SYS_PTRACE, or to be the same user)",
		        who);
	if (j->elsewhere)
		return ho_error_set(reterr, -EXDEV,
		        "cannot take %s over: its sockets belong to another network namespace; run "
		        "handoffd there (nsenter -t %d -n)",
		        who, (int)j->server->pid);
	add_addresses(&t, j->config);
	return ho_error_set(reterr, -ENOENT,
	        "cannot take %s over: it listens on none of the addresses (%s); %s%s", who,
	        addresses, j->others.len ? "it listens on " : "it listens nowhere", j->others.p);
}

static int judge(struct judgement *j, struct ho_error *reterr)
{
	struct taken_server *server = j->server;
	struct scan scan = {.each = judge_socket, .data = j};
	char who[100], parent[100];
	struct text w = TEXT_ON(who), p = TEXT_ON(parent);
	struct tree_entry e;
	int r;

	name_process(&w, server->pid);
	r = scan_tree(&scan, server->pid);
	if (r == -ELOOP)
		return ho_error_set(reterr, r, "cannot take %s over: handoffd runs in it", who);
	if (r < 0)
		return ho_error_set(reterr, r, "cannot take %s over: %s", who, strerror(-r));
	if (!server->service)
		return refuse_unmatched(j, who, scan.denied, reterr);
	if (j->second)
		return ho_error_set(reterr, -EINVAL,
		        "cannot take %s over: it listens on addresses of two services, \"%s\" and "
		        "\"%s\"",
		        who, server->service->name, j->second->name);
	if (tree_entry_read(server->pid, &e) == 0 && e.parent > 1 &&
	        process_holds(e.parent, server->sockets[0].fd)) {
		name_process(&p, e.parent);
		return ho_error_set(reterr, -EINVAL,
		        "cannot take %s over: its parent, %s, has the same sockets and would start "
		        "it again; name that one",
		        who, parent);
	}
	return 0;
}

static void warn(const struct judgement *j)
{
	const struct taken_server *server = j->server;
	char text[500];

	if (j->others.len)
		log_line(RECORD_WARNING,
		        "process %d also listens on %s, which service \"%s\" does not name: it "
		        "ends with the "
		        "process",
		        (int)server->pid, j->others.p, server->service->name);
	if (manager_find(server->pid, text, sizeof text))
		log_line(RECORD_WARNING, "process %d %s", (int)server->pid, text);
}

static int find_one(struct daemon *d, pid_t pid, struct ho_error *reterr)
{
	struct taken_server *server = &d->servers[d->n_servers];
	char others[400];
	struct judgement j = {
	        .config = d->source.config, .server = server, .others = TEXT_ON(others)};
	struct tree_entry e;
	int r;

	*server = (struct taken_server){.pid = pid, .pidfd = pidfd_open(pid, 0)};
	if ((server->pidfd < 0 && errno == ESRCH) ||
	        (tree_entry_read(pid, &e) == 0 && e.state == 'Z'))
		return ho_error_set(
		        reterr, -ESRCH, "cannot take process %d over: there is none", (int)pid);
	if (server->pidfd < 0)
		return ho_error_set(reterr, -errno, "cannot take process %d over: %s", (int)pid,
		        errno == EINVAL || errno == ENOENT ? "it is a thread of another one"
		                                           : strerror(errno));
	d->n_servers++;
	r = judge(&j, reterr);
	if (r >= 0)
		warn(&j);
	return r;
}

/* ---- all of them ---- */

static bool is_descendant(pid_t pid, pid_t of)
{
	struct tree_entry e;

	for (int depth = 0; depth < 64 && pid > 1 && tree_entry_read(pid, &e) == 0; depth++) {
		if (e.parent == of)
			return true;
		pid = e.parent;
	}
	return false;
}

static int check_pids(const pid_t *pids, size_t n, struct ho_error *reterr)
{
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < n; k++) {
			if (i < k && pids[i] == pids[k])
				return ho_error_set(reterr, -EINVAL,
				        "process %d is to be taken over twice", (int)pids[i]);
			if (i != k && is_descendant(pids[i], pids[k]))
				return ho_error_set(reterr, -EINVAL,
				        "process %d belongs to process %d, which is to be taken "
				        "over as a whole; "
				        "do not name it",
				        (int)pids[i], (int)pids[k]);
		}
	return 0;
}

static void count(struct daemon *d)
{
	for (size_t i = 0; i < d->n_servers; i++) {
		const char *name = d->servers[i].service->name;
		size_t k = 0;

		while (k < d->n_taken && strcmp(d->taken[k].service, name) != 0)
			k++;
		if (k == d->n_taken)
			d->taken[d->n_taken++] = (struct taken_service){.service = name};
		d->taken[k].processes++;
	}
}

int take_over_find(struct daemon *d, const pid_t *pids, size_t n, struct ho_error *reterr)
{
	int r = check_pids(pids, n, reterr);

	if (r < 0 || n == 0)
		return r;
	d->servers = calloc(n, sizeof *d->servers);
	d->taken = calloc(n, sizeof *d->taken);
	if (!d->servers || !d->taken)
		return ho_error_set(reterr, -ENOMEM, "not enough memory");
	for (size_t i = 0; r >= 0 && i < n; i++)
		r = find_one(d, pids[i], reterr);
	if (r >= 0)
		count(d);
	return r;
}

void take_over_free(struct daemon *d)
{
	for (size_t i = 0; i < d->n_servers; i++) {
		struct taken_server *server = &d->servers[i];

		(void)close_fd(server->pidfd);
		for (size_t k = 0; k < server->n; k++)
			(void)close_fd(server->sockets[k].fd);
		free(server->sockets);
	}
	free(d->servers);
	free(d->taken);
}

/* ---- generation 0 ---- */

static int free_port_of(void *data, int *fd, struct socket_holder holder, uint64_t inode)
{
	const uint16_t *port = data;
	int one = 1;

	(void)holder;
	(void)inode;
	if (take_hinders(*fd, *port))
		(void)setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	return 0;
}

/* Of a server that does not set SO_REUSEADDR the connections keep everybody else from its port. */
static void free_port(const struct taken_server *server, int fd)
{
	uint16_t port = take_port(fd);
	struct scan scan = {.each = free_port_of, .data = &port};
	int one = 1, reuse = 1;
	socklen_t size = sizeof reuse;

	if (!port || getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, &size) < 0 || reuse)
		return;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	(void)scan_tree(&scan, server->pid);
}

/* Servers that are no tree may have the same sockets. */
static bool is_among(const struct taken_socket *sockets, size_t n, int fd)
{
	uint64_t cookie = adopt_cookie(fd);

	for (size_t i = 0; i < n; i++)
		if (adopt_cookie(sockets[i].fd) == cookie)
			return true;
	return false;
}

int take_over_prepare(struct daemon *d, const struct generation *cg, struct listener_set **ret,
        struct ho_error *reterr)
{
	_cleanup_free_ struct taken_socket *all = NULL;
	size_t n = 0;

	for (size_t i = 0; i < d->n_servers; i++)
		n += d->servers[i].n;
	all = calloc(n + 1, sizeof *all);
	if (!all)
		return ho_error_set(reterr, -ENOMEM, "not enough memory to take the server over");
	n = 0;
	for (size_t i = 0; i < d->n_servers; i++) {
		struct taken_server *server = &d->servers[i];

		if (strcmp(server->service->name, cg->service->name) != 0)
			continue;
		for (size_t k = 0; k < server->n; k++) {
			int fd = take_fd(server->sockets[k].fd);

			if (is_among(all, n, fd)) {
				(void)close_fd(fd);
				continue;
			}
			free_port(server, fd);
			all[n] = server->sockets[k];
			all[n++].fd = fd;
		}
	}
	return listener_set_take(d->sockets, cg->config, cg->settings, all, n, ret, reterr);
}

int take_over_attach(struct daemon *d, const struct generation *cg, unsigned worker, void *user,
        struct process **ret, struct ho_error *reterr)
{
	for (size_t i = 0; i < d->n_servers; i++) {
		struct taken_server *server = &d->servers[i];

		if (strcmp(server->service->name, cg->service->name) != 0 || worker-- > 0)
			continue;
		return process_attach(
		        d->processes, server->pid, take_fd(server->pidfd), user, ret, reterr);
	}
	return ho_error_set(reterr, -ESRCH, "there is no such server");
}

bool take_over_is_under_way(const struct daemon *d)
{
	for (size_t i = 0; d->n_taken && i < d->supervisor->n_slots; i++) {
		const struct service *sv = d->supervisor->services[i];
		const struct generation *g = sv && sv->n_generations ? sv->generations[0] : NULL;

		if (sv && (sv->taking || (g && g->taken && g->state <= GENERATION_READY)))
			return true;
	}
	return false;
}
