/* SPDX-License-Identifier: MIT */
#include "process/credentials.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/capability.h"

#define ENTRY_MAX_BYTES ((size_t)1 << 20)
#define GROUPS_MAX 65536

/* On old 32-bit machines the plain names mean 16-bit ids. */
#ifdef SYS_setresuid32
#define SYS_SETRESUID SYS_setresuid32
#define SYS_SETRESGID SYS_setresgid32
#define SYS_SETGROUPS SYS_setgroups32
#else
#define SYS_SETRESUID SYS_setresuid
#define SYS_SETRESGID SYS_setresgid
#define SYS_SETGROUPS SYS_setgroups
#endif

void credentials_done(struct credentials *c)
{
	free(c->groups);
	free(c->name);
	free(c->home);
	free(c->shell);
	*c = (struct credentials){0};
}

static bool parse_id(const char *text, uint32_t *ret)
{
	uint64_t n;

	if (!parse_number(text, UINT32_MAX - 1, &n))
		return false;
	*ret = (uint32_t)n;
	return true;
}

/* Looks `name` up with one of getpwnam_r, getpwuid_r, getgrnam_r wrapped in `call`, which uses a
 * buffer that grows until it is large enough. */
#define LOOK_UP(buffer, found, call)                                                               \
	({                                                                                         \
		int looked_ = ERANGE;                                                              \
		for (size_t bytes = 4096; looked_ == ERANGE && bytes <= ENTRY_MAX_BYTES;           \
		        bytes *= 4) {                                                              \
			free(buffer);                                                              \
			(buffer) = malloc(bytes);                                                  \
			(found) = NULL;                                                            \
			looked_ = (buffer) ? (call) : ENOMEM;                                      \
		}                                                                                  \
		looked_;                                                                           \
	})

static int find_group(const char *name, gid_t *ret, struct ho_error *reterr)
{
	_cleanup_free_ char *buffer = NULL;
	struct group entry, *found = NULL;
	int r = LOOK_UP(buffer, found, getgrnam_r(name, &entry, buffer, bytes, &found));

	if (r == 0 && found) {
		*ret = found->gr_gid;
		return 0;
	}
	if (parse_id(name, ret))
		return 0;
	if (r == 0 || r == ENOENT || r == ESRCH)
		return ho_error_set(reterr, -ESRCH, "there is no group \"%s\"", name);
	return ho_error_set(reterr, -r, "cannot look up group \"%s\": %s", name, strerror(r));
}

static int keep_entry(struct credentials *c, const struct passwd *entry)
{
	c->uid = entry->pw_uid;
	c->gid = entry->pw_gid;
	c->name = strdup(entry->pw_name);
	c->home = strdup(entry->pw_dir);
	c->shell = strdup(entry->pw_shell[0] ? entry->pw_shell : "/bin/sh");
	return c->name && c->home && c->shell ? 0 : -ENOMEM;
}

static int find_user(const struct service_config *s, struct credentials *c, struct ho_error *reterr)
{
	_cleanup_free_ char *buffer = NULL;
	struct passwd entry, *found = NULL;
	uid_t uid;
	int r = LOOK_UP(buffer, found, getpwnam_r(s->user, &entry, buffer, bytes, &found));

	if (!found && parse_id(s->user, &uid)) {
		r = LOOK_UP(buffer, found, getpwuid_r(uid, &entry, buffer, bytes, &found));
		if (!found && !s->group)
			return ho_error_set(reterr, -ESRCH,
			        "user %s has no entry in the password database, so a group must be "
			        "set",
			        s->user);
		c->uid = uid;
		r = 0;
	} else if (!found && (r == 0 || r == ENOENT || r == ESRCH)) {
		return ho_error_set(reterr, -ESRCH, "there is no user \"%s\"", s->user);
	}
	if (found)
		r = -keep_entry(c, found);
	if (r)
		return ho_error_set(
		        reterr, -r, "cannot look up user \"%s\": %s", s->user, strerror(r));
	return 0;
}

