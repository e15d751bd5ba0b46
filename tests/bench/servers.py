# SPDX-License-Identifier: MIT
"""The servers that are compared, the programs that watch them, and what /proc tells of them. Everything
runs in a private network namespace, so ports need no care."""

import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

LIMIT = 60  # seconds; bounds how long a measurement that fails takes
CLONE_NEWNET = 0x40000000
PR_SET_CHILD_SUBREAPER = 36


class Skip(Exception):
    """The machine lacks something; the text says what."""


def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def new_network():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise Skip(f"no private network namespace: {os.strerror(ctypes.get_errno())}")
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


# ---- /proc ----


def cpu_ns(pid):
    """Processor time so far, to the nanosecond."""
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def memory_kb(pid):
    fields = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0])
    return fields


def wakeups(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise Skip("the kernel does not count wake-ups")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def children():
    pids = []
    for task in pathlib.Path("/proc/self/task").iterdir():
        pids += map(int, (task / "children").read_text().split())
    return pids


def socket_dump_ns():
    """What the kernel needs to go through its table of TCP sockets once: the least that looking for
    connections costs. Asks for connections in a state that none has."""
    inet_diag = struct.pack("BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 1 << 3) + bytes(48)  # SYN_RECV
    header = struct.pack("IHHII", 16 + len(inet_diag), 20, 0x301, 1, 0)  # SOCK_DIAG_BY_FAMILY, a dump
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as s:  # NETLINK_SOCK_DIAG
        at = now()
        s.send(header + inet_diag)
        s.recv(65536)
        return now() - at


# ---- the run ----


class Bench:
    """Where the programs are, a scratch directory, and everything that was started."""

    def __init__(self, build):
        self.handoffd = build / "daemon/handoffd"
        self.sleepd = build / "contrib/examples/sleepd"
        self.load = build / "tests/tools/handoff-load"
        names = ("flip", "live", "worker", "client", "inflight")
        own = [build / "tests/bench" / f"bench-{name}" for name in names]
        self.flip, self.live, self.worker, self.client, self.inflight = own
        for program in (self.handoffd, self.sleepd, self.load, *own):
            if not program.exists():
                raise Skip(f"{program} is not built")
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="handoffd-bench-"))
        self.directory.chmod(0o755)
        self.ports = itertools.count(8080)
        self.names = itertools.count(1)
        self.servers = []

    def new_directory(self, name):
        directory = self.directory / f"{name}-{next(self.names)}"
        directory.mkdir()
        return directory

    def add(self, server):
        self.servers.append(server)
        return server

    def stop_servers(self):
        while self.servers:
            self.servers.pop().stop()

    def close(self):
        """Whatever was started and is left, by its pid; orphans have become our children."""
        self.stop_servers()
        while left := children():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        shutil.rmtree(self.directory, ignore_errors=True)


class Server:
    """A master process in the foreground."""

    reload_signal = signal.SIGHUP

    def __init__(self, bench, name, port):
        self.bench, self.name, self.port = bench, name, port
        self.directory = bench.new_directory(name.replace("+", "-"))
        self.process = None

    def spawn(self, argv, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HANDOFF", "LISTEN_", "NOTIFY_"))}
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [str(a) for a in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**clean, **environment},
            )

    @property
    def pid(self):
        return self.process.pid

    def reload(self):
        """Asks for it, and says when that was."""
        at = now()
        os.kill(self.pid, self.reload_signal)
        return at

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Handoffd(Server):
    """Its READY=1 is what start() waits for."""

    def __init__(self, bench, name, port, services):
        super().__init__(bench, name, port)
        self.control = self.directory / "control"
        self.file = self.directory / "handoffd.conf"
        text = services(self) if callable(services) else services
        self.file.write_text(f'control-socket = "{self.control}"\n{text}')
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(self.directory / "notify"))
            notify.settimeout(LIMIT)
            self.spawn([bench.handoffd, "-c", self.file], NOTIFY_SOCKET=str(self.directory / "notify"))
            while b"READY=1" not in notify.recv(65536):
                pass
        bench.add(self)


def service(command, port=None, name="web", extra=""):
    """Nothing is kept warm or baked, so that a reload is answered when the new generation serves."""
    words = ", ".join(f'"{word}"' for word in command)
    listen = f'listen "http" {{ address = "127.0.0.1:{port}" }}' if port else 'sockets = "none"'
    rollout = "" if "rollout" in extra else 'rollout { bake = "0" }'
    return f'service "{name}" {{\n\tcommand = {{{words}}}\n\t{listen}\n\t{rollout}\n\t{extra}\n}}\n'


