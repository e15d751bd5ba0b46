/* SPDX-License-Identifier: MIT */
/* See reuseport.h. The classic program returns indexes, so `order` repeats what the kernel does
 * with them (6.18, and so since 4.6): listen(2) adds a socket at the end; when one leaves, the last
 * one moves into its place; an index that is too great means any of them. Hence the rule all
 * functions here keep: a socket leaves only if neither it nor the last one is a target of the
 * program in force. Where the last one is a target, a fresh control listener joins before and is
 * what moves.
 *
 * A socket leaves at shutdown(2) at the latest, whoever else holds a descriptor of it. */
#include "sockets/reuseport.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sockets/bpf.h"
#include "sockets/reuseport_internal.h"
#include "sockets/tag.h"
#include "system/fd.h"

#define SLOT_PASSED 1
#define SLOT_FIRST 2
#define REVIVALS_MAX 64 /* of one member: a worker that does nothing else is left alone */

_Static_assert(ORDER_MAX <= STEER_SLOTS, "a slot for every member");
_Static_assert(TAG_COUNT <= STEER_SIDES, "a side for every tag");

static bool is_control(const struct reuseport *r, const struct entry *e)
{
	return !e->member && !e->abandoned && e->fd != r->passed_fd;
}

/* The member's own listener. */
static struct entry *entry_of(struct reuseport *r, const struct member *m)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->order[i].member == m && !r->order[i].adopted)
			return &r->order[i];
	return NULL;
}

static struct entry *entry_of_fd(struct reuseport *r, int fd)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->order[i].fd == fd)
			return &r->order[i];
	return NULL;
}

static unsigned free_slot(const struct reuseport *r)
{
	bool used[STEER_SLOTS] = {false};
	unsigned slot = SLOT_FIRST;

	for (size_t i = 0; i < r->n; i++)
		used[r->order[i].slot] = true;
	while (slot < STEER_SLOTS && used[slot])
		slot++;
	return slot;
}

void reuseport_probe(
        struct reuseport *r, const struct member *m, const struct sockaddr_storage *from)
{
	r->probed = m;
	if (from)
		r->probe_from = *from;
}

/* ---- joining and leaving ---- */

static int append(struct reuseport *r, int fd, struct member *m, bool adopted)
{
	struct entry *e = &r->order[r->n];
	int code;

	if (r->n == ORDER_MAX)
		return -EUSERS;
	*e = (struct entry){.fd = fd, .member = m, .adopted = adopted};
	e->slot = fd == r->passed_fd ? SLOT_PASSED : m ? free_slot(r) : STEER_CONTROL;
	if (e->slot >= STEER_SLOTS)
		return -EUSERS;
	if (r->program) {
		code = bpf_program_put(r->program, e->slot, fd);
		if (code < 0)
			return code;
	}
	r->n++;
	return 0;
}

/* Out of the group, now, and out of the table. The caller has seen that nobody is led astray by it.
 */
static void remove_entry(struct reuseport *r, struct entry *e)
{
	/* Indexes move: whoever comes after a crash must know of every socket that is there now;
	 * also if he has to do without the program, which ends with us where nobody keeps it. */
	if (r->context->writer.write_now)
		r->context->writer.write_now(r->context->writer.data);
	if (e->member && r->program)
		e->member->sent += bpf_program_sent(r->program, e->slot);
	(void)shutdown(e->fd, SHUT_RD);
	if (is_control(r, e))
		(void)close_fd(e->fd);
	if (e->fd == r->passed_fd)
		r->passed_fd = -1;
	*e = r->order[--r->n];
}

static bool removable(const struct reuseport *r, const struct entry *e)
{
	const struct entry *last = &r->order[r->n - 1];

	return r->program || (!e->target && (e == last || !last->target));
}

int reuseport_sent(const struct reuseport *r, const struct member *m, uint64_t *ret)
{
	if (!r->program)
		return -EOPNOTSUPP;
	*ret = m->sent;
	for (size_t i = 0; i < r->n; i++)
		if (r->order[i].member == m)
			*ret += bpf_program_sent(r->program, r->order[i].slot);
	return 0;
}

static int attach_first(const struct reuseport *r, int fd)
{
	return r->program ? bpf_program_attach(r->program, fd)
	                  : bpf_classic_attach(fd, &(struct steer_rule){.rest = 0});
}

