/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/doctor.h"

#define MOUNTS_MAX 512
#define WHERE_MAX 40 /* the control socket has to fit behind it */
#define FILES_MAX 4096
#define DEPTH_MAX 24

/* ---- namespaces ---- */

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		(void)close(fd);
	return ok;
}

/* Only the own id exists in there. */
static bool map_id(const char *path, unsigned id)
{
	char text[64];

	(void)snprintf(text, sizeof text, "%u %u 1", id, id);
	return write_file(path, text);
}

static bool enter_namespaces(void)
{
	const int flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID;
	unsigned uid = (unsigned)geteuid(), gid = (unsigned)getegid();

	if (unshare(flags) == 0)
		return true;
	if (unshare(flags | CLONE_NEWUSER) < 0)
		return false;
	(void)write_file("/proc/self/setgroups", "deny");
	return map_id("/proc/self/uid_map", uid) && map_id("/proc/self/gid_map", gid);
}

/* Every address is one of this machine: whatever the service listens on is there, and what it looks
 * for elsewhere is refused at once. */
static void make_all_local(int nl, int family)
{
	struct {
		struct nlmsghdr h;
		struct rtmsg m;
		struct rtattr a;
		uint32_t interface;
	} q = {.h = {.nlmsg_len = sizeof q,
	               .nlmsg_type = RTM_NEWROUTE,
	               .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE},
	        .m = {.rtm_family = (unsigned char)family,
	                .rtm_table = RT_TABLE_LOCAL,
	                .rtm_protocol = RTPROT_BOOT,
	                .rtm_scope = RT_SCOPE_HOST,
	                .rtm_type = RTN_LOCAL},
	        .a = {.rta_len = RTA_LENGTH(sizeof q.interface), .rta_type = RTA_OIF},
	        .interface = if_nametoindex("lo")};

	(void)send(nl, &q, sizeof q, 0);
}

static void bring_up_network(void)
{
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd >= 0)
		(void)ioctl(fd, SIOCSIFFLAGS, &lo);
	if (nl >= 0) {
		make_all_local(nl, AF_INET);
		make_all_local(nl, AF_INET6);
	}
	(void)write_file("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
	(void)close(fd);
	(void)close(nl);
}

/* ---- file systems ---- */

static bool is_below(const char *path, const char *top)
{
	size_t n = strlen(top);

	return !strncmp(path, top, n) && (path[n] == '\0' || path[n] == '/');
}

static bool is_kernels(const char *path)
{
	return is_below(path, "/proc") || is_below(path, "/sys") || is_below(path, "/dev");
}

/* "\040" for a blank and so on, in place. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		unsigned c;

		if (s[0] == '\\' && sscanf(s + 1, "%3o", &c) == 1) {
			*to++ = (char)c;
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

static bool can_be_layered(const char *path)
{
	struct stat st;

	return !strpbrk(path, ":,\\") && stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
	       strlen(path) < sizeof(((struct shield *)0)->at[0]);
}

static bool cover(struct shield *s, const char *path)
{
	char upper[160], work[160], to[400], options[1000];
	size_t i = s->n_layers;

	if (i == ARRAY_SIZE(s->at) || !can_be_layered(path))
		return false;
	s->n_layers++; /* what fails leaves something in its directories */
	(void)snprintf(upper, sizeof upper, "%s/%zu", s->layers, i);
	(void)snprintf(work, sizeof work, "%s/work%zu", s->top, i);
	(void)snprintf(to, sizeof to, "%s/root%s", s->top, path);
	if (mkdir(upper, 0755) < 0 || mkdir(work, 0755) < 0)
		return false;
	for (int user = 0; user < 2; user++) {
		(void)snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s%s",
		        path, upper, work, user ? ",userxattr" : "");
		if (mount("overlay", to, "overlay", 0, options) == 0) {
			(void)copy_string(s->at[i], sizeof s->at[i], path);
			return true;
		}
	}
	return false;
}

static void bind_in(const struct shield *s, const char *path, unsigned long flags)
{
	char to[400];

	(void)snprintf(to, sizeof to, "%s/root%s", s->top, path);
	(void)mount(path, to, NULL, MS_BIND | flags, NULL);
}

