# SPDX-License-Identifier: MIT
"""Servers that run unmanaged become generation 0: nothing is lost when their place is taken, and
nothing of them is touched when that fails."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from binders import BINDERS, binder, node
from harness import LIMIT, SLEEPD, Load, connect, get, listed, quoted
from test_adopt_programs import ANY, nginx

FAST = "HANDOFF_FAST" in os.environ


def is_listening(target):
    with contextlib.suppress(OSError):
        connect(target).close()
        return True
    return False


@pytest.fixture
def unmanaged():
    """Starts servers as their users would, and waits until they listen."""
    running = []

    def start(daemon, command, *targets, environ=None, **options):
        environment = dict(os.environ, HANDOFF_GENERATION="0", **(environ or {}))
        server = subprocess.Popen(
            [str(a) for a in command],
            env=environment,
            cwd=daemon.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )
        running.append(server)
        for target in targets or [daemon.target]:
            for _ in range(LIMIT * 10):  # a server that nobody waits for tells nobody that it is there
                if is_listening(target) or server.poll() is not None:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(0.1)
            assert server.poll() is None, server.stderr.read()
        return server

    yield start
    for server in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(LIMIT)
        server.stderr.close()


def taking(daemon, command, *pids, options=()):
    """The one-program form."""
    arguments = ["-l", daemon.port, "--name", "web", "--control-socket", daemon.control]
    for pid in pids:
        arguments += ["--take-over", pid]
    daemon.argv = [*arguments, *options, "--", *command]
    return daemon


def refused(daemon, code=1):
    """Started in vain; what it said."""
    daemon.spawn()
    daemon.wait_exit(code)
    return "\n".join(daemon.log.items)


def origins(daemon):
    return {x["origin"] for x in daemon.service()["listeners"]}


PROGRAMS = {
    "python": ("python3", binder("plain"), {}),
    "python-reuseport": ("python3", binder("reuseport"), {}),
    "python-two-forms": ("python3", binder("any_two"), {}),
    "python-loopback": ("python3", binder("loopback"), {}),
    "node": ("node", node, {}),
    "nginx": ("nginx", nginx("listen {port};"), ANY),
    "nginx-reuseport": ("nginx", nginx("listen {port} reuseport;"), ANY),
}


SLOW = [pytest.param(name, "cbpf", marks=pytest.mark.slow) for name in ("node", "nginx")]


@pytest.mark.parametrize("name, steering", [*((name, "ebpf") for name in PROGRAMS), ("python", "cbpf"), *SLOW])
def test_nothing_is_lost(daemons, unmanaged, root, name, steering):
    binary, make, load = PROGRAMS[name]
    if not shutil.which(binary):
        pytest.skip(f"{binary} is not installed")
    if FAST and (steering == "cbpf" or name in ("node", "python-loopback")):
        pytest.skip("not with HANDOFF_FAST")
    daemon = daemons(environment={"HANDOFF_STEERING": steering} if steering == "cbpf" else None)
    command = make(daemon)
    old = unmanaged(daemon, command)
    drain = ["--drain-signal", "QUIT"] if "nginx" in name else []
    taking(daemon, command, old.pid, options=["--rollout-bake", "200ms", *drain])
    if "nginx" in name:  # the two would have one pid file
        (daemon.directory / "nginx.pid").unlink()
    with Load(daemon.target, **load):
        daemon.start()
        daemon.wait_event("generation-gone", generation=0)
        daemon.reload("--wait", "drained")
    assert old.wait(LIMIT) in (0, -signal.SIGTERM)
    assert daemon.generations() == {2: "serving"}
    starting = daemon.seen("generation-starting")
    assert [e["generation"] for e in starting] == [0, 1, 2]
    assert not daemon.seen("connections-cut")


def test_connections_are_drained(daemon, unmanaged):
    """One that the server had before is waited for, and new ones reach the own generation."""
    command = binder("plain")(daemon)
    old = unmanaged(daemon, command)
    with connect(daemon.target) as held:
        held.sendall(b"GET /?n=1&sleep=0 HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"generation=0" in held.recv(4096)
        taking(daemon, command, old.pid, options=["--rollout-bake", "0"]).start()
        daemon.wait_event("generation-quiet", generation=0)
        assert "generation=1" in get(daemon.target)
        held.sendall(b"GET /?n=1&sleep=0 HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"generation=0" in held.recv(4096)
        assert daemon.generations() == {0: "draining", 1: "serving"}
        assert next(g for g in daemon.service()["generations"] if g["id"] == 0)["in_flight"] == 1
    daemon.wait_event("generation-gone", generation=0)
    assert old.wait(LIMIT) == -signal.SIGTERM


def test_connections_that_keep_the_port(daemon, unmanaged):
    """A server without SO_REUSEADDR: its connections would keep every other socket from the port."""
    script = (
        "import os, socket, sys\n"
        "if 'LISTEN_FDS' in os.environ: s = socket.socket(fileno=3); s.setblocking(True)\n"
        f"else: s = socket.socket(); s.bind(('', {daemon.port})); s.listen()\n"
        "kept = []\n"
        "while True: kept.append(s.accept()[0]); kept[-1].sendall(os.environ['HANDOFF_GENERATION'].encode())\n"
    )
    command = [sys.executable, "-c", script]
    old = unmanaged(daemon, command)
    with connect(daemon.target) as before:
        assert before.recv(10) == b"0"
        taking(daemon, command, old.pid, options=["--rollout-bake", "0", "--drain-deadline", "0"]).start()
        with connect(daemon.target) as after:
            assert after.recv(10) == b"1"
        daemon.wait_event("generation-gone", generation=0)
    assert old.wait(LIMIT) == -signal.SIGTERM


@pytest.mark.parametrize("how", ["exits", "is not ready", "cannot be started"])
def test_failure_leaves_the_server_as_it_was(daemon, unmanaged, how):
    old = unmanaged(daemon, binder("plain")(daemon))
    reuse = socket_options(old.pid, daemon.port)
    command = {
        "exits": ["/bin/false"],
        "is not ready": ["/bin/sleep", "60"],
        "cannot be started": ["/nonexistent"],
    }[how]
    options = ["--ready-timeout", "300ms"]
    with Load(daemon.target, rate=100):
        said = refused(taking(daemon, command, old.pid, options=options))
        assert "server-left" in said and "goes on as before" in said
        assert "generation=0" in get(daemon.target)
    assert old.poll() is None
    assert socket_options(old.pid, daemon.port) == reuse
    # and nobody but it has the port
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            s.bind(("", daemon.port))


def socket_options(pid, port):
    """SO_REUSEPORT, O_NONBLOCK of the server's listening socket."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            fd = libc.syscall(438, pidfd, int(name), 0)  # pidfd_getfd
            if fd < 0:
                continue
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                os.close(fd)
                continue
            with socket.socket(fileno=fd) as s:
                if s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and s.getsockname()[1] == port:
                    return s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT), os.get_blocking(fd)
    finally:
        os.close(pidfd)
    raise AssertionError("it does not listen")


