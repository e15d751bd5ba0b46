/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/capability.h"
#include "ctl/doctor.h"

#define FILES_MAX 512
#define SMALL 64

/* A file that was written, with its first bytes if it is small: a pid file holds a number. */
struct written {
	char path[300];
	mode_t mode;
	char text[SMALL];
};

struct look {
	struct written files[FILES_MAX];
	size_t n_files;
	char listening[32][80];
	size_t n_listening;
};

/* ---- one look ---- */

static void add_file(void *data, const char *path, mode_t mode)
{
	struct look *l = data;
	struct written *w = &l->files[l->n_files];
	ssize_t n;
	int fd;

	if (l->n_files == FILES_MAX || !copy_string(w->path, sizeof w->path, path))
		return;
	*w->text = '\0';
	w->mode = mode;
	l->n_files++;
	if (!S_ISREG(mode))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	n = fd < 0 ? -1 : read(fd, w->text, sizeof w->text - 1);
	w->text[n > 0 ? n : 0] = '\0';
	if (fd >= 0)
		(void)close(fd);
}

/* tcp(5): "sl local remote st …", the address in host order by 32 bits. */
static void add_listening(struct look *l, const char *line, bool v6)
{
	unsigned port, state, word[4];
	unsigned char ip[16] = {0};
	char text[INET6_ADDRSTRLEN] = "";
	int n = v6 ? sscanf(line, "%*d: %8x%8x%8x%8x:%x %*x:%*x %x", &word[0], &word[1], &word[2],
	                     &word[3], &port, &state) -
	                        3
	           : sscanf(line, "%*d: %8x:%x %*x:%*x %x", &word[0], &port, &state);

	if (n != 3 || state != 0x0a || l->n_listening == ARRAY_SIZE(l->listening))
		return;
	memcpy(ip, word, v6 ? 16 : 4);
	(void)inet_ntop(v6 ? AF_INET6 : AF_INET, ip, text, sizeof text);
	(void)snprintf(l->listening[l->n_listening++], sizeof l->listening[0],
	        v6 ? "[%s]:%u" : "%s:%u", text, port);
}

static void read_listening(struct look *l, const char *path, bool v6)
{
	FILE *f = fopen(path, "re");
	char line[512];

	while (f && fgets(line, sizeof line, f))
		add_listening(l, line, v6);
	if (f)
		(void)fclose(f);
}

struct look *look_new(const struct shield *s, const struct trial *t)
{
	struct look *l = calloc(1, sizeof *l);

	(void)t;
	if (!l)
		return NULL;
	shield_written(s, add_file, l);
	read_listening(l, "/proc/net/tcp", false);
	read_listening(l, "/proc/net/tcp6", true);
	return l;
}

struct look *look_free(struct look *l)
{
	free(l);
	return NULL;
}

/* ---- what collides ---- */

static const struct written *find(const struct look *l, const char *path)
{
	for (size_t i = 0; i < l->n_files; i++)
		if (!strcmp(l->files[i].path, path))
			return &l->files[i];
	return NULL;
}

/* A number and nothing else, or 0. */
static long pid_in(const struct written *w)
{
	char *end;
	long n = strtol(w->text, &end, 10);

	while (isspace((unsigned char)*end))
		end++;
	return S_ISREG(w->mode) && isdigit((unsigned char)*w->text) && *end == '\0' && n > 1 ? n
	                                                                                     : 0;
}

static bool looks_like_lock(const char *path)
{
	const char *dot = strrchr(path, '.');

	return dot && (!strcmp(dot, ".lock") || !strcmp(dot, ".lck"));
}

static void compare_files(struct findings *f, const struct look *one, const struct look *both)
{
	for (size_t i = 0; i < both->n_files; i++) {
		const struct written *now = &both->files[i], *was = find(one, now->path);

		if (was && pid_in(was) && pid_in(now) && pid_in(was) != pid_in(now))
			finding(f, "pid file", VERDICT_BAD,
			        "both generations write the pid file %s: the second one has put "
			        "%ld in "
			        "the place of %ld, and the first one may remove it when it leaves; "
			        "give "
			        "each its own with {generation} in the command or its "
			        "configuration, or "
			        "write none",
			        now->path, pid_in(now), pid_in(was));
		else if (was && pid_in(now))
			finding(f, "pid file", VERDICT_NOTE,
			        "it writes the pid file %s, which a later generation leaves alone",
			        now->path);
		else if (!was && pid_in(now))
			finding(f, "pid file", VERDICT_GOOD,
			        "each generation writes a pid file of its own (%s)", now->path);
		else if (was && looks_like_lock(now->path))
			finding(f, "lock", VERDICT_NOTE, "it keeps a lock file, %s", now->path);
	}
}

void look_missing(struct findings *f, const struct look *both, const struct look *after)
{
	for (size_t i = 0; i < both->n_files; i++) {
		const struct written *was = &both->files[i];

		if (!find(after, was->path) && pid_in(was) && access(was->path, F_OK) < 0)
			finding(f, "pid file", VERDICT_BAD,
			        "the first generation has removed %s on leaving, although the "
			        "second one "
			        "was running%s",
			        was->path, f->replaced ? "" : " not");
	}
}

