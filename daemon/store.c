/* SPDX-License-Identifier: MIT */
/* What outlives the death of handoffd: the state in a memory file in systemd's descriptor store,
 * with every descriptor that matters beside it; and in a file beside the control socket, for
 * machines without systemd, where the sockets are got back from the workers that have them. Written
 * before anything is done that cannot be taken back, and when nothing is at hand. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon.h"
#include "process/save.h"
#include "snapshot.h"
#include "state/slots.h"
#include "system/boot.h"
#include "system/fd.h"
#include "system/log.h"
#include "system/systemd.h"

/* Of names in systemd's store, which tell them from sockets of .socket units. */
#define PREFIX "handoffd."
#define STATE_NAME "state"

struct store {
	struct slots memory, file;
	char path[256];
	json_t *stored; /* names that systemd has */
};

/* ---- opening ---- */

static int open_file(const char *path)
{
	struct stat st;
	int fd;

	errno = 0;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);

	/* it says what is to be run: nobody else may have written it */
	if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
	                       (st.st_mode & 0077)))
		return close_fd(fd);
	return fd;
}

static void file_path(char *ret, size_t size, const char *control_path)
{
	struct text t = {.p = ret, .size = size};

	ret[0] = '\0';
	text_add(&t, "%s.state", control_path);
	if (t.cut)
		ret[0] = '\0';
}

static void remember_memory(struct store *st, int fd)
{
	st->memory.fd = fd;
	if (fd >= 0)
		(void)systemd_store(PREFIX STATE_NAME, fd);
}

static void commit_now(void *data)
{
	store_commit(data);
}

void store_open(struct daemon *d, const char *control_path, const json_t *doc, struct loader *l)
{
	struct store *st = calloc(1, sizeof *st);
	const json_t *stored = json_object_get(doc, "stored");

	if (!st)
		return;
	st->stored = json_object();
	st->memory.fd = l ? load_fd(l, STATE_NAME) : -1;
	st->file.fd = -1;
	if (json_is_object(stored))
		(void)json_object_update(st->stored, (json_t *)(uintptr_t)stored);
	if (st->memory.fd < 0 && systemd_present())
		remember_memory(st, memfd_create("handoffd-state", MFD_CLOEXEC));
	if (control_path)
		file_path(st->path, sizeof st->path, control_path);
	if (st->path[0]) {
		st->file.fd = open_file(st->path);
		if (st->file.fd < 0)
			log_line(RECORD_WARNING,
			        "cannot write %s, nobody could go on after a crash: %s", st->path,
			        errno ? strerror(errno) : "it is not ours alone");
	}
	free(slots_read(&st->memory));
	free(slots_read(&st->file));
	d->store = st;
	d->changed = true;
	sockets_before_removal(d->sockets, commit_now, d);
}

void store_hand_on(struct daemon *d, struct saver *v)
{
	if (d->store)
		save_fd(v, d->store->memory.fd, STATE_NAME);
}

json_t *store_names(const struct daemon *d)
{
	return d->store ? json_incref(d->store->stored) : json_object();
}

/* ---- writing ---- */

static bool is_for_store(const char *name)
{
	return strncmp(name, "passed-", 7) != 0; /* systemd has those as sockets of their units */
}

static void store_new_fds(struct store *st, json_t *fds)
{
	const char *name;
	json_t *fd;
	int r;

	json_object_foreach(fds, name, fd)
	{
		char full[160];

		if (!is_for_store(name) || json_object_get(st->stored, name))
			continue;
		(void)snprintf(full, sizeof full, PREFIX "%s", name);
		r = systemd_store(full, (int)json_integer_value(fd));
		if (r < 0) { /* it is tried again the next time */
			log_line(RECORD_WARNING,
			        "systemd does not take what should outlive a crash: %s",
			        strerror(-r));
			return;
		}
		(void)json_object_set_new(st->stored, name, json_true());
	}
}

static void drop_old_fds(struct store *st, json_t *fds)
{
	const char *name;
	json_t *value;
	void *next;

	json_object_foreach_safe(st->stored, next, name, value)
	{
		char full[160];

		if (json_object_get(fds, name))
			continue;
		(void)snprintf(full, sizeof full, PREFIX "%s", name);
		if (systemd_unstore(full) < 0)
			return; /* the next time */
		(void)json_object_del(st->stored, name);
	}
}

static void write_slots(struct slots *s, const char *text)
{
	int r = s->fd < 0 ? 0 : slots_write(s, text, strlen(text));

	if (r < 0)
		log_line(RECORD_ERROR,
		        "the state cannot be written, it would not outlive a crash: %s",
		        strerror(-r));
}

