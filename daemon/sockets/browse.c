/* SPDX-License-Identifier: MIT */
/* All connections of some sets, piece by piece. First the descriptors of the processes, so that it
 * is known who holds which socket, then the dumps. Borrows nothing from the sets: their generations
 * may end meanwhile. */
#include "sockets/connections_internal.h"

#include <dirent.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/config.h"
#include "sockets/set.h"
#include "sockets/survey.h"
#include "system/fd.h"

#define LINKS_AT_ONCE 256
#define MAX_PROCESSES 65536

struct holder {
	size_t owner;
	int worker;
	pid_t pid;
};

struct browse {
	struct connections *c;
	struct endpoint_list endpoints;
	struct survey survey;
	struct diag diag; /* its own: a dump is under way between two steps */
	struct survey_walk walk;
	struct survey_calls calls;
	struct config **configs; /* one a set, as the names of listeners are theirs */
	const void **keys;       /* one a set, of its drain_watch */
	struct cookie_set *held; /* one a set; `seen` says who holds it, see note_of() */
	size_t n;
	struct holder *holders;
	size_t n_holders, scanned;
	DIR *directory; /* of holders[scanned] */
	browse_found found;
	void *arg;
};

/* Who holds a socket and where, in the one number that the set keeps with each. */
static usec_t note_of(size_t holder, unsigned fd)
{
	return (usec_t)holder << 32 | fd;
}

static const char *state_text(const struct diag_socket *s, enum connection_state state)
{
	static const char *const names[] = {
	        [TCP_ESTABLISHED] = "established",
	        [TCP_SYN_RECV] = "syn-recv",
	        [TCP_FIN_WAIT1] = "fin-wait-1",
	        [TCP_FIN_WAIT2] = "fin-wait-2",
	        [TCP_CLOSE_WAIT] = "close-wait",
	        [TCP_LAST_ACK] = "last-ack",
	        [TCP_CLOSING] = "closing",
	};

	if (state == CONNECTION_QUEUED)
		return "queued";
	return s->state < ARRAY_SIZE(names) && names[s->state] ? names[s->state] : "unknown";
}

/* Who is at the other end of a UNIX connection, asked on the descriptor of its holder. */
static void unix_peer(pid_t pid, int theirs, uint64_t inode, char *ret, size_t size)
{
	_cleanup_close_ int process = pidfd_open(pid, 0), fd = -1;
	struct ucred peer;
	socklen_t n = sizeof peer;
	struct stat st;

	if (process >= 0)
		fd = pidfd_getfd(process, theirs, 0);
	/* The descriptor may be another's by now. */
	if (fd < 0 || fstat(fd, &st) || st.st_ino != inode ||
	        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) || peer.pid <= 0)
		return;
	(void)snprintf(ret, size, "unix pid %d", (int)peer.pid);
}

static void on_found(
        struct endpoint *e, const struct diag_socket *s, enum connection_state state, void *arg)
{
	struct browse *b = arg;
	const struct cookie_entry *held = cookie_set_find(&b->held[e->owner], s->inode);
	struct connection_info i = {.listener = e->name,
	        .state = state_text(s, state),
	        .owner = e->owner,
	        .idle = s->idle,
	        .queued_in = s->family == AF_UNIX ? 0 : s->queued_in,
	        .queued_out = s->family == AF_UNIX ? 0 : s->queued_out,
	        .inode = s->inode,
	        .worker = -1};

	if (state != CONNECTION_HELD && state != CONNECTION_QUEUED)
		return;
	i.age = connection_age(s, drain_watch_find(b->c, b->keys[e->owner]), now_usec());
	connection_peer(s, i.peer, sizeof i.peer);
	if (held) {
		const struct holder *h = &b->holders[held->seen >> 32];

		i.worker = h->worker;
		i.pid = (int)h->pid;
		if (s->family == AF_UNIX)
			unix_peer(
			        h->pid, (int)(uint32_t)held->seen, s->inode, i.peer, sizeof i.peer);
	}
	b->found(&i, b->arg);
}