static bool is_of_service(const char *where, const struct service_config *s)
{
	const char *colon = strrchr(where, ':');

	for (size_t i = 0; colon && i < s->n_listeners; i++)
		if (s->listeners[i].address.kind == ADDRESS_TCP &&
		        s->listeners[i].address.port == strtoul(colon + 1, NULL, 10))
			return true;
	return false;
}

static void compare_listening(
        struct findings *f, const struct look *one, const struct service_config *s)
{
	for (size_t i = 0; i < one->n_listening; i++) {
		bool again = false;

		for (size_t k = 0; k < i; k++)
			again |= !strcmp(one->listening[i], one->listening[k]);
		if (again || is_of_service(one->listening[i], s))
			continue;
		finding(f, "other ports", f->replaced ? VERDICT_NOTE : VERDICT_BAD,
		        "it also listens on %s, which the service does not name%s",
		        one->listening[i],
		        f->replaced
		                ? ": that is not handed over"
		                : ": name it as an address, or give each generation another port");
	}
	for (size_t i = 0; i < one->n_files; i++)
		if (S_ISSOCK(one->files[i].mode) && !f->replaced)
			finding(f, "other sockets", VERDICT_NOTE, "it makes the UNIX socket %s",
			        one->files[i].path);
}

void look_compare(struct findings *f, const struct look *one, const struct look *both,
        const struct service_config *s)
{
	if (!one)
		return;
	compare_listening(f, one, s);
	if (both)
		compare_files(f, one, both);
}

/* ---- descriptors and processes ---- */

static bool is_blocking(pid_t pid, int fd)
{
	char path[64], text[256], link[64], *flags;
	ssize_t n;
	int file;

	(void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
	n = readlink(path, link, sizeof link - 1);
	if (n < 8 || memcmp(link, "socket:[", 8) != 0)
		return false;
	(void)snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", (int)pid, fd);
	file = open(path, O_RDONLY | O_CLOEXEC);
	n = file < 0 ? -1 : read(file, text, sizeof text - 1);
	if (file >= 0)
		(void)close(file);
	text[n > 0 ? n : 0] = '\0';
	flags = strstr(text, "flags:");
	return flags && !(strtoul(flags + 6, NULL, 8) & O_NONBLOCK);
}

void look_at_sockets(struct findings *f, pid_t worker, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (is_blocking(worker, 3 + (int)i)) {
			finding(f, "O_NONBLOCK", VERDICT_NOTE,
			        "it makes the sockets that it is passed blocking; each generation "
			        "has "
			        "sockets of its own, so that no other one notices");
			return;
		}
}

void look_at_rights(struct findings *f, pid_t worker)
{
	char path[64], line[256], names[400];
	struct text t = TEXT_ON(names);
	unsigned long long bits = 0;
	unsigned uid = 0;
	FILE *status;
	int found = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/status", (int)worker);
	status = fopen(path, "re");
	while (status && fgets(line, sizeof line, status))
		found += sscanf(line, "Uid: %*u %u", &uid) == 1 ||
		         sscanf(line, "CapEff: %llx", &bits) == 1;
	if (status)
		(void)fclose(status);
	if (found != 2)
		return; /* it has gone */
	capabilities_add(&t, bits, ", ");
	finding(f, "rights", VERDICT_GOOD, "it runs as %s%.0u; capabilities: %s",
	        uid ? "user " : "root", uid, names);
}

bool look_wrapper(pid_t worker, char *ret, size_t size)
{
	static const char *const wrappers[] = {
	        "sh", "dash", "bash", "zsh", "npm", "npx", "yarn", "bundle", "env", "sudo", "su"};
	char path[64], name[32] = "", children[64] = "";
	FILE *f;

	(void)snprintf(path, sizeof path, "/proc/%d/comm", (int)worker);
	f = fopen(path, "re");
	if (f) {
		(void)!fgets(name, sizeof name, f);
		(void)fclose(f);
	}
	name[strcspn(name, "\n ")] = '\0'; /* "npm start" */
	(void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)worker, (int)worker);
	f = fopen(path, "re");
	if (f) {
		(void)!fgets(children, sizeof children, f);
		(void)fclose(f);
	}
	(void)copy_string(ret, size, name);
	for (size_t i = 0; *children && i < ARRAY_SIZE(wrappers); i++)
		if (!strcmp(name, wrappers[i]))
			return true;
	return false;
}

unsigned look_others(pid_t handoffd)
{
	const struct dirent *entry;
	DIR *d = opendir("/proc");
	unsigned n = 0;

	while (d && (entry = readdir(d))) {
		char path[64], text[256], state = 'Z';
		uint64_t pid;
		FILE *f;

		if (!parse_number(entry->d_name, INT32_MAX, &pid) || pid == 1 ||
		        (pid_t)pid == getpid() || (pid_t)pid == handoffd)
			continue;
		(void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
		f = fopen(path, "re");
		if (f && fgets(text, sizeof text, f) && strrchr(text, ')'))
			(void)sscanf(strrchr(text, ')') + 1, " %c", &state);
		if (f)
			(void)fclose(f);
		n += state != 'Z' && state != 'X';
	}
	if (d)
		(void)closedir(d);
	return n;
}
