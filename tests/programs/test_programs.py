# SPDX-License-Identifier: MIT
"""Real, unmodified servers, replaced under load as users would do it: the configuration is the recipe
that the manual shows, each generation is a release of its own, and every answer is verified.

Some programs take the sockets of handoffd, others bind their port themselves ("adopted" in the name
of the row), and some do either. CTest runs a few rows (label "programs"). The whole table:

    cmake --build build --target programs

or, to choose rows, HANDOFF_BUILD=build python3 -m pytest tests/programs -k "nginx and cbpf". In the
environment, HANDOFF_FULL is for the higher rates of the whole table, HANDOFF_RELOADS (20) for more."""

import contextlib
import ctypes
import datetime
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import string
import subprocess
import time

import conftest
import pytest
from catalogue import FAST, FULL, HERE, PATH, PROGRAMS, variants
from harness import LOAD, Daemon, Lines, Load, new_network

RELOADS = int(os.environ.get("HANDOFF_RELOADS", "8" if "HANDOFF_FAST" in os.environ else "20"))
SLOW_MS = 700
SIZE = 2000 if FULL else 20000
OLD = 3  # generations that drain at the same time; more would be stopped before their time
PORT = 8080
PR_SET_CHILD_SUBREAPER = 36
ACCIDENTS = (
    "anomaly",
    "connections-cut",
    "generation-failed",
    "rolled-back",
    "steer-failed",
    "steering-shared",
    "worker-crashed",
    "worker-killed",
    "worker-restarting",
)


def row(program, variant, fast):
    marks = [pytest.mark.fast] if fast else []
    return pytest.param(program, variant, id=f"{program.name}-{variant.name}", marks=marks)


def rows():
    for program in PROGRAMS:
        for variant in variants(program):
            yield row(program, variant, variant.name in ("all", "adopted") and program.name in FAST)


def rows_of_programs(fast, without):
    for program in PROGRAMS:
        if not without(program):
            yield row(program, variants(program)[0], program.name in fast)


# ---- a program as its user has it ----


