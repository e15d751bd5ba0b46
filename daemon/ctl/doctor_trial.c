/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "conf/load.h"
#include "ctl/doctor.h"
#include "wire/interface.h"

#define PATIENCE (5 * USEC_PER_SEC)
#define ANSWER_TIME (2 * USEC_PER_SEC)
#define HALF "GET / HTTP/1.1\r\nHost: localhost\r\n"
#define REST "Connection: close\r\n\r\n"

usec_t doctor_now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (usec_t)t.tv_sec * USEC_PER_SEC + (usec_t)t.tv_nsec / 1000;
}

static int left_msec(usec_t deadline)
{
	return (int)((usec_sub(deadline, doctor_now()) + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
}

/* ---- handoffd ---- */

/* Beside handoffctl, or where the shell would find it. */
static void execute(const char *file)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof "handoffd");
	char *slash;

	path[n > 0 ? n : 0] = '\0';
	slash = strrchr(path, '/');
	if (slash) {
		(void)strcpy(slash + 1, "handoffd");
		(void)execl(path, "handoffd", "-c", file, (char *)NULL);
	}
	(void)execlp("handoffd", "handoffd", "-c", file, (char *)NULL);
}

static _noreturn_ void be_handoffd(const char *file, int words)
{
	static const char *const unwanted[] = {"HANDOFF_CONTROL", "HANDOFF_ENVIRONMENT",
	        "HANDOFF_LOG", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"};
	int null = open("/dev/null", O_RDWR);

	for (size_t i = 0; i < ARRAY_SIZE(unwanted); i++)
		(void)unsetenv(unwanted[i]);
	(void)dup2(null, 0);
	(void)dup2(words, 1);
	(void)dup2(words, 2);
	execute(file);
	dprintf(2, "handoffd cannot be executed: %s\n", strerror(errno));
	_exit(127);
}

static int write_configuration(const struct config *c, const char *file)
{
	_cleanup_free_ char *text = config_print(c);
	FILE *f = text ? fopen(file, "we") : NULL;
	bool bad = !f || fputs(text, f) < 0;

	if (f && fclose(f))
		bad = true;
	return bad ? complain(CODE_FAILED, "a trial cannot be prepared: %s", strerror(errno)) : 0;
}

int trial_start(struct trial *t, const char *top, const struct config *c)
{
	struct config copy = *c;
	char file[160];
	int ends[2];

	*t = (struct trial){.top = top, .pidfd = -1, .words_fd = -1, .events = json_array()};
	(void)snprintf(t->control, sizeof t->control, "%s/control", top);
	(void)snprintf(file, sizeof file, "%s/handoffd.conf", top);
	t->ctl = (struct ctl){.socket = t->control, .patience = PATIENCE};
	copy.control_socket = t->control;
	if (!t->events || write_configuration(&copy, file) || pipe2(ends, O_CLOEXEC) < 0)
		return CODE_FAILED;
	t->pid = fork();
	if (t->pid == 0)
		be_handoffd(file, ends[1]);
	(void)close(ends[1]);
	t->words_fd = ends[0];
	(void)fcntl(ends[0], F_SETFL, O_NONBLOCK);
	t->pidfd = t->pid < 0 ? -1 : pidfd_open(t->pid, 0);
	return t->pidfd < 0 ? complain(CODE_FAILED, "no process for a trial: %s", strerror(errno))
	                    : 0;
}

/* ---- what it says ---- */

static void listen_to_events(struct trial *t)
{
	t->connected = client_open(&t->client, &t->ctl) == 0 &&
	               client_send(&t->client, INTERFACE_MANAGER ".Events",
	                       json_pack("{s:b, s:i}", "follow", 1, "lines", 1000), true) == 0;
}

/* Its first line comes when the control socket is open. False at the end. */
static bool read_words(struct trial *t)
{
	char buffer[512];
	ssize_t n = read(t->words_fd, buffer, sizeof buffer);

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	if (t->n_words + (size_t)n >= sizeof t->words) {
		size_t drop = t->n_words + (size_t)n - sizeof t->words + 1;

		drop = drop < t->n_words ? drop : t->n_words;
		memmove(t->words, t->words + drop, t->n_words - drop);
		t->n_words -= drop;
	}
	memcpy(t->words + t->n_words, buffer, (size_t)n);
	t->n_words += (size_t)n;
	t->words[t->n_words] = '\0';
	if (!t->connected && t->client.fd <= 0 && memchr(t->words, '\n', t->n_words) &&
	        access(t->control, F_OK) == 0)
		listen_to_events(t);
	return true;
}

static bool take_events(struct trial *t)
{
	json_t *reply, *event;
	struct ho_error e;
	size_t i;
	int r = wire_reader_fill(&t->client.reader, t->client.fd);

	while (r > 0 && wire_reader_next(&t->client.reader, &reply, &e) > 0) {
		json_array_foreach(json_object_get(json_object_get(reply, "parameters"), "events"),
		        i, event)(void) json_array_append(t->events, event);
		json_decref(reply);
	}
	return r > 0;
}

static bool is_named(const json_t *event, const char *names)
{
	const char *name = member(event, "event");
	size_t n = strlen(name);

	for (const char *p = names; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (!strncmp(p, name, n) && (p[n] == '|' || p[n] == '\0'))
			return true;
	return false;
}

static const json_t *next_named(struct trial *t, const char *names)
{
	while (t->looked < json_array_size(t->events)) {
		const json_t *event = json_array_get(t->events, t->looked++);

		if (is_named(event, names))
			return event;
	}
	return NULL;
}

const json_t *trial_wait(struct trial *t, const char *names, usec_t deadline)
{
	const json_t *found;
	bool ended = false;

	while (!(found = next_named(t, names)) && !ended && doctor_now() < deadline) {
		struct pollfd p[] = {{.fd = t->words_fd, .events = POLLIN},
		        {.fd = t->connected ? t->client.fd : -1, .events = POLLIN}};

		if (poll(p, ARRAY_SIZE(p), left_msec(deadline)) < 0 && errno != EINTR)
			break;
		if (p[1].revents && !take_events(t)) {
			client_close(&t->client);
			t->connected = false;
		}
		if (p[0].revents && !read_words(t))
			ended = !t->connected;
		if (p[0].revents & POLLHUP)
			ended |= !t->connected;
	}
	return found ? found : next_named(t, names);
}

const json_t *trial_seen(const struct trial *t, const char *name, json_int_t generation)
{
	const json_t *event;
	size_t i;

	json_array_foreach(t->events, i, event)
	{
		if (!strcmp(member(event, "event"), name) &&
		        (!generation || json_integer_value(json_object_get(event, "generation")) ==
		                                generation))
			return event;
	}
	return NULL;
}

void trial_failure(struct trial *t, struct text *why)
{
	const json_t *failed = trial_seen(t, "generation-failed", 0);
	const char *words = strstr(t->words, "generation-failed ");

	if (failed) {
		text_add(why, "%s", member(failed, "text"));
		return;
	}
	/* It has ended before it could be asked: what it wrote has to do, and what the program did.
	 */
	words = words ? strstr(words, ": ") : NULL;
	if (words)
		text_add(why, "%.*s", (int)strcspn(words + 2, "\n"), words + 2);
	for (const char *line = t->words; *line; line += strcspn(line, "\n"), line += *line == '\n')
		if (strncmp(line, "handoffd: ", 10) != 0)
			text_add(why, "\n%.*s", (int)strcspn(line, "\n"), line);
	if (!why->len)
		text_add(why, "it does not answer");
}

pid_t trial_worker(const struct trial *t, json_int_t generation)
{
	const json_t *event = trial_seen(t, "worker-started", generation);

	return event ? (pid_t)json_integer_value(json_object_get(event, "pid")) : 0;
}

void trial_adopted(struct trial *t, struct text *where)
{
	json_t *reply = NULL, *item;
	const json_t *services;
	size_t i;

	(void)client_ask(&t->ctl, INTERFACE_MANAGER ".GetStatus", json_object(), &reply);
	services = json_object_get(json_object_get(reply, "status"), "services");
	json_array_foreach(json_object_get(json_array_get(services, 0), "listeners"), i, item)
	{
		if (!strcmp(member(item, "origin"), "adopted"))
			text_add(where, "%s%s", where->len ? ", " : "", member(item, "form"));
	}
	json_decref(reply);
}

int trial_reload(struct trial *t)
{
	json_t *reply = NULL;
	int r = client_ask(
	        &t->ctl, INTERFACE_MANAGER ".Reload", json_pack("{s:s}", "wait", "none"), &reply);

	json_decref(reply);
	return r;
}

void trial_end(struct trial *t)
{
	siginfo_t info;

	if (t->connected)
		client_close(&t->client);
	if (t->pid > 0) {
		(void)kill(t->pid, SIGKILL);
		(void)waitid(P_PID, (id_t)t->pid, &info, WEXITED);
		/* All of the namespace but its first and us: nobody else is there (see shield_run).
		 */
		if (getpid() == 2 && getppid() == 1)
			(void)kill(-1, SIGKILL);
	}
	if (t->pidfd >= 0)
		(void)close(t->pidfd);
	if (t->words_fd >= 0)
		(void)close(t->words_fd);
	(void)unlink(t->control);
	json_decref(t->events);
	*t = (struct trial){.pidfd = -1, .words_fd = -1};
}

/* ---- connections ---- */

int doctor_connect(const struct address *a)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	} s = {0};
	struct timeval patience = {.tv_sec = ANSWER_TIME / USEC_PER_SEC};
	static const uint8_t zeros[16];
	bool any = !memcmp(a->ip, zeros, a->ipv6 ? 16 : 4);
	bool v6 = a->ipv6 && !(any && a->dual);
	socklen_t n;
	int fd;

	if (a->kind == ADDRESS_UNIX || a->kind == ADDRESS_ABSTRACT) {
		s.un.sun_family = AF_UNIX;
		(void)copy_string(s.un.sun_path + (a->kind == ADDRESS_ABSTRACT),
		        sizeof s.un.sun_path - 1, a->path);
		n = a->kind == ADDRESS_UNIX ? (socklen_t)sizeof s.un
		                            : (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
		                                          1 + strlen(a->path));
	} else if (v6) {
		s.in6.sin6_family = AF_INET6;
		s.in6.sin6_port = htons(a->port);
		memcpy(&s.in6.sin6_addr, any ? (const void *)&in6addr_loopback : a->ip, 16);
		n = sizeof s.in6;
	} else {
		s.in.sin_family = AF_INET;
		s.in.sin_port = htons(a->port);
		if (any)
			s.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		else
			memcpy(&s.in.sin_addr, a->ip, 4);
		n = sizeof s.in;
	}
	fd = socket(s.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	if (connect(fd, &s.any, n) < 0) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

/* 1: it said something, 0: nothing until the time is over, -1: the connection has ended. */
static int heard(int fd, usec_t wait)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char c;

	if (poll(&p, 1, (int)(wait / USEC_PER_MSEC)) <= 0)
		return 0;
	return recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 1 ? 1 : -1;
}

static bool exited(int pidfd, usec_t wait)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, (int)(wait / USEC_PER_MSEC)) == 1;
}

