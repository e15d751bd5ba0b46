# SPDX-License-Identifier: MIT
"""A cgroup for each generation where systemd delegates: whoever is in it is found, whatever has become of its
parents."""

import ctypes
import os
import pathlib
import select
import signal
import socket
import struct

import machine
import pytest
from machine import ctl, drop_in, main_pid, run, service, show, status, systemctl, write

PORT = 8097
FOLDER = pathlib.Path("/run/cgroups")
# Answers "PID GRANDCHILD"; the grandchild is a daemon that does not end by SIGTERM.
WORKER = """
import os, signal, socket, sys, threading
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(write_end, b"%d" % os.getpid())
        os.closerange(0, 64)
        while True:
            signal.pause()
    os._exit(0)
os.wait()
daemon = os.read(read_end, 20).decode()
def serve(connection):
    while connection.recv(4096):
        body = f"{os.getpid()} {daemon}"
        connection.sendall(f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
listener = socket.socket(fileno=3)
listener.setblocking(True)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", "\\0" + os.environ["NOTIFY_SOCKET"][1:])
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
SETTINGS = 'workers = 2\n\tready { by = "notify" }\n\tdrain { deadline = "1s" kill-after = "300ms" %s }'


@pytest.fixture(autouse=True, scope="module")
def installed():
    machine.install()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "worker.py").write_text(WORKER)


@pytest.fixture
def start():
    def one(drain="", delegate=True):
        if not delegate:
            drop_in("handoffd.service", "[Service]\nDelegate=no\n")
        command = ("/usr/bin/python3", str(FOLDER / "worker.py"))
        write("handoffd.conf", service(f"127.0.0.1:{PORT}", command=command, extra=SETTINGS % drain))
        systemctl("start", "handoffd")

    yield one
    systemctl("stop", "handoffd", code=None)
    systemctl("reset-failed", "handoffd", code=None)
    run("sh", "-c", "rm -rf /etc/systemd/system/handoffd.service.d /etc/handoffd/*")
    systemctl("daemon-reload")


def ask():
    with socket.create_connection(("127.0.0.1", PORT), timeout=machine.LIMIT) as connection:
        return talk(connection)


def talk(connection):
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.rsplit(b"\r\n\r\n", 1)[1]:
        part = connection.recv(4096)
        assert part, answer
        answer += part
    return [int(word) for word in answer.rsplit(b"\r\n\r\n", 1)[1].split()]


def unit_cgroup():
    return pathlib.Path("/sys/fs/cgroup" + show("handoffd", "ControlGroup"))


def generations():
    """{directory: {worker: set of pids}}"""
    return {
        g.name: {w.name: {int(p) for p in (w / "cgroup.procs").read_text().split()} for w in g.iterdir() if w.is_dir()}
        for g in unit_cgroup().iterdir()
        if g.is_dir() and g.name.startswith("web-")
    }


def pids(generation):
    return {w["index"]: w["pid"] for g in status()["generations"] if g["id"] == generation for w in g["workers"]}


def alive(pid):
    return pathlib.Path(f"/proc/{pid}").exists()


def has_its_own(number):
    found = generations()
    assert set(found) == {f"web-{number}"}
    inside = found[f"web-{number}"]
    assert set(inside) == {"0", "1"}
    for index, pid in pids(number).items():
        assert pid in inside[str(index)]
        assert len(inside[str(index)]) == 2  # and its daemon
    assert (unit_cgroup() / "cgroup.subtree_control").read_text().strip() == ""
    assert str(main_pid()) in (unit_cgroup() / "cgroup.procs").read_text().split()
    return set().union(*inside.values())


def private_bytes(pid):
    _, resident, shared = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGESIZE")


def test_whole_generation(start):
    start()
    first = has_its_own(1)
    worker, daemon = ask()
    assert {worker, daemon} <= first
    (shown,) = status()["generations"]
    assert shown["memory"] == pytest.approx(sum(map(private_bytes, first)), rel=0.3)
    ctl("reload", "web", "--wait", "drained")
    assert not [p for p in first if alive(p)]
    second = has_its_own(2)
    main = main_pid()
    ctl("upgrade")
    assert main_pid() == main
    assert has_its_own(2) == second
    group = unit_cgroup()
    systemctl("stop", "handoffd")
    assert not [p for p in second if alive(p)]
    assert not group.exists()


def test_worker_that_dies_leaves_nothing(start):
    """Its daemon goes before a new worker comes, and that of the other worker stays."""
    start()
    has_its_own(1)
    worker, daemon = ask()
    index = next(i for i, p in pids(1).items() if p == worker)
    others = generations()["web-1"][str(1 - index)]
    gone = os.pidfd_open(daemon)
    os.kill(worker, signal.SIGKILL)
    assert select.select([gone], [], [], machine.LIMIT)[0]
    os.close(gone)
    ctl("wait", "web")
    assert pids(1)[1 - index] in others
    assert generations()["web-1"][str(1 - index)] == others


def test_recovery(start):
    start()
    first = has_its_own(1)
    before = main_pid()
    systemctl("kill", "-s", "KILL", "--kill-who=main", "handoffd")
    status()
    assert main_pid() != before
    assert has_its_own(1) == first
    ctl("reload", "web", "--wait", "drained")
    assert not [p for p in first if alive(p)]
    has_its_own(2)


class Writes:
    """Counts how often a file is written to (inotify)."""

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self.fd, str(path).encode(), 2) >= 0  # IN_MODIFY

    def any(self):
        try:
            return len(os.read(self.fd, 65536)) >= struct.calcsize("iIII")
        except BlockingIOError:
            return False


def test_frozen_for_the_last_look(start):
    start(drain='idle-after = "200ms"')
    has_its_own(1)
    with socket.create_connection(("127.0.0.1", PORT), timeout=machine.LIMIT) as idle:
        worker, _ = talk(idle)
        freeze = Writes(unit_cgroup() / "web-1/cgroup.freeze")
        events = Writes(unit_cgroup() / "web-1/cgroup.events")
        ctl("reload", "web", "--wait", "drained")
        assert freeze.any() and events.any()
    assert not alive(worker)


@pytest.mark.parametrize("drain", ["", 'idle-after = "200ms"'])
def test_without_delegation(start, drain):
    """As it was: no cgroups, and a daemon cannot be told from other processes."""
    start(drain, delegate=False)
    assert generations() == {}
    worker, daemon = ask()
    first = set(pids(1).values())
    daemons = {int(p) for p in (unit_cgroup() / "cgroup.procs").read_text().split()} - first - {main_pid()}
    assert worker in first and daemon in daemons
    assert status()["generations"][0]["memory"] > 0
    ctl("reload", "web", "--wait", "drained")
    assert not [p for p in first if alive(p)]
    assert alive(daemon)
    assert generations() == {}
    for pid in {int(p) for p in (unit_cgroup() / "cgroup.procs").read_text().split()} - {main_pid(), *pids(2).values()}:
        os.kill(pid, signal.SIGKILL)
