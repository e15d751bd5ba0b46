/* SPDX-License-Identifier: MIT */
/* Scripted traces: at this time this event, and then exactly these actions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/supervisor.h"

#define MS USEC_PER_MSEC
#define SEC USEC_PER_SEC

struct script {
	struct supervisor *s;
	struct action_list out;
	struct config *config;
	usec_t now;
	char seen[65536];
	struct text text;
	unsigned answers, code_of_last;
};

/* ---- telling what is done, in few words ---- */

static void tell(struct script *x, const struct action *a)
{
	struct service *sv = supervisor_service(x->s, a->service);
	struct request *r = a->request;

	switch (a->type) {
	case ACTION_RECORD:
	case ACTION_TELL_SYSTEMD:
	case ACTION_FORGET_WORKER:
		return;
	case ACTION_ANSWER:
		x->answers++;
		x->code_of_last = r->n_targets ? r->targets[0].code : r->refused;
		if (x->answers <= 10)
			text_add(&x->text, "answer %u: %u %s\n", r->id, x->code_of_last,
			        r->n_targets ? r->targets[0].outcome : r->text);
		request_free(r);
		return;
	case ACTION_STEER:
		text_add(&x->text, "steer");
		for (unsigned i = 0; sv && i < sv->n_generations; i++)
			text_add(&x->text, " %u:%u", sv->generations[i]->id,
			        sv->generations[i]->share);
		text_add(&x->text, "\n");
		return;
	case ACTION_START_WORKER:
	case ACTION_SIGNAL_WORKER:
	case ACTION_KILL_WORKER:
	case ACTION_TELL_WORKER:
		text_add(&x->text, "%s %u.%u\n", action_type_to_string(a->type), a->generation,
		        a->worker);
		return;
	case ACTION_WATCH_FILES:
	case ACTION_START_BUILD:
	case ACTION_STOP_BUILD:
	case ACTION_RETURN_HELD:
	case ACTION_LOAD_CONFIG:
	case ACTION_PREPARE:
	case ACTION_LAST_WORDS:
	case ACTION_RESTORE_LINK:
	case ACTION_POINT_BACK:
	case ACTION_WATCH_EXEC:
	case ACTION_PROBE:
	case ACTION_STOP_PROBE:
	case ACTION_CHECK_QUIET:
	case ACTION_WATCH_DRAIN:
	case ACTION_STOP_WATCH:
	case ACTION_FREEZE:
	case ACTION_THAW:
	case ACTION_NAME_CUT:
	case ACTION_MEASURE:
	case ACTION_RELEASE:
	case ACTION_FORGET_SERVICE:
	case ACTION_EXIT:
	case ACTION_TYPE_COUNT:
		text_add(&x->text, "%s %u\n", action_type_to_string(a->type), a->generation);
	}
}

static void step(struct script *x, struct event ev)
{
	const char *why;

	supervisor_step(x->s, x->now, &ev, &x->out);
	for (size_t i = 0; i < x->out.n; i++)
		tell(x, &x->out.items[i]);
	action_list_clear(&x->out);
	why = supervisor_check(x->s);
	if (why)
		fail_msg("%s", why);
}

/* Everything that was done since the last call. */
static void expect(struct script *x, const char *wanted)
{
	assert_string_equal(x->seen, wanted);
	x->text = TEXT_ON(x->seen);
}

static void forget(struct script *x)
{
	x->text = TEXT_ON(x->seen);
}

/* ---- events ---- */

static uint32_t service_id(struct script *x)
{
	return supervisor_find(x->s, "web")->id;
}

static struct event of(struct script *x, uint32_t generation, enum event_type type)
{
	return (struct event){
	        .type = type, .service = service_id(x), .generation = generation, .serial = 1};
}

static void at(struct script *x, usec_t when)
{
	x->now = SEC + when;
	step(x, (struct event){.type = EVENT_TIMER});
}

static void prepared(struct script *x, uint32_t generation, bool shared)
{
	struct event ev = of(x, generation, EVENT_PREPARED);

	ev.prepared.shared = shared;
	ev.prepared.probeable = !shared;
	step(x, ev);
}

