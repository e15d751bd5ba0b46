/* SPDX-License-Identifier: MIT */
#include "process/assemble.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "process/dialect.h"
#include "process/substitute.h"

/* What the dialects are told about the sockets. Those that came from systemd have a name as their
 * address; here is where they are really bound. */
struct sockets {
	struct dialect_fd fds[CONFIG_MAX_LISTENERS];
	struct address addresses[CONFIG_MAX_LISTENERS];
	char paths[CONFIG_MAX_LISTENERS][sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];
	struct dialect_input input;
};

static bool real_address(int fd, struct address *a, char *path, size_t size)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	} s = {0};
	socklen_t length = sizeof s, type_length = sizeof(int);
	int type = 0;

	if (getsockname(fd, &s.any, &length) < 0 ||
	        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_length) < 0)
		return false;
	a->kind = type == SOCK_DGRAM ? ADDRESS_UDP : ADDRESS_TCP;
	switch (s.any.sa_family) {
	case AF_INET:
		memcpy(a->ip, &s.in.sin_addr, sizeof s.in.sin_addr);
		a->port = ntohs(s.in.sin_port);
		return true;
	case AF_INET6:
		a->ipv6 = true;
		memcpy(a->ip, &s.in6.sin6_addr, sizeof s.in6.sin6_addr);
		a->scope_id = s.in6.sin6_scope_id;
		a->port = ntohs(s.in6.sin6_port);
		return true;
	case AF_UNIX:
		if (length <= offsetof(struct sockaddr_un, sun_path) + 1)
			return false;
		length -= (socklen_t)offsetof(struct sockaddr_un, sun_path);
		a->kind = s.un.sun_path[0] ? ADDRESS_UNIX : ADDRESS_ABSTRACT;
		if (a->kind == ADDRESS_ABSTRACT)
			memmove(s.un.sun_path, s.un.sun_path + 1, --length);
		HO_ASSERT(length < size);
		memcpy(path, s.un.sun_path, length);
		path[length] = '\0';
		a->path = path;
		return true;
	default:
		return false;
	}
}

static void describe_sockets(const struct process_spec *spec, struct sockets *s)
{
	const struct release *r = spec->release;

	for (size_t i = 0; i < spec->n_fds; i++) {
		const struct passed_fd *f = &spec->fds[i];

		s->addresses[i] = (struct address){.kind = ADDRESS_SYSTEMD};
		s->fds[i] = (struct dialect_fd){.name = f->name, .address = f->address};
		if (f->address->kind == ADDRESS_SYSTEMD &&
		        real_address(f->fd, &s->addresses[i], s->paths[i], sizeof s->paths[i]))
			s->fds[i].address = &s->addresses[i];
	}
	s->input = (struct dialect_input){.fds = s->fds,
	        .n_fds = spec->n_fds,
	        .generation = r->generation,
	        .worker = spec->worker,
	        .parent = getpid(),
	        .listen_pid = r->service->listen_pid};
}

/* The variables of the service's own: those of its files as they are, those of `environ` filled in.
 */
static int add_own(struct environment *e, const struct release *r, const struct substitution *s,
        struct ho_error *reterr)
{
	for (char **item = r->environ; *item; item++)
		environment_put(e, *item);
	for (size_t i = 0; i < r->service->environ.count; i++) {
		_cleanup_free_ char *filled = NULL;
		int result = substitute(r->service->environ.items[i], s, &filled, reterr);

		if (result < 0)
			return result;
		environment_put(e, filled);
	}
	return 0;
}

/* handoffd's own place says nothing about the worker's. */
static void add_place(struct environment *e, const struct release *r)
{
	environment_unset(e, "OLDPWD");
	if (r->directory)
		environment_set(e, "PWD", "%s", r->directory);
}

static void add_user(struct environment *e, const struct credentials *c)
{
	if (!c->name)
		return;
	environment_set(e, "HOME", "%s", c->home);
	environment_set(e, "SHELL", "%s", c->shell);
	environment_set(e, "USER", "%s", c->name);
	environment_set(e, "LOGNAME", "%s", c->name);
}

/* Is it the worker's own process that has to say it is alive, and not a child of it? */
static bool asks_worker(const struct service_config *service)
{
	return service->watchdog != USEC_INFINITY && service->listen_pid == LISTEN_PID_CHILD;
}

static void add_watchdog(struct environment *e, const struct service_config *service)
{
	if (service->watchdog == USEC_INFINITY)
		return;
	environment_set(e, "WATCHDOG_USEC", "%llu", (unsigned long long)service->watchdog);
	if (asks_worker(service))
		environment_set(e, "WATCHDOG_PID", "0000000000");
	else
		environment_unset(e, "WATCHDOG_PID");
}