/* Closes the control listeners but for the one in use, as far as that can be done now. */
static void drop_controls(struct reuseport *r)
{
	for (size_t i = r->n; i-- > 0;) {
		struct entry *e = &r->order[i];

		if (is_control(r, e) && e->fd != r->control_fd && removable(r, e))
			remove_entry(r, e);
	}
}

/* A new control listener, the last of the group; the program must be attached already, or be
 * attached next. Older ones leave before: with the only one behind all others nothing moves when
 * handoffd dies. */
static int add_control(struct reuseport *r)
{
	_cleanup_close_ int fd = -1;
	int code;

	if (r->n == ORDER_MAX)
		return -EUSERS;
	code = listener_tcp(r->ip, r->uid, &fd);
	if (code >= 0)
		code = bpf_drop_all(fd);
	if (code == -EPERM)
		code = listener_drop_ttl(fd);
	if (code >= 0)
		code = tag_set(fd, TAG_CONTROL);
	if (code >= 0 && r->n == 0 && !r->beside)
		code = attach_first(r, fd);
	if (code >= 0 && r->n > 1 && !r->program) {
		r->control_fd = -1;
		drop_controls(r);
	}
	if (code >= 0 && listen(fd, 1) < 0)
		code = -errno;
	if (code >= 0 && r->n == 0 && r->beside)
		code = attach_first(r, fd);
	if (code >= 0)
		code = append(r, fd, NULL, false);
	if (code >= 0)
		r->control_fd = take_fd(fd);
	return code;
}

int reuseport_apply(struct reuseport *r, bool sticky)
{
	struct steer_rule rule;
	int code = 0;

	if (r->control_fd < 0 && r->passed_fd < 0) /* it has ended, or could not be replaced */
		code = add_control(r);
	if (code < 0)
		return code;
	reuseport_rule(r, sticky, &rule);
	if (r->program)
		bpf_program_apply(r->program, &rule);
	else
		code = bpf_classic_attach(r->control_fd >= 0 ? r->control_fd : r->passed_fd, &rule);
	if (code < 0)
		return code;
	reuseport_mark_targets(r, &rule);
	drop_controls(r);
	return 0;
}

static uint8_t free_tag(const struct reuseport *r)
{
	for (unsigned i = 1; i <= TAG_COUNT; i++) {
		uint8_t tag = (uint8_t)((r->last_tag + i) % TAG_COUNT);

		if (tag != TAG_CONTROL && !(r->tags & 1u << tag))
			return tag;
	}
	return TAG_NONE;
}

static int join_passed(struct reuseport *r, struct member *m, struct entry *e)
{
	int fd = fcntl(r->passed_fd, F_DUPFD_CLOEXEC, 3);
	int code = fd < 0 ? -errno : tag_set(fd, m->tag);

	if (code < 0) {
		(void)close_fd(fd);
		return code;
	}
	m->fd = fd;
	e->member = m;
	return 0;
}

/* Its workers can change no filter of the group by it. */
static int listen_for(const struct member *m, int fd, int backlog)
{
	int one = 1, code = tag_set(fd, m->tag);

	if (code >= 0 && (setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &one, sizeof one) < 0 ||
	                         listen(fd, backlog) < 0))
		code = -errno;
	return code;
}

int reuseport_rejoin(struct reuseport *r, struct member *m)
{
	_cleanup_close_ int fd = -1;
	int code;

	if (r->n + 1 >= ORDER_MAX)
		return -EUSERS;
	code = listener_tcp(r->ip, r->uid, &fd);
	if (code >= 0)
		code = listen_for(m, fd, m->config->backlog);
	if (code >= 0)
		code = append(r, fd, m, false);
	if (code < 0)
		return code;
	code = add_control(r);
	if (code < 0) {
		remove_entry(r, entry_of(r, m));
		return code;
	}
	m->fd = take_fd(fd);
	drop_controls(r);
	return 0;
}

int reuseport_join(struct reuseport *r, struct member *m)
{
	struct entry *passed = r->passed_fd >= 0 ? entry_of_fd(r, r->passed_fd) : NULL;
	int code = 0;

	m->tag = free_tag(r);
	if (m->tag == TAG_NONE)
		return -EUSERS;
	if (m->adopt_only)
		r->last_tag = m->tag;
	else if (passed && !passed->member)
		code = join_passed(r, m, passed);
	else
		code = reuseport_rejoin(r, m);
	if (code < 0)
		return code;
	if (!passed || passed->member != m)
		r->last_tag = m->tag;
	r->tags |= 1u << m->tag;
	return 0;
}

/* ---- sockets that the program bound ---- */

