# SPDX-License-Identifier: MIT
"""handoffd as process 1 of a PID namespace, as in a container."""

import os
import pathlib
import select
import signal
import subprocess

import pytest
from harness import HANDOFFD, SLEEPD, Http, generation, service


@pytest.fixture
def first(daemons, root):
    probe = subprocess.run(["unshare", "-pf", "--mount-proc", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no PID namespaces: {probe.stderr.decode().strip()}")
    daemon = daemons()
    daemon.command = lambda: [
        *("unshare", "-pf", "--mount-proc", "--kill-child"), str(HANDOFFD), "-c", str(daemon.file)
    ]  # fmt: skip
    yield daemon
    if daemon.process and daemon.process.poll() is None:
        os.kill(children(daemon.process.pid)[0], signal.SIGTERM)
        daemon.wait_exit(0)


def children(pid):
    return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name(pid):
    return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()


def test_signals_and_exit_status(first):
    first.configure(service(address=first.target)).start()
    assert first.status()["pid"] == 1
    one = children(first.process.pid)[0]
    os.kill(one, signal.SIGHUP)
    first.wait_event("generation-serving", generation=2)
    with Http(first.target) as slow:
        slow.send("/?sleep=0.5")
        first.settle()
        os.kill(one, signal.SIGTERM)
        first.wait_event("daemon-stopping")
        assert slow.receive()[0] == 200
    first.wait_exit(0)


def test_start_that_fails(first):
    first.configure(service(address=first.target, command=["/bin/false"], extra='restart = "never"')).spawn()
    first.wait_exit(1)


def test_orphans_are_reaped(first):
    script = f"(sleep 0.3 &); exec {SLEEPD}"
    first.configure(service(address=first.target, command=["/bin/sh", "-c", script])).start()
    one = children(first.process.pid)[0]
    orphans = [p for p in children(one) if name(p) == "sleep"]
    for orphan in orphans:
        fd = os.pidfd_open(orphan)
        assert select.select([fd], [], [], 20)[0]
        os.close(fd)
    first.settle()
    assert not set(orphans) & set(children(one))
    assert first.reload("web")["generation"] == 2


def test_upgrade(first):
    first.configure(service(address=first.target)).start()
    first.ctl("upgrade", code=0)
    assert first.status()["pid"] == 1
    assert generation(first.target) == 1
    assert first.reload("web")["generation"] == 2