static int make_environment(const struct process_spec *spec, const char *notify_socket,
        const struct substitution *s, struct assembly *a, struct ho_error *reterr)
{
	const struct release *r = spec->release;
	struct environment *e = &a->environment;
	int result;

	environment_inherit(e, environ, spec->capture);
	add_place(e, r);
	add_user(e, &a->credentials);
	result = add_own(e, r, s, reterr);
	if (result < 0)
		return result;
	dialect_add(e, r->service->dialects, s->input);
	dialect_add_handoff(e, s->input);
	environment_set(e, "HANDOFF_SERVICE", "%s", r->service->name);
	environment_set(e, "HANDOFF_GENERATION", "%u", r->generation);
	environment_set(e, "HANDOFF_WORKER", "%u", spec->worker);
	environment_set(e, "HANDOFF_ENVIRONMENT", "%s", r->environment_name);
	if (r->directory)
		environment_set(e, "HANDOFF_RELEASE", "%s", r->directory);
	if (r->previous)
		environment_set(e, "HANDOFF_PREVIOUS", "%u", r->previous);
	if (r->previous_release)
		environment_set(e, "HANDOFF_PREVIOUS_RELEASE", "%s", r->previous_release);
	environment_set(e, "NOTIFY_SOCKET", "%s", notify_socket);
	add_watchdog(e, r->service);
	if (e->failed)
		return ho_error_set(reterr, e->failed,
		        "cannot build the environment of service \"%s\": %s", r->service->name,
		        e->failed == -E2BIG ? "it is too large" : "no memory");
	a->listen_pid = dialect_pid(e, r->service->dialects, s->input);
	if (asks_worker(r->service))
		a->watchdog_pid = environment_get(e, "WATCHDOG_PID");
	return 0;
}

static int make_command(const struct service_config *service, const struct string_list *command,
        const struct substitution *s, struct assembly *a, struct ho_error *reterr)
{
	a->argv = calloc(command->count + 1, sizeof *a->argv);
	if (!a->argv)
		return ho_error_set(reterr, -ENOMEM, "no memory for the command of service \"%s\"",
		        service->name);
	for (size_t i = 0; i < command->count; i++) {
		int result = substitute(command->items[i], s, &a->argv[i], reterr);

		if (result < 0)
			return result;
	}
	return 0;
}

int assembly_make(const struct process_spec *spec, const char *notify_socket, struct assembly *ret,
        struct ho_error *reterr)
{
	const struct service_config *service = spec->release->service;
	struct assembly a = {0};
	struct sockets *sockets;
	struct substitution s;
	int result;

	if (spec->n_fds > CONFIG_MAX_LISTENERS)
		return ho_error_set(reterr, -E2BIG, "service \"%s\" has more than %d sockets",
		        service->name, CONFIG_MAX_LISTENERS);
	sockets = calloc(1, sizeof *sockets);
	if (!sockets)
		return ho_error_set(
		        reterr, -ENOMEM, "no memory for a worker of service \"%s\"", service->name);
	describe_sockets(spec, sockets);
	s = (struct substitution){.service = service->name,
	        .environment = spec->release->environment_name,
	        .generation = spec->release->generation,
	        .input = &sockets->input,
	        .release = spec->release->directory};
	result = credentials_find(service, &a.credentials, reterr);
	if (result == 0)
		result = make_environment(spec, notify_socket, &s, &a, reterr);
	if (result == 0)
		result = make_command(
		        service, spec->command ? spec->command : &service->command, &s, &a, reterr);
	free(sockets);
	if (result < 0)
		assembly_done(&a);
	else
		*ret = a;
	return result;
}

void assembly_done(struct assembly *a)
{
	for (size_t i = 0; a->argv && a->argv[i]; i++)
		free(a->argv[i]);
	free(a->argv);
	environment_done(&a->environment);
	credentials_done(&a->credentials);
	*a = (struct assembly){0};
}

int assembly_beside(
        const struct assembly *a, pid_t worker, struct environment *ret, struct ho_error *reterr)
{
	struct environment e = {0};

	for (size_t i = 0; i < a->environment.count; i++)
		environment_put(&e, a->environment.items[i]);
	environment_unset(&e, "LISTEN_FDS");
	environment_unset(&e, "LISTEN_FDNAMES");
	environment_unset(&e, "LISTEN_PID");
	environment_unset(&e, "NOTIFY_SOCKET");
	environment_unset(&e, "WATCHDOG_USEC");
	environment_unset(&e, "WATCHDOG_PID");
	environment_set(&e, "MAINPID", "%ld", (long)worker);
	if (e.failed) {
		environment_done(&e);
		return ho_error_set(reterr, -ENOMEM, "no memory for an environment");
	}
	*ret = e;
	return 0;
}
