# SPDX-License-Identifier: MIT
"""handoffctl doctor: what it finds of real servers, and of small programs for each trap."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import pytest
from binders import BINDERS, PYTHON
from harness import HANDOFFCTL, HANDOFFD, HERE, LIMIT, NOBODY, SLEEPD, free_port
from test_adopt_programs import NGINX, PUMA

FAST = "HANDOFF_FAST" in os.environ
PORT = 8080


@pytest.fixture(autouse=True)
def place(network):
    """Needs root or user namespaces."""
    probe = subprocess.run(["unshare", "-Urn", "true"], capture_output=True, check=False)
    if os.geteuid() != 0 and probe.returncode != 0:
        pytest.skip("no namespaces can be made")


@pytest.fixture
def work(tmp_path):
    tmp_path.chmod(0o755)
    return tmp_path


def written(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def temporary():
    """A directory for what the doctor makes, which is empty at the end."""
    path = tempfile.mkdtemp(prefix="doctor-")
    os.chmod(path, 0o1777)
    yield path
    os.rmdir(path)


def run(*arguments, code=0, user=None, environ=None, cwd=None):
    rights = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HANDOFF")}
    mark = f"doctor-{os.urandom(8).hex()}"
    with temporary() as place:
        done = subprocess.run(
            [str(a) for a in (*rights, HANDOFFCTL, *arguments)],
            env=dict(environment, TEST_MARK=mark, TMPDIR=place, **(environ or {})),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            cwd=cwd,
            check=False,
        )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            assert mark.encode() not in pathlib.Path(f"/proc/{entry}/environ").read_bytes()
    return done


def doctor(*command, code=0, options=(), **others):
    """{check: [(verdict, text)]}, and the block as handoffd understands it."""
    done = run("--json", "doctor", "-l", PORT, *options, "--", *command, code=code, **others)
    document = json.loads(done.stdout)
    assert document["fit"] == (code == 0)
    found = {}
    for item in document["findings"]:
        found.setdefault(item["check"], []).append((item["verdict"], item["text"]))
    return found, document["configuration"]


def loads(block, work):
    """The block is good for handoffd; gives it without the blanks."""
    path = work / "block.conf"
    path.write_text(block)
    subprocess.run([HANDOFFD, "-c", path, "--check"], check=True, capture_output=True, timeout=LIMIT)
    return " ".join(block.split())


def said(found, check):
    return " ".join(text for _, text in found.get(check, []))


def verdicts(found, check):
    return [verdict for verdict, _ in found.get(check, [])]


# ---- real servers ----


def need(binary):
    if not shutil.which(binary):
        pytest.skip(f"{binary} is not installed")
    if FAST:
        pytest.skip("not with HANDOFF_FAST")


def test_sleepd(work):
    found, block = doctor(SLEEPD)
    assert "takes the sockets that it is passed (LISTEN_FDS=)" in said(found, "sockets")
    assert "says READY=1" in said(found, "readiness")
    assert verdicts(found, "second instance") == ["good"]
    assert "answers the request" in said(found, "TERM")
    block = loads(block, work)
    assert 'sockets = "pass"' in block and 'ready { by = "notify" }' in block
    if os.geteuid() == 0:
        assert "runs as root; capabilities: chown, dac_override" in said(found, "rights")


def test_node(work):
    need("node")
    found, block = doctor("node", BINDERS / "node.js", environ={"PORT": str(PORT)})
    assert f"binds its addresses itself (the program listens on tcp:*:{PORT})" in said(found, "sockets")
    assert "does not say READY=1" in said(found, "readiness")
    assert "cuts the request" in said(found, "TERM")
    block = loads(block, work)
    assert 'sockets = "adopt"' in block and 'by = "accepting"' in block


def test_forms_of_a_port(work):
    """Those that it has kept, not those that it has tried."""
    found, _ = doctor(*PYTHON, "tests_forms", PORT, cwd=work)
    assert f"(the program listens on tcp:127.0.0.1:{PORT}):" in said(found, "sockets")
    found, _ = doctor(*PYTHON, "any_two", PORT, cwd=work)
    assert f"(the program listens on tcp:0.0.0.0:{PORT}, tcp:[::]:{PORT} (IPv6 only)):" in said(found, "sockets")


def test_python(work):
    found, block = doctor("python3", "-m", "http.server", PORT, cwd=work)
    assert "binds its addresses itself" in said(found, "sockets")
    assert 'sockets = "adopt"' in loads(block, work)


def test_gunicorn_and_its_pid_file(work):
    need("gunicorn")
    app = HERE.parent / "programs/apps/gunicorn"
    command = ["gunicorn", "--chdir", app, "-b", f"0.0.0.0:{PORT}", "app:app"]
    found, block = doctor(*command)
    assert "LISTEN_FDS=" in said(found, "sockets") and "READY=1" in said(found, "readiness")
    assert "answers the request" in said(found, "TERM")
    loads(block, work)
    found, _ = doctor(*command, "-p", work / "pid", code=1)
    assert "Already running" in said(found, "second instance")
    assert not (work / "pid").exists()


def test_nginx(work):
    need("nginx")
    conf = written(work / "nginx.conf", NGINX.format(options=f"listen {PORT};"))
    found, block = doctor("nginx", "-p", f"{work}/", "-c", conf)
    assert "binds its addresses itself" in said(found, "sockets")
    assert verdicts(found, "pid file") == ["bad", "bad"]
    assert "both generations write the pid file" in said(found, "pid file")
    assert "has removed" in said(found, "pid file")
    assert "cuts the request" in said(found, "TERM") and "answers the request" in said(found, "QUIT")
    assert 'drain { signal = "QUIT" }' in loads(block, work)
    assert set(os.listdir(work)) == {"nginx.conf", "block.conf"}


def test_puma(work):
    need("puma")
    found, block = doctor("puma", "-b", f"tcp://0.0.0.0:{PORT}", written(work / "config.ru", PUMA))
    assert verdicts(found, "second instance") == ["good"]
    loads(block, work)


def test_lighttpd(work):
    need("lighttpd")
    conf = written(work / "lighttpd.conf", f'server.document-root = "{work}"\nserver.port = {PORT}\n')
    found, block = doctor("lighttpd", "-D", "-f", conf)
    assert "binds its addresses itself" in said(found, "sockets")
    loads(block, work)


# ---- traps ----

INHERITS = """
import os, signal, socket, sys
{before}
s = socket.socket(fileno=3)
{after}
while True:
    c, _ = s.accept()
    c.recv(1000)
    c.close()
