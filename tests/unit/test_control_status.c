/* SPDX-License-Identifier: MIT */
/* The published documents, as whole texts: a change of a name or a form shows here. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "control/json.h"
#include "core/capability.h"

#define NOW (1000 * USEC_PER_SEC)
/* 2026-03-01T14:02:11.250Z */
#define WALL (1772373731 * USEC_PER_SEC + 250 * USEC_PER_MSEC)

static void expect(json_t *j, const char *text)
{
	char *s = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(15));

	assert_non_null(s);
	assert_string_equal(s, text);
	free(s);
	json_decref(j);
}

static void test_status(void **state)
{
	static const struct result last = {
	        .service = "web",
	        .request = REQUEST_RELOAD,
	        .generation = 7,
	        .outcome = "serving",
	        .text = "generation 7 serves",
	};
	struct view_listener listeners[] = {
	        {"http", "tcp:0.0.0.0:8080", "ebpf", "bound", "ebpf", 0, 4096, "tcp:0.0.0.0:8080"}};
	struct view_worker workers[] = {
	        {0, 9001, "serving", 4, true, NOW - 5 * USEC_PER_SEC, 1, "caf\xff",
	                "exited with status 1", 2, 3},
	        {1, 0, "failed", 0, false, NOW, 0, "", NULL, 0, 0},
	};
	struct view_generation generations[] = {
	        {.id = 7,
	                .state = "serving",
	                .share = SHARE_ALL,
	                .sent = 1000,
	                .sent_known = true,
	                .observed = 99.5,
	                .promote_in = USEC_INFINITY,
	                .baked_in = USEC_INFINITY,
	                .drains_in = USEC_INFINITY,
	                .release = "/srv/web/releases/42",
	                .started = NOW - 60 * USEC_PER_SEC,
	                .in_flight = 12,
	                .in_flight_known = true,
	                .deadline_in = USEC_INFINITY,
	                .oldest = USEC_INFINITY,
	                .reason = "",
	                .workers = workers,
	                .n_workers = 2,
	                .requests = 3,
	                .requests_known = true,
	                .memory = 4096},
	        {.id = 6,
	                .state = "draining",
	                .share = 25,
	                .observed = -1,
	                .promote_in = 1500 * USEC_PER_MSEC,
	                .baked_in = 2500 * USEC_PER_MSEC,
	                .drains_in = 3 * USEC_PER_SEC,
	                .started = 0,
	                .drain_by = "idle",
	                .deadline_in = 41200 * USEC_PER_MSEC,
	                .oldest = 12 * USEC_PER_SEC,
	                .reason = ""},
	        {.id = 5,
	                .state = "draining",
	                .observed = -1,
	                .promote_in = USEC_INFINITY,
	                .baked_in = USEC_INFINITY,
	                .drains_in = USEC_INFINITY,
	                .in_flight_known = true,
	                .drain_by = "signal",
	                .deadline_in = USEC_INFINITY,
	                .oldest = 0,
	                .reason = "r"},
	};
	struct view_service services[] = {
	        {"web", "serving", 7, false, &last, listeners, 1, generations, 3, false},
	        {"idle", "stopped", 0, true, NULL, NULL, 0, NULL, 0, false},
	};
	struct view view = {811, "0.1.0", "production", "running", "ebpf", NULL, NOW, services, 2,
	        {"web", capabilities_own() & ~CAPABILITY_BIT(SYS_PTRACE), true, false}};

	(void)state;
	expect(status_to_json(&view, WALL),
	        "{\"version\":1,\"pid\":811,\"handoffd\":\"0.1.0\",\"environment\":\"production\","
	        "\"state\":\"running\",\"steering\":\"ebpf\",\"time\":\"2026-03-01T14:02:11.250Z\","
	        "\"config_error\":null,\"services\":[{\"name\":\"web\",\"state\":\"serving\","
	        "\"generation\":7,\"reloading\":false,\"last_result\":{\"service\":\"web\","
	        "\"request\":\"reload\",\"generation\":7,\"outcome\":\"serving\",\"exit_code\":0,"
	        "\"cut\":0,\"text\":\"generation 7 serves\"},\"listeners\":[{\"name\":\"http\","
	        "\"address\":\"tcp:0.0.0.0:8080\",\"form\":\"tcp:0.0.0.0:8080\",\"steering\":"
	        "\"ebpf\",\"origin\":\"bound\","
	        "\"rescue\":\"ebpf\",\"queue\":0,\"backlog\":4096}],\"generations\":[{\"id\":7,"
	        "\"state\":\"serving\","
	        "\"share\":100.0,\"share_observed\":99.5,\"sent\":1000,\"promote_in\":null,"
	        "\"release\":\"/srv/web/releases/42\","
	        "\"started\":\"2026-03-01T14:01:11.250Z\",\"in_flight\":12,\"drain\":null,"
	        "\"reason\":\"\",\"workers\":[{\"index\":0,\"pid\":9001,\"state\":\"serving\","
	        "\"in_flight\":4,\"started\":\"2026-03-01T14:02:06.250Z\",\"restarts\":1,"
	        "\"status\":\"caf\xef\xbf\xbd\",\"busy\":2,\"requests\":3,\"last_exit\":\"exited "
	        "with status 1\"},{\"index\":1,\"pid\":"
	        "null,\"state\":\"failed\","
	        "\"in_flight\":null,\"started\":\"2026-03-01T14:02:11.250Z\",\"restarts\":0,"
	        "\"status\":\"\",\"busy\":null,\"requests\":null,\"last_exit\":\"\"}],\"requests\":"
	        "3,"
	        "\"memory\":4096,\"baked_in\":null,\"drains_in\":null},{\"id\":6,"
	        "\"state\":\"draining\",\"share\":0.25,"
	        "\"share_observed\":null,\"sent\":null,\"promote_in\":1.5,\"release\":null,"
	        "\"started\":\"2026-03-01T13:45:31.250Z\",\"in_flight\":null,\"drain\":{\"by\":"
	        "\"idle\","
	        "\"deadline_in\":41.2,\"oldest\":12.0},\"reason\":\"\",\"workers\":[],"
	        "\"requests\":null,\"memory\":null,\"baked_in\":2.5,\"drains_in\":3.0},{\"id\":5,"
	        "\"state\":\"draining\",\"share\":0.0,\"share_observed\":null,"
	        "\"sent\":null,\"promote_in\":null,\"release\":null,"
	        "\"started\":\"2026-03-01T13:45:31.250Z\",\"in_flight\":0,\"drain\":{\"by\":"
	        "\"signal\","
	        "\"deadline_in\":null,\"oldest\":null},\"reason\":\"r\",\"workers\":[],"
	        "\"requests\":null,\"memory\":null,\"baked_in\":null,\"drains_in\":null}]},"
	        "{\"name\":\"idle\",\"state\":\"stopped\",\"generation\":null,\"reloading\":true,"
	        "\"last_result\":null,\"listeners\":[],\"generations\":[]}],"
	        "\"mode\":{\"user\":\"web\",\"capabilities\":["
	        "\"cap_chown\",\"cap_dac_override\",\"cap_fowner\",\"cap_kill\","
	        "\"cap_setgid\",\"cap_setuid\",\"cap_setpcap\",\"cap_net_bind_service\","
	        "\"cap_net_admin\",\"cap_sys_admin\",\"cap_sys_nice\",\"cap_sys_resource\","
	        "\"cap_bpf\"],"
	        "\"lost\":[{\"capability\":\"cap_sys_ptrace\",\"text\":\"no sockets of other "
	        "users' programs\"}],"
	        "\"steering\":\"ebpf\",\"adoption\":true,\"drain_watch\":\"polling\"}}");
}

