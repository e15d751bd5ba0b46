# SPDX-License-Identifier: MIT
"""Another handoffd in the place of the running one: everything goes on, and what cannot go on is refused
before anything happens."""

import json
import os
import shutil
import signal
import subprocess
import threading

import pytest
from binders import PYTHON, binder, configured
from harness import HANDOFFD, SLEEPD, WORKER, Client, Http, Load, generation, get, pid, service

UPGRADES = int(os.environ.get("HANDOFF_UPGRADES", "5"))


def upgrade(daemon, code=0):
    """By the command; the process stays the same."""
    before = daemon.process.pid
    done = daemon.ctl("upgrade", code=code)
    assert daemon.status()["pid"] == before
    return done.stdout + done.stderr


def own_program(daemon):
    """A copy of handoffd that a test may replace."""
    program = daemon.directory / "handoffd"
    shutil.copy2(HANDOFFD, program)
    daemon.command = lambda: [str(program), "-c", str(daemon.file)]
    return program


def replace(program, text):
    new = program.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o755)
    new.rename(program)


class Reloads:
    """One after the other until the end of the block; each has to be done."""

    def __init__(self, daemon):
        self.daemon, self.stopping, self.results = daemon, threading.Event(), []
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stopping.is_set():
            done = self.daemon.ctl("reload", "web")
            self.results.append((done.returncode, done.stdout + done.stderr))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


def during_reloads(daemons, steering, times):
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    daemon.configure(service(address=daemon.target, workers=2)).start()
    with Load(daemon.target, rate=200), Reloads(daemon) as reloads:
        for _ in range(times):
            upgrade(daemon)
    assert len(reloads.results) >= times / 2
    assert all(code == 0 for code, _ in reloads.results), [r for r in reloads.results if r[0]]
    assert len(daemon.seen("daemon-upgraded")) == times


@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
def test_during_reloads(daemons, steering):
    during_reloads(daemons, steering, UPGRADES)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
def test_twenty_during_reloads(daemons, steering):
    during_reloads(daemons, steering, 20)


def test_signal(daemon):
    daemon.configure(service(address=daemon.target)).start()
    worker = daemon.worker(1)
    daemon.signal(signal.SIGUSR2)
    daemon.wait_event("daemon-upgraded")
    assert daemon.worker(1) == worker and pid(daemon.target) == worker
    assert daemon.reload("web")["generation"] == 2


def test_every_state(daemon):
    """One generation drains, one serves, one starts, and somebody waits for it."""
    gate = daemon.directory / "gate"
    os.mkfifo(gate)
    command = [*WORKER, "gated", gate]
    extra = 'ready { by = "notify" } drain { deadline = "20s" }'
    daemon.configure(service(address=daemon.target, command=command, extra=extra)).start()
    with Http(daemon.target) as old:
        assert old.generation() == 1
        first = daemon.ctl_later("reload", "web")
        gate.write_text("")
        first.wait(0)
        daemon.wait_event("generation-draining", generation=1)
        second = daemon.ctl_later("reload", "web", "--wait", "drained")
        start = daemon.wait_event("worker-started", generation=3)
        upgrade(daemon)
        assert daemon.generations() == {1: "draining", 2: "serving", 3: "starting"}
        assert daemon.worker(3) == start["pid"]
        assert old.generation() == 1 and generation(daemon.target) == 2
        gate.write_text("")
        daemon.wait_event("generation-serving", generation=3)
        assert generation(daemon.target) == 3
        upgrade(daemon)
        assert old.generation() == 1
    second.wait(0)
    assert "drained" in second.stdout
    daemon.wait_event("generation-gone", generation=1)


def test_deadline_goes_on(daemon):
    """The time of before counts."""
    extra = 'drain { deadline = "3s" kill-after = "1s" }'
    daemon.configure(service(address=daemon.target, extra=extra)).start()
    with Http(daemon.target) as old:
        old.get()
        daemon.reload("web")
        for _ in range(2):
            upgrade(daemon)
        event = daemon.wait_event("connections-cut", generation=1)
        assert event["connections"] == 1
    daemon.wait_event("generation-gone", generation=1)


def test_canary(daemon):
    extra = 'rollout { canary = "50%" hold = "infinity" bake = "0" }'
    daemon.configure(service(address=daemon.target, extra=extra)).start()
    waiting = daemon.ctl_later("reload", "web", "--wait", "none")
    daemon.wait_event("generation-canary", generation=2)
    waiting.wait(0)
    upgrade(daemon)
    assert daemon.generations() == {1: "serving", 2: "canary"}
    assert {generation(daemon.target) for _ in range(60)} == {1, 2}
    daemon.ctl("promote", "web", code=0)
    assert {generation(daemon.target) for _ in range(20)} == {2}
    daemon.ctl("rollback", "web", code=0)


