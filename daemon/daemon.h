/* SPDX-License-Identifier: MIT */
/* The running daemon: the core, the rooms of the shell, and the events between them. */
#ifndef DAEMON_H
#define DAEMON_H

#include <ev.h>
#include <jansson.h>
#include <sys/stat.h>

#include "control/control.h"
#include "core/supervisor.h"
#include "core/taken.h"
#include "process/link.h"
#include "process/freeze.h"
#include "process/process.h"
#include "sockets/adopt.h"
#include "sockets/connections.h"
#include "sockets/probe.h"
#include "sockets/sockets.h"
#include "state/fields.h"
#include "system/rights.h"
#include "system/systemd.h"

struct daemon;
struct live_door;

/* The shell's side of a generation: what the core's action PREPARE made. */
struct live_generation {
	struct daemon *daemon;
	struct live_generation *next; /* of those that are being probed */
	uint32_t service, generation;
	struct release *release;
	struct link_change link;  /* that was made for it */
	struct listener_set *set; /* NULL: no listeners */
	uint64_t sent_before;     /* connections, when the shares were last changed */
	struct quiet_check *quiet;
	bool quiet_told; /* that it cannot be found out */
	struct drain_watch *watch;
	struct freeze *freeze; /* its processes, while they are stopped */
	struct probe **probes; /* one a listener, NULL where it is done */
	size_t n_probes, probes_left;
	bool stranded;       /* clients waited for it in vain */
	ev_timer sweep;      /* while it starts: has the program closed a socket again? */
	char elsewhere[200]; /* where its program listens that is none of its addresses: a list */
	char refused[240];   /* why it may not have an address that it wanted */
	bool bound;          /* its program has called bind(2) or listen(2) for TCP */
	bool blind;          /* told that its sockets cannot be looked at */
};

/* The shell's side of a worker. */
struct live_worker {
	struct daemon *daemon;
	struct live_worker *next; /* of those whose main process is gone */
	uint32_t service, generation, serial;
	unsigned index;
	struct process *process;
	bool rest;
};

/* What became of a release link that was to go back. */
struct link_word {
	uint32_t service, generation;
	char text[480];
};
#define LINK_WORDS_MAX 16 /* services whose generations come to nothing in one step */

/* The last words of a worker that is gone. */
struct last_words {
	char service[CONFIG_MAX_NAME];
	uint32_t generation;
	unsigned worker;
	int pid;
	char *text;
};
#define LAST_WORDS_MAX 32

/* A descriptor that a worker gave us to keep over its generations (FDSTORE=1, HANDOFF_KEEP=). */
struct kept_fd {
	uint32_t service;
	uint64_t serial; /* not used twice */
	int fd;
	char name[CONFIG_MAX_NAME];
	char layout[CONFIG_MAX_NAME]; /* "": given to all; else to those who ask: "-", or of memory
	                               */
	uint32_t generation;          /* of memory: for which it was made */
};
#define KEPT_FDS_MAX 32 /* of one service */

struct posted {
	struct posted *next;
	struct event ev;
	char text[]; /* of ev, if it has one */
};

struct taken_server;

struct config_source {
	const char *file; /* NULL: the command line */
	const char *environment;
	struct config *config; /* referenced: what the last good load gave */
	struct stat seen;      /* of the file at that time */
	bool development;
	char *const *only; /* services of development mode; NULL: all */
	bool fresh;        /* the file may have changed unseen since */
};

struct develop; /* what is there in development mode only */

/* The files that a service watches, and its build. */
struct live_watch {
	struct daemon *daemon;
	struct live_watch *next;
	uint32_t service;
	struct config *config; /* referenced; of these settings */
	const struct service_config *settings;
	char *base;
	struct watcher *watcher;
};
struct live_build {
	struct daemon *daemon;
	struct live_build *next;
	uint32_t service, generation;
	char name[CONFIG_MAX_NAME];
	struct build *build;
};

