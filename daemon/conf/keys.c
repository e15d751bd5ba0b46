/* SPDX-License-Identifier: MIT */
/* The table of keys, and finding one in it. Pure. */
#include "conf/keys.h"

#include <string.h>
#include <sys/resource.h>

static const char *const sockets_words[] = {
        [SOCKETS_AUTO] = "auto",
        [SOCKETS_PASS] = "pass",
        [SOCKETS_ADOPT] = "adopt",
        [SOCKETS_NONE] = "none",
        NULL,
};
static const char *const listen_pid_words[] = {
        [LISTEN_PID_CHILD] = "child",
        [LISTEN_PID_NONE] = "none",
        [LISTEN_PID_PARENT] = "parent",
        NULL,
};
static const char *const accept_words[] = {
        [ACCEPT_AUTO] = "auto",
        [ACCEPT_NON_BLOCKING] = "non-blocking",
        [ACCEPT_BLOCKING] = "blocking",
        NULL,
};
static const char *const drain_words[] = {
        [DRAIN_AUTO] = "auto",
        [DRAIN_IDLE] = "idle",
        [DRAIN_SIGNAL] = "signal",
        NULL,
};
static const char *const order_words[] = {
        [ROLLOUT_START_FIRST] = "start-first",
        [ROLLOUT_STOP_FIRST] = "stop-first",
        NULL,
};
static const char *const restart_words[] = {
        [RESTART_ALWAYS] = "always",
        [RESTART_NEVER] = "never",
        NULL,
};
/* In the order of the DIALECT_ bits. */
const char *const dialect_words[] = {
        "systemd",
        "server-starter",
        "einhorn",
        "nginx",
        "php-fpm",
        "unicorn",
        "puma",
        "stdin",
        NULL,
};

#define GLOBAL(member) offsetof(struct config, member)
#define DRAFT(member) offsetof(struct listener_draft, member)
#define SERVICE(member) offsetof(struct service_config, member)
#define LIMIT(word, resource, what)                                                                \
	{                                                                                          \
		.name = "limits." word, .option = "limits-" word, .value_name = "SOFT[:HARD]",     \
		.help = what, .type = KEY_LIMIT, .offset = resource                                \
	}

static const struct key global_keys[] = {
        {"environment", NULL, NULL, NULL, KEY_STRING, GLOBAL(environment), 0, 0, NULL},
        {"control-socket", "control-socket", "PATH", "where handoffctl reaches this handoffd",
                KEY_STRING, GLOBAL(control_socket), 0, 0, NULL},
        {"control-group", "control-group", "GROUP", "who may change things through it besides root",
                KEY_STRING, GLOBAL(control_group), 0, 0, NULL},
        {"control-read-group", "control-read-group", "GROUP",
                "who may look at things through it; others then may not", KEY_STRING,
                GLOBAL(control_read_group), 0, 0, NULL},
};

static const struct key listen_keys[] = {
        {"address", "listen", "[NAME=]ADDRESS", "receive there; may be given several times",
                KEY_ADDRESS, 0, 0, 0, NULL},
        {"backlog", NULL, NULL, NULL, KEY_NUMBER, DRAFT(backlog), 1, 1 << 20, NULL},
        {"mode", NULL, NULL, NULL, KEY_OCTAL, DRAFT(mode), 0, 0777, NULL},
        {"owner", NULL, NULL, NULL, KEY_STRING, DRAFT(owner), 0, 0, NULL},
        {"group", NULL, NULL, NULL, KEY_STRING, DRAFT(group), 0, 0, NULL},
};

#define YEAR (365 * 86400 * USEC_PER_SEC)