/* Is it HTTP? Then a request that was begun is one that is in flight. */
static bool speaks_http(const struct address *a)
{
	int fd = doctor_connect(a);
	bool answers = fd >= 0 && send(fd, HALF REST, strlen(HALF REST), MSG_NOSIGNAL) > 0 &&
	               heard(fd, ANSWER_TIME) == 1;
	char head[5] = "";

	if (answers)
		(void)!recv(fd, head, 4, MSG_DONTWAIT);
	if (fd >= 0)
		(void)close(fd);
	return answers && !strcmp(head, "HTTP");
}

/* Children may leave a moment after their parent. */
static unsigned left_behind(pid_t handoffd)
{
	unsigned n = look_others(handoffd);

	for (int i = 0; n > 0 && i < 10; i++) {
		(void)poll(NULL, 0, 50);
		n = look_others(handoffd);
	}
	return n;
}

struct farewell trial_farewell(struct trial *t, const struct address *a, pid_t pid, int signo)
{
	bool http = a && speaks_http(a);
	int pidfd = pidfd_open(pid, 0), fd = a ? doctor_connect(a) : -1;
	struct farewell f = {.tried = pidfd >= 0};
	usec_t told;

	if (!f.tried)
		goto out;
	f.had_request = http && fd >= 0 && send(fd, HALF, strlen(HALF), MSG_NOSIGNAL) > 0;
	/* it has to have read what was sent: until then the request is only on its way */
	if (fd >= 0 && heard(fd, 300 * USEC_PER_MSEC) != 0)
		f.had_request = false;
	(void)kill(t->pid, SIGSTOP); /* it would see to what is left behind */
	told = doctor_now();
	(void)pidfd_send_signal(pidfd, signo, NULL, 0);
	if (fd >= 0) {
		f.cut = heard(fd, 300 * USEC_PER_MSEC) < 0;
		if (!f.cut && f.had_request)
			f.answered = send(fd, REST, strlen(REST), MSG_NOSIGNAL) > 0 &&
			             heard(fd, ANSWER_TIME) == 1;
		f.cut |= f.had_request && !f.answered;
		(void)close(fd);
		fd = -1;
	}
	f.exited = exited(pidfd, 5 * USEC_PER_SEC);
	f.exit_after = doctor_now() - told;
	f.left = f.exited ? left_behind(t->pid) : 0;
	(void)kill(t->pid, SIGCONT);
out:
	if (fd >= 0)
		(void)close(fd);
	if (pidfd >= 0)
		(void)close(pidfd);
	return f;
}
