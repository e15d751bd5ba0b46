/* SPDX-License-Identifier: MIT */
/* What outlives the death of handoffd: the state in a memory file in systemd's descriptor store,
 * with every descriptor that matters beside it; and in a file beside the control socket, for
 * machines without systemd, where the sockets are got back from the workers that have them. Written
 * before anything is done that cannot be taken back, and when nothing is at hand.
 *
 * The text is lines, "name {piece}\n": of pieces with the same name the last one counts, one
 * without a piece takes it out. So a commit adds what has changed, whatever else there is, and only
 * now and then all is written anew. */
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
#include "sockets/save.h"
#include "state/slots.h"
#include "system/boot.h"
#include "system/fd.h"
#include "system/log.h"
#include "system/systemd.h"

/* Of names in systemd's store, which tell them from sockets of .socket units. */
#define PREFIX "handoffd."
#define STATE_NAME "state"

/* How many times as long as the text its additions may be before all is written anew: when nothing
 * else is at hand, and in any case. */
#define GROWN_CALM 1
#define GROWN_MAX 4
#define AGAIN_SECONDS 1.
#define TEXT_FIRST_BYTES 8192

struct store {
	struct slots memory, file;
	char path[256];
	json_t *stored; /* names of descriptors that systemd has */
	json_t *pieces; /* name -> its descriptors by name, as written last; with systemd */
	json_t *gone;   /* names of pieces that are to be taken out */
	struct config **configs; /* those that are written, by their numbers; NULL: free */
	size_t n_configs;
	bool begun;  /* everything was written once */
	bool midway; /* something is being changed just now */
	bool doubts; /* HANDOFF_CHECK_STATE: what is written is compared with what there is */
	int error;   /* of the last commit */
	int refused; /* by systemd, last */
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

static void note_gone(struct store *st, const char *kind, uint64_t number)
{
	char name[SNAPSHOT_NAME_MAX];

	(void)snprintf(name, sizeof name, "%s%" PRIu64, kind, number);
	(void)json_object_set_new(st->gone, name, json_true());
}

static void commit_now(void *data)
{
	struct daemon *d = data;

	d->store->midway = true;
	store_commit(d);
	d->store->midway = false;
}

static void on_group_closed(void *data, uint64_t group)
{
	const struct daemon *d = data;

	note_gone(d->store, SNAPSHOT_GROUP, group);
}

static void on_set_changed(void *data, uint32_t owner)
{
	store_note_change(data, owner);
}

void store_open(struct daemon *d, const char *control_path, const json_t *doc, struct loader *l)
{
	struct store *st = calloc(1, sizeof *st);
	const json_t *stored = json_object_get(doc, "stored");

	if (!st)
		return;
	st->stored = json_object();
	st->pieces = json_object();
	st->gone = json_object();
	st->doubts = getenv("HANDOFF_CHECK_STATE") != NULL;
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
	sockets_set_writer(d->sockets, &(struct sockets_writer){.write_now = commit_now,
	                                       .changed = on_set_changed,
	                                       .closed = on_group_closed,
	                                       .data = d});
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

/* ---- what has changed ---- */

void store_note_change(struct daemon *d, uint32_t service)
{
	struct service *sv = supervisor_service(d->supervisor, service);

	if (sv)
		service_note_change(sv);
}

void store_forget_service(struct daemon *d, uint32_t service)
{
	if (d->store)
		note_gone(d->store, SNAPSHOT_SERVICE, service);
}

/* Nobody else has them any more. */
static void drop_configs(struct store *st)
{
	for (size_t i = 0; i < st->n_configs; i++) {
		if (!st->configs[i] || st->configs[i]->refs > 1)
			continue;
		st->configs[i] = config_unref(st->configs[i]);
		note_gone(st, SNAPSHOT_CONFIG, i);
	}
}

/* ---- descriptors ---- */

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
		if (r < 0 && r != st->refused)
			log_line(RECORD_WARNING,
			        "systemd does not take what should outlive a crash: %s",
			        strerror(-r));
		st->refused = r < 0 ? r : 0;
		if (r < 0) /* it is tried again with the next change */
			return;
		(void)json_object_set_new(st->stored, name, json_true());
	}
}

static void drop_old_fds(struct store *st, json_t *before, json_t *fds)
{
	const char *name;
	json_t *value;
	void *next;

	json_object_foreach_safe(before, next, name, value)
	{
		char full[160];

		if (!is_for_store(name) || json_object_get(fds, name))
			continue;
		(void)snprintf(full, sizeof full, PREFIX "%s", name);
		if (systemd_unstore(full) < 0)
			return; /* when all is written anew */
		(void)json_object_del(st->stored, name);
	}
}

/* ---- lines ---- */