def page(generation):
    """What handoff-load expects of a file: the answer for the empty nonce."""
    letters = string.ascii_lowercase
    start = 2166136261 % 26
    text = (letters * (SIZE // 26 + 2))[start : start + SIZE]
    return f"pid={generation} generation={generation} n=\n{text}".encode()


def redis_dump(value):
    """A database with the key "/": RDB version 9 without checksum."""
    size = len(value).to_bytes(4, "big")
    return b"REDIS0009\xfe\x00\x00\x01/\x80" + size + value + b"\xff" + bytes(8)


def reached(address):
    """Where a client finds what listens there."""
    host, port = address.rsplit(":", 1) if address.startswith("[") else address.split(":", 1)
    return {
        "*": [f"127.0.0.1:{port}", f"[::1]:{port}"],
        "0.0.0.0": [f"127.0.0.1:{port}"],
        "[::]": [f"[::1]:{port}"],
    }.get(host, [address])


class Site:
    """Releases of a program, of which `current` is one, and the configuration that runs it."""

    def __init__(self, daemon, program, variant):
        self.program = program
        self.variant = variant
        self.directory = daemon.directory / "site"
        self.runtime = daemon.directory / "runtime"
        self.built = daemon.directory / "built"
        self.user = pwd.getpwnam(variant.service_user).pw_uid if variant.service_user else variant.user
        for path in (self.directory, self.runtime, self.built):
            path.mkdir()
            self.own(path)
        self.recipe = (HERE / f"recipes/{program.recipe or program.name}.conf").read_text()
        for old, new in program.changes:
            assert old in self.recipe
            self.recipe = self.recipe.replace(old, new)
        (listed,) = re.findall(r"address = \{(.*?)\}", self.recipe)
        self.addresses = re.findall(r'"(.*?)"', listed)
        if not program.own:
            self.addresses = [
                a.format(port=PORT, run=daemon.run)
                for a in variant.addresses
                if program.unix or not a.startswith("unix:")
            ]
        self.targets = [target for a in self.addresses for target in reached(a)]
        self.app = HERE / "apps" / (program.app or program.recipe or program.name)
        if program.build:
            program.build(self.app, self.built)

    def own(self, path):
        if self.user is not None:
            os.chown(path, self.user, self.user)

    def includes(self, number):
        """What the configurations of the programs include: name, text."""
        more = " reuseport" if self.program.name == "nginx-reuseport" else ""
        paths = [a.removeprefix("unix:") for a in self.addresses]
        yield "generation.conf", f"add_header X-Generation {number};\n"
        yield "listen.conf", "".join(f"listen {a}{more};\n" for a in self.addresses)
        yield "pools.conf", "".join(
            f"[pool{n}]\nlisten = {path}\nuser = nobody\ngroup = nogroup\npm = static\n"
            "pm.max_children = 4\nclear_env = no\n"
            for n, path in enumerate(paths)
        )

    def release(self, number, broken=False):
        """Makes a release and points `current` at it, as a deployment does."""
        new = self.directory / f"release-{number}"
        shutil.copytree(self.app, new) if self.app.is_dir() else new.mkdir()
        for file in (*self.program.files, *self.built.iterdir()):
            os.link(file, new / file.name) if file.parent == self.built else shutil.copy(file, new)
        for name, text in self.includes(number):
            (new / name).write_text(text)
        (new / "index.html").write_bytes(page(number))
        (new / "data.rdb").write_bytes(redis_dump(page(number)))
        if broken:
            (new / self.program.main).unlink()
            (new / self.program.main).write_text("this is no program (\n")
        for path in (new, *new.iterdir()):
            self.own(path)
        link = self.directory / "next"
        link.symlink_to(new)
        link.rename(self.directory / "current")

    def configuration(self):
        """The recipe with the places of this test instead of its own."""
        listed = ", ".join(f'"{a}"' for a in self.addresses)
        text = self.recipe.replace("/srv/web/current", str(self.directory / "current"))
        text = re.sub(r"/run/web\b", str(self.runtime), text)
        text = re.sub(r"address = \{.*?\}", f"address = {{{listed}}}", text)
        more = ", ".join(f'"{e}"' for e in self.program.environ)
        more = f"environ = {{{more}}}\n" if more else ""
        if self.variant.service_user:
            more += f'\tuser = "{self.variant.service_user}"\n'
        return (
            f"{text[: text.rindex('}')]}\tworkers = {self.variant.workers}\n\t{more}"
            f'\trollout {{ bake = "0"  keep-warm = "{self.variant.keep_warm or 0}"  max-old = {OLD + 1} }}\n}}\n'
        )

    @contextlib.contextmanager
    def clients(self):
        """Where the load goes: for FastCGI, to nginx before it."""
        if self.program.name != "php-fpm":
            yield self.targets
            return
        front = self.directory / "front"
        front.mkdir()
        script = f"fastcgi_param SCRIPT_FILENAME {self.directory}/current/index.php;"
        servers, sockets = "", []
        for to in self.addresses:
            sockets.append(socket.create_server(("127.0.0.1", 0)))
            servers += (
                f"server {{ listen 127.0.0.1:{sockets[-1].getsockname()[1]}; location / {{ fastcgi_pass {to}; "
                f"{script} fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD GET; }} }}\n"
            )
        (front / "front-servers.conf").write_text(servers)
        shutil.copy(self.app / "front.conf", front)
        numbers = [s.fileno() for s in sockets]
        with subprocess.Popen(
            ["nginx", "-p", front, "-c", front / "front.conf"],
            stdin=subprocess.DEVNULL,
            pass_fds=numbers,
            env={"PATH": PATH, "NGINX": "".join(f"{n};" for n in numbers)},
        ) as nginx:
            try:
                yield ["127.0.0.1:" + str(s.getsockname()[1]) for s in sockets]
            finally:
                nginx.terminate()
                for s in sockets:
                    s.close()


class ProgramLoad(Load):
    def __init__(self, program, targets, **more):
        arguments = [LOAD, "--json", "--verbose", "--until-signal", "--path", program.path, *program.load]
        for target in targets:
            arguments += ["--target", target]
        options = {
            "rate": program.rates[FULL],
            "keepalive": program.keepalive,
            "requests-per-connection": 25,
            "slow": program.slow,
            "slow-ms": SLOW_MS,
            "partial": 2,
            "size": SIZE,
            **more,
        }
        if FULL:
            options["spread"] = 50  # there are not ports enough otherwise
        for name, value in options.items():
            arguments += [f"--{name}", str(value)]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.log = Lines(self.process.stderr)
        self.output = Lines(self.process.stdout)
        self.log.wait(lambda line: "started" in line, "the start of the load")


# ---- what the load saw, against what handoffd said ----


def misplaced(result, events, marks, kind):
    """Slow requests that another generation answered than the one that served when they connected;
    and how many were answered after a newer one had taken over."""
    # the load's clock begins with it; the marks' times are known in both
    offset = max(t - m["at"] for t, m in zip(marks, result["marks"]))
    turns = [
        (datetime.datetime.fromisoformat(e["time"]).timestamp() - offset, e["generation"])
        for e in events
        if e["event"] == "generation-serving"
    ]
    doubt = 0.1 + result["schedule_lag"]
    wrong = across = 0
    for answer in result["slow_answers"]:
        if answer["kind"] != kind:
            continue
        begins = dict((g, at) for at, g in turns)
        own = begins[answer["generation"]]
        ends = begins.get(answer["generation"] + 1, float("inf"))
        if not own - doubt <= answer["connected"] <= ends + doubt:
            wrong += 1
        across += answer["answered"] > ends + doubt
    return wrong, across


def strangers(known):
    """Processes that outlived their handoffd, and so have become ours."""
    left = []
    for task in pathlib.Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            left += (task / "children").read_text().split()
    return {int(pid) for pid in left} - known


# ---- the test ----


@pytest.fixture
def daemon(request):
    program, variant = request.node.callspec.params["program"], request.node.callspec.params["variant"]
    if not shutil.which(program.binary, path=PATH):
        pytest.skip(f"{program.binary} is not installed")
    if program.needs and not os.path.exists(program.needs):
        pytest.skip(f"{program.needs} is not installed")
    if not new_network():
        pytest.skip("no right to make a network namespace")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    environment = {"PATH": PATH}
    if variant.steering:
        environment["HANDOFF_STEERING"] = variant.steering
    made = Daemon(user=variant.user, environment=environment)
    request.node.stash[conftest.daemon_of] = made
    known = strangers(set())
    try:
        yield made
        if not request.node.stash.get(conftest.failed, False):
            made.stop()
            assert not strangers(known), "processes are left"
    finally:
        made.destroy()
        while left := strangers(known):  # the end of one makes its children ours
            for pid in left:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def reload_often(daemon, site, load):
    """The times at which the load was told of a reload."""
    marks = []
    for number in range(2, RELOADS + 2):
        if number > OLD:
            daemon.wait_event("generation-gone", generation=number - OLD)
        site.release(number)
        marks.append(time.time())
        load.process.send_signal(signal.SIGUSR1)
        assert daemon.reload("web")["generation"] == number
        # the load has met it
        load.log.wait(lambda line: line.endswith(f"generation {number}"), f"generation {number}")
    return marks


def check_events(daemon, allowed=()):
    events = list(daemon.events.items)
    accidents = [e for e in events if e["event"] in ACCIDENTS and e["event"] not in allowed]
    assert not accidents, accidents[:3]
    return events


@pytest.mark.timeout(240)
@pytest.mark.parametrize("program, variant", rows())
def test_reloads_under_load(request, daemon, program, variant):
    site = Site(daemon, program, variant)
    site.release(1)
    daemon.configure(site.configuration()).start()
    service = daemon.service()
    assert service["state"] == "serving", "generation 1 does not serve"
    tcp = [x for x in service["listeners"] if x["address"].startswith("tcp:")]
    steering = {x["steering"] for x in tcp}
    if variant.steering == "cbpf" or variant.user is not None:
        assert steering == {"cbpf"}
    assert {x["origin"] for x in tcp} == {"adopted" if program.own else "bound"}
    descriptors = daemon.descriptors()
    with site.clients() as targets, ProgramLoad(program, targets) as load:
        marks = reload_often(daemon, site, load)
        result = load.stop()
    for number in range(1, RELOADS + 1):
        daemon.wait_event("generation-gone", generation=number)
    events = list(daemon.events.items)
    wrong, across = misplaced(result, events, marks, "slow" if program.slow else "partial")
    cut = sum(e.get("connections", 0) for e in events if e["event"] == "connections-cut")
    conftest.add_row(request.node.callspec.id, result, steering="+".join(steering), misplaced=wrong, cut=cut)

    assert result["failed"] == 0, (result["failures"], result["examples"][:5])
    assert result["skipped"] == 0
    assert set(result["generations"]) == {str(n) for n in range(1, RELOADS + 2)}
    assert all(kind["ok"] for kind in result["kinds"].values() if kind["started"])
    assert result["kinds"]["short"]["ok"]
    assert result["moved"] == 0, "a connection was answered by two processes"
    assert wrong == 0, "slow requests were not answered by the generation that accepted them"
    assert across >= RELOADS // 2, "too few requests were in flight while generations changed"
    # some listeners of handoffd's own may wait for the next reload, and an asker's connection be closing
    assert daemon.descriptors() <= descriptors + 8, "handoffd keeps descriptors of what is gone"
    check_events(daemon)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("program, variant", rows_of_programs(FAST, without=lambda p: not p.main))
def test_broken_release(daemon, program, variant):
    """The reload fails, the old generation goes on, and no client notices."""
    site = Site(daemon, program, variant)
    site.release(1)
    daemon.configure(site.configuration()).start()
    with site.clients() as targets, ProgramLoad(program, targets) as load:
        site.release(2, broken=True)
        failed = daemon.reload("web", code=3)
        assert (failed["generation"], failed["outcome"]) == (2, "failed")
        site.release(3)
        assert daemon.reload("web")["generation"] == 3
        load.log.wait(lambda line: line.endswith("generation 3"), "generation 3")
        result = load.check()
    assert set(result["generations"]) == {"1", "3"}
    check_events(daemon, allowed=("generation-failed", "worker-crashed"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "program, variant", rows_of_programs(("node", "nginx"), without=lambda p: p.prefork or p.name == "php-fpm")
)
def test_idle_connections(daemon, program, variant):
    """With drain.idle-after a connection that says nothing does not keep the old generation, and busy
    ones still do. What is left then is idle, so the program need not be stopped with regard to it:
    many would wait for connections on which no request has come yet."""
    site = Site(daemon, program, variant)
    site.release(1)
    drain = f'drain {{ idle-after = "{2 * SLOW_MS}ms"  signal = TERM }}'
    text = re.sub(r"drain \{.*?\}", "", site.configuration(), flags=re.S)
    text = f"{text[: text.rindex('}')]}\t{drain}\n}}\n"
    daemon.configure(text).start()
    with ProgramLoad(program, site.targets, hold=2) as load:
        for number in range(2, 5):
            site.release(number)
            daemon.reload("web")
            load.log.wait(lambda line: line.endswith(f"generation {number}"), f"generation {number}")
            daemon.wait_event("generation-gone", generation=number - 1)
        result = load.stop()
    assert result["failed"] == 0, (result["failures"], result["examples"][:5])
    assert result["hold_closed"] >= 2
    check_events(daemon)