int reuseport_prepare(const struct reuseport *r, int fd)
{
	uid_t owner = r->uid == UID_NONE ? geteuid() : r->uid;
	struct stat st;
	int one = 1;

	if (fstat(fd, &st) < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0)
		return -errno;
	return st.st_uid == owner ? 0 : listener_set_uid(fd, owner);
}

/* A tag is a number that also strangers may have: what a server's sockets have is theirs alone. */
static void take_tag(struct reuseport *r, struct member *m)
{
	for (size_t i = 0; i < m->n_adopted; i++) {
		uint8_t tag = tag_get(m->adopted[i].fd);

		if (tag == TAG_NONE)
			continue;
		m->tag = i == 0 || m->tag == tag ? tag : TAG_NONE;
		r->tags |= 1u << tag;
	}
	if (m->tag == TAG_CONTROL)
		m->tag = TAG_NONE;
}

int reuseport_take(struct reuseport *r, struct member *m)
{
	int code = 0;

	if (m->n_adopted > 1 && !r->program)
		return -EOPNOTSUPP;
	take_tag(r, m);
	for (size_t i = 0; code >= 0 && i < m->n_adopted; i++) {
		struct adopted *a = &m->adopted[i];
		struct entry *e = entry_of_fd(r, a->fd);

		if (e)
			*e = (struct entry){
			        .fd = e->fd, .slot = e->slot, .member = m, .adopted = true};
		else
			code = append(r, a->fd, m, true);
		a->listening = code >= 0;
		m->n_listening += code >= 0;
	}
	return code;
}

void reuseport_abandon(struct reuseport *r, struct member *m)
{
	for (struct entry *e = r->order; e < r->order + r->n; e++) {
		if (e->member != m)
			continue;
		e->member = NULL;
		e->abandoned = true;
	}
	m->n_listening = 0;
	if (m->tag < TAG_COUNT)
		r->tags &= ~(1u << m->tag);
}

/* Takes the entry out without leading anybody astray. */
static void withdraw(struct reuseport *r, int fd)
{
	struct entry *e = entry_of_fd(r, fd);

	if (e && !removable(r, e)) {
		(void)add_control(r);
		e = entry_of_fd(r, fd);
	}
	if (e)
		remove_entry(r, e);
}

/* Without an eBPF program the kernel moves what waits at a listener to any other one of the group.
 * Are all that anybody accepts at those that get new connections as well? */
static bool may_scatter(const struct reuseport *r)
{
	bool any = false;

	for (const struct entry *e = r->order; e < r->order + r->n; e++) {
		if (entry_is_active(e) && e->member->part == 0)
			return false;
		any |= entry_is_active(e);
	}
	return any && !r->program && r->passed_fd < 0 && listener_kernel_migrates();
}

static void rejoin(struct reuseport *r, struct member *m)
{
	if (listen(m->fd, m->config->backlog) == 0)
		(void)append(r, m->fd, m, false);
}

/* Where nobody accepts must not be in the group while the kernel moves what waits at `fd`. */
static void scatter(struct reuseport *r, int fd)
{
	struct member *idle[ORDER_MAX];
	struct entry *e;
	size_t n = 0;

	for (size_t i = r->n; i-- > 0;) {
		e = &r->order[i];
		if (e->fd == fd || entry_is_active(e))
			continue;
		if (e->member && !e->leaving && !e->adopted)
			idle[n++] = e->member;
		remove_entry(r, e);
	}
	r->control_fd = -1;
	e = entry_of_fd(r, fd);
	if (e)
		remove_entry(r, e);
	while (n > 0)
		rejoin(r, idle[--n]);
	(void)add_control(r);
}

/* Out of the group; what waits there moves to others if the kernel can do that. */
static void move_out(struct reuseport *r, const struct member *m, int fd)
{
	if (m->part > 0 && !r->program)
		group_strand(m, fd);
	if (m->part > 0 && may_scatter(r))
		scatter(r, fd);
	else
		withdraw(r, fd);
}

/* Our own listener is wanted again. */
static void return_own(struct reuseport *r, struct member *m, bool sticky)
{
	size_t before = r->n;

	if (m->fd < 0 || entry_of(r, m) || r->n + 1 >= ORDER_MAX)
		return;
	rejoin(r, m);
	if (r->n > before)
		(void)add_control(r);
	(void)reuseport_apply(r, sticky);
}