static void read_line(json_t *pieces, char *line)
{
	char *piece = strchr(line, ' ');
	json_error_t e;

	if (!piece)
		return;
	*piece++ = '\0';
	if (*piece)
		(void)json_object_set_new(pieces, line, json_loads(piece, 0, &e));
	else
		(void)json_object_del(pieces, line);
}

static json_t *read_pieces(struct slots *s)
{
	_cleanup_free_ char *text = slots_read(s);
	json_t *pieces = text ? json_object() : NULL;
	char *line, *rest = text;

	while (pieces && (line = strsep(&rest, "\n")))
		read_line(pieces, line);
	return pieces;
}

/* ---- writing ---- */

struct writing {
	struct saver saver;
	char *text;
	size_t n, size;
	json_t *fds; /* of each piece, by its name */
};

/* 0, or -1 when memory is short, as jansson wants it. */
static int append(const char *bytes, size_t n, void *data)
{
	struct writing *w = data;
	size_t size = w->size ? w->size : TEXT_FIRST_BYTES;
	char *text;

	while (size - w->n < n && size <= SIZE_MAX / 2)
		size *= 2;
	if (size != w->size) {
		text = size - w->n < n ? NULL : realloc(w->text, size);
		if (!text)
			return -1;
		w->text = text;
		w->size = size;
	}
	memcpy(w->text + w->n, bytes, n);
	w->n += n;
	return 0;
}

static void write_piece(void *data, const char *name, json_t *piece)
{
	struct writing *w = data;
	struct saver *v = &w->saver;

	if (!piece || append(name, strlen(name), w) < 0 || append(" ", 1, w) < 0 ||
	        json_dump_callback(piece, append, w, JSON_COMPACT) < 0 || append("\n", 1, w) < 0)
		v->failed = true;
	json_decref(piece);
	if (!v->fds)
		return;
	save_member(v, w->fds, name, v->fds);
	v->fds = json_object();
}

static void write_gone(struct writing *w, json_t *gone)
{
	const char *name;
	json_t *value;

	json_object_foreach(gone, name, value) if (append(name, strlen(name), w) < 0 ||
	                                           append(" \n", 2, w) < 0) w->saver.failed = true;
}

/* Those that were written before and are in use. */
static void write_old_configs(const struct store *st, struct writing *w)
{
	for (size_t i = 0; i < st->n_configs; i++) {
		char name[SNAPSHOT_NAME_MAX];

		if (!st->configs[i])
			continue;
		(void)snprintf(name, sizeof name, SNAPSHOT_CONFIG "%zu", i);
		write_piece(w, name, config_to_json(&w->saver, st->configs[i]));
	}
}

/* Fills `w`; false when memory is short. */
static bool make_text(struct daemon *d, struct store *st, bool whole, struct writing *w)
{
	struct saver *v = &w->saver;

	saver_begin(v, st->memory.fd >= 0);
	v->brief = true;
	w->fds = json_object();
	drop_configs(st);
	if (whole)
		write_old_configs(st, w);
	else
		write_gone(w, st->gone);
	v->known = st->configs;
	v->n_known = st->n_configs;
	snapshot_pieces(d, v, !whole, write_piece, w);
	st->configs = v->known;
	st->n_configs = v->n_known;
	v->known = NULL;
	return !v->failed;
}

static int write_slots(struct slots *s, bool whole, const char *text, size_t n)
{
	return s->fd < 0 ? 0 : whole ? slots_write(s, text, n) : slots_add(s, text, n);
}

/* What systemd need not keep any more. */
static void drop_fds(struct store *st, bool whole, json_t *now)
{
	json_t *all = json_object(), *fds, *value;
	const char *name;

	json_object_foreach(now, name, fds)
	{
		if (whole)
			(void)json_object_update(all, fds);
		else
			drop_old_fds(st, json_object_get(st->pieces, name), fds);
	}
	json_object_foreach(st->gone, name, value)
	{
		if (!whole)
			drop_old_fds(st, json_object_get(st->pieces, name), NULL);
		(void)json_object_del(st->pieces, name);
	}
	if (whole && all) {
		drop_old_fds(st, st->stored, all);
		(void)json_object_clear(st->pieces);
	}
	(void)json_object_update(st->pieces, now);
	json_decref(all);
}

/* Configurations that were written for the first time; else their numbers are free again. */
static void keep_configs(struct store *st, json_t *fresh, bool written)
{
	const char *number;
	json_t *value;

	json_object_foreach(fresh, number, value)
	{
		uint64_t i;

		if (!parse_number(number, st->n_configs, &i))
			continue;
		if (written)
			(void)config_ref(st->configs[i]);
		else
			st->configs[i] = NULL;
	}
}

