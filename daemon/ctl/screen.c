/* SPDX-License-Identifier: MIT */
/* The terminal as a whole: the alternate screen without echo and cursor. Signals that would end or
 * stop the program come through a descriptor, so that the terminal is given back first; a crash
 * gives it back by a handler. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "ctl/ctl.h"

#define ENTER "\033[?1049h\033[?25l\033[?7l"
#define LEAVE "\033[?7h\033[?25h\033[?1049l"

struct screen {
	int signals;
	sigset_t mask_before;
	unsigned columns, lines;
};

/* For restoring from everywhere, a handler of signals included. */
static struct termios terminal_before;
static volatile sig_atomic_t taken;

static void put(const char *bytes, size_t n)
{
	while (n > 0) {
		ssize_t written = write(STDOUT_FILENO, bytes, n);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return;
		bytes += written;
		n -= (size_t)written;
	}
}

void screen_restore(void)
{
	if (!taken)
		return;
	taken = 0;
	put(LEAVE, sizeof LEAVE - 1);
	(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_before);
}

static void on_crash(int signo)
{
	screen_restore();
	(void)raise(signo); /* the handler was for one time */
}

static void take(void)
{
	struct termios t = terminal_before;

	t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	taken = 1;
	(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
	put(ENTER, sizeof ENTER - 1);
}

static void measure(struct screen *s)
{
	struct winsize size = {0};

	(void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
	s->columns = size.ws_col >= 20 ? size.ws_col : 80;
	s->lines = size.ws_row >= 2 ? size.ws_row : 24;
}

bool screen_possible(void)
{
	return terminal_columns() && isatty(STDIN_FILENO);
}

int screen_open(struct screen **ret)
{
	static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH};
	static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	const struct sigaction crash = {.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND};
	struct screen *s;
	sigset_t set;

	if (!screen_possible() || tcgetattr(STDIN_FILENO, &terminal_before))
		return complain(CODE_USAGE, "this needs a terminal");
	s = calloc(1, sizeof *s);
	if (!s)
		return complain(CODE_FAILED, "memory is short");
	(void)sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		(void)sigaddset(&set, ends[i]);
	(void)sigprocmask(SIG_BLOCK, &set, &s->mask_before);
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signals < 0) {
		int e = errno;

		(void)screen_close(s);
		return complain(CODE_FAILED, "no signals can be read: %s", strerror(e));
	}
	for (size_t i = 0; i < ARRAY_SIZE(crashes); i++)
		(void)sigaction(crashes[i], &crash, NULL);
	(void)atexit(screen_restore);
	measure(s);
	take();
	*ret = s;
	return 0;
}

struct screen *screen_close(struct screen *s)
{
	if (!s)
		return NULL;
	screen_restore();
	if (s->signals >= 0)
		(void)close(s->signals);
	(void)sigprocmask(SIG_SETMASK, &s->mask_before, NULL);
	free(s);
	return NULL;
}

unsigned screen_columns(const struct screen *s)
{
	return s->columns;
}

/* How much of the line fits; colours take no room. */
static size_t fitting(const char *line, size_t n, unsigned columns)
{
	unsigned used = 0;
	size_t i = 0;

	while (i < n) {
		if (line[i] == '\033') {
			while (i < n && line[i] != 'm')
				i++;
			i += i < n;
			continue;
		}
		if (((unsigned char)line[i] & 0xc0) != 0x80 && used++ == columns)
			return i;
		i++;
	}
	return n;
}

void screen_show(struct screen *s, const char *text)
{
	_cleanup_free_ char *out = NULL;
	size_t size;
	FILE *f = open_memstream(&out, &size);

	if (!f)
		return;
	(void)fputs("\033[H", f);
	for (unsigned line = 0; *text && line < s->lines; line++) {
		size_t n = strcspn(text, "\n");
		bool last = line + 1 == s->lines;

		/* More than fits: say so where it ends. */
		if (last && text[n] && text[n + 1])
			(void)fputs("...\033[K", f);
		else
			(void)fprintf(f, "%.*s\033[0m\033[K%s", (int)fitting(text, n, s->columns),
			        text, last ? "" : "\r\n");
		text += n + (text[n] == '\n');
	}
	(void)fputs("\033[J", f);
	if (!fclose(f))
		put(out, size);
}

/* Stopped by the shell's job control, and going on. */
static void pause_here(void)
{
	screen_restore();
	(void)raise(SIGSTOP);
	take();
}

static enum screen_event take_signal(struct screen *s)
{
	struct signalfd_siginfo si;

	while (read(s->signals, &si, sizeof si) == sizeof si) {
		if (si.ssi_signo == SIGTSTP)
			pause_here();
		else if (si.ssi_signo != SIGWINCH)
			return SCREEN_QUIT;
	}
	measure(s);
	return SCREEN_RESIZED;
}

enum screen_event screen_wait(struct screen *s, int fd)
{
	struct pollfd p[] = {{.fd = s->signals, .events = POLLIN},
	        {.fd = STDIN_FILENO, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	char key;

	for (;;) {
		if (poll(p, ARRAY_SIZE(p), -1) < 0)
			return errno == EINTR ? SCREEN_RESIZED : SCREEN_QUIT;
		if (p[0].revents)
			return take_signal(s);
		if (p[1].revents) {
			if (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q')
				return SCREEN_QUIT;
			continue;
		}
		return SCREEN_READABLE;
	}
}
