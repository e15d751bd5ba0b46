/* SPDX-License-Identifier: MIT */
#include "system/systemd.h"
#include "system/fd.h"

#include <errno.h>
#include <ev.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <systemd/sd-daemon.h>

/* Without end cannot be said. */
#define EXTEND_MAX (365 * 86400 * USEC_PER_SEC)

int systemd_listen_fds(int **ret_fds, char ***ret_names, struct ho_error *reterr)
{
	char **names = NULL;
	int *fds;
	int n = sd_listen_fds_with_names(1, &names);

	if (n < 0)
		return ho_error_set(reterr, n,
		        "LISTEN_FDS and LISTEN_FDNAMES do not fit together: %s", strerror(-n));
	fds = calloc((size_t)n + 1, sizeof *fds);
	if (!fds) {
		for (int i = 0; i < n; i++)
			free(names[i]);
		free(names);
		return ho_error_set(reterr, -12, "not enough memory for the passed sockets");
	}
	for (int i = 0; i < n; i++)
		fds[i] = SD_LISTEN_FDS_START + i;
	*ret_fds = fds;
	*ret_names = names;
	return n;
}

bool systemd_present(void)
{
	return getenv("NOTIFY_SOCKET") != NULL;
}

static void with_extend(const char *text, usec_t extend)
{
	if (!extend) {
		(void)sd_notify(0, text);
		return;
	}
	(void)sd_notifyf(0, "%s\nEXTEND_TIMEOUT_USEC=%" PRIu64, text,
	        extend < EXTEND_MAX ? extend : EXTEND_MAX);
	/* the manager has given the watchdog the same time, which is taken back so */
	(void)sd_notify(0, "WATCHDOG=1");
}

void systemd_ready(void)
{
	(void)sd_notify(0, "READY=1");
}

void systemd_reloading(usec_t extend)
{
	char text[80];
	struct text t = TEXT_ON(text);

	/* without the time a Type=notify-reload unit waits for ever */
	text_add(&t, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec());
	with_extend(text, extend);
}

void systemd_stopping(usec_t extend)
{
	with_extend("STOPPING=1", extend);
}

void systemd_wait(usec_t extend)
{
	with_extend("", extend);
}

void systemd_status(const char *text)
{
	(void)sd_notifyf(0, "STATUS=%s", text);
}

/* As sd_pid_notify_with_fds(3), which would wait for ever for a manager that does not read. */
static int tell(const char *text, int fd)
{
	const char *path = getenv("NOTIFY_SOCKET");
	_cleanup_close_ int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct timeval patience = {.tv_sec = 1};
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.bytes = {0}};
	struct iovec io = {.iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text)};
	struct msghdr m = {.msg_name = &to, .msg_iov = &io, .msg_iovlen = 1};
	size_t n = path ? strlen(path) : 0;

	if (s < 0 || n < 2 || n >= sizeof to.sun_path)
		return s < 0 ? -errno : -EINVAL;
	memcpy(to.sun_path, path, n);
	if (path[0] == '@')
		to.sun_path[0] = '\0';
	m.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	if (fd >= 0) {
		struct cmsghdr *h;

		m.msg_control = control.bytes;
		m.msg_controllen = sizeof control.bytes;
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(h), &fd, sizeof fd);
	}
	if (setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0)
		return -errno;
	return sendmsg(s, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int systemd_store(const char *name, int fd)
{
	char text[256];
	struct text t = TEXT_ON(text);

	text_add(&t, "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
	return tell(text, fd);
}

int systemd_unstore(const char *name)
{
	char text[256];
	struct text t = TEXT_ON(text);

	text_add(&t, "FDSTOREREMOVE=1\nFDNAME=%s", name);
	return tell(text, -1);
}

struct systemd_watchdog {
	struct ev_loop *loop;
	ev_timer timer;
};

static void ping(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)timer;
	(void)events;
	(void)sd_notify(0, "WATCHDOG=1");
}

struct systemd_watchdog *systemd_watchdog_new(struct ev_loop *loop)
{
	struct systemd_watchdog *w;
	uint64_t usec;

	if (sd_watchdog_enabled(0, &usec) <= 0)
		return NULL;
	w = calloc(1, sizeof *w);
	if (!w)
		return NULL;
	w->loop = loop;
	ev_timer_init(&w->timer, ping, 0., (double)usec / USEC_PER_SEC / 2);
	ev_timer_start(loop, &w->timer);
	return w;
}

struct systemd_watchdog *systemd_watchdog_free(struct systemd_watchdog *w)
{
	if (w)
		ev_timer_stop(w->loop, &w->timer);
	free(w);
	return NULL;
}
