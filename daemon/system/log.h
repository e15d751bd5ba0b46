/* SPDX-License-Identifier: MIT */
/* Where records go: to the journal with their fields when stderr is the journal, else to stderr as
 * one line. A line never blocks: if stderr takes nothing it is dropped and counted, and the count
 * is said later. */
#ifndef SYSTEM_LOG_H
#define SYSTEM_LOG_H

#include "core/base.h"
#include "core/record.h"

struct log_options {
	enum record_level level; /* what is less important is left out */
};

/* From now on everything but workers' lines goes there instead, whatever its level; `r` is NULL of
 * log_line(). */
void log_sink(
        void (*sink)(void *data, enum record_level level, const struct record *r, const char *text),
        void *data);
void log_open(const struct log_options *options);
void log_record(const struct record *r);
/* What belongs to no service: start, options. */
void log_line(enum record_level level, const char *format, ...) _printf_(2, 3);
/* A worker's own line to our stdout or stderr, as if it had written there itself. */
void log_output(bool is_stderr, const char *line, size_t length);

#endif
