/* SPDX-License-Identifier: MIT */
#include "process/dialect.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The longest list: every socket with a UNIX path or an IPv6 address. */
#define LIST_BYTES (CONFIG_MAX_LISTENERS * 160)

static int fd_number(size_t i)
{
	return DIALECT_FIRST_FD + (int)i;
}

int dialect_einhorn_fd(size_t n_fds)
{
	return fd_number(n_fds);
}

/* "127.0.0.1:80", "[::1]:80" (bare: "::1:80"), "/run/x.sock", "@abstract"; false if the address is
 * not known. */
static bool address_add(struct text *t, const struct address *a, bool bare)
{
	char ip[INET6_ADDRSTRLEN];

	switch (a->kind) {
	case ADDRESS_TCP:
	case ADDRESS_UDP:
		if (!inet_ntop(a->ipv6 ? AF_INET6 : AF_INET, a->ip, ip, sizeof ip))
			return false;
		if (a->ipv6 && a->scope_id && !bare)
			text_add(t, "[%s%%%u]:%u", ip, a->scope_id, a->port);
		else
			text_add(t, a->ipv6 && !bare ? "[%s]:%u" : "%s:%u", ip, a->port);
		return true;
	case ADDRESS_UNIX:
		text_add(t, "%s", a->path);
		return true;
	case ADDRESS_ABSTRACT:
		text_add(t, "@%s", a->path);
		return true;
	case ADDRESS_SYSTEMD:
		break;
	}
	return false;
}

static void set_list(struct environment *e, const char *key, const struct text *t)
{
	if (t->cut)
		e->failed = -E2BIG;
	else if (t->len)
		environment_set(e, key, "%s", t->p);
}

static void add_systemd(struct environment *e, const struct dialect_input *in)
{
	char buffer[CONFIG_MAX_LISTENERS * CONFIG_MAX_NAME];
	struct text names = TEXT_ON(buffer);

	for (size_t i = 0; i < in->n_fds; i++)
		text_add(&names, "%s%s", i ? ":" : "", in->fds[i].name);
	environment_set(e, "LISTEN_FDS", "%zu", in->n_fds);
	set_list(e, "LISTEN_FDNAMES", &names);
	switch (in->listen_pid) {
	case LISTEN_PID_CHILD:
		environment_set(e, "LISTEN_PID", "0000000000");
		break;
	case LISTEN_PID_PARENT:
		environment_set(e, "LISTEN_PID", "parent:0000000000");
		break;
	case LISTEN_PID_NONE:
		environment_unset(e, "LISTEN_PID");
		break;
	}
}

/* "address=fd" joined by `separator`. */
static void add_pairs(struct environment *e, const struct dialect_input *in, const char *key,
        const char *separator, bool bare)
{
	char buffer[LIST_BYTES];
	struct text t = TEXT_ON(buffer);

	for (size_t i = 0; i < in->n_fds; i++) {
		if (in->fds[i].address->kind == ADDRESS_SYSTEMD)
			continue;
		text_add(&t, "%s", t.len ? separator : "");
		if (address_add(&t, in->fds[i].address, bare))
			text_add(&t, "=%d", fd_number(i));
	}
	set_list(e, key, &t);
}

static void add_server_starter(struct environment *e, const struct dialect_input *in)
{
	add_pairs(e, in, "SERVER_STARTER_PORT", ";", false);
	environment_set(e, "SERVER_STARTER_GENERATION", "%u", in->generation);
}

static void add_php_fpm(struct environment *e, const struct dialect_input *in)
{
	/* PHP-FPM makes its key by inet_ntop(3), whatever its configuration says */
	add_pairs(e, in, "FPM_SOCKETS", ",", true);
}

/* Numbers, each preceded or followed by a separator. */
static void add_numbers(struct environment *e, const struct dialect_input *in, const char *key,
        const char *before, const char *after)
{
	char buffer[CONFIG_MAX_LISTENERS * 8];
	struct text t = TEXT_ON(buffer);

	for (size_t i = 0; i < in->n_fds; i++)
		text_add(&t, "%s%d%s", i ? before : "", fd_number(i), after);
	set_list(e, key, &t);
}

static void add_nginx(struct environment *e, const struct dialect_input *in)
{
	/* nginx ignores a number that no separator follows. */
	add_numbers(e, in, "NGINX", "", ";");
}

