/* SPDX-License-Identifier: MIT */
/* What the commands of handoffctl share: the options, a blocking client of the control socket, and
 * printing. A command returns the exit code; whatever is not 0 has been explained on stderr. */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include <stdio.h>
#include <time.h>

#include "core/base.h"
#include "core/request.h"
#include "wire/wire.h"

struct ctl {
	const char *socket; /* NULL: the default one */
	bool json;
	const char *wait; /* of --wait, or --for */
	usec_t timeout;   /* USEC_INFINITY: none */
	const char *release;
	bool has_canary, has_hold, has_keep_warm;
	unsigned canary; /* of SHARE_ALL */
	usec_t hold, keep_warm;
	bool follow, watch;
	uint64_t lines;
	bool lines_set;
	const char *config, *environment;
	const char *listen[16]; /* of --listen */
	size_t n_listen;
	uint64_t generation; /* 0: all */
	usec_t patience;     /* with handoffd that does not answer; 0: endless */
	const char *command;
	char **arguments; /* after the command */
	int n_arguments;
};

int command_status(struct ctl *ctl);
int command_top(struct ctl *ctl);
int command_reload(struct ctl *ctl);
int command_deploy(struct ctl *ctl);
int command_promote(struct ctl *ctl);
int command_abort(struct ctl *ctl);
int command_rollback(struct ctl *ctl);
int command_scale(struct ctl *ctl);
int command_stop(struct ctl *ctl);
int command_start(struct ctl *ctl);
int command_restart(struct ctl *ctl);
int command_wait(struct ctl *ctl);
int command_upgrade(struct ctl *ctl);
int command_events(struct ctl *ctl);
int command_logs(struct ctl *ctl);
int command_connections(struct ctl *ctl);
int command_config(struct ctl *ctl);
int command_doctor(struct ctl *ctl);

/* diff.c: prints what would change from `running`, as config_print() writes it, to `config`. */
struct config;
int config_diff(const struct ctl *ctl, const char *running, const struct config *config);
/* The settings as a document. */
int config_show_json(const struct config *config);

/* client.c */
struct client {
	int fd;
	char path[108];
	struct wire_reader reader;
	bool patient; /* of client_follow() */
	bool heard;   /* it has had an answer, or a part of one */
};
/* Connects. Each function here gives an exit code and has printed why when it is not 0. */
int client_open(struct client *c, const struct ctl *ctl);
void client_close(struct client *c);
/* Sends one call; takes the reference to `parameters`. */
int client_send(struct client *c, const char *method, json_t *parameters, bool more);
/* Waits for the next reply: its parameters (a reference is given) and whether more will follow. A
 * reply that is an error gives its exit code; `ret_failure`, if not NULL, then gets the parameters
 * of the error Failed instead of their text being printed. */
int client_receive(struct client *c, json_t **ret, bool *ret_continues, json_t **ret_failure);
/* The same without waiting, of a client of client_follow() whose descriptor is readable, or that
 * has given something just now. CLIENT_NOTHING: no whole reply is there yet. */
int client_receive_now(struct client *c, json_t **ret, bool *ret_continues, json_t **ret_failure);
#define CLIENT_NOTHING (-1)
/* Open and send a call with "more", for client_receive_now(). Closed again if that fails. */
int client_follow(struct client *c, const struct ctl *ctl, const char *method, json_t *parameters);
/* Open, send, receive one reply, close. */
int client_ask(const struct ctl *ctl, const char *method, json_t *parameters, json_t **ret);

/* print.c */
/* "handoffctl: …" and a newline on stderr; returns `code`. Control characters are made harmless. */
int complain(int code, const char *format, ...) _printf_(2, 3);
/* What was said by it last, "" for nothing. */
const char *last_complaint(void);
/* Text of others: nothing in it can command a terminal. At most `columns` (0: all) are printed. */
void put_text(FILE *f, const char *text, unsigned columns);
/* The same, each line behind `indent`. */
void put_lines(FILE *f, const char *indent, const char *text);
/* How many columns it takes, and how many bytes of it fit into so many. */
unsigned text_columns(const char *text);
size_t text_fitting(const char *text, unsigned columns);
void put_json(const json_t *j);
/* Columns of the terminal that stdout is; 0 when it is none. */
unsigned terminal_columns(void);
/* Text members of an object; "" when there is none. */
const char *member(const json_t *object, const char *key);
/* Seconds in the largest unit that leaves at least two; "-" when it is no number. */
void add_duration(struct text *t, const json_t *seconds);
/* Bytes, with a unit. */
void add_bytes(struct text *t, double bytes);
/* RFC 3339 in UTC; false: it is not. */
bool read_time(const char *rfc3339, time_t *ret);
/* RFC 3339 in UTC as the local time of the day, with the date if that is another day. */
void add_local_time(struct text *t, const char *rfc3339);

/* NO_COLOR and dumb terminals have none. */
bool wants_colour(void);
/* Does the terminal, or whoever reads, know UTF-8? */
bool wants_utf8(void);

/* watch.c */
/* `draw` prints handoffd's status to `f`, and again whenever there is a newer one or the terminal
 * has changed, on the whole terminal or one behind the other, until it returns an exit code, q is
 * typed or handoffd ends. */
int watch(const struct ctl *ctl, bool on_screen,
        int (*draw)(void *data, FILE *f, json_t *status, unsigned columns), void *data);

/* screen.c: the terminal as a whole, given back as it was when the program ends, however it does */
struct screen;
bool screen_possible(void);
/* Needs a terminal on both ends. */
int screen_open(struct screen **ret);
struct screen *screen_close(struct screen *s);
/* The terminal as it was, for something that is said at the end; may be called at any time. */
void screen_restore(void);
unsigned screen_columns(const struct screen *s);
/* What is shown from now on: lines, which are cut at the right and at the bottom. Colours of ours
 * may be in it, but nothing else that commands a terminal. */
void screen_show(struct screen *s, const char *text);
enum screen_event {
	SCREEN_READABLE, /* the descriptor, perhaps */
	SCREEN_RESIZED,
	SCREEN_QUIT, /* q, or a signal */
};
enum screen_event screen_wait(struct screen *s, int fd);

/* memory.c */
/* Bytes that a process and its descendants use, shared ones in parts (PSS) where we may look, else
 * all of those that are resident; 0: it is not known. */
uint64_t tree_memory(pid_t pid);

/* progress.c */
struct progress;
/* NULL when memory is short, which all functions accept. */
struct progress *progress_new(void);
/* Shows one event: repaints the line of a terminal, else prints one. */
void progress_show(struct progress *p, const json_t *event);
/* On a terminal: handoffd's status, for the numbers. */
bool progress_wants_status(const struct progress *p);
void progress_status(struct progress *p, const json_t *status);
/* The service belongs to it, also before anything happens. */
void progress_expect(struct progress *p, const char *service);
/* Clears the line. Returns NULL. */
struct progress *progress_free(struct progress *p);

#endif
