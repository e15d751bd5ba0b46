# SPDX-License-Identifier: MIT
"""Workers that use libhandoff: what they count is shown, they are drained by message, and they know who
serves."""

import contextlib
import json
import os
import re
import select
import signal
import sys

import pytest
from harness import HERE, LIMIT, Http, Load, generation, get, quoted, service

AUTO = 'drain { by = "auto" }'
HELLO = (sys.executable, HERE / "hello.py")


def sleepd(*options, address, drain="", **more):
    """One that is drained by message."""
    return service(*options, address=address, extra=f'drain {{ by = "auto" {drain} }}', **more)


def shown(daemon, number):
    return next(g for g in daemon.service()["generations"] if g["id"] == number)


def test_drained_by_message(daemon):
    daemon.configure(sleepd("--grace", "2", address=daemon.target)).start()
    with Http(daemon.target) as idle, Http(daemon.target) as busy, Http(daemon.target) as last:
        assert idle.generation() == busy.generation() == last.generation() == 1
        busy.send("/?sleep=6")
        daemon.reload("web")
        daemon.wait_event("worker-status", generation=1, text="draining")
        # who asks within the grace gets an answer, and with it the news that it was the last one
        last.send()
        head = last.socket.recv(65536)
        assert b"generation=1" in head and b"Connection: close\r\n" in head
        assert shown(daemon, 1)["drain"]["by"] == "message"
        assert idle.ended()
        assert shown(daemon, 1)["workers"][0]["busy"] == 1
        assert "generation=1" in busy.receive()[1]
        assert busy.ended()
    gone = daemon.wait_event("generation-gone", generation=1)
    assert not gone.get("connections")
    assert daemon.wait_event("worker-exited", generation=1)["exit_code"] == 0
    assert not daemon.seen("connections-cut")


def test_numbers_in_status(daemon):
    daemon.configure(sleepd(address=daemon.target, workers=2)).start()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Http(daemon.target)) for _ in range(6)]
        pids = [int(re.search(r"pid=(\d+)", c.get())[1]) for c in connections]
        for c in connections[:2]:
            c.send("/?sleep=0.7")
        # accepted at once, and its first byte is read in the same turn of the loop as this one's
        busy = set(pids[:2])
        for c, pid in zip(connections[2:], pids[2:]):
            if pid in busy:
                c.get()
        get(daemon.target)
        g = shown(daemon, 1)
        workers = {w["pid"]: w for w in g["workers"]}
        assert sum(w["in_flight"] for w in workers.values()) >= 6
        assert g["requests"] == sum(w["requests"] for w in workers.values())
        assert g["requests"] <= 3  # the end of the one just answered may not be counted yet
        for pid, w in workers.items():
            assert w["in_flight"] >= pids.count(pid)
            assert w["busy"] == w["requests"] <= w["in_flight"]
        for c in connections[:2]:
            c.receive()


def test_counted_at_a_crash(daemon):
    daemon.configure(sleepd(address=daemon.target)).start()
    with Http(daemon.target) as a, Http(daemon.target) as b:
        assert a.generation() == b.generation() == 1
        daemon.kill(daemon.worker(1), signal.SIGKILL)
        crash = daemon.wait_event("worker-crashed", generation=1)
        assert crash["connections"] == 2
        assert "was ended by signal 9 (SIGKILL) with 2 connections" in crash["text"]
    daemon.wait_count("worker-ready", 2)
    assert generation(daemon.target) == 1


def test_what_came_before(daemon):
    for release in ("a", "b"):
        (daemon.directory / release).mkdir()
    link = daemon.directory / "current"
    link.symlink_to("a")
    text = sleepd(address=daemon.target).replace("{\n", f"{{\n\tdirectory = {quoted(link)}\n", 1)
    daemon.configure(text).start()
    assert "HANDOFF_PREVIOUS" not in get(daemon.target, "/env")
    link.unlink()
    link.symlink_to("b")
    daemon.reload("web")
    env = get(daemon.target, "/env")
    assert "HANDOFF_PREVIOUS=1\n" in env
    assert f"HANDOFF_PREVIOUS_RELEASE={(daemon.directory / 'a').resolve()}\n" in env
    assert "HANDOFF_ENVIRONMENT=production\n" in env


def test_signal_at_the_deadline(daemon):
    """It was told by message; at the deadline it is told as any other, and then killed."""
    drain = 'deadline = "400ms" kill-after = "100ms" signal = "USR1"'
    extra = f'drain {{ {drain} by = "auto" }}'
    daemon.configure(service(command=[*HELLO, "plain"], address=daemon.target, extra=extra)).start()
    with Http(daemon.target) as held:
        assert held.generation() == 1
        daemon.ctl("reload", "web", "--wait", "drained", code=6)
        assert held.ended()
    assert daemon.wait_event("worker-exited", generation=1)["exit_signal"] == signal.SIGUSR1
    assert daemon.wait_event("connections-cut", generation=1, connections=1)


def test_idle_and_signal_are_obeyed(daemon):
    """The message is for drain.by = auto alone."""
    daemon.configure(service(command=[*HELLO, "plain"], address=daemon.target)).start()
    with Http(daemon.target) as held:
        assert held.generation() == 1
        daemon.reload("web")
        daemon.wait_event("generation-quiet", generation=1)
        assert shown(daemon, 1)["drain"]["by"] == "idle"
    daemon.wait_event("generation-gone", generation=1)
    daemon.wait_log("told by signal")
    extra = 'drain { by = "signal" }'
    daemon.configure(service(command=[*HELLO, "plain"], address=daemon.target, extra=extra))
    daemon.reload("web")  # 3
    daemon.reload("web")  # 4
    daemon.wait_event("generation-gone", generation=3)
    assert not any("heard DRAIN" in line for line in daemon.log.items)


