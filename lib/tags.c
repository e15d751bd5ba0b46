/* SPDX-License-Identifier: MIT */
#include "tags.h"

#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "handoff.h"

static const int options[TAG_OPTIONS] = {
        IP_MULTICAST_LOOP, IP_FREEBIND, IP_BIND_ADDRESS_NO_PORT, IP_RECVERR_RFC4884};

static in_port_t port_of(const struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_port;
	if (a->ss_family == AF_INET6)
		return ((const struct sockaddr_in6 *)a)->sin6_port;
	return 0;
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
	               &((const struct sockaddr_in6 *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

void tags_learn(struct tags *t)
{
	const int n = handoff_listeners();

	for (int i = 0; i < n && t->n < TAGS_MAX; i++) {
		const int fd = handoff_listener(NULL, i);
		socklen_t size = sizeof t->of[0].address, type_size = sizeof(int);
		bool known;
		int type;

		if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0 ||
		        type != SOCK_STREAM ||
		        getsockname(fd, (struct sockaddr *)&t->of[t->n].address, &size) < 0)
			continue;
		known = port_of(&t->of[t->n].address) != 0;
		for (size_t k = 0; known && k < TAG_OPTIONS; k++) {
			size = sizeof(int);
			known = getsockopt(fd, SOL_IP, options[k], &t->of[t->n].values[k], &size) ==
			        0;
		}
		t->n += known;
	}
}

void tags_put(const struct tags *t, int fd)
{
	struct sockaddr_storage own = {0};
	socklen_t size = sizeof own;
	size_t found = TAGS_MAX;

	if (!t->n || getsockname(fd, (struct sockaddr *)&own, &size) < 0)
		return;
	for (size_t i = 0; i < t->n; i++) {
		if (t->of[i].address.ss_family != own.ss_family ||
		        port_of(&t->of[i].address) != port_of(&own))
			continue;
		if (found == TAGS_MAX || same_address(&t->of[i].address, &own))
			found = i;
	}
	for (size_t k = 0; found < TAGS_MAX && k < TAG_OPTIONS; k++)
		(void)setsockopt(fd, SOL_IP, options[k], &t->of[found].values[k], sizeof(int));
}
