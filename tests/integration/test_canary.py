# SPDX-License-Identifier: MIT
"""A canary gets its share of the new connections and no more; it becomes the serving generation by
command or timer, and is undone by command, a death, or a later roll-out."""

import collections
import math
import os
import re
import signal
import socket
import struct

import pytest
from harness import Http, Load, generation, service

HELD = 'rollout { bake = "0" canary = "50%" hold = "infinity" }'


def ask(port, source):
    """The generation that answers one short connection from this address of the loopback network."""
    with socket.socket() as s:
        s.bind((source, 0))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT is left
        s.connect(("127.0.0.1", port))
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while b"generation=" not in answer or not answer.endswith(b"\n"):
            data = s.recv(4096)
            if not data:
                break
            answer += data
    return int(re.search(rb"generation=(\d+)", answer)[1])


def count(port, number, sources=200):
    return collections.Counter(
        ask(port, f"127.7.{i % sources // 200}.{i % sources % 200 + 1}") for i in range(number)
    )


def is_binomial(hits, number, share):
    """Within 5 standard deviations: wrong once in two million runs."""
    return abs(hits - number * share) <= 5 * math.sqrt(number * share * (1 - share))


def shares(daemon):
    return {g["id"]: g["share"] for g in daemon.service()["generations"]}


def hold(daemon, *options, share="5%"):
    done = daemon.ctl("reload", "web", "--canary", share, "--hold", "infinity", *options, code=0)
    assert "canary" in done.stdout
    assert daemon.generations()[2] == "canary"


@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
def test_share(daemon, steering):
    number = 10000 if os.environ.get("HANDOFF_FAST") else 100000
    if steering == "ebpf" and os.geteuid() != 0:
        pytest.skip("eBPF needs root")
    daemon.environment["HANDOFF_STEERING"] = steering
    daemon.configure(service(address=daemon.target)).start()
    hold(daemon)
    got = count(daemon.port, number)
    assert sum(got.values()) == number and set(got) == {1, 2}
    assert is_binomial(got[2], number, 0.05), got
    web = daemon.service()
    assert shares(daemon) == {1: 95.0, 2: 5.0}
    if steering == "ebpf":
        seen = {g["id"]: g["share_observed"] for g in web["generations"]}
        assert seen[2] == pytest.approx(got[2] * 100 / number, abs=0.01)
    else:
        assert [g["share_observed"] for g in web["generations"]] == [None, None]


def test_sticky(daemon):
    """A client's address decides: nobody changes sides while nothing is changed, and a raise moves
    nobody back."""
    extra = 'rollout { bake = "0" sticky = true }'
    daemon.configure(service(address=daemon.target, extra=extra)).start()
    hold(daemon, share="20%")
    sources = [f"127.3.{i}.{k}" for i in range(10) for k in range(1, 31)]

    def sides():
        return {s for s in sources if ask(daemon.port, s) == 2}

    first = sides()
    assert 0 < len(first) < len(sources) / 2
    assert sides() == first
    for share in ("40%", "75%"):
        daemon.ctl("promote", "web", "--canary", share, code=0)
        now = sides()
        assert first < now
        first = now
    daemon.ctl("promote", "web", code=0)
    assert len(sides()) == len(sources)


@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
def test_raise_and_promote(daemon, steering):
    daemon.environment["HANDOFF_STEERING"] = steering
    daemon.configure(service(address=daemon.target, workers=2)).start()
    with Load(daemon.target, rate=150, slow_ms=100):
        hold(daemon, share="10%")
        daemon.ctl("promote", "web", "--canary", "60%", code=0)
        assert shares(daemon) == {1: 40.0, 2: 60.0}
        done = daemon.ctl("promote", "web", "--canary", "30%", code=1)
        assert "only be raised" in done.stderr
        assert shares(daemon) == {1: 40.0, 2: 60.0}
        daemon.ctl("promote", "web", code=0)
        assert daemon.service()["generation"] == 2 and shares(daemon)[2] == 100.0
        assert generation(daemon.target) == 2
    assert [e["text"].split()[1] for e in daemon.seen("generation-canary")] == ["10", "60"]


def test_timer(daemon):
    daemon.configure(service(address=daemon.target)).start()
    later = daemon.ctl_later("reload", "web", "--canary", "30%", "--hold", "1s")
    daemon.wait_event("generation-canary", generation=2)
    g = next(g for g in daemon.service()["generations"] if g["id"] == 2)
    assert 0 < g["promote_in"] <= 1
    assert "30%" in daemon.ctl("status", code=0).stdout
    later.wait(0)
    assert daemon.service()["generation"] == 2


