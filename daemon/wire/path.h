/* SPDX-License-Identifier: MIT */
/* Where the control socket is when nobody says otherwise: one rule for both programs. */
#ifndef WIRE_PATH_H
#define WIRE_PATH_H

#include <stddef.h>

/* HANDOFF_CONTROL of the environment, else /run/handoffd/control.sock for root, else
 * $XDG_RUNTIME_DIR/handoffd/control.sock. 0, -ENOENT when there is no XDG_RUNTIME_DIR, or
 * -ENAMETOOLONG. */
int control_default_path(char *buf, size_t size);

#endif
