/* SPDX-License-Identifier: MIT */
#include "core/worker.h"

usec_t worker_backoff(unsigned failures)
{
	const usec_t first = 100 * USEC_PER_MSEC, last = 30 * USEC_PER_SEC;

	if (failures > 8)
		return last;
	return (first << failures) < last ? first << failures : last;
}
