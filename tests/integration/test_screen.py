# SPDX-License-Identifier: MIT
"""What handoffctl shows on a terminal, and that the terminal is as before when it ends."""

import json
import os
import re
import signal
import subprocess

import pytest
from harness import HANDOFFCTL, SCHEMAS, SLEEPD, WORKER, Http, generation, service
from screen import Screen


def ctl(daemon, *arguments, after="echo ended $?; stty -a", **options):
    """In a shell that goes on afterwards."""
    command = " ".join(str(a) for a in (HANDOFFCTL, "-s", daemon.control, *arguments))
    return Screen("sh", "-c", f"{command}; {after}; exec cat", **options)


def test_status_watch(daemon):
    daemon.configure(service(address=daemon.target, extra='drain { deadline = "50s" }')).start()
    with ctl(daemon, "status", "--watch", "web", columns=80, lines=24) as screen:
        text = screen.wait("worker 0")
        assert re.search(r"^  1  serving .* 100%  0 in flight", text, re.MULTILINE)
        assert max(len(line) for line in text.splitlines()) <= 80
        with Http(daemon.target) as held:
            held.get()
            screen.wait(r"100%  1 in flight")
            daemon.reload("web")
            screen.wait(r"^  1  draining     0%  1 in flight  oldest \d+s  deadline in 4\ds")
            screen.wait(r"deadline in 4[0-7]s")
        screen.wait(r"(?s)^web  serving  generation 2(?!.*draining)")
        screen.resize(60, 5)
        text = screen.wait(r"^\.\.\.$")
        assert max(len(line) for line in text.splitlines()) <= 60
        screen.resize(80, 24)
        screen.wait("worker 0")
        screen.type("q")
        text = screen.wait(r"(?s)ended 0.*extproc")
        assert "serving" not in text and not re.search(r"-(echo|icanon)\b", text)


def test_status_tells_what_has_an_end(daemon):
    """How long the new one is watched and the old one kept, and why a worker was started again."""
    daemon.configure(service(address=daemon.target, extra='rollout { bake = "10min" keep-warm = "10min" }')).start()
    later = daemon.ctl_later("reload", "web")
    daemon.wait_event("generation-warm", generation=1)
    new, old = daemon.service()["generations"]
    assert 500 < new["baked_in"] <= 600 and new["drains_in"] is None
    assert 500 < old["drains_in"] <= 600 and old["baked_in"] is None
    with ctl(daemon, "status") as screen:
        screen.wait(r"^  2  serving    100%  0 in flight  watched for (9|10)min")
        screen.wait(r"^  1  warm         0%  0 in flight  warm for (9|10)min")
    with ctl(daemon, "top") as screen:
        screen.wait(r"^web +2 serving .* (9|10)min ")
        screen.wait(r"^ +1 warm .* (9|10)min ")
    daemon.kill(daemon.worker(2), signal.SIGKILL)
    assert "signal 9 (SIGKILL)" in later.wait(3)
    daemon.wait_event("generation-gone", generation=2)
    with ctl(daemon, "status", columns=60) as screen:  # nothing of the cause is cut off
        assert "before" not in screen.wait(r"^  last: reload -> generation 2 rolled-back \(3\): worker 0\n        \(pid ")
        screen.wait(r"its start$")
    daemon.kill(daemon.worker(1), signal.SIGKILL)
    daemon.wait_event("worker-started", daemon.now(), generation=1)
    with ctl(daemon, "status") as screen:
        screen.wait(r"1 restart .*\n       the one before was ended by signal 9 \(SIGKILL\)$")


