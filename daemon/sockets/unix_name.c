/* SPDX-License-Identifier: MIT */
/* See unix_name.h. All names are taken relative to a descriptor of the directory, so a directory
 * that is renamed stays the right one and long paths do no harm. Private names are
 * ".NAME.TOKEN.gN": TOKEN is of one start of handoffd, N is never used twice in it. */
#include "sockets/unix_name.h"

#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "system/fd.h"

#define BASE_MAX 60 /* of NAME in private names, so that they fit behind /proc/self/fd/ */
#define SCAN_MAX 65536

struct unix_names {
	struct ev_loop *loop;
	int inotify_fd;
	struct ev_io watcher;
	struct unix_name *first;
};

struct unix_name {
	struct unix_names *all;
	struct unix_name *next;
	int dir_fd;
	int wd; /* -1: not watched */
	char *directory;
	char name[NAME_MAX + 1];
	char prefix[BASE_MAX + 3];     /* ".NAME." */
	char temporary[BASE_MAX + 32]; /* ".NAME.TOKEN.new" */
	const char *token;
	const struct member *published;
	/* The private name that was put in the public place, what its file was like before, and
	 * whether the program made it. */
	char current[NAME_MAX + 1];
	struct unix_look natural;
	bool adopted;
};

static const char *path_of(const struct adopted *a)
{
	return ((const struct sockaddr_un *)&a->address)->sun_path;
}

const char *unix_name_path(const struct member *m)
{
	const struct adopted *best = NULL;

	for (const struct adopted *a = m->adopted; a < m->adopted + m->n_adopted; a++)
		if (a->listening == (m->n_listening > 0) && (!best || a->serial > best->serial))
			best = a;
	return best ? path_of(best) : m->unix_path[0] ? m->unix_path : NULL;
}

static const char *last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static const char *private_name(const struct member *m)
{
	const char *path = unix_name_path(m);

	return path ? last_component(path) : NULL;
}

/* ---- what is in the directory ---- */

/* 1: a socket somebody listens on, 0: a dead socket, -ENOENT, -ENOTSOCK, or why that cannot be
 * told. */
static int examine(int dir_fd, const char *name)
{
	_cleanup_close_ int fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), s = -1;
	struct sockaddr_un un;
	socklen_t n;
	struct stat st;
	char path[32];

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	(void)listener_unix_sockaddr(path, &un, &n);
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0)
		return -errno;
	if (connect(s, (struct sockaddr *)&un, n) == 0 || errno == EAGAIN || errno == EPROTOTYPE)
		return 1;
	return errno == ECONNREFUSED ? 0 : -errno;
}

static bool is_private_name(const struct unix_name *u, const char *name)
{
	size_t prefix = strlen(u->prefix), hex, digits;

	if (strncmp(name, u->prefix, prefix) != 0)
		return false;
	name += prefix;
	hex = strspn(name, "0123456789abcdef");
	if (hex != 8)
		return false;
	name += hex;
	if (!strcmp(name, ".new"))
		return true;
	if (strncmp(name, ".g", 2) != 0)
		return false;
	digits = strspn(name + 2, "0123456789");
	return digits > 0 && name[2 + digits] == '\0';
}