static const struct key service_keys[] = {
        {"command", NULL, NULL, NULL, KEY_COMMAND, SERVICE(command), 1, 0, NULL},
        {"directory", "directory", "DIR",
                "run the command there; links are resolved anew each time", KEY_STRING,
                SERVICE(directory), 0, 0, NULL},
        {"environ", "environ", "KEY=VALUE", "set in the command's environment", KEY_ENVIRON,
                SERVICE(environ), 0, 0, NULL},
        {"environment-file", "environment-file", "FILE", "lines of KEY=VALUE, read anew each time",
                KEY_LIST, SERVICE(environment_files), 0, 0, NULL},
        {"user", "user", "USER", "run the command as USER", KEY_STRING, SERVICE(user), 0, 0, NULL},
        {"group", "group", "GROUP", "run the command with GROUP", KEY_STRING, SERVICE(group), 0, 0,
                NULL},
        {"groups", "groups", "GROUP", "a supplementary group", KEY_LIST, SERVICE(groups), 0, 0,
                NULL},
        {"workers", "workers", "N", "processes of a generation (1)", KEY_NUMBER, SERVICE(workers),
                1, CONFIG_MAX_WORKERS, NULL},
        {"sockets", "sockets", "MODE", "auto, pass, adopt or none (auto)", KEY_WORD,
                SERVICE(sockets), 0, 0, sockets_words},
        {"dialect", "dialect", "DIALECT", "how the sockets are passed (systemd)", KEY_DIALECT,
                SERVICE(dialects), 0, 0, NULL},
        {"listen-pid", "listen-pid", "WHOSE", "LISTEN_PID: child, none or parent (child)", KEY_WORD,
                SERVICE(listen_pid), 0, 0, listen_pid_words},
        {"accept", "accept", "HOW", "passed sockets: auto, blocking or non-blocking (auto)",
                KEY_WORD, SERVICE(accept), 0, 0, accept_words},
        {"restart", "restart", "WHEN", "always or never (always)", KEY_WORD, SERVICE(restart), 0, 0,
                restart_words},
        {"watchdog", "watchdog", "DURATION",
                "a worker that does not say WATCHDOG=1 so often is replaced (off)", KEY_PAUSE,
                SERVICE(watchdog), 10 * USEC_PER_MSEC, YEAR, NULL},
        {"umask", "umask", "OCTAL", "file mode mask of the command", KEY_OCTAL, SERVICE(umask), 0,
                0777, NULL},
        {"nice", "nice", "N", "scheduling priority, -20 to 19", KEY_NICE, SERVICE(nice), 0, 0,
                NULL},
        {"capabilities", "capabilities", "CAPABILITY", "kept: net_bind_service ..., none or all",
                KEY_CAPABILITIES, SERVICE(capabilities), 0, 0, NULL},
        {"no-new-privileges", "no-new-privileges", "yes|no", "never gain privileges by exec (no)",
                KEY_BOOL, SERVICE(no_new_privileges), 0, 0, NULL},
        {"watch", "watch", "PATH", "reload when PATH changes", KEY_LIST, SERVICE(watch), 0, 0,
                NULL},
        {"watch-ignore", "watch-ignore", "PATTERN", "changes that are none", KEY_LIST,
                SERVICE(watch_ignore), 0, 0, NULL},
        {"watch-debounce", "watch-debounce", "DURATION", "quiet time before the reload (100ms)",
                KEY_DURATION, SERVICE(watch_debounce), 0, 60 * USEC_PER_SEC, NULL},
        {"watch-poll", "watch-poll", "DURATION",
                "look at all files so often, for network file systems (off)", KEY_PAUSE,
                SERVICE(watch_poll), 10 * USEC_PER_MSEC, YEAR, NULL},
        {"build", "build", "ARGUMENT", "command before each generation, an argument at a time",
                KEY_COMMAND, SERVICE(build), 0, 0, NULL},
        {"ready.by", "ready", "HOW",
                "auto, notify, accepting, listening, http:/path, exec:COMMAND, "
                "fd:N or after:TIME (auto)",
                KEY_READY, 0, 0, 0, NULL},
        {"ready.timeout", "ready-timeout", "DURATION",
                "a generation not ready by then failed (30s)", KEY_DURATION, SERVICE(ready.timeout),
                USEC_PER_MSEC, YEAR, NULL},
        {"drain.by", "drain", "HOW", "auto, idle or signal (auto)", KEY_WORD, SERVICE(drain.by), 0,
                0, drain_words},
        {"drain.signal", "drain-signal", "SIGNAL", "tells the command to finish (TERM)", KEY_SIGNAL,
                SERVICE(drain.signal), 0, 0, NULL},
        {"drain.idle-after", "drain-idle-after", "DURATION",
                "longer idle connections do not count (off)", KEY_PAUSE, SERVICE(drain.idle_after),
                USEC_PER_MSEC, USEC_INFINITY, NULL},
        {"drain.deadline", "drain-deadline", "DURATION",
                "a draining generation is stopped then (60s)", KEY_DURATION,
                SERVICE(drain.deadline), 0, USEC_INFINITY, NULL},
        {"drain.kill-after", "drain-kill-after", "DURATION", "from the deadline to SIGKILL (5s)",
                KEY_DURATION, SERVICE(drain.kill_after), 0, USEC_INFINITY, NULL},
        {"rollout.keep-warm", "keep-warm", "DURATION", "keep the old generation for a rollback (0)",
                KEY_DURATION, SERVICE(rollout.keep_warm), 0, USEC_INFINITY, NULL},
        {"rollout.bake", "bake", "DURATION", "a death within it rolls back (10s)", KEY_DURATION,
                SERVICE(rollout.bake), 0, USEC_INFINITY, NULL},
        {"rollout.canary", "canary", "SHARE", "first share of new connections, for example 5%",
                KEY_SHARE, SERVICE(rollout.canary), 0, 0, NULL},
        {"rollout.hold", "hold", "DURATION", "how long it stays (until promoted)", KEY_DURATION,
                SERVICE(rollout.hold), 0, USEC_INFINITY, NULL},
        {"rollout.max-old", "max-old", "N", "old generations that may drain at once (4)",
                KEY_NUMBER, SERVICE(rollout.max_old), 1, 12, NULL},
        {"rollout.max-old-memory", "max-old-memory", "SIZE", "and their memory together", KEY_SIZE,
                SERVICE(rollout.max_old_memory), 0, 0, NULL},
        {"rollout.step", "step", "N", "workers replaced at a time (0: all)", KEY_NUMBER,
                SERVICE(rollout.step), 0, CONFIG_MAX_WORKERS, NULL},
        {"rollout.sticky", "sticky", "yes|no", "choose the canary's clients by address (no)",
                KEY_BOOL, SERVICE(rollout.sticky), 0, 0, NULL},
        {"rollout.order", "order", "ORDER", "start-first or stop-first (start-first)", KEY_WORD,
                SERVICE(rollout.order), 0, 0, order_words},
        {"dev.hold", "dev-hold", "yes|no", "in development, connections wait for new code (yes)",
                KEY_BOOL, SERVICE(dev.hold), 0, 0, NULL},
        {"dev.live-reload", "live-reload", "PORT",
                "in development, pages in browsers reload when they listen there (0: off)",
                KEY_NUMBER, SERVICE(dev.live_reload), 0, 65535, NULL},
        LIMIT("as", RLIMIT_AS, "address space"),
        LIMIT("core", RLIMIT_CORE, "size of core files"),
        LIMIT("cpu", RLIMIT_CPU, "processor time in seconds"),
        LIMIT("data", RLIMIT_DATA, "data segment"),
        LIMIT("fsize", RLIMIT_FSIZE, "size of written files"),
        LIMIT("locks", RLIMIT_LOCKS, "file locks"),
        LIMIT("memlock", RLIMIT_MEMLOCK, "locked memory"),
        LIMIT("msgqueue", RLIMIT_MSGQUEUE, "POSIX message queues"),
        LIMIT("nice", RLIMIT_NICE, "ceiling of nice, as 20 - nice"),
        LIMIT("nofile", RLIMIT_NOFILE, "open descriptors"),
        LIMIT("nproc", RLIMIT_NPROC, "processes of the user"),
        LIMIT("rss", RLIMIT_RSS, "resident memory"),
        LIMIT("rtprio", RLIMIT_RTPRIO, "real-time priority"),
        LIMIT("rttime", RLIMIT_RTTIME, "real-time processor time in microseconds"),
        LIMIT("sigpending", RLIMIT_SIGPENDING, "queued signals"),
        LIMIT("stack", RLIMIT_STACK, "stack"),
};

