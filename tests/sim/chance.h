/* SPDX-License-Identifier: MIT */
/* Choices of a simulated world, and the configurations that it makes of them. */
#ifndef SIM_CHANCE_H
#define SIM_CHANCE_H

#include "core/config.h"
#include "world.h"

enum { MAX_WORKERS = 3, MAX_SERVICES = 3 };

/* A number below n. */
unsigned pick(struct chance *c, unsigned n);
bool one_in(struct chance *c, unsigned n);
/* One to three services with settings of every kind; never NULL. */
struct config *random_config(struct chance *ch);

#endif
