/* SPDX-License-Identifier: MIT */
/* The validated configuration as the core and the shell read it: immutable once made, counted by
 * references, all strings and arrays in one arena of its own. The text it came from is the business
 * of conf/; here is only what it means.
 *
 * Every string may be kept as long as a reference to the config is held. Lists end with their
 * count, and the string lists also with a NULL, so that they can be passed to execve(2). */
#ifndef CORE_CONFIG_H
#define CORE_CONFIG_H

#include "core/base.h"

#define CONFIG_MAX_SERVICES 4096
#define CONFIG_MAX_LISTENERS 64 /* of one service, counted by address */
#define CONFIG_MAX_WORKERS 1024
#define CONFIG_MAX_NAME 64 /* with the final NUL */

enum address_kind {
	ADDRESS_TCP,
	ADDRESS_UDP,
	ADDRESS_UNIX,     /* stream, by path */
	ADDRESS_ABSTRACT, /* stream, abstract name */
	ADDRESS_SYSTEMD,  /* a descriptor that systemd passed, by its name (LISTEN_FDNAMES) */
};

struct address {
	enum address_kind kind;
	bool ipv6;
	bool dual;         /* ipv6 only: takes IPv4 as well (IPV6_V6ONLY off) */
	uint8_t ip[16];    /* network order; IPv4 in the first four */
	uint32_t scope_id; /* interface of a link-local IPv6 address, or 0 */
	uint16_t port;     /* host order */
	const char *path;  /* path, abstract name without its NUL, or systemd's name; else NULL */
	const char *text;  /* canonical: "tcp:0.0.0.0:8080", "tcp:[::]:8080", "unix:/run/x.sock",
	                      "unix:@name", "udp:127.0.0.1:53", "systemd:http" */
};

struct string_list {
	const char **items; /* items[count] is NULL */
	size_t count;
};

/* Where a setting was written; file is NULL for a default and "command line" for an option. */
struct origin {
	const char *file;
	int line;
};

#define DEFAULT_MODE 0666 /* of a UNIX socket */
struct listener_config {
	const char *name; /* several addresses of one listener have the same name */
	struct address address;
	int backlog;
	uint32_t mode;     /* of a UNIX socket's inode */
	const char *owner; /* user and group of the inode; NULL: handoffd's own */
	const char *group;
	struct origin origin;
};

enum sockets_mode { SOCKETS_AUTO, SOCKETS_PASS, SOCKETS_ADOPT, SOCKETS_NONE };

/* Bits of service_config.dialects. */
enum {
	DIALECT_SYSTEMD = 1 << 0,
	DIALECT_SERVER_STARTER = 1 << 1,
	DIALECT_EINHORN = 1 << 2,
	DIALECT_NGINX = 1 << 3,
	DIALECT_PHP_FPM = 1 << 4,
	DIALECT_UNICORN = 1 << 5,
	DIALECT_PUMA = 1 << 6,
	DIALECT_STDIN = 1 << 7,
};

enum listen_pid { LISTEN_PID_CHILD, LISTEN_PID_NONE, LISTEN_PID_PARENT };
enum accept_mode { ACCEPT_AUTO, ACCEPT_NON_BLOCKING, ACCEPT_BLOCKING };

enum ready_by {
	READY_AUTO,
	READY_NOTIFY,
	READY_ACCEPTING,
	READY_LISTENING,
	READY_HTTP,
	READY_EXEC,
	READY_FD,
	READY_AFTER,
};

struct ready_config {
	enum ready_by by;
	const char *argument; /* path of http:, command of exec:; else NULL */
	int fd;               /* of fd:N; else -1 */
	usec_t after;         /* of after: */
	usec_t timeout;
};

enum drain_by { DRAIN_AUTO, DRAIN_IDLE, DRAIN_SIGNAL };

struct drain_config {
	enum drain_by by;
	int signal;
	usec_t idle_after; /* USEC_INFINITY: off */
	usec_t deadline;   /* may be infinite */
	usec_t kill_after; /* may be infinite */
};