static int find_groups(
        const struct service_config *s, struct credentials *c, struct ho_error *reterr)
{
	int n = 64, r;

	if (s->groups.count || !c->name) {
		c->groups = calloc(s->groups.count + 1, sizeof c->groups[0]);
		if (!c->groups)
			return ho_error_set(reterr, -ENOMEM, "no memory for the groups");
		for (size_t i = 0; i < s->groups.count; i++) {
			r = find_group(s->groups.items[i], &c->groups[i], reterr);
			if (r < 0)
				return r;
		}
		c->n_groups = s->groups.count;
		return 0;
	}
	do {
		gid_t *groups = reallocarray(c->groups, (size_t)n, sizeof c->groups[0]);

		if (!groups)
			return ho_error_set(reterr, -ENOMEM, "no memory for the groups");
		c->groups = groups;
		r = n;
		if (getgrouplist(c->name, c->gid, groups, &n) >= 0)
			break;
		if (n <= r)
			n = 2 * r;
	} while (n <= GROUPS_MAX);
	if (n > GROUPS_MAX)
		return ho_error_set(reterr, -E2BIG, "user \"%s\" is in too many groups", s->user);
	c->n_groups = (size_t)n;
	return 0;
}

static int read_own(uint64_t *ret_have, uint64_t *ret_effective, uint64_t *ret_bounding)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	*ret_have = (uint64_t)data[1].permitted << 32 | data[0].permitted;
	*ret_effective = (uint64_t)data[1].effective << 32 | data[0].effective;
	*ret_bounding = 0;
	for (unsigned i = 0; i < 64; i++) {
		int r = prctl(PR_CAPBSET_READ, i, 0, 0, 0);

		if (r < 0)
			break; /* the kernel has no more */
		*ret_bounding |= (uint64_t)r << i;
	}
	return 0;
}

/* Fills `kept` and `bound`, what a program that gains privileges can have at most. */
static int choose_capabilities(const struct service_config *s, struct credentials *c, uint64_t have,
        uint64_t *ret_bound, struct ho_error *reterr)
{
	char names[sizeof reterr->text];
	struct text t = TEXT_ON(names);

	if (!s->capabilities) {
		c->kept = c->uid == 0 ? have & CAPABILITIES_OF_WORKERS : 0;
		*ret_bound = CAPABILITIES_OF_WORKERS;
		return 0;
	}
	c->kept = 0;
	if (!strcmp(s->capabilities, "all")) {
		c->kept = have;
		*ret_bound = UINT64_MAX;
		return 0;
	}
	if (strcmp(s->capabilities, "none") != 0 && !capabilities_parse(s->capabilities, &c->kept))
		return ho_error_set(
		        reterr, -EINVAL, "\"%s\" is not a list of capabilities", s->capabilities);
	capabilities_add(&t, c->kept & ~have, ", ");
	if (c->kept & ~have)
		return ho_error_set(reterr, -EPERM,
		        "cannot give service \"%s\" the capabilities that it asks for: handoffd "
		        "itself does not have %.200s",
		        s->name, names);
	*ret_bound = c->kept;
	return 0;
}

/* What root executes has all of the bounding set again. Where handoffd may not take anything out
 * of that, the usual is not insisted on, but what is configured is. */
static int find_capabilities(
        const struct service_config *s, struct credentials *c, struct ho_error *reterr)
{
	uint64_t have = 0, effective = 0, bounding = 0, bound = 0;
	int r = read_own(&have, &effective, &bounding);

	if (r < 0)
		return ho_error_set(
		        reterr, r, "cannot read the own capabilities: %s", strerror(-r));
	r = choose_capabilities(s, c, have, &bound, reterr);
	if (r < 0)
		return r;
	c->apart = c->change || (c->kept != have && (s->capabilities || c->uid != 0));
	c->dropped = bounding & ~bound;
	if (effective & CAPABILITY_BIT(SETPCAP))
		return 0;
	if (c->dropped && c->uid == 0 && s->capabilities)
		return ho_error_set(reterr, -EPERM,
		        "cannot take capabilities from service \"%s\", which runs as root: needs "
		        "CAP_SETPCAP",
		        s->name);
	c->dropped = 0;
	return 0;
}

/* Without privilege only what we are already can be asked for. */
static int check_unprivileged(
        const struct service_config *s, struct credentials *c, struct ho_error *reterr)
{
	if (c->uid != geteuid())
		return ho_error_set(reterr, -EPERM,
		        "cannot run service \"%s\" as user \"%s\": handoffd itself does not run as "
		        "root",
		        s->name, s->user);
	if (c->gid != getegid() || s->groups.count)
		return ho_error_set(reterr, -EPERM,
		        "cannot change the groups of service \"%s\": handoffd itself does not run "
		        "as root",
		        s->name);
	c->change = false;
	return 0;
}