static void started(struct script *x, uint32_t generation, unsigned worker)
{
	struct event ev = of(x, generation, EVENT_WORKER_STARTED);

	ev.worker = worker;
	ev.pid = (int)(generation * 100 + worker);
	step(x, ev);
}

static void ready(struct script *x, uint32_t generation, unsigned worker)
{
	struct event ev = of(x, generation, EVENT_WORKER_SAID);

	ev.worker = worker;
	ev.said.word = WORD_READY;
	step(x, ev);
}

static void exits(struct script *x, uint32_t generation, unsigned worker, int status)
{
	struct event ev = of(x, generation, EVENT_WORKER_EXITED);

	ev.worker = worker;
	ev.exited.code = 1;
	ev.exited.status = status;
	ev.text = "last words";
	step(x, ev);
}

static void quiet(struct script *x, uint32_t generation, bool ok)
{
	struct event ev = of(x, generation, EVENT_QUIET_CHECKED);

	ev.ok = ok;
	step(x, ev);
}

static void inflight(struct script *x, uint32_t generation, uint64_t total, uint64_t idle)
{
	struct event ev = of(x, generation, EVENT_INFLIGHT);

	ev.inflight.total = total;
	ev.inflight.idle = idle;
	step(x, ev);
}

static void frozen(struct script *x, uint32_t generation, uint64_t total, uint64_t idle)
{
	struct event ev = of(x, generation, EVENT_FROZEN);

	ev.inflight.total = total;
	ev.inflight.idle = idle;
	step(x, ev);
}

static void ask(struct script *x, uint32_t id, enum request_kind kind, enum wait_for wait)
{
	static const char *const web[] = {"web"};

	step(x, (struct event){.type = EVENT_REQUEST,
	                .request = {.id = id,
	                        .kind = kind,
	                        .wait = wait,
	                        .timeout = USEC_INFINITY,
	                        .services = web,
	                        .n_services = 1}});
}

static void hangup(struct script *x)
{
	step(x, (struct event){.type = EVENT_REQUEST,
	                .request = {.kind = REQUEST_RELOAD, .timeout = USEC_INFINITY}});
}

static void load(struct script *x)
{
	step(x, (struct event){.type = EVENT_CONFIG_LOADED, .config = config_ref(x->config)});
}

static void steered(struct script *x)
{
	step(x, (struct event){.type = EVENT_STEERED, .service = service_id(x)});
}

/* ---- a service with one listener ---- */

static struct service_config *settings(struct script *x)
{
	return &x->config->services[0];
}

static struct script *script_new(unsigned workers)
{
	struct script *x = calloc(1, sizeof *x);
	struct service_config *sc;

	assert_non_null(x);
	x->now = SEC;
	x->text = TEXT_ON(x->seen);
	x->s = supervisor_new();
	x->config = config_new();
	x->config->services = config_alloc(x->config, sizeof *sc);
	x->config->n_services = 1;
	sc = settings(x);
	service_config_defaults(sc);
	sc->name = "web";
	sc->workers = workers;
	sc->ready.by = READY_NOTIFY;
	sc->n_listeners = 1;
	sc->listeners = config_alloc(x->config, sizeof *sc->listeners);
	sc->listeners[0] = (struct listener_config){
	        .name = "http", .address = {.port = 80, .text = "tcp:*:80"}};
	return x;
}

static void script_free(struct script *x)
{
	supervisor_free(x->s);
	config_unref(x->config);
	action_list_done(&x->out);
	free(x);
}

static void serve(struct script *x, uint32_t generation)
{
	prepared(x, generation, false);
	for (unsigned i = 0; i < settings(x)->workers; i++)
		started(x, generation, i);
	for (unsigned i = 0; i < settings(x)->workers; i++)
		ready(x, generation, i);
	steered(x);
}

static void first_serves(struct script *x)
{
	load(x);
	serve(x, 1);
	forget(x);
}

/* ---- the traces ---- */

