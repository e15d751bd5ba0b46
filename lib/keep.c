/* SPDX-License-Identifier: MIT */
/* Memory and descriptors that outlive a generation.
 *
 * Memory is a memfd that nobody can shrink or grow, so that no process of another one's doing meets
 * SIGBUS. Its first page is a struct keep_header, the rest is the program's. Who makes it is
 * decided by handoffd, who keeps it; whoever has its lock first while it is not filled fills it,
 * also instead of one that died over it. A copy of another layout is never mapped as this one: it
 * is only shown to the callback that fills the new copy, locked.
 *
 * Under systemd alone its descriptor store takes the place of handoffd; with neither, memory is the
 * process's own. */
#include "handoff.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U /* Linux 6.3 */
#endif

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */
#define KEEP_HEAD 4096
#define KEEP_NAME 64    /* with the NUL, as handoffd has it */
#define ANSWER_WAIT 5   /* seconds */
#define LOCK_WAIT 30000 /* milliseconds, for another one that fills it */
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

struct keep_header {
	char magic[8]; /* and version of this header */
	uint64_t size; /* of what follows it at KEEP_HEAD */
	uint32_t version, lock_size;
	atomic_uint filled; /* written by who has the lock */
	pthread_mutex_t lock;
};
_Static_assert(sizeof(struct keep_header) <= KEEP_HEAD, "the header has a page");

static const char magic[8] = "handoff1";

/* What this process has mapped; never unmapped. */
struct kept {
	struct kept *next;
	struct keep_header *header;
	int fd; /* for a handoffd that comes after one that died: the only way to it without systemd
	         */
	char name[KEEP_NAME];
};
static struct kept *all_kept;
static pthread_mutex_t all_kept_lock = PTHREAD_MUTEX_INITIALIZER;

/* Of what a name stands for; the same as handoffd demands. */
static bool valid_name(const char *name)
{
	size_t n = name ? strlen(name) : 0;

	if (n == 0 || n >= KEEP_NAME)
		return false;
	for (; *name; name++)
		if (*name <= ' ' || *name >= 0x7f || *name == ':')
			return false;
	return true;
}

static void close_if(int fd)
{
	if (fd >= 0)
		(void)close(fd);
}

/* ---- questions to handoffd ---- */

/* notify_send(), and if the receiver is behind, once more when it has caught up. */
static int tell(const char *words, const int *fds, size_t n_fds)
{
	int waiting = -1, r = notify_send(words, fds, n_fds, &waiting);

	while (r == -EAGAIN) {
		struct pollfd p = {.fd = waiting, .events = POLLOUT};

		r = poll(&p, 1, ANSWER_WAIT * 1000);
		(void)close(waiting);
		if (r <= 0)
			return r < 0 ? -errno : -ETIMEDOUT;
		r = notify_send(words, fds, n_fds, &waiting);
	}
	return r;
}

/* Sends `words` with a socket to answer on, and `candidate` if it is not negative; waits for the
 * answer. At most two descriptors come with it, -1 where there is none. */
static int ask(const char *words, int candidate, int ret_fds[2])
{
	static const struct {
		const char *word;
		int result;
	} answers[] = {
	        {"have", 0}, {"new", 0}, {"none", -ENOENT}, {"other", -EEXIST}, {"full", -ENOSPC}};
	const struct timeval limit = {.tv_sec = ANSWER_WAIT};
	char word[16] = "";
	size_t n_fds = 2;
	int ends[2], r;
	ssize_t n;

	ret_fds[0] = ret_fds[1] = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	r = setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ? -errno : 0;
	if (r == 0)
		r = tell(words, (const int[]){ends[1], candidate}, 1 + (candidate >= 0));
	(void)close(ends[1]);
	if (r > 0) {
		do
			n = recv_fds(ends[0], word, sizeof word - 1, ret_fds, &n_fds);
		while (n == -EINTR);
		r = n > 0 ? -EPROTO : n == 0 ? -ECONNRESET : n == -EAGAIN ? -ETIMEDOUT : (int)n;
		for (size_t i = 0; n > 0 && i < sizeof answers / sizeof answers[0]; i++)
			if (!strcmp(word, answers[i].word))
				r = answers[i].result;
		if (r == 0 && n_fds == 0)
			r = -EMFILE; /* the kernel had no room for it here */
	} else if (r == 0) {
		r = -ENOTCONN;
	}
	(void)close(ends[0]);
	return r;
}

/* What was passed at the start under this name; -ENOENT: nothing. */
static int find_passed(const char *name)
{
	char own[KEEP_NAME];
	int n = handoff_listeners();

	for (int i = 0; i < n; i++)
		if (handoff_listener_name(i, own, sizeof own) > 0 && !strcmp(own, name))
			return FIRST_FD + i;
	return n < 0 ? n : -ENOENT;
}

