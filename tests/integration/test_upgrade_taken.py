# SPDX-License-Identifier: MIT
"""A server that was taken over (generation 0) goes on with the handoffd that comes after an upgrade or a
crash, in whatever state it is."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from binders import BINDERS, binder
from harness import LIMIT, SLEEPD, Load, connect, generation, get
from test_adopt_programs import ANY, nginx
from test_recovery import again, come_back, die
from test_takeover import origins, socket_options, taking, unmanaged  # noqa: F401
from test_upgrade import upgrade

HOW = {"upgrade": upgrade, "crash": again}
both = pytest.mark.parametrize("how", HOW)


def begun(daemon, old):
    """The own generation has a process, but is ready only when there is the file that is returned."""
    gate = daemon.directory / "gate"
    options = ["--ready-by", f"exec:test -e {gate}", "--rollout-bake", "0"]
    taking(daemon, [SLEEPD], old.pid, options=options).spawn()
    daemon.listen_to_events()
    daemon.wait_event("worker-started", generation=1)
    return gate


@both
@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
def test_it_serves(daemons, unmanaged, how, steering):
    """Its own generation starts meanwhile."""
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    old = unmanaged(daemon, binder("plain")(daemon))
    gate = begun(daemon, old)
    with Load(daemon.target, rate=100):
        HOW[how](daemon)
        started = 1 if how == "upgrade" else 2
        daemon.wait_event("worker-started", generation=started)
        assert daemon.generations()[0] == "serving" and origins(daemon) >= {"taken"}
        assert "generation=0" in get(daemon.target)
        gate.touch()
        daemon.wait_event("generation-serving", generation=started)
        daemon.wait_event("generation-gone", generation=0)
        assert generation(daemon.target) == started
    assert old.wait(LIMIT) == -signal.SIGTERM


@both
def test_it_is_left_as_it_was(daemon, unmanaged, how):
    """Also its sockets: the next handoffd knows what they were like before the first one came."""
    old = unmanaged(daemon, binder("plain")(daemon))
    before = socket_options(old.pid, daemon.port)
    begun(daemon, old)
    with Load(daemon.target, rate=100):
        for _ in range(2):
            HOW[how](daemon)
        daemon.stop()
    assert old.poll() is None and socket_options(old.pid, daemon.port) == before
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            s.bind(("", daemon.port))


@both
def test_it_is_warm(daemon, unmanaged, how):
    command = binder("plain")(daemon)
    old = unmanaged(daemon, command)
    with Load(daemon.target, rate=100):
        taking(daemon, command, old.pid, options=["--rollout-bake", "20s"]).start()
        HOW[how](daemon)
        assert daemon.generations() == {0: "warm", 1: "serving"}
    daemon.kill(daemon.worker(1), signal.SIGKILL)
    daemon.wait_event("rolled-back", generation=1)
    assert "generation=0" in get(daemon.target) and old.poll() is None
    HOW[how](daemon)
    daemon.ctl("reload", "--wait", "none", code=0)
    daemon.wait_event("generation-serving", generation=2)
    assert "generation=2" in get(daemon.target)


@both
def test_it_drains(daemon, unmanaged, how):
    command = binder("plain")(daemon)
    old = unmanaged(daemon, command)

    def ask(connection):
        connection.sendall(b"GET /?n=1&sleep=0 HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"generation=0" in connection.recv(4096)

    with connect(daemon.target) as held, Load(daemon.target, rate=100):
        ask(held)
        taking(daemon, command, old.pid, options=["--rollout-bake", "0"]).start()
        daemon.wait_event("generation-quiet", generation=0)
        HOW[how](daemon)
        assert daemon.generations() == {0: "draining", 1: "serving"}
        assert "generation=1" in get(daemon.target)
        ask(held)
        HOW[how](daemon)
        ask(held)
        assert old.poll() is None
    daemon.wait_event("generation-gone", generation=0)
    assert old.wait(LIMIT) == -signal.SIGTERM


@both
def test_what_it_leaves_behind(daemon, unmanaged, how):
    """Its main process goes when it is told, its children stay with the connection."""
    script = (
        "import os, signal, socket, sys\n"
        f"s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('', {daemon.port}))\n"
        "s.listen()\n"
        "if os.fork():\n    signal.pause()\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n    c, _ = s.accept(); c.sendall(str(os.getpid()).encode()); c.recv(1)\n"
    )
    old = unmanaged(daemon, [sys.executable, "-c", script])
    with connect(daemon.target) as first:
        child = int(first.recv(20))
    options = ["--rollout-bake", "0", "--drain-by", "signal"]
    taking(daemon, binder("plain")(daemon), old.pid, options=options).start()
    daemon.wait_event("worker-exited", generation=0)
    assert old.wait(LIMIT) == -signal.SIGTERM
    HOW[how](daemon)
    assert daemon.generations() == {0: "draining", 1: "serving"}
    end = os.pidfd_open(child)
    os.kill(child, signal.SIGKILL)
    daemon.wait_event("generation-gone", generation=0)
    os.close(end)


def test_it_died_while_nobody_looked(daemon, unmanaged):
    """The own generation, which serves already, is not disturbed."""
    command = binder("plain")(daemon)
    old = unmanaged(daemon, command)
    taking(daemon, command, old.pid, options=["--rollout-bake", "60s"]).start()
    with Load(daemon.target, rate=100):
        die(daemon)
        old.kill()
        old.wait()
        come_back(daemon)
        daemon.wait_event("generation-gone", generation=0)
        assert daemon.generations() == {1: "serving"}


@both
def test_nginx(daemon, unmanaged, root, how):
    """A tree of processes."""
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    command = nginx("listen {port};")(daemon)
    old = unmanaged(daemon, command)
    (daemon.directory / "nginx.pid").unlink()
    options = ["--rollout-bake", "20s", "--drain-signal", "QUIT"]
    with Load(daemon.target, **ANY):
        taking(daemon, command, old.pid, options=options).start()
        HOW[how](daemon)
        assert daemon.generations() == {0: "warm", 1: "serving"}
        daemon.reload("--wait", "none")
        daemon.wait_event("generation-gone", generation=0)
    assert old.wait(LIMIT) == 0


@both
@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_unix(daemon, unmanaged, how, kind):
    """A path goes from one to the other; an abstract name is shared by both."""
    path = daemon.run / "web.sock"
    name = f"taken-{daemon.mark}"
    target = f"unix:{path}" if kind == "path" else f"unix:@{name}"
    script = (
        "import os, select, socket, sys\n"
        "if 'LISTEN_FDS' in os.environ: s = socket.socket(fileno=3); s.setblocking(True)\n"
        f"else: s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r} if {kind!r} == 'path' else '\\0{name}')\n"
        "s.listen(100)\n"
        "while True:\n"
        "    select.select([s], [], [])\n"
        "    try:\n        c, _ = s.accept(); c.sendall(os.environ['HANDOFF_GENERATION'].encode()); c.close()\n"
        "    except OSError: pass\n"
    )
    command = [sys.executable, "-c", script]
    old = unmanaged(daemon, command, target)
    gate = daemon.directory / "gate"
    daemon.argv = ["-l", target, "--name", "web", "--control-socket", daemon.control, "--take-over", old.pid]
    ready = f"exec:test -e {gate}"
    daemon.argv += ["--rollout-bake", "0", "--ready-by", ready, "--", *command]
    daemon.spawn()
    daemon.listen_to_events()
    daemon.wait_event("worker-started", generation=1)

    def answered():
        with connect(target) as s:
            return s.recv(10)

    HOW[how](daemon)
    assert daemon.generations()[0] == "serving"
    if kind == "path":
        assert answered() == b"0"
    gate.touch()
    daemon.wait_event("generation-gone", generation=0)
    assert old.wait(LIMIT) == -signal.SIGTERM
    assert int(answered()) == daemon.service()["generation"]
