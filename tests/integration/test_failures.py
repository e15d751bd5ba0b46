# SPDX-License-Identifier: MIT
"""A release that is no good: clients see nothing of it, the old generation serves, and whoever asked
is told the cause with exit code 3."""

import pytest
from harness import WORKER, Load, generation, service

# options of the bad release, what the service says besides, what the message has to contain
BAD = {
    "missing": ({"command": ["/nonexistent/server"]}, ["/nonexistent/server", "No such file or directory"]),
    "not-executable": ({"command": ["{directory}/bad.env"]}, ["bad.env", "Permission denied"]),
    "no-format": ({"command": ["{directory}/nonsense"]}, ["nonsense", "Exec format error"]),
    "exits": ({"options": ["--exit-at-start", "9"]}, ["exited with status 9", "before it was ready"]),
    "last-words": ({"command": [*WORKER, "last-words"]}, ["exited with status 7", "to be or not to be"]),
    "crashes": (
        {"options": ["--crash-after", "0.05"], "extra": 'ready { by = "after:3s" }'},
        ["signal 6", "before it was ready"],
    ),
    "never-ready": (
        {"options": ["--never-ready"], "extra": 'ready { by = "notify" timeout = "300ms" }'},
        ["not ready within 0.3s", "notify"],
    ),
    "never-accepts": (
        {"options": ["--never-ready"], "extra": 'ready { timeout = "300ms" }'},
        ["not ready within 0.3s"],
    ),
    "does-not-accept": (
        {"options": ["--no-accept", "--no-notify"], "extra": 'ready { by = "accepting" timeout = "300ms" }'},
        ["not ready within 0.3s", "accepting"],
    ),
    "health": (
        {"options": ["--fail-health"], "extra": 'ready { by = "http:/health" timeout = "400ms" }'},
        ["not ready within 0.4s", "503"],
    ),
    "health-no-page": (
        {"extra": 'ready { by = "http:/nothing" timeout = "400ms" }'},
        ["not ready within 0.4s", "404"],
    ),
    "check-fails": (
        {"extra": 'ready { by = "exec:/bin/false" timeout = "400ms" }'},
        ["not ready within 0.4s", "/bin/false"],
    ),
    "environment-file": ({"extra": 'environment-file = "{directory}/none.env"'}, ["none.env", "No such file"]),
    "environment-line": ({"extra": 'environment-file = "{directory}/bad.env"'}, ["bad.env:2"]),
    "dangling": ({"extra": 'directory = "{directory}/current"'}, ["current", "releases/7", "does not exist"]),
    "looping": ({"extra": 'directory = "{directory}/loop"'}, ["loop", "Too many levels"]),
}


def prepare(daemon):
    (daemon.directory / "bad.env").write_text("A=1\nnonsense\n")
    (daemon.directory / "current").symlink_to("releases/7")
    (daemon.directory / "loop").symlink_to("loop")
    nonsense = daemon.directory / "nonsense"
    nonsense.write_bytes(b"\x7fNOTELF")
    nonsense.chmod(0o755)


def bad_service(daemon, case, extra=""):
    how = dict(BAD[case][0])
    options = how.pop("options", [])
    text = service(*options, address=daemon.target, **{**how, "extra": how.get("extra", "") + extra})
    return text.replace("{directory}", str(daemon.directory))


@pytest.mark.parametrize("case", BAD)
def test_bad_release(daemon, case):
    prepare(daemon)
    daemon.configure(service(address=daemon.target)).start()
    old = daemon.worker(1)
    with Load(daemon.target, rate=100, slow_ms=100):
        daemon.configure(bad_service(daemon, case))
        done = daemon.ctl("reload", "web", code=3)
        for words in BAD[case][1]:
            assert words in done.stderr, done.stderr
        # what is told once more: in status, and as an event
        web = daemon.service()
        assert web["state"] == "serving" and web["generation"] == 1
        assert web["last_result"]["exit_code"] == 3 and web["last_result"]["outcome"] == "failed"
        event = daemon.wait_event("generation-failed", generation=2)
        for words in BAD[case][1]:
            assert words in web["last_result"]["text"]
            assert words in event["text"]
        daemon.wait_event("generation-gone", generation=2)
        assert daemon.generations() == {1: "serving"}
        assert daemon.worker(1) == old
        # and it is no lasting harm
        daemon.configure(service(address=daemon.target))
        assert daemon.reload("web")["generation"] == 3
    assert generation(daemon.target) == 3


