# SPDX-License-Identifier: MIT
"""Real, unmodified servers, replaced under load as users would do it: the configuration is the recipe
that the manual shows, each generation is a release of its own, and every answer is verified.

CTest runs one row for each program (label "programs"). The whole table:

    cmake --build build --target programs

or, to choose rows, HANDOFF_BUILD=build python3 -m pytest tests/programs -k "nginx and cbpf". HANDOFF_RELOADS
(20) and HANDOFF_RATE (per program) in the environment make it longer and harder."""

import contextlib
import ctypes
import dataclasses
import datetime
import os
import pathlib
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
RATE = os.environ.get("HANDOFF_RATE")
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
    rate: int = 40
    slow: int = 3


PROGRAMS = [
    Program("node", "node", rate=100),
    Program("python", "python3", rate=100),
    Program("gunicorn-sync", "gunicorn", app="gunicorn", slow=1),
    Program("gunicorn-gthread", "gunicorn", recipe="gunicorn", app="gunicorn"),
    Program("puma-single", "puma", recipe="puma", app="puma"),
    Program("puma-cluster", "puma", recipe="puma", app="puma", environ=("WEB_CONCURRENCY=2",)),
    Program("lighttpd", "lighttpd", path="/answer.pl"),
    Program("nginx", "nginx", load=("--expect-nonce",), unix=False, rate=100),
    Program("haproxy", "haproxy", rate=100),
]


@dataclasses.dataclass(frozen=True)
class Variant:
    name: str
    addresses: tuple = ("127.0.0.1:{port}", "[::1]:{port}", "unix:{run}/web.sock")
    workers: int = 1
    user: int | None = None
    steering: str = ""


VARIANTS = [
    Variant("v4", addresses=("127.0.0.1:{port}",)),
    Variant("all"),
    Variant("all-4-workers", workers=4),
    Variant("all-cbpf", steering="cbpf"),
    Variant("all-user", user=NOBODY),
]
FAST = ("node", "gunicorn-gthread", "nginx", "lighttpd", "puma-single")


def rows():
    for program in PROGRAMS:
        for variant in VARIANTS:
            fast = variant.name == "all" and program.name in FAST
            marks = [pytest.mark.fast] if fast else []
            yield pytest.param(program, variant, id=f"{program.name}-{variant.name}", marks=marks)


# ---- a program as its user has it ----


class Site:
    """Releases of a program, of which `current` is one, and the configuration that runs it."""

    def __init__(self, daemon, program, variant):
        self.program = program
        self.directory = daemon.directory / "site"
        self.runtime = daemon.directory / "runtime"
        self.user = variant.user
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

    def own(self, path):
        if self.user is not None:
            os.chown(path, self.user, self.user)

    def release(self, number):
        """Makes a release and points `current` at it, as a deployment does."""
        new = self.directory / f"release-{number}"
        shutil.copytree(HERE / "apps" / (self.program.app or self.program.name), new)
        (new / "generation.conf").write_text(f"add_header X-Generation {number};\n")
        (new / "listen.conf").write_text("".join(f"listen {a};\n" for a in self.addresses))
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
            f"{text[:end]}\tworkers = {self.workers}\n\tenviron = {{{environ}}}\n"
            f'\trollout {{ bake = "0"  max-old = {OLD + 1} }}\n}}\n'
        )


class ProgramLoad(Load):
    def __init__(self, program, targets):
        arguments = [LOAD, "--json", "--verbose", "--until-signal", "--path", program.path, *program.load]
        for target in targets:
            arguments += ["--target", target]
        options = {
            "rate": RATE or program.rate,
            "keepalive": 6,
            "requests-per-connection": 25,
            "slow": program.slow,
            "slow-ms": SLOW_MS,
            "partial": 2,
            "size": 20000,
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
        for pid in strangers(known):
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


@pytest.mark.timeout(240)
@pytest.mark.parametrize("program, variant", rows())
def test_reloads_under_load(request, daemon, program, variant):
    site = Site(daemon, program, variant)
    site.release(1)
    daemon.configure(site.configuration()).start()
    assert daemon.service()["state"] == "serving", "generation 1 does not serve"
    with ProgramLoad(program, site.addresses) as load:
        marks = reload_often(daemon, site, load)
        result = load.stop()
    for number in range(1, RELOADS + 1):
        daemon.wait_event("generation-gone", generation=number)
    events = list(daemon.events.items)
    wrong, across = misplaced(result, events, marks)
    cut = sum(e.get("connections", 0) for e in events if e["event"] == "connections-cut")
    conftest.add_row(request.node.callspec.id, result, misplaced=wrong, cut=cut)

    assert result["failed"] == 0, (result["failures"], result["examples"][:5])
    assert result["skipped"] == 0
    assert set(result["generations"]) == {str(n) for n in range(1, RELOADS + 2)}
    assert all(kind["ok"] for kind in (result["kinds"][k] for k in ("short", "keepalive", "slow")))
    assert result["moved"] == 0, "a connection was answered by two processes"
    assert wrong == 0, "slow requests were not answered by the generation that accepted them"
    assert across >= RELOADS // 2, "too few requests were in flight while generations changed"
    accidents = [e for e in events if e["event"] in ACCIDENTS]
    assert not accidents, accidents[:3]