/* Our own listener of the member has been replaced. Clients that it has already move to the
 * program's sockets where the kernel can do that; for one that is not public yet only a probe waits
 * there. It may not stay in the group: when handoffd dies the places move, and the kernel may turn
 * to any that is left there; nobody accepts at this one. */
static void empty_own(struct reuseport *r, struct member *m, bool sticky)
{
	struct entry *e = entry_of(r, m);

	if (!e)
		return;
	if (m->part == 0 || e->fd == r->passed_fd)
		listener_discard_queue(m->fd);
	if (e->fd == r->passed_fd)
		return;
	move_out(r, m, e->fd);
	(void)reuseport_apply(r, sticky);
}

int reuseport_adopt(struct reuseport *r, struct member *m, int fd, int backlog, bool sticky)
{
	int code = 0;

	if (r->n + 1 >= ORDER_MAX)
		return -EUSERS;
	code = listen_for(m, fd, backlog);
	if (code < 0)
		return code;
	code = append(r, fd, m, true);
	if (code >= 0) {
		code = add_control(r);
		if (code < 0)
			withdraw(r, fd);
	} else {
		(void)shutdown(fd, SHUT_RD);
	}
	if (code < 0)
		return code;
	m->n_listening++;
	(void)reuseport_apply(r, sticky);
	if (m->n_listening == 1)
		empty_own(r, m, sticky);
	return 0;
}

void reuseport_drop(struct reuseport *r, struct member *m, int fd, bool sticky)
{
	struct entry *e = entry_of_fd(r, fd);

	if (!e)
		return;
	e->leaving = true;
	m->n_listening--;
	if (m->n_listening == 0)
		return_own(r, m, sticky);
	(void)reuseport_apply(r, sticky);
	if (m->part == 0)
		listener_discard_queue(fd);
	move_out(r, m, fd);
	(void)reuseport_apply(r, sticky);
}

void reuseport_leave(struct reuseport *r, struct member *m, bool sticky)
{
	bool target = false;

	m->part = 0;
	if (r->probed == m)
		r->probed = NULL;
	for (size_t i = 0; i < r->n; i++)
		target |= r->order[i].member == m && r->order[i].target;
	if (target)
		(void)reuseport_apply(r, sticky);
	for (size_t i = 0; i < m->n_adopted; i++)
		withdraw(r, m->adopted[i].fd);
	if (m->fd >= 0 && entry_of(r, m)) {
		if (entry_of(r, m)->fd == r->passed_fd)
			entry_of(r, m)->member = NULL;
		else
			withdraw(r, m->fd);
	}
	m->n_listening = 0;
	if (m->tag < TAG_COUNT)
		r->tags &= ~(1u << m->tag);
	m->fd = close_fd(m->fd);
	reuseport_verify(r, sticky);
	/* With tcp_migrate_req the kernel may move what a closed listener had to a control
	 * listener, where it would wait for ever. */
	if (!r->program)
		listener_discard_queue(r->control_fd);
}

/* Listening again costs what waited in its queue, which is lost already. */
static int revive(struct reuseport *r, int fd, struct member *m)
{
	int code;

	if (r->n + 1 >= ORDER_MAX || m->revivals++ >= REVIVALS_MAX)
		return -EUSERS;
	if (listen(fd, m->config->backlog) < 0)
		return -errno;
	code = append(r, fd, m, false);
	return code < 0 ? code : add_control(r);
}

static void forget_adopted(const struct entry *e)
{
	struct member *m = e->member;

	for (size_t i = 0; i < m->n_adopted; i++) {
		if (m->adopted[i].fd != e->fd || !m->adopted[i].listening)
			continue;
		m->adopted[i].listening = false;
		m->n_listening--;
	}
}

void reuseport_verify(struct reuseport *r, bool sticky)
{
	struct entry lost[ORDER_MAX];
	struct member *bare[ORDER_MAX];
	size_t n = 0, n_bare = 0;

	for (size_t i = r->n; i-- > 0;) {
		struct member *m = r->order[i].member;

		if (!m || listener_is_listening(r->order[i].fd))
			continue;
		/* What the program does with a socket of its own is its own business: it may listen
		 * again. */
		if (r->order[i].adopted) {
			forget_adopted(&r->order[i]);
			if (m->n_listening == 0)
				bare[n_bare++] = m;
		} else {
			lost[n++] = r->order[i];
		}
		if (r->order[i].fd == r->passed_fd)
			r->passed_fd = -1;
		r->order[i] = r->order[--r->n];
	}
	(void)reuseport_apply(r, sticky);
	for (size_t i = 0; i < n; i++)
		(void)revive(r, lost[i].fd, lost[i].member);
	for (size_t i = 0; i < n_bare; i++)
		return_own(r, bare[i], sticky);
	if (n > 0)
		(void)reuseport_apply(r, sticky);
}

