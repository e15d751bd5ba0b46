# SPDX-License-Identifier: MIT
"""The real daemon with real workers, for tests. Whatever is waited for is an event: a line of the
daemon's log, an event of its control socket, the end of a process. No test sleeps; LIMIT only bounds
how long a test that fails takes."""

import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import uuid

import jsonschema

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("HANDOFF_BUILD", SOURCE / "build"))
HANDOFFD = BUILD / "daemon/handoffd"
HANDOFFCTL = BUILD / "daemon/handoffctl"
SLEEPD = BUILD / "contrib/examples/sleepd"
LOAD = BUILD / "tests/tools/handoff-load"
WORKER = (sys.executable, HERE / "worker.py")
LIMIT = 30  # seconds
FAST = bool(os.environ.get("HANDOFF_FAST"))
NOBODY = 65534
CLONE_NEWNET = 0x40000000
SCHEMAS = {
    name: jsonschema.Draft202012Validator(
        json.loads((SOURCE / f"docs/schema/{name}.schema.json").read_text())
    )
    for name in ("status", "event", "result", "connections", "logs", "config")
}
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|runtime error:|handoffd: .* this cannot be:")


# ---- the network of a test ----


def new_network():
    """A network namespace of its own for this process and its children; False without the right."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14x", b"lo", 1)  # IFF_UP
        fcntl.ioctl(s, 0x8914, request)  # SIOCSIFFLAGS
    return True


def free_port():
    with socket.socket(socket.AF_INET6) as s:
        s.bind(("::", 0))
        return s.getsockname()[1]


def connect(target, timeout=LIMIT):
    """target: "127.0.0.1:80", "[::1]:80", "unix:/path" or "unix:@name"."""
    if target.startswith("unix:"):
        s = socket.socket(socket.AF_UNIX)
        address = target[5:].replace("@", "\0", 1) if target[5] == "@" else target[5:]
    else:
        host, port = target.rsplit(":", 1)
        s = socket.socket(socket.AF_INET6 if host[0] == "[" else socket.AF_INET)
        address = (host.strip("[]"), int(port))
    s.settimeout(timeout)
    try:
        s.connect(address)
    except BaseException:
        s.close()
        raise
    return s


class Http:
    """One connection, request after request."""

    def __init__(self, target):
        self.socket = connect(target)
        self.buffer = b""

    def send(self, path="/"):
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        return self

    def receive(self):
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        size = int(re.search(rb"(?i)Content-Length: (\d+)", head)[1])
        while len(self.buffer) < size:
            self.more()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return int(head.split()[1]), body.decode()

    def more(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"the connection ended after {self.buffer!r}")
        self.buffer += data

    def get(self, path="/"):
        status, body = self.send(path).receive()
        assert status == 200, (path, status, body)
        return body

    def generation(self, path="/"):
        return int(re.search(r"generation=(\d+)", self.get(path))[1])

    def ended(self):
        """Waits for the other side's end of the connection."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def get(target, path="/"):
    with Http(target) as c:
        return c.get(path)


def generation(target, path="/"):
    return int(re.search(r"generation=(\d+)", get(target, path))[1])


def pid(target, path="/"):
    return int(re.search(r"pid=(\d+)", get(target, path))[1])


# ---- configurations ----


def quoted(text):
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def listed(items):
    return "{" + ", ".join(quoted(i) for i in items) + "}"


def service(*options, name="web", address=None, command=None, extra="", workers=1):
    """The text of a service that runs sleepd with these options. Nothing is kept warm, so that a
    request is answered as soon as the new generation serves, and it is drained as a program that
    knows nothing of handoffd; `extra` may say something else."""
    command = [SLEEPD, *options] if command is None else command
    addresses = [] if address is None else [address] if isinstance(address, str) else address
    rollout = "" if "rollout" in extra else 'rollout { bake = "0" }'
    if "drain {" not in extra:
        extra += '\n\tdrain { by = "idle" }'
    elif "by =" not in extra.split("drain {")[1].split("}")[0]:
        extra = extra.replace("drain {", 'drain { by = "idle" ')
    listen = f'listen "http" {{ address = {listed(addresses)} }}' if addresses else ""
    return (
        f"service {quoted(name)} {{\n"
        f"\tcommand = {listed(command)}\n\tworkers = {workers}\n\t{listen}\n\t{rollout}\n\t{extra}\n}}\n"
    )


# ---- what is read from processes ----


class Collector:
    """A list that a thread appends to and others wait for."""

    def __init__(self):
        self.items = []
        self.ended = False
        self.changed = threading.Condition()

    def add(self, item):
        with self.changed:
            self.items.append(item)
            self.changed.notify_all()

    def end(self):
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait(self, wanted, what, start=0, timeout=LIMIT):
        """The first item from `start` on for which wanted() is true."""
        with self.changed:
            at, found = start, None

            def look():
                nonlocal at, found
                while found is None and at < len(self.items):
                    if wanted(self.items[at]):
                        found = at
                    at += 1
                return found is not None or self.ended

            assert self.changed.wait_for(look, timeout), f"{what} did not come within {timeout} s"
            assert found is not None, f"the stream ended without {what}"
            return self.items[found]