void store_commit(struct daemon *d)
{
	struct store *st = d->store;
	_cleanup_free_ char *text = NULL;
	struct saver v;
	json_t *doc;

	d->changed = d->touched = false;
	ev_timer_stop(d->loop, &d->commit);
	if (!st || (st->memory.fd < 0 && st->file.fd < 0) || take_over_is_under_way(d) ||
	        d->source.development)
		return;
	saver_begin(&v, true);
	v.brief = true;
	doc = snapshot_make(d, &v, false);
	text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
	if (text) {
		/* a descriptor is there before a state speaks of it, and goes after that */
		if (st->memory.fd >= 0)
			store_new_fds(st, v.fds);
		write_slots(&st->memory, text);
		write_slots(&st->file, text);
		if (st->memory.fd >= 0)
			drop_old_fds(st, v.fds);
	} else {
		log_line(RECORD_ERROR, "memory is short: the state could not be written");
	}
	json_decref(doc);
	saver_done(&v);
}

void store_close(struct daemon *d, bool forget)
{
	struct store *st = d->store;

	if (!st)
		return;
	if (forget && st->memory.fd >= 0) {
		json_t *none = json_object();

		drop_old_fds(st, none);
		json_decref(none);
		(void)systemd_unstore(PREFIX STATE_NAME);
	}
	if (forget && st->file.fd >= 0)
		(void)unlink(st->path);
	(void)close_fd(st->memory.fd);
	(void)close_fd(st->file.fd);
	json_decref(st->stored);
	free(st);
	d->store = NULL;
	if (d->sockets)
		sockets_before_removal(d->sockets, NULL, NULL);
}

/* ---- finding ---- */

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t n = sizeof cookie;

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &n) < 0 ? 0 : cookie;
}

/* The very socket, out of a process that has it; -1: it has not. */
static int fetch_fd(pid_t pid, int theirs, uint64_t cookie)
{
	_cleanup_close_ int pidfd = pidfd_open(pid, 0), fd = -1;

	if (pidfd < 0 || !cookie)
		return -1;
	fd = pidfd_getfd(pidfd, theirs, 0);
	return fd >= 0 && cookie_of(fd) == cookie ? take_fd(fd) : -1;
}

static bool is_of(const json_t *j, const json_t *other)
{
	return load_number(j, "service") == load_number(other, "service") &&
	       load_number(j, "generation") == load_number(other, "generation");
}

/* Of the members of a list, the one of that number or text. */
static const json_t *find_by(const json_t *list, const char *key, const char *text, uint64_t number)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
	{
		const char *has = json_string_value(json_object_get(item, key));

		if (text ? has && !strcmp(has, text) : load_number(item, key) == number)
			return item;
	}
	return NULL;
}

/* It was given the generation's sockets: nobody else has them. */
static bool has_socket(const json_t *doc, const json_t *worker, pid_t pid)
{
	const json_t *generation, *member;
	size_t i, k;

	json_array_foreach(json_object_get(doc, "generations"), i, generation)
	{
		if (!is_of(generation, worker))
			continue;
		json_array_foreach(json_object_get(generation, "set"), k, member)
		{
			_cleanup_close_ int fd =
			        fetch_fd(pid, 3 + (int)k, load_number(member, "cookie"));

			if (fd >= 0)
				return true;
		}
	}
	return false;
}

static bool is_taken(const json_t *workers, const json_t *worker)
{
	const json_t *other;
	size_t i;

	json_array_foreach(workers, i,
	        other) if (is_of(other, worker) &&
	                   load_number(other, "index") == load_number(worker, "index")) return true;
	return false;
}

/* A worker that was asked for, and has sockets that clients come to: it may have some already. */
static bool keep_stray(void *data, const struct stray *s)
{
	json_t *doc = data, *workers = json_object_get(doc, "workers"), *worker;
	const json_t *service = find_by(json_object_get(json_object_get(doc, "core"), "services"),
	        "name", stray_variable(s, "HANDOFF_SERVICE"), 0);
	const json_t *generation, *slot;
	uint64_t id, index;

	if (!service || !parse_number(stray_variable(s, "HANDOFF_GENERATION"), UINT32_MAX, &id) ||
	        !parse_number(stray_variable(s, "HANDOFF_WORKER"), CONFIG_MAX_WORKERS, &index))
		return false;
	generation = find_by(json_object_get(service, "generations"), "id", NULL, id);
	slot = json_array_get(json_object_get(generation, "workers"), index);
	if (!slot || load_number(slot, "state") != WORKER_STARTING)
		return false;
	worker = json_pack("{s:I, s:I, s:I, s:I, s:b, s:o}", "service",
	        (json_int_t)load_number(service, "id"), "generation", (json_int_t)id, "index",
	        (json_int_t)index, "serial", (json_int_t)load_number(slot, "serial"), "rest", 0,
	        "process", stray_to_json(s));
	if (worker && !is_taken(workers, worker) && has_socket(doc, worker, s->pid))
		return json_array_append_new(workers, worker) == 0;
	json_decref(worker);
	return false;
}

