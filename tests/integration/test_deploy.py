# SPDX-License-Identifier: MIT
"""Deploys by the release link, as a pipeline makes them: the exit code is the truth, the link leads to
what serves, and clients lose nothing whatever a release does."""

import json
import os
import shutil
import signal
import threading

import pytest
from harness import NOBODY, SLEEPD, Http, Load, generation, get, service

BAKE = 'rollout { bake = "%s" } drain { deadline = "%s" }'


class Releases:
    """A folder of releases and the link `current`, which leads to the first one."""

    def __init__(self, daemon):
        self.folder = daemon.directory / "releases"
        self.link = daemon.directory / "current"
        self.folder.mkdir()
        self.make("1")
        self.link.symlink_to("releases/1")

    def make(self, name, options="", mode=0o755, script=None):
        program = self.folder / name / "bin/server"
        program.parent.mkdir(parents=True)
        program.write_text(script or f"#!/bin/sh\nexec {SLEEPD} {options}\n")
        program.chmod(mode)
        return self.folder / name

    def now(self):
        return os.readlink(self.link)


def web(daemon, extra="", bake="0", deadline="60s", directory="current", ready="timeout"):
    ready = 'ready { by = "notify" timeout = "500ms" }' if ready == "timeout" else ready
    return service(
        address=daemon.target,
        command=["bin/server"],
        extra=f'directory = "{daemon.directory}/{directory}" {ready} {BAKE % (bake, deadline)} {extra}',
    )


@pytest.fixture
def releases(daemon):
    return Releases(daemon)


def deploy(daemon, release, *options, code=0, **more):
    done = daemon.ctl("--json", "deploy", "web", "--release", release, *options, code=code, **more)
    return json.loads(done.stdout)["results"][0], done


def serving_release(daemon):
    web_now = daemon.service()
    return next(g["release"] for g in web_now["generations"] if g["id"] == web_now["generation"])


def test_good(daemon, releases):
    two = releases.make("2")
    daemon.configure(web(daemon)).start()
    with Load(daemon.target, rate=100, slow_ms=100):
        result, _ = deploy(daemon, two)
        assert (result["request"], result["outcome"], result["generation"]) == ("deploy", "serving", 2)
        assert releases.now() == "releases/2", "a relative link stays one"
        assert serving_release(daemon) == str(two)
        # a relative path is one from where the caller is
        deploy(daemon, "releases/1", cwd=daemon.directory)
        assert releases.now() == "releases/1"
    event = daemon.wait_event("release-linked", generation=2)
    assert str(releases.link) in event["text"]
    assert daemon.wait_event("generation-serving", generation=2)["release"] == str(two)


