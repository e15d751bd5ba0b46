/* SPDX-License-Identifier: MIT */
/* Addresses as an operator writes them. No host names: a name that resolves differently at the next
 * reload would move a listener behind the operator's back. Reads nothing but the names of network
 * interfaces. */
#include "conf/load.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "conf/guard.h"

struct parse {
	struct config *arena;
	struct address a;
	char *why;
	size_t why_size;
};

static bool refuse(struct parse *p, const char *why)
{
	(void)copy_string(p->why, p->why_size, why);
	return false;
}

static bool keep_text(struct parse *p, const char *text)
{
	p->a.text = config_strdup(p->arena, text);
	return p->a.text ? true : refuse(p, "memory is short");
}

/* Keeps `path`, which stands at the end of the canonical text. */
static bool keep_path(struct parse *p, const char *prefix, const char *path)
{
	char text[300];
	int n = snprintf(text, sizeof text, "%s%s", prefix, path);

	if (n < 0 || (size_t)n >= sizeof text)
		return refuse(p, "the name is too long");
	if (!text_is_plain(path))
		return refuse(p, "control characters cannot be part of an address");
	if (!keep_text(p, text))
		return false;
	p->a.path = p->a.text + strlen(prefix);
	return true;
}

static bool parse_unix(struct parse *p, const char *path)
{
	const size_t max = sizeof((struct sockaddr_un *)NULL)->sun_path;
	size_t n = strlen(path);

	if (path[0] == '@') {
		if (n < 2 || n > max)
			return refuse(p, "an abstract name has 1 to 107 characters: unix:@name");
		p->a.kind = ADDRESS_ABSTRACT;
		return keep_path(p, "unix:@", path + 1);
	}
	if (path[0] != '/')
		return refuse(p, "the path of a UNIX socket must be absolute: unix:/run/x.sock");
	if (path[n - 1] == '/')
		return refuse(p, "the path of a UNIX socket must end with a file name");
	if (n >= max)
		return refuse(p, "the path of a UNIX socket has at most 107 characters");
	p->a.kind = ADDRESS_UNIX;
	return keep_path(p, "unix:", path);
}

static bool parse_systemd(struct parse *p, const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n > 255 || strchr(name, ':'))
		return refuse(p, "write the name of systemd's socket (FileDescriptorName=): "
		                 "systemd:NAME");
	p->a.kind = ADDRESS_SYSTEMD;
	return keep_path(p, "systemd:", name);
}

static bool parse_port(struct parse *p, const char *text)
{
	uint64_t port;

	if (!parse_number(text, UINT16_MAX, &port) || port == 0)
		return refuse(p, "the port must be a number from 1 to 65535");
	p->a.port = (uint16_t)port;
	return true;
}

static bool parse_scope(struct parse *p, const char *text)
{
	uint64_t n;

	if (!parse_number(text, UINT32_MAX, &n))
		n = if_nametoindex(text);
	if (n == 0)
		return refuse(p, "there is no network interface of this name");
	p->a.scope_id = (uint32_t)n;
	return true;
}

/* "[::1]:8080", "[fe80::1%eth0]:8080" */
static bool parse_ipv6(struct parse *p, const char *protocol, const char *text)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE + 2], scope[16] = "", whole[160], *percent;
	const char *end = strchr(text, ']');
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (!end || end[1] != ':' || (size_t)(end - text) >= sizeof host)
		return refuse(p, "an IPv6 address is written as [::1]:8080");
	memcpy(host, text + 1, (size_t)(end - text) - 1);
	host[end - text - 1] = '\0';
	percent = strchr(host, '%');
	if (percent) {
		*percent++ = '\0';
		if (!parse_scope(p, percent))
			return false;
		(void)snprintf(scope, sizeof scope, "%%%u", (unsigned)p->a.scope_id);
	}
	if (inet_pton(AF_INET6, host, p->a.ip) != 1)
		return refuse(p, "this is not an IPv6 address; write for example [::1]:8080");
	if (!memcmp(p->a.ip, mapped, sizeof mapped))
		return refuse(p, "write an IPv4 address without ::ffff:, for example "
		                 "127.0.0.1:8080");
	if (p->a.scope_id && !(p->a.ip[0] == 0xfe && (p->a.ip[1] & 0xc0) == 0x80))
		return refuse(p, "only a link-local address (fe80::) takes an interface");
	if (!p->a.scope_id && p->a.ip[0] == 0xfe && (p->a.ip[1] & 0xc0) == 0x80)
		return refuse(p, "a link-local address needs its interface: [fe80::1%eth0]:8080");
	if (!parse_port(p, end + 2))
		return false;
	p->a.ipv6 = true;
	p->a.dual = !memcmp(p->a.ip, (uint8_t[16]){0}, 16);
	(void)inet_ntop(AF_INET6, p->a.ip, host, sizeof host);
	(void)snprintf(whole, sizeof whole, "%s:[%s%s]:%u", protocol, host, scope, p->a.port);
	return keep_text(p, whole);
}

static bool parse_ip(struct parse *p, const char *protocol, const char *text)
{
	const char *colon = strrchr(text, ':'), *port = colon ? colon + 1 : text;
	size_t n = colon ? (size_t)(colon - text) : 0;
	char host[INET_ADDRSTRLEN], whole[64];

	p->a.kind = protocol[0] == 'u' ? ADDRESS_UDP : ADDRESS_TCP;
	if (text[0] == '[')
		return parse_ipv6(p, protocol, text);
	if (!colon && (!*text || strspn(text, "0123456789") != strlen(text)))
		return refuse(p, "write a port, an IP address with a port, or unix:/path");
	if (colon && memchr(text, ':', n))
		return refuse(p, "an IPv6 address is written as [::1]:8080");
	if (colon && (n == 0 || n >= sizeof host))
		return refuse(p, n ? "use an IP address, not a host name"
		                   : "a port for every local address is written as 8080 or *:8080");
	memcpy(host, text, n);
	host[n] = '\0';
	if (n && strcmp(host, "*") != 0) {
		if (inet_pton(AF_INET, host, p->a.ip) != 1)
			return refuse(p, strspn(host, "0123456789.") == n
			                         ? "this is not an IPv4 address"
			                         : "use an IP address, not a host name");
	} else {
		/* Both families by one socket; sockets/ takes IPv4 alone where there is no IPv6. */
		p->a.ipv6 = p->a.dual = true;
		(void)copy_string(host, sizeof host, "*");
	}
	if (!parse_port(p, port))
		return false;
	(void)snprintf(whole, sizeof whole, "%s:%s:%u", protocol, host, p->a.port);
	return keep_text(p, whole);
}

bool parse_address(struct config *arena, const char *text, bool udp, struct address *ret, char *why,
        size_t why_size)
{
	struct parse p = {.arena = arena, .why = why, .why_size = why_size};
	bool good;

	why[0] = '\0';
	if (text[0] == '/')
		good = parse_unix(&p, text);
	else if (!strncmp(text, "unix:", 5))
		good = parse_unix(&p, text + 5);
	else if (!strncmp(text, "systemd:", 8))
		good = parse_systemd(&p, text + 8);
	else if (!strncmp(text, "tcp:", 4))
		good = parse_ip(&p, "tcp", text + 4);
	else if (!strncmp(text, "udp:", 4))
		good = parse_ip(&p, "udp", text + 4);
	else
		good = parse_ip(&p, udp ? "udp" : "tcp", text);
	if (good)
		*ret = p.a;
	return good;
}