/* A state of this start of the machine, whose handoffd is gone. Who was being started is in it
 * then, or is no more, nor is any build. */
static json_t *read_state(int fd)
{
	struct slots s = {.fd = fd};
	_cleanup_free_ char *text = slots_read(&s);
	json_error_t e;
	json_t *doc = text ? json_loads(text, 0, &e) : NULL;
	const char *boot = json_string_value(json_object_get(doc, "boot"));

	if (!boot || strcmp(boot, boot_id()) != 0) {
		json_decref(doc);
		return NULL;
	}
	processes_end_builds(json_object_get(doc, "builds"));
	processes_settle_strays(json_object_get(doc, "workers"), (pid_t)load_number(doc, "pid"),
	        load_number(doc, "ticks") - 2, keep_stray, doc);
	return doc;
}

json_t *store_take_passed(int *n, int *fds, char **names)
{
	json_t *stored = json_object(), *doc = NULL;
	int left = 0;

	for (int i = 0; i < *n; i++) {
		if (strncmp(names[i], PREFIX, strlen(PREFIX)) != 0) {
			fds[left] = fds[i];
			names[left++] = names[i];
			continue;
		}
		if (json_object_get(stored, names[i] + strlen(PREFIX)) ||
		        json_object_set_new(
		                stored, names[i] + strlen(PREFIX), json_integer(fds[i])) < 0)
			(void)close_fd(fds[i]);
		free(names[i]);
	}
	*n = left;
	if (json_object_get(stored, STATE_NAME))
		doc = read_state((int)json_integer_value(json_object_get(stored, STATE_NAME)));
	if (doc)
		(void)json_object_set(doc, "fds", stored);
	json_decref(stored);
	return doc;
}

static void fetch(
        json_t *fds, pid_t pid, int theirs, uint64_t cookie, const char *kind, uint64_t id)
{
	_cleanup_close_ int fd = -1;
	char name[64];

	(void)snprintf(name, sizeof name, "%s-%" PRIu64, kind, id);
	if (json_object_get(fds, name))
		return;
	fd = fetch_fd(pid, theirs, cookie);
	if (fd >= 0 && json_object_set_new(fds, name, json_integer(fd)) == 0)
		(void)take_fd(fd);
}

static void fetch_of_generation(json_t *fds, const json_t *set, pid_t pid)
{
	const json_t *member, *adopted;
	size_t i, k;

	json_array_foreach(set, i, member)
	{
		bool taken = json_is_true(json_object_get(member, "taken"));

		fetch(fds, taken ? (pid_t)load_number(member, "holder") : pid,
		        taken ? (int)load_number(member, "theirs") : 3 + (int)i,
		        load_number(member, "cookie"), taken ? "taken-listener" : "listener",
		        load_number(member, "serial"));
		json_array_foreach(json_object_get(member, "adopted"), k, adopted) fetch(fds,
		        (pid_t)load_number(adopted, "holder"), (int)load_number(adopted, "theirs"),
		        load_number(adopted, "cookie"), taken ? "taken-adopted" : "adopted",
		        load_number(adopted, "cookie"));
	}
}

/* Returns how many workers live. */
static size_t fetch_sockets(json_t *doc, json_t *fds)
{
	const json_t *worker, *generation;
	size_t i, k, alive = 0;

	json_array_foreach(json_object_get(doc, "workers"), i, worker)
	{
		const json_t *process = json_object_get(worker, "process");
		pid_t pid = (pid_t)load_number(process, "pid");

		if (!process_is(pid, load_number(process, "start")))
			continue;
		alive++;
		json_array_foreach(json_object_get(doc, "generations"), k,
		        generation) if (is_of(generation, worker))
		        fetch_of_generation(fds, json_object_get(generation, "set"), pid);
	}
	return alive;
}

json_t *store_find_file(const char *control_path)
{
	_cleanup_close_ int fd = -1;
	char path[256];
	json_t *doc, *fds;

	file_path(path, sizeof path, control_path);
	if (!path[0] || access(path, F_OK) < 0)
		return NULL;
	fd = open_file(path);
	if (fd < 0)
		return NULL;
	doc = read_state(fd);
	fds = doc ? json_object() : NULL;
	if (fds && fetch_sockets(doc, fds) > 0) {
		(void)json_object_set_new(doc, "fds", fds);
		return doc;
	}
	json_decref(fds);
	json_decref(doc);
	(void)unlink(path); /* nothing of it lives */
	return NULL;
}
