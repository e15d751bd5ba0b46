/* SPDX-License-Identifier: MIT */
/* The configuration, read again when somebody asks for it and the file may have changed. */
#include "conf/load.h"
#include "daemon.h"
#include "system/log.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A file that was written so shortly before it was read may change again without a newer time
 * stamp. */
#define RACY_NSEC 100000000LL

static long long nsec(const struct timespec *t)
{
	return t->tv_sec * 1000000000LL + t->tv_nsec;
}

static bool unchanged(const struct config_source *s)
{
	struct stat now;

	if (!s->config)
		return false;
	if (!s->file)
		return true;
	if (s->fresh || stat(s->file, &now) < 0)
		return false;
	return now.st_dev == s->seen.st_dev && now.st_ino == s->seen.st_ino &&
	       now.st_size == s->seen.st_size && nsec(&now.st_mtim) == nsec(&s->seen.st_mtim) &&
	       nsec(&now.st_ctim) == nsec(&s->seen.st_ctim);
}

static void note_one_fixed(
        const struct config *new, const char *key, const char *before, const char *after)
{
	before = before ? before : "";
	if (strcmp(before, after ? after : "") != 0)
		log_line(RECORD_WARNING, "%s: %s is changed only by a restart; it stays \"%s\"",
		        new->file, key, before);
}

/* Settings that are read once, at the start. */
static void note_fixed(struct daemon *d, const struct config *new)
{
	const struct config *old = d->supervisor->config;

	if (!old)
		return;
	note_one_fixed(new, "control-socket", old->control_socket, new->control_socket);
	note_one_fixed(new, "control-group", old->control_group, new->control_group);
	note_one_fixed(new, "control-read-group", old->control_read_group, new->control_read_group);
}

static char *join(const struct mistakes *m)
{
	size_t n = 1;
	char *text, *p;

	for (size_t i = 0; i < m->count; i++)
		n += strlen(m->lines[i]) + 1;
	text = p = malloc(n + 20);
	if (!text)
		return NULL;
	*p = '\0';
	for (size_t i = 0; i < m->count; i++)
		p = stpcpy(p, m->lines[i]), p = stpcpy(p, i + 1 < m->count ? "\n" : "");
	if (m->more)
		(void)stpcpy(p, "\nand more");
	return text;
}

void config_source_load(struct daemon *d)
{
	struct config_source *s = &d->source;
	struct mistakes mistakes = {0};
	struct config *config = NULL;
	struct event ev = {.type = EVENT_CONFIG_LOADED};
	struct timespec now;
	char *text;

	if (unchanged(s)) {
		ev.config = config_ref(s->config);
		daemon_post(d, &ev);
		return;
	}
	memset(&s->seen, 0, sizeof s->seen);
	(void)stat(s->file, &s->seen);
	(void)clock_gettime(CLOCK_REALTIME, &now);
	s->fresh = nsec(&now) - nsec(&s->seen.st_mtim) < RACY_NSEC;
	if (config_load(s->file, s->environment, &config, &mistakes) == 0 &&
	        (!s->development || config_develop(config, s->only, &mistakes) == 0)) {
		note_fixed(d, config);
		config_unref(s->config);
		s->config = config_ref(config);
		ev.config = config;
		daemon_post(d, &ev);
	} else {
		config_unref(config);
		text = join(&mistakes);
		ev.type = EVENT_CONFIG_REFUSED;
		ev.text = text ? text : "the configuration was refused";
		s->fresh = true;
		daemon_post(d, &ev);
		free(text);
	}
	mistakes_done(&mistakes);
}