/* A dump does not show those that wait at a UNIX listener. */
static void on_waiting(struct endpoint *e, unsigned n, void *arg)
{
	struct browse *b = arg;
	const struct connection_info i = {.peer = "unix",
	        .listener = e->name,
	        .state = "queued",
	        .owner = e->owner,
	        .idle = USEC_INFINITY,
	        .worker = -1};

	while (n-- > 0)
		b->found(&i, b->arg);
}

static int add_sets(struct browse *b, struct listener_set *const *sets)
{
	int r = 0;

	for (size_t i = 0; i < b->n && r >= 0; i++) {
		b->configs[i] = config_ref(sets[i]->config);
		b->keys[i] = sets[i];
		r = endpoint_list_add_set(&b->endpoints, b->c, sets[i], i);
	}
	for (size_t i = 0; i < b->endpoints.n; i++)
		if (b->endpoints.items[i].by_inode)
			b->endpoints.items[i].held = &b->held[b->endpoints.items[i].owner];
	return r < 0 ? r : survey_init(&b->survey, b->endpoints.items, b->endpoints.n, true, true);
}

int browse_new(struct connections *c, struct listener_set *const *sets, size_t n,
        struct browse **ret, struct ho_error *reterr)
{
	struct browse *b = calloc(1, sizeof *b);
	int r = -ENOMEM;

	if (b) {
		b->c = c;
		b->n = n;
		b->configs = calloc(n + 1, sizeof *b->configs);
		b->keys = calloc(n + 1, sizeof *b->keys);
		b->held = calloc(n + 1, sizeof *b->held);
		b->calls = (struct survey_calls){NULL, on_found, on_waiting, b};
		b->walk = (struct survey_walk){.survey = &b->survey,
		        .diag = &b->diag,
		        .states = SURVEY_CONNECTIONS,
		        .info = true,
		        .calls = &b->calls};
		if (b->configs && b->keys && b->held)
			r = add_sets(b, sets);
	}
	if (r < 0) {
		(void)browse_free(b);
		return ho_error_set(reterr, r, "Cannot list connections: %s", strerror(-r));
	}
	*ret = b;
	return 0;
}

int browse_add_process(struct browse *b, size_t owner, int worker, pid_t pid)
{
	struct holder *more;

	HO_ASSERT(owner < b->n && !b->scanned && !b->directory);
	if (b->n_holders == MAX_PROCESSES)
		return -E2BIG;
	more = reallocarray(b->holders, b->n_holders + 1, sizeof *more);
	if (!more)
		return -ENOMEM;
	b->holders = more;
	b->holders[b->n_holders++] = (struct holder){owner, worker, pid};
	return 0;
}

/* Some links of the present process; what cannot be looked at has no holder then. */
static int scan(struct browse *b)
{
	const struct holder *h = &b->holders[b->scanned];
	const struct dirent *entry = NULL;
	char path[64];
	int r = 0;

	if (!b->directory) {
		(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)h->pid);
		b->directory = opendir(path); /* close-on-exec by itself */
	}
	for (int i = 0; b->directory && i < LINKS_AT_ONCE && r >= 0; i++) {
		uint64_t fd;

		entry = readdir(b->directory);
		if (!entry)
			break;
		if (parse_number(entry->d_name, INT32_MAX, &fd))
			r = held_inodes_link(dirfd(b->directory), entry->d_name,
			        note_of(b->scanned, (unsigned)fd), &b->held[h->owner]);
	}
	if (!entry) {
		if (b->directory)
			(void)closedir(b->directory);
		b->directory = NULL;
		b->scanned++;
	}
	return r < 0 ? r : 1;
}

int browse_next(struct browse *b, browse_found found, void *arg)
{
	if (b->scanned < b->n_holders)
		return scan(b);
	b->found = found;
	b->arg = arg;
	return survey_walk_next(&b->walk);
}

struct browse *browse_free(struct browse *b)
{
	if (!b)
		return NULL;
	if (b->directory)
		(void)closedir(b->directory);
	for (size_t i = 0; i < b->n; i++) {
		if (b->configs)
			config_unref(b->configs[i]);
		if (b->held)
			cookie_set_done(&b->held[i]);
	}
	free(b->configs);
	free(b->keys);
	free(b->held);
	free(b->holders);
	survey_done(&b->survey);
	endpoint_list_done(&b->endpoints);
	diag_done(&b->diag);
	free(b);
	return NULL;
}
