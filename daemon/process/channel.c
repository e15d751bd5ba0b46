/* SPDX-License-Identifier: MIT */
#include "process/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "../lib/page.h"
#include "system/fd.h"

/* Whatever either side has not read. */
static bool has_ended(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) == 1 && p.revents & POLLHUP;
}

static bool is_seqpacket(int fd)
{
	int type = 0, domain = 0;
	socklen_t size = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
	       getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
	       type == SOCK_SEQPACKET && domain == AF_UNIX;
}

/* Only memory that cannot shrink under us: seals exist on nothing else. */
static struct handoff_page *map_page(int fd)
{
	struct handoff_page *page;
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 ||
	        st.st_size != HANDOFF_PAGE_SIZE)
		return NULL;
	page = mmap(NULL, HANDOFF_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return NULL;
	if (page->magic == HANDOFF_PAGE_MAGIC && page->version == HANDOFF_PAGE_VERSION)
		return page;
	(void)munmap(page, HANDOFF_PAGE_SIZE);
	return NULL;
}

static void unmap_page(struct channel *c)
{
	if (c->page)
		(void)munmap(c->page, HANDOFF_PAGE_SIZE);
	c->page = NULL;
	c->page_fd = close_fd(c->page_fd);
}

void channel_restore(struct channel *c, struct ev_loop *loop, int fd, int page_fd,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events), void *data)
{
	c->loop = loop;
	c->fd = fd;
	c->page_fd = page_fd;
	c->page = page_fd < 0 ? NULL : map_page(page_fd);
	if (fd < 0)
		return;
	ev_io_init(&c->io, readable, fd, EV_READ);
	c->io.data = data;
	ev_io_start(loop, &c->io);
}

int channel_open(struct channel *c, struct ev_loop *loop, int fd, int page_fd,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events), void *data)
{
	int own;

	if (c->fd >= 0 && !has_ended(c->fd))
		return -EBUSY;
	if (!is_seqpacket(fd))
		return -EINVAL;
	own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own < 0)
		return -errno;
	channel_close(c);
	unmap_page(c);
	page_fd = page_fd < 0 ? -1 : fcntl(page_fd, F_DUPFD_CLOEXEC, 3);
	channel_restore(c, loop, own, page_fd, readable, data);
	return 0;
}

void channel_close(struct channel *c)
{
	if (c->fd < 0)
		return;
	ev_io_stop(c->loop, &c->io);
	c->fd = close_fd(c->fd);
}

void channel_done(struct channel *c)
{
	channel_close(c);
	unmap_page(c);
}

ssize_t channel_read(struct channel *c, char *bytes, size_t size)
{
	ssize_t n = recv(c->fd, bytes, size, MSG_DONTWAIT);

	if (n == 0)
		return -ECONNRESET;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return n;
}

int channel_tell(struct channel *c, const char *words)
{
	if (c->fd < 0)
		return -ENOTCONN;
	return send(c->fd, words, strlen(words), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

void channel_set_serving(struct channel *c, uint32_t generation)
{
	if (c->page)
		atomic_store_explicit(&c->page->serving, generation, memory_order_relaxed);
}

static uint64_t sum(const _Atomic int64_t *a, const _Atomic int64_t *b)
{
	uint64_t n = (uint64_t)atomic_load_explicit(a, memory_order_relaxed) +
	             (uint64_t)atomic_load_explicit(b, memory_order_relaxed);

	return n > INT64_MAX ? 0 : n;
}

bool channel_counts(const struct channel *c, struct worker_counts *ret)
{
	const struct handoff_page *p = c->page;

	if (!p)
		return false;
	ret->connections = sum(&p->loop.connections, &p->threads.connections);
	ret->busy = sum(&p->loop.busy, &p->threads.busy);
	ret->requests = sum(&p->loop.requests, &p->threads.requests);
	ret->served = sum(&p->loop.served, &p->threads.served);
	return true;
}