/* What cannot be covered shall at least stay as it is. */
static void keep_as_it_is(struct shield *s, const char *path)
{
	struct text bare = {.p = s->bare, .size = sizeof s->bare, .len = strlen(s->bare)};
	char to[400];

	bind_in(s, path, MS_REC);
	(void)snprintf(to, sizeof to, "%s/root%s", s->top, path);
	(void)mount(NULL, to, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL);
	text_add(&bare, "%s%s", bare.len ? ", " : "", path);
}

/* One line of mountinfo(5): the point, and whether it can be written. */
static void take_mount(struct shield *s, char *line)
{
	char point[256], flags[256];

	if (sscanf(line, "%*s %*s %*s %*s %255s %255s", point, flags) != 2)
		return;
	unescape(point);
	if (!strcmp(point, "/") || is_below(point, s->top) || is_kernels(point))
		return;
	if (!strncmp(flags, "ro", 2))
		bind_in(s, point, 0);
	else if (!cover(s, point))
		keep_as_it_is(s, point);
}

/* In a namespace of an ordinary user "/" itself cannot be covered, as what is mounted below it is
 * not his to take away; but what is in it can. */
static bool cover_each(struct shield *s)
{
	char path[300], to[400], link[256];
	struct dirent *entry;
	DIR *d = opendir("/");
	struct stat st;
	ssize_t n;

	while (d && (entry = readdir(d))) {
		(void)snprintf(path, sizeof path, "/%s", entry->d_name);
		(void)snprintf(to, sizeof to, "%s/root%s", s->top, path);
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
		        lstat(path, &st) < 0)
			continue;
		if (S_ISLNK(st.st_mode) && (n = readlink(path, link, sizeof link - 1)) > 0) {
			link[n] = '\0';
			(void)!symlink(link, to);
		} else if (S_ISDIR(st.st_mode) && mkdir(to, 0755) == 0 && !is_kernels(path) &&
		           !cover(s, path)) {
			keep_as_it_is(s, path);
		}
	}
	if (d)
		(void)closedir(d);
	return d != NULL;
}

static bool build_root(struct shield *s)
{
	char path[160], line[4096];
	FILE *f;

	(void)mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	if (mount("doctor", s->top, "tmpfs", MS_NOSUID, "mode=0755") < 0)
		return false;
	(void)snprintf(s->layers, sizeof s->layers, "%s/layers", s->top);
	(void)snprintf(path, sizeof path, "%s/root", s->top);
	if (mkdir(s->layers, 0755) < 0 || mkdir(path, 0755) < 0 ||
	        (!cover(s, "/") && !cover_each(s)))
		return false;
	bind_in(s, "/dev", MS_REC);
	bind_in(s, "/sys", MS_REC);
	f = fopen("/proc/self/mountinfo", "re");
	if (!f)
		return false;
	for (int i = 0; i < MOUNTS_MAX && fgets(line, sizeof line, f); i++)
		take_mount(s, line);
	(void)cover(s, "/dev/shm");
	(void)fclose(f);
	bind_in(s, s->top, 0);
	return true;
}

static bool enter_root(const struct shield *s)
{
	_cleanup_free_ char *here = getcwd(NULL, 0);
	char path[160];

	(void)snprintf(path, sizeof path, "%s/root/proc", s->top);
	if (mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		bind_in(s, "/proc", MS_REC);
	(void)snprintf(path, sizeof path, "%s/root", s->top);
	if (chroot(path) < 0 || chdir("/") < 0)
		return false;
	if (here)
		(void)!chdir(here);
	return true;
}

/* ---- processes ---- */

/* Process 1 of the namespace: collects what has ended. With its end everything ends. */
static _noreturn_ void be_first(struct shield *s, int (*inside)(void *), void *data)
{
	int status;
	pid_t pid, ended;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	bring_up_network();
	if (!enter_root(s)) {
		(void)complain(
		        CODE_FAILED, "no place for the trial can be made: %s", strerror(errno));
		_exit(CODE_FAILED);
	}
	pid = fork();
	if (pid == 0) {
		int r = inside(data);

		(void)fflush(stdout);
		_exit(r);
	}
	do
		ended = waitpid(-1, &status, 0);
	while (ended != pid && (ended > 0 || errno == EINTR));
	_exit(ended == pid && WIFEXITED(status) ? WEXITSTATUS(status) : CODE_FAILED);
}

static _noreturn_ void make_place(struct shield *s, int (*inside)(void *), void *data)
{
	int status;
	pid_t pid;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!enter_namespaces() || !build_root(s)) {
		(void)complain(CODE_NOT_ALLOWED,
		        "the program cannot be tried without touching the running service: no "
		        "namespaces with a layer over the files can be made here (%s); run it as "
		        "root",
		        strerror(errno));
		_exit(CODE_NOT_ALLOWED);
	}
	pid = fork();
	if (pid == 0)
		be_first(s, inside, data);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	_exit(pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : CODE_FAILED);
}

