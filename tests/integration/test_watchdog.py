# SPDX-License-Identifier: MIT
"""Workers that have to say that they are alive."""

import os
import signal

import harness
from harness import WORKER, generation, get, service


def configure(daemon, silence, *words, extra="", workers=1, period="600ms"):
    extra = f'watchdog = "{period}"\n\tdrain {{ kill-after = "200ms" }}\n\t{extra}'
    return daemon.configure(
        service(
            address=daemon.target, command=[*WORKER, "watched", silence, *words], extra=extra, workers=workers
        )
    )


def test_silent_worker_is_replaced(daemon):
    """It serves as long as it speaks, however long that is; silent, it is ended by SIGABRT and replaced."""
    silence = daemon.directory / "silence"
    configure(daemon, silence).start()
    pid = daemon.worker(1)
    get(daemon.target)
    assert not daemon.seen("worker-killed")
    silence.touch()
    killed = daemon.wait_event("worker-killed")
    assert "WATCHDOG=1" in killed["text"] and killed["pid"] == pid
    assert daemon.wait_event("worker-crashed")["exit_signal"] == signal.SIGABRT
    again = daemon.wait_event("worker-ready", start=daemon.events.items.index(killed))
    assert again["pid"] != pid and generation(daemon.target) == 1
    assert len(daemon.seen("worker-killed")) == 1


def test_deaf_worker_is_killed(daemon):
    """Some do not follow SIGABRT."""
    silence = daemon.directory / "silence"
    configure(daemon, silence, "deaf").start()
    silence.touch()
    assert daemon.wait_event("worker-crashed")["exit_signal"] == signal.SIGKILL
    assert [e["text"] for e in daemon.seen("worker-killed")][1] == "SIGABRT did not end it"
    daemon.wait_event("worker-ready", start=daemon.events.items.index(daemon.seen("worker-crashed")[0]))


def test_silence_rolls_back(daemon):
    """A new generation that is silent within rollout.bake is turned back."""
    silence = daemon.directory / "silence"
    rollout = 'rollout { bake = "30s" }'
    configure(daemon, silence, extra=rollout).start()
    configure(daemon, silence, "silent", extra=rollout)
    daemon.ctl("reload", "--wait", "none", code=0)
    daemon.wait_event("worker-killed", generation=2)
    daemon.wait_event("rolled-back")
    assert generation(daemon.target) == 1


def test_nothing_is_asked_before_readiness(daemon):
    """Ready by a probe: its time begins then."""
    extra = 'ready { by = "accepting" }'
    configure(daemon, daemon.directory / "silence", "silent", "unready", extra=extra).start()
    started = daemon.wait_event("worker-started")
    assert daemon.wait_event("worker-killed")["pid"] == started["pid"]
    ready = daemon.wait_event("generation-ready")
    assert daemon.events.items.index(ready) < daemon.events.items.index(daemon.seen("worker-killed")[0])


def test_upgrade_asks_on(daemon):
    """The next handoffd asks for it as well, and nobody is ended for the time between."""
    silence = daemon.directory / "silence"
    configure(daemon, silence).start()
    pid = daemon.worker(1)
    daemon.ctl("upgrade", code=0)
    assert daemon.worker(1) == pid
    killed = harness.Events(daemon.control)
    silence.touch()
    assert killed.wait(lambda e: e["event"] == "worker-killed", "worker-killed")["pid"] == pid


def test_libhandoff_says_it(daemon):
    daemon.configure(service(address=daemon.target, extra='watchdog = "300ms" drain { kill-after = "20s" }')).start()
    pid = daemon.worker(1)
    get(daemon.target)
    assert not daemon.seen("worker-killed")
    os.kill(pid, signal.SIGSTOP)  # it stands still, and SIGABRT waits until it goes on
    daemon.wait_event("worker-killed")
    os.kill(pid, signal.SIGCONT)
    assert daemon.wait_event("worker-crashed")["exit_signal"] == signal.SIGABRT
