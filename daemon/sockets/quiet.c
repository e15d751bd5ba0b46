/* SPDX-License-Identifier: MIT */
/* Has a listener that was steered away from nothing left that could become an accepted connection?
 *
 * A handshake under way has no tag, so those that the address has shortly after the flip are noted
 * (by cookie, which the connection inherits) and waited for; later ones can only be of others. The
 * look is taken some milliseconds after the flip: a packet that chose its listener before may still
 * be on its way into the table on another processor.
 *
 * A handshake leaves SYN_RECV only after its connection has entered the accept queue. So the queue
 * is read after the handshakes, and never the other way round. The kernel has no cheap number of
 * the handshakes of a listener, but once none of the noted ones is left the dump is never needed
 * again, and while the queue is not empty the answer does not depend on it. */
#include "sockets/connections_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "sockets/survey.h"
#include "system/fd.h"

#define SETTLE (3 * USEC_PER_MSEC)
#define DUMP_PAUSE 10 /* times what the last dump took */
#define SYNACK_RETRIES 2
#define SYNACK_RETRIES_DEFAULT 5

struct quiet_check {
	struct connections *c;
	struct endpoint_list endpoints;
	struct survey survey; /* of the TCP ones that are not shared */
	struct cookie_set handshakes;
	usec_t begun, next_dump;
	bool noted, short_of_memory;
};

static void set_retries(const struct quiet_check *q, int retries)
{
	size_t i;

	for (i = 0; i < q->survey.n_tcp; i++)
		(void)setsockopt(q->survey.by_port[i]->fd, IPPROTO_TCP, TCP_SYNCNT, &retries,
		        sizeof retries);
}

/* Who waits for the client's first byte becomes a connection like others at the next retry. It
 * stays off if the listener is steered to again: that costs a wakeup, and this could cost minutes.
 */
static void end_deferring(const struct quiet_check *q)
{
	size_t i;

	for (i = 0; i < q->survey.n_tcp; i++)
		(void)setsockopt(q->survey.by_port[i]->fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){0},
		        sizeof(int));
}

/* What an untouched listener uses; the option cannot be unset. */
static int default_retries(void)
{
	char text[16];
	uint64_t value;
	ssize_t n;
	_cleanup_close_ int fd =
	        open("/proc/sys/net/ipv4/tcp_synack_retries", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return SYNACK_RETRIES_DEFAULT;
	n = read(fd, text, sizeof text - 1);
	if (n < 2)
		return SYNACK_RETRIES_DEFAULT;
	text[n - 1] = '\0';
	return parse_number(text, 127, &value) && value ? (int)value : SYNACK_RETRIES_DEFAULT;
}

int quiet_check_new_on(
        struct connections *c, struct endpoint_list *endpoints, struct quiet_check **ret)
{
	struct quiet_check *q = calloc(1, sizeof *q);
	size_t i, n = 0;
	int r;

	if (!q) {
		endpoint_list_done(endpoints);
		return -ENOMEM;
	}
	q->c = c;
	q->endpoints = *endpoints;
	*endpoints = (struct endpoint_list){0};
	/* What is shared is never steered away: there is nothing to wait for. */
	for (i = 0; i < q->endpoints.n; i++) {
		if (!q->endpoints.items[i].shared)
			q->endpoints.items[n++] = q->endpoints.items[i];
	}
	q->endpoints.n = n;
	r = survey_init(&q->survey, q->endpoints.items, n, true, false);
	if (r < 0) {
		quiet_check_free(q);
		return r;
	}
	q->begun = now_usec();
	q->noted = q->survey.n_tcp == 0;
	set_retries(q, SYNACK_RETRIES);
	end_deferring(q);
	*ret = q;
	return 0;
}

static void handshake_begin(void *arg)
{
	struct quiet_check *q = arg;

	if (!q->noted)
		cookie_set_clear(&q->handshakes);
	cookie_set_begin(&q->handshakes);
}

static void handshake_found(
        struct endpoint *e, const struct diag_socket *s, enum connection_state state, void *arg)
{
	struct quiet_check *q = arg;

	(void)e;
	if (state != CONNECTION_HALF_OPEN)
		return;
	if (q->noted && !cookie_set_find(&q->handshakes, s->cookie))
		return;
	if (!cookie_set_add(&q->handshakes, s->cookie, 0))
		q->short_of_memory = true;
}

static int look_at_handshakes(struct quiet_check *q)
{
	const struct survey_calls calls = {handshake_begin, handshake_found, NULL, q};
	const usec_t begun = now_usec();
	int r;

	q->short_of_memory = false;
	r = survey_run(&q->survey, &q->c->diag, SURVEY_HANDSHAKES, false, &calls);
	if (r < 0)
		return r;
	if (q->short_of_memory)
		return -ENOMEM;
	if (q->noted)
		(void)cookie_set_sweep(&q->handshakes);
	q->noted = true;
	q->next_dump = now_usec() + DUMP_PAUSE * (now_usec() - begun);
	return 0;
}

static int read_queues(struct quiet_check *q, struct inflight *ret)
{
	unsigned queue;
	size_t i;
	int r;

	*ret = (struct inflight){.half_open = q->handshakes.count};
	for (i = 0; i < q->endpoints.n; i++) {
		r = endpoint_queue(&q->endpoints.items[i], &q->c->diag, &queue);
		if (r < 0)
			return r;
		ret->queued += queue;
	}
	ret->total = ret->queued;
	return 0;
}

int quiet_check_again(struct quiet_check *q, struct inflight *ret)
{
	const usec_t now = now_usec();
	bool look;
	int r = read_queues(q, ret);

	if (r < 0)
		return r;
	if (!q->endpoints.n)
		return 1;
	if (now - q->begun < SETTLE)
		return 0;
	look = !q->noted || (q->handshakes.count && !ret->queued && now >= q->next_dump);
	if (look) {
		r = look_at_handshakes(q);
		if (!r)
			r = read_queues(q, ret);
		if (r < 0)
			return r;
	}
	return !q->handshakes.count && !ret->queued;
}

struct quiet_check *quiet_check_free(struct quiet_check *q)
{
	if (!q)
		return NULL;
	/* The listener may be steered to again. */
	if (q->survey.n_tcp)
		set_retries(q, default_retries());
	survey_done(&q->survey);
	cookie_set_done(&q->handshakes);
	endpoint_list_done(&q->endpoints);
	free(q);
	return NULL;
}