static void test_start_and_reload(void **state)
{
	struct script *x = script_new(2);

	(void)state;
	settings(x)->rollout.bake = 0;
	load(x);
	expect(x, "PREPARE 1\n");
	prepared(x, 1, false);
	expect(x, "START_WORKER 1.0\nSTART_WORKER 1.1\n");
	started(x, 1, 0);
	started(x, 1, 1);
	ready(x, 1, 0);
	expect(x, ""); /* not before all are */
	ready(x, 1, 1);
	expect(x, "steer 1:10000\n");
	steered(x);
	expect(x, "");

	ask(x, 7, REQUEST_RELOAD, WAIT_DRAINED);
	expect(x, "LOAD_CONFIG 0\n");
	load(x);
	expect(x, "PREPARE 2\n");
	prepared(x, 2, false);
	started(x, 2, 0);
	started(x, 2, 1);
	ready(x, 2, 1);
	ready(x, 2, 0);
	expect(x, "START_WORKER 2.0\nSTART_WORKER 2.1\nsteer 1:0 2:10000\n");
	steered(x);
	expect(x, "");
	at(x, 2 * MS);
	expect(x, "CHECK_QUIET 1\n");
	quiet(x, 1, false);
	at(x, 4 * MS);
	expect(x, "CHECK_QUIET 1\n");
	quiet(x, 1, true);
	expect(x, "WATCH_DRAIN 1\n");
	inflight(x, 1, 2, 0);
	inflight(x, 1, 1, 0);
	expect(x, ""); /* somebody is still connected */
	inflight(x, 1, 0, 0);
	expect(x, "SIGNAL_WORKER 1.0\nSIGNAL_WORKER 1.1\n");
	exits(x, 1, 0, 0);
	expect(x, "");
	exits(x, 1, 1, 0);
	expect(x, "STOP_WATCH 1\nRELEASE 1\nanswer 7: 0 drained\n");
	script_free(x);
}

/* A program that binds its port itself: counted once more while it stands still. */
static void test_last_look(void **state)
{
	struct script *x = script_new(1);
	struct event adopted = {.type = EVENT_SOCKET_ADOPTED, .generation = 1};

	(void)state;
	settings(x)->rollout.bake = 0;
	first_serves(x);
	adopted.service = service_id(x);
	step(x, adopted);
	ask(x, 1, REQUEST_RELOAD, WAIT_DRAINED);
	load(x);
	prepared(x, 2, false);
	started(x, 2, 0);
	ready(x, 2, 0);
	steered(x);
	at(x, 2 * MS);
	quiet(x, 1, true);
	forget(x);
	inflight(x, 1, 0, 0);
	expect(x, "FREEZE 1\n");
	frozen(x, 1, 1, 0); /* one more has come */
	expect(x, "THAW 1\n");
	inflight(x, 1, 0, 0);
	expect(x, "FREEZE 1\n");
	inflight(x, 1, 0, 0);
	expect(x, ""); /* once is enough */
	frozen(x, 1, 0, 0);
	expect(x, "SIGNAL_WORKER 1.0\nTHAW 1\n");
	frozen(x, 1, 0, 0);
	expect(x, "");
	script_free(x);
}

/* The deadline comes while it stands still. */
static void test_last_look_too_late(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	settings(x)->rollout.bake = 0;
	settings(x)->drain.idle_after = USEC_PER_SEC;
	settings(x)->drain.deadline = USEC_PER_SEC;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_DRAINED);
	load(x);
	prepared(x, 2, false);
	started(x, 2, 0);
	ready(x, 2, 0);
	steered(x);
	at(x, 2 * MS);
	quiet(x, 1, true);
	inflight(x, 1, 3, 3);
	forget(x);
	at(x, 2 * USEC_PER_SEC);
	expect(x, "SIGNAL_WORKER 1.0\nTHAW 1\n");
	frozen(x, 1, 0, 0);
	expect(x, "");
	script_free(x);
}