/* Private names that nobody listens on were left by a handoffd that crashed. */
static void remove_leftovers(const struct unix_name *u)
{
	int fd = openat(u->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;

	if (!d) {
		(void)close_fd(fd);
		return;
	}
	for (int i = 0; i < SCAN_MAX && (e = readdir(d)); i++)
		if (is_private_name(u, e->d_name) && examine(u->dir_fd, e->d_name) == 0)
			(void)unlinkat(u->dir_fd, e->d_name, 0);
	(void)closedir(d);
}

static bool same_inode(const struct unix_name *u, const char *a, const char *b)
{
	struct stat sa, sb;

	return fstatat(u->dir_fd, a, &sa, AT_SYMLINK_NOFOLLOW) == 0 &&
	       fstatat(u->dir_fd, b, &sb, AT_SYMLINK_NOFOLLOW) == 0 && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

/* ---- the public name ---- */

static int put_in_place(struct unix_name *u, const char *from)
{
	int r = 0;

	(void)unlinkat(u->dir_fd, u->temporary, 0);
	if (linkat(u->dir_fd, from, u->dir_fd, u->temporary, 0) < 0)
		return -errno;
	if (renameat(u->dir_fd, u->temporary, u->dir_fd, u->name) < 0)
		r = -errno;
	/* rename(2) between two names of one inode does nothing and leaves both. */
	(void)unlinkat(u->dir_fd, u->temporary, 0);
	if (r == 0 && from != u->current)
		(void)copy_string(u->current, sizeof u->current, from);
	return r;
}

/* By a descriptor of the inode, because somebody might have put another file at the name. */
static int set_look(const struct unix_name *u, const char *name, const struct unix_look *look)
{
	_cleanup_close_ int fd = openat(u->dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char path[32];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	if ((look->uid != UID_NONE || look->gid != (gid_t)-1) &&
	        fchownat(fd, "", look->uid, look->gid, AT_EMPTY_PATH) < 0)
		return -errno;
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return chmod(path, look->mode & 0777) < 0 ? -errno : 0;
}

static bool get_look(const struct unix_name *u, const char *name, struct unix_look *ret)
{
	struct stat st;

	if (fstatat(u->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	*ret = (struct unix_look){st.st_uid, st.st_gid, st.st_mode & 07777};
	return true;
}

static bool same_look(const struct unix_look *a, const struct unix_look *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->mode == b->mode;
}

/* A program that changes owner or mode of the public name, after it has bound it, changes what is
 * there now. If that was made by the same program it has been changed so before; if it is our own
 * it shows whether it was changed. */
static void take_look_over(
        const struct unix_name *u, const char *to, const struct unix_look *natural)
{
	struct unix_look look;

	if (!u->current[0] || !same_inode(u, u->current, u->name) || !get_look(u, u->name, &look))
		return;
	if (u->adopted != same_look(u->adopted ? natural : &look, &u->natural))
		return;
	if (set_look(u, to, &look) == -EPERM) { /* then at least who may do what */
		look.uid = UID_NONE;
		look.gid = (gid_t)-1;
		(void)set_look(u, to, &look);
	}
}

static void remove_public(struct unix_name *u)
{
	if (u->current[0] && same_inode(u, u->current, u->name))
		(void)unlinkat(u->dir_fd, u->name, 0);
	u->current[0] = '\0';
}

int unix_name_publish(struct unix_name *u, const struct member *m, struct ho_error *reterr)
{
	const char *from = m ? private_name(m) : NULL;
	struct unix_look natural = {.uid = UID_NONE};
	bool adopted;
	int r;

	if (!from) {
		/* A program that has bound nothing yet takes no place away. */
		if (!m)
			remove_public(u);
		u->published = m;
		return 0;
	}
	if (!strcmp(from, u->current) && same_inode(u, from, u->name)) {
		u->published = m;
		return 0;
	}
	adopted = unix_name_path(m) != m->unix_path;
	if (get_look(u, from, &natural) && adopted)
		take_look_over(u, from, &natural);
	r = put_in_place(u, from);
	if (r < 0)
		return ho_error_set(reterr, r,
		        "cannot put the socket of generation %u in place of \"%s/%s\": %s; nothing "
		        "changed",
		        m->generation, u->directory, u->name, strerror(-r));
	u->published = m;
	u->natural = natural;
	u->adopted = adopted;
	return 0;
}

/* Only what was removed is put back: whoever puts something else there knows what he does. */
static void restore(struct unix_name *u)
{
	struct stat st;

	if (u->current[0] && fstatat(u->dir_fd, u->name, &st, AT_SYMLINK_NOFOLLOW) < 0 &&
	        errno == ENOENT)
		(void)put_in_place(u, u->current);
}

static void on_inotify(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct unix_names *all = w->data;
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	const struct inotify_event *e;
	ssize_t n = read(all->inotify_fd, buffer, sizeof buffer);

	(void)loop;
	(void)revents;
	for (const char *p = buffer; n > 0 && p < buffer + n; p += sizeof *e + e->len) {
		e = (const struct inotify_event *)p;
		for (struct unix_name *u = all->first; u; u = u->next)
			if ((e->mask & IN_Q_OVERFLOW) ||
			        (e->wd == u->wd && e->len > 0 && !strcmp(e->name, u->name)))
				restore(u);
	}
}

static void watch(struct unix_name *u)
{
	struct unix_names *all = u->all;
	char path[32];

	if (all->inotify_fd < 0) {
		all->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
		if (all->inotify_fd < 0)
			return; /* too many instances: the name is only not put back */
		ev_io_init(&all->watcher, on_inotify, all->inotify_fd, EV_READ);
		all->watcher.data = all;
		ev_io_start(all->loop, &all->watcher);
	}
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", u->dir_fd);
	u->wd = inotify_add_watch(all->inotify_fd, path, IN_DELETE | IN_MOVED_FROM);
}

static void unwatch(struct unix_name *u)
{
	struct unix_names *all = u->all;

	for (const struct unix_name *other = all->first; other; other = other->next)
		if (other->wd == u->wd)
			return; /* two names in one directory have one watch */
	if (u->wd >= 0)
		(void)inotify_rm_watch(all->inotify_fd, u->wd);
	if (!all->first && all->inotify_fd >= 0) {
		ev_io_stop(all->loop, &all->watcher);
		all->inotify_fd = close_fd(all->inotify_fd);
	}
}

struct unix_names *unix_names_new(struct ev_loop *loop)
{
	struct unix_names *all = calloc(1, sizeof *all);

	if (all) {
		all->loop = loop;
		all->inotify_fd = -1;
	}
	return all;
}

struct unix_names *unix_names_free(struct unix_names *all)
{
	HO_ASSERT(!all || !all->first);
	free(all);
	return NULL;
}

/* ---- owner and place ---- */

static int find_owner(const struct listener_config *c, uid_t *ret_uid, gid_t *ret_gid)
{
	const struct passwd *user;
	const struct group *group;
	uint64_t number;

	*ret_uid = UID_NONE;
	*ret_gid = (gid_t)-1;
	if (c->owner && parse_number(c->owner, UINT32_MAX - 1, &number)) {
		*ret_uid = (uid_t)number;
	} else if (c->owner) {
		user = getpwnam(c->owner);
		if (!user)
			return -ESRCH;
		*ret_uid = user->pw_uid;
	}
	if (c->group && parse_number(c->group, UINT32_MAX - 1, &number)) {
		*ret_gid = (gid_t)number;
	} else if (c->group) {
		group = getgrnam(c->group);
		if (!group)
			return -ESRCH;
		*ret_gid = group->gr_gid;
	}
	return 0;
}

static int set_access(const struct unix_name *u, const char *name, const struct listener_config *c)
{
	struct unix_look look = {.mode = c->mode};
	int r = find_owner(c, &look.uid, &look.gid);

	return r < 0 ? r : set_look(u, name, &look);
}

static void make_private_name(const struct unix_name *u, uint64_t serial, char *to, size_t n)
{
	(void)snprintf(to, n, "%s%s.g%llu", u->prefix, u->token, (unsigned long long)serial);
}

static int bind_private(const struct unix_name *u, int fd, uint64_t serial, struct sockaddr_un *ret)
{
	char name[NAME_MAX + 1], path[PATH_MAX];
	socklen_t n;
	mode_t mask;
	int r;

	make_private_name(u, serial, name, sizeof name);
	(void)snprintf(path, sizeof path, "%s/%s", u->directory, name);
	if (!listener_unix_sockaddr(path, ret, &n)) {
		(void)snprintf(path, sizeof path, "/proc/self/fd/%d/%s", u->dir_fd, name);
		if (!listener_unix_sockaddr(path, ret, &n))
			return -ENAMETOOLONG;
	}
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)ret, n) < 0 ? -errno : 0;
	(void)umask(mask);
	return r;
}

static int bind_own(const struct unix_name *u, int fd, struct member *m)
{
	struct sockaddr_un un;
	int r = bind_private(u, fd, m->serial, &un);

	if (r >= 0)
		(void)copy_string(m->unix_path, sizeof m->unix_path, un.sun_path);
	return r;
}

/* ---- sockets that the program binds ---- */

static bool is_here(const struct unix_name *u, int directory)
{
	struct stat ours, theirs;

	return fstat(u->dir_fd, &ours) == 0 && fstat(directory, &theirs) == 0 &&
	       ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

bool unix_name_is_public(const struct unix_name *u, int directory, const char *name)
{
	return !strcmp(u->name, name) && is_here(u, directory);
}

bool unix_name_is_private(const struct unix_name *u, int directory, const char *name)
{
	return is_private_name(u, name) && is_here(u, directory);
}

int unix_name_bind(const struct unix_name *u, int fd, uint64_t serial,
        const struct listener_config *c, const struct unix_look *look, struct sockaddr_un *ret)
{
	struct unix_look set = *look;
	int r = bind_private(u, fd, serial, ret);

	if (r < 0)
		return r;
	/* What the configuration says goes before; the default mode is nothing said. */
	if (find_owner(c, &set.uid, &set.gid) < 0 || !c->owner)
		set.uid = look->uid;
	if (!c->group)
		set.gid = look->gid;
	if (c->mode != DEFAULT_MODE)
		set.mode = c->mode;
	r = set_look(u, last_component(ret->sun_path), &set);
	if (r == -EPERM) { /* without privileges it is ours, as the program is */
		set.uid = UID_NONE;
		set.gid = (gid_t)-1;
		r = set_look(u, last_component(ret->sun_path), &set);
	}
	if (r < 0)
		unix_name_unbind(u, ret);
	return r;
}

void unix_name_unbind(const struct unix_name *u, const struct sockaddr_un *un)
{
	(void)unlinkat(u->dir_fd, last_component(un->sun_path), 0);
}

/* ---- listeners ---- */

int unix_name_join(struct unix_name *u, struct member *m, struct ho_error *reterr)
{
	const struct listener_config *c = m->config;
	_cleanup_close_ int fd = -1;
	int r;

	if (m->adopt_only)
		return 0;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	r = fd < 0 ? -errno : bind_own(u, fd, m);
	if (r < 0)
		return listener_failed(reterr, r, c);
	r = set_access(u, last_component(m->unix_path), c);
	if (r >= 0 && listen(fd, c->backlog) < 0)
		r = -errno;
	if (r >= 0) {
		m->fd = take_fd(fd);
		return 0;
	}
	(void)unlinkat(u->dir_fd, last_component(m->unix_path), 0);
	m->unix_path[0] = '\0';
	if (r == -ESRCH)
		return ho_error_set(reterr, r,
		        "cannot listen on %s (listener \"%s\"): no user \"%s\" or no group \"%s\"; "
		        "nothing changed",
		        c->address.text, c->name, c->owner ? c->owner : "",
		        c->group ? c->group : "");
	if (r == -EPERM)
		return ho_error_set(reterr, r,
		        "cannot give %s (listener \"%s\") to its owner: needs CAP_CHOWN and "
		        "CAP_FOWNER; "
		        "nothing changed",
		        c->address.text, c->name);
	return listener_failed(reterr, r, c);
}

int unix_name_take(struct unix_name *u, struct member *m)
{
	char name[NAME_MAX + 1], path[PATH_MAX];

	make_private_name(u, m->serial, name, sizeof name);
	(void)snprintf(path, sizeof path, "%s/%s", u->directory, name);
	if (!copy_string(m->unix_path, sizeof m->unix_path, path)) {
		(void)snprintf(path, sizeof path, "/proc/self/fd/%d/%s", u->dir_fd, name);
		if (!copy_string(m->unix_path, sizeof m->unix_path, path))
			return -ENAMETOOLONG;
	}
	if (linkat(u->dir_fd, u->name, u->dir_fd, name, 0) == 0)
		return 0;
	m->unix_path[0] = '\0';
	return -errno;
}

void unix_name_drop(struct unix_name *u, struct member *m)
{
	if (m->unix_path[0])
		(void)unlinkat(u->dir_fd, last_component(m->unix_path), 0);
	m->unix_path[0] = '\0';
}

void unix_name_abandon(struct unix_name *u, struct member *m)
{
	if (u->published == m) {
		u->published = NULL;
		u->current[0] = '\0';
	}
	unix_name_drop(u, m);
	m->fd = close_fd(m->fd);
}

void unix_name_leave(struct unix_name *u, struct member *m)
{
	if (u->published == m)
		(void)unix_name_publish(u, NULL, NULL);
	if (m->unix_path[0])
		(void)unlinkat(u->dir_fd, last_component(m->unix_path), 0);
	for (size_t i = 0; i < m->n_adopted; i++)
		unix_name_unbind(u, (const struct sockaddr_un *)&m->adopted[i].address);
	m->n_listening = 0;
	m->fd = close_fd(m->fd);
}

/* ---- opening and closing ---- */

static int split_path(struct unix_name *u, const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return -EISDIR;
	if (!copy_string(u->name, sizeof u->name, name))
		return -ENAMETOOLONG;
	if (!slash)
		u->directory = strdup(".");
	else
		u->directory = strndup(path, slash == path ? 1 : (size_t)(slash - path));
	if (!u->directory)
		return -ENOMEM;
	(void)snprintf(u->prefix, sizeof u->prefix, ".%.*s.", BASE_MAX, u->name);
	(void)snprintf(u->temporary, sizeof u->temporary, "%s%s.new", u->prefix, u->token);
	u->dir_fd = open(u->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return u->dir_fd < 0 ? -errno : 0;
}

static int check_place(
        const struct unix_name *u, const struct listener_config *c, struct ho_error *reterr)
{
	int r = examine(u->dir_fd, u->name);
	const char *why;

	if (r == 0 || r == -ENOENT)
		return 0;
	if (r == -ENOTSOCK) {
		r = -EEXIST;
		why = "something that is not a socket is there, and it is not overwritten";
	} else if (r > 0) {
		r = -EADDRINUSE;
		why = "another program listens there";
	} else {
		why = strerror(-r);
	}
	return ho_error_set(reterr, r, "cannot listen on %s (listener \"%s\"): %s; nothing changed",
	        c->address.text, c->name, why);
}

static struct unix_name *name_new(struct unix_names *all, const char *token)
{
	struct unix_name *u = calloc(1, sizeof *u);

	if (!u)
		return NULL;
	u->all = all;
	u->dir_fd = u->wd = -1;
	u->token = token;
	return u;
}

static void name_free(struct unix_name *u)
{
	(void)close_fd(u->dir_fd);
	free(u->directory);
	free(u);
}

static void name_add(struct unix_name *u)
{
	u->next = u->all->first;
	u->all->first = u;
	watch(u);
}

int unix_name_open(struct unix_names *all, const char *token, const struct listener_config *c,
        bool taken, struct unix_name **ret, struct ho_error *reterr)
{
	struct unix_name *u = name_new(all, token);
	int r;

	if (!u)
		return listener_failed(reterr, -ENOMEM, c);
	r = split_path(u, c->address.path);
	if (r < 0)
		(void)listener_failed(reterr, r, c);
	else if (!taken)
		r = check_place(u, c, reterr);
	if (r < 0) {
		name_free(u);
		return r;
	}
	remove_leftovers(u);
	name_add(u);
	*ret = u;
	return 0;
}

int unix_name_restore(
        struct unix_names *all, const char *token, const char *path, struct unix_name **ret)
{
	struct unix_name *u = name_new(all, token);
	int r = u ? split_path(u, path) : -ENOMEM;

	if (r < 0) {
		if (u)
			name_free(u);
		return r;
	}
	name_add(u);
	*ret = u;
	return 0;
}

void unix_name_set_published(struct unix_name *u, const struct member *m)
{
	u->published = m;
}

const struct member *unix_name_published(const struct unix_name *u)
{
	return u->published;
}

struct unix_name *unix_name_close(struct unix_name *u)
{
	struct unix_name **p;

	if (!u)
		return NULL;
	(void)unix_name_publish(u, NULL, NULL);
	for (p = &u->all->first; *p != u; p = &(*p)->next)
		;
	*p = u->next;
	unwatch(u);
	name_free(u);
	return NULL;
}
