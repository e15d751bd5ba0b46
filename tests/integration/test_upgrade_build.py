# SPDX-License-Identifier: MIT
"""A build that runs goes on with the next handoffd after an upgrade; after a crash it is ended and begun again,
never beside another one."""

import os
import select
import signal

import pytest
from harness import SLEEPD, Load, generation, listed, quoted, service
from test_recovery import again
from test_upgrade import upgrade


class Build:
    """Of the next generation: runs until it is told by `go` how to end, and leaves its number in `pids`."""

    def __init__(self, daemon):
        self.daemon, self.directory = daemon, daemon.directory
        os.mkfifo(self.directory / "go")
        (self.directory / "fast").touch()
        script = (
            "[ ! -e fast ] || exit 0; echo $$ >> pids; echo building for $HANDOFF_BUILD; "
            "read status < go; echo done with $status; printf tail >&2; exit $status"
        )
        extra = f"directory = {quoted(self.directory)}\nbuild = {listed(['sh', '-c', script])}"
        daemon.configure(service(address=daemon.target, command=[SLEEPD], extra=extra)).start()
        (self.directory / "fast").unlink()

    def begin(self, *options):
        self.waiting = self.daemon.ctl_later("reload", "web", *options)
        self.daemon.wait_output(f"building for {self.daemon.process.pid}$")
        return self

    def end(self, status):
        with open(self.directory / "go", "w", encoding="ascii") as go:
            go.write(f"{status}\n")

    def pids(self):
        return [int(p) for p in (self.directory / "pids").read_text().split()]


def test_it_goes_on(daemon):
    b = Build(daemon)
    with Load(daemon.target, rate=100):
        b.begin()
        for _ in range(2):
            upgrade(daemon)
        assert daemon.generations() == {1: "serving", 2: "starting"}
        b.end(0)
        b.waiting.wait(0)
    assert daemon.seen("build-done", generation=2)
    assert generation(daemon.target) == 2 and len(b.pids()) == 1
    daemon.wait_output("done with 0")


def test_its_failure_is_told(daemon):
    """With what it wrote before, and after."""
    b = Build(daemon).begin()
    upgrade(daemon)
    b.end(7)
    said = b.waiting.wait(3)
    assert "the build exited with status 7" in said
    assert "building for" in said and "done with 7" in said and "tail" in said
    assert generation(daemon.target) == 1


def test_it_is_stopped(daemon):
    """By who did not begin it."""
    b = Build(daemon).begin()
    upgrade(daemon)
    daemon.ctl("stop", "web", code=0)
    b.waiting.wait(8)
    daemon.wait_event("generation-gone", generation=2)


@pytest.mark.parametrize("ends", ["it runs", "it has ended"])
def test_after_a_crash(daemon, ends):
    b = Build(daemon)
    with Load(daemon.target, rate=100):
        b.begin("--wait", "none")
        first = os.pidfd_open(b.pids()[0])
        if ends == "it has ended":
            daemon.signal(signal.SIGSTOP)  # it does not see that
            b.end(0)
        again(daemon)
        daemon.wait_output("building for")
        assert select.select([first], [], [], 0)[0], "two builds at once"
        os.close(first)
        b.end(0)
        daemon.wait_event("generation-serving", generation=3)
    assert len(b.pids()) == 2
