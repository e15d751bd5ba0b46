# SPDX-License-Identifier: MIT
"""How an old generation ends: not before it is done, not later than its deadline, and what was cut is
told."""

import os
import signal
import socket

import pytest
from harness import WORKER, Client, Http, Load, connect, generation, service

STEERED = ["v4", "v6", "cbpf", "path"]


@pytest.fixture(params=STEERED)
def steered(request, daemons):
    """A daemon with an address of each kind that can tell its generations' connections apart."""
    cbpf = request.param == "cbpf"
    daemon = daemons(environment={"HANDOFF_STEERING": "cbpf"} if cbpf else None)
    if request.param == "v6":
        daemon.target = f"[::1]:{daemon.port}"
    elif request.param == "path":
        daemon.target = f"unix:{daemon.run}/web.sock"
    return daemon


def in_flight(daemon, number):
    return next(g["in_flight"] for g in daemon.service()["generations"] if g["id"] == number)


def test_told_only_when_the_last_connection_is_closed(steered):
    steered.configure(service(address=steered.target)).start()
    with Http(steered.target) as first, Http(steered.target) as second:
        assert first.generation() == second.generation() == 1
        steered.reload("web")
        steered.wait_event("generation-quiet", generation=1)
        assert in_flight(steered, 1) == 2
        first.close()
        # the other one is served as if nothing had happened
        assert second.generation() == 1
        steered.settle()
        assert steered.generations() == {2: "serving", 1: "draining"}
        assert second.generation() == 1
    steered.wait_event("generation-gone", generation=1)
    names = [e["event"] for e in steered.events.items if e["generation"] == 1]
    told = next(
        i
        for i, e in enumerate(e for e in steered.events.items if e["generation"] == 1)
        if e["event"] == "worker-status" and e["text"] == "draining"
    )
    assert names.index("generation-drained") < told
    assert not steered.seen("connections-cut")


def test_deadline_cuts_and_tells(steered):
    drain = 'drain { deadline = "300ms" kill-after = "100ms" }'
    steered.configure(service("--ignore-term", address=steered.target, extra=drain)).start()
    with Http(steered.target) as held, Http(steered.target) as other:
        assert held.generation() == other.generation() == 1
        steered.configure(service(address=steered.target))
        done = steered.ctl("reload", "web", "--wait", "drained", code=6)
        assert "2 connections cut" in done.stderr
        assert held.ended()
    assert steered.wait_event("connections-cut", generation=1, connections=2)
    assert steered.wait_event("worker-killed", generation=1)
    assert steered.wait_event("generation-gone", generation=1, connections=2)
    steered.wait_log("cut at the deadline: ")


def test_deadline_lets_the_worker_finish(daemon):
    """At the deadline it is told first; a worker that then answers at once loses nobody."""
    drain = 'drain { deadline = "100ms" kill-after = "10s" }'
    daemon.configure(service(address=daemon.target, extra=drain)).start()
    with Http(daemon.target) as slow:
        slow.send("/?sleep=0.6")
        assert generation(daemon.target) == 1
        daemon.reload("web")
        daemon.wait_event("generation-stopping", generation=1)
        assert "generation=1" in slow.receive()[1]


def test_signal_is_sent_at_once(daemon):
    daemon.configure(service(address=daemon.target, extra='drain { by = "signal" }')).start()
    with Http(daemon.target) as slow:
        slow.send("/?sleep=0.7")
        assert generation(daemon.target) == 1
        daemon.reload("web")
        daemon.wait_event("worker-status", generation=1, text="draining")
        assert "generation=1" in slow.receive()[1]
    daemon.wait_event("generation-gone", generation=1)
    assert not daemon.seen("connections-cut")


def test_other_signal(daemon):
    daemon.configure(service(address=daemon.target, extra='drain { signal = "INT" }')).start()
    daemon.reload("web", "--wait", "drained")
    assert daemon.wait_event("worker-exited", generation=1)["exit_code"] == 0


def test_idle_connections_need_not_be_waited_for(steered):
    drain = 'drain { idle-after = "300ms" }'
    steered.configure(service(address=steered.target, extra=drain)).start()
    with Http(steered.target) as idle:
        assert idle.generation() == 1
        if steered.target.startswith("unix:"):
            # what a UNIX connection last did is not to be had from the kernel
            steered.reload("web")
            steered.wait_event("generation-quiet", generation=1)
            idle.close()
            steered.wait_event("generation-gone", generation=1)
            return
        steered.reload("web", "--wait", "drained")  # code 0: it was not cut
        assert idle.ended()


def test_busy_connection_holds_back_longer_than_idle_after(daemon):
    drain = 'drain { idle-after = "400ms" }'
    daemon.configure(service(address=daemon.target, extra=drain)).start()
    with Http(daemon.target) as busy:
        assert busy.generation() == 1
        daemon.reload("web")
        for _ in range(8):  # always something within the time, longer than it altogether
            assert busy.generation("/?sleep=0.15") == 1
        assert daemon.generations() == {2: "serving", 1: "draining"}
    daemon.wait_event("generation-gone", generation=1)


def test_oldest_is_stopped_when_there_are_too_many(daemon):
    rollout = 'rollout { bake = "0" max-old = 2 } drain { kill-after = "5s" }'
    daemon.configure(service(address=daemon.target, extra=rollout)).start()
    held = []
    for number in range(1, 4):
        held.append(Http(daemon.target))
        assert held[-1].generation() == number
        assert daemon.reload("web")["generation"] == number + 1
        if number < 3:
            assert not daemon.seen("generation-stopping", generation=1)
    daemon.wait_event("generation-gone", generation=1)
    assert daemon.generations() == {4: "serving", 3: "draining", 2: "draining"}
    assert held[1].generation() == 2 and held[2].generation() == 3
    for connection in held:
        connection.close()


