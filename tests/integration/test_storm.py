# SPDX-License-Identifier: MIT
"""Very many requests at once: never lost, never piled up, each told the truth."""

import os
import signal

import pytest
from harness import WORKER, Client, service

CALLERS = 900
PIPELINED = 9100


@pytest.fixture
def gated(daemon):
    """Every generation but the first is ready only when the test opens its gate."""
    daemon.gate = daemon.directory / "gate"
    os.mkfifo(daemon.gate)

    def configure(command=(*WORKER, "gated", daemon.gate)):
        daemon.configure(
            service(address=daemon.target, command=command, extra='ready { by = "notify" }')
        )

    def let_in():
        with open(daemon.gate, "w", encoding="ascii"):  # waits for the worker to come to it
            pass

    daemon.gated_configure, daemon.let_in = configure, let_in
    configure()
    return daemon.start()


def generation_numbers(daemon):
    return sorted({e["generation"] for e in daemon.seen("generation-starting")})


def test_ten_thousand_hangups(gated):
    for _ in range(10_000):
        gated.signal(signal.SIGHUP)
    gated.wait_event("worker-started", generation=2)
    for _ in range(10_000):
        gated.signal(signal.SIGHUP)
    gated.settle()
    gated.let_in()
    gated.wait_event("worker-started", generation=3)
    gated.let_in()
    gated.ctl("wait", "web", code=0)
    assert generation_numbers(gated) == [1, 2, 3]


def test_ten_thousand_callers(gated):
    """One runs, one waits: who comes while it runs gets the result of the waiting one."""
    with Client(gated.control) as first:
        first.send("Reload", services=["web"])
        gated.wait_event("worker-started", generation=2)
        clients = [Client(gated.control) for _ in range(CALLERS)]
        for client in clients:
            client.send("Reload", services=["web"])
        with Client(gated.control) as many:
            for _ in range(PIPELINED):
                many.send("Reload")
            gated.wait_count("reload-requested", 1 + CALLERS + PIPELINED)
            seen = gated.now()
            gated.let_in()
            assert result(first.receive()) == (2, 0, "serving")
            gated.wait_event("worker-started", seen, generation=3)
            gated.let_in()
            results = {result(client.receive()) for client in clients}
            results |= {result(many.receive()) for _ in range(PIPELINED)}
        for client in clients:
            client.close()
    assert results == {(3, 0, "serving")}
    assert generation_numbers(gated) == [1, 2, 3]


def test_all_are_told_of_the_failure(gated):
    """The truth is that of the generation that carried the request, not that of the one before."""
    with Client(gated.control) as first:
        first.send("Reload")
        gated.wait_event("worker-started", generation=2)
        gated.gated_configure([*WORKER, "last-words"])
        clients = [Client(gated.control) for _ in range(50)]
        for client in clients:
            client.send("Reload")
        gated.wait_count("reload-requested", 51)
        gated.settle()
        gated.let_in()
        assert result(first.receive()) == (2, 0, "serving")
        for client in clients:
            reply = client.receive()
            assert reply["error"] == "dev.handoff.Manager.Failed" and reply["parameters"]["code"] == 3
            assert result(reply) == (3, 3, "failed")
            assert "to be or not to be" in reply["parameters"]["results"][0]["text"]
            client.close()
    assert gated.generations()[2] == "serving"


def test_callers_that_leave(gated):
    """What they asked for goes on; who stays is told the truth."""
    gone = Client(gated.control)
    gone.send("Reload")
    gated.wait_event("worker-started", generation=2)
    clients = [Client(gated.control) for _ in range(100)]
    for client in clients:
        client.send("Reload")
    gated.wait_count("reload-requested", 101)
    for client in (gone, *clients[:-1]):
        client.close()
    gated.let_in()
    gated.wait_event("worker-started", generation=3)
    gated.let_in()
    assert result(clients[-1].receive()) == (3, 0, "serving")
    clients[-1].close()


def result(reply):
    r = reply["parameters"]["results"][0]
    return r["generation"], r["exit_code"], r["outcome"]
