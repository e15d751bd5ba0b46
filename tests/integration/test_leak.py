# SPDX-License-Identifier: MIT
"""What must not grow, and what must not happen while nothing happens."""

import pathlib
import time

import psutil
import pytest
from harness import Http, service


def switches(daemon):
    text = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def reload(daemon, times):
    for _ in range(times):
        daemon.reload("web", "--wait", "drained")
    daemon.settle()


def test_idle_daemon_sleeps(daemon):
    """With a serving generation and one that cannot drain: nothing is polled."""
    daemon.configure(service(address=daemon.target, workers=2, extra='rollout { bake = "0" }')).start()
    with Http(daemon.target) as held:
        held.get()
        daemon.reload("web")
        daemon.wait_event("generation-quiet", generation=1)
        daemon.settle()
        before = switches(daemon)
        time.sleep(3)  # for nothing to happen in
        assert switches(daemon) - before <= 3  # the clients of before have closed their sockets
        assert daemon.generations() == {2: "serving", 1: "draining"}


def test_descriptors_and_zombies(daemon):
    path = f"unix:{daemon.run}/web.sock"
    daemon.configure(service(address=[daemon.target, path], workers=2)).start()
    reload(daemon, 20)
    before = daemon.descriptors()
    reload(daemon, 180)
    assert daemon.descriptors() == before
    children = psutil.Process(daemon.process.pid).children(recursive=True)
    assert len(children) == 2 and all(c.status() != psutil.STATUS_ZOMBIE for c in children)


def test_descriptors_after_failures(daemon):
    daemon.configure(service(address=daemon.target)).start()
    reload(daemon, 2)
    before = daemon.descriptors()
    for bad in (service("--exit-at-start", "1", address=daemon.target), service(command=["/none"], address=daemon.target)):
        daemon.configure(bad)
        for _ in range(10):
            number = daemon.reload("web", code=3)["generation"]
            daemon.wait_event("generation-gone", generation=number)
    daemon.settle()
    assert daemon.descriptors() == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory(daemon):
    """python3 -m pytest -m slow test_leak.py"""
    daemon.configure(service(address=daemon.target)).start()
    reload(daemon, 200)
    process = psutil.Process(daemon.process.pid)
    before, descriptors = process.memory_info().rss, daemon.descriptors()
    reload(daemon, 1000)
    assert process.memory_info().rss - before < 1 << 20
    assert daemon.descriptors() == descriptors
