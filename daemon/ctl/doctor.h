/* SPDX-License-Identifier: MIT */
/* The parts of `handoffctl doctor`: a place to try the program in (shield), one run of handoffd
 * with it there (trial), what was found (findings). */
#ifndef CTL_DOCTOR_H
#define CTL_DOCTOR_H

#include <sys/types.h>

#include "core/config.h"
#include "ctl/ctl.h"

/* ---- doctor_shield.c ---- */

/* Namespaces of its own: of processes, so that nothing can be left running; of the network, so that
 * every port is free and nothing outside is reached; of the file systems, all covered by a layer in
 * memory, so that what is written there is seen and then forgotten. */
struct shield {
	char top[64];      /* a directory in memory that the program does not know */
	char layers[96];   /* below it: what was written, one directory for each file system */
	char at[128][256]; /* where each belongs; empty: it could not be made */
	size_t n_layers;
	char bare[300]; /* file systems that cannot be covered and are read-only, or "" */
};
/* Runs `inside(data)` behind a shield, in a process of its own; returns what that returned, or an
 * exit code after words. At most `limit`. */
int shield_run(struct shield *s, usec_t limit, int (*inside)(void *data), void *data);
/* Calls `each` with every file, socket or FIFO that was made or changed there; inside only. */
void shield_written(const struct shield *s, void (*each)(void *data, const char *path, mode_t mode),
        void *data);

/* ---- doctor_trial.c ---- */

struct trial {
	const char *top;   /* for its files */
	struct ctl ctl;    /* its control socket */
	char control[108]; /* path of that */
	pid_t pid;
	int pidfd, words_fd;
	struct client client;
	bool connected;
	json_t *events;
	size_t looked;    /* at so many of them */
	char words[2048]; /* the last that handoffd itself wrote */
	size_t n_words;
};
/* Starts handoffd with the only service of `c`. An exit code after words. */
int trial_start(struct trial *t, const char *top, const struct config *c);
/* Waits for the next event that has one of the names ("a|b|c"; borrowed), until `deadline`; NULL:
 * none came, or handoffd has ended. */
const json_t *trial_wait(struct trial *t, const char *names, usec_t deadline);
/* An event among those that came, by name and generation (0: any). */
const json_t *trial_seen(const struct trial *t, const char *name, json_int_t generation);
/* Why the first generation failed. */
void trial_failure(struct trial *t, struct text *why);
/* Pid of the worker of a generation; 0: none. */
pid_t trial_worker(const struct trial *t, json_int_t generation);
/* Where the sockets that it bound listen: "tcp:127.0.0.1:3000, tcp:[::1]:3000". */
void trial_adopted(struct trial *t, struct text *where);
/* Asks for a reload, without waiting for it. */
int trial_reload(struct trial *t);
/* Ends everything. */
void trial_end(struct trial *t);

/* A connected socket; negative errno. */
int doctor_connect(const struct address *a);
usec_t doctor_now(void);

/* What happens to a connection and a request on it when the program gets a signal. */
struct farewell {
	bool tried;
	bool had_request;  /* the program had begun to read one */
	bool answered;     /* and answered it after the signal */
	bool cut;          /* the connection ended before that */
	bool exited;       /* within the time */
	unsigned left;     /* of its processes, then */
	usec_t exit_after; /* since the signal, with the connections closed */
};
struct farewell trial_farewell(struct trial *t, const struct address *a, pid_t pid, int signo);

/* ---- doctor_findings.c ---- */

enum verdict { VERDICT_GOOD, VERDICT_NOTE, VERDICT_BAD };

/* What the program is like. */
struct findings {
	json_t *list;  /* of {check, verdict, text} */
	bool ran;      /* it could be started and took connections */
	bool adopted;  /* binds itself */
	bool replaced; /* a second generation took over from the first */
	unsigned dialect;
	enum listen_pid listen_pid;
	bool says_ready;
	struct farewell term, quit;
};
void finding(struct findings *f, const char *check, enum verdict v, const char *format, ...)
        _printf_(4, 5);
/* The signal that suits it for drain.signal. */
int findings_signal(const struct findings *f);
/* The block for a configuration file; heap, or NULL. */
char *findings_block(const struct findings *f, const struct service_config *s);
/* Prints all; returns the exit code. */
int findings_print(const struct findings *f, const struct shield *shield,
        const struct service_config *s, bool as_json);

/* ---- doctor_look.c ---- */

struct look; /* at what the program has written and where it listens */
struct look *look_new(const struct shield *s, const struct trial *t);
struct look *look_free(struct look *l);
/* Compares two looks, while the first generation ran and while both do, and tells what collides. */
void look_compare(struct findings *f, const struct look *one, const struct look *both,
        const struct service_config *s);
/* After the first generation has left: did it take something away that the second has written? */
void look_missing(struct findings *f, const struct look *both, const struct look *after);
/* As whom the process runs, and with which capabilities. */
void look_at_rights(struct findings *f, pid_t worker);
/* Are the sockets that were passed as they were? */
void look_at_sockets(struct findings *f, pid_t worker, size_t n);
/* Processes in here besides `handoffd`, us, and the first one. */
unsigned look_others(pid_t handoffd);
/* Does the main process run a child without having been replaced by it? The name of the child. */
bool look_wrapper(pid_t worker, char *ret, size_t size);

#endif