def test_worker_that_dies(daemon):
    """Whose end is seen by the new one, with its status, and what it wrote."""
    daemon.configure(service(address=daemon.target)).start()
    upgrade(daemon)
    os.kill(daemon.worker(1), signal.SIGKILL)
    event = daemon.wait_event("worker-crashed")
    assert event["exit_signal"] == signal.SIGKILL
    daemon.wait_event("worker-started", start=daemon.now() - 1)


@pytest.mark.parametrize("address", ["unix:{run}/web.sock", "udp", "unix:@handoff-{mark}"])
def test_other_sockets(daemon, address):
    if address == "udp":
        target = f"127.0.0.1:{daemon.port}"
        text = service(address=f"udp:{target}", command=[*WORKER, "udp"])
    else:
        target = address.format(run=daemon.run, mark=daemon.mark[:8])
        text = service(address=target)
    daemon.configure(text).start()
    for number in (2, 3):
        upgrade(daemon)
        if address.startswith("unix:{"):
            assert generation(target) == number - 1
        assert daemon.reload("web")["generation"] == number
    if address.startswith("unix:{"):  # the others are shared by all generations
        assert generation(target) == 3


def test_program_that_binds_itself(daemon):
    """Its calls go on being asked about: a worker that is started anew binds again."""
    configured(daemon, binder("plain"), "adopt").start()
    upgrade(daemon)
    assert generation(daemon.target) == 1
    assert daemon.reload("web")["generation"] == 2
    upgrade(daemon)
    before = daemon.worker(2)
    start = daemon.now()
    os.kill(before, signal.SIGKILL)
    daemon.wait_event("socket-adopted", start=start)
    assert generation(daemon.target) == 2 and pid(daemon.target) != before


def test_kept_descriptors(daemon):
    daemon.configure(service(address=daemon.target, command=[*WORKER, "keeps"])).start()
    assert get(daemon.target).startswith("count=1 ")
    upgrade(daemon)
    daemon.reload("web")
    assert get(daemon.target).startswith("count=2 ")


def test_events_go_on(daemon):
    """A follower sees what happened before, the upgrade, and what comes after it, each once."""
    daemon.configure(service(address=daemon.target)).start()
    upgrade(daemon)
    daemon.reload("web")
    daemon.settle()
    names = [e["event"] for e in daemon.events.items if e["event"] != "worker-status"]  # is not kept
    assert names.count("daemon-upgraded") == 1 and names.count("daemon-ready") == 1
    again = [json.loads(line)["event"] for line in daemon.ctl("events", code=0).stdout.splitlines()]
    assert again[: len(names)] == names[: len(again)]


# ---- what is refused ----


BROKEN = {
    "silent": "#!/bin/sh\nexit 0\n",
    "crash": "#!/bin/sh\nkill -SEGV $$\n",
    "nothing": "",
    "format": "#!/bin/sh\necho 'handoffd 9: the state has format 1, handoffd 9 understands 7 only'\nexit 1\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_program(daemon, kind):
    program = own_program(daemon)
    daemon.configure(service(address=daemon.target)).start()
    replace(program, BROKEN[kind])
    with Load(daemon.target, rate=100):
        said = upgrade(daemon, code=1)
        assert str(program) in said
        if kind == "format":
            assert "understands 7 only" in said
        assert daemon.wait_event("upgrade-refused")
        assert daemon.reload("web")["generation"] == 2
        shutil.copy2(HANDOFFD, program.with_suffix(".new"))
        program.with_suffix(".new").rename(program)
        upgrade(daemon)
        assert daemon.reload("web")["generation"] == 3


def test_program_that_hangs_is_not_waited_for(daemon):
    """handoffd works on meanwhile."""
    program = own_program(daemon)
    daemon.configure(service(address=daemon.target)).start()
    fifo = daemon.directory / "fifo"
    os.mkfifo(fifo)
    replace(program, f"#!/bin/sh\nread line < {fifo}\n")
    asked = daemon.ctl_later("upgrade")
    with Client(daemon.control) as second:
        with open(fifo, "w", encoding="ascii"):  # it has begun
            assert daemon.reload("web")["generation"] == 2
            second.send("Upgrade")
            daemon.settle()
        asked.wait(1)
        assert "ended without a word" in second.receive()["parameters"]["text"]  # the same answer


def check(document):
    done = subprocess.run(
        [HANDOFFD, "--check-snapshot"], input=document, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "document", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "core": {"state": -1}}']
)
def test_wrong_state(document):
    code, said = check(document)
    assert code == 1 and said.startswith("handoffd ") and "understood" not in said


def test_no_right(daemons, root):
    daemon = daemons()
    daemon.configure(service(address=daemon.target)).start()
    daemon.control.chmod(0o666)
    daemon.ctl("upgrade", user=65534, code=7)