const struct key *keys_of(enum raw_kind kind, size_t *ret_count)
{
	switch (kind) {
	case RAW_ROOT:
		*ret_count = ARRAY_SIZE(global_keys);
		return global_keys;
	case RAW_LISTEN:
		*ret_count = ARRAY_SIZE(listen_keys);
		return listen_keys;
	case RAW_SERVICE:
	case RAW_ENVIRONMENT:
		break;
	}
	*ret_count = ARRAY_SIZE(service_keys);
	return service_keys;
}

size_t key_section_length(const struct key *k)
{
	const char *dot = strchr(k->name, '.');

	return dot ? (size_t)(dot - k->name) : 0;
}

const char *key_leaf(const struct key *k)
{
	size_t n = key_section_length(k);

	return n ? k->name + n + 1 : k->name;
}

const struct key *key_find(enum raw_kind kind, const char *section, const char *name)
{
	const size_t length = section ? strlen(section) : 0;
	size_t n;
	const struct key *keys = keys_of(kind, &n);

	for (size_t i = 0; i < n; i++)
		if (key_section_length(&keys[i]) == length &&
		        (!length || !memcmp(keys[i].name, section, length)) &&
		        !strcmp(key_leaf(&keys[i]), name))
			return &keys[i];
	return NULL;
}

/* "drain-deadline" is also what "drain.deadline" is called when its option has a shorter name. */
static bool is_flattened(const char *option, const char *name)
{
	for (; *option && *name; option++, name++)
		if (*option != (*name == '.' ? '-' : *name))
			return false;
	return !*option && !*name;
}

const struct key *key_by_option(const char *option, enum raw_kind *ret_kind)
{
	static const enum raw_kind kinds[] = {RAW_LISTEN, RAW_SERVICE, RAW_ROOT};

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		size_t n;
		const struct key *keys = keys_of(kinds[k], &n);

		for (size_t i = 0; i < n; i++) {
			if (!keys[i].option)
				continue;
			if (strcmp(keys[i].option, option) != 0 &&
			        (kinds[k] != RAW_SERVICE || !is_flattened(option, keys[i].name)))
				continue;
			*ret_kind = kinds[k];
			return &keys[i];
		}
	}
	return NULL;
}

void nearest_try(struct nearest *n, const char *candidate)
{
	size_t length = strlen(n->word);
	unsigned limit = length < 3 ? 0 : length < 4 ? 1 : length < 10 ? 2 : 3;
	unsigned d = edit_distance(n->word, candidate, limit);

	if (d <= limit && (!n->best || d < n->distance)) {
		n->best = candidate;
		n->distance = d;
	}
}