static void test_failed_start_changes_nothing(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	prepared(x, 2, false);
	started(x, 2, 0);
	forget(x);
	exits(x, 2, 0, 3);
	expect(x, "answer 1: 3 failed\nRELEASE 2\n");
	assert_non_null(
	        strstr(supervisor_find(x->s, "web")->last_result.text, "exited with status 3"));
	assert_non_null(strstr(supervisor_find(x->s, "web")->last_result.text, "last words"));
	assert_int_equal(service_serving(supervisor_find(x->s, "web"))->id, 1);
	at(x, 100 * SEC);
	expect(x, ""); /* and it is not tried again by itself */
	script_free(x);
}

static void test_prepare_and_exec_failures(void **state)
{
	struct script *x = script_new(1);
	struct event ev;

	(void)state;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	forget(x);
	ev = of(x, 2, EVENT_PREPARE_FAILED);
	ev.text = "\"current\" leads nowhere";
	step(x, ev);
	expect(x, "answer 1: 3 failed\n");
	ask(x, 2, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	prepared(x, 3, false);
	forget(x);
	ev = of(x, 3, EVENT_WORKER_START_FAILED);
	ev.text = "No such file or directory";
	step(x, ev);
	expect(x, "answer 2: 3 failed\nRELEASE 3\n");
	script_free(x);
}

static void test_unready_is_failed(void **state)
{
	struct script *x = script_new(1);
	struct event ev;

	(void)state;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	prepared(x, 2, false);
	started(x, 2, 0);
	forget(x);
	at(x, 30 * SEC - 1);
	expect(x, "");
	at(x, 30 * SEC);
	expect(x, "LAST_WORDS 2\n");
	ev = of(x, 2, EVENT_LAST_WORDS);
	ev.text = "waiting for the database";
	step(x, ev);
	expect(x, "SIGNAL_WORKER 2.0\nanswer 1: 3 failed\n");
	assert_string_equal(supervisor_find(x->s, "web")->last_result.text,
	        "not ready within 30s (ready by notify):\nwaiting for the database");
	at(x, 35 * SEC);
	expect(x, "KILL_WORKER 2.0\n");
	exits(x, 2, 0, 9);
	expect(x, "RELEASE 2\n");
	script_free(x);
}

/* Whatever becomes of the question, the time that it has had is not given again. */
static void test_unready_without_last_words(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	prepared(x, 2, false);
	started(x, 2, 0);
	forget(x);
	at(x, 30 * SEC);
	expect(x, "LAST_WORDS 2\n");
	ready(x, 2, 0);
	expect(x, "");
	at(x, 31 * SEC);
	expect(x, "SIGNAL_WORKER 2.0\nanswer 1: 3 failed\n");
	step(x, of(x, 2, EVENT_LAST_WORDS)); /* too late */
	expect(x, "");
	exits(x, 2, 0, 9);
	script_free(x);
}

static void test_steering_fails(void **state)
{
	struct script *x = script_new(1);
	struct event ev;

	(void)state;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	prepared(x, 2, false);
	started(x, 2, 0);
	ready(x, 2, 0);
	forget(x);
	ev = (struct event){.type = EVENT_STEER_FAILED, .service = service_id(x), .text = "no"};
	step(x, ev);
	expect(x, "SIGNAL_WORKER 2.0\nanswer 1: 3 failed\n");
	assert_int_equal(service_serving(supervisor_find(x->s, "web"))->share, SHARE_ALL);
	script_free(x);
}

static void test_death_in_bake_rolls_back(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	serve(x, 2);
	forget(x);
	at(x, 9 * SEC);
	expect(x, "CHECK_QUIET 1\n"); /* the old one is kept whole, and nobody is answered yet */
	quiet(x, 1, true);
	forget(x);
	exits(x, 2, 0, 1);
	expect(x, "steer 1:10000 2:0\n");
	steered(x);
	/* its queue is served by another worker before the listener goes */
	expect(x, "STOP_WATCH 1\nanswer 1: 3 rolled-back\nSTART_WORKER 2.0\n");
	assert_int_equal(service_serving(supervisor_find(x->s, "web"))->id, 1);
	script_free(x);
}

static void test_bake_ends_well(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	serve(x, 2);
	at(x, 2 * MS);
	quiet(x, 1, true);
	inflight(x, 1, 0, 0);
	forget(x);
	at(x, 10 * SEC);
	expect(x, "answer 1: 0 serving\nSIGNAL_WORKER 1.0\n");
	script_free(x);
}

static void test_deadline_cuts_and_says_so(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	settings(x)->rollout.bake = 0;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_DRAINED);
	load(x);
	serve(x, 2);
	at(x, 2 * MS);
	quiet(x, 1, true);
	inflight(x, 1, 3, 0);
	forget(x);
	at(x, 60 * SEC);
	expect(x, "NAME_CUT 1\nSIGNAL_WORKER 1.0\n");
	at(x, 65 * SEC);
	expect(x, "KILL_WORKER 1.0\n");
	exits(x, 1, 0, 9);
	expect(x, "STOP_WATCH 1\nRELEASE 1\nanswer 1: 6 cut\n");
	script_free(x);
}

