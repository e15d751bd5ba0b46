# SPDX-License-Identifier: MIT
"""What systemd is told, and the sockets it passes."""

import queue
import re
import shutil
import socket
import sys
import threading

import pytest
from harness import HANDOFFD, HERE, Http, Load, generation, quoted, service

LAUNCHER = """
import os, sys
n = int(sys.argv[1])
fds = [os.dup(int(f)) for f in sys.argv[3:3 + n]]
fds = [os.dup(f) if f < 3 + n else f for f in fds]
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(n), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3 + n], sys.argv[3 + n:])
"""


class Manager:
    """The receiving side of NOTIFY_SOCKET: reads at once, as systemd does."""

    def __init__(self, directory):
        self.path = f"{directory}/notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.seen = []
        self.waiting = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        while text := self.socket.recv(65536).decode():
            self.waiting.put(text)

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"", self.path)
        self.thread.join(20)
        self.socket.close()

    def next(self, word):
        """The first message from here on with this word in it, as a dictionary."""
        while True:
            text = self.waiting.get(timeout=20)
            self.seen.append(text)
            message = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
            if word in message:
                return message


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path)
    yield m
    m.close()


def test_reload_is_told(daemons, manager):
    daemon = daemons(environment={"NOTIFY_SOCKET": manager.path})
    daemon.configure(service(address=daemon.target)).start()
    assert int(manager.next("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) > 30_000_000
    while "generation 1 serves" not in manager.next("STATUS")["STATUS"]:
        pass
    assert manager.next("READY")["READY"] == "1"
    daemon.reload("web")
    message = manager.next("RELOADING")
    assert message["RELOADING"] == "1" and int(message["MONOTONIC_USEC"]) > 0
    assert int(message["EXTEND_TIMEOUT_USEC"]) > 30_000_000
    while "generation 2 serves" not in manager.next("STATUS")["STATUS"]:
        pass
    assert manager.next("READY")["READY"] == "1"
    # a failure ends the reload as well
    daemon.configure(service("--exit-at-start", "1", address=daemon.target))
    daemon.reload("web", code=3)
    manager.next("RELOADING")
    manager.next("READY")
    daemon.stop()
    assert manager.next("STOPPING")["STOPPING"] == "1"
    assert not any("MAINPID" in text for text in manager.seen)


def test_watchdog(daemons, manager):
    daemon = daemons(environment={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000"})
    daemon.configure(service(address=daemon.target)).start()
    for _ in range(3):
        assert manager.next("WATCHDOG")["WATCHDOG"] == "1"


def passed(daemons, listeners, names):
    """A daemon that is given these sockets as systemd does it."""
    daemon = daemons(pass_fds=[s.fileno() for s in listeners])
    numbers = [s.fileno() for s in listeners]
    launcher = [sys.executable, "-c", LAUNCHER, len(numbers), ":".join(names), *numbers]
    daemon.command = lambda: [str(a) for a in (*launcher, HANDOFFD, "-c", daemon.file)]
    return daemon


def test_passed_sockets(daemons):
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        targets = [f"127.0.0.1:{s.getsockname()[1]}" for s in (first, second)]
        daemon = passed(daemons, [first, second], ["one", "two"])
        daemon.configure(
            service(address="systemd:two"), service(name="other", address="systemd:one")
        ).start()
        listener = daemon.service()["listeners"][0]
        assert listener["origin"] == "systemd"
        with Load(*targets, rate=100, requests_per_connection=10):
            for number in range(2, 6):
                assert daemon.reload("web")["generation"] == number
        assert generation(targets[1]) == 5 and generation(targets[0]) == 1
        with Http(targets[1]) as c:
            environment = dict(line.split("=", 1) for line in c.get("/env").splitlines())
        assert environment["LISTEN_FDS"] == "1" and environment["LISTEN_FDNAMES"] == "http"


def test_passed_socket_that_nobody_wants(daemons):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        daemon = passed(daemons, [listener], ["stray"])
        daemon.configure(service(address=daemon.target)).start()
        daemon.wait_log('"stray"')


def test_socket_that_was_not_passed(daemons):
    daemon = daemons()
    daemon.configure(service(address="systemd:web")).spawn()
    daemon.wait_exit(1)
    assert any(re.search(r"systemd.*web|web.*systemd", line) for line in daemon.log.items)


@pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed")
def test_workers_are_not_heard(daemons, manager):
    """haproxy -Ws says READY=1 and MAINPID: that is for handoffd, and systemd must not hear of it."""
    daemon = daemons(environment={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "60000000"})
    extra = f'directory = {quoted(HERE.parent / "programs/apps/haproxy")} ready {{ by = "notify" }}'
    command = ["haproxy", "-Ws", "-f", "haproxy.cfg"]
    daemon.configure(service(address=daemon.target, command=command, extra=extra)).start()
    daemon.reload("web")
    while "generation 2 serves" not in manager.next("STATUS")["STATUS"]:
        pass
    assert generation(daemon.target) == 2
    daemon.stop()
    while manager.next("STOPPING")["STOPPING"] != "1":
        pass
    assert set(re.findall(r"MAINPID=(\d+)", "\n".join(manager.seen))) <= {str(daemon.process.pid)}
