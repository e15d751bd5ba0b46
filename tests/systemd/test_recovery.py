# SPDX-License-Identifier: MIT
"""handoffd killed, and everything goes on; replaced, and its process stays. HANDOFF_KILLS says how often it
is killed at random moments of reloads (5)."""

import json
import os
import pathlib
import random
import subprocess
import threading
import time

import machine
import pytest
from machine import BUILD, LIMIT, Load, run, show, systemctl

KILLS = int(os.environ.get("HANDOFF_KILLS", "5"))
PORT = 8099
UNIT = "recovery"
FOLDER = pathlib.Path("/run/recovery")
CONTROL = FOLDER / "control"
SLEEPD = str(BUILD / "contrib/examples/sleepd")
TEXT = f"""
[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
ExecStart={BUILD}/daemon/handoffd -c {FOLDER}/handoffd.conf
Restart=always
RestartSec=50ms
KillMode=process
FileDescriptorStoreMax=4096
Environment=HANDOFF_STEERING=%s
"""


class Daemon:
    def __init__(self, steering):
        FOLDER.mkdir(exist_ok=True)
        service = machine.service(f"127.0.0.1:{PORT}", command=(SLEEPD,), extra="workers = 2")
        (FOLDER / "handoffd.conf").write_text(f'control-socket = "{CONTROL}"\n{service}')
        pathlib.Path(f"/etc/systemd/system/{UNIT}.service").write_text(TEXT % steering)
        systemctl("daemon-reload")
        systemctl("start", UNIT)

    def ctl(self, *arguments, code=0):
        return run(BUILD / "daemon/handoffctl", "-s", CONTROL, *arguments, code=code)

    def status(self):
        return json.loads(self.ctl("--json", "status").stdout)

    def workers(self):
        """{pid: generation}"""
        found = {}
        for one in self.status()["services"]:
            for g in one["generations"]:
                found.update({w["pid"]: g["id"] for w in g["workers"] if w["pid"]})
        return found

    def kill(self):
        """The control socket is kept: whoever asks next waits for the handoffd that comes."""
        systemctl("kill", "-s", "KILL", "--kill-who=main", UNIT)

    def main_pid(self):
        return machine.main_pid(UNIT)

    def processes(self):
        """Of the unit, without handoffd itself."""
        group = pathlib.Path(f"/sys/fs/cgroup{show(UNIT, 'ControlGroup')}")
        found = {int(p) for f in group.rglob("cgroup.procs") for p in f.read_text().split()}
        return found - {self.main_pid()}


@pytest.fixture(params=["ebpf", "cbpf"])
def daemon(request):
    yield Daemon(request.param)
    systemctl("stop", UNIT)


class Reloads:
    """One after the other; those that lose handoffd on the way are asked for again."""

    def __init__(self, daemon):
        self.daemon, self.stopping, self.codes = daemon, threading.Event(), []
        self.words = []  # of those that failed
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stopping.is_set():
            done = self.daemon.ctl("reload", "web", code=None)
            self.codes.append(done.returncode)
            if done.returncode not in (0, 5):  # done, or handoffd was gone
                self.words.append(done.stderr)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


def test_killed_during_reloads(daemon):
    chance = random.Random(KILLS)
    with Load(PORT), Reloads(daemon) as reloads:
        for _ in range(KILLS):
            daemon.status()  # it is there
            time.sleep(chance.random() * 0.2)  # the moment is what is tested
            daemon.kill()
        daemon.status()
    assert not reloads.words, reloads.words
    assert 0 in reloads.codes
    daemon.ctl("reload", "web", "--wait", "drained")
    assert daemon.processes() == set(daemon.workers())
    names = [json.loads(line)["event"] for line in daemon.ctl("events").stdout.splitlines()]
    assert "anomaly" not in names


def test_killed_at_points(daemon):
    """Of a reload, chosen at random: tests/integration/test_kills.py tries all, without systemd."""
    chance = random.Random()
    killed = []
    with Load(PORT):
        for _ in range(KILLS):
            point = chance.randrange(1, 150)
            killer = subprocess.Popen(
                [BUILD / "tests/tools/handoff-killat", str(daemon.main_pid()), str(point)],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert killer.stdout.readline() == "armed\n"
            daemon.ctl("reload", "web", "--wait", "drained", code=None)
            killer.terminate()  # if it has not killed
            killed.append(killer.communicate(timeout=LIMIT)[0])
            daemon.ctl("reload", "web", "--wait", "drained")
            assert daemon.processes() == set(daemon.workers()), killed
    assert any("calls" not in words for words in killed), killed


def test_workers_stay(daemon):
    before = daemon.workers()
    daemon.kill()
    assert daemon.workers() == before
    assert show(UNIT, "NRestarts") == "1"
    daemon.ctl("reload", "web", "--wait", "drained")
    assert set(daemon.workers().values()) == {2}


def test_the_store_does_not_grow(daemon):
    """What belongs to a generation leaves systemd's descriptor store with it."""
    daemon.ctl("reload", "web", "--wait", "drained")
    first = int(show(UNIT, "NFileDescriptorStore"))
    for i in range(8):
        if i == 4:
            daemon.kill()
        daemon.ctl("reload", "web", "--wait", "drained")
    assert 5 < int(show(UNIT, "NFileDescriptorStore")) < 2 * first


def test_worker_that_died_meanwhile(daemon):
    before = daemon.workers()
    first = min(before)
    # both at once: neither can see the end of the other
    subprocess.run(["kill", "-9", str(daemon.main_pid()), str(first)], check=True, timeout=LIMIT)
    with Load(PORT, rate=50):
        daemon.ctl("wait", "web")
        started = daemon.ctl("events").stdout
    after = daemon.workers()
    assert first not in after, started
    assert set(before) & set(after)


def test_stop_and_restart(daemon):
    """What was kept is forgotten by a stop in order, and systemd is left nothing."""
    daemon.kill()
    daemon.status()
    systemctl("restart", UNIT)
    assert set(daemon.workers().values()) == {1}
    systemctl("stop", UNIT)
    assert show(UNIT, "Result") == "success"
    assert os.listdir(FOLDER) == ["handoffd.conf"]


def test_upgrade(daemon):
    pid = daemon.main_pid()
    with Load(PORT, rate=100):
        for _ in range(3):
            daemon.ctl("upgrade")
            daemon.ctl("reload", "web")
        assert daemon.main_pid() == pid
        daemon.kill()
        daemon.ctl("reload", "web")
    pid = daemon.main_pid()
    daemon.ctl("upgrade")
    assert daemon.main_pid() == pid
    assert show(UNIT, "SubState") == "running"
