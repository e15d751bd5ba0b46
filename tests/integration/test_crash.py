# SPDX-License-Identifier: MIT
"""A worker of the serving generation that dies is replaced; the port goes on answering."""

import os
import signal

import pytest
from harness import Http, Load, connect, generation, pid, service


@pytest.mark.parametrize("address", ["tcp", "path"])
def test_crashed_worker_is_replaced(daemon, address):
    """What was queued meanwhile is served by the new one: nobody is refused."""
    target = daemon.target if address == "tcp" else f"unix:{daemon.run}/web.sock"
    daemon.configure(service(address=target)).start()
    old = daemon.worker(1)
    os.kill(old, signal.SIGSTOP)
    queued = [Http(target).send() for _ in range(10)]
    os.kill(old, signal.SIGKILL)
    daemon.wait_event("worker-crashed", pid=old)
    late = Http(target).send()
    for connection in (*queued, late):
        assert "generation=1" in connection.receive()[1]
        connection.close()
    assert pid(target) == daemon.worker(1) != old
    assert daemon.service()["generations"][0]["workers"][0]["restarts"] == 1


def test_back_off_grows_and_a_reload_ends_it(daemon):
    """A crash loop is no busy loop."""
    daemon.configure(service("--crash-after", "0.01", address=daemon.target)).start()
    for _ in range(4):
        start = daemon.now()
        daemon.wait_event("worker-restarting", start)
    crashes = daemon.seen("worker-crashed")
    starts = daemon.seen("worker-started")
    assert len(crashes) >= 4 and "signal 6" in crashes[0]["text"]
    gaps = [seconds(s) - seconds(c) for c, s in zip(crashes, starts[1:], strict=False)]
    assert gaps[0] >= 0.09 and gaps[2] > 2 * gaps[0]
    daemon.configure(service(address=daemon.target))
    daemon.reload("web")
    assert generation(daemon.target) == 2


def seconds(event):
    hours, minutes, rest = event["time"][11:-1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def test_one_of_four_dies(daemon):
    """Under load of new connections, none is refused or lost but those that it held itself."""
    daemon.configure(service(address=daemon.target, workers=4)).start()
    for index in range(4):
        old = daemon.worker(1, index)
        os.kill(old, signal.SIGTERM)  # it leaves by itself, with what it has answered
        daemon.wait_event("worker-started", daemon_start(daemon, old), worker=index)
    with Load(daemon.target, rate=100, slow_ms=100):
        daemon.reload("web")


def daemon_start(daemon, old):
    """Behind the end of this process."""
    daemon.events.wait(lambda e: e["event"] == "worker-crashed" and e.get("pid") == old, "its end")
    return next(i for i, e in enumerate(daemon.events.items) if e["event"] == "worker-crashed" and e["pid"] == old)


def test_never_restarted(daemon):
    """restart = never: a program that ends well ends the service, and with the last one the daemon."""
    daemon.configure(service(address=daemon.target, extra="restart = never")).start()
    with pytest.raises(ConnectionError), Http(daemon.target) as c:
        c.get("/exit?code=0")
    daemon.wait_exit(0)
    with pytest.raises(ConnectionRefusedError):
        connect(daemon.target)
