/* SPDX-License-Identifier: MIT */
/* Worker processes: started with exactly what they should have, watched, spoken to, ended.
 *
 * A process gets descriptors 0-2, its sockets from 3 on and nothing else; its environment is built
 * from the configuration alone (never from variables meant for handoffd). Its end is seen through a
 * pidfd. It runs in a session of its own, so that what it leaves behind can be found and ended. */
#ifndef PROCESS_PROCESS_H
#define PROCESS_PROCESS_H

#include <limits.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "core/base.h"
#include "core/config.h"
#include "process/cgroup.h"

struct ev_loop;
struct processes; /* all of them, and what they share */
struct process;   /* one worker */

/* How a process ended, as waitid(2) tells it: never folded into one number. */
struct exit_info {
	int code;   /* CLD_EXITED, CLD_KILLED or CLD_DUMPED; 0: unknown (not our child) */
	int status; /* exit status or signal */
};

enum notify_kind {
	NOTIFY_READY,            /* READY=1 */
	NOTIFY_STOPPING,         /* STOPPING=1 */
	NOTIFY_STATUS,           /* STATUS=text */
	NOTIFY_ERRNO,            /* ERRNO=number */
	NOTIFY_EXTEND,           /* EXTEND_TIMEOUT_USEC=number */
	NOTIFY_WATCHDOG,         /* WATCHDOG=1 */
	NOTIFY_WATCHDOG_TRIGGER, /* WATCHDOG=trigger */
	NOTIFY_RELOADING,        /* RELOADING=1 */
	NOTIFY_READY_FD,         /* newline on the descriptor of ready.by = fd:N */
	NOTIFY_EXEC_READY,       /* the command of ready.by = exec: succeeded */
	NOTIFY_MAINPID_IGNORED,  /* MAINPID=number */
	NOTIFY_FDNAME,   /* FDNAME=text: belongs to the next two, is not delivered by itself */
	NOTIFY_FDSTORE,  /* FDSTORE=1: keep `fd` as `text`; once for each descriptor */
	NOTIFY_FDREMOVE, /* FDSTOREREMOVE=1: forget what is kept as `text` */
	NOTIFY_HELLO,    /* libhandoff's channel has changed: `number` is an enum channel_state */
	NOTIFY_DRAINS,   /* of libhandoff; is not delivered by itself */
	NOTIFY_KEEP,     /* HANDOFF_KEEP=layout: memory `text` of this layout is wanted */
	NOTIFY_FETCH,    /* HANDOFF_FETCH=1: what is kept as `text` is wanted */
	NOTIFY_LIVE,     /* HANDOFF_LIVE=text: live connections can be passed, or taken */
};
struct notify_message {
	enum notify_kind kind;
	uint64_t number;    /* of ERRNO, EXTEND (microseconds), MAINPID, HELLO */
	const char *text;   /* of STATUS, valid UTF-8 without control characters; of FDSTORE,
	                     * FDREMOVE, KEEP and FETCH, a valid name; else NULL */
	int fd;             /* borrowed, closed after the call: of FDSTORE; of KEEP and FETCH, a
	                     * socket to answer on; of LIVE, the door; else -1 */
	int candidate;      /* of KEEP, borrowed: to be kept if there is none yet */
	const char *layout; /* of KEEP, a valid name */
	int page_fd;        /* for those inside of this room; else -1 */
};

/* The private channel of a worker that uses libhandoff. */
enum channel_state {
	CHANNEL_NONE,
	CHANNEL_OPEN,   /* it can be told which generation serves */
	CHANNEL_DRAINS, /* and to drain */
};

/* What it counts; doubtful, as it is the worker's own word. */
struct worker_counts {
	uint64_t connections, busy, requests, served;
};

/* Where a path of the caller ends. */
struct socket_path {
	int directory; /* O_PATH */
	char name[NAME_MAX + 1];
};
/* What a file that the caller makes would be like. */
struct socket_maker {
	uid_t uid;
	gid_t gid;
	mode_t umask;
};

enum socket_call_kind { CALL_BIND, CALL_LISTEN, CALL_UNLINK, CALL_CONNECT };
/* A call that a process of the worker is about to make on a stream socket, TCP or UNIX; where the
 * service has a UNIX listener also unlink(2) of any path. */