struct daemon {
	struct ev_loop *loop;
	struct supervisor *supervisor;
	struct action_list actions;
	int n_passed; /* by systemd, until the sockets have them */
	int *passed;
	char **passed_names;
	struct sockets *sockets;
	struct connections *connections;
	struct processes *processes;
	struct control *control; /* NULL: none */
	struct systemd_watchdog *watchdog;
	struct rights rights; /* of handoffd itself */
	struct config_source source;
	ev_timer timer;
	ev_timer monitors;     /* the next status for those who watch; runs only for them */
	usec_t monitors_pause; /* at least between two of them */
	usec_t monitors_told;  /* when the last one was */
	ev_prepare prepare;
	ev_io signals;
	int signal_fd;
	struct posted *first, **last;
	bool load_wanted;
	struct live_generation *probing;
	struct live_worker *rests;
	struct develop *develop; /* NULL: not in development mode */
	struct live_watch *watches;
	const json_t *watched; /* what the handoffd before had seen, while we go on from there */
	struct live_build *builds;
	struct last_words words[LAST_WORDS_MAX];
	unsigned n_words;
	struct link_word link_words[LINK_WORDS_MAX];
	unsigned n_link_words;
	struct kept_fd *kept;
	size_t n_kept;
	uint64_t last_kept;
	struct upgrade *upgrade; /* under way; NULL: none */
	struct store *store;     /* what outlives a crash; NULL: nothing */
	bool changed;            /* what is in the store is out of date, */
	bool touched;            /* but for what another handoffd would find out by itself */
	ev_timer commit;         /* writes that down after a while */
	struct live_door *doors;
	uint64_t last_door;
	struct taken_server *servers; /* that are taken over */
	size_t n_servers;
	struct taken_service *taken;
	size_t n_taken;
	ev_timer
	        rest_timer; /* while a server has left processes behind that are not our children */
	char status_text[256];
	struct {
		uid_t uid;
		usec_t since; /* when the first of them was told */
		unsigned told, more;
	} refusals;         /* of one user, within a short time */
	bool adoption_told; /* that sockets cannot be adopted */
	bool out_of_memory; /* an event could not be queued: told once there is room */
	int exit_code;
};

/* events.c: what happens outside, as events */
void daemon_post(struct daemon *d, const struct event *ev);
/* Takes all events at hand to the core, carries out what it wants, until nothing is left. */
void daemon_run_events(struct daemon *d);
/* Goes on where another handoffd was: its state is loaded. */
void daemon_resume(struct daemon *d, bool crashed);
/* One line for systemctl status, if it has changed. */
void daemon_tell_status(struct daemon *d);
void daemon_watch_rests(struct daemon *d);
/* Writes the state down after so many seconds, if it is not done before. */
void daemon_commit_later(struct daemon *d, double seconds);
extern const struct control_handlers daemon_control_handlers;
extern const struct process_handlers daemon_process_handlers;
void daemon_on_drain(void *data, const struct inflight *now);
void daemon_on_frozen(void *data);
void daemon_on_probe(void *data, bool ok, const char *text);
/* Somebody asks for something; the strings are copied. `call` may be NULL. */
void daemon_request(void *data, struct control_call *call, const struct request_spec *spec);
void daemon_on_signal(struct ev_loop *loop, ev_io *io, int events);

/* adoption.c: sockets that programs bind themselves */
int daemon_on_asked(void *data, struct process *p, const struct socket_call *call);
enum adoption daemon_adoption(const struct live_generation *g);
/* Can what must be adopted be adopted from it? */
int daemon_check_adoption(const struct process *p, struct ho_error *reterr);
/* After a worker was started whose sockets were to be adopted. */
void daemon_watch_adoption(struct live_generation *g, const struct live_worker *w);
/* Sockets that the generation has lost; `starting`: it has never served. Whether there is any. */
bool daemon_sweep(struct live_generation *g, bool starting);
/* Before its exit is told: why a program did not come to serve, if nobody else knows. */
void daemon_explain_exit(struct live_worker *w, const struct event *exited);
void daemon_worker_ended(struct daemon *d, uint32_t service, uint32_t generation);

