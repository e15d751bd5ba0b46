# SPDX-License-Identifier: MIT
"""Proves the load client before it is believed: it has to see every failure that there is, call each
by its right name, and see none where there is none. Also what sleepd promises about its end."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading

import pytest

HERE = pathlib.Path(__file__).parent
BUILD = pathlib.Path(os.environ.get("HANDOFF_BUILD", HERE.parent.parent / "build"))
LOAD = os.environ.get("HANDOFF_LOAD", BUILD / "tests/tools/handoff-load")
SLEEPD = os.environ.get("SLEEPD", BUILD / "contrib/examples/sleepd")
LIMIT = 40  # seconds for whatever is waited for

# Puts an inherited socket where LISTEN_FDS says that it is.
LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def load(*args, expect=None):
    done = subprocess.run(
        [LOAD, "--json", *map(str, args)], stdout=subprocess.PIPE, timeout=LIMIT, check=False
    )
    if expect is not None:
        assert done.returncode == expect
    result = json.loads(done.stdout)
    check_sums(result)
    return result


def check_sums(result):
    """Each request that began has one result."""
    for kind, k in result["kinds"].items():
        closed = result["hold_closed"] if kind == "hold" else 0
        assert k["started"] == k["ok"] + k["failed"] + closed, kind
    assert result["ok"] == sum(k["ok"] for k in result["kinds"].values())
    assert result["failed"] == sum(result["failures"].values())


def failures(result):
    return {name: n for name, n in result["failures"].items() if n}


def read_until(stream, text):
    """Lines of a process until one contains the text; the time limit is the test's failure."""
    seen = ""
    while True:
        assert select.select([stream], [], [], LIMIT)[0], f"no {text!r} in {seen!r}"
        line = stream.readline()
        assert line, f"ended without {text!r}: {seen!r}"
        seen += line.decode()
        if text in line.decode():
            return line.decode()


@contextlib.contextmanager
def process(*args, **options):
    p = subprocess.Popen([str(a) for a in args], bufsize=0, **options)
    try:
        yield p
    finally:
        p.kill()
        p.wait()
        for stream in (p.stdout, p.stderr):
            if stream:
                stream.close()


@contextlib.contextmanager
def bad_server(*faults):
    with process(sys.executable, HERE / "badserver.py", *faults, stdout=subprocess.PIPE) as p:
        p.target = f"127.0.0.1:{int(p.stdout.readline())}"
        yield p


def counts(server):
    server.send_signal(signal.SIGTERM)
    return json.loads(server.communicate(timeout=LIMIT)[0])


def sleepd(*options, listener=None, generation=0, **variables):
    environment = dict(os.environ, HANDOFF_GENERATION=str(generation), **variables)
    if listener is None:
        return process(SLEEPD, *options, stderr=subprocess.PIPE, env=environment)
    fd = listener.fileno()
    command = [sys.executable, "-c", LAUNCHER, fd, SLEEPD, *options]
    return process(*command, stderr=subprocess.PIPE, env=environment, pass_fds=[fd])


def wait_listening(server):
    found = re.search(r"listening on (\S+) (\d+)", read_until(server.stderr, "listening"))
    return f"[{found[1]}]:{found[2]}" if ":" in found[1] else f"{found[1]}:{found[2]}"


