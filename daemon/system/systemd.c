/* SPDX-License-Identifier: MIT */
#include "system/systemd.h"
#include "system/fd.h"

#include <ev.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <systemd/sd-daemon.h>

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
	if (extend && extend != USEC_INFINITY)
		(void)sd_notifyf(0, "%s\nEXTEND_TIMEOUT_USEC=%" PRIu64, text, extend);
	else
		(void)sd_notify(0, text);
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

void systemd_status(const char *text)
{
	(void)sd_notifyf(0, "STATUS=%s", text);
}

void systemd_store(const char *name, int fd)
{
	char text[256];
	struct text t = TEXT_ON(text);

	text_add(&t, "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
	(void)sd_pid_notify_with_fds(0, 0, text, &fd, 1);
}

void systemd_unstore(const char *name)
{
	(void)sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
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
