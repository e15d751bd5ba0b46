/* SPDX-License-Identifier: MIT */
#include "upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control/control.h"
#include "snapshot.h"
#include "system/fd.h"
#include "system/log.h"

#define STATE_VARIABLE "HANDOFF_STATE_FD"
#define CHECK_USEC (30 * USEC_PER_SEC)

struct upgrade {
	bool ready; /* the new program has agreed */
};

static char program[PATH_MAX];
static char **arguments;

/* ---- which program ---- */

/* By the path it was called by, so that a link that leads to another version now is followed. */
void upgrade_remember(char **argv)
{
	const char *name = argv[0];
	char directory[PATH_MAX];
	struct text t = TEXT_ON(program);
	ssize_t n;

	arguments = argv;
	if (name && strchr(name, '/')) {
		if (name[0] != '/' && getcwd(directory, sizeof directory))
			text_add(&t, "%s/", directory);
		text_add(&t, "%s", name);
		if (!t.cut && access(program, X_OK) == 0)
			return;
	}
	n = readlink("/proc/self/exe", program, sizeof program - 1);
	program[n > 0 ? n : 0] = '\0';
}

void upgrade_start_over(void)
{
	(void)execv(program, arguments);
}

/* ---- asking the new one ---- */

void upgrade_free(struct daemon *d)
{
	free(d->upgrade);
	d->upgrade = NULL;
}

static void refuse(struct daemon *d, const char *format, ...) _printf_(2, 3);
static void refuse(struct daemon *d, const char *format, ...)
{
	struct record r = {.type = RECORD_UPGRADE_REFUSED, RECORD_NONE};
	char text[1200];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	r.text = text;
	upgrade_free(d);
	log_record(&r);
	if (d->control) {
		control_publish(d->control, &r);
		control_answer_upgrade(d->control, text);
	}
}

/* A memory file with the document, at its beginning; or negative errno. */
static int write_document(const json_t *doc)
{
	_cleanup_close_ int fd = memfd_create("handoffd-state", MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (!doc || json_dumpfd(doc, fd, JSON_COMPACT) < 0)
		return -ENOMEM;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	return take_fd(fd);
}

static void on_checked(void *data, bool ok, const char *text)
{
	struct daemon *d = data;
	const char *said = text ? text : "";

	if (!d->upgrade)
		return;
	if (ok && !strncmp(said, SNAPSHOT_OK, strlen(SNAPSHOT_OK)))
		d->upgrade->ready = true;
	else if (!text)
		refuse(d,
		        "\"%s\" did not say in time whether it understands the state; the "
		        "running handoffd goes on",
		        program);
	else
		refuse(d, "\"%s\" cannot go on from here, the running handoffd does: %s", program,
		        *said ? said : "it has ended without a word");
}

void upgrade_begin(struct daemon *d)
{
	const char *const argv[] = {program, "--check-snapshot", NULL};
	struct ho_error error = {0};
	const char *why;
	struct saver v;
	json_t *doc;
	int fd;

	if (d->upgrade)
		return; /* whoever asks meanwhile gets the same answer */
	d->upgrade = calloc(1, sizeof *d->upgrade);
	why = !d->upgrade                                   ? "memory is short"
	      : d->supervisor->state == SUPERVISOR_STOPPING ? "handoffd is stopping"
	      : d->source.development ? "development mode is not handed on; start it again"
	                              : NULL;
	if (why) {
		refuse(d, "%s", why);
		return;
	}
	saver_begin(&v, false);
	doc = snapshot_make(d, &v);
	fd = write_document(doc);
	json_decref(doc);
	saver_done(&v);
	if (fd < 0)
		refuse(d, "the state cannot be written down: %s", strerror(-fd));
	else if (processes_run(d->processes, argv, fd, CHECK_USEC, on_checked, d, &error) < 0)
		refuse(d, "%s; the running handoffd goes on", error.text);
	(void)close_fd(fd);
}

/* ---- doing it ---- */

static void set_inherited(json_t *fds, bool inherited)
{
	const char *name;
	json_t *fd;

	json_object_foreach(fds, name, fd)(void)
	        fcntl((int)json_integer_value(fd), F_SETFD, inherited ? 0 : FD_CLOEXEC);
}

void upgrade_if_ready(struct daemon *d)
{
	struct saver v;
	json_t *doc;
	char number[16];
	int fd, error;

	if (!d->upgrade || !d->upgrade->ready)
		return;
	saver_begin(&v, true);
	store_hand_on(d, &v);
	doc = snapshot_make(d, &v);
	fd = write_document(doc);
	json_decref(doc);
	error = fd < 0 ? -fd : 0;
	if (!error) {
		(void)snprintf(number, sizeof number, "%d", fd);
		if (setenv(STATE_VARIABLE, number, 1) < 0)
			error = ENOMEM;
	}
	if (!error) {
		set_inherited(v.fds, true);
		(void)fcntl(fd, F_SETFD, 0);
		(void)execv(program, arguments);
		error = errno;
		set_inherited(v.fds, false);
	}
	(void)unsetenv(STATE_VARIABLE);
	(void)close_fd(fd);
	saver_done(&v);
	refuse(d, "\"%s\" cannot be executed: %s; the running handoffd goes on", program,
	        strerror(error));
}

/* ---- in the new one ---- */

json_t *upgrade_take(void)
{
	const char *text = getenv(STATE_VARIABLE);
	uint64_t number;
	json_error_t e;
	json_t *doc;

	if (!text)
		return NULL;
	if (!parse_number(text, INT_MAX, &number) || number <= STDERR_FILENO)
		number = INT_MAX;
	(void)unsetenv(STATE_VARIABLE);
	doc = json_loadfd((int)number, 0, &e);
	if (number != INT_MAX)
		(void)close_fd((int)number);
	/* the process is the same, so it is really ours */
	if (!doc || json_integer_value(json_object_get(doc, "pid")) != getpid()) {
		json_decref(doc);
		return NULL;
	}
	set_inherited(json_object_get(doc, "fds"), false);
	return doc;
}

int upgrade_check_snapshot(void)
{
	struct supervisor *s = supervisor_new();
	struct action_list out = {0};
	struct ho_error error = {0};
	struct loader l;
	json_error_t e;
	json_t *doc = json_loadfd(STDIN_FILENO, 0, &e);
	const char *wrong = NULL;

	loader_begin(&l, NULL);
	if (!s || !doc)
		wrong = doc ? "memory is short" : e.text;
	else if (snapshot_check_format(doc, &error) < 0)
		wrong = error.text;
	else
		snapshot_load_core(s, &out, doc, &l);
	if (!wrong)
		wrong = l.failed ? l.error.text : NULL;
	if (wrong)
		printf("handoffd %s: %s\n", HANDOFF_VERSION, wrong);
	else
		printf("%s\n", SNAPSHOT_OK);
	supervisor_free(s);
	action_list_done(&out);
	loader_done(&l);
	json_decref(doc);
	return wrong ? CODE_FAILED : CODE_DONE;
}
