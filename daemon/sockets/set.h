/* SPDX-License-Identifier: MIT */
/* What a set of listeners is made of; for the sockets room alone. */
#ifndef SOCKETS_SET_H
#define SOCKETS_SET_H

#include "sockets/group.h"

struct listener_set {
	struct sockets *sockets;
	struct listener_set *next;
	struct config *config;
	const struct service_config *service;
	uint32_t generation;
	bool (*seek)(void *data); /* see listener_set_seek_lost() */
	void *seek_data;
	size_t n;
	struct member members[]; /* n of them; groups point to them */
};

#endif
