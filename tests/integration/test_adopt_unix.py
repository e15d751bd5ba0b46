# SPDX-License-Identifier: MIT
"""Programs that make their UNIX socket themselves: found at its path at every moment."""

import os
import shutil
import socket
import stat
import threading

import pytest
from binders import BINDERS, PYTHON, configured
from harness import HERE, NOBODY, Http, Load, generation

RELOADS = 20


@pytest.fixture
def target(daemon):
    return f"unix:{daemon.run}/web.sock"


def binder(mode):
    return lambda daemon: [*PYTHON, mode, daemon.run / "web.sock"]


def node(daemon):
    """It neither removes the path first nor looks at it."""
    return ["/usr/bin/env", f"PORT={daemon.run}/web.sock", "node", BINDERS / "node.js"]


def gunicorn(daemon):
    """Sets the owner of the path between bind and listen, and removes what getsockname tells it."""
    app = HERE.parent / "programs/apps/gunicorn"
    return ["gunicorn", "-w", "2", "--threads", "4", "--chdir", app, "-b", f"unix:{daemon.run}/web.sock", "app:app"]


def puma(daemon):
    """Tries to connect before it removes the path."""
    rackup = HERE.parent / "programs/apps/puma/config.ru"
    return ["puma", "-b", f"unix://{daemon.run}/web.sock", "-t", "4:8", rackup]


PROGRAMS = {
    "path": ("python3", binder("path")),
    "careful": ("python3", binder("careful_path")),
    "node": ("node", node),
    "gunicorn": ("gunicorn", gunicorn),
    "puma": ("puma", puma),
}
CASES = [(name, "adopt") for name in PROGRAMS] + [("path", "auto"), ("node", "auto")]


class Watcher:
    """Somebody who looks for the path all the time."""

    def __init__(self, path):
        self.path, self.missing, self.looks, self.over = path, 0, 0, False
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self):
        while not self.over:
            self.looks += 1
            self.missing += not os.path.lexists(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()
        assert self.looks
        assert self.missing == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name, mode", CASES)
def test_reload_under_load(daemon, target, name, mode):
    binary, command = PROGRAMS[name]
    if not shutil.which(binary):
        pytest.skip(f"{binary} is not installed")
    configured(daemon, command, mode, target).start()
    listener = daemon.service()["listeners"][0]
    assert (listener["origin"], listener["steering"]) == ("adopted", "rename")
    rate = 50 if name in ("puma", "gunicorn") else 200
    with Load(target, rate=rate, keepalive=1, slow=1, requests_per_connection=20), Watcher(target[5:]):
        for number in range(2, RELOADS + 2):
            if number > 4:
                daemon.wait_event("generation-gone", generation=number - 4)
            assert daemon.reload("web")["generation"] == number
    for number in range(1, RELOADS + 1):
        daemon.wait_event("generation-gone", generation=number)
    for event in ("connections-cut", "worker-crashed", "socket-refused", "anomaly"):
        assert not daemon.seen(event), event
    assert len([n for n in os.listdir(daemon.run) if n.startswith(".web.sock.")]) == (2 if mode == "auto" else 1)


@pytest.mark.parametrize("binds", ["path", "early_path"])
@pytest.mark.parametrize("mode", ["auto", "adopt"])
def test_owner_and_mode_are_the_programs(daemon, target, root, mode, binds):
    """Of each generation, although it says them of a name where still another one's socket is."""
    daemon.run.chmod(0o777)
    command = lambda d: ["/usr/bin/python3", *binder(binds)(d)[1:]]  # noqa: E731
    configured(daemon, command, mode, target, extra='user = "nobody"').start()
    for number in range(2, 5):
        seen = os.stat(target[5:])
        assert (seen.st_uid, stat.S_IMODE(seen.st_mode)) == (NOBODY, 0o640)
        assert daemon.reload("web")["generation"] == number


def test_old_connections_stay(daemon, target):
    configured(daemon, binder("path"), address=target).start()
    with Http(target) as old:
        assert old.generation() == 1
        assert daemon.reload("web")["generation"] == 2
        assert generation(target) == 2
        before = next(g for g in daemon.service()["generations"] if g["id"] == 1)
        assert (before["state"], before["in_flight"]) == ("draining", 1)
        assert old.generation() == 1
    daemon.wait_event("generation-gone", generation=1)
    assert generation(target) == 2


def test_a_failed_one_takes_nothing_away(daemon, target):
    """The path, which it has removed and bound, is still the old one's."""
    configured(daemon, binder("path"), address=target, extra='ready { timeout = "3s" }').start()
    text = daemon.file.read_text()
    daemon.file.write_text(text.replace('"path"', '"dies_after_bind"'))
    with Load(target, rate=100, slow=0, keepalive=0), Watcher(target[5:]):
        assert "exited with status 7" in daemon.reload("web", code=3)["text"]
        assert generation(target) == 1


def test_killed(daemon, target):
    configured(daemon, binder("path"), "adopt", target).start()
    with Watcher(target[5:]):
        start = daemon.now()
        daemon.kill(daemon.worker(1), 9)
        daemon.wait_event("socket-adopted", start)
        assert generation(target) == 1
    assert daemon.service()["listeners"][0]["rescue"] == "none"


def test_refuses_to_start_where_the_path_exists(daemon, target):
    """It looks without touching: it starts once, and then its reload fails."""
    configured(daemon, binder("timid_path"), "adopt", target).start()
    assert "the path exists" in daemon.reload("web", code=3)["text"]
    assert generation(target) == 1


def test_a_dead_socket_is_in_the_way(daemon, target):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(target[5:])
    configured(daemon, binder("path"), "adopt", target).start()
    assert generation(target) == 1


def test_other_paths_pass(daemon, target):
    """What it removes and binds elsewhere is its own business."""
    configured(daemon, binder("path_and_others"), "adopt", target).start()
    assert generation(target) == 1
    assert not (daemon.run / "other").exists()
    assert os.path.exists(daemon.run / "second.sock")
    os.unlink(daemon.run / "second.sock")


@pytest.mark.parametrize("mode", ["auto", "adopt"])
def test_abstract(daemon, mode):
    """It can be bound only once, and handoffd has it: the program gets that socket."""
    target = f"unix:@{daemon.mark}"
    command = lambda d: [*PYTHON, "abstract", f"@{d.mark}"]  # noqa: E731
    configured(daemon, command, mode, target).start()
    assert generation(target) == 1
    with Http(target) as old:
        assert old.generation() == 1
        assert daemon.reload("web")["generation"] == 2
        daemon.wait_event("generation-gone", generation=1)
    assert generation(target) == 2
    assert daemon.service()["listeners"][0]["steering"] == "shared"
