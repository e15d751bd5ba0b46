/* SPDX-License-Identifier: MIT */
/* The core's facts as the JSON documents that users script against (docs/schema). Members may be
 * added, never removed or renamed. Each function gives NULL only when memory is short. */
#ifndef CONTROL_JSON_H
#define CONTROL_JSON_H

#include <jansson.h>

#include "control/control.h"
#include "core/base.h"
#include "core/record.h"
#include "core/request.h"
#include "core/view.h"

/* Microseconds since 1970 as RFC 3339 in UTC, with milliseconds. */
json_t *time_to_json(usec_t realtime);
/* Seconds, to the millisecond; an infinite time gives null. */
json_t *duration_to_json(usec_t duration);

/* `realtime` is the wall clock at view->now. */
json_t *status_to_json(const struct view *view, usec_t realtime);
json_t *record_to_json(const struct record *record, usec_t realtime);
/* The last output of workers of a service. */
json_t *logs_to_json(const char *service, const struct control_log *logs, size_t n);
json_t *connection_to_json(const struct control_connection *connection);
json_t *result_to_json(const struct result *result);
json_t *results_to_json(const struct result *results, size_t n);

#endif