# name: (options of sleepd or None, what is done to it, part of the message)
BAD = {
    "missing": (None, "none", "No such file or directory"),
    "dangling": (None, "dangle", "leads nowhere"),
    "a-file": (None, "file", "not a directory"),
    "no-program": (None, "empty", "bin/server"),
    "not-executable": ("", "mode", "Permission denied"),
    "crashes-at-start": ("--exit-at-start 9", "", "exited with status 9"),
    "hangs": ("--never-ready", "", "not ready within 0.5s"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad(daemon, releases, case):
    options, how, words = BAD[case]
    bad = releases.folder / "bad"
    if options is not None:
        releases.make("bad", options, mode=0o644 if how == "mode" else 0o755)
    elif how == "dangle":
        bad.symlink_to("nowhere")
    elif how == "file":
        bad.write_text("")
    elif how == "empty":
        bad.mkdir()
    daemon.configure(web(daemon)).start()
    with Load(daemon.target, rate=100, slow_ms=100):
        result, done = deploy(daemon, bad, code=3)
        assert words in done.stderr and result["outcome"] == "failed"
        assert releases.now() == "releases/1"
        assert daemon.service()["last_result"]["exit_code"] == 3
        assert daemon.service()["last_result"]["request"] == "deploy"
        assert daemon.service()["generation"] == 1
        # what could be seen before was seen before the link was touched
        assert bool(daemon.seen("release-linked")) == (how == "" and options is not None)
        deploy(daemon, releases.make("2"))
        assert releases.now() == "releases/2"


def test_what_is_said(daemon, releases):
    """The cause, the last words of a worker that only hangs too, and where the link leads now."""
    script = f"#!/bin/sh\necho waiting for the database\nexec {SLEEPD} --never-ready\n"
    hangs = releases.make("hangs", script=script)
    daemon.configure(web(daemon)).start()
    done = daemon.ctl("deploy", "web", "--release", hangs, code=3)
    assert f"release-linked (generation 2): {releases.link} -> releases/hangs" in done.stdout
    assert "generation-starting (generation 2): deploy" in done.stdout
    assert "worker-started (generation 2, worker 0)" in done.stdout
    assert done.stderr.splitlines() == [
        "web: deploy -> failed, generation 2; the old one goes on serving: not ready within 0.5s (ready by notify):",
        "    waiting for the database",
        f"release link: {releases.link} -> releases/1 again",
    ]
    result, _ = deploy(daemon, hangs, code=3)
    assert result["release_link"] == f"{releases.link} -> releases/1 again"


def test_link_that_cannot_be_put_back(daemon, releases):
    """Whoever waits is told: the next reload would start what has just failed."""
    hangs = releases.make("hangs", "--never-ready")
    daemon.configure(web(daemon, ready='ready { by = "notify" timeout = "20s" }')).start()
    later = daemon.ctl_later("deploy", "web", "--release", hangs)
    daemon.wait_event("worker-started", generation=2)
    releases.link.unlink()
    daemon.ctl("abort", "web", code=0)
    assert "release link: " in (stderr := later.wait(3)) and "was not put back" in stderr


def test_dies_in_bake(daemon, releases):
    two = releases.make("2", "--crash-after 0.4")
    daemon.configure(web(daemon, bake="20s")).start()
    with Load(daemon.target, rate=100, slow=0, keepalive=0):  # whoever is in a process that dies, is lost
        result, done = deploy(daemon, two, code=3)
        assert result["outcome"] == "rolled-back" and "signal 6" in result["text"]
        assert releases.now() == "releases/1"
        assert generation(daemon.target) == 1 and serving_release(daemon).endswith("/1")
        assert "signal 6" in daemon.wait_event("rolled-back", generation=2)["text"]


def test_unwell_in_bake(daemon, releases):
    """It serves, and then its own check says that it does not: nothing has died."""
    sick = daemon.directory / "sick"
    releases.make("2")
    ready = f'ready {{ by = "exec:! test -e {sick}" }}'
    daemon.configure(web(daemon, bake="30s", ready=ready)).start()
    later = daemon.ctl_later("deploy", "web", "--release", releases.folder / "2")
    daemon.wait_event("generation-serving", generation=2)
    sick.touch()
    assert "check failed" in later.wait(3)
    assert releases.now() == "releases/1" and daemon.service()["generation"] == 1


def test_cut_at_the_deadline(daemon, releases):
    two = releases.make("2")
    daemon.configure(web(daemon, deadline="500ms")).start()
    with Http(daemon.target) as held:
        held.get()
        result, _ = deploy(daemon, two, "--wait", "drained", code=6)
        assert result["cut"] == 1
        assert held.ended()
    assert releases.now() == "releases/2" and daemon.service()["generation"] == 2


def test_configuration_broken(daemon, releases):
    two = releases.make("2")
    daemon.configure(web(daemon)).start()
    daemon.configure(web(daemon), more="nonsense = 1")
    done = daemon.ctl("deploy", "web", "--release", two, code=2)
    assert "handoffd.conf:2" in done.stderr
    assert releases.now() == "releases/1" and daemon.service()["generation"] == 1


def test_pipeline_killed(daemon, releases):
    """handoffctl dies in the middle: the hand-off goes on and ends as it would have."""
    two = releases.make("2", script=f"#!/bin/sh\nread line < $PWD/gate\nexec {SLEEPD}\n")
    os.mkfifo(two / "gate")
    daemon.configure(web(daemon, ready='ready { by = "notify" timeout = "20s" }')).start()
    with Load(daemon.target, rate=100, slow_ms=100):
        pipeline = daemon.ctl_later("deploy", "web", "--release", two)
        daemon.wait_event("worker-started", generation=2)
        pipeline.process.kill()
        pipeline.wait(-signal.SIGKILL)
        (two / "gate").write_text("go\n")
        daemon.wait_event("generation-serving", generation=2)
    assert releases.now() == "releases/2"


def test_pipeline_is_ended(daemon, releases):
    """As `timeout 5 handoffctl deploy` or Ctrl-C does it: it is said that nothing is undone by that."""
    hangs = releases.make("hangs", "--never-ready")
    daemon.configure(web(daemon, ready='ready { by = "notify" timeout = "20s" }')).start()
    later = daemon.ctl_later("deploy", "web", "--release", hangs)
    daemon.wait_event("worker-started", generation=2)
    later.process.terminate()
    assert "the work goes on" in later.wait(-signal.SIGTERM)
    assert daemon.generations() == {1: "serving", 2: "starting"} and releases.now() == "releases/hangs"
    daemon.ctl("abort", "web", code=0)
    assert releases.now() == "releases/1"


def test_two_pipelines(daemon, releases):
    """One runs, one waits, and one that comes while another waits takes its place."""
    gated = [releases.make(n, script=f"#!/bin/sh\nread line < $PWD/gate\nexec {SLEEPD}\n") for n in "234"]
    for g in gated:
        os.mkfifo(g / "gate")
    daemon.configure(web(daemon, ready='ready { by = "notify" timeout = "20s" }')).start()
    first = daemon.ctl_later("--json", "deploy", "web", "--release", gated[0])
    daemon.wait_event("worker-started", generation=2)
    second = daemon.ctl_later("deploy", "web", "--release", gated[1])
    daemon.wait_count("reload-requested", 2)
    third = daemon.ctl_later("--json", "deploy", "web", "--release", gated[2])
    assert "another release" in second.wait(8)
    (gated[0] / "gate").write_text("go\n")
    first.wait(0)
    assert json.loads(first.stdout)["results"][0]["generation"] == 2
    daemon.wait_event("worker-started", generation=3)
    (gated[2] / "gate").write_text("go\n")
    third.wait(0)
    assert json.loads(third.stdout)["results"][0]["generation"] == 3
    assert releases.now() == "releases/4" and serving_release(daemon) == str(gated[2])


def test_later_deploy_undone_to_what_serves(daemon, releases):
    """The release before dies in its bake while the next one starts, which fails too: the link leads to
    the one that serves, not to the one that died."""
    dying = releases.make("2", "--crash-after 0.5")
    hanging = releases.make("3", "--never-ready")
    ready = 'ready { by = "notify" timeout = "3s" }'
    daemon.configure(web(daemon, bake="20s", ready=ready)).start()
    first = daemon.ctl_later("deploy", "web", "--release", dying)
    daemon.wait_event("generation-serving", generation=2)
    second = daemon.ctl_later("deploy", "web", "--release", hanging)
    first.wait(3)
    second.wait(3)
    assert releases.now() == "releases/1" and generation(daemon.target) == 1


def test_old_folder_is_deleted(daemon, releases):
    two = releases.make("2")
    daemon.configure(web(daemon)).start()
    with Http(daemon.target) as held:
        held.get()
        deploy(daemon, two)
        shutil.rmtree(releases.folder / "1")
        assert "generation=1" in held.get()
    daemon.wait_event("generation-gone", generation=1)


def test_link_in_the_middle(daemon, releases):
    for n in "12":
        app = releases.folder / n / "app" / "bin"
        app.mkdir(parents=True, exist_ok=True)
        if n == "2":
            (releases.folder / "2" / "app" / "bin" / "server").write_text(f"#!/bin/sh\nexec {SLEEPD}\n")
        else:
            (app / "server").write_text(f"#!/bin/sh\nexec {SLEEPD}\n")
        (app / "server").chmod(0o755)
    daemon.configure(web(daemon, directory="current/app")).start()
    deploy(daemon, releases.folder / "2")
    assert releases.now() == "releases/2" and serving_release(daemon).endswith("/2/app")
    daemon.ctl("rollback", "web", code=0)
    assert releases.now() == "releases/1"


def test_no_link(daemon, releases):
    daemon.configure(web(daemon, directory="releases/1")).start()
    _, done = deploy(daemon, releases.make("2"), code=3)
    assert "symbolic link" in done.stderr


def test_reload_of_a_moved_link_is_not_put_back(daemon, releases):
    """Whoever moved the link keeps it: handoffd puts back only what it has moved itself."""
    releases.make("2", "--exit-at-start 9")
    daemon.configure(web(daemon)).start()
    releases.link.unlink()
    releases.link.symlink_to("releases/2")
    daemon.ctl("reload", "web", code=3)
    assert releases.now() == "releases/2"


def test_not_running(daemon, releases):
    daemon.configure(web(daemon))
    done = daemon.ctl("deploy", "web", "--release", releases.folder / "1", code=5)
    assert str(daemon.control) in done.stderr


def test_not_permitted(daemon, releases):
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")
    daemon.configure(web(daemon)).start()
    daemon.control.chmod(0o666)
    done = daemon.ctl("deploy", "web", "--release", releases.make("2"), code=7, user=NOBODY)
    assert "not allowed" in done.stderr
    assert releases.now() == "releases/1"


def test_group_may_not_choose_what_is_run(daemon, releases):
    """The control-group may deploy what lies in the folder of releases, and nothing else: else it could
    run anything as the service's user."""
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")
    elsewhere = daemon.directory / "elsewhere"
    shutil.copytree(releases.folder / "1", elsewhere)
    two = releases.make("2")
    daemon.configure(web(daemon), more='control-group = "nogroup"').start()
    _, done = deploy(daemon, elsewhere, code=3, user=NOBODY)
    assert "not in the folder" in done.stderr and releases.now() == "releases/1"
    deploy(daemon, two, user=NOBODY)
    assert releases.now() == "releases/2"


# ---- rollback ----


def test_rollback_is_one_turn(daemon, releases):
    two = releases.make("2")
    daemon.configure(web(daemon)).start()
    deploy(daemon, two, "--keep-warm", "30s")
    started = len(daemon.seen("worker-started"))
    with Load(daemon.target, rate=100, slow_ms=100):
        daemon.ctl("rollback", "web", code=0)
        assert generation(daemon.target) == 1
    assert len(daemon.seen("worker-started")) == started, "no process was started for it"
    assert releases.now() == "releases/1"
    result = daemon.service()["last_result"]
    assert (result["request"], result["outcome"], result["exit_code"]) == ("rollback", "serving", 0)
    assert len(daemon.seen("release-restored")) == 1
    daemon.wait_event("generation-gone", generation=2)


def test_rollback_to_a_draining_one(daemon, releases):
    """It was not told to stop as long as it has a connection: it can serve again."""
    two = releases.make("2")
    daemon.configure(web(daemon)).start()
    with Http(daemon.target) as held:
        held.get()
        deploy(daemon, two)
        daemon.wait_event("generation-quiet", generation=1)
        daemon.ctl("rollback", "web", "--wait", "drained", code=0)
        assert generation(daemon.target) == 1 and "generation=1" in held.get()
    assert daemon.generations() == {1: "serving"}
    # and it can be replaced again
    deploy(daemon, two)
    assert generation(daemon.target) == 3


def test_rollback_starts_the_release_again(daemon, releases):
    two, three = releases.make("2"), releases.make("3")
    daemon.configure(web(daemon)).start()
    deploy(daemon, two, "--wait", "drained")
    deploy(daemon, three, "--wait", "drained")
    with Load(daemon.target, rate=100, slow_ms=100):
        daemon.ctl("rollback", "web", code=0)
        assert serving_release(daemon) == str(two) and releases.now() == "releases/2"
        daemon.ctl("rollback", "web", "--wait", "drained", code=0)
        assert serving_release(daemon).endswith("/1") and releases.now() == "releases/1"
    done = daemon.ctl("rollback", "web", code=1)
    assert "no earlier generation" in done.stderr


def test_rollback_with_the_settings_of_then(daemon):
    daemon.configure(service(address=daemon.target, extra='environ = {"A=1"}')).start()
    daemon.configure(service(address=daemon.target, workers=2, extra='environ = {"A=2"}'))
    daemon.ctl("reload", "--wait", "drained", code=0)
    daemon.ctl("rollback", "web", code=0)
    assert generation(daemon.target) == 3
    assert [len(g["workers"]) for g in daemon.service()["generations"] if g["id"] == 3] == [1]


def test_rollback_of_a_release_that_is_gone(daemon, releases):
    two = releases.make("2")
    daemon.configure(web(daemon)).start()
    deploy(daemon, two, "--wait", "drained")
    shutil.rmtree(releases.folder / "1")
    done = daemon.ctl("rollback", "web", code=3)
    assert "releases/1" in done.stderr
    assert releases.now() == "releases/2" and generation(daemon.target) == 2


def test_rollback_from_a_release_that_is_gone(daemon, releases):
    """The link led to it, and leads nowhere now: it goes back all the same."""
    two = releases.make("2")
    daemon.configure(web(daemon)).start()
    deploy(daemon, two, "--wait", "drained")
    shutil.rmtree(two)
    done = daemon.ctl("rollback", "web", code=0)
    assert releases.now() == "releases/1" and serving_release(daemon).endswith("/1")
    assert f"release link: {releases.link} -> releases/1" in done.stdout
    daemon.reload()


def test_rollback_within_a_release(daemon, releases):
    """The link leads where it shall already, and nobody says that it was put back."""
    daemon.configure(web(daemon)).start()
    daemon.ctl("reload", "web", "--keep-warm", "30s", code=0)
    assert "release link" not in daemon.ctl("rollback", "web", code=0).stdout
    assert not daemon.seen("release-restored")


def test_rollback_undoes_what_starts(daemon, releases):
    two = releases.make("2", "--never-ready")
    daemon.configure(web(daemon, ready='ready { by = "notify" timeout = "30s" }')).start()
    later = daemon.ctl_later("deploy", "web", "--release", two)
    daemon.wait_event("worker-started", generation=2)
    daemon.ctl("rollback", "web", code=0)
    assert "rollback was asked for" in later.wait(3)
    assert releases.now() == "releases/1" and get(daemon.target)


def test_nothing_to_abort(daemon):
    daemon.configure(service(address=daemon.target)).start()
    assert "no roll-out" in daemon.ctl("abort", "web", code=1).stderr
    assert "no canary" in daemon.ctl("promote", "web", code=1).stderr
    assert "no earlier" in daemon.ctl("rollback", "web", code=1).stderr


def test_many_deploys_at_once(daemon, releases):
    """Whatever the order, everybody gets one true answer, and the link leads to what serves."""
    several = [releases.make(str(n)) for n in range(2, 8)]
    daemon.configure(web(daemon)).start()
    codes = []

    def one(release):
        codes.append(daemon.ctl("deploy", "web", "--release", release).returncode)

    with Load(daemon.target, rate=100, slow_ms=100):
        threads = [threading.Thread(target=one, args=(r,)) for r in several for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert len(codes) == 12 and set(codes) <= {0, 8} and 0 in codes
    assert serving_release(daemon) == str((releases.link).resolve())
