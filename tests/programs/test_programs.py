# SPDX-License-Identifier: MIT
"""Real, unmodified servers, replaced under load as users would do it: the configuration is the recipe
that the manual shows, each generation is a release of its own, and every answer is verified.

CTest runs one row for each program (label "programs"). The whole table:

    cmake --build build --target programs

or, to choose rows, HANDOFF_BUILD=build python3 -m pytest tests/programs -k "nginx and cbpf". In the
environment, HANDOFF_FULL is for the higher rates of the whole table, HANDOFF_RELOADS (20) for more."""

import contextlib
import ctypes
import dataclasses
import datetime
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import time

import conftest
import pytest
from harness import LOAD, NOBODY, Daemon, Lines, Load, new_network

HERE = pathlib.Path(__file__).resolve().parent
RELOADS = int(os.environ.get("HANDOFF_RELOADS", "20"))
FULL = "HANDOFF_FULL" in os.environ
SLOW_MS = 700
OLD = 3  # generations that drain at the same time; more would be stopped before their time
PORT = 8080
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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


@dataclasses.dataclass(frozen=True)
class Program:
    name: str
    binary: str
    recipe: str = ""
    app: str = ""
    path: str = "/"  # what the load asks for
    load: tuple = ()  # further options of the load
    unix: bool = True
    environ: tuple = ()
    rates: tuple = (40, 120)  # in CTest, in the whole table
    slow: int = 3
    main: str = ""  # the file without which the program cannot start


PROGRAMS = [
    Program("node", "node", rates=(100, 400), main="server.js"),
    Program("python", "python3", rates=(100, 400), main="server.py"),
    Program("gunicorn-sync", "gunicorn", app="gunicorn", rates=(40, 40), slow=1, main="app.py"),
    Program("gunicorn-gthread", "gunicorn", recipe="gunicorn", app="gunicorn", main="app.py"),
    Program("puma-single", "puma", recipe="puma", app="puma", main="config.ru"),
    Program(
        "puma-cluster", "puma", recipe="puma", app="puma", environ=("WEB_CONCURRENCY=2",), main="config.ru"
    ),
    # a process for each request: more than the machine can start only fills the queue
    Program("lighttpd", "lighttpd", path="/answer.pl", rates=(20, 40), main="lighttpd.conf"),
    Program("nginx", "nginx", load=("--expect-nonce",), unix=False, rates=(100, 400), main="nginx.conf"),
    Program("haproxy", "haproxy", rates=(100, 400), main="haproxy.cfg"),
]


@dataclasses.dataclass(frozen=True)
class Variant:
    name: str
    addresses: tuple = ("127.0.0.1:{port}", "[::1]:{port}", "unix:{run}/web.sock")
    workers: int = 1
    user: int | None = None
    steering: str = ""
    service_user: str = ""  # while handoffd is root
    keep_warm: str = ""
    only: tuple = ()


VARIANTS = [
    Variant("v4", addresses=("127.0.0.1:{port}",)),
    Variant("all"),
    Variant("all-4-workers", workers=4),
    Variant("all-cbpf", steering="cbpf"),
    Variant("all-user", user=NOBODY),
    Variant("all-service-user", service_user="nobody"),
    Variant("all-warm", keep_warm="2s", only=("node", "nginx", "puma-cluster")),
]
FAST = ("node", "gunicorn-gthread", "nginx", "lighttpd", "puma-single")


def row(program, variant, fast):
    marks = [pytest.mark.fast] if fast else []
    return pytest.param(program, variant, id=f"{program.name}-{variant.name}", marks=marks)


def rows():
    for program in PROGRAMS:
        for variant in VARIANTS:
            if not variant.only or program.name in variant.only:
                yield row(program, variant, variant.name == "all" and program.name in FAST)


def rows_of_programs(fast, without=()):
    for program in PROGRAMS:
        if program.name not in without:
            yield row(program, VARIANTS[0], program.name in fast)


# ---- a program as its user has it ----