"""


def inheriting(work, before="", after=""):
    return [sys.executable, written(work / "server.py", INHERITS.format(before=before, after=after))]


def test_wrapper_without_exec(work):
    script = written(work / "run", f"#!/bin/sh\n{SLEEPD}\ntrue\n")
    found, block = doctor(script)
    assert "LISTEN_PID names the wrong process" in said(found, "LISTEN_PID")
    assert verdicts(found, "TERM") == ["bad"] and "`exec` missing" in said(found, "TERM")
    assert 'listen-pid = "none"' in loads(block, work)


def test_wrapper_with_exec(work):
    script = written(work / "run", f"#!/bin/sh\nexec {SLEEPD}\n")
    found, _ = doctor(script)
    assert "LISTEN_PID" not in found and verdicts(found, "TERM") == ["good"]


def test_blocking(work):
    found, _ = doctor(*inheriting(work, after="s.setblocking(True)"))
    assert "makes the sockets that it is passed blocking" in said(found, "O_NONBLOCK")


def test_kills_its_parent(work):
    found, _ = doctor(*inheriting(work, before="os.kill(os.getppid(), signal.SIGTERM)", after="s.setblocking(True)"))
    assert "sends a signal to its parent" in said(found, "parent")
    assert verdicts(found, "second instance") == ["good"]


def test_lock(work):
    lock = work / "server.lock"
    before = (
        f"import fcntl; f = open({str(lock)!r}, 'w')\n"
        "try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except OSError: sys.exit('somebody has the lock')"
    )
    found, _ = doctor(*inheriting(work, before, "s.setblocking(True)"), code=1)
    assert "somebody has the lock" in said(found, "second instance")
    assert not lock.exists()


def test_admin_port(work):
    before = "a = socket.socket(); a.bind(('127.0.0.1', 9999)); a.listen()"
    found, _ = doctor(*inheriting(work, before, "s.setblocking(True)"), code=1)
    assert verdicts(found, "other ports") == ["bad"] and "127.0.0.1:9999" in said(found, "other ports")


@pytest.mark.slow
def test_ignores_signals(work):
    before = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGQUIT, signal.SIG_IGN)"
    found, _ = doctor(*inheriting(work, before, "s.setblocking(True)"))
    assert "still there 5 s later" in said(found, "TERM")
    assert verdicts(found, "end") == ["bad"]


def test_other_dialect(work):
    """Server::Starter's words and no others."""
    script = written(
        work / "starter.py",
        "import os, socket\n"
        "s = socket.socket(fileno=int(os.environ['SERVER_STARTER_PORT'].split('=')[1]))\n"
        "s.setblocking(True)\nwhile True: s.accept()[0].close()\n",
    )
    found, block = doctor(sys.executable, script)
    assert "SERVER_STARTER_PORT=" in said(found, "sockets")
    assert 'dialect = {"server-starter"}' in loads(block, work)