def test_abort(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with Load(daemon.target, rate=150, slow_ms=100):
        later = daemon.ctl_later("reload", "web", "--canary", "50%", "--hold", "60s")
        daemon.wait_event("generation-canary", generation=2)
        # one of its clients stays, and is answered to its end
        for i in range(100):
            held = Http(daemon.target)
            if held.generation() == 2:
                break
            held.close()
        daemon.ctl("abort", "web", code=0)
        assert "its end was asked for" in later.wait(3)
        assert held.generation() == 2
        assert {generation(daemon.target) for _ in range(20)} == {1}
        assert daemon.generations() == {1: "serving", 2: "draining"}
        held.close()
        daemon.wait_event("generation-gone", generation=2)
    result = daemon.service()["last_result"]
    assert (result["outcome"], result["exit_code"]) == ("aborted", 3)
    assert daemon.seen("canary-aborted", generation=2)


def test_death(daemon):
    daemon.configure(service(address=daemon.target, workers=2)).start()
    later = daemon.ctl_later("reload", "web", "--canary", "5%", "--hold", "60s")
    daemon.wait_event("generation-canary", generation=2)
    daemon.kill(daemon.worker(2), signal.SIGKILL)
    assert "signal 9" in later.wait(3)
    assert {generation(daemon.target) for _ in range(20)} == {1}
    assert "signal 9" in daemon.wait_event("canary-aborted", generation=2)["text"]
    daemon.ctl("reload", "web", code=0)


def test_unwell(daemon):
    """It lives, but its health page says no."""
    daemon.configure(
        service(address=daemon.target, extra='ready { by = "http:/health" } rollout { bake = "0" }')
    ).start()
    later = daemon.ctl_later("reload", "web", "--canary", "5%", "--hold", "60s")
    daemon.wait_event("generation-canary", generation=2)
    os.kill(daemon.worker(2), signal.SIGSTOP)
    message = later.wait(3)
    os.kill(daemon.worker(2), signal.SIGCONT)
    assert "check failed" in message and "/health" in message
    assert {generation(daemon.target) for _ in range(20)} == {1}


def test_held_one_makes_room(daemon):
    """Without an end set, the next roll-out takes its place; with one it waits for it."""
    daemon.configure(service(address=daemon.target)).start()
    hold(daemon)
    daemon.ctl("reload", "web", code=0)
    assert daemon.service()["generation"] == 3
    assert "later roll-out" in daemon.wait_event("canary-aborted", generation=2)["text"]
    first = daemon.ctl_later("reload", "web", "--canary", "5%", "--hold", "1s")
    daemon.wait_event("generation-canary", generation=4)
    daemon.ctl("reload", "web", code=0)
    first.wait(0)
    assert daemon.service()["generation"] == 5
    assert daemon.wait_event("generation-serving", generation=4)


def test_settings(daemon):
    """Every reload begins as a canary, also one by signal; the command line can say otherwise."""
    daemon.configure(service(address=daemon.target, extra=HELD)).start()
    assert daemon.generations() == {1: "serving"}, "the first one has nothing to be compared with"
    daemon.signal(signal.SIGHUP)
    daemon.wait_event("generation-canary", generation=2)
    assert shares(daemon) == {1: 50.0, 2: 50.0}
    daemon.ctl("abort", "web", code=0)
    daemon.ctl("reload", "web", "--canary", "100%", code=0)
    assert daemon.service()["generation"] == 3


def test_stop_while_held(daemon):
    daemon.configure(service(address=daemon.target)).start()
    hold(daemon, share="50%")
    with Http(daemon.target) as a:
        a.get()
        later = daemon.ctl_later("stop", "web")
        daemon.wait_event("generation-draining", generation=2)
        daemon.wait_event("generation-draining", generation=1)
        a.get()
    later.wait(0)
    assert daemon.generations() == {}


@pytest.mark.parametrize("kind", ["unix", "abstract", "none"])
def test_not_possible(daemon, kind):
    address = {"unix": f"unix:{daemon.run}/web.sock", "abstract": f"unix:@{daemon.mark}", "none": None}[kind]
    daemon.configure(service(address=address, extra="" if address else 'sockets = "none"')).start()
    done = daemon.ctl("reload", "web", "--canary", "5%", code=1)
    assert "canary is not possible" in done.stderr
    assert daemon.service()["generation"] == 1 and not daemon.seen("generation-starting", generation=2)
    daemon.ctl("reload", "web", code=0)
    # where the file wants it, the reload fails before a client is concerned
    extra = HELD if address else HELD + ' sockets = "none"'
    daemon.configure(service(address=address, extra=extra))
    assert "canary is not possible" in daemon.ctl("reload", "web", code=3).stderr


def test_keep_alive_clients_stay(daemon):
    """Who has a connection is where he is: neither canary, raise, nor abort moves or ends it."""
    daemon.configure(service(address=daemon.target)).start()
    hold(daemon, share="50%")
    clients = [Http(daemon.target) for _ in range(20)]
    before = [c.generation() for c in clients]
    assert set(before) == {1, 2}
    daemon.ctl("promote", "web", "--canary", "90%", code=0)
    assert [c.generation() for c in clients] == before
    daemon.ctl("abort", "web", code=0)
    assert [c.generation() for c in clients] == before
    for c in clients:
        c.close()
