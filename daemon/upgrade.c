/* SPDX-License-Identifier: MIT */
#include "upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
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
#define TRY_VARIABLE "HANDOFF_TRY"
#define FAILED_VARIABLE "HANDOFF_UPGRADE_FAILED"
#define CHECK_USEC (30 * USEC_PER_SEC)
#define START_SECONDS 30
#define FORMER "former"

struct upgrade {
	bool tried; /* the new program has been started for trial */
	bool ready; /* and has agreed */
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

static void on_checked(void *data, bool ok, const char *text);

/* With the state on its standard input. */
static int ask(struct daemon *d, const char *const argv[], struct ho_error *reterr)
{
	_cleanup_close_ int fd = -1;
	struct saver v;
	json_t *doc;

	saver_begin(&v, false);
	doc = snapshot_make(d, &v);
	fd = write_document(doc);
	json_decref(doc);
	saver_done(&v);
	if (fd < 0)
		return ho_error_set(
		        reterr, fd, "the state cannot be written down: %s", strerror(-fd));
	return processes_run(d->processes, argv, fd, CHECK_USEC, on_checked, d, reterr);
}

/* Just as it would be started, but for a variable that tells it not to begin anything. */
static int try(struct daemon *d, struct ho_error *reterr)
{
	_cleanup_free_ const char **argv = NULL;
	size_t n = 0;
	int r;

	while (arguments[n])
		n++;
	argv = calloc(n + 2, sizeof *argv);
	if (!argv || setenv(TRY_VARIABLE, "1", 1) < 0)
		return ho_error_set(reterr, -ENOMEM, "memory is short");
	argv[0] = program;
	for (size_t i = 1; i < n; i++)
		argv[i] = arguments[i];
	d->upgrade->tried = true;
	r = ask(d, argv, reterr);
	(void)unsetenv(TRY_VARIABLE);
	return r;
}

static void on_checked(void *data, bool ok, const char *text)
{
	struct daemon *d = data;
	const char *said = text ? text : "";
	struct ho_error error = {0};

	if (!d->upgrade)
		return;
	if (ok && !d->upgrade->tried && !strncmp(said, SNAPSHOT_OK_TRY, strlen(SNAPSHOT_OK_TRY))) {
		if (try(d, &error) < 0)
			refuse(d, "%s; the running handoffd goes on", error.text);
	} else if (ok && !strncmp(said, SNAPSHOT_OK, strlen(SNAPSHOT_OK))) {
		d->upgrade->ready = true;
	} else if (!text) {
		refuse(d,
		        "\"%s\" did not say in time whether it understands the state; the "
		        "running handoffd goes on",
		        program);
	} else {
		refuse(d, "\"%s\" cannot go on from here, the running handoffd does: %s", program,
		        *said ? said : "it has ended without a word");
	}
}

void upgrade_begin(struct daemon *d)
{
	const char *const argv[] = {program, "--check-snapshot", NULL};
	struct ho_error error = {0};
	const char *why;

	if (d->upgrade)
		return; /* whoever asks meanwhile gets the same answer */
	d->upgrade = calloc(1, sizeof *d->upgrade);
	why = !d->upgrade                                   ? "memory is short"
	      : d->supervisor->state == SUPERVISOR_STOPPING ? "handoffd is stopping"
	                                                    : NULL;
	if (why)
		refuse(d, "%s", why);
	else if (ask(d, argv, &error) < 0)
		refuse(d, "%s; the running handoffd goes on", error.text);
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
	int fd, error, former;

	if (!d->upgrade || !d->upgrade->ready)
		return;
	saver_begin(&v, true);
	store_hand_on(d, &v);
	former = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	save_fd(&v, former, FORMER);
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
		develop_flush(d);
		set_inherited(v.fds, true);
		(void)fcntl(fd, F_SETFD, 0);
		(void)execv(program, arguments);
		error = errno;
		set_inherited(v.fds, false);
	}
	(void)unsetenv(STATE_VARIABLE);
	(void)close_fd(former);
	(void)close_fd(fd);
	saver_done(&v);
	refuse(d, "\"%s\" cannot be executed: %s; the running handoffd goes on", program,
	        strerror(error));
}

/* ---- in the new one ---- */

/* Until all is taken over, whatever ends this program early leads back to the former one, which
 * finds everything as it left it. */
static struct {
	bool armed;
	int program, state; /* the former program, and the document for it */
	int *fds;           /* that belong to the document */
	size_t n;
	char **environment; /* as it was, and two more variables: */
	char state_variable[64], failed_variable[400];
} back;

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS, SIGALRM};
static char came_back[300];
static json_t *received;