def test_status_watch_of_nobody(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with ctl(daemon, "status", "--watch", "nobody", after="echo ended $?") as screen:
        assert 'no service is named "nobody"' in screen.wait("ended 2")


def test_status_watch_in_a_pipe(daemon):
    daemon.configure(service(address=daemon.target)).start()
    watching = subprocess.Popen(
        [HANDOFFCTL, "-s", daemon.control, "--json", "status", "--watch"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    for number in (1, 2):
        document = json.loads(watching.stdout.readline())
        SCHEMAS["status"].validate(document)
        assert document["services"][0]["generation"] == number
        daemon.reload("web")
    watching.kill()
    watching.wait()
    watching.stdout.close()


def test_top(daemon):
    daemon.configure(service(address=daemon.target), service(name="a-service-with-a-name", command=["sleep", "1000"])).start()
    with ctl(daemon, "top", columns=80, lines=24) as screen:
        text = screen.wait(r"^a-serv")
        lines = text.splitlines()
        assert lines[2].split()[:9] == ["SERVICE", "GEN", "STATE", "SHARE", "CONN", "NEW/S", "MEM", "AGE", "LEFT"] and "a-service-with+" in text
        row = next(line for line in lines if line.startswith("web"))
        assert row.split()[:5] == ["web", "1", "serving", "100%", "0"]
        assert re.search(r" [0-9.]+[KM] ", row) and "█" in row
        assert max(len(line) for line in lines) <= 80
        with Http(daemon.target) as held:
            held.get()
            daemon.reload("web")
            screen.wait(r"^web +2 serving +100% +0 .*█")
            if daemon.status()["steering"] == "ebpf":
                for _ in range(30):
                    generation(daemon.target)
                screen.wait(r"^web +2 serving +100% +0 +([1-9]|\d\d) ")
            text = screen.wait(r"^ +1 draining +0% +1 .*▒")
            assert "\033[" in screen.colours()
            screen.resize(50, 24)
            text = screen.wait(r"draining")
        screen.resize(120, 24)
        screen.wait(r"^web +2")
        screen.type("q")
        text = screen.wait(r"(?s)ended 0.*extproc")
        assert "web" not in text and not re.search(r"-(echo|icanon)\b", text)
        assert screen.ask("#{cursor_flag} #{alternate_on} #{wrap_flag}") == "1 0 1"


@pytest.mark.parametrize("what", ["INT", "TERM", "ABRT", "the daemon ends"])
def test_the_terminal_is_given_back(daemon, what):
    daemon.configure(service(address=daemon.target)).start()
    with ctl(daemon, "top") as screen:
        screen.wait("^web")
        assert screen.ask("#{cursor_flag} #{alternate_on}") == "0 1"
        if what == "the daemon ends":
            daemon.stop()
        else:
            pid = subprocess.run(["pgrep", "-f", f"^{HANDOFFCTL} -s {daemon.control} top"], capture_output=True, text=True, check=True)
            subprocess.run(["kill", f"-{what}", pid.stdout.strip()], check=True)
        text = screen.wait("(?s)ended.*extproc")
        assert not re.search(r"-(echo|icanon)\b", text)
        assert screen.ask("#{cursor_flag} #{alternate_on} #{wrap_flag}") == "1 0 1"
        if what == "the daemon ends":
            assert "closed the connect" in text and "ended 5" in text


def test_plain_screens(daemon):
    """Without UTF-8 and colours."""
    daemon.configure(service(address=daemon.target)).start()
    with ctl(daemon, "top", environment={"LC_ALL": "C", "NO_COLOR": "1"}) as screen:
        screen.wait(r"^web +1 serving .*#$")
        assert "\033[3" not in screen.colours()


def test_no_terminal(daemon):
    daemon.configure(service(address=daemon.target)).start()
    assert "needs a terminal" in daemon.ctl("top", code=2).stderr


def test_progress_of_a_reload(daemon):
    """Two workers of which one is not ready yet; then a connection of the old generation that stays."""
    program = daemon.directory / "slow.sh"
    gate = daemon.directory / "gate"
    os.mkfifo(gate)
    program.write_text(f'#!/bin/sh\n[ "$HANDOFF_WORKER" = 0 ] || read -r x <{gate}\nexec {SLEEPD}\n')
    program.chmod(0o755)
    extra = 'ready { by = "notify" } drain { deadline = "50s" }'
    daemon.configure(service(address=daemon.target, extra=extra)).start()
    daemon.configure(service(address=daemon.target, extra=extra, command=[program], workers=2))
    with Http(daemon.target) as held:
        held.get()
        with ctl(daemon, "reload", "web", "--wait", "drained", columns=80) as screen:
            screen.wait("^web: starting 1/2 ready$")
            gate.write_text("go\n")
            text = screen.wait(r"^web: starting 2/2 ready · serving · draining 1 → 1 connections, \d+ s")
            assert text.splitlines()[1:3] == ["", ""]
            screen.wait(r", 4\d s to")
            held.close()
            text = screen.wait(r"(?s)^web: reload -> drained, generation 2\nended 0.*extproc")
            assert "starting" not in text


def test_progress_of_a_stop_and_its_end(daemon):
    daemon.configure(service(address=daemon.target, extra='drain { deadline = "50s" }')).start()
    with Http(daemon.target) as held, ctl(daemon, "stop", environment={"LC_ALL": "C"}, after="echo ended $?") as screen:
        screen.wait("ended 2")  # which service?
        held.get()
        with ctl(daemon, "stop web", environment={"LC_ALL": "C"}, columns=100, after="echo ended $?") as other:
            other.wait(r"^web: draining 1 -> 1 connections, \d+ s to the deadline")
            held.close()
            assert other.wait("^ended 0").startswith("web: stop -> stopped\n")


def test_what_was_cut_is_said(daemon):
    daemon.configure(service(address=daemon.target, extra='drain { deadline = "100ms" }')).start()
    with Http(daemon.target) as held:
        held.get()
        with ctl(daemon, "stop web", columns=100, after="echo ended $?") as screen:
            assert re.search(r"^web: .*\(1 connection cut\)$", screen.wait("^ended 6"), re.MULTILINE)


def test_progress_of_a_failure(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service(address=daemon.target, command=[*WORKER, "last-words"]))
    with ctl(daemon, "reload", after="echo ended $?") as screen:
        text = screen.wait("ended 3")
        assert "to be or not to be" in text
