/* SPDX-License-Identifier: MIT */
/* connections.h in terms of listener sets; what is behind it knows endpoints only. */
#include "sockets/connections_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* An address without a socket yet (a program that has not bound it) has no connections either. */
int endpoint_list_add_set(struct endpoint_list *list, struct connections *c,
        const struct listener_set *set, size_t owner)
{
	struct listener_info info;
	int fds[ADDRESS_SOCKETS_MAX], r = 0;
	size_t i, k, n;

	for (i = 0; i < listener_set_count(set); i++) {
		info = listener_set_info(set, i);
		n = listener_set_fds(set, i, fds, ARRAY_SIZE(fds));
		for (k = 0; k < n && r >= 0; k++)
			r = endpoint_list_add(list, &c->diag, fds[k],
			        info.steering == STEERING_SHARED, info.tag, info.config->name,
			        owner);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Reads the inodes of one set's processes for those endpoints that need them. */
static int add_holders(struct endpoint_list *list, size_t owner, process_lister lister, void *data,
        struct cookie_set *inodes)
{
	bool needed = false;
	size_t i;

	for (i = 0; i < list->n; i++) {
		if (list->items[i].owner == owner && list->items[i].by_inode) {
			list->items[i].held = inodes;
			needed = true;
		}
	}
	return needed ? held_inodes(lister, data, inodes) : 0;
}

static int count_sets(struct connections *c, struct listener_set *const *sets, size_t n,
        const process_lister *listers, void *const *lister_data, struct cookie_set *inodes,
        struct inflight *ret)
{
	_cleanup_endpoints_ struct endpoint_list list = {0};
	size_t i;
	int r = 0;

	for (i = 0; i < n && !r; i++) {
		r = endpoint_list_add_set(&list, c, sets[i], i);
		if (!r && listers && listers[i])
			r = add_holders(&list, i, listers[i], lister_data ? lister_data[i] : NULL,
			        &inodes[i]);
	}
	return r < 0 ? r : count_endpoints(c, list.items, list.n, ret, n);
}

int connections_count(struct connections *c, struct listener_set *const *sets, size_t n,
        const process_lister *listers, void *const *lister_data, struct inflight *ret,
        struct ho_error *reterr)
{
	struct cookie_set *inodes;
	const struct drain_watch *w;
	struct inflight last;
	size_t i;
	int r;

	if (!n)
		return 0;
	memset(ret, 0, n * sizeof *ret);
	inodes = calloc(n, sizeof *inodes);
	r = inodes ? count_sets(c, sets, n, listers, lister_data, inodes, ret) : -ENOMEM;
	for (i = 0; inodes && i < n; i++)
		cookie_set_done(&inodes[i]);
	free(inodes);
	if (r < 0)
		return ho_error_set(reterr, r,
		        "Cannot count connections (%s); their numbers are unknown for now",
		        strerror(-r));
	for (i = 0; i < n; i++) {
		w = drain_watch_find(c, sets[i]);
		if (!w)
			continue;
		drain_watch_last(w, &last);
		ret[i].oldest = last.oldest;
	}
	return 0;
}

int quiet_check_new(struct connections *c, struct listener_set *set, struct quiet_check **ret)
{
	_cleanup_endpoints_ struct endpoint_list list = {0};
	int r = endpoint_list_add_set(&list, c, set, 0);

	return r < 0 ? r : quiet_check_new_on(c, &list, ret);
}

int drain_watch_new(struct connections *c, struct listener_set *set,
        const struct drain_watch_options *options, drain_report report, void *data,
        struct drain_watch **ret, struct ho_error *reterr)
{
	_cleanup_endpoints_ struct endpoint_list list = {0};
	int r = endpoint_list_add_set(&list, c, set, 0);

	if (r < 0)
		return ho_error_set(reterr, r,
		        "Cannot read a listener of a draining generation (%s); its connections "
		        "cannot be watched",
		        strerror(-r));
	return drain_watch_new_on(c, &list, set, options, report, data, ret, reterr);
}

int connections_list(struct connections *c, struct listener_set *set, struct connection_info *ret,
        size_t max, size_t *ret_count)
{
	_cleanup_endpoints_ struct endpoint_list list = {0};
	int r = endpoint_list_add_set(&list, c, set, 0);

	return r < 0 ? r
	             : list_endpoints(c, list.items, list.n, drain_watch_find(c, set), ret, max,
	                       ret_count);
}