@pytest.mark.parametrize("mode", ["plain", "late_word", "hostile", "shrinks", "begins_anew"])
def test_any_language(daemon, mode):
    daemon.configure(service(command=[*HELLO, mode], address=daemon.target, extra=AUTO)).start()
    daemon.wait_log("heard HELLO=1")
    daemon.wait_log("heard SERVING=1$")
    assert generation(daemon.target) == 1
    status = daemon.service()  # also of what counts wrongly
    assert status["generations"][0]["workers"][0]["status"] == ""
    with Http(daemon.target) as held:
        assert held.generation() == 1
        daemon.reload("web")
        daemon.wait_log("heard SERVING=2$")
        daemon.wait_log(r"heard DRAIN=\d+$")
        assert shown(daemon, 1)["drain"]["by"] == "message"
        assert held.generation() == 1
    assert daemon.wait_event("worker-exited", generation=1)["exit_code"] == 0
    daemon.wait_event("generation-gone", generation=1)
    assert not any("told by signal" in line for line in daemon.log.items)
    assert not daemon.seen("worker-killed")


@pytest.mark.parametrize("mode", ["says_nothing_of_drain", "hangs_up"])
def test_without_the_word_it_is_drained_as_any_other(daemon, mode):
    daemon.configure(service(command=[*HELLO, mode], address=daemon.target, extra=AUTO)).start()
    with Http(daemon.target) as held:
        assert held.generation() == 1
        daemon.reload("web")
        daemon.wait_event("generation-quiet", generation=1)
        assert shown(daemon, 1)["drain"]["by"] == "idle"
        assert held.generation() == 1
    daemon.wait_event("generation-gone", generation=1)
    daemon.wait_log("told by signal")


def test_rollback_is_told(daemon):
    rollout = 'rollout { bake = "60s" }'
    daemon.configure(service(command=[*HELLO, "plain"], address=daemon.target, extra=AUTO + rollout))
    daemon.start()
    at = len(daemon.log.items)
    reload = daemon.ctl_later("reload", "web")
    daemon.wait_log("heard SERVING=2$", at)
    at = len(daemon.log.items)
    daemon.kill(daemon.worker(2), signal.SIGKILL)
    reload.wait(3)
    daemon.wait_log("heard SERVING=1$", at)
    assert generation(daemon.target) == 1


def no_failure(daemon, connections, reloads, **options):
    """Keep-alive connections with verified answers through reloads of sleepd: none may fail."""
    daemon.configure(
        sleepd(address=daemon.target, workers=2, drain='deadline = "30s"'),
    ).start()
    with Load(daemon.target, keepalive=connections, slow=3, **options) as load:
        for number in range(2, reloads + 2):
            assert daemon.reload("web")["generation"] == number
            daemon.wait_event("generation-gone", generation=number - 1)
    assert len(load.result["workers"]) > reloads
    assert not daemon.seen("connections-cut") and not daemon.seen("worker-killed")
    return load.result


def test_keepalive_load_through_reloads(daemon):
    reloads = 3 if os.environ.get("HANDOFF_FAST") else 8
    no_failure(daemon, 64, reloads, rate=50)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("connections", [64, 1000])
def test_keepalive_load_through_100_reloads(daemon, connections):
    result = no_failure(daemon, connections, 100, rate=20, think="100ms")
    print(json.dumps({k: result[k] for k in ("ok", "failed", "skipped")}))


def test_killed_in_the_middle_of_a_drain(daemon):
    """Only what the dead worker had is lost, and everything goes on."""
    daemon.configure(sleepd("--grace", "30", address=daemon.target)).start()
    for number in range(1, 4):
        with Http(daemon.target) as held:
            assert held.generation() == number
            daemon.reload("web")
            daemon.wait_event("worker-status", generation=number, text="draining")
            daemon.kill(daemon.worker(number), signal.SIGKILL)
            gone = daemon.wait_event("worker-exited", generation=number)
            assert gone["connections"] == 1
            assert held.ended()
            daemon.wait_event("generation-gone", generation=number)
            assert generation(daemon.target) == number + 1


def ended(pid):
    """Waits for the end of a process that is not our child."""
    fd = os.pidfd_open(pid)
    try:
        assert select.select([fd], [], [], LIMIT)[0]
    finally:
        os.close(fd)


def test_handoffd_killed_in_the_middle_of_a_drain(daemon):
    """The worker was told, and finishes alone; the new generation serves on."""
    daemon.configure(sleepd("--grace", "0.2", address=daemon.target)).start()
    with Http(daemon.target) as busy:
        assert busy.generation() == 1
        busy.send("/?sleep=1")
        daemon.reload("web")
        daemon.wait_event("worker-status", generation=1, text="draining")
        old = daemon.worker(1)
        daemon.process.kill()
        daemon.process.wait(LIMIT)
        assert "generation=1" in busy.receive()[1]
        assert busy.ended()
        ended(old)
    assert generation(daemon.target) == 2


def test_clients_that_think_longer_than_the_grace(daemon):
    """Their connections are closed between two requests, and they see it before the next one."""
    daemon.configure(sleepd("--grace", "0.2", address=daemon.target, workers=2)).start()
    with Load(daemon.target, keepalive=32, slow=1, rate=20, think="900ms"):
        for number in range(2, 5):
            daemon.reload("web")
            daemon.wait_event("generation-gone", generation=number - 1)
    assert not daemon.seen("connections-cut") and not daemon.seen("worker-killed")