/* deploy.c: the release link, which leads to what a service is started from */
/* Resolves what the generation is started from, and checks a release that the link shall lead to.
 */
int daemon_release(const struct generation *cg, const struct prepare *how,
        struct live_generation *g, struct ho_error *reterr);
int daemon_move_link(struct live_generation *g, struct ho_error *reterr);
void daemon_restore_link(struct daemon *d, const struct action *a);
/* Links that are to be put back and whose generation is not in the tables any more: for who comes
 * after a crash, and does it at once. */
json_t *deploy_save(const struct daemon *d, struct saver *v);
void deploy_load(const json_t *from, struct loader *l);
void daemon_point_back(struct daemon *d, const struct action *a);
/* What became of the link when the result's request came to nothing; NULL: nothing. */
const char *daemon_link_word(const struct daemon *d, const struct result *r);

/* effects.c: what the core wants, as calls */
/* Makes the shares of the service's generations true; 0, or negative errno with words. */
int daemon_steer(struct daemon *d, const struct service *sv, struct ho_error *reterr);
void daemon_describe_worker(struct live_generation *g, unsigned worker,
        struct passed_fd fds[CONFIG_MAX_LISTENERS], struct process_spec *ret);
/* Those who wait for the service and asked to be told. */
void daemon_tell_waiting(struct daemon *d, uint32_t service, const struct record *r);
void daemon_carry_out(struct daemon *d, const struct action *a);
void live_generation_free(struct live_generation *g);
/* A process_lister of a struct live_generation. */
void live_generation_processes(void *data, void (*each)(pid_t pid, void *arg), void *arg);

/* takeover.c: servers that run unmanaged */
/* Finds them and refuses with words what cannot be taken. */
int take_over_find(struct daemon *d, const pid_t *pids, size_t n, struct ho_error *reterr);
void take_over_free(struct daemon *d);
/* Is there one that does not serve under us yet? Whoever came after a crash could not go on with
 * that, but begin it anew. Never when nothing is at hand. */
bool take_over_is_under_way(const struct daemon *d);
/* The listeners and the processes of generation 0. */
int take_over_prepare(struct daemon *d, const struct generation *cg, struct listener_set **ret,
        struct ho_error *reterr);
int take_over_attach(struct daemon *d, const struct generation *cg, unsigned worker, void *user,
        struct process **ret, struct ho_error *reterr);

/* kept.c: like systemd's descriptor store, for workers */
void kept_add(struct daemon *d, uint32_t service, const char *name, int fd);
/* All that have the name; NULL: all of the service. */
void kept_remove(struct daemon *d, uint32_t service, const char *name);
/* Appends them to what a worker is passed, at most `room`; returns how many. */
size_t kept_pass(const struct daemon *d, uint32_t service, struct passed_fd *fds, size_t room);
void kept_free(struct daemon *d);
/* Answers HANDOFF_KEEP= and HANDOFF_FETCH=1. */
void kept_claim(
        struct daemon *d, uint32_t service, uint32_t generation, const struct notify_message *m);
void kept_fetch(const struct daemon *d, uint32_t service, const struct notify_message *m);
/* Into what is saved of it: by what it is known again. */
void kept_identify(const struct kept_fd *k, struct saver *v, json_t *to);
/* Of what is in `kept` (saved) of the service and not in `fds`: what this process has, adds it to
 * `fds`. What the worker has closed is lost. */
void kept_fetch_back(const json_t *kept, json_t *fds, uint64_t service, pid_t pid);
/* A generation is gone: forgets memory that nobody can ask for any more. */
void kept_released(struct daemon *d, uint32_t service, uint32_t generation);

/* store.c: what outlives a crash */
/* `control_path` NULL: no file; `doc` and `l` of an upgrade, or NULL. */
void store_open(struct daemon *d, const char *control_path, const json_t *doc, struct loader *l);
/* Writes the state as it is now: what has changed of it. */
void store_commit(struct daemon *d);
/* Nothing else is at hand: also puts in order what was written. */
void store_commit_calmly(struct daemon *d);
/* What the shell has for the service is not as it was written down. An event or action that names
 * the service says so by itself. */
