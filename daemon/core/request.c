/* SPDX-License-Identifier: MIT */
#include "core/request.h"

const char *request_kind_to_string(enum request_kind k)
{
	static const char *const names[] = {
	        [REQUEST_RELOAD] = "reload",
	        [REQUEST_DEPLOY] = "deploy",
	        [REQUEST_PROMOTE] = "promote",
	        [REQUEST_ABORT] = "abort",
	        [REQUEST_ROLLBACK] = "rollback",
	        [REQUEST_SCALE] = "scale",
	        [REQUEST_STOP] = "stop",
	        [REQUEST_START] = "start",
	        [REQUEST_RESTART] = "restart",
	        [REQUEST_WAIT] = "wait",
	        [REQUEST_SHUTDOWN] = "shutdown",
	};

	return names[k];
}

const char *wait_for_to_string(enum wait_for w)
{
	static const char *const names[] = {
	        [WAIT_NONE] = "none",
	        [WAIT_SERVING] = "serving",
	        [WAIT_DRAINED] = "drained",
	};

	return names[w];
}