@pytest.mark.parametrize("workers", [1, 4])
def test_dies_while_baking(daemon, workers):
    """It has served already: new connections go back to the old generation, which was kept whole."""
    daemon.configure(service(address=daemon.target, workers=workers)).start()
    old = daemon.worker(1)
    bake = 'rollout { bake = "10s" }'
    daemon.configure(service(address=daemon.target, workers=workers, extra=bake))
    # the release is bad only where it is asked to be: a crash takes its own connections with it
    with Load(daemon.target, rate=100, slow=0):
        start = daemon.now()
        reload = daemon.ctl_later("reload", "web")
        daemon.wait_event("generation-serving", start, generation=2)
        daemon.wait_event("generation-warm", generation=1)
    # the crash itself loses what its worker holds, so it is brought about without load on it
    new = daemon.worker(2)
    daemon.kill(new, 6)
    assert "signal 6" in reload.wait(3)
    daemon.wait_event("rolled-back", generation=2)
    with Load(daemon.target, rate=100, slow_ms=100):
        daemon.wait_event("generation-gone", generation=2)
        assert daemon.generations() == {1: "serving"}
        assert daemon.service()["last_result"]["outcome"] == "rolled-back"
        assert daemon.worker(1) == old


def test_connections_are_kept_over_a_rollback(daemon):
    """What the failed release's other workers hold is drained, not cut."""
    from harness import Http

    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service(address=daemon.target, workers=2, extra='rollout { bake = "10s" }'))
    reload = daemon.ctl_later("reload", "web")
    daemon.wait_event("generation-serving", generation=2)
    with Http(daemon.target) as held:
        holder = int(held.get().split()[0].removeprefix("pid="))
        other = next(daemon.worker(2, i) for i in (0, 1) if daemon.worker(2, i) != holder)
        daemon.kill(other, 9)
        reload.wait(3)
        assert f"pid={holder} generation=2" in held.get()
        assert generation(daemon.target) == 1
        assert not daemon.seen("worker-exited", pid=holder)
    daemon.wait_event("generation-gone", generation=2)
    assert not daemon.seen("connections-cut")


def test_first_start_fails(daemons):
    """Nothing serves: exit code 1 and the cause on standard error."""
    daemon = daemons()
    daemon.configure(service("--exit-at-start", "5", address=daemon.target)).spawn()
    daemon.wait_exit(1)
    assert any("exited with status 5" in line for line in daemon.log.items)


def test_one_of_two_fails_at_the_start(daemon):
    """It is tried again while the other one serves."""
    other = f"127.0.0.1:{daemon.port + 1}"
    flag = daemon.directory / "flag"
    command = ["/bin/sh", "-c", f"test -e {flag} && exec {service_program()}; echo not yet >&2; exit 4"]
    daemon.configure(
        service(address=daemon.target), service(name="late", address=other, command=command)
    ).start()
    daemon.wait_event("generation-failed", service="late", generation=1)
    assert daemon.service()["state"] == "serving"
    assert "not yet" in daemon.service("late")["last_result"]["text"]
    flag.touch()
    daemon.wait_event("generation-serving", service="late")
    assert generation(other) > 1


def service_program():
    from harness import SLEEPD

    return SLEEPD


def test_failing_again_and_again_wedges_nothing(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with Load(daemon.target, rate=100, slow_ms=100):
        for number in range(2, 12, 2):
            daemon.configure(service("--exit-at-start", "1", address=daemon.target))
            assert daemon.reload("web", code=3)["generation"] == number
            daemon.configure(service(address=daemon.target))
            assert daemon.reload("web")["generation"] == number + 1


def test_ignored_term_of_a_failed_start_is_ended(daemon):
    """A release that fails its check and does not leave when told is killed, its remains too."""
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(
        service(
            "--ignore-term",
            "--never-ready",
            address=daemon.target,
            extra='ready { by = "notify" timeout = "200ms" } drain { kill-after = "200ms" }',
        )
    )
    daemon.reload("web", code=3)
    daemon.wait_event("worker-killed", generation=2)
    daemon.wait_event("generation-gone", generation=2)
    daemon.reload("web", code=3)
