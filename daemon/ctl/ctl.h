/* SPDX-License-Identifier: MIT */
/* What the commands of handoffctl share: the options, a blocking client of the control socket, and
 * printing. A command returns the exit code; whatever is not 0 has been explained on stderr. */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include <stdio.h>

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
	bool follow;
	uint64_t lines;
	bool lines_set;
	const char *config, *environment;
	uint64_t generation; /* 0: all */
	usec_t patience;     /* with handoffd that does not answer; 0: endless */
	const char *command;
	char **arguments; /* after the command */
	int n_arguments;
};

int command_status(struct ctl *ctl);
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
int command_events(struct ctl *ctl);
int command_logs(struct ctl *ctl);
int command_connections(struct ctl *ctl);
int command_config(struct ctl *ctl);

/* client.c */
struct client {
	int fd;
	char path[108];
	struct wire_reader reader;
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
/* Open, send, receive one reply, close. */
int client_ask(const struct ctl *ctl, const char *method, json_t *parameters, json_t **ret);

/* print.c */
/* "handoffctl: …" and a newline on stderr; returns `code`. Control characters are made harmless. */
int complain(int code, const char *format, ...) _printf_(2, 3);
/* Text of others: nothing in it can command a terminal. At most `columns` (0: all) are printed. */
void put_text(FILE *f, const char *text, unsigned columns);
/* The same, each line behind `indent`. */
void put_lines(FILE *f, const char *indent, const char *text);
void put_json(const json_t *j);
/* Columns of the terminal that stdout is; 0 when it is none. */
unsigned terminal_columns(void);
/* Text members of an object; "" when there is none. */
const char *member(const json_t *object, const char *key);
/* Seconds in the largest unit that leaves at least two; "-" when it is no number. */
void add_duration(struct text *t, const json_t *seconds);
/* Bytes, with a unit. */
void add_bytes(struct text *t, double bytes);
/* RFC 3339 in UTC as the local time of the day, with the date if that is another day. */
void add_local_time(struct text *t, const char *rfc3339);

/* progress.c */
struct progress;
/* NULL when memory is short, which all functions accept. */
struct progress *progress_new(void);
/* Shows one event: repaints the line of a terminal, else prints one. */
void progress_show(struct progress *p, const json_t *event);
/* Clears the line. Returns NULL. */
struct progress *progress_free(struct progress *p);

#endif