def test_never_serves(work):
    if FAST:
        pytest.skip("not with HANDOFF_FAST")
    found, block = doctor("/bin/sleep", "1000", options=["--timeout", "1s"], code=1)
    assert "does not come to serve: not ready within 1s" in said(found, "start") and block is None


def test_exits_at_once():
    found, _ = doctor("/bin/sh", "-c", "echo no such database >&2; exit 3", code=1)
    assert "exited with status 3" in said(found, "start") and "no such database" in said(found, "start")


# ---- what is around it ----


def test_nothing_outside_is_touched(work):
    """The port is in use, and there is a pid file: neither is seen, or changed, by the trial."""
    pidfile = written(work / "server.pid", "1234567")
    before = f"open({str(pidfile)!r}, 'w').write(str(os.getpid()))"
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("", PORT))
        s.listen()
        s.setblocking(False)
        found, _ = doctor(*inheriting(work, before, "s.setblocking(True)"))
        with pytest.raises(BlockingIOError):
            s.accept()
    assert pidfile.read_text() == "1234567"
    assert "both generations write the pid file" in said(found, "pid file")


def test_ordinary_user(work):
    if os.geteuid() != 0:
        pytest.skip("it is one already")
    allowed = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "unshare", "-Urn", "true"]
    if subprocess.run(allowed, capture_output=True, check=False).returncode != 0:
        pytest.skip("ordinary users can make no namespaces here")
    found, block = doctor(SLEEPD, user=NOBODY)
    assert verdicts(found, "second instance") == ["good"]
    loads(block, work)


def test_service_of_a_file(work):
    given = 'capabilities = {"kill", "chown"}' if os.geteuid() == 0 else ""
    conf = written(
        work / "handoffd.conf",
        f'service "web" {{ command = {{"{SLEEPD}"}} {given} listen "http" {{ address = {{"192.0.2.7:{PORT}",'
        f' "unix:{work}/web.sock"}} }} }}\nservice "other" {{ command = {{"/nonexistent"}} }}\n',
    )
    done = run("doctor", "-c", conf, "web")
    assert "web, tried aside" in done.stdout and "  ok    second instance" in done.stdout
    assert f'address = {{"tcp:192.0.2.7:{PORT}", "unix:{work}/web.sock"}}' in done.stdout
    if not given:
        return
    assert "rights: it runs as root; capabilities: chown, kill\n" in done.stdout
    assert 'capabilities = {"chown,kill"}' in done.stdout
    assert "no service \"nosuch\"" in run("doctor", "-c", conf, "nosuch", code=2).stderr


def test_interrupted(work):
    """Ctrl-C in the middle of it: nothing is left."""
    with temporary() as place:
        process = subprocess.Popen(
            [HANDOFFCTL, "doctor", "-l", str(free_port()), "--", "/bin/sleep", "12345"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, TMPDIR=place),
            start_new_session=True,
        )
        assert wait_for_command(b"sleep\00012345")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGINT


def wait_for_command(line):
    """A process of a namespace tells nobody outside that it is there."""
    for _ in range(LIMIT * 20):
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if line in pathlib.Path(f"/proc/{entry}/cmdline").read_bytes():
                    return True
        threading.Event().wait(0.05)
    return False