@pytest.fixture
def notified(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(f"{tmp_path}/notify")
        s.settimeout(LIMIT)
        yield s


def send_bytewise(connection, text):
    """On a UNIX socket: only there the kernel says when the other side has read a byte."""
    unread = bytearray(4)
    for i in range(len(text)):
        connection.sendall(text[i : i + 1])
        while not fcntl.ioctl(connection, termios.TIOCOUTQ, unread) and any(unread):
            os.sched_yield()


@contextlib.contextmanager
def scripted(answer, bytewise=False):
    """Answers each connection with `answer`, in which NONCE stands for the nonce, and closes it."""
    listener = socket.socket(socket.AF_UNIX if bytewise else socket.AF_INET)
    listener.bind(f"\0handoff-{os.getpid()}" if bytewise else ("127.0.0.1", 0))
    listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with connection, contextlib.suppress(OSError):
                    nonce = re.search(rb"n=([^&]+)", connection.recv(4096))[1]
                    text = answer.replace(b"NONCE", nonce)
                    send_bytewise(connection, text) if bytewise else connection.sendall(text)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        name = listener.getsockname()
        yield f"unix:@{name[1:].decode()}" if bytewise else f"127.0.0.1:{name[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


ONE = ["--rate", 20, "--duration", "60ms", "--size", 0]  # exactly one request


def test_good_server_has_no_failure():
    with bad_server("close=29") as server:
        args = ["--rate", 400, "--keepalive", 10, "--think", "5ms", "--duration", "2s"]
        result = load("--target", server.target, *args, "--spread", 10, expect=0)
        told = counts(server)
    assert failures(result) == {}
    assert result["ok"] == told["right"] == told["requests"]
    assert result["kinds"]["short"]["ok"] == 800
    assert result["generations"]["3"]["ok"] == result["ok"]
    assert result["workers"][0]["pid"] == 7


FAULTS = [
    "reset", "reset-within", "eof", "truncated-head", "truncated-body", "truncated-chunk",
    "wrong-byte", "wrong-nonce", "wrong-size", "wrong-long", "wrong-behind", "status",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(fault):
    with bad_server(f"{fault}=20") as server:
        result = load("--target", server.target, "--rate", 400, "--duration", "500ms", expect=1)
        told = counts(server)
    assert failures(result) == told["failures"]
    assert result["failed"] >= 9
    assert result["ok"] == told["right"]


def test_counts_of_all_faults_together_at_one_in_a_thousand():
    with bad_server(*(f"{fault}=1000" for fault in FAULTS), "silent=1000") as server:
        args = ["--rate", 1000, "--duration", "3500ms", "--timeout", "2s", "--size", 50]
        result = load("--target", server.target, *args, expect=1)
        told = counts(server)
    assert failures(result) == told["failures"]
    assert set(told["failures"]) == {"reset", "eof", "truncated", "wrong", "status", "timeout"}
    assert result["ok"] == told["right"]
    assert len(result["examples"]) == 10
    assert all(e["port"] for e in result["examples"])


def test_keepalive_race_is_a_class_of_its_own():
    with bad_server("keepalive-race=50", "close=31") as server:
        args = ["--keepalive", 10, "--think", "2ms", "--duration", "1s"]
        result = load("--target", server.target, *args, expect=1)
        told = counts(server)
    assert failures(result) == told["failures"]
    assert failures(result)["keepalive-race"] > 5
    assert result["ok"] == told["right"]


def test_refused():
    with socket.socket() as reserved:  # bound, not listening
        reserved.bind(("127.0.0.1", 0))
        target = "127.0.0.1:%d" % reserved.getsockname()[1]
        result = load("--target", target, "--rate", 100, "--duration", "500ms", expect=1)
    assert failures(result) == {"refused": result["failed"]}
    assert result["failed"] == 50
    assert result["examples"][0]["errno"] == "ECONNREFUSED"


def test_missing_unix_path_is_an_errno(tmp_path):
    result = load("--target", f"unix:{tmp_path}/none", *ONE, expect=1)
    assert failures(result) == {"errno": 1}
    assert result["examples"][0]["errno"] == "ENOENT"


def test_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = "127.0.0.1:%d" % silent.getsockname()[1]
        result = load("--target", target, *ONE, "--timeout", "200ms", expect=1)
    assert failures(result) == {"timeout": 1}


# In a network namespace of its own with ten ports: a server which never answers, and the client.
TEN_PORTS = """
import pathlib, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("20000 20009")
with socket.create_server(("127.0.0.1", 80)):
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def test_ports_of_the_client():
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no private network namespace: {probe.stderr.decode()}")
    command = ["unshare", "-n", sys.executable, "-c", TEN_PORTS, LOAD, "--json"]
    command += ["--target", "127.0.0.1:80", "--rate", "100", "--duration", "200ms"]
    command += ["--timeout", "500ms"]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LIMIT, check=False)
    result = json.loads(done.stdout)
    assert failures(result) == {"timeout": 10, "client-ports": 10}
    assert "EADDRNOTAVAIL" in [e["errno"] for e in result["examples"]]


LINE = b"pid=1 generation=2 n=NONCE\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SCRIPTS = [
    (OK + b"\r\n" + LINE, None),
    (b"HTTP/1.0 200 OK\r\n\r\n" + LINE, None),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"\r\n" + LINE, None),
    (OK + b"Connection:close\r\n\r\n" + LINE, None),
    (CHUNKED + b"4\r\npid=\r\n16\r\n", "truncated"),
    (CHUNKED + b"0\r\n\r\n", "wrong"),
    (CHUNKED + b"4\r\npid=X\r\n", "wrong"),
    (CHUNKED + b"ffffffffffffffffff\r\n", "wrong"),
    (CHUNKED + b"-4\r\npid=\r\n", "wrong"),
    (CHUNKED + b"9" * 2000, "wrong"),
    (OK + b"Content-Length: -1\r\n\r\n", "wrong"),
    (OK + b"Content-Length: 99999999999999999999\r\n\r\n", "wrong"),
    (OK + b"Content-Length: 1000\r\n\r\n" + LINE, "truncated"),
    (OK + b"Content-Length: 0\r\n\r\n", "wrong"),
    (OK + b"Transfer-Encoding: gzip\r\n\r\n", "wrong"),
    (OK + b"no colon\r\n\r\n", "wrong"),
    (OK + b": empty\r\n\r\n", "wrong"),
    (OK + b"X: " + b"y" * 20000 + b"\r\n\r\n" + LINE, "wrong"),
    (OK + b"X: \0\r\n\r\n" + LINE, "wrong"),
    (b"HTTP/1.1 101 Switching\r\n\r\n", "wrong"),
    (b"HTTP/2 200\r\n\r\n", "wrong"),
    (b"SSH-2.0-hello\r\n\r\n", "wrong"),
    (b"HTTP/1.1 204 No\r\n\r\n", "wrong"),
    (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "status"),
    (OK + b"\r\npid=1 generation=2 n=NONCE x\n", "wrong"),
    (OK + b"\r\npid=01 generation=2 n=NONCE\n", "wrong"),
    (OK + b"\r\n" + b"p" * 1000, "wrong"),
    (OK + b"\r\n" + LINE + b"x", "wrong"),
    (b"H", "truncated"),
    (b"", "eof"),
]


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("script", range(len(SCRIPTS)))
def test_answers_as_they_come(script, bytewise):
    answer, failure = SCRIPTS[script]
    if bytewise and len(answer) > 1000:
        pytest.skip("the same without pieces is enough")
    with scripted(answer, bytewise) as target:
        result = load("--target", target, *ONE, expect=1 if failure else 0)
    assert failures(result) == ({failure: 1} if failure else {})
    if not failure:
        assert result["generations"]["2"]["ok"] == 1


@pytest.mark.parametrize(
    "args, body, failure",
    [
        (["--expect-nonce"], b"x" * 300 + b"<NONCE>", None),
        (["--expect-nonce"], b"x" * 300, "wrong"),
        (["--expect-body", "hello"], b"hello", None),
        (["--expect-body", "hello"], b"hell", "wrong"),
        (["--expect-body", "hello"], b"hello!", "wrong"),
        (["--any-body"], b"anything", None),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_bodies_of_any_program(args, body, failure, bytewise):
    answer = OK + b"X-Generation: 5\r\nX-Pid: 9\r\nContent-Length: LEN\r\n\r\n" + body
    length = len(body)
    if b"NONCE" in body:
        answer = answer.replace(b"Content-Length: LEN\r\n", b"")
    with scripted(answer.replace(b"LEN", b"%d" % length), bytewise) as target:
        result = load("--target", target, *ONE, *args, expect=1 if failure else 0)
    assert failures(result) == ({failure: 1} if failure else {})
    if not failure:
        assert result["workers"][0]["generation"] == 5
        assert result["workers"][0]["pid"] == 9


@pytest.mark.parametrize("version, idle", [(b"1.0", False), (b"1.1", True)])
def test_connections_which_end_between_requests(version, idle):
    """After HTTP/1.0 the end is expected; otherwise it is counted, and still no failure."""
    with scripted(b"HTTP/" + version + b" 200 OK\r\nContent-Length: 1\r\n\r\nx") as target:
        args = ["--keepalive", 2, "--think", "5ms", "--duration", "300ms", "--any-body"]
        result = load("--target", target, *args, expect=0)
    assert result["ok"] > 10
    assert (result["idle_closed"] > 5) if idle else (result["idle_closed"] == 0)


LETTERS = "abcdefghijklmnopqrstuvwxyz"
START = 2166136261 % 26
PAGE = f"pid=3 generation=4 n=\n{(LETTERS * 2)[START : START + 8]}".encode()
BULK = b"$%d\r\n%s\r\n" % (len(PAGE), PAGE)


def static(answer, *args):
    """What one request gets from a server that has the same answer for everybody."""

    def serve():
        with listener.accept()[0] as connection:
            asked.append(connection.recv(4096))
            connection.sendall(answer)

    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        result = load("--target", f"127.0.0.1:{listener.getsockname()[1]}", "--duration", "60ms", "--size", 8, *args)
        thread.join()
    return result, asked[0]


@pytest.mark.parametrize("page, failure", [(PAGE, None), (PAGE[:-1] + b"!", "wrong"), (PAGE[:-1], "wrong")])
def test_file(page, failure):
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + page
    result, asked = static(answer, "--rate", 20, "--file")
    assert failures(result) == ({failure: 1} if failure else {})
    assert b"GET /?n=&" in asked
    assert failure or list(result["generations"]) == ["4"]


@pytest.mark.parametrize(
    "answer, failure",
    [
        (BULK, None),
        (BULK + b"+OK\r\n", "wrong"),
        (BULK[:-1], "truncated"),
        (BULK.replace(b"generation", b"generatioN"), "wrong"),
        (b"$-1\r\n", "wrong"),
        (b"-ERR\r\n", "wrong"),
        (b"$" + b"9" * 70, "wrong"),
        (b"$1\r\nab\r\n", "wrong"),
        (b"\n", "wrong"),
        (b"", "eof"),
    ],
)
def test_redis(answer, failure):
    result, asked = static(answer, "--rate", 20, "--redis")
    assert failures(result) == ({failure: 1} if failure else {})
    assert asked == b"GET /\r\n"


def test_slow_redis():
    result, asked = static(b"*-1\r\n" + BULK, "--slow", 1, "--slow-ms", 20, "--redis", "--think", "1s")
    assert failures(result) == {} and result["kinds"]["slow"]["ok"] == 1
    assert asked == b"BLPOP handoff-load 0.020\r\nGET /\r\n"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--target", "127.0.0.1:1"],
        ["--target", "nonsense", "--rate", "1"],
        ["--target", "127.0.0.1:1", "--rate", "nan"],
        ["--target", "127.0.0.1:1", "--rate", "1", "--duration", "1y"],
        ["--target", "unix:" + "x" * 200, "--rate", "1"],
        ["--target", "127.0.0.1:1", "--rate", "1", "--path", "/a b"],
        ["--unknown"],
    ],
)
def test_usage(args):
    assert subprocess.run([LOAD, *args], capture_output=True, timeout=LIMIT).returncode == 2


def unix_listener(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/s")
    listener.listen(5)
    return listener, f"unix:{tmp_path}/s"


def tcp_listener(_):
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    return listener, "127.0.0.1:%d" % listener.getsockname()[1]


@pytest.mark.parametrize("make", [tcp_listener, unix_listener])
def test_hand_off_in_miniature(make, tmp_path):
    """Two generations on one socket: the client sees the turn, its time, and no failure."""
    listener, target = make(tmp_path)
    args = ["--rate", 300, "--keepalive", 5, "--slow", 5, "--slow-ms", 400, "--partial", 3]
    command = [LOAD, "--target", target, "--until-signal", "--hold", 3, "--json", "-v", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        old = stack.enter_context(sleepd(listener=listener, generation=1))
        client = stack.enter_context(process(*command, **pipes))
        read_until(client.stderr, "generation 1")
        client.send_signal(signal.SIGUSR1)
        read_until(client.stderr, "mark")
        new = stack.enter_context(sleepd("--ready-delay", 0.2, listener=listener, generation=2))
        read_until(client.stderr, "generation 2")
        old.send_signal(signal.SIGTERM)
        assert old.wait(LIMIT) == 0
        client.send_signal(signal.SIGINT)
        result = json.loads(client.communicate(timeout=LIMIT)[0])
        new.send_signal(signal.SIGTERM)
        assert new.wait(LIMIT) == 0
    check_sums(result)
    assert failures(result) == {} and client.returncode == 0
    assert set(result["generations"]) == {"1", "2"}
    (mark,) = result["marks"]
    assert mark["generation"] == 2 and mark["first_new_after"] >= 0.2
    turned = mark["at"] + mark["first_new_after"]
    slow = [a for a in result["slow_answers"] if a["kind"] == "slow" and a["generation"] == 1]
    assert any(a["connected"] < turned < a["answered"] for a in slow)
    assert result["hold_closed"] == 3  # idle for longer than sleepd waits for them


def hear(notified, word):
    """Until this was said; the socket has a time limit."""
    while word not in notified.recv(100):
        pass


def test_sleepd_binds_alone_and_the_client_speaks_ipv6():
    with sleepd("-l", "[::1]:0") as server:
        target = wait_listening(server)
        result = load("--target", target, "--rate", 100, "--duration", "300ms", expect=0)
        assert result["workers"][0]["pid"] == server.pid


def test_sleepd_answers_idle_and_sleeping_connections_at_its_end(notified):
    with sleepd("-l", "127.0.0.1:0", NOTIFY_SOCKET=notified.getsockname()) as server:
        hear(notified, b"READY=1")
        host, port = wait_listening(server).split(":")
        with socket.create_connection((host, port), LIMIT) as idle:
            with socket.create_connection((host, port), LIMIT) as busy:
                busy.sendall(b"GET /?n=a HTTP/1.1\r\n\r\nGET /?n=b&sleep=0.3 HTTP/1.1\r\n\r\n")
                first = busy.recv(4096)
                server.send_signal(signal.SIGTERM)
                hear(notified, b"STOPPING=1")
                assert b"n=a\n" in first and b"Connection: close" not in first
                idle.sendall(b"GET /?n=c HTTP/1.1\r\n\r\n")
                for connection, nonce in ((idle, b"n=c\n"), (busy, b"n=b\n")):
                    answer = b""
                    while part := connection.recv(4096):
                        answer += part
                    assert b"Connection: close\r\n" in answer and answer.endswith(nonce)
        assert server.wait(LIMIT) == 0


@pytest.mark.parametrize(
    "request_text, status",
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"POST / HTTP/1.1\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 431),
        (b"GET /\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\0X: y\r\n\r\n", 400),
        (b"GET /?sleep=nan HTTP/1.1\r\n\r\n", 400),
        (b"GET /?sleep=-1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /?size=1e99 HTTP/1.1\r\n\r\n", 400),
        (b"GET /?n=" + b"x" * 65 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET /nowhere HTTP/1.0\r\n\r\n", 404),
        (b"GET /health HTTP/1.0\r\n\r\n", 503),
        (b"HEAD /env HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_sleepd_requests(request_text, status):
    with sleepd("-l", "127.0.0.1:0", "--fail-health") as server:
        host, port = wait_listening(server).split(":")
        with socket.create_connection((host, port), LIMIT) as connection:
            connection.sendall(request_text)
            answer = b""
            while part := connection.recv(4096):
                answer += part
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert server.poll() is None


@pytest.mark.parametrize(
    "options, target, code",
    [
        (["--exit-at-start", "3"], None, 3),
        (["--crash-after", "0.05"], None, -signal.SIGABRT),
        ([], b"/crash", -signal.SIGABRT),
        ([], b"/exit?code=4", 4),
        (["-l", "nonsense"], None, 1),
        (["--nonsense"], None, 2),
    ],
)
def test_sleepd_bad_releases(options, target, code):
    with sleepd("-l", "127.0.0.1:0", *options) as server:
        if target:
            host, port = wait_listening(server).split(":")
            with socket.create_connection((host, port), LIMIT) as connection:
                connection.sendall(b"GET " + target + b" HTTP/1.0\r\n\r\n")
                assert server.wait(LIMIT) == code
        assert server.wait(LIMIT) == code


def test_sleepd_says_ready_when_it_listens(notified):
    options = ["-l", "127.0.0.1:0", "--ready-delay", "0.1"]
    with sleepd(*options, NOTIFY_SOCKET=notified.getsockname()) as server:
        hear(notified, b"READY=1")
        target = wait_listening(server)
        load("--target", target, *ONE, expect=0)
        server.send_signal(signal.SIGTERM)
        hear(notified, b"STOPPING=1")
        assert server.wait(LIMIT) == 0
