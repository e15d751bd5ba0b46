# SPDX-License-Identifier: MIT
"""Who may do what on the control socket, and clients that mean harm: all of them together disturb
neither the service nor a reload."""

import grp
import json
import os
import resource
import socket
import threading

import pytest
from harness import FAST, LIMIT, NOBODY, Client, Load, service

READERS, CHANGERS = (g.gr_gid for g in (grp.getgrnam("mail"), grp.getgrnam("news")))


def as_group(daemon, gid, *arguments, code):
    """handoffctl of an ordinary user with a supplementary group."""
    return daemon.ctl(*arguments, code=code, user=NOBODY, group=gid)


@pytest.mark.parametrize("groups", ["none", "change", "read", "both"])
def test_groups(daemon, root, groups):
    more = {
        "none": "",
        "change": 'control-group = "news"',
        "read": 'control-read-group = "mail"',
        "both": 'control-group = "news"\ncontrol-read-group = "mail"',
    }[groups]
    daemon.configure(service(address=daemon.target), more=more).start()
    reading = {"none": (7, 7, 7), "change": (7, 7, 0), "read": (7, 0, 7), "both": (7, 0, 0)}[groups]
    changing = 0 if groups in ("change", "both") else 7
    for gid, code in zip((None, READERS, CHANGERS), reading, strict=True):
        for command in (["status"], ["logs", "web"], ["events"], ["connections", "web"]):
            as_group(daemon, gid, *command, code=code)
    for command in ("reload", "stop", "start"):
        as_group(daemon, CHANGERS, command, "web", code=changing)
        as_group(daemon, READERS, command, "web", code=7)
        as_group(daemon, None, command, "web", code=7)
    if groups in ("read", "both"):
        refused = daemon.wait_event("call-refused")
        assert f"uid {NOBODY}, pid " in refused["text"]
        daemon.wait_log(f"call-refused.*uid {NOBODY}")
    daemon.ctl("reload", code=0)


def test_many_refusals_are_counted(daemon, root):
    daemon.configure(service(address=daemon.target), more='control-group = "news"\ncontrol-read-group = "mail"').start()
    pid = os.fork()
    if not pid:
        os.setgroups([])
        os.setresuid(NOBODY, NOBODY, NOBODY)
        for _ in range(200):
            with Client(daemon.control) as client:
                client.socket.recv(4096)
        os._exit(0)
    os.waitpid(pid, 0)
    daemon.settle()
    told = [line for line in daemon.log.items if "call-refused" in line]
    assert 1 <= len(told) <= 40


class Hostile:
    """Clients that do something bad until they are told to stop."""

    def __init__(self, daemon):
        self.path = str(daemon.control)
        self.sockets = []

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(LIMIT)
        s.connect(self.path)
        self.sockets.append(s)
        return s

    def send(self, s, data):
        try:
            s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def garbage(self):
        self.send(self.connect(), os.urandom(1 << 16) + b"\0" + b"{" * 100000 + b"\0")

    def half_messages(self):
        for part in (b"{", b'{"method":', b'{"method":"dev.handoff.Manager.Relo', b'{"method":"dev.handoff.Manager.Stop","parameters":{"services":["web"]}}'):
            self.send(self.connect(), part)

    def endless(self):
        s = self.connect()
        for _ in range(64):
            if not self.send(s, b"x" * (1 << 16)):
                return
        raise AssertionError("4 MiB without an end were read")

    def many(self):
        for _ in range(1000):
            self.connect()

    def never_reads(self):
        """Asks for much, follows everything, and reads nothing of it."""
        for method in ("Events", "Monitor", "Logs", "Connections"):
            s = self.connect()
            parameters = {"follow": True} if method == "Events" else {"service": "web"} if method != "Monitor" else {}
            if method == "Logs":
                parameters["follow"] = True
            call = json.dumps({"method": f"dev.handoff.Manager.{method}", "parameters": parameters, "more": True})
            self.send(s, call.encode() + b"\0")
        s = self.connect()
        s.settimeout(0.1)
        call = b'{"method":"dev.handoff.Manager.Events","parameters":{}}\0'
        try:
            for _ in range(2000):
                s.sendall(call * 10)
        except TimeoutError:
            pass

    def close(self):
        for s in self.sockets:
            s.close()


@pytest.mark.parametrize("what", ["garbage", "half_messages", "endless", "many", "never_reads"])
def test_hostile_clients(daemon, what):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    daemon.configure(service(address=daemon.target)).start()
    before = daemon.descriptors()
    hostile = Hostile(daemon)
    try:
        with Load(daemon.target, rate=100) as load:
            getattr(hostile, what)()
            assert load.process.poll() is None
            for number in range(2, 4 if FAST else 6):
                assert daemon.reload("web")["generation"] == number
            daemon.status()
    finally:
        hostile.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    daemon.wait_event("generation-gone", generation=1)
    daemon.settle()
    assert daemon.descriptors() <= before + 8


def test_a_follower_that_does_not_read_is_dropped(daemon):
    """It has its buffers full of events, then it is gone, which the log says; others miss nothing."""
    del daemon.environment["HANDOFF_CHECK_STATE"]  # which takes its time at each request
    daemon.configure(service(address=daemon.target)).start()
    with Client(daemon.control) as slow:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.send("Events", more=True, follow=True)
        stop = threading.Event()
        writer = threading.Thread(target=requests, args=(daemon, stop))
        writer.start()
        try:
            dropped = daemon.wait_event("call-refused")
        finally:
            stop.set()
            writer.join()
        assert f"pid {os.getpid()}" in dropped["text"] and "does not read" in dropped["text"]
    assert daemon.generations() == {1: "serving"}


def requests(daemon, stop):
    """Many events for little work: requests that end at once."""
    with Client(daemon.control) as client:
        while not stop.is_set():
            for _ in range(50):
                client.send("Start", services=["web"])
            for _ in range(50):
                client.receive()
