/* SPDX-License-Identifier: MIT */
#include "system/log.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <systemd/sd-journal.h>

/* A pipe that polls writable takes so much without blocking (PIPE_BUF, pipe(7)). */
#define ATOMIC_BYTES 4096

static struct {
	enum record_level level;
	bool journal;
	unsigned long dropped;
	void (*sink)(void *data, enum record_level level, const struct record *r, const char *text);
	void *sink_data;
} state = {.level = RECORD_INFO};

static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2 ||
	        fstat(STDERR_FILENO, &st) < 0)
		return false;
	return st.st_dev == device && st.st_ino == inode;
}

void log_open(const struct log_options *options)
{
	state.level = options->level;
	state.journal = stderr_is_journal();
}

void log_sink(
        void (*sink)(void *data, enum record_level level, const struct record *r, const char *text),
        void *data)
{
	state.sink = sink;
	state.sink_data = data;
}

static bool write_all(int fd, const char *bytes, size_t n)
{
	while (n) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};
		size_t part = n < ATOMIC_BYTES ? n : ATOMIC_BYTES;
		ssize_t done;

		if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
			return false;
		done = write(fd, bytes, part);
		if (done <= 0)
			return false;
		bytes += done;
		n -= (size_t)done;
	}
	return true;
}

static void put(int fd, const char *bytes, size_t n)
{
	char note[80];
	int length;

	if (state.dropped) {
		length = snprintf(note, sizeof note,
		        "handoffd: %lu lines were lost, nobody read them\n", state.dropped);
		if (!write_all(STDERR_FILENO, note, (size_t)length)) {
			state.dropped++;
			return;
		}
		state.dropped = 0;
	}
	if (!write_all(fd, bytes, n))
		state.dropped++;
}

void log_output(bool is_stderr, const char *line, size_t length)
{
	char buffer[ATOMIC_BYTES];

	if (length < sizeof buffer) { /* in one piece where it fits */
		memcpy(buffer, line, length);
		buffer[length] = '\n';
		put(is_stderr ? STDERR_FILENO : STDOUT_FILENO, buffer, length + 1);
		return;
	}
	put(is_stderr ? STDERR_FILENO : STDOUT_FILENO, line, length);
	put(is_stderr ? STDERR_FILENO : STDOUT_FILENO, "\n", 1);
}

/* A worker's last words have just gone by as its output: the log does not repeat them, the events
 * do. */
static size_t length_for_log(const struct record *r)
{
	bool has_words = r->type == RECORD_WORKER_CRASHED || r->type == RECORD_GENERATION_FAILED ||
	                 r->type == RECORD_ROLLED_BACK;
	size_t n = has_words ? strcspn(r->text, "\n") : strlen(r->text);

	return n && n < strlen(r->text) && r->text[n - 1] == ':' ? n - 1 : n;
}

static void describe(const struct record *r, struct text *t)
{
	text_add(t, "%s", record_type_to_string(r->type));
	if (r->service)
		text_add(t, " %s", r->service);
	if (r->generation || r->zeroth)
		text_add(t, " generation %u", r->generation);
	if (r->worker >= 0)
		text_add(t, " worker %d", r->worker);
	if (r->pid)
		text_add(t, " (pid %d)", r->pid);
	if (r->duration != USEC_INFINITY)
		text_add(t, " after %.3f s", (double)r->duration / USEC_PER_SEC);
	if (r->has_connections)
		text_add(t, ", %llu connection%s", (unsigned long long)r->connections,
		        r->connections == 1 ? "" : "s");
	if (r->text && *r->text)
		text_add(t, ": %.*s", (int)length_for_log(r), r->text);
}

/* MESSAGE_ID of an event, by which journalctl finds its words in the catalog: a fixed part and the
 * FNV-1a hash of its name. */
#define MESSAGE_ID_OF_ALL "6f1b6c3a9d2e4c7fb0a85d41"

static uint32_t hash_of(const char *name)
{
	uint32_t hash = 0x811c9dc5;

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 0x01000193;
	return hash;
}

static void to_journal(const struct record *r, const char *message)
{
	char fields[7][160];
	struct iovec iov[9];
	char *text = NULL;
	int n = 0;

	if (asprintf(&text, "MESSAGE=%s", message) < 0)
		return;
	iov[n++] = (struct iovec){text, strlen(text)};
	(void)snprintf(fields[0], sizeof fields[0], "PRIORITY=%d", record_level(r->type));
	(void)snprintf(
	        fields[1], sizeof fields[1], "HANDOFF_EVENT=%s", record_type_to_string(r->type));
	(void)snprintf(fields[2], sizeof fields[2], "SYSLOG_IDENTIFIER=handoffd");
	(void)snprintf(fields[6], sizeof fields[6], "MESSAGE_ID=" MESSAGE_ID_OF_ALL "%08x",
	        hash_of(record_type_to_string(r->type)));
	for (int i = 0; i < 3; i++, n++)
		iov[n] = (struct iovec){fields[i], strlen(fields[i])};
	iov[n++] = (struct iovec){fields[6], strlen(fields[6])};
	if (r->service) {
		(void)snprintf(fields[3], sizeof fields[3], "HANDOFF_SERVICE=%s", r->service);
		iov[n++] = (struct iovec){fields[3], strlen(fields[3])};
	}
	if (r->generation || r->zeroth) {
		(void)snprintf(fields[4], sizeof fields[4], "HANDOFF_GENERATION=%u", r->generation);
		iov[n++] = (struct iovec){fields[4], strlen(fields[4])};
	}
	if (r->worker >= 0) {
		(void)snprintf(fields[5], sizeof fields[5], "HANDOFF_WORKER=%d", r->worker);
		iov[n++] = (struct iovec){fields[5], strlen(fields[5])};
	}
	(void)sd_journal_sendv(iov, n);
	free(text);
}

void log_record(const struct record *r)
{
	char line[2048];
	struct text t = TEXT_ON(line);

	if (state.sink) {
		describe(r, &t);
		state.sink(state.sink_data, record_level(r->type), r, line);
		return;
	}
	if (record_level(r->type) > state.level)
		return;
	if (!state.journal)
		text_add(&t, "handoffd: ");
	describe(r, &t);
	if (state.journal)
		to_journal(r, line);
	else
		log_output(true, line, t.len);
}

void log_line(enum record_level level, const char *format, ...)
{
	char line[2048];
	struct text t = TEXT_ON(line);
	va_list ap;
	int n;

	if (level > state.level)
		return;
	if (state.journal)
		text_add(&t, "<%d>", (int)level);
	else if (!state.sink)
		text_add(&t, "handoffd: ");
	va_start(ap, format);
	n = vsnprintf(line + t.len, sizeof line - t.len, format, ap);
	va_end(ap);
	if (n > 0 && state.sink)
		state.sink(state.sink_data, level, NULL, line);
	else if (n > 0)
		log_output(true, line, strlen(line));
}