class Site:
    """Releases of a program, of which `current` is one, and the configuration that runs it."""

    def __init__(self, daemon, program, variant):
        self.program = program
        self.directory = daemon.directory / "site"
        self.runtime = daemon.directory / "runtime"
        self.user = pwd.getpwnam(variant.service_user).pw_uid if variant.service_user else variant.user
        for path in (self.directory, self.runtime):
            path.mkdir()
            self.own(path)
        self.addresses = [
            a.format(port=PORT, run=daemon.run)
            for a in variant.addresses
            if program.unix or not a.startswith("unix:")
        ]
        self.recipe = HERE / f"recipes/{program.recipe or program.name}.conf"
        self.workers = variant.workers
        self.more = f'user = "{variant.service_user}"\n' if variant.service_user else ""
        self.warm = variant.keep_warm

    def own(self, path):
        if self.user is not None:
            os.chown(path, self.user, self.user)

    def release(self, number, broken=False):
        """Makes a release and points `current` at it, as a deployment does."""
        new = self.directory / f"release-{number}"
        shutil.copytree(HERE / "apps" / (self.program.app or self.program.name), new)
        (new / "generation.conf").write_text(f"add_header X-Generation {number};\n")
        (new / "listen.conf").write_text("".join(f"listen {a};\n" for a in self.addresses))
        if broken:
            (new / self.program.main).write_text("this is no program (\n")
        for path in (new, *new.iterdir()):
            self.own(path)
        link = self.directory / "next"
        link.symlink_to(new)
        link.rename(self.directory / "current")

    def configuration(self):
        """The recipe with the places of this test instead of its own."""
        text = self.recipe.read_text()
        listed = ", ".join(f'"{a}"' for a in self.addresses)
        text, n = re.subn(r"address = \{.*?\}", f"address = {{{listed}}}", text)
        assert n == 1
        text = text.replace("/srv/web/current", str(self.directory / "current"))
        text = text.replace("/run/web/", f"{self.runtime}/")
        environ = ", ".join(f'"{e}"' for e in self.program.environ)
        end = text.rindex("}")
        return (
            f"{text[:end]}\tworkers = {self.workers}\n\tenviron = {{{environ}}}\n\t{self.more}"
            f'\trollout {{ bake = "0"  keep-warm = "{self.warm or 0}"  max-old = {OLD + 1} }}\n}}\n'
        )


class ProgramLoad(Load):
    def __init__(self, program, targets, **more):
        arguments = [LOAD, "--json", "--verbose", "--until-signal", "--path", program.path, *program.load]
        for target in targets:
            arguments += ["--target", target]
        options = {
            "rate": program.rates[FULL],
            "keepalive": 6,
            "requests-per-connection": 25,
            "slow": program.slow,
            "slow-ms": SLOW_MS,
            "partial": 2,
            "size": 20000,
            **more,
        }
        for name, value in options.items():
            arguments += [f"--{name}", str(value)]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.log = Lines(self.process.stderr)
        self.output = Lines(self.process.stdout)
        self.log.wait(lambda line: "started" in line, "the start of the load")


# ---- what the load saw, against what handoffd said ----


def misplaced(result, events, marks):
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
        if answer["kind"] != "slow":
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
    if program.name == "nginx" and not os.path.exists("/usr/lib/nginx/modules/ngx_http_echo_module.so"):
        pytest.skip("nginx has no echo module, without which it cannot answer slowly")
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
    steering = {x["steering"] for x in service["listeners"] if x["address"].startswith("tcp:")}
    if variant.steering == "cbpf" or variant.user is not None:
        assert steering == {"cbpf"}
    descriptors = daemon.descriptors()
    with ProgramLoad(program, site.addresses) as load:
        marks = reload_often(daemon, site, load)
        result = load.stop()
    for number in range(1, RELOADS + 1):
        daemon.wait_event("generation-gone", generation=number)
    events = list(daemon.events.items)
    wrong, across = misplaced(result, events, marks)
    cut = sum(e.get("connections", 0) for e in events if e["event"] == "connections-cut")
    conftest.add_row(request.node.callspec.id, result, steering="+".join(steering), misplaced=wrong, cut=cut)

    assert result["failed"] == 0, (result["failures"], result["examples"][:5])
    assert result["skipped"] == 0
    assert set(result["generations"]) == {str(n) for n in range(1, RELOADS + 2)}
    assert all(kind["ok"] for kind in (result["kinds"][k] for k in ("short", "keepalive", "slow")))
    assert result["moved"] == 0, "a connection was answered by two processes"
    assert wrong == 0, "slow requests were not answered by the generation that accepted them"
    assert across >= RELOADS // 2, "too few requests were in flight while generations changed"
    # some listeners of handoffd's own may wait for the next reload, and an asker's connection be closing
    assert daemon.descriptors() <= descriptors + 8, "handoffd keeps descriptors of what is gone"
    check_events(daemon)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("program, variant", rows_of_programs(fast=FAST))
def test_broken_release(daemon, program, variant):
    """The reload fails, the old generation goes on, and no client notices."""
    site = Site(daemon, program, variant)
    site.release(1)
    daemon.configure(site.configuration()).start()
    with ProgramLoad(program, site.addresses) as load:
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
# a synchronous worker of gunicorn serves nobody else while a client is silent
@pytest.mark.parametrize(
    "program, variant", rows_of_programs(fast=("node", "nginx"), without=("gunicorn-sync",))
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
    with ProgramLoad(program, site.addresses, hold=2) as load:
        for number in range(2, 5):
            site.release(number)
            daemon.reload("web")
            load.log.wait(lambda line: line.endswith(f"generation {number}"), f"generation {number}")
            daemon.wait_event("generation-gone", generation=number - 1)
        result = load.stop()
    assert result["failed"] == 0, (result["failures"], result["examples"][:5])
    assert result["hold_closed"] >= 2
    check_events(daemon)