int credentials_find(
        const struct service_config *s, struct credentials *ret, struct ho_error *reterr)
{
	struct credentials c = {.uid = geteuid(), .gid = getegid()};
	int r = 0;

	c.change = s->user || s->group || s->groups.count;
	if (s->user)
		r = find_user(s, &c, reterr);
	if (r == 0 && s->group)
		r = find_group(s->group, &c.gid, reterr);
	if (r == 0 && c.change && geteuid() != 0)
		r = check_unprivileged(s, &c, reterr);
	if (r == 0 && c.change)
		r = find_groups(s, &c, reterr);
	if (r == 0)
		r = find_capabilities(s, &c, reterr);
	if (r < 0)
		credentials_done(&c);
	else
		*ret = c;
	return r;
}

static int set_capabilities(const struct credentials *c)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2], before[2];
	bool only_drops = c->uid != 0;

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	memcpy(before, data, sizeof before);
	for (int i = 0; i < 2; i++) {
		uint32_t keep = (uint32_t)(c->kept >> (32 * i));

		data[i].inheritable = c->uid == 0 ? 0 : keep;
		data[i].permitted &= keep;
		data[i].effective = data[i].permitted;
		only_drops = only_drops && !(keep & ~before[i].inheritable);
	}
	if (!memcmp(before, data, sizeof before) || syscall(SYS_capset, &header, data) == 0)
		return 0;
	/* The call may be forbidden (SystemCallFilter=~@privileged). What is to be dropped ends
	 * without it when another user than root executes a program, but for the ambient ones. */
	return only_drops && errno == EPERM ? 0 : -errno;
}

/* Inherited by nobody: what is not configured is dropped, also if handoffd was given it. */
static int raise_ambient(const struct credentials *c, int *reterr_index)
{
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -errno;
	for (int cap = 0; cap < 64; cap++) {
		if (c->uid == 0 || !(c->kept >> cap & 1))
			continue;
		*reterr_index = cap;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return -errno;
	}
	return 0;
}

int credentials_apply(
        const struct credentials *c, enum credentials_step *reterr_step, int *reterr_index)
{
	int r;

	*reterr_step = CREDENTIALS_BOUNDING;
	for (int cap = 0; cap < 64; cap++) {
		*reterr_index = cap;
		if ((c->dropped >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return -errno;
	}
	if (c->change) {
		*reterr_step = CREDENTIALS_GROUPS;
		if (syscall(SYS_SETGROUPS, c->n_groups, c->groups) < 0)
			return -errno;
		*reterr_step = CREDENTIALS_GROUP;
		if (syscall(SYS_SETRESGID, c->gid, c->gid, c->gid) < 0)
			return -errno;
		*reterr_step = CREDENTIALS_USER;
		if (c->kept && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
			return -errno;
		if (syscall(SYS_SETRESUID, c->uid, c->uid, c->uid) < 0)
			return -errno;
	}
	*reterr_step = CREDENTIALS_CAPABILITIES;
	r = set_capabilities(c);
	if (r < 0)
		return r;
	*reterr_step = CREDENTIALS_AMBIENT;
	return raise_ambient(c, reterr_index);
}

static void add_capability(struct text *t, int index)
{
	const char *name = capability_name((unsigned)index);

	text_add(t, "%s", name ? name : "?");
}

void credentials_describe(
        struct text *t, const struct service_config *s, enum credentials_step step, int index)
{
	switch (step) {
	case CREDENTIALS_BOUNDING:
		text_add(t, "drop capability ");
		add_capability(t, index);
		break;
	case CREDENTIALS_GROUPS:
		text_add(t, "set the supplementary groups");
		break;
	case CREDENTIALS_GROUP:
		text_add(t, "change to the group of service \"%s\"", s->name);
		break;
	case CREDENTIALS_USER:
		text_add(t, "change to user \"%s\"", s->user ? s->user : "?");
		break;
	case CREDENTIALS_CAPABILITIES:
		text_add(t, "set the capabilities");
		break;
	case CREDENTIALS_AMBIENT:
		text_add(t, "keep capability ");
		add_capability(t, index);
		break;
	}
}