enum rollout_order { ROLLOUT_START_FIRST, ROLLOUT_STOP_FIRST };

struct rollout_config {
	unsigned max_old;
	uint64_t max_old_memory; /* bytes; 0: no limit */
	usec_t bake;
	usec_t keep_warm;
	unsigned canary; /* of SHARE_ALL; 0: none */
	bool sticky;     /* canary by client address instead of at random */
	usec_t hold;     /* infinite: until somebody decides */
	unsigned step;   /* workers replaced at a time; 0: all */
	enum rollout_order order;
};

/* In development mode only. */
struct dev_config {
	bool hold; /* new connections wait for the new code, as soon as it is built or started */
	unsigned live_reload; /* port where pages in browsers listen; 0: none */
};

enum restart_policy { RESTART_ALWAYS, RESTART_NEVER };

struct limit_config {
	int resource;        /* RLIMIT_* */
	uint64_t soft, hard; /* UINT64_MAX: unlimited */
};

/* Keys of a service whose origin is kept, for messages and for `config show`. */
struct key_origin {
	const char *key; /* "drain.deadline" */
	struct origin origin;
};

struct service_config {
	const char *name;
	struct string_list command;
	const char *directory;      /* as written, links not resolved; NULL: handoffd's own */
	struct string_list environ; /* KEY=VALUE */
	struct string_list environment_files;
	const char *user, *group; /* NULL: handoffd's own */
	struct string_list groups;
	unsigned workers;
	struct listener_config *listeners; /* one an address */
	size_t n_listeners;
	enum sockets_mode sockets;
	unsigned dialects;
	enum listen_pid listen_pid;
	enum accept_mode accept;
	struct ready_config ready;
	struct drain_config drain;
	struct rollout_config rollout;
	enum restart_policy restart;
	usec_t watchdog; /* USEC_INFINITY: off */
	struct limit_config *limits;
	size_t n_limits;
	int umask; /* -1: as handoffd's */
	int nice;
	bool nice_set;
	const char *capabilities; /* "all", "none", "chown,kill"; NULL: the usual ones */
	bool no_new_privileges;
	struct string_list watch, watch_ignore;
	usec_t watch_debounce;
	usec_t watch_poll; /* USEC_INFINITY: only where nothing else works */
	struct string_list build;
	struct dev_config dev;
	struct key_origin *origins;
	size_t n_origins;
	struct origin origin; /* of the block itself */
};

struct config {
	unsigned refs;
	void *arena;      /* owned; see config_alloc() */
	const char *file; /* NULL: from the command line */
	const char *environment;
	const char *control_socket;
	const char *control_group; /* may change things through the control socket; NULL: none */
	const char *control_read_group; /* may look; NULL: whom the socket file lets in */
	struct origin *global_origins;
	size_t n_global_origins;
	struct service_config *services; /* in the order written; names are unique */
	size_t n_services;
};

/* An empty configuration with one reference; NULL when memory is short. */
struct config *config_new(void);
struct config *config_ref(struct config *c);
/* Drops a reference, frees with the last; accepts NULL and returns NULL. */
struct config *config_unref(struct config *c);
void config_unrefp(struct config **c);

/* Zeroed memory, or a copied string, that lives as long as the config; NULL when memory is short.
 */
void *config_alloc(struct config *c, size_t size);
char *config_strdup(struct config *c, const char *s);

/* Every default of SPEC section 4 (all but name and command). */
void service_config_defaults(struct service_config *s);

const struct service_config *config_find(const struct config *c, const char *name);
/* The same, but looks at number `at` first and at those behind it next: who walks through a list in
 * the same order finds each at once. */
const struct service_config *config_find_from(const struct config *c, const char *name, size_t at);

/* Same program, process settings and policy? (listeners are compared apart, by address_equal()) */
bool address_equal(const struct address *a, const struct address *b);

const char *ready_by_to_string(enum ready_by by);
/* Does accept(2) wait on the sockets that the service is given? */
bool config_accept_blocks(const struct service_config *s);
const char *sockets_mode_to_string(enum sockets_mode m);

#endif
