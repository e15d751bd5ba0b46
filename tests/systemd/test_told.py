# SPDX-License-Identifier: MIT
"""What systemd and the journal are told: patience, one line of state, events with their fields and explanations."""

import json
import os
import select
import signal
import threading

import machine
import pytest
from machine import SLEEPD, Load, ctl, drop_in, generation, get, main_pid, run, service, show, status, systemctl, write

PORT = 8087
ADDRESS = f"127.0.0.1:{PORT}"


@pytest.fixture(autouse=True)
def clean():
    machine.install()
    yield
    systemctl("stop", "handoffd", code=None)
    systemctl("reset-failed", "handoffd", code=None)
    run("sh", "-c", "rm -rf /etc/systemd/system/handoffd*.d /etc/handoffd/*")
    systemctl("daemon-reload")


def configured(*options, extra=""):
    write("handoffd.conf", service(ADDRESS, command=(SLEEPD, *options), extra=extra))


def impatient():
    drop_in("handoffd.service", "[Service]\nTimeoutStartSec=1s\nTimeoutStopSec=1s\n")


def test_start_takes_the_time_it_needs():
    impatient()
    configured("--ready-delay", "2.5", extra='ready { timeout = "20s" }')
    systemctl("start", "handoffd")
    assert generation(PORT) == 1 and show("handoffd", "NRestarts") == "0"


def test_reload_takes_the_time_it_needs():
    """As told when it begins, and by the settings that it brings."""
    impatient()
    configured(extra='ready { timeout = "500ms" }')
    systemctl("start", "handoffd")
    pid = main_pid()
    configured("--ready-delay", "2.5", extra='ready { timeout = "20s" }')
    with Load(PORT, rate=50):
        systemctl("reload", "handoffd")
        assert generation(PORT) == 2
        # one that comes to nothing says so, and nothing else happens
        configured("--never-ready", extra='ready { timeout = "2s" }')
        systemctl("reload", "handoffd", code=1)
        assert generation(PORT) == 2 and main_pid() == pid
    assert show("handoffd", "SubState") == "running"


def test_reload_with_a_bake_takes_the_time_it_needs():
    """Whoever asked is told when the new generation is trusted."""
    impatient()
    configured(extra='ready { timeout = "500ms" } rollout { bake = "2500ms" }')
    systemctl("start", "handoffd")
    pid = main_pid()
    systemctl("reload", "handoffd")
    assert generation(PORT) == 2 and main_pid() == pid


def test_stop_without_end_takes_the_time_it_needs():
    impatient()
    configured(extra='drain { deadline = "infinity" }')
    systemctl("start", "handoffd")
    answers = []
    slow = threading.Thread(target=lambda: answers.append(get(PORT, "/?sleep=2.5")))
    slow.start()
    while not status()["generations"][0]["in_flight"]:
        pass
    systemctl("stop", "handoffd")
    slow.join()
    assert answers and show("handoffd", "Result") == "success"


def test_patience_is_not_for_the_watchdog():
    """systemd extends its watchdog by the same word. A handoffd that hangs during a reload is found all the same."""
    drop_in("handoffd.service", "[Service]\nWatchdogSec=2s\n")
    configured()
    systemctl("start", "handoffd")
    configured("--never-ready", extra='ready { timeout = "50s" }')
    ctl("reload", "web", "--wait", "none")
    while show("handoffd", "SubState") != "reload":
        pass
    pid = main_pid()
    os.kill(pid, signal.SIGSTOP)
    fd = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(20000), "it hangs, and nobody notices"
    os.close(fd)
    ctl("status")  # waits for the one that comes
    assert generation(PORT) == 1 and main_pid() != pid


def test_state_in_one_line():
    """StatusText, as an operator reads it in `systemctl status`."""
    configured("--ready-delay", "0.2")
    systemctl("start", "handoffd")
    assert show("handoffd", "StatusText") == "web: generation 1 serves"
    assert "Status: \"web: generation 1 serves\"" in systemctl("status", "handoffd").stdout
    slow = threading.Thread(target=get, args=(PORT, "/?sleep=2"))
    slow.start()
    while not status()["generations"][0]["in_flight"]:
        pass
    ctl("reload", "web")
    assert show("handoffd", "StatusText").startswith("web: generation 2 serves, 1 old (")
    slow.join()
    ctl("wait", "web", "--for", "drained")
    assert show("handoffd", "StatusText") == "web: generation 2 serves"


def entries(*matches):
    run("journalctl", "--sync")
    lines = run("journalctl", "-o", "json", "-u", "handoffd", *matches).stdout.splitlines()
    return [e for e in map(json.loads, lines) if "HANDOFF_EVENT" in e]


def test_every_entry_is_explained():
    """Whatever has happened: an event has its fields, and the installed catalog has its words."""
    done = run("journalctl", "--update-catalog")
    assert "handoffd" not in done.stderr, done.stderr
    known = set(run("journalctl", "--list-catalog").stdout.split())
    configured()
    systemctl("start", "handoffd")
    ctl("reload", "web", "--canary", "50%", "--hold", "infinity", "--wait", "none")
    ctl("abort", "web", code=None)
    ctl("scale", "web", "2")
    ctl("upgrade")
    ctl("rollback", "web", code=None)
    write("handoffd.conf", "nonsense")
    ctl("reload", code=2)
    configured("--exit-at-start", "3")
    ctl("reload", "web", code=3)
    configured("--crash-after", "0.1")
    ctl("reload", "web", code=None)
    systemctl("kill", "-s", "KILL", "--kill-who=main", "handoffd")
    ctl("status")
    systemctl("stop", "handoffd")
    found = entries()
    names = {e["HANDOFF_EVENT"] for e in found}
    assert {"daemon-upgraded", "daemon-recovered", "config-refused", "generation-failed", "worker-crashed"} <= names
    assert len(names) > 15, names
    for e in found:
        assert e["MESSAGE_ID"] in known, e
        assert e["SYSLOG_IDENTIFIER"] == "handoffd" and e["PRIORITY"] in "34567", e
        assert e["_SYSTEMD_UNIT"] == "handoffd.service"
        if e["HANDOFF_EVENT"].startswith("generation-"):
            assert e["HANDOFF_SERVICE"] == "web" and int(e["HANDOFF_GENERATION"]) > 0, e
        if e["HANDOFF_EVENT"].startswith("worker-"):
            assert e["HANDOFF_SERVICE"] == "web" and int(e["HANDOFF_WORKER"]) >= 0 and int(e["HANDOFF_GENERATION"]) > 0, e
    explained = run("journalctl", "-x", "-u", "handoffd", "HANDOFF_EVENT=generation-failed", "HANDOFF_GENERATION=" + next(
        e["HANDOFF_GENERATION"] for e in found if e["HANDOFF_EVENT"] == "generation-failed")).stdout
    assert "of web has failed" in explained and "goes on serving" in explained and "@HANDOFF" not in explained
