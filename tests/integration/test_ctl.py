# SPDX-License-Identifier: MIT
"""handoffctl: its exit codes, its documents, its streams."""

import json
import re
import subprocess

import pytest
from harness import HANDOFFCTL, NOBODY, SCHEMAS, WORKER, Client, Http, generation, service


def test_code_0_and_the_documents(daemon):
    """`reload` checks its document against the schema, and so does `status`."""
    daemon.configure(service(address=[daemon.target, f"unix:{daemon.run}/web.sock"], workers=2)).start()
    result = daemon.reload("web")
    assert result["outcome"] == "serving" and result["generation"] == 2
    status = daemon.status()
    assert status["pid"] == daemon.process.pid and status["state"] == "running"
    assert status["services"][0]["last_result"]["generation"] == 2
    for arguments in (["stop", "web"], ["start", "web"], ["restart", "web"], ["wait", "web"], ["reload"]):
        SCHEMAS["result"].validate(json.loads(daemon.ctl("--json", *arguments, code=0).stdout))


def test_code_2(daemon):
    daemon.configure(service(address=daemon.target)).start()
    for arguments in (
        ["relaod"],
        ["reload", "--wait", "never"],
        ["reload", "nobody"],
        ["wait"],
        ["status", "nobody"],
        ["logs", "nobody"],
        ["reload", "--timeout", "soon"],
    ):
        assert daemon.ctl(*arguments, code=2).stderr


@pytest.mark.parametrize("command", ("stop web --wait serving", "scale web 2 --wait drained", "start web --wait drained", "wait web --for none"))
def test_what_a_command_cannot_wait_for(daemon, command):
    """It is said in words, before handoffd is asked."""
    words = {"stop": "drained|none", "scale": "serving|none", "start": "serving|none", "wait": "serving|drained"}
    done = daemon.ctl(*command.split(), code=2)
    assert f"of {command.split()[0]} takes {words[command.split()[0]]}, not" in done.stderr
    assert words[command.split()[0]] in daemon.ctl("help", command.split()[0], code=0).stdout


@pytest.mark.parametrize("command", ("status", "logs", "connections", "stop"))
def test_no_such_service(daemon, command):
    daemon.configure(service(address=daemon.target), service(name="job", command=["sleep", "1000"])).start()
    done = daemon.ctl(command, "nobody", code=2)
    assert done.stderr == 'handoffctl: no service is named "nobody"; there are "web", "job"\n'


def test_code_3_tells_the_last_words(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service(address=daemon.target, command=[*WORKER, "last-words"]))
    done = daemon.ctl("--json", "reload", "web", code=3)
    document = json.loads(done.stdout)
    SCHEMAS["result"].validate(document)
    assert document["results"][0]["outcome"] == "failed"
    assert "to be or not to be" in done.stderr
    logs = daemon.ctl("logs", "web", code=0).stdout
    assert "to be or not to be" in logs


def test_code_4(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service("--never-ready", address=daemon.target, extra='ready { by = "notify" }'))
    daemon.reload("web", "--timeout", "100ms", code=4)
    assert daemon.generations() == {1: "serving", 2: "starting"}


@pytest.mark.parametrize("command", ("reload", "deploy web --release /", "rollback web", "scale web 2", "wait web"))
def test_a_document_whatever_happens(daemon, command):
    done = daemon.ctl("--json", *command.split(), code=5)
    document = json.loads(done.stdout)
    SCHEMAS["result"].validate(document)
    assert document["exit_code"] == 5 and done.stderr == f"handoffctl: {document['text']}\n"