struct socket_call {
	enum socket_call_kind kind;
	int fd;       /* the socket itself, borrowed; negative errno if it could not be had; UNLINK
	               * and CONNECT: not looked for, -1 */
	pid_t caller; /* a thread */
	int theirs;   /* the caller's number of the socket */
	/* BIND: IPv4 or IPv6 with a port, a UNIX path or an abstract name; CONNECT: UNIX only */
	struct sockaddr_storage address;
	socklen_t length;
	const struct socket_path *path; /* of a UNIX path; else NULL */
	struct socket_maker maker;      /* BIND to a UNIX path */
	int backlog;                    /* LISTEN */
	/* BIND: a descriptor of ours, borrowed, that is to take the place of the caller's before 0
	 * is answered; -1 (as it comes): none. */
	int *give;
};
/* Returns 0 or negative errno if that is the answer, because the call was made or refused here; 1
 * to let it be made as if nobody had been asked. */
typedef int (*socket_asked)(void *data, const struct socket_call *call);

struct process_handlers {
	void (*exited)(void *data, struct process *p, struct exit_info how);
	void (*notified)(void *data, struct process *p, const struct notify_message *m);
	/* One whole line of output (without the newline), or a part of a very long one. May be
	 * NULL. */
	void (*output)(
	        void *data, struct process *p, bool is_stderr, const char *line, size_t length);
	void *data;
	/* See socket_asked; NULL where no process is started with `adopt`. */
	int (*asked)(void *data, struct process *p, const struct socket_call *call);
};

/* Becomes child subreaper, blocks nothing, installs no SIGCHLD handler of its own: the caller calls
 * processes_reap() when SIGCHLD came. */
int processes_new(struct ev_loop *loop, const struct process_handlers *handlers,
        struct processes **ret, struct ho_error *reterr);
struct processes *processes_free(struct processes *ps);
/* Reaps orphans that were given to us, and with them every other child of handoffd that is no
 * worker. The end of a worker's main process is dealt with as if its pidfd had spoken: `exited` may
 * be called from here. */
void processes_reap(struct processes *ps);
/* The worker that `pid` belongs to: its main process, or any descendant of its session; NULL if
 * none. */
struct process *processes_find(struct processes *ps, pid_t pid);

/* Runs a program of our own aside, with `input` as its standard input, for at most `limit`. `done`
 * is called once, with what it wrote (at most some KiB) and whether it exited with 0; NULL `text`:
 * it ran out of time. One at a time: -EBUSY. */
typedef void (*helper_done)(void *data, bool ok, const char *text);
int processes_run(struct processes *ps, const char *const argv[], int input, usec_t limit,
        helper_done done, void *data, struct ho_error *reterr);

/* What a release is for one generation: everything that is looked up anew. */
struct release {
	struct config *config; /* referenced */
	const struct service_config *service;
	char *directory; /* links resolved; NULL: none configured */
	char **environ;  /* the service's own variables, files read; NULL-terminated */
	uint32_t generation;
	const char *environment_name;
	uint32_t previous;      /* the generation that served when it was made; 0: none */
	char *previous_release; /* its directory, owned; NULL: none */
	bool grouped;           /* it has a cgroup of its own, also if that is not open (yet) */
	struct cgroup cgroup;   /* of the generation, in which each worker has one */
	unsigned refs;
};
/* Resolves the directory, reads the environment files. Fails with words if a link dangles, a file
 * is missing or has a bad line (file:line). */
int release_new(struct config *config, const struct service_config *service, uint32_t generation,
        struct release **ret, struct ho_error *reterr);
/* The same from another directory than the settings name; NULL: from that. */
int release_new_at(struct config *config, const struct service_config *service, uint32_t generation,
        const char *directory, struct release **ret, struct ho_error *reterr);
/* The directory of the settings with its substitutions made, links not resolved. */
int release_directory(const struct config *config, const struct service_config *service,
        uint32_t generation, char **ret, struct ho_error *reterr);
struct release *release_ref(struct release *r);
struct release *release_unref(struct release *r);

/* A cgroup for its workers, SERVICE-GENERATION, where that is delegated; else it stays without. Of
 * a release of an earlier handoffd, that which it has. */
void processes_make_cgroup(struct processes *ps, struct release *r);

/* A socket to be passed. */
struct passed_fd {
	int fd;           /* borrowed */
	const char *name; /* LISTEN_FDNAMES, HANDOFF_FD_<NAME> */
	const struct address *address;
};

/* Are the socket calls of the worker to be asked about? */
enum adoption { ADOPTION_NO, ADOPTION_IF_POSSIBLE, ADOPTION_MUST };