static void test_idle_connections_do_not_hold(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	settings(x)->rollout.bake = 0;
	settings(x)->drain.idle_after = SEC;
	first_serves(x);
	hangup(x);
	load(x);
	serve(x, 2);
	at(x, 2 * MS);
	quiet(x, 1, true);
	forget(x);
	inflight(x, 1, 5, 4);
	expect(x, "");
	inflight(x, 1, 5, 5);
	expect(x, "FREEZE 1\n"); /* one of them may have got a request since */
	frozen(x, 1, 5, 4);
	expect(x, "THAW 1\n");
	inflight(x, 1, 5, 5);
	frozen(x, 1, 5, 5);
	expect(x, "FREEZE 1\nSIGNAL_WORKER 1.0\nTHAW 1\n");
	script_free(x);
}

static void test_by_signal_tells_at_quiet(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	settings(x)->rollout.bake = 0;
	settings(x)->drain.by = DRAIN_SIGNAL;
	first_serves(x);
	hangup(x);
	load(x);
	serve(x, 2);
	forget(x);
	at(x, 2 * MS);
	expect(x, "CHECK_QUIET 1\n");
	quiet(x, 1, true);
	expect(x, "WATCH_DRAIN 1\nSIGNAL_WORKER 1.0\n");
	script_free(x);
}

static void test_crash_is_replaced_with_backoff(void **state)
{
	struct script *x = script_new(1);
	usec_t now = 20 * SEC;
	struct event ev;

	(void)state;
	first_serves(x);
	at(x, now);
	exits(x, 1, 0, 1);
	expect(x, "");
	for (unsigned i = 0; i < 12; i++) {
		usec_t wait = worker_backoff(i);

		assert_true(wait >= 100 * MS && wait <= 30 * SEC);
		at(x, now + wait - 1);
		expect(x, "");
		now += wait;
		at(x, now);
		expect(x, "START_WORKER 1.0\n");
		ev = of(x, 1, EVENT_WORKER_STARTED);
		ev.serial = i + 2;
		ev.pid = 500 + (int)i;
		step(x, ev);
		ev.type = EVENT_WORKER_EXITED;
		ev.exited.code = 2;
		ev.exited.status = 11;
		ev.exited.rest = 0;
		step(x, ev);
	}
	script_free(x);
}

/* One runs, at most one waits; everybody gets the result of the generation that carried his
 * request. */
static void test_a_storm_makes_two_generations(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	settings(x)->rollout.bake = 0;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	load(x);
	for (uint32_t id = 2; id <= 10000; id++) {
		ask(x, id, REQUEST_RELOAD, WAIT_SERVING);
		if (id % 1000 == 0)
			load(x);
	}
	assert_int_equal(x->answers, 0);
	serve(x, 2);
	assert_int_equal(x->answers, 1);
	assert_int_equal(x->code_of_last, 0);
	forget(x);
	prepared(x, 3, false);
	started(x, 3, 0);
	exits(x, 3, 0, 1);
	assert_int_equal(x->answers, 10000);
	assert_int_equal(x->code_of_last, 3);
	assert_int_equal(supervisor_find(x->s, "web")->last_generation, 3);
	script_free(x);
}