/* Waits for its end, and brings that about when somebody wants us to end, or it takes too long. */
static int wait_for(pid_t pid, int signals, usec_t limit)
{
	struct pollfd p[] = {
	        {.fd = pidfd_open(pid, 0), .events = POLLIN}, {.fd = signals, .events = POLLIN}};
	siginfo_t info = {0};
	int r = p[0].fd < 0 ? -1 : poll(p, ARRAY_SIZE(p), (int)(limit / USEC_PER_MSEC));

	if (r <= 0 || !p[0].revents)
		(void)kill(pid, SIGKILL);
	(void)waitid(P_PID, (id_t)pid, &info, WEXITED);
	if (p[0].fd >= 0)
		(void)close(p[0].fd);
	if (r == 0)
		return complain(CODE_TIMED_OUT, "the trial took too long and was ended");
	return info.si_code == CLD_EXITED ? info.si_status : CODE_FAILED;
}

int shield_run(struct shield *s, usec_t limit, int (*inside)(void *data), void *data)
{
	static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	const char *where = getenv("TMPDIR");
	sigset_t set, before;
	int r, signals;
	pid_t pid;

	(void)snprintf(s->top, sizeof s->top, "%s/handoff-doctor.XXXXXX",
	        where && *where == '/' && strlen(where) < WHERE_MAX ? where : "/tmp");
	if (!mkdtemp(s->top))
		return complain(CODE_FAILED, "%s cannot be made: %s", s->top, strerror(errno));
	(void)chmod(s->top, 0755);
	(void)fflush(stdout);
	(void)sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		(void)sigaddset(&set, ends[i]);
	(void)sigprocmask(SIG_BLOCK, &set, &before);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	pid = fork();
	if (pid == 0) {
		(void)sigprocmask(SIG_SETMASK, &before, NULL);
		make_place(s, inside, data);
	}
	r = pid < 0 ? complain(CODE_FAILED, "no process for a trial: %s", strerror(errno))
	            : wait_for(pid, signals, limit);
	(void)rmdir(s->top);
	(void)close(signals);
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	return r;
}

/* ---- what was written ---- */

struct walk {
	const struct shield *shield;
	void (*each)(void *data, const char *path, mode_t mode);
	void *data;
	size_t left;
};

static void walk(struct walk *w, const char *layer, const char *path, int depth)
{
	char below[512], shown[512];
	struct dirent *entry;
	struct stat st;
	DIR *d = depth < DEPTH_MAX ? opendir(layer) : NULL;

	while (d && w->left && (entry = readdir(d))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (snprintf(below, sizeof below, "%s/%s", layer, entry->d_name) >=
		                (int)sizeof below ||
		        snprintf(shown, sizeof shown, "%s/%s", path, entry->d_name) >=
		                (int)sizeof shown ||
		        lstat(below, &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode)) {
			walk(w, below, shown, depth + 1);
		} else if (!S_ISCHR(st.st_mode) && !S_ISLNK(st.st_mode)) { /* a white-out is one */
			w->left--;
			w->each(w->data, shown, st.st_mode);
		}
	}
	if (d)
		(void)closedir(d);
}

void shield_written(
        const struct shield *s, void (*each)(void *data, const char *path, mode_t mode), void *data)
{
	struct walk w = {s, each, data, FILES_MAX};
	char layer[160];

	for (size_t i = 0; i < s->n_layers; i++) {
		if (!*s->at[i])
			continue;
		(void)snprintf(layer, sizeof layer, "%s/%zu", s->layers, i);
		walk(&w, layer, strcmp(s->at[i], "/") ? s->at[i] : "", 0);
	}
}