struct process_spec {
	struct release *release; /* referenced */
	unsigned worker;
	const struct passed_fd *fds;
	size_t n_fds;
	bool capture; /* stdout and stderr through a pipe to `output` and to the tail kept for
	                 messages; stderr and stdout of handoffd are inherited otherwise, and then
	                 there is no tail */
	enum adoption adoption;
	bool follows;                      /* SIGTERM when handoffd dies */
	const struct string_list *command; /* NULL: the service's */
};

/* A command that runs to its end in the place of a worker, without its sockets: `build`. */
struct build;
struct build_handlers {
	/* A line of its output. */
	void (*output)(void *data, bool is_stderr, const char *line, size_t length);
	/* It is over; the last thing it does. `tail` is as process_tail() tells it. */
	void (*ended)(void *data, struct exit_info how, const char *tail);
	void *data;
	bool follows; /* SIGTERM for it when handoffd dies */
};
/* Fails with words, as process_start(). */
int process_start_build(struct processes *ps, struct release *release,
        const struct build_handlers *handlers, struct build **ret, struct ho_error *reterr);
/* TERM to all of it, and KILL two seconds later, or at the second call; `ended` follows. */
void build_stop(struct build *b);
/* KILL, and nothing follows. Accepts NULL. */
struct build *build_free(struct build *b);

/* Starts it. Fails with the child's own errno and the path when the program cannot be executed, or
 * a limit, user, capability or directory cannot be set: nothing is left behind then. */
int process_start(struct processes *ps, const struct process_spec *spec, void *user,
        struct process **ret, struct ho_error *reterr);
/* Takes a process that was started by somebody else, with its tree, as if it was a worker: it can
 * be signalled, and its end is told (how is not known). Takes `pidfd` over, also on failure. */
int process_attach(struct processes *ps, pid_t pid, int pidfd, void *user, struct process **ret,
        struct ho_error *reterr);
/* Forgets it; if it still runs, it runs on unwatched. Accepts NULL, returns NULL. */
struct process *process_free(struct process *p);

/* Is the process with this pid the one that started then (clock ticks since boot), and alive? */
bool process_is(pid_t pid, uint64_t start);
/* 0, or why its socket calls are not asked about although that was wanted (negative errno). */
int process_adoption_error(const struct process *p);
/* Are its socket calls asked about? Where that was so and the end of a handoffd has ended it, they
 * fail with ENOSYS. */
bool process_is_asked(const struct process *p);
/* Can its descriptors be looked at? 0 or negative errno (-EPERM). */
int process_may_look(const struct process *p);
/* Is its file set-user-ID or set-group-ID, without effect because no_new_privs is set? False where
 * that cannot be told. */
bool process_lost_privileges(const struct process *p);
pid_t process_pid(const struct process *p);
void *process_user(const struct process *p);
/* The last lines it wrote (at most 16, at most 2 KiB), newline-separated; "" if none were seen.
 * Blocks not. */
const char *process_tail(struct process *p);
/* The same of all that is kept, some KiB. Both are valid until the next call of either. */
const char *process_log(struct process *p);
/* Is it the child of somebody else, so that nobody tells us of those it leaves behind? */
bool process_is_foreign(const struct process *p);

bool process_has_channel(const struct process *p);
/* Tells a worker with a channel which generation serves, or to drain until `deadline` (monotonic,
 * USEC_INFINITY: none). 0 or negative errno. */
int process_tell_serving(struct process *p, uint32_t generation);
int process_tell_drain(struct process *p, usec_t deadline);
/* False if it does not count. Also after its end. */
bool process_counts(const struct process *p, struct worker_counts *ret);

/* To the main process; 0 or negative errno (-ESRCH when it is gone). */
int process_signal(struct process *p, int signo);
/* To every process of its session and their descendants, and all in its cgroup, main process
 * included or not. Returns the number of processes reached, or negative errno. */
int process_signal_tree(struct process *p, int signo, bool include_main);
/* Calls `each` for every process of the tree. */
void process_each(struct process *p, void (*each)(pid_t pid, void *arg), void *arg);
/* The same of several, with one look at /proc. */
void processes_each(struct process *const *list, size_t n,
        void (*each)(size_t i, pid_t pid, void *arg), void *arg);

/* Runs ready.by = exec:COMMAND again and again (200 ms after each failure) in the environment of
 * the worker, until it exits 0: then NOTIFY_EXEC_READY. */
int process_watch_exec(struct process *p, const char *command, struct ho_error *reterr);

#endif
