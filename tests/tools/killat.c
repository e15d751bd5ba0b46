/* SPDX-License-Identifier: MIT */
/* handoff-killat PID [N]: kills a process with SIGKILL at a point that can be named: before the Nth
 * of its system calls from now on that others could notice the lack of. What a process does is
 * seen by others through those only, so N = 1, 2, 3 … goes through every state that a crash can
 * leave behind, whatever the process has in mind. Nothing of this is in the process itself.
 *
 * Says "armed" as soon as it counts. Ends with 0 and the call when it has killed, with 2 when the
 * process ended by itself, and by SIGTERM with 3 and the number of calls until then; without N it
 * only counts. 77: not permitted. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALL(name)                                                                                 \
	{                                                                                          \
		SYS_##name, #name                                                                  \
	}

/* What is left out reads, waits, or changes the process itself only. */
static const struct {
	long number;
	const char *name;
} calls[] = {
        CALL(bind),
        CALL(listen),
        CALL(connect),
        CALL(accept4),
        CALL(shutdown),
        CALL(setsockopt),
        CALL(sendto),
        CALL(sendmsg),
        CALL(close),
        CALL(write),
        CALL(writev),
        CALL(pwrite64),
        CALL(ftruncate),
        CALL(fcntl),
        CALL(ioctl),
        CALL(bpf),
        CALL(kill),
        CALL(pidfd_send_signal),
        CALL(pidfd_getfd),
        CALL(clone),
        CALL(clone3),
        CALL(vfork),
        CALL(fork),
        CALL(execve),
        CALL(waitid),
        CALL(wait4),
        CALL(unlink),
        CALL(unlinkat),
        CALL(rename),
        CALL(renameat),
        CALL(renameat2),
        CALL(link),
        CALL(linkat),
        CALL(symlink),
        CALL(symlinkat),
        CALL(mkdir),
        CALL(mkdirat),
        CALL(rmdir),
        CALL(chmod),
        CALL(fchmod),
        CALL(fchmodat),
        CALL(chown),
        CALL(fchown),
        CALL(fchownat),
        CALL(socket),
};

/* Of a call that counts; or NULL. */
static const char *name_of(const struct __ptrace_syscall_info *call)
{
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		if ((long)call->entry.nr != calls[i].number)
			continue;
		/* of these only what is seen through other descriptors of the same file */
		if (calls[i].number == SYS_fcntl && call->entry.args[1] != F_SETFL)
			return NULL;
		return calls[i].name;
	}
	return NULL;
}

static int fail(const char *what)
{
	int code = errno == EPERM ? 77 : 1;

	(void)fprintf(stderr, "handoff-killat: %s: %s\n", what, strerror(errno));
	return code;
}

/* One stop of the process; true: at the call before which it shall end. */
static bool look(pid_t pid, int status, unsigned long wanted, unsigned long *count, int *ret_signal)
{
	struct __ptrace_syscall_info call;
	const char *name;

	*ret_signal = 0;
	if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
		/* a signal of its own is passed on, but not what tracing stops it by */
		if (status >> 16 == 0)
			*ret_signal = WSTOPSIG(status);
		return false;
	}
	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof call, &call) <= 0 ||
	        call.op != PTRACE_SYSCALL_INFO_ENTRY)
		return false;
	name = name_of(&call);
	if (!name || ++*count != wanted)
		return false;
	(void)printf("%lu %s(%lld, %lld, %lld)\n", *count, name, (long long)call.entry.args[0],
	        (long long)call.entry.args[1], (long long)call.entry.args[2]);
	return true;
}

/* Until something has happened to the process, or we are told to end: then false. */
static bool wait_for_news(void)
{
	sigset_t news;
	int signo;

	(void)sigemptyset(&news);
	(void)sigaddset(&news, SIGCHLD);
	(void)sigaddset(&news, SIGTERM);
	return sigwait(&news, &signo) == 0 && signo == SIGCHLD;
}

static int follow(pid_t pid, unsigned long wanted)
{
	unsigned long count = 0;
	bool armed = false;
	int status, signo;
	pid_t r;

	for (;;) {
		while ((r = waitpid(pid, &status, __WALL | WNOHANG)) == 0)
			if (!wait_for_news()) {
				(void)printf("%lu calls\n", count);
				return 3; /* it is let go by our end */
			}
		if (r < 0)
			return fail("waiting");
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			(void)printf("%lu calls, then it ended\n", count);
			return 2;
		}
		if (look(pid, status, wanted, &count, &signo)) {
			if (kill(pid, SIGKILL) < 0 || waitpid(pid, &status, __WALL) < 0)
				return fail("killing");
			return 0;
		}
		if (ptrace(PTRACE_SYSCALL, pid, 0, signo) < 0 && errno != ESRCH)
			return fail("going on");
		if (!armed)
			(void)printf("armed\n");
		armed = true;
	}
}

int main(int argc, char **argv)
{
	sigset_t all;
	pid_t pid = argc > 1 ? (pid_t)strtol(argv[1], NULL, 10) : 0;
	unsigned long wanted = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;

	if (pid <= 1 || argc > 3) {
		(void)fprintf(stderr, "usage: handoff-killat PID [N]\n");
		return 64;
	}
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	(void)sigfillset(&all);
	(void)sigprocmask(SIG_BLOCK, &all, NULL);
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) < 0 ||
	        ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
		return fail("tracing");
	return follow(pid, wanted);
}