def until_answers(server):
    """A service without listeners is ready when it runs: its port comes later."""
    end = now() + LIMIT * 10**9
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", server.port)).close()
        if now() > end:
            raise RuntimeError(f"{server.name} does not listen")
        time.sleep(0.01)


def nginx_configuration(directory, port):
    (directory / "nginx.conf").write_text(
        f"error_log stderr;\npid {directory}/nginx.pid;\n"
        "worker_processes 1;\nevents { worker_connections 4096; }\n"
        f"http {{\n\taccess_log off;\n\tserver {{\n\t\tlisten 127.0.0.1:{port} backlog=4096;\n"
        '\t\tlocation / { return 200 "pid=$pid\\n"; }\n\t}\n}\n'
    )
    return ["nginx", "-p", directory, "-c", directory / "nginx.conf", "-g", "daemon off;"]


def haproxy_configuration(directory, port):
    (directory / "haproxy.cfg").write_text(
        "global\n\tnbthread 1\ndefaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 60s\n"
        f"\ttimeout server 60s\nfrontend web\n\tbind 127.0.0.1:{port} backlog 4096\n"
        '\thttp-request return status 200 content-type text/plain lf-string "pid=%pid\\n"\n'
    )
    return ["haproxy", "-Ws", "-f", directory / "haproxy.cfg"]


class Nginx(Server):
    def __init__(self, bench, port):
        super().__init__(bench, "nginx", port)
        self.spawn(nginx_configuration(self.directory, port))
        bench.add(self)


class Haproxy(Server):
    reload_signal = signal.SIGUSR2

    def __init__(self, bench, port):
        super().__init__(bench, "haproxy", port)
        self.spawn(haproxy_configuration(self.directory, port))
        bench.add(self)


def handoffd_sleepd(bench):
    port = next(bench.ports)
    return Handoffd(bench, "handoffd+sleepd", port, service([bench.sleepd], port))


def handoffd_nginx(bench):
    """Each generation has a pid file of its own, as nginx removes its file when it ends."""
    port = next(bench.ports)

    def services(server):
        nginx_configuration(server.directory, port)
        file = server.directory / "nginx.conf"
        lines = [line for line in file.read_text().splitlines() if not line.startswith("pid ")]
        file.write_text("\n".join(lines) + "\n")
        options = f"daemon off; pid {server.directory}/nginx-{{generation}}.pid;"
        return service(
            ["nginx", "-p", server.directory, "-c", file, "-g", options],
            port,
            extra='dialect = "nginx"\n\tdrain { signal = "QUIT" }',
        )

    return Handoffd(bench, "handoffd+nginx", port, services)


def http_servers(bench):
    """All that can be compared on this machine; each has answered once."""
    servers = [handoffd_sleepd(bench)]
    if shutil.which("nginx"):
        servers += [handoffd_nginx(bench), Nginx(bench, next(bench.ports))]
    if shutil.which("haproxy"):
        servers.append(Haproxy(bench, next(bench.ports)))
    for server in servers:
        with Watch(bench, server.port) as watch:
            watch.next()
    return servers


# ---- the programs that watch ----


class Helper:
    def __init__(self, *argv):
        self.process = subprocess.Popen(
            [str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended without an answer")
        return line

    def tell(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait(LIMIT)
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Watch(Helper):
    """Asks a server all the time."""

    def __init__(self, bench, port, what="watch"):
        super().__init__(bench.client, what, port)

    def next(self):
        """When a process answered that had not answered before."""
        return int(self.line().split()[1])


def own_start_ns(bench, port, argv):
    """From the exec of a program to its first answer; it is stopped again."""
    with Helper(bench.client, "start", port, *argv) as helper:
        return int(helper.line())


class Control:
    """The control socket: JSON objects, each with a zero byte behind."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(str(path))
        self.buffer = b""

    def send(self, method, **parameters):
        call = {"method": f"dev.handoff.Manager.{method}", "parameters": parameters}
        if "follow" in parameters:
            call["more"] = True
        self.socket.sendall(json.dumps(call).encode() + b"\0")

    def receive(self):
        while b"\0" not in self.buffer:
            data = self.socket.recv(1 << 16)
            if not data:
                raise RuntimeError("handoffd closed the control connection")
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        reply = json.loads(message)
        if "error" in reply:
            raise RuntimeError(f"handoffd: {reply}")
        return reply["parameters"]

    def call(self, method, **parameters):
        self.send(method, **parameters)
        return self.receive()

    def follow(self):
        """Each event from now on."""
        self.send("Events", follow=True, lines=0)
        while True:
            yield from self.receive()["events"]

    def close(self):
        self.socket.close()