static int write_down(struct daemon *d, struct store *st, bool whole)
{
	struct writing w = {0};
	int r = make_text(d, st, whole, &w) ? 0 : -ENOMEM, other;

	/* a descriptor is there before a state speaks of it, and goes after that */
	if (r == 0) {
		json_t *fds;
		const char *name;

		json_object_foreach(w.fds, name, fds) store_new_fds(st, fds);
		r = write_slots(&st->memory, whole, w.text, w.n);
		other = write_slots(&st->file, whole, w.text, w.n);
		r = r < 0 ? r : other;
	}
	keep_configs(st, w.saver.configs, r == 0);
	if (r == 0) {
		drop_fds(st, whole, w.fds);
		(void)json_object_clear(st->gone);
		st->begun = true;
	}
	if (r == 0 && !st->midway) {
		supervisor_forget_changes(d->supervisor);
		sockets_forget_changes(d->sockets);
	}
	json_decref(w.fds);
	free(w.text);
	saver_done(&w.saver);
	return r;
}

static void collect(void *data, const char *name, json_t *piece)
{
	(void)json_object_set_new(data, name, piece);
}

/* For tests: has somebody changed something and not said so? */
static void check(struct daemon *d, struct store *st)
{
	struct slots s = st->file.fd >= 0 ? st->file : st->memory;
	json_t *written = read_pieces(&s), *now = json_object(), *piece;
	struct saver v;
	const char *name;

	saver_begin(&v, false);
	v.brief = true;
	v.known = st->configs;
	v.n_known = st->n_configs;
	snapshot_pieces(d, &v, false, collect, now);
	st->configs = v.known;
	st->n_configs = v.n_known;
	v.known = NULL;
	saver_done(&v);
	(void)json_object_set(now, SNAPSHOT_REST, json_object_get(written, SNAPSHOT_REST));
	json_object_foreach(written, name, piece)
	{
		char *is = json_dumps(json_object_get(now, name), JSON_SORT_KEYS);
		char *was = json_dumps(piece, JSON_SORT_KEYS);

		if (strncmp(name, SNAPSHOT_CONFIG, strlen(SNAPSHOT_CONFIG)) != 0 &&
		        (!is || !was || strcmp(is, was) != 0)) {
			(void)fprintf(stderr, "%s is\n%s\nbut was written as\n%s\n", name, is, was);
			HO_ASSERT(!"what is written is what there is");
		}
		free(is);
		free(was);
	}
	json_object_foreach(now, name, piece) HO_ASSERT(json_object_get(written, name));
	json_decref(written);
	json_decref(now);
}

static void commit(struct daemon *d, unsigned grown)
{
	struct store *st = d->store;
	bool whole;
	int r;

	d->changed = d->touched = false;
	ev_timer_stop(d->loop, &d->commit);
	if (!st || (st->memory.fd < 0 && st->file.fd < 0) || take_over_is_under_way(d) ||
	        d->source.development)
		return;
	whole = !st->begun || slots_has_grown(&st->memory, grown) ||
	        slots_has_grown(&st->file, grown);
	r = write_down(d, st, whole);
	if (r < 0 && whole && st->begun) /* which takes more room */
		r = write_down(d, st, false);
	if (r < 0)
		daemon_commit_later(d, AGAIN_SECONDS);
	else if (st->doubts && !st->midway)
		check(d, st);
	if (r < 0 && r != st->error)
		log_line(RECORD_ERROR,
		        "the state cannot be written, what changes now would not outlive a crash; "
		        "it is tried again: %s",
		        strerror(-r));
	else if (r == 0 && st->error < 0)
		log_line(RECORD_WARNING, "the state is written again");
	st->error = r;
}

void store_commit(struct daemon *d)
{
	commit(d, GROWN_MAX);
}

void store_commit_calmly(struct daemon *d)
{
	commit(d, GROWN_CALM);
}

void store_close(struct daemon *d, bool forget)
{
	struct store *st = d->store;

	if (!st)
		return;
	if (forget && st->memory.fd >= 0) {
		json_t *none = json_object();

		drop_old_fds(st, st->stored, none);
		json_decref(none);
		(void)systemd_unstore(PREFIX STATE_NAME);
	}
	if (forget && st->file.fd >= 0)
		(void)unlink(st->path);
	(void)close_fd(st->memory.fd);
	(void)close_fd(st->file.fd);
	json_decref(st->stored);
	json_decref(st->pieces);
	json_decref(st->gone);
	for (size_t i = 0; i < st->n_configs; i++)
		config_unref(st->configs[i]);
	free(st->configs);
	free(st);
	d->store = NULL;
	if (d->sockets)
		sockets_set_writer(d->sockets, &(struct sockets_writer){0});
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
	json_t *pieces = read_pieces(&s), *doc = pieces ? snapshot_join(pieces) : NULL;
	const char *boot = json_string_value(json_object_get(doc, "boot"));

	json_decref(pieces);
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
		kept_fetch_back(
		        json_object_get(doc, "kept"), fds, load_number(worker, "service"), pid);
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
