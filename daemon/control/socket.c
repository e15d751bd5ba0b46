/* SPDX-License-Identifier: MIT */
/* The socket file and the credentials of those who connect to it.
 *
 * The file has mode 0660 from birth. Until listen(2) nobody can connect, so that group and mode may
 * be set after bind(2). */
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/internal.h"
#include "system/fd.h"

#define BACKLOG 1024
#define MAX_GROUPS 65536 /* NGROUPS_MAX of the kernel */

static int make_directory(const char *path, struct ho_error *reterr)
{
	char directory[sizeof((struct sockaddr_un *)NULL)->sun_path];
	char *slash;
	mode_t saved;
	int e;

	(void)copy_string(directory, sizeof directory, path);
	slash = strrchr(directory, '/');
	if (!slash || slash == directory)
		return 0;
	*slash = '\0';
	saved = umask(022);
	e = mkdir(directory, 0755) ? errno : 0;
	(void)umask(saved);
	if (!e || e == EEXIST)
		return 0;
	return ho_error_set(reterr, -e,
	        "the directory \"%s\" of the control socket cannot be made: %s", directory,
	        strerror(e));
}

/* A child of a handoffd that has just died may have the socket until it executes its program. */
static bool listener_is_dead(int fd)
{
	struct ucred u;
	socklen_t size = sizeof u;

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &size) == 0 && u.pid > 0 &&
	       kill(u.pid, 0) < 0 && errno == ESRCH;
}