def test_killed_when_it_does_not_leave(daemon):
    drain = 'drain { deadline = "100ms" kill-after = "200ms" }'
    daemon.configure(service("--ignore-term", address=daemon.target, extra=drain)).start()
    old = daemon.worker(1)
    daemon.configure(service(address=daemon.target))
    daemon.reload("web", "--wait", "drained")  # nobody was connected, so nobody was cut
    killed = daemon.wait_event("worker-exited", generation=1, pid=old)
    assert killed["exit_signal"] == signal.SIGKILL


@pytest.mark.parametrize("by", ["idle", "signal"])
def test_children_that_hold_the_connections(daemon, by):
    """The parent may leave when it is told; its children finish what they have."""
    forking = service(
        address=daemon.target, command=[*WORKER, "forking"], extra=f'ready {{ by = "notify" }} drain {{ by = "{by}" }}'
    )
    daemon.configure(forking).start()
    with Http(daemon.target) as held:
        child = int(held.get().split()[0].removeprefix("pid="))
        assert child != daemon.worker(1)
        daemon.reload("web")
        if by == "signal":
            daemon.wait_event("worker-exited", generation=1)
        else:
            daemon.wait_event("generation-quiet", generation=1)
            assert not daemon.seen("worker-exited", generation=1)
        assert held.generation() == 1
        assert daemon.generations() == {2: "serving", 1: "draining"}
        assert held.generation() == 1
    daemon.wait_event("generation-gone", generation=1)
    assert not daemon.seen("connections-cut")
    assert not os.path.exists(f"/proc/{child}")


def test_children_that_stay_are_killed(daemon):
    drain = 'ready { by = "notify" } drain { deadline = "300ms" kill-after = "300ms" }'
    daemon.configure(service(address=daemon.target, command=[*WORKER, "leaves-children"], extra=drain)).start()
    daemon.reload("web")
    daemon.wait_event("generation-gone", generation=1)
    assert len(daemon.left_processes()) == 3  # handoffd, the new worker, its child


def test_client_that_has_ended_its_side(daemon):
    """Half of the connection is closed, the answer is still to come."""
    daemon.configure(service(address=daemon.target)).start()
    with Http(daemon.target) as half:
        half.send("/?sleep=0.6")
        half.socket.shutdown(socket.SHUT_WR)
        assert generation(daemon.target) == 1
        daemon.reload("web")
        assert generation(daemon.target) == 2
        assert "generation=1" in half.receive()[1]
    daemon.wait_event("generation-gone", generation=1)
    assert not daemon.seen("connections-cut")


def test_what_is_queued_is_served(steered):
    """Connections that the old worker has not taken yet when new ones are turned away from it."""
    steered.configure(service(address=steered.target)).start()
    old = steered.worker(1)
    os.kill(old, signal.SIGSTOP)
    queued = [Http(steered.target).send() for _ in range(20)]
    try:
        assert steered.reload("web")["generation"] == 2
        assert generation(steered.target) == 2
    finally:
        os.kill(old, signal.SIGCONT)
    for connection in queued:
        assert "generation=1" in connection.receive()[1]
        connection.close()
    steered.wait_event("generation-gone", generation=1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_is_queued_is_served_when_the_old_one_dies(steered, number):
    """It dies after the turn with connections in its queue: another worker takes them."""
    steered.configure(service(address=steered.target)).start()
    old = steered.worker(1)
    os.kill(old, signal.SIGSTOP)
    queued = [Http(steered.target).send() for _ in range(20)]
    assert steered.reload("web")["generation"] == 2
    os.kill(old, number)
    if number != signal.SIGKILL:
        os.kill(old, signal.SIGCONT)
    for connection in queued:
        assert "generation=" in connection.receive()[1]
        connection.close()
    steered.wait_event("generation-gone", generation=1)


def test_warm_generation_is_whole(daemon):
    daemon.configure(service(address=daemon.target, extra='rollout { bake = "0" keep-warm = "300ms" }')).start()
    old = daemon.worker(1)
    daemon.reload("web")
    assert daemon.wait_event("generation-warm", generation=1)
    draining = daemon.wait_event("generation-draining", generation=1)
    assert draining
    daemon.wait_event("worker-exited", generation=1, pid=old)


def test_shared_listener_is_drained_by_signal(daemon):
    """An abstract name is one socket for all; `idle` is not to be had, and that is said."""
    target = f"unix:@handoff-{daemon.port}"
    daemon.configure(service(address=target, workers=2)).start()
    daemon.wait_event("steering-shared")
    with Http(target) as slow:
        slow.send("/?sleep=0.5")
        connect(target).close()
        assert generation(target) == 1
        with Load(target, rate=100, slow_ms=100):
            assert daemon.reload("web")["generation"] == 2
            assert "generation=1" in slow.receive()[1]
    daemon.wait_event("generation-gone", generation=1)


def test_waiting_for_drained(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with Http(daemon.target) as held:
        held.get()
        done = daemon.ctl("reload", "web", "--wait", "drained", "--timeout", "200ms", code=4)
        assert "goes on" in done.stderr
        daemon.ctl("wait", "web", code=0)
        daemon.ctl("wait", "web", "--for", "drained", "--timeout", "100ms", code=4)
        with Client(daemon.control) as client:
            client.send("Wait", service="web", **{"for": "drained"})
            daemon.settle()
            held.close()
            assert client.receive()["parameters"]["exit_code"] == 0