void store_note_change(struct daemon *d, uint32_t service);
void store_forget_service(struct daemon *d, uint32_t service);
/* `forget`: nothing is left to go on with. */
void store_close(struct daemon *d, bool forget);
void store_hand_on(struct daemon *d, struct saver *v);
json_t *store_names(const struct daemon *d);
/* Takes what systemd had in its store for us out of what it passed. The state, with its
 * descriptors, or NULL. */
json_t *store_take_passed(int *n, int *fds, char **names);
/* The state of a handoffd that had this control socket and died, with the sockets that its workers
 * have; NULL: there is none, or nobody of it lives. */
json_t *store_find_file(const char *control_path);

/* changes.c: files that change, and what is built of them */
void daemon_watch_files(struct daemon *d, const struct action *a);
void daemon_forget_watch(struct daemon *d, uint32_t service);
void daemon_start_build(struct daemon *d, const struct action *a, struct release *release);
void daemon_stop_build(struct daemon *d, const struct action *a);
void changes_free(struct daemon *d);
/* What the files were like that are watched, as far as it is known. */
json_t *changes_watched(const struct daemon *d);
json_t *changes_save(const struct daemon *d, struct saver *v);
/* After the generations. */
void changes_load(struct daemon *d, const json_t *from, struct loader *l);

/* develop.c: development mode */
int develop_new(struct daemon *d, struct ho_error *reterr);
/* The configuration is known. */
void develop_begin(struct daemon *d);
/* In development mode only. */
json_t *develop_save(const struct daemon *d, struct saver *v);
void develop_load(struct daemon *d, const json_t *from, struct loader *l);
/* What is to be seen is seen. */
void develop_flush(const struct daemon *d);
void develop_free(struct daemon *d);
/* Was it started from a terminal that is gone? */
bool develop_hung_up(const struct daemon *d);
/* A line of a worker or build, to the terminal if there is one. */
void develop_output(
        struct daemon *d, const char *service, bool is_stderr, const char *line, size_t length);
/* A client that waited where nobody listens any more. */
void develop_stranded(void *data, int fd, const char *path);

/* live.c: connections passed from one generation to another, by workers that can do that */
void live_door_open(struct live_worker *w, const struct notify_message *m);
json_t *live_save(const struct daemon *d, struct saver *v, uint32_t service);
/* After the workers. */
void live_load(struct daemon *d, const json_t *from, struct loader *l);
/* A worker is gone. */
void live_forget(struct daemon *d, const struct live_worker *w);
/* Brings those together that should be; to be called after every change. */
void live_introduce(struct daemon *d);

/* source.c: the configuration, from a file or the command line */
void config_source_load(struct daemon *d);

/* status.c */
/* Says that there is none of that name, and which there are. */
void daemon_refuse_service(struct daemon *d, struct control_call *call, const char *service);
void daemon_answer_status(struct daemon *d, struct control_call *call, const char *service);
/* Keeps the client told until it goes. */
void daemon_answer_monitor(struct daemon *d, struct control_call *call);
/* Something has happened: those who watch are told soon. */
void daemon_hasten_monitors(struct daemon *d);
/* A callback of daemon.monitors. */
void daemon_on_monitors(struct ev_loop *loop, ev_timer *timer, int events);
void daemon_answer_services(struct daemon *d, struct control_call *call);
void daemon_answer_config(struct daemon *d, struct control_call *call);
void daemon_answer_logs(
        struct daemon *d, struct control_call *call, const char *service, bool follow);
/* Bytes of a line that the worker has written, for those who follow the logs. */
void daemon_tell_output(
        struct daemon *d, const struct live_worker *w, const char *line, size_t length);

/* browsing.c */
void daemon_answer_connections(
        struct daemon *d, struct control_call *call, const char *service, uint32_t generation);

#endif
