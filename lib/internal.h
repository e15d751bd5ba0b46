/* SPDX-License-Identifier: MIT */
/* Shared by the parts of libhandoff; nothing of this is exported. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <stdbool.h>

/* Whole text as a decimal number from 0 to `max`; false for anything else, NULL included. */
bool read_number(const char *text, unsigned long max, unsigned long *ret);

#endif
