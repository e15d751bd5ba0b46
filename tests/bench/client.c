/* SPDX-License-Identifier: MIT */
/* The stop watch of the benchmark. All servers that it asks, at 127.0.0.1:PORT, put "pid=NUMBER"
 * into their answers; all times are nanoseconds of CLOCK_MONOTONIC. It ends with its standard
 * input.
 *
 * - watch PORT: asks every 250 us, prints "PID TIME" for each pid not met before.
 * - start PORT COMMAND...: runs the command, prints the time from exec to its first answer.
 * - hold PORT N SOURCE: opens N connections from the address SOURCE and prints "held N"; on a line
 *   of input it closes them and prints when the last close began. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PACE_NSEC 250000
#define PIDS_MAX 65536
#define HELD_MAX 60000

extern char **environ;

static struct sockaddr_in server = {.sin_family = AF_INET};

static void die(const char *what)
{
	(void)fprintf(stderr, "bench-client: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The pid that answered, or 0. */
static long ask(void)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
	const struct timeval limit = {.tv_sec = 10};
	char answer[8192];
	size_t n = 0;
	ssize_t got = 1;
	const char *at;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0 ||
	        send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
		got = 0;
	while (got > 0 && n < sizeof answer - 1) {
		got = recv(fd, answer + n, sizeof answer - 1 - n, 0);
		n += got > 0 ? (size_t)got : 0;
	}
	(void)close(fd);
	answer[n] = '\0';
	at = strstr(answer, "pid=");
	return at ? atol(at + 4) : 0;
}

/* False when the input has ended. */
static bool pause_between(void)
{
	const struct timespec pace = {.tv_nsec = PACE_NSEC};
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};

	return ppoll(&in, 1, &pace, NULL) == 0;
}

/* A line for each process that has not answered before; with `turns` for each that was not the last
 * one to answer. */
static int watch(bool turns)
{
	static bool known[PIDS_MAX];
	long last = 0;

	do {
		long pid = ask();

		if (pid > 0 && pid < PIDS_MAX && (turns ? pid != last : !known[pid])) {
			known[last = pid] = true;
			(void)printf("%ld %lld\n", pid, now());
		}
	} while (pause_between());
	return 0;
}

static int start(char **command)
{
	posix_spawn_file_actions_t actions;
	long long before, after = 0;
	pid_t pid;

	if (posix_spawn_file_actions_init(&actions) ||
	        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0) ||
	        posix_spawn_file_actions_adddup2(&actions, 1, 2))
		die("posix_spawn");
	before = now();
	errno = posix_spawnp(&pid, *command, &actions, NULL, command, environ);
	if (errno)
		die(*command);
	(void)posix_spawn_file_actions_destroy(&actions);
	do {
		if (ask() > 0)
			after = now();
	} while (!after && waitpid(pid, NULL, WNOHANG) == 0 && pause_between());
	if (!after) {
		errno = ECHILD;
		die(*command);
	}
	(void)printf("%lld\n", after - before);
	(void)kill(pid, SIGTERM);
	(void)waitpid(pid, NULL, 0);
	return 0;
}

static int hold_one(const char *source)
{
	struct sockaddr_in from = {.sin_family = AF_INET};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || inet_pton(AF_INET, source, &from.sin_addr) != 1 ||
	        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) < 0 ||
	        bind(fd, (struct sockaddr *)&from, sizeof from) < 0 ||
	        connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
		die(source);
	return fd;
}

static int hold(int n, const char *source)
{
	static int fds[HELD_MAX];
	long long last = 0;
	char line[16];

	if (n < 1 || n > HELD_MAX)
		die("too many connections");
	for (int i = 0; i < n; i++)
		fds[i] = hold_one(source);
	(void)printf("held %d\n", n);
	if (!fgets(line, sizeof line, stdin))
		return 0;
	for (int i = 0; i < n; i++) {
		last = now();
		(void)close(fds[i]);
	}
	(void)printf("%lld\n", last);
	return 0;
}

int main(int argc, char **argv)
{
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	(void)prctl(PR_SET_TIMERSLACK, 1000);
	(void)inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
	server.sin_port = htons((uint16_t)(argc > 2 ? atoi(argv[2]) : 0));
	if (argc == 3 && strcmp(argv[1], "watch") == 0)
		return watch(false);
	if (argc == 3 && strcmp(argv[1], "turns") == 0)
		return watch(true);
	if (argc > 3 && strcmp(argv[1], "start") == 0)
		return start(argv + 3);
	if (argc == 5 && strcmp(argv[1], "hold") == 0)
		return hold(atoi(argv[3]), argv[4]);
	(void)fprintf(stderr, "usage: bench-client watch|turns PORT | start PORT COMMAND... | "
	                      "hold PORT N SOURCE\n");
	return 2;
}
