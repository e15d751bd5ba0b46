/* SPDX-License-Identifier: MIT */
#include "process/einhorn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "system/fd.h"

bool einhorn_is_ack(const char *line, size_t length)
{
	static const char command[] = "command", ack[] = "worker:ack";
	const char *end = line + length, *at = memmem(line, length, command, sizeof command - 1);

	if (!at)
		return false;
	at += sizeof command - 1;
	while (at < end && memchr("\"': ", *at, 4))
		at++;
	return (size_t)(end - at) >= sizeof ack - 1 && memcmp(at, ack, sizeof ack - 1) == 0;
}

static void close_client(struct einhorn *e)
{
	if (!ev_is_active(&e->client))
		return;
	ev_io_stop(e->loop, &e->client);
	(void)close_fd(e->client.fd);
}

static void on_client(struct ev_loop *loop, ev_io *io, int events)
{
	struct einhorn *e = io->data;
	ssize_t n = recv(io->fd, e->line + e->length, sizeof e->line - e->length, MSG_DONTWAIT);
	bool whole;

	(void)loop;
	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		e->length += (size_t)n;
	whole = memchr(e->line, '\n', e->length) != NULL;
	if (n > 0 && !whole && e->length < sizeof e->line)
		return;
	/* einhorn closes after each of these commands, without a word */
	close_client(e);
	if (whole && einhorn_is_ack(e->line, e->length))
		e->acknowledged(e->data);
}

/* One client at a time, the newest: none has more than one line to say. */
static void on_listener(struct ev_loop *loop, ev_io *io, int events)
{
	struct einhorn *e = io->data;
	_cleanup_close_ int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t size = sizeof peer;

	(void)events;
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
	        !e->accepts(e->data, peer.pid, peer.uid))
		return;
	if (ev_is_active(&e->client)) /* what it has said already counts */
		on_client(loop, &e->client, EV_READ);
	close_client(e);
	e->length = 0;
	ev_io_init(&e->client, on_client, take_fd(fd), EV_READ);
	e->client.data = e;
	ev_io_start(loop, &e->client);
}

/* Where a file may be made for a moment: whoever handoffd is, one of these is open to it. */
static const char *const directories[] = {"/run", "/tmp", "/dev/shm"};

static int bind_nameless(int fd, const char *directory, int *ret_path_fd)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	uint64_t random[2];
	int r = 0;

	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		return -EIO;
	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s/handoffd-%016llx%016llx", directory,
	        (unsigned long long)random[0], (unsigned long long)random[1]);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return -errno;
	/* the worker's user is not always ours, and who speaks is looked at */
	if (chmod(a.sun_path, 0666) < 0 ||
	        (*ret_path_fd = open(a.sun_path, O_PATH | O_NOFOLLOW | O_CLOEXEC)) < 0)
		r = -errno;
	(void)unlink(a.sun_path);
	return r;
}

void einhorn_restore(struct einhorn *e, struct ev_loop *loop, int fd)
{
	e->loop = loop;
	ev_io_init(&e->listener, on_listener, fd, EV_READ);
	e->listener.data = e;
	ev_io_start(loop, &e->listener);
}

int einhorn_start(
        struct einhorn *e, struct ev_loop *loop, int *ret_path_fd, struct ho_error *reterr)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	_cleanup_close_ int path_fd = -1;
	int r = fd < 0 ? -errno : -ENOENT;

	for (size_t i = 0; fd >= 0 && r < 0 && i < ARRAY_SIZE(directories); i++)
		r = bind_nameless(fd, directories[i], &path_fd);
	if (r == 0 && listen(fd, 16) < 0)
		r = -errno;
	if (r < 0)
		return ho_error_set(reterr, r,
		        "cannot open the socket of a worker's acknowledgement (dialect "
		        "\"einhorn\"): %s",
		        strerror(-r));
	einhorn_restore(e, loop, take_fd(fd));
	*ret_path_fd = take_fd(path_fd);
	return 0;
}

int einhorn_fd(const struct einhorn *e)
{
	return e->loop && ev_is_active(&e->listener) ? e->listener.fd : -1;
}

void einhorn_stop(struct einhorn *e)
{
	if (!e->loop || !ev_is_active(&e->listener))
		return;
	close_client(e);
	ev_io_stop(e->loop, &e->listener);
	(void)close_fd(e->listener.fd);
}