/* systemd alone: what it had under the name goes first. 1, 0 if nobody keeps it, or negative. */
static int store(const char *name, int fd)
{
	char words[KEEP_NAME + 64];
	int r;

	(void)snprintf(words, sizeof words, "FDSTOREREMOVE=1\nFDNAME=%s", name);
	r = tell(words, NULL, 0);
	(void)snprintf(words, sizeof words, "FDSTORE=1\nFDNAME=%s", name);
	return r <= 0 ? r : tell(words, &fd, 1);
}

/* ---- memory ---- */

static int lock(struct keep_header *h, int milliseconds)
{
	struct timespec until;
	int r;

	r = milliseconds < 0 ? pthread_mutex_lock(&h->lock) : pthread_mutex_trylock(&h->lock);
	if (r == EBUSY && milliseconds > 0) {
		(void)clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += milliseconds / 1000;
		until.tv_nsec += milliseconds % 1000 * 1000000L;
		if (until.tv_nsec >= 1000000000L) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000L;
		}
		r = pthread_mutex_clocklock(&h->lock, CLOCK_MONOTONIC, &until);
	}
	if (r != EOWNERDEAD)
		return -r;
	/* if this process dies too before it unlocks, the next one is told again */
	(void)pthread_mutex_consistent(&h->lock);
	return 1;
}

static void unlock(struct keep_header *h)
{
	(void)pthread_mutex_unlock(&h->lock);
}

static void *memory_of(struct keep_header *h)
{
	return (char *)h + KEEP_HEAD;
}

static void unmap(struct keep_header *h)
{
	if (h)
		(void)munmap(h, KEEP_HEAD + h->size);
}

/* Maps what may be kept memory. -EPROTO: it is none, or not of this library's making. */
static int map(int fd, struct keep_header **ret)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct keep_header *h;
	struct stat st;
	uint64_t size;

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 || st.st_size <= KEEP_HEAD)
		return -EPROTO;
	size = (uint64_t)st.st_size;
	h = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (h == MAP_FAILED)
		return -errno;
	if (memcmp(h->magic, magic, sizeof magic) != 0 || h->lock_size != sizeof h->lock ||
	        h->size != size - KEEP_HEAD) {
		(void)munmap(h, size);
		return -EPROTO;
	}
	*ret = h;
	return 0;
}

static int init_lock(pthread_mutex_t *m)
{
	pthread_mutexattr_t a;
	int r = pthread_mutexattr_init(&a);

	if (r)
		return -r;
	r = pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	if (r == 0)
		r = pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	if (r == 0)
		r = pthread_mutex_init(m, &a);
	(void)pthread_mutexattr_destroy(&a);
	return -r;
}

/* New memory that is not filled yet. */
static int make(const char *name, unsigned version, size_t size, int *ret)
{
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL), r = 0;
	struct keep_header *h = MAP_FAILED;

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)(KEEP_HEAD + size)) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0 ||
	        (h = mmap(NULL, KEEP_HEAD, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) ==
	                MAP_FAILED)
		r = -errno;
	if (r == 0) {
		memcpy(h->magic, magic, sizeof magic);
		h->size = size;
		h->version = version;
		h->lock_size = sizeof h->lock;
		r = init_lock(&h->lock);
		(void)munmap(h, KEEP_HEAD);
	}
	if (r < 0)
		(void)close(fd);
	else
		*ret = fd;
	return r;
}

/* `old`: may be NULL; is locked. */
static int call_init(
        struct keep_header *h, struct keep_header *old, handoff_keep_init init, void *data)
{
	if (!init)
		return 0;
	if (!old || !old->filled)
		return init(memory_of(h), NULL, 0, 0, data);
	return init(memory_of(h), memory_of(old), old->size, old->version, data);
}

/* Fills it unless that is done. `fd` is that of `h`. */
static int fill(struct keep_header *h, int fd, int old_fd, handoff_keep_init init, void *data)
{
	struct keep_header *old = NULL;
	int r = lock(h, LOCK_WAIT);

	if (r < 0)
		return r;
	r = 0;
	if (h->filled)
		goto done;
	if (old_fd >= 0) {
		r = map(old_fd, &old);
		if (r == -EPROTO)
			r = 0; /* not to be understood: as if it were not there */
		if (r == 0 && old)
			r = lock(old, LOCK_WAIT);
		if (r < 0)
			goto done;
	}
	/* what somebody left who died or failed over it */
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, KEEP_HEAD, (off_t)h->size) <
	        0)
		memset(memory_of(h), 0, h->size);
	r = call_init(h, old, init, data);
	h->filled = r >= 0;
	if (old)
		unlock(old);
done:
	unlock(h);
	unmap(old);
	return r < 0 ? r : 0;
}