/* ---- opening and closing ---- */

/* An unused listener of systemd's becomes the first member of a group; only when a second socket
 * listens is there something to attach to. Until then, some microseconds, that one may drop a
 * client's packet, which the client sends again. */
static int open_around(struct reuseport *r, bool *ebpf)
{
	int one = 1, code = 0;
	struct stat st;
	struct steer_rule rule = {.rest = 0};

	r->order[r->n++] = (struct entry){.fd = r->passed_fd, .slot = SLOT_PASSED};
	if (fstat(r->passed_fd, &st) < 0 ||
	        setsockopt(r->passed_fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0)
		return -errno;
	r->uid = st.st_uid == geteuid() ? UID_NONE : st.st_uid;
	code = add_control(r);
	if (code >= 0 && r->program)
		code = bpf_program_put(r->program, SLOT_PASSED, r->passed_fd);
	if (code == -EBUSY) {
		/* In the array of a handoffd that died: its program goes with the next attach. */
		r->program = bpf_program_free(r->program);
		*ebpf = false;
		code = 0;
	}
	if (code < 0)
		return code;
	r->order[0].target = true;
	if (!r->program)
		return bpf_classic_attach(r->control_fd, &rule);
	rule.rest = SLOT_PASSED;
	bpf_program_apply(r->program, &rule);
	return bpf_program_attach(r->program, r->control_fd);
}

int reuseport_open(const struct address *ip, const struct group_context *x, int passed_fd,
        bool port_is_ours, struct reuseport **ret, bool *ret_ebpf)
{
	struct reuseport *r = calloc(1, sizeof *r);
	int code = 0;

	if (!r)
		return -ENOMEM;
	r->ip = ip;
	r->context = x;
	r->passed_fd = passed_fd;
	r->control_fd = -1;
	r->uid = x->uid;
	r->last_tag = TAG_COUNT - 1;
	r->beside = port_is_ours;
	*ret_ebpf = x->ebpf && bpf_program_new(&r->program, NULL) >= 0;
	if (passed_fd >= 0) {
		code = open_around(r, ret_ebpf);
	} else {
		if (r->uid == UID_NONE && !port_is_ours)
			code = listener_tcp_free(ip);
		if (code >= 0)
			code = add_control(r);
	}
	if (code < 0) {
		(void)reuseport_close(r);
		return code;
	}
	*ret = r;
	return 0;
}

int reuseport_restored(struct reuseport *r, bool sticky)
{
	struct entry lost[ORDER_MAX];
	size_t n = 0;
	int code;

	for (size_t i = r->n; i-- > 0;) {
		struct entry *e = &r->order[i];

		if (e->fd >= 0 && listener_is_listening(e->fd))
			continue;
		if (e->fd == r->control_fd)
			r->control_fd = -1;
		if (is_control(r, e))
			(void)close_fd(e->fd);
		else if (e->fd >= 0 && e->member && !e->adopted)
			lost[n++] = *e;
		*e = r->order[--r->n];
	}
	code = reuseport_apply(r, sticky);
	for (size_t i = 0; code >= 0 && i < n; i++)
		(void)revive(r, lost[i].fd, lost[i].member);
	if (code >= 0)
		reuseport_verify(r, sticky);
	return code;
}

/* What systemd keeps must work without us: all connections to its socket, then no program at all.
 */
static void leave_passed_alone(struct reuseport *r)
{
	int zero = 0;

	r->control_fd = -1;
	(void)reuseport_apply(r, false);
	for (size_t i = r->n; i-- > 0;) {
		if (r->order[i].fd == r->passed_fd || r->order[i].abandoned)
			continue;
		remove_entry(r, &r->order[i]);
		(void)reuseport_apply(r, false);
	}
	(void)setsockopt(r->passed_fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &zero, sizeof zero);
	if (r->program)
		bpf_program_remove(r->program, SLOT_PASSED);
}

struct reuseport *reuseport_close(struct reuseport *r)
{
	if (!r)
		return NULL;
	if (r->passed_fd >= 0)
		leave_passed_alone(r);
	else
		for (size_t i = r->n; i-- > 0;)
			remove_entry(r, &r->order[i]);
	(void)bpf_program_free(r->program);
	free(r);
	return NULL;
}
