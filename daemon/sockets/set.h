/* SPDX-License-Identifier: MIT */
/* What a set of listeners is made of; for the sockets room alone. */
#ifndef SOCKETS_SET_H
#define SOCKETS_SET_H

#include <ev.h>
#include <jansson.h>

#include "sockets/group.h"

struct sockets {
	struct group_context context;
	int n_passed;
	int *passed;
	char **passed_names;
	struct listener_set *sets;
	struct ev_io hangups;
	json_t *saved_groups; /* while loading */
};

int sockets_find_passed(const struct sockets *s, const char *name, size_t nth);

struct listener_set {
	struct sockets *sockets;
	struct group_context *context; /* of `sockets` */
	struct listener_set *next;
	struct config *config;
	const struct service_config *service;
	uint32_t generation;
	uint32_t owner;           /* see listener_set_own() */
	bool (*seek)(void *data); /* see listener_set_seek_lost() */
	void *seek_data;
	size_t n, room;
	struct member members[]; /* n of them; groups point to them */
};

/* An empty set with room for so many members; NULL when memory is short. */
struct listener_set *listener_set_new(struct sockets *s, struct config *config,
        const struct service_config *service, uint32_t generation, size_t room);

#endif
