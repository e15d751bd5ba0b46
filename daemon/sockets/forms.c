/* SPDX-License-Identifier: MIT */
#include "sockets/forms.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

#include "system/fd.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

bool form_is_wildcard(const struct address *a)
{
	static const uint8_t zeros[16];

	return !memcmp(a->ip, zeros, a->ipv6 ? 16 : 4);
}

void form_print(struct text *t, const struct address *a)
{
	char ip[INET6_ADDRSTRLEN] = "";

	(void)inet_ntop(a->ipv6 ? AF_INET6 : AF_INET, a->ip, ip, sizeof ip);
	text_add(t, a->kind == ADDRESS_UDP ? "udp:" : "tcp:");
	if (a->ipv6 && a->dual && form_is_wildcard(a))
		text_add(t, "*:%u", a->port);
	else
		text_add(t, a->ipv6 ? "[%s]:%u%s" : "%s:%u%s", ip, a->port,
		        a->ipv6 && form_is_wildcard(a) ? " (IPv6 only)" : "");
}

bool form_equal(const struct address *want, const struct address *have)
{
	if (want->ipv6 != have->ipv6 || want->port != have->port ||
	        memcmp(want->ip, have->ip, want->ipv6 ? 16 : 4) != 0)
		return false;
	if (form_is_wildcard(want))
		return !want->ipv6 || want->dual == have->dual;
	return want->scope_id == have->scope_id;
}

void form_copy(struct address *to, const struct address *form)
{
	to->ipv6 = form->ipv6;
	to->dual = form->dual;
	to->port = form->port;
	to->scope_id = form->scope_id;
	memcpy(to->ip, form->ip, sizeof to->ip);
}

void form_unmap(struct address *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (!a->ipv6 || memcmp(a->ip, mapped, sizeof mapped) != 0)
		return;
	a->ipv6 = a->dual = false;
	memmove(a->ip, a->ip + sizeof mapped, 4);
}

bool form_collides(const struct address *a, const struct address *b)
{
	struct address x = *a, y = *b;

	form_unmap(&x);
	form_unmap(&y);
	if (x.port != y.port)
		return false;
	if (x.ipv6 != y.ipv6) /* then only a wildcard of both kinds has the other's addresses */
		return (x.dual && form_is_wildcard(&x)) || (y.dual && form_is_wildcard(&y));
	return form_is_wildcard(&x) || form_is_wildcard(&y) ||
	       (!memcmp(x.ip, y.ip, x.ipv6 ? 16 : 4) && x.scope_id == y.scope_id);
}

bool form_allowed(const struct address *configured, const struct address *form)
{
	struct address plain = *form;

	if (configured->kind != ADDRESS_TCP || configured->port != form->port)
		return false;
	form_unmap(&plain);
	return (configured->dual && form_is_wildcard(configured)) ||
	       (!configured->ipv6 && form_equal(&plain, configured));
}

static uint64_t network_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t n = sizeof cookie;

	return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &n) < 0 ? 0 : cookie;
}

bool form_in_our_network(int fd)
{
	_cleanup_close_ int ours = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return ours < 0 || network_of(ours) == network_of(fd);
}