static void test_refused_configuration(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	first_serves(x);
	ask(x, 1, REQUEST_RELOAD, WAIT_SERVING);
	forget(x);
	step(x, (struct event){.type = EVENT_CONFIG_REFUSED, .text = "a.conf:3: wrong"});
	assert_non_null(strstr(x->seen, "answer 1: 2"));
	assert_non_null(strstr(x->seen, "a.conf:3: wrong"));
	assert_string_equal(x->s->config_error, "a.conf:3: wrong");
	script_free(x);
}

static void test_stop_drains_then_leaves(void **state)
{
	struct script *x = script_new(1);
	struct event stop = {.type = EVENT_REQUEST,
	        .request = {.kind = REQUEST_SHUTDOWN, .timeout = USEC_INFINITY}};

	(void)state;
	first_serves(x);
	step(x, stop);
	expect(x, "steer 1:0\n");
	steered(x);
	at(x, 2 * MS);
	quiet(x, 1, true);
	inflight(x, 1, 1, 0);
	expect(x, "CHECK_QUIET 1\nWATCH_DRAIN 1\n");
	step(x, stop); /* a second one does not wait */
	expect(x, "NAME_CUT 1\nSIGNAL_WORKER 1.0\nKILL_WORKER 1.0\n");
	exits(x, 1, 0, 9);
	expect(x, "STOP_WATCH 1\nRELEASE 1\nEXIT 0\n");
	script_free(x);
}

static void test_nothing_can_start(void **state)
{
	struct script *x = script_new(1);
	struct event ev;

	(void)state;
	load(x);
	ev = of(x, 1, EVENT_PREPARE_FAILED);
	ev.text = "Address already in use";
	step(x, ev);
	expect(x, "PREPARE 1\nEXIT 0\n");
	assert_int_equal(x->s->exit_code, 1);
	script_free(x);
}

static void test_max_old_stops_the_oldest(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	settings(x)->rollout.bake = 0;
	settings(x)->rollout.max_old = 2;
	first_serves(x);
	for (uint32_t g = 2; g <= 4; g++) {
		hangup(x);
		load(x);
		serve(x, g);
		at(x, g * SEC);
		quiet(x, g - 1, true);
		inflight(x, g - 1, 1, 0);
		if (g < 4) {
			assert_null(strstr(x->seen, "SIGNAL"));
		}
	}
	assert_non_null(strstr(x->seen, "NAME_CUT 1\nSIGNAL_WORKER 1.0\n"));
	assert_null(strstr(x->seen, "SIGNAL_WORKER 2.0"));
	script_free(x);
}

static void test_shared_sockets_are_left_by_signal(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	load(x);
	prepared(x, 1, true);
	started(x, 1, 0);
	ready(x, 1, 0);
	steered(x);
	hangup(x);
	load(x);
	prepared(x, 2, true);
	started(x, 2, 0);
	ready(x, 2, 0);
	forget(x);
	steered(x);
	at(x, 2 * MS);
	quiet(x, 1, true);
	expect(x, "CHECK_QUIET 1\nWATCH_DRAIN 1\nSIGNAL_WORKER 1.0\n");
	script_free(x);
}

/* Whatever comes in whatever state, nothing breaks: each event in each state of a generation. */
/* The next handoffd, with the tables of the one before. */
static void resume(struct script *x, bool crashed)
{
	const char *why;

	supervisor_resume(x->s, x->now, crashed, &x->out);
	for (size_t i = 0; i < x->out.n; i++)
		tell(x, &x->out.items[i]);
	action_list_clear(&x->out);
	why = supervisor_check(x->s);
	if (why)
		fail_msg("%s", why);
}

static void test_a_turn_is_made_again_after_a_crash(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	first_serves(x);
	hangup(x);
	load(x);
	prepared(x, 2, false);
	started(x, 2, 0);
	forget(x);
	ready(x, 2, 0);
	expect(x, "steer 1:0 2:10000\n");
	/* nobody knows whether it was made: so it is, and whoever has connections keeps them */
	resume(x, true);
	expect(x, "steer 1:0 2:10000\n");
	/* as long as that is so it is not undone either */
	step(x, (struct event){.type = EVENT_STEER_FAILED, .service = service_id(x)});
	expect(x, "");
	at(x, 5 * SEC);
	expect(x, "steer 1:0 2:10000\n");
	steered(x);
	assert_int_equal(service_serving(supervisor_find(x->s, "web"))->id, 2);
	script_free(x);
}