static void test_record(void **state)
{
	struct record plain = {RECORD_NONE, .type = RECORD_DAEMON_READY};
	struct record whole = {.type = RECORD_WORKER_CRASHED,
	        .service = "web",
	        .generation = 3,
	        .worker = 0,
	        .pid = 77,
	        .text = "worker 0 died",
	        .release = "/srv/a",
	        .connections = 2,
	        .has_connections = true,
	        .duration = 1500 * USEC_PER_MSEC,
	        .exit_code = 0,
	        .exit_signal = 11};

	(void)state;
	expect(record_to_json(&plain, WALL), "{\"time\":\"2026-03-01T14:02:11.250Z\",\"event\":"
	                                     "\"daemon-ready\",\"service\":null,"
	                                     "\"generation\":null,\"worker\":null,\"text\":null}");
	expect(record_to_json(&whole, WALL),
	        "{\"time\":\"2026-03-01T14:02:11.250Z\",\"event\":\"worker-crashed\","
	        "\"service\":\"web\",\"generation\":3,\"worker\":0,\"text\":\"worker 0 died\","
	        "\"pid\":77,\"release\":\"/srv/a\",\"connections\":2,\"duration\":1.5,"
	        "\"exit_code\":0,\"exit_signal\":11}");
}

static void test_time(void **state)
{
	(void)state;
	expect(json_pack("[o]", time_to_json(0)), "[\"1970-01-01T00:00:00.000Z\"]");
	expect(json_pack("[o]", time_to_json(4102444799999999)), "[\"2099-12-31T23:59:59.999Z\"]");
	expect(json_pack("[o]", duration_to_json(USEC_INFINITY)), "[null]");
	expect(json_pack("[o]", duration_to_json(86400 * USEC_PER_SEC + 1999)), "[86400.001]");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_status),
	        cmocka_unit_test(test_record),
	        cmocka_unit_test(test_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