/* Async-signal-safe, but for `why`. */
static void execute_former(void)
{
	sigset_t set;

	back.armed = false;
	(void)alarm(0);
	for (size_t i = 0; i < back.n; i++)
		(void)fcntl(back.fds[i], F_SETFD, 0);
	(void)fcntl(back.state, F_SETFD, 0);
	(void)lseek(back.state, 0, SEEK_SET);
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaddset(&set, fatal_signals[i]);
	(void)sigprocmask(SIG_UNBLOCK, &set, NULL);
	(void)fexecve(back.program, arguments, back.environment);
}

static void on_fatal(int signo)
{
	static const char hung[] = FAILED_VARIABLE "=the new program did not start in time";

	if (back.armed) {
		if (signo == SIGALRM)
			memcpy(back.failed_variable, hung, sizeof hung);
		execute_former();
	}
	(void)signal(signo, SIG_DFL);
	(void)raise(signo);
}

void upgrade_go_back(const char *why)
{
	if (!back.armed)
		return;
	(void)snprintf(back.failed_variable, sizeof back.failed_variable,
	        FAILED_VARIABLE "=the new program could not go on: %s", why);
	execute_former();
}

static void on_exit_early(void)
{
	upgrade_go_back("it has ended at its start");
}

static bool copy_environment(void)
{
	size_t n = 0;

	while (environ[n])
		n++;
	back.environment = calloc(n + 3, sizeof *back.environment);
	if (!back.environment)
		return false;
	for (size_t i = 0; i < n; i++)
		back.environment[i] = environ[i];
	back.environment[n] = back.state_variable;
	back.environment[n + 1] = back.failed_variable;
	return true;
}

static bool copy_fds(json_t *fds)
{
	const char *name;
	json_t *fd;

	back.fds = calloc(json_object_size(fds) + 1, sizeof *back.fds);
	if (!back.fds)
		return false;
	json_object_foreach(fds, name, fd) back.fds[back.n++] = (int)json_integer_value(fd);
	return true;
}

/* A stack of its own, as that of the program may be what has overflowed. */
static void arm(json_t *fds, int state)
{
	static char stack[1 << 16];
	const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction action = {.sa_handler = on_fatal, .sa_flags = SA_NODEFER | SA_ONSTACK};

	back.state = state;
	back.program = (int)json_integer_value(json_object_get(fds, FORMER));
	(void)json_object_del(fds, FORMER);
	(void)snprintf(
	        back.state_variable, sizeof back.state_variable, STATE_VARIABLE "=%d", state);
	(void)snprintf(back.failed_variable, sizeof back.failed_variable,
	        FAILED_VARIABLE "=the new program has crashed at its start");
	if (!copy_fds(fds) || !copy_environment() || sigaltstack(&other, NULL) < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		(void)sigaction(fatal_signals[i], &action, NULL);
	(void)atexit(on_exit_early);
	(void)alarm(START_SECONDS);
	back.armed = true;
}

void upgrade_commit(void)
{
	if (!back.armed)
		return;
	back.armed = false;
	(void)alarm(0);
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		(void)signal(fatal_signals[i], SIG_DFL);
	(void)close_fd(back.program);
	(void)close_fd(back.state);
	free(back.fds);
	free(back.environment);
}

const char *upgrade_came_back(void)
{
	return came_back[0] ? came_back : NULL;
}

void upgrade_receive(void)
{
	const char *text = getenv(STATE_VARIABLE), *failed = getenv(FAILED_VARIABLE);
	uint64_t number;
	json_error_t e;
	json_t *fds;

	if (!text)
		return;
	if (!parse_number(text, INT_MAX, &number) || number <= STDERR_FILENO)
		number = INT_MAX;
	if (failed) {
		struct text t = TEXT_ON(came_back);

		text_add(&t, "%s; the running handoffd goes on", failed);
	}
	(void)unsetenv(STATE_VARIABLE);
	(void)unsetenv(FAILED_VARIABLE);
	received = json_loadfd((int)number, 0, &e);
	/* the process is the same, so it is really ours */
	if (!received || json_integer_value(json_object_get(received, "pid")) != getpid()) {
		json_decref(received);
		received = NULL;
		return;
	}
	fds = json_object_get(received, "fds");
	set_inherited(fds, false);
	(void)fcntl((int)number, F_SETFD, FD_CLOEXEC);
	if (!failed && json_object_get(fds, FORMER)) {
		arm(fds, (int)number);
		return;
	}
	(void)close_fd((int)number);
}

json_t *upgrade_take(void)
{
	json_t *doc = received;

	received = NULL;
	return doc;
}

bool upgrade_is_trial(void)
{
	bool is = getenv(TRY_VARIABLE) != NULL;

	(void)unsetenv(TRY_VARIABLE);
	return is;
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
		printf("%s\n", SNAPSHOT_OK_TRY);
	supervisor_free(s);
	action_list_done(&out);
	loader_done(&l);
	json_decref(doc);
	return wrong ? CODE_FAILED : CODE_DONE;
}