def test_code_5(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.stop()
    assert str(daemon.control) in daemon.ctl("status", code=5).stderr
    assert subprocess.run([HANDOFFCTL, "-s", "/nonexistent/socket", "reload"], check=False, capture_output=True).returncode == 5


def test_code_5_when_the_daemon_goes_away(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with Http(daemon.target) as held:
        held.get()
        waiting = daemon.ctl_later("reload", "--wait", "drained")
        daemon.wait_event("generation-draining", generation=1)
        daemon.process.kill()
        waiting.wait(5)
    daemon.process.wait()


def test_code_7(daemon, root):
    """An ordinary user whom the socket lets in may look but not change."""
    daemon.configure(service(address=daemon.target)).start()
    daemon.control.chmod(0o666)
    assert "web" in daemon.ctl("status", user=NOBODY, code=0).stdout
    for command in ("reload", "stop", "restart", "start"):
        daemon.ctl(command, "web", user=NOBODY, code=7)
    assert daemon.wait_event("call-refused")
    assert daemon.generations() == {1: "serving"}


def test_code_8(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service("--never-ready", address=daemon.target, extra='ready { by = "notify" }'))
    reload = daemon.ctl_later("reload", "web")
    daemon.wait_event("worker-started", generation=2)
    daemon.ctl("stop", "web", code=0)
    reload.wait(8)


def test_events(daemon):
    """A follower gets everything that is kept, and all that comes, each as the schema says."""
    daemon.configure(service(address=daemon.target)).start()
    for _ in range(10):
        daemon.reload("web", "--wait", "drained")
    told = [json.loads(line) for line in daemon.ctl("events", code=0).stdout.splitlines()]
    followed = [e for e in daemon.events.items if e["event"] != "worker-status"]
    assert told == followed[: len(told)]
    for event in told:
        SCHEMAS["event"].validate(event)
    for number in range(1, 12):
        names = [e["event"] for e in told if e["service"] == "web" and e["generation"] == number]
        order = ["generation-starting", "worker-started", "generation-ready", "generation-serving"]
        if number < 11:
            order += ["generation-draining", "generation-drained", "generation-stopping", "worker-exited", "generation-gone"]
        assert [n for n in names if n in order] == order, names


def test_events_tell_who_why_and_how_long(daemon):
    """What happened can be told from the events alone."""
    daemon.configure(service(address=daemon.target)).start()
    with Http(daemon.target) as held:
        held.get()
        daemon.reload("web")
    daemon.wait_event("generation-gone", generation=1)
    daemon.configure(service(address=daemon.target, command=[*WORKER, "last-words"], extra='drain { deadline = "100ms" }'))
    daemon.reload("web", code=3)
    daemon.configure(service(address=daemon.target, extra='drain { deadline = "100ms" }'))
    daemon.reload("web")
    with Http(daemon.target) as held:
        held.get()
        daemon.ctl("stop", "web", code=6)
    requests = [e["text"].split(": ", 1) for e in daemon.events.items if e["event"].endswith("-requested")]
    assert [what for _, what in requests] == ["reload web"] * 3 + ["stop web"]
    assert all(re.fullmatch(r"a control client \(uid \d+, pid \d+\)", who) for who, _ in requests)
    wanted = {
        "generation-serving": None,
        "generation-draining": "another one takes its place|the service stops",
        "generation-stopping": "drained|the deadline has passed",
        "generation-failed": "worker 0 .* exited with status 7 .*",
        "generation-gone": None,
        "worker-exited": "exited with status 0|.*signal.*",
    }
    for name, text in wanted.items():
        told = daemon.seen(name)
        assert told, name
        for event in told:
            assert event["service"] == "web" and event["generation"] >= 1
            assert not text or re.match(text, event["text"]), event
            assert "duration" in event or name == "generation-draining", event
    assert daemon.seen("generation-stopping")[-1]["text"] == "the deadline has passed"
    assert daemon.seen("connections-cut")[0]["connections"] == 1


def test_chatter_does_not_drown_what_happens(daemon):
    """A worker that writes STATUS= without end: who follows is not cut off, what happened is kept."""
    daemon.configure(service(address=daemon.target, command=[*WORKER, "chatters"], extra='ready { by = "notify" }')).start()
    with Http(daemon.target) as c:
        assert c.generation() == 1  # all was said
    daemon.settle()
    assert daemon.service()["generations"][0]["workers"][0]["status"].endswith("x 11999")
    daemon.reload()
    daemon.wait_event("generation-serving", generation=2)
    assert 10 <= len([e for e in daemon.seen("worker-status") if e["generation"] == 1]) < 100
    kept = [json.loads(line)["event"] for line in daemon.ctl("events", code=0).stdout.splitlines()]
    assert kept.count("generation-serving") == 2 and "worker-status" not in kept


def test_output_of_workers(daemon):
    daemon.configure(service(address=daemon.target)).start()
    assert "listening on" in daemon.ctl("logs", "web", code=0).stdout
    daemon.wait_log("listening on")


def test_progress_is_told_line_by_line(daemon):
    daemon.configure(service(address=daemon.target)).start()
    lines = daemon.ctl("reload", "web", code=0).stdout
    for phase in ("generation-starting", "worker-started", "generation-ready"):
        assert phase in lines
    assert lines.endswith("web: reload -> serving, generation 2\n")


@pytest.mark.parametrize("nonsense", [b"{}\0", b"[]\0", b"\0", b"{" * 100 + b"\0", b'{"method": 7}\0', b"x" * 2_000_000], ids=["object", "list", "empty", "deep", "type", "long"])
def test_nonsense_on_the_control_socket(daemon, nonsense):
    daemon.configure(service(address=daemon.target)).start()
    with Client(daemon.control) as client:
        try:
            client.socket.sendall(nonsense)
            while client.socket.recv(1 << 16):
                if nonsense == b'{"method": 7}\0' or nonsense == b"{}\0":
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert daemon.status()["state"] == "running"
    assert generation(daemon.target) == 1