class Lines(Collector):
    """The lines of a pipe, read by a thread until it ends."""

    def __init__(self, pipe):
        super().__init__()
        self.thread = threading.Thread(target=self.read, args=(pipe,), daemon=True)
        self.thread.start()

    def read(self, pipe):
        with pipe:
            for line in pipe:
                self.add(line.decode(errors="replace").rstrip("\n"))
        self.end()


class Client:
    """Speaks to the control socket without handoffctl: JSON objects, each with a zero byte behind."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(str(path))
        self.buffer = b""

    def send(self, method, more=False, **parameters):
        call = {"method": f"dev.handoff.Manager.{method}", "parameters": parameters}
        if more:
            call["more"] = True
        self.socket.sendall(json.dumps(call).encode() + b"\0")

    def receive(self):
        while b"\0" not in self.buffer:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("handoffd closed the control connection")
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.send(method, **parameters)
        return self.receive()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Events(Collector):
    """Every event since the daemon's start."""

    def __init__(self, path):
        super().__init__()
        self.client = Client(path)
        self.client.socket.settimeout(None)
        self.client.send("Events", more=True, follow=True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            while True:
                for event in self.client.receive()["parameters"]["events"]:
                    self.add(event)
        except (OSError, KeyError):
            pass
        self.client.close()
        self.end()


class Command:
    """A command whose end is waited for later."""

    def __init__(self, argv):
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.stdout = ""

    def wait(self, code=None):
        self.stdout, stderr = self.process.communicate(timeout=LIMIT)
        assert code is None or self.process.returncode == code, (self.process, self.stdout, stderr)
        return stderr


# ---- the daemon ----


class Daemon:
    """handoffd in the foreground, with a directory of its own: `run` in it for sockets, which must be
    empty at the end."""

    def __init__(self, *, user=None, environment=None, argv=None, **popen):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="handoff-"))
        self.run = self.directory / "run"
        self.run.mkdir()
        self.file = self.directory / "handoffd.conf"
        self.control = self.run / "control"
        self.mark = f"{uuid.uuid4()}"
        self.user = user
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HANDOFF", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_"))
        }
        self.environment.update(
            TEST_MARK=self.mark, PYTHONDONTWRITEBYTECODE="1", HANDOFF_CHECK_STATE="1"
        )
        self.environment.update(environment or {})
        self.argv = argv
        self.stdin = subprocess.DEVNULL
        self.popen = popen
        self.process = self.log = self.output = self.events = None
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        for path in (self.directory, self.run):
            path.chmod(0o755)
            if user is not None:
                os.chown(path, user, user)

    # starting

    def configure(self, *services, more=""):
        text = f"control-socket = {quoted(self.control)}\n{more}\n" + "\n".join(services)
        new = self.directory / "new.conf"  # a reload never meets half a file
        new.write_text(text)
        new.rename(self.file)
        return self

    def command(self):
        rights = []
        if self.user is not None:
            rights = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        arguments = ["-c", self.file] if self.argv is None else self.argv
        return [str(a) for a in (*rights, HANDOFFD, *arguments)]

    def spawn(self):
        """Without waiting for anything."""
        self.process = subprocess.Popen(
            self.command(),
            stdin=self.stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            start_new_session=True,
            cwd=self.directory,
            **self.popen,
        )
        self.log = Lines(self.process.stderr)
        self.output = Lines(self.process.stdout)
        return self

    def listen_to_events(self):
        self.wait_log("config-loaded")  # the control socket is open before the configuration is looked at
        self.events = Events(self.control)

    def start(self):
        """Waits until every service has served or failed."""
        self.spawn()
        self.listen_to_events()
        self.wait_event("daemon-ready")
        return self

    # waiting

    def wait_log(self, pattern, start=0):
        return self.log.wait(lambda line: re.search(pattern, line), f"the log line {pattern!r}", start)

    def now(self):
        """For `start` of wait_event: what happens from here on."""
        return len(self.events.items)

    def wait_output(self, pattern, start=0):
        return self.output.wait(
            lambda line: re.search(pattern, line), f"the line of output {pattern!r}", start
        )

    def wait_event(self, name, start=0, **fields):
        def wanted(event):
            return event["event"] == name and all(event.get(k) == v for k, v in fields.items())

        return self.events.wait(wanted, f"the event {name} {fields}", start)

    def wait_count(self, name, number):
        """Until there were so many of these events."""
        left = number

        def wanted(event):
            nonlocal left
            left -= event["event"] == name
            return left == 0

        self.events.wait(wanted, f"{number} times the event {name}")

    def settle(self):
        """Until the daemon has seen whatever was sent to it before: the second answer is of a later round
        of its loop than the first one."""
        with Client(self.control) as client:
            client.call("GetStatus")
            client.call("GetStatus")

    def seen(self, name, **fields):
        return [
            e
            for e in self.events.items
            if e["event"] == name and all(e.get(k) == v for k, v in fields.items())
        ]

    # asking

    def ctl(self, *arguments, code=None, user=None, group=None, **options):
        """group: a supplementary one of the user."""
        groups = "--clear-groups" if group is None else f"--groups={group}"
        rights = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", groups]
        done = subprocess.run(
            [str(a) for a in (*rights, HANDOFFCTL, "-s", self.control, *arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            **options,
        )
        if code is not None:
            assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def ctl_later(self, *arguments):
        """The same without waiting for it; wait(code) on the result gives its standard error."""
        return Command([str(a) for a in (HANDOFFCTL, "-s", self.control, *arguments)])

    def reload(self, *arguments, code=0):
        """The result for the only service."""
        done = self.ctl("--json", "reload", *arguments, code=code)
        document = json.loads(done.stdout)
        SCHEMAS["result"].validate(document)
        assert document["exit_code"] == code
        return document["results"][0] if document["results"] else document

    def status(self):
        document = json.loads(self.ctl("--json", "status", code=0).stdout)
        SCHEMAS["status"].validate(document)
        return document

    def service(self, name="web"):
        return next(s for s in self.status()["services"] if s["name"] == name)

    def generations(self, name="web"):
        """{id: state}"""
        return {g["id"]: g["state"] for g in self.service(name)["generations"]}

    def worker(self, number, index=0, name="web"):
        """The pid of a worker of a generation."""
        for g in self.service(name)["generations"]:
            if g["id"] == number:
                return g["workers"][index]["pid"]
        raise AssertionError(f"there is no generation {number}")

    def signal(self, number):
        self.process.send_signal(number)

    @staticmethod
    def kill(number, what):
        os.kill(number, what)

    def descriptors(self):
        """How many it has, with those of this one client, when all earlier clients are gone."""
        with Client(self.control) as client:
            client.call("GetStatus")
            client.call("GetStatus")
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    # the end

    def wait_exit(self, code=0):
        assert self.process.wait(LIMIT) == code, (self.process.returncode, self.log.items[-5:])
        self.log.thread.join(LIMIT)
        self.output.thread.join(LIMIT)
        self.check_gone()

    def stop(self, code=0):
        self.signal(signal.SIGTERM)
        self.wait_exit(code)

    def left_processes(self):
        left = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError):
                if self.mark.encode() in pathlib.Path(f"/proc/{entry}/environ").read_bytes():
                    line = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes()
                    left.append((int(entry), line.replace(b"\0", b" ").decode()))
        return left

    def check_gone(self):
        """Nothing is left of the daemon, and it had no accident that it did not tell."""
        for number, _ in self.left_processes():  # one that was killed may be on its way out
            with contextlib.suppress(ProcessLookupError):
                end = os.pidfd_open(number)
                select.select([end], [], [], 2)
                os.close(end)
        left = self.left_processes()
        assert not left, left
        assert os.listdir(self.run) == [], os.listdir(self.run)
        bad = [line for line in self.log.items if SANITIZER.search(line)]
        assert not bad, bad

    def tell(self):
        """What is printed when a test fails."""
        log = self.log.items[-300:] if self.log else []
        events = self.events.items[-300:] if self.events else []
        yield "log", "\n".join(log)
        yield "output", "\n".join(self.output.items[-300:]) if self.output else ""
        yield "events", "\n".join(
            " ".join(f"{k}={v!r}" for k, v in e.items() if v is not None) for e in events
        )

    def destroy(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for number, _ in self.left_processes() if self.process else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


# ---- load ----


class Load:
    """Open-loop load until stop(), which gives the verdict."""

    def __init__(self, *targets, rate=200, keepalive=4, slow=3, slow_ms=300, command=(LOAD,), **options):
        arguments = ["--json", "--verbose", "--until-signal"]
        for target in targets:
            arguments += ["--target", target]
        options.update(rate=rate, keepalive=keepalive, slow=slow, slow_ms=slow_ms)
        for name, value in options.items():
            arguments.append(f"--{name.replace('_', '-')}")
            if value is not True:
                arguments.append(str(value))
        self.process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.log = Lines(self.process.stderr)
        self.output = Lines(self.process.stdout)
        self.log.wait(lambda line: "started" in line, "the start of the load")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(LIMIT + 10)
        self.output.thread.join()
        return json.loads("\n".join(self.output.items))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            if kind is None:
                self.check()
            else:
                self.process.kill()
                self.process.wait()

    def check(self):
        """No failure of any class, and every kind of load has had answers."""
        result = self.stop()
        assert result["failed"] == 0, (result["failures"], result["examples"][:5])
        assert result["skipped"] == 0
        for name, kind in result["kinds"].items():
            assert kind["ok"] or not kind["started"], name
        assert result["ok"] > 0
        self.result = result
        return result