def test_stopped_before_the_turn(daemon, unmanaged):
    """Who stops handoffd while the server still serves wants it to go on."""
    old = unmanaged(daemon, binder("plain")(daemon))
    taking(daemon, ["/bin/sleep", "60"], old.pid).spawn()
    daemon.listen_to_events()
    daemon.wait_event("generation-starting", generation=1)
    service = daemon.service()
    assert (service["generation"], origins(daemon)) == (0, {"taken"})
    daemon.stop()
    assert "generation=0" in get(daemon.target)
    assert old.poll() is None


def test_own_generation_dies_while_it_is_watched(daemon, unmanaged):
    """Back to the server that was there before, which serves on, and a reload tries again."""
    command = binder("plain")(daemon)
    old = unmanaged(daemon, command)
    taking(daemon, command, old.pid, options=["--rollout-bake", "20s"]).start()
    daemon.kill(daemon.worker(1), signal.SIGKILL)
    daemon.wait_event("rolled-back", generation=1)
    assert "generation=0" in get(daemon.target)
    daemon.wait_event("generation-gone", generation=1)
    daemon.ctl("reload", "--wait", "none", code=0)
    daemon.wait_event("generation-serving", generation=2)
    assert "generation=2" in get(daemon.target)
    assert old.poll() is None  # warm


def test_unix_path(daemon, unmanaged):
    path = daemon.run / "web.sock"
    command = ["/usr/bin/env", f"PORT={path}", "node", BINDERS / "node.js"]
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    old = unmanaged(daemon, command, f"unix:{path}")  # removes its path when it ends
    daemon.configure(
        f"service \"web\" {{ command = {listed([SLEEPD])} listen \"http\" {{ address = {quoted(f'unix:{path}')} }}"
        ' rollout { bake = "0" } }'
    )
    daemon.argv = ["-c", daemon.file, "--take-over", old.pid]
    with Load(f"unix:{path}", rate=100):
        daemon.start()
        daemon.wait_event("generation-gone", generation=0)
    assert old.wait(LIMIT) in (0, -signal.SIGTERM)
    assert "generation=1" in get(f"unix:{path}")


def test_services_of_a_file(daemon, unmanaged):
    """Each server goes to the service whose address it has; a service without one just starts."""
    ports = [daemon.port, daemon.port + 1, daemon.port + 2]
    servers = [
        unmanaged(daemon, [sys.executable, BINDERS / "binder.py", "plain", port], f"127.0.0.1:{port}")
        for port in ports[:2]
    ]
    daemon.configure(
        *(
            f'service "s{port}" {{ command = {listed([SLEEPD])} rollout {{ bake = "0" }}'
            f' listen "http" {{ address = {quoted(f"0.0.0.0:{port}")} }} }}'
            for port in ports
        )
    )
    daemon.argv = ["-c", daemon.file, *(a for s in reversed(servers) for a in ("--take-over", s.pid))]
    daemon.start()
    for port in ports[:2]:
        daemon.wait_event("generation-gone", service=f"s{port}", generation=0)
    for port in ports:
        assert "generation=1" in get(f"127.0.0.1:{port}")
    assert not daemon.seen("generation-starting", service=f"s{ports[2]}", generation=0)


