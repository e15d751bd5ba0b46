/* SPDX-License-Identifier: MIT */
/* What handoffd says to the manager above it (sd_notify(3)), and what it gets from it
 * (sd_listen_fds(3)). All of it is nothing when there is no such manager. */
#ifndef SYSTEM_SYSTEMD_H
#define SYSTEM_SYSTEMD_H

#include "core/base.h"

struct ev_loop;

/* Takes the variables out of the environment, so that no worker gets them. Descriptors are made
 * close-on-exec. `ret_names` and `ret_fds` are heap, the caller's. 0 when there are none; negative
 * errno with words. */
int systemd_listen_fds(int **ret_fds, char ***ret_names, struct ho_error *reterr);

/* READY=1 / RELOADING=1 with MONOTONIC_USEC / STOPPING=1; extend: EXTEND_TIMEOUT_USEC, 0 none. */
void systemd_ready(void);
void systemd_reloading(usec_t extend);
void systemd_stopping(usec_t extend);
void systemd_wait(usec_t extend);
void systemd_status(const char *text);
bool systemd_present(void);
/* Into its descriptor store and out of it. It does not watch the descriptor for hang-ups. Waits for
 * at most a second until it can be told; 0 or negative errno. */
int systemd_store(const char *name, int fd);
int systemd_unstore(const char *name);

/* WATCHDOG=1 twice as often as asked for; nothing when it was not. */
struct systemd_watchdog;
struct systemd_watchdog *systemd_watchdog_new(struct ev_loop *loop);
struct systemd_watchdog *systemd_watchdog_free(struct systemd_watchdog *w);

#endif