static void test_a_start_is_begun_anew_after_a_crash(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	first_serves(x);
	hangup(x);
	load(x);
	forget(x);
	/* it has no listeners that anybody would know */
	resume(x, true);
	expect(x, "PREPARE 3\n");
	assert_int_equal(service_serving(supervisor_find(x->s, "web"))->id, 1);
	script_free(x);
}

static void test_a_check_under_way_is_begun_again(void **state)
{
	struct script *x = script_new(1);

	(void)state;
	settings(x)->ready.by = READY_HTTP;
	settings(x)->rollout.bake = 60 * SEC;
	load(x);
	prepared(x, 1, false);
	started(x, 1, 0);
	step(x, (struct event){.type = EVENT_PROBE_DONE,
	                .service = service_id(x),
	                .generation = 1,
	                .ok = true});
	steered(x);
	forget(x);
	at(x, 10 * SEC);
	expect(x, "PROBE 1\n");
	x->now += 20 * SEC; /* nobody has waited for it */
	resume(x, false);
	expect(x, "PROBE 1\n");
	assert_false(service_serving(supervisor_find(x->s, "web"))->died);
	script_free(x);
}

static void test_every_event_in_every_state(void **state)
{
	(void)state;
	for (int type = 0; type < EVENT_TYPE_COUNT; type++)
		for (int stage = 0; stage < 8; stage++) {
			struct script *x = script_new(1);
			struct event ev;

			if (type == EVENT_CONFIG_LOADED || type == EVENT_REQUEST) {
				script_free(x);
				continue;
			}
			settings(x)->rollout.bake = stage == 4 ? SEC : 0;
			load(x);
			if (stage > 0)
				prepared(x, 1, false);
			if (stage > 1)
				started(x, 1, 0);
			if (stage > 2) {
				ready(x, 1, 0);
				steered(x);
			}
			if (stage > 3) {
				hangup(x);
				load(x);
				serve(x, 2);
			}
			if (stage > 5) {
				at(x, 2 * MS);
				quiet(x, 1, true);
			}
			if (stage > 6)
				inflight(x, 1, 0, 0);
			ev = of(x, 1, (enum event_type)type);
			ev.exited.code = 1;
			step(x, ev);
			step(x, ev);
			ev.generation = 77;
			step(x, ev);
			ev.service = 12345;
			step(x, ev);
			script_free(x);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_start_and_reload),
	        cmocka_unit_test(test_last_look),
	        cmocka_unit_test(test_last_look_too_late),
	        cmocka_unit_test(test_failed_start_changes_nothing),
	        cmocka_unit_test(test_prepare_and_exec_failures),
	        cmocka_unit_test(test_unready_is_failed),
	        cmocka_unit_test(test_unready_without_last_words),
	        cmocka_unit_test(test_steering_fails),
	        cmocka_unit_test(test_death_in_bake_rolls_back),
	        cmocka_unit_test(test_bake_ends_well),
	        cmocka_unit_test(test_deadline_cuts_and_says_so),
	        cmocka_unit_test(test_idle_connections_do_not_hold),
	        cmocka_unit_test(test_by_signal_tells_at_quiet),
	        cmocka_unit_test(test_crash_is_replaced_with_backoff),
	        cmocka_unit_test(test_a_storm_makes_two_generations),
	        cmocka_unit_test(test_refused_configuration),
	        cmocka_unit_test(test_stop_drains_then_leaves),
	        cmocka_unit_test(test_nothing_can_start),
	        cmocka_unit_test(test_max_old_stops_the_oldest),
	        cmocka_unit_test(test_shared_sockets_are_left_by_signal),
	        cmocka_unit_test(test_a_turn_is_made_again_after_a_crash),
	        cmocka_unit_test(test_a_start_is_begun_anew_after_a_crash),
	        cmocka_unit_test(test_a_check_under_way_is_begun_again),
	        cmocka_unit_test(test_every_event_in_every_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