# ---- refusals ----


def test_refuses_what_is_not_there(daemon):
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    said = refused(taking(daemon, [SLEEPD], gone.pid))
    assert f"cannot take process {gone.pid} over: there is none" in said


def test_refuses_other_addresses(daemon, unmanaged):
    other = daemon.port + 1
    command = [sys.executable, BINDERS / "binder.py", "plain", other]
    old = unmanaged(daemon, command, f"127.0.0.1:{other}")
    said = refused(taking(daemon, [SLEEPD], old.pid))
    assert f"listens on none of the addresses (tcp:*:{daemon.port})" in said
    assert f"it listens on tcp:0.0.0.0:{other}" in said
    assert is_listening(f"127.0.0.1:{other}")


def test_refuses_what_is_named_twice(daemon, unmanaged):
    old = unmanaged(daemon, binder("plain")(daemon))
    assert "twice" in refused(taking(daemon, [SLEEPD], old.pid, old.pid))


def test_refuses_a_child_of_the_server(daemon, unmanaged, root):
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    old = unmanaged(daemon, nginx("listen {port};")(daemon))
    child = int(open(f"/proc/{old.pid}/task/{old.pid}/children").read().split()[0])
    said = refused(taking(daemon, [SLEEPD], child))
    assert f"its parent, process {old.pid} (nginx), has the same sockets" in said
    assert "do not name it" in refused(taking(daemon, [SLEEPD], old.pid, child))


def test_refuses_without_the_right(daemons, unmanaged, root):
    daemon = daemons(user=65534)
    old = unmanaged(daemon, binder("plain")(daemon))
    said = refused(taking(daemon, [SLEEPD], old.pid))
    assert "CAP_SYS_PTRACE" in said
    assert is_listening(daemon.target)


def test_refuses_to_starve_others(daemon, unmanaged):
    """A second server has the address too: it would get nothing any more."""
    script = (
        "import socket, sys, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        f"s.bind(('', {daemon.port}))\ns.listen()\nprint(file=sys.stderr, flush=True)\ntime.sleep(100)"
    )
    one = unmanaged(daemon, [sys.executable, "-c", script])
    unmanaged(daemon, [sys.executable, "-c", script]).stderr.readline()
    said = refused(taking(daemon, [SLEEPD], one.pid))
    assert "1 more socket of other processes" in said


def test_no_number(daemon):
    assert "takes a process id" in refused(taking(daemon, [SLEEPD], "web"), code=2)


# ---- warnings ----


def test_warns_of_supervisors_and_lost_addresses(daemon, unmanaged):
    """Who would start it again is named; and what nobody will listen on afterwards."""
    other = daemon.port + 1
    script = daemon.directory / "supervisord"
    listens = (
        f"import socket, sys, time\nfor port in ({daemon.port}, {other}):\n"
        "\ts = socket.socket()\n\ts.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "\ts.bind(('', port))\n\ts.listen()\n\tglobals()[str(port)] = s\ntime.sleep(100)"
    )
    script.write_text(f"#!/bin/sh\n{sys.executable} -c {shell(listens)} & echo $! > pid\nwait\n")
    script.chmod(0o755)
    parent = unmanaged(daemon, [script])
    old = int((daemon.directory / "pid").read_text())
    taking(daemon, ["/bin/sleep", "60"], old).spawn()
    daemon.listen_to_events()
    said = "\n".join(daemon.log.items)
    assert f"was started by supervisord (pid {parent.pid}), which would start it again" in said
    assert f"also listens on tcp:0.0.0.0:{other}" in said
    daemon.stop()


def shell(text):
    return "'" + text.replace("'", "'\\''") + "'"


# ---- shared sockets ----

ECHO = """
import os, select, socket, sys
{bind}
print(file=sys.stderr, flush=True)
while True:
    {serve}
"""
ABSTRACT = (
    "if 'LISTEN_FDS' in os.environ:\n    s = socket.socket(fileno=3); s.setblocking(True)\n"
    "else:\n    s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); s.listen()"
)


def test_abstract_name_is_shared(daemon, unmanaged):
    """It can be had only once: both have the same socket, and the server is told by its signal."""
    name = f"takeover-{daemon.mark}"
    target = f"unix:@{name}"
    serve = (  # the socket is not blocking for whoever takes it over
        "select.select([s], [], [])\n    try:\n        c, _ = s.accept()\n"
        "        c.sendall(str(os.getpid()).encode())\n    except OSError: pass"
    )
    script = ECHO.format(bind=ABSTRACT.format(name=name), serve=serve)
    command = [sys.executable, "-c", script]
    old = unmanaged(daemon, command, target)
    daemon.argv = ["-l", target, "--name", "web", "--control-socket", daemon.control]
    daemon.argv += ["--take-over", old.pid, "--rollout-bake", "0", "--", *command]
    daemon.start()
    daemon.wait_event("generation-gone", generation=0)
    assert old.wait(LIMIT) == -signal.SIGTERM
    with connect(target) as s:
        assert int(s.recv(100)) == daemon.worker(1)
    assert origins(daemon) == {"taken"}
