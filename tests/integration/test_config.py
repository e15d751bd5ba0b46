# SPDX-License-Identifier: MIT
"""A reload with another file: a wrong one changes nothing, a right one changes what it says and
nothing else."""

import json
import os
import signal

import pytest
from harness import NOBODY, SCHEMAS, Http, Load, connect, generation, service


def refused(target):
    try:
        connect(target).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def test_wrong_file_changes_nothing(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with Load(daemon.target):
        daemon.file.write_text('service "web" {\n\tcommnd = {"x"}\n\tworkers = 0\n}\n')
        done = daemon.ctl("reload", code=2)
        wanted = [f"{daemon.file}:2:", "did you mean", "command", f"{daemon.file}:3:", "workers"]
        told = daemon.status()["config_error"]
        logged = "\n".join(daemon.log.items)
        for words in wanted:
            assert words in done.stderr
            assert words in told
            assert words in logged
        assert daemon.wait_event("config-refused")["text"] == told
        daemon.signal(signal.SIGHUP)
        daemon.wait_count("config-refused", 2)
        assert daemon.generations() == {1: "serving"}
        # repaired, all is well again
        daemon.configure(service(address=daemon.target))
        assert daemon.reload()["generation"] == 2
        assert daemon.status()["config_error"] is None


@pytest.mark.parametrize("content", [None, "", "\0", "service", 'service "web" { command = {"a" }', "\xff\xfe"])
def test_useless_files(daemon, content):
    daemon.configure(service(address=daemon.target)).start()
    if content is None:
        daemon.file.unlink()
    else:
        daemon.file.write_bytes(content.encode("latin-1"))
    if content == "":
        # a file without services is what somebody asked for, or a mistake: never a service lost in silence
        code = daemon.ctl("reload").returncode
        assert (code == 2) == bool(daemon.status()["config_error"])
        return
    assert str(daemon.file) in daemon.ctl("reload", code=2).stderr
    assert daemon.status()["config_error"]
    assert generation(daemon.target) == 1


def test_wrong_file_at_the_start(daemons):
    daemon = daemons()
    daemon.file.write_text("nonsense = 1\n")
    daemon.spawn().wait_exit(2)
    assert any(f"{daemon.file}:1" in line for line in daemon.log.items)


def test_unknown_service(daemon):
    daemon.configure(service(address=daemon.target)).start()
    done = daemon.ctl("reload", "wbe", code=2)
    assert '"wbe"' in done.stderr and '"web"' in done.stderr
    assert daemon.generations() == {1: "serving"}


def test_services_come_and_go(daemon):
    other = f"127.0.0.1:{daemon.port + 1}"
    web = service(address=daemon.target)
    daemon.configure(web).start()
    with Load(daemon.target, rate=100):
        daemon.configure(web, service(name="other", address=other))
        daemon.reload(code=0)
        assert daemon.wait_event("service-added")["service"] == "other"
        assert generation(other) == 1
        with Http(other) as slow:
            slow.send("/?sleep=0.5")
            assert generation(other) == 1  # so the slow request has arrived before
            daemon.configure(web)
            reload = daemon.ctl_later("reload")
            assert "generation=1" in slow.receive()[1]
        reload.wait(0)
        daemon.wait_event("service-removed", service="other")
        assert [s["name"] for s in daemon.status()["services"]] == ["web"]
        assert refused(other)
        # and again under the same name
        daemon.configure(web, service(name="other", address=other))
        daemon.ctl("reload", code=0)
        assert generation(other) == 1


def test_reload_of_one_service_leaves_the_others(daemon):
    other = f"127.0.0.1:{daemon.port + 1}"
    daemon.configure(service(address=daemon.target), service(name="other", address=other)).start()
    assert daemon.reload("other")["generation"] == 2
    assert generation(other) == 2 and generation(daemon.target) == 1
    assert daemon.generations("web") == {1: "serving"}


def test_listeners_come_and_go(daemon):
    """The port that stays never refuses."""
    second, path = f"127.0.0.1:{daemon.port + 1}", f"unix:{daemon.run}/web.sock"
    daemon.configure(service(address=daemon.target)).start()
    with Load(daemon.target, requests_per_connection=10) as load:
        for number, addresses in enumerate(
            (
                [daemon.target, second],
                [second, daemon.target],
                [daemon.target, path],
                [path, daemon.target, second],
                [daemon.target],
            ),
            2,
        ):
            daemon.configure(service(address=addresses))
            # drained, so that the old generation's listeners are closed
            assert daemon.reload("web", "--wait", "drained")["generation"] == number
            for target in (daemon.target, second, path):
                if target in addresses:
                    assert generation(target) == number
                else:
                    assert refused(target)
        load.check()


def test_removed_port_refuses_only_when_what_it_had_is_done(daemon):
    second = f"127.0.0.1:{daemon.port + 1}"
    daemon.configure(service(address=[daemon.target, second])).start()
    with Http(second) as slow:
        slow.send("/?sleep=0.5")
        assert generation(second) == 1
        daemon.configure(service(address=daemon.target))
        assert daemon.reload("web")["generation"] == 2
        assert "generation=1" in slow.receive()[1]
    daemon.wait_event("generation-gone", generation=1)
    assert refused(second)


def test_port_moves_to_another_service(daemon):
    """In one reload; the first owner drains, the second one serves, nobody is refused."""
    spare = f"127.0.0.1:{daemon.port + 1}"
    daemon.configure(service(address=daemon.target)).start()
    with Load(daemon.target, rate=100):
        daemon.configure(service(address=spare), service(name="heir", address=daemon.target))
        daemon.ctl("reload", code=0)
        daemon.ctl("wait", "web", "--for", "drained", code=0)
        daemon.ctl("wait", "heir", code=0)
        assert generation(daemon.target) == 1
        assert generation(spare) == 2


def test_workers_change(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with Load(daemon.target):
        for number, workers in enumerate((4, 2, 8, 1), 2):
            daemon.configure(service(address=daemon.target, workers=workers))
            assert daemon.reload("web")["generation"] == number
            assert len(daemon.service()["generations"][0]["workers"]) == workers


def test_wildcard_of_the_same_port(daemon):
    """Cannot be had while the old address is open; it is said and costs nothing."""
    port = daemon.port
    daemon.configure(service(address=f"127.0.0.1:{port}")).start()
    with Load(daemon.target, rate=100):
        daemon.configure(service(address=f"0.0.0.0:{port}"))
        assert f"0.0.0.0:{port}" in daemon.reload("web", code=3)["text"]
        assert daemon.generations() == {1: "serving"}


def test_environment_blocks(daemons):
    daemon = daemons()
    daemon.argv = ["-c", daemon.file, "-e", "development"]
    block = 'environ = {"WHO=all"} environment "development" { environ = {"WHO=dev"} workers = 2 }'
    daemon.configure(service(address=daemon.target, extra=block).replace("\tworkers = 1\n", "")).start()
    with Http(daemon.target) as c:
        environment = c.get("/env").splitlines()
    assert "WHO=dev" in environment and "HANDOFF_ENVIRONMENT=development" in environment
    assert len(daemon.service()["generations"][0]["workers"]) == 2


def test_control_socket_stays(daemon):
    daemon.configure(service(address=daemon.target)).start()
    text = daemon.file.read_text().replace("run/control", "run/elsewhere")
    daemon.file.write_text(text)
    daemon.reload("web")
    daemon.wait_log("control-socket is changed only by a restart")


def test_diff(daemon):
    """What a reload would change is told before it is done, beside what really runs."""
    first = service(address=daemon.target, extra='environ = {"A=1"}')
    daemon.configure(first, service(name="api", command=["/bin/sleep", "1000"])).start()
    assert "no setting would change" in daemon.ctl("config", "diff", code=0).stdout
    daemon.configure(
        service(address=daemon.target, workers=3, extra='environ = {"A=2"}'),
        service(name="job", command=["/bin/sleep", "1000"]),
    )
    out = daemon.ctl("config", "diff", code=0).stdout
    assert f"web: workers: 1 -> 3  ({daemon.file}:" in out
    assert 'web: environ: {"A=1"} -> {"A=2"}' in out
    assert "api: not in the file any more" in out and "job: a new service" in out
    assert len(out.splitlines()) == 4
    document = json.loads(daemon.ctl("--json", "config", "diff", code=0).stdout)
    SCHEMAS["config"].validate(document)
    changed = {(c["service"], c["key"]) for c in document["changes"]}
    assert changed == {("web", "workers"), ("web", "environ"), ("api", None), ("job", None)}
    # a reload of one service leaves the others as they run
    daemon.ctl("reload", "web", code=0)
    out = daemon.ctl("config", "diff", code=0).stdout
    assert "web" not in out and "api" in out
    daemon.configure("nonsense")
    assert "handoffd.conf:" in daemon.ctl("config", "diff", code=2).stderr


def test_documents(daemon):
    """check and show have theirs, also of a wrong file."""
    daemon.configure(service(address=daemon.target, workers=3))

    def ask(what, code):
        done = daemon.ctl("--json", "config", what, daemon.file, code=code)
        document = json.loads(done.stdout)
        SCHEMAS["config"].validate(document)
        return document, done.stderr

    assert ask("check", 0) == ({"version": 1, "file": str(daemon.file), "correct": True, "services": 1, "mistakes": []}, "")
    settings = {(s["service"], s["key"]): (s["value"], s["where"]) for s in ask("show", 0)[0]["settings"]}
    assert settings["web", "workers"] == ("3", f"{daemon.file}:5") and settings["web", "ready.timeout"] == ('"30s"', "default")
    assert settings[None, "control-socket"][0] == f'"{daemon.control}"'
    daemon.file.write_text('service "web" {\n\tcommnd = {"x"}\n}\n')
    document, told = ask("check", 2)
    assert not document["correct"] and document["mistakes"] == told.splitlines() and "did you mean" in told


def test_diff_is_for_those_who_may_change(daemon):
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")
    daemon.configure(service(address=daemon.target)).start()
    daemon.control.chmod(0o666)
    daemon.ctl("config", "diff", code=7, user=NOBODY)