static void add_unicorn(struct environment *e, const struct dialect_input *in)
{
	add_numbers(e, in, "UNICORN_FD", ",", "");
}

static void add_einhorn(struct environment *e, const struct dialect_input *in)
{
	char key[32];

	environment_set(e, "EINHORN_MASTER_PID", "%ld", (long)in->parent);
	environment_set(e, "EINHORN_SOCK_PATH", "/proc/self/fd/%d", dialect_einhorn_fd(in->n_fds));
	environment_set(e, "EINHORN_CHILD_INDEX", "%u", in->worker);
	environment_set(e, "EINHORN_FD_COUNT", "%zu", in->n_fds);
	for (size_t i = 0; i < in->n_fds; i++) {
		(void)snprintf(key, sizeof key, "EINHORN_FD_%zu", i);
		environment_set(e, key, "%d", fd_number(i));
	}
	add_numbers(e, in, "EINHORN_FDS", " ", ""); /* the old form */
}

static void add_puma(struct environment *e, const struct dialect_input *in)
{
	char key[32], buffer[256];
	unsigned n = 0;

	for (size_t i = 0; i < in->n_fds; i++) {
		const struct address *a = in->fds[i].address;
		struct text t = TEXT_ON(buffer);

		if (a->kind == ADDRESS_UDP || a->kind == ADDRESS_SYSTEMD)
			continue;
		text_add(&t, "%d:%s://", fd_number(i), a->kind == ADDRESS_TCP ? "tcp" : "unix");
		(void)address_add(&t, a, false);
		(void)snprintf(key, sizeof key, "PUMA_INHERIT_%u", n++);
		set_list(e, key, &t);
	}
}

/* The stdin dialect has no variable: it is a matter of the descriptor map. */
static const struct {
	unsigned bit;
	void (*add)(struct environment *e, const struct dialect_input *in);
} dialects_table[] = {
        {DIALECT_SYSTEMD, add_systemd},
        {DIALECT_SERVER_STARTER, add_server_starter},
        {DIALECT_EINHORN, add_einhorn},
        {DIALECT_NGINX, add_nginx},
        {DIALECT_PHP_FPM, add_php_fpm},
        {DIALECT_UNICORN, add_unicorn},
        {DIALECT_PUMA, add_puma},
};

void dialect_add(struct environment *e, unsigned dialects, const struct dialect_input *in)
{
	if (in->n_fds == 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(dialects_table); i++) {
		if (dialects & dialects_table[i].bit)
			dialects_table[i].add(e, in);
	}
}

char *dialect_pid(const struct environment *e, unsigned dialects, const struct dialect_input *in)
{
	char *value =
	        in->n_fds && (dialects & DIALECT_SYSTEMD) ? environment_get(e, "LISTEN_PID") : NULL;

	if (!value || in->listen_pid == LISTEN_PID_NONE)
		return NULL;
	return value + (in->listen_pid == LISTEN_PID_PARENT ? strlen("parent:") : 0);
}

static void make_key(char *to, size_t size, const char *name)
{
	struct text t = {.p = to, .size = size};

	to[0] = '\0';
	text_add(&t, "HANDOFF_FD_");
	for (; *name; name++) {
		char c = *name;

		if (c >= 'a' && c <= 'z')
			c = (char)(c - 'a' + 'A');
		else if (!(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9'))
			c = '_';
		text_add_bytes(&t, &c, 1);
	}
}

void dialect_add_handoff(struct environment *e, const struct dialect_input *in)
{
	for (size_t i = 0; i < in->n_fds; i++) {
		char key[CONFIG_MAX_NAME + 32], other[CONFIG_MAX_NAME + 32];
		unsigned nth = 1;

		make_key(key, CONFIG_MAX_NAME + 16, in->fds[i].name);
		for (size_t k = 0; k < i; k++) {
			make_key(other, CONFIG_MAX_NAME + 16, in->fds[k].name);
			nth += strcmp(key, other) == 0;
		}
		if (nth > 1)
			(void)snprintf(key + strlen(key), 16, "_%u", nth);
		environment_set(e, key, "%d", fd_number(i));
	}
}

int dialect_find(const struct dialect_input *in, const char *name, unsigned nth)
{
	for (size_t i = 0; i < in->n_fds; i++) {
		if (strcmp(in->fds[i].name, name) == 0 && --nth == 0)
			return fd_number(i);
	}
	return -1;
}
