/* SPDX-License-Identifier: MIT */
/* What tells one start of the machine from another, and the time of process starts in it. */
#ifndef SYSTEM_BOOT_H
#define SYSTEM_BOOT_H

#include "core/base.h"

/* "" where it cannot be read. */
const char *boot_id(void);
/* Now, as /proc/PID/stat tells times. */
uint64_t boot_ticks(void);

#endif
