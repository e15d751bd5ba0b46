# SPDX-License-Identifier: MIT
"""handoffd is killed at a point: before the Nth of its system calls that others could notice the lack of
(handoff-killat), for N = 1, 2, 3 … until a request is carried out untouched. So each state that a crash can
leave behind is met. After each: nothing was refused, nothing that a living worker had taken is lost, one release
serves and the link leads to it, no process is there that nobody knows, and the next reload goes well.

Usually a few points of each request are tried, at random; HANDOFF_POINTS=20 tries so many, HANDOFF_POINTS=all all
of them, and HANDOFF_POINT=12 that one."""

import contextlib
import os
import random
import signal
import subprocess

import pytest
from harness import BUILD, FAST, LIMIT, SLEEPD, Client, Events, Http, Lines, Load, get, service
from test_deploy import Releases

KILLAT = BUILD / "tests/tools/handoff-killat"
POINTS = os.environ.get("HANDOFF_POINTS", "")
POINT = os.environ.get("HANDOFF_POINT")
SAMPLE = 1 if FAST else 2  # points of each request in the usual run
UNTOUCHED = 3  # what handoff-killat ends with


class Killer:
    """Counts from now on, and kills at that point; without one it only counts."""

    def __init__(self, pid, point=0):
        self.process = subprocess.Popen(
            [KILLAT, str(pid), *([str(point)] if point else [])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.log = Lines(self.process.stderr)
        self.output = Lines(self.process.stdout)

    def arm(self):
        try:
            self.output.wait(lambda line: line == "armed", "the killer")
        except AssertionError:
            if self.process.wait(LIMIT) == 77:
                pytest.skip(f"not permitted: {self.log.items}")
            raise

    def stop(self):
        """True if it has killed."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LIMIT)
        self.output.thread.join(LIMIT)
        assert code in (0, UNTOUCHED), (code, self.log.items)
        self.words = self.output.items[-1]
        return code == 0


# ---- what is asked for ----

RELEASES = ("1", "2")


class Request:
    """What is asked for, from which state on, and what may serve when handoffd died meanwhile."""

    drain = 'drain { deadline = "20s" kill-after = "5s" }'
    rollout = 'rollout { bake = "0" }'
    serves = True  # from its beginning to its end
    method, parameters = "Reload", {"services": ["web"], "wait": "drained"}

    def __init__(self, daemon, releases):
        self.daemon, self.releases = daemon, releases

    def prepare(self):
        """From a service that serves alone."""

    def settle(self):
        """What the next handoffd waits for."""

    def ask(self, client):
        """Returns when it is done to its end; ConnectionError when handoffd has died."""
        self.call(client, self.method, **self.parameters)

    def call(self, client, method, **parameters):
        answer = client.call(method, **parameters)
        assert "error" not in answer, answer
        return answer

    def other(self):
        """The release that the link does not lead to."""
        now = self.releases.now().rsplit("/", 1)[1]
        return next(r for r in RELEASES if r != now)

    def drained(self, client):
        self.call(client, "Wait", service="web", **{"for": "drained"})


class ReloadByMessage(Request):
    pass


class ReloadIdle(Request):
    drain = 'drain { by = "idle" deadline = "20s" kill-after = "5s" }'


class ReloadBySignal(Request):
    drain = 'drain { by = "signal" deadline = "20s" kill-after = "5s" }'


class ReloadWarm(Request):
    """The generation before is kept for a moment."""

    rollout = 'rollout { bake = "50ms" keep-warm = "100ms" }'


class Deploy(Request):
    def ask(self, client):
        self.call(client, "Deploy", service="web", release=str(self.releases.folder / self.other()))
        self.drained(client)


class DeployThatFails(Request):
    def ask(self, client):
        answer = client.call("Deploy", service="web", release=str(self.releases.folder / "bad"))
        assert answer.get("error"), answer
        client.call("GetStatus")


class Promote(Request):
    how = "Promote"

    def ask(self, client):
        self.call(client, "Reload", services=["web"], canary=50, hold=1e9)
        self.call(client, self.how, service="web")
        self.drained(client)

    def settle(self):
        """A canary that was held is held by the next handoffd."""
        if "canary" in self.daemon.generations().values():
            self.daemon.ctl(self.how.lower(), "web", code=0)


class Abort(Promote):
    how = "Abort"


class Rollback(Request):
    keep = "20s"

    def prepare(self):
        other = self.releases.folder / self.other()
        self.daemon.ctl("deploy", "web", "--release", other, "--keep-warm", self.keep, code=0)

    def settle(self):
        if "warm" in self.daemon.generations().values():
            self.daemon.reload("web")  # the next one ends it

    def ask(self, client):
        self.call(client, "Rollback", service="web")
        self.drained(client)


class RollbackByStart(Rollback):
    """To one that is gone."""

    keep = "0"

    def prepare(self):
        super().prepare()
        self.daemon.ctl("wait", "web", "--for", "drained", code=0)


class Scale(Request):
    drain = 'drain { by = "signal" deadline = "20s" kill-after = "5s" }'

    def ask(self, client):
        self.call(client, "Scale", service="web", workers=3)
        self.call(client, "Scale", service="web", workers=1)


class Stop(Request):
    serves = False
    method, parameters = "Stop", {"services": ["web"]}


class Start(Request):
    serves = False
    method, parameters = "Start", {"services": ["web"]}

    def prepare(self):
        self.daemon.ctl("stop", "web", code=0)


REQUESTS = {
    kind.__name__: kind
    for kind in (
        ReloadByMessage, ReloadIdle, ReloadBySignal, ReloadWarm, Deploy, DeployThatFails, Promote, Abort, Rollback,
        RollbackByStart, Scale, Stop, Start,
    )
}  # fmt: skip


# ---- what has to be so afterwards ----


def come_back(daemon):
    daemon.process.wait()
    daemon.spawn()
    daemon.wait_log("daemon-recovered|config-loaded")
    daemon.events = Events(daemon.control)


def known(daemon):
    return {
        w["pid"]: g["id"] for g in daemon.service()["generations"] for w in g["workers"] if w["pid"]
    }


def check(daemon, releases):
    """It serves, alone, what the status and the link say."""
    daemon.ctl("wait", "web", "--timeout", "10s", code=0)
    daemon.ctl("wait", "web", "--for", "drained", "--timeout", "15s", code=0)
    web = daemon.service()
    assert daemon.generations() == {web["generation"]: "serving"}
    (serving,) = web["generations"]
    assert serving["release"] == str(releases.link.resolve())
    assert not releases.link.with_name("current.new").exists()
    answers = [get(daemon.target).split() for _ in range(4)]
    assert {a[1] for a in answers} == {f"generation={serving['id']}"}, answers
    assert {int(a[0].removeprefix("pid=")) for a in answers} <= set(known(daemon))
    left = {pid for pid, _ in daemon.left_processes()} - {daemon.process.pid}
    assert left == set(known(daemon)), (daemon.left_processes(), known(daemon))
    assert not daemon.seen("anomaly")


def check_stop_or_start(daemon, releases):
    with Client(daemon.control) as client:  # what was begun is brought to an end
        client.call("GetStatus")
    if daemon.service()["state"] != "serving":
        daemon.ctl("start", "web", code=0)
    check(daemon, releases)


def begin(daemons, kind, steering):
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    releases = Releases(daemon)
    releases.make("2")
    releases.make("bad", "--exit-at-start 9")
    request = REQUESTS[kind](daemon, releases)
    extra = f'directory = "{releases.link}" {request.drain} {request.rollout} ready {{ by = "notify" }}'
    text = service(address=daemon.target, command=["bin/server"], workers=2, extra=extra)
    if "by =" not in request.drain:
        text = text.replace('by = "idle" deadline', "deadline")  # auto
    daemon.configure(text).start()
    check(daemon, releases)
    return daemon, releases, request


def carry_out(daemon, request, killer):
    """Under load; True if handoffd was killed on the way."""
    load = Load(daemon.target, rate=100, slow=2, slow_ms=60) if request.serves else contextlib.nullcontext()
    with load:
        killer.arm()
        with contextlib.suppress(OSError), Client(daemon.control) as client:  # it may be gone already
            request.ask(client)
        if not killer.stop():
            return False
        come_back(daemon)
        request.settle()
        daemon.ctl("wait", "web", "--timeout", "10s", code=0 if request.serves else None)
    return True


def at_point(daemon, releases, request, point):
    """False: the request was carried out untouched."""
    request.prepare()
    killer = Killer(daemon.process.pid, point)
    try:
        killed = carry_out(daemon, request, killer)
        check_stop_or_start(daemon, releases)
        daemon.reload("web", "--wait", "drained")
        check(daemon, releases)
    except (AssertionError, OSError) as error:
        raise AssertionError(f"killed before call {killer.output.items[-1]}: {error}") from error
    return killed


def count(daemon, releases, request):
    """The calls of the request, where nobody is killed."""
    request.prepare()
    killer = Killer(daemon.process.pid)
    assert not carry_out(daemon, request, killer)
    check_stop_or_start(daemon, releases)
    return int(killer.words.split()[0])


def points(number):
    if POINT:
        return [int(POINT)]
    if POINTS == "all":
        return range(1, 2 * number)  # it ends with the first one that is beyond the request
    return sorted(random.sample(range(1, number + 1), min(int(POINTS or SAMPLE), number)))


@pytest.mark.timeout(3600 if POINTS else 90)
@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_killed_at(daemons, kind, steering):
    here = begin(daemons, kind, steering)
    failures = []
    for point in points(count(*here)):
        try:
            if not at_point(*here, point) and POINTS == "all":
                break
        except AssertionError as error:
            failures.append(str(error))
            print(error, flush=True)
            here[0].destroy()
            here = begin(daemons, kind, steering)
    assert not failures, failures
