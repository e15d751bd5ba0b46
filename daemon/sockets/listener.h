/* SPDX-License-Identifier: MIT */
/* Makes and examines single sockets. Every new listener gets its settings from one function here,
 * so that no generation differs from another (only what was configured is set, nothing is copied).
 */
#ifndef SOCKETS_LISTENER_H
#define SOCKETS_LISTENER_H

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "core/base.h"
#include "core/config.h"

#define UID_NONE ((uid_t)-1)

/* IP addresses and abstract names; false if it does not fit. */
bool listener_sockaddr(const struct address *a, struct sockaddr_storage *ret, socklen_t *ret_len);
bool listener_unix_sockaddr(const char *path, struct sockaddr_un *ret, socklen_t *ret_len);
/* The reverse, for what systemd passed: kind, ip, port, scope and dual; -EAFNOSUPPORT for anything
 * but IP. `path` and `text` are left alone. */
int listener_address_of(int fd, struct address *ret);

/* The socket's uid decides which others may bind beside it. UID_NONE: the caller's own. */
int listener_set_uid(int fd, uid_t uid);

/* A TCP socket with all settings, bound and not yet listening. */
int listener_tcp(const struct address *a, uid_t uid, int *ret_fd);
/* -EADDRINUSE if anybody listens at the TCP address, even one who would let us bind beside him. */
int listener_tcp_free(const struct address *a);
int listener_udp(const struct address *a, int *ret_fd);
int listener_abstract(const struct address *a, int backlog, int *ret_fd);

/* Where a socket filter is not permitted (6.18 asks for a privilege on TCP): drops every packet
 * that has come over a router, or from a sender that does not begin with the greatest TTL; hardly
 * any does. */
int listener_drop_ttl(int fd);

/* Accept queue and its limit of a TCP or UNIX stream listener; -EOPNOTSUPP for others. */
int listener_queue(int fd, unsigned *ret_queue, unsigned *ret_limit);
bool listener_is_listening(int fd);
int listener_blocking(int fd, bool blocking);

/* Resets what waits where nobody will ever accept, and should reach nobody else. */
void listener_discard_queue(int fd);

/* Has the server taken the connection of this TCP or UNIX client socket on this machine out of its
 * accept queue? 1 yes, 0 it waits, -ENOENT the server's side is gone. */
int listener_took(int client_fd);

/* 'cannot listen on tcp:0.0.0.0:80 (listener "http"): Permission denied: ...; nothing changed' */
int listener_failed(struct ho_error *reterr, int code, const struct listener_config *c);
/* Does the kernel move what waits at a listener that closes to another one of its group without a
 * program that says so (net.ipv4.tcp_migrate_req)? */
bool listener_kernel_migrates(void);

#endif