/* The copy for this generation: fds[0], and an older one to migrate from, if any: fds[1]. Both are
 * the caller's, also when this fails. */
static int obtain(const char *name, unsigned version, size_t size, int fds[2])
{
	char words[2 * KEEP_NAME + 64];
	struct keep_header *h = NULL;
	int candidate = -1, r = make(name, version, size, &candidate);

	fds[0] = fds[1] = -1;
	if (r < 0)
		return r;
	if (handoff_service()) {
		(void)snprintf(words, sizeof words, "HANDOFF_KEEP=%.8s-%zu-%u-%zu\nFDNAME=%s",
		        magic, sizeof h->lock, version, size, name);
		r = ask(words, candidate, fds);
		(void)close(candidate);
		return r;
	}
	r = find_passed(name);
	if (r >= 0) {
		fds[1] = fcntl(r, F_DUPFD_CLOEXEC, FIRST_FD);
		if (fds[1] >= 0 && map(fds[1], &h) == 0 && h->version == version &&
		        h->size == size) {
			fds[0] = fds[1];
			fds[1] = -1;
		}
		unmap(h);
	}
	if (fds[0] < 0) {
		fds[0] = candidate;
		r = store(name, candidate);
		return r < 0 ? r : 0;
	}
	(void)close(candidate);
	return 0;
}

static int keep_new(const char *name, unsigned version, size_t size, handoff_keep_init init,
        void *data, struct kept **ret)
{
	struct kept *k = calloc(1, sizeof *k);
	int fds[2], r;

	if (!k)
		return -ENOMEM;
	r = obtain(name, version, size, fds);
	if (r == 0)
		r = map(fds[0], &k->header);
	if (r == 0 && (k->header->version != version || k->header->size != size))
		r = -EPROTO;
	if (r == 0)
		r = fill(k->header, fds[0], fds[1], init, data);
	close_if(fds[1]);
	if (r < 0) {
		close_if(fds[0]);
		unmap(k->header);
		free(k);
		return r;
	}
	memcpy(k->name, name, strlen(name) + 1);
	k->fd = fds[0];
	k->next = all_kept;
	*ret = all_kept = k;
	return 0;
}

void *handoff_keep(
        const char *name, unsigned version, size_t size, handoff_keep_init init, void *data)
{
	struct kept *k;
	int r = 0;

	if (!valid_name(name) || size == 0 || size > (size_t)PTRDIFF_MAX - KEEP_HEAD) {
		errno = EINVAL;
		return NULL;
	}
	(void)pthread_mutex_lock(&all_kept_lock);
	for (k = all_kept; k && strcmp(k->name, name) != 0; k = k->next)
		;
	if (!k)
		r = keep_new(name, version, size, init, data, &k);
	else if (k->header->version != version || k->header->size != size)
		r = -EEXIST;
	(void)pthread_mutex_unlock(&all_kept_lock);
	if (r < 0) {
		errno = -r;
		return NULL;
	}
	return memory_of(k->header);
}

static struct keep_header *header_of(void *memory)
{
	return (struct keep_header *)((char *)memory - KEEP_HEAD);
}

int handoff_keep_lock(void *memory, int milliseconds)
{
	return lock(header_of(memory), milliseconds);
}

void handoff_keep_unlock(void *memory)
{
	unlock(header_of(memory));
}

/* ---- descriptors ---- */

int handoff_keep_fd(const char *name, int fd)
{
	char words[KEEP_NAME + 64];
	int fds[2], r;

	if (!valid_name(name))
		return -EINVAL;
	if (fcntl(fd, F_GETFD) < 0)
		return -errno;
	if (!handoff_service())
		return store(name, fd);
	(void)snprintf(words, sizeof words, "HANDOFF_KEEP=-\nFDNAME=%s", name);
	r = ask(words, fd, fds);
	close_if(fds[0]);
	close_if(fds[1]);
	return r < 0 ? r : 1;
}

int handoff_kept_fd(const char *name)
{
	char words[KEEP_NAME + 64];
	int fds[2], r;

	if (!valid_name(name))
		return -EINVAL;
	if (!handoff_service()) {
		r = find_passed(name);
		if (r >= 0)
			r = fcntl(r, F_DUPFD_CLOEXEC, FIRST_FD);
		return r == -1 ? -errno : r;
	}
	(void)snprintf(words, sizeof words, "HANDOFF_FETCH=1\nFDNAME=%s", name);
	r = ask(words, -1, fds);
	close_if(fds[1]);
	return r < 0 ? r : fds[0];
}

int handoff_forget(const char *name)
{
	char words[KEEP_NAME + 64];

	if (!valid_name(name))
		return -EINVAL;
	(void)snprintf(words, sizeof words, "FDSTOREREMOVE=1\nFDNAME=%s", name);
	return tell(words, NULL, 0);
}