/* Removes a socket file that nobody listens to any more. */
static int remove_stale(const struct sockaddr_un *address, struct ho_error *reterr)
{
	const char *path = address->sun_path;
	_cleanup_close_ int fd = -1;
	struct stat st;
	int e;

	if (lstat(path, &st))
		return errno == ENOENT
		               ? 0
		               : ho_error_set(reterr, -errno, "the control socket \"%s\": %s", path,
		                         strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return ho_error_set(reterr, -EEXIST,
		        "the control socket \"%s\" cannot be made: a file that is no socket is in "
		        "its place; remove it or choose another control-socket",
		        path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ho_error_set(reterr, -errno, "no socket can be made: %s", strerror(errno));
	/* A full queue (EAGAIN) is a living handoffd as well. */
	e = connect(fd, (const struct sockaddr *)address, sizeof *address) ? errno : 0;
	if (e != ECONNREFUSED && !listener_is_dead(fd))
		return ho_error_set(reterr, -EADDRINUSE,
		        "the control socket \"%s\" is in use: another handoffd answers there; stop "
		        "it or choose another control-socket",
		        path);
	if (unlink(path) && errno != ENOENT)
		return ho_error_set(reterr, -errno,
		        "the control socket \"%s\" of an earlier handoffd cannot be removed: %s",
		        path, strerror(errno));
	return 0;
}

/* Bound with mode 0660, not listening yet. */
static int bind_file(int fd, const struct sockaddr_un *address, struct ho_error *reterr)
{
	int e = EADDRINUSE;

	for (int attempt = 0; attempt < 2 && e == EADDRINUSE; attempt++) {
		mode_t saved;
		int r = attempt ? remove_stale(address, reterr) : 0;

		if (r < 0)
			return r;
		saved = umask(0117);
		e = bind(fd, (const struct sockaddr *)address, sizeof *address) ? errno : 0;
		(void)umask(saved);
	}
	if (e)
		return ho_error_set(reterr, -e, "the control socket \"%s\" cannot be made: %s",
		        address->sun_path, strerror(e));
	return 0;
}

static int find_group(
        const char *name, const char *key, gid_t *ret, bool *ret_has, struct ho_error *reterr)
{
	struct group *g;

	if (!name)
		return 0;
	errno = 0;
	g = getgrnam(name);
	if (!g)
		return ho_error_set(reterr, errno ? -errno : -EINVAL,
		        "the %s \"%s\" is not known: %s", key, name,
		        errno ? strerror(errno) : "no such group");
	*ret = g->gr_gid;
	*ret_has = true;
	return 0;
}

static int find_groups(
        struct control *c, const struct control_options *options, struct ho_error *reterr)
{
	int e = find_group(
	        options->change_group, "control-group", &c->change_gid, &c->has_change_gid, reterr);

	return e ? e
	         : find_group(options->read_group, "control-read-group", &c->read_gid,
	                   &c->has_read_gid, reterr);
}

/* Lets those connect who may use it, as far as a file can tell them. */
static int open_file(const struct control *c, const char *path)
{
	bool both = c->has_read_gid && c->has_change_gid && c->read_gid != c->change_gid;

	if (both)
		return chmod(path, 0666);
	if (c->has_read_gid || c->has_change_gid)
		return lchown(path, (uid_t)-1, c->has_read_gid ? c->read_gid : c->change_gid);
	return 0;
}

int control_listen(
        struct control *c, const struct control_options *options, struct ho_error *reterr)
{
	_cleanup_close_ int fd = -1;
	const char *path = c->address.sun_path;
	struct stat st;
	int e = find_groups(c, options, reterr);

	if (e)
		return e;
	c->address.sun_family = AF_UNIX;
	if (!*options->path)
		return ho_error_set(reterr, -EINVAL, "the path of the control socket is empty");
	if (!copy_string(c->address.sun_path, sizeof c->address.sun_path, options->path))
		return ho_error_set(reterr, -ENAMETOOLONG,
		        "the path of the control socket is %zu bytes long and may have %zu: \"%s\"",
		        strlen(options->path), sizeof c->address.sun_path - 1, options->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ho_error_set(
		        reterr, -errno, "no control socket can be made: %s", strerror(errno));
	e = make_directory(path, reterr);
	if (!e)
		e = bind_file(fd, &c->address, reterr);
	if (e)
		return e;
	if (lstat(path, &st) || open_file(c, path) || listen(fd, BACKLOG)) {
		e = -errno;
		(void)unlink(path);
		return ho_error_set(reterr, e,
		        "the control socket \"%s\" cannot be set up for its group: %s", path,
		        strerror(-e));
	}
	c->device = st.st_dev;
	c->inode = st.st_ino;
	c->fd = take_fd(fd);
	return 0;
}

int control_take_over(
        struct control *c, const struct control_options *options, int fd, struct ho_error *reterr)
{
	socklen_t n = sizeof c->address;
	int e = find_groups(c, options, reterr);

	if (!e && getsockname(fd, (struct sockaddr *)&c->address, &n) < 0)
		e = ho_error_set(reterr, -errno, "the control socket is none: %s", strerror(errno));
	/* again, as it says who listens: see listener_is_dead() */
	if (!e && listen(fd, BACKLOG) < 0)
		e = ho_error_set(reterr, -errno, "the control socket is none: %s", strerror(errno));
	if (!e)
		c->fd = fd;
	return e;
}

void control_unlisten(struct control *c)
{
	struct stat st;

	if (!c->inode)
		return;
	if (!lstat(c->address.sun_path, &st) && st.st_dev == c->device && st.st_ino == c->inode)
		(void)unlink(c->address.sun_path);
	c->inode = 0;
}

static bool in_group(int fd, gid_t primary, gid_t group)
{
	_cleanup_free_ gid_t *groups = NULL;
	socklen_t size = 0;

	if (primary == group)
		return true;
	if (!getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) || errno != ERANGE)
		return false; /* none, or nobody knows */
	if (size > MAX_GROUPS * sizeof *groups || !(groups = malloc(size)))
		return false;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size))
		return false;
	for (size_t i = 0; i < size / sizeof *groups; i++)
		if (groups[i] == group)
			return true;
	return false;
}

/* The credentials are those that the peer had when it connected; the kernel vouches for them. */
int peer_read(const struct control *c, int fd, struct peer *ret)
{
	struct ucred u;
	socklen_t size = sizeof u;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &size))
		return -errno;
	*ret = (struct peer){
	        .uid = u.uid,
	        .pid = u.pid,
	        .may_run = u.uid == 0 || u.uid == geteuid(),
	        .may_change = u.uid == 0 || u.uid == geteuid() ||
	                      (c->has_change_gid && in_group(fd, u.gid, c->change_gid)),
	};
	ret->may_read = ret->may_change || !c->has_read_gid || in_group(fd, u.gid, c->read_gid);
	return 0;
}
