# SPDX-License-Identifier: MIT
"""What is under way inside of handoffd when it is replaced or dies: an acknowledgement that it listens for, and
processes that it has stopped for a moment."""

import os
import pathlib
import signal
import time

import pytest
from harness import LIMIT, WORKER, Http, Load, generation, service
from test_recovery import again
from test_upgrade import upgrade

JSON = '{"command":"worker:ack","pid":PID}NL'


def test_einhorn_acknowledgement(daemon):
    """A worker of the dialect finds the socket open that it was given by the handoffd of before."""
    gate = daemon.directory / "gate"
    os.mkfifo(gate)
    script = f'[ "$HANDOFF_GENERATION" = 1 ] || read go < {gate}; exec "$0" "$@"'
    command = ["sh", "-c", script, *WORKER, "einhorn", JSON]
    extra = 'dialect = "einhorn" ready { by = "notify" }'
    daemon.configure(service(address=daemon.target, command=command, extra=extra)).start()
    with Load(daemon.target, rate=50, any_body=True):
        waiting = daemon.ctl_later("reload", "web")
        daemon.wait_event("worker-started", generation=2)
        for _ in range(2):
            upgrade(daemon)
        gate.write_text("go\n")
        waiting.wait(0)
    assert generation(daemon.target) == 2


def state_of(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def wait_for_state(pid, stopped):
    for _ in range(LIMIT * 100):  # no event tells somebody who is not its parent
        if (state_of(pid) == "T") == stopped:
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} is in state {state_of(pid)}")


@pytest.mark.parametrize("how", ["crash", "upgrade"])
def test_stopped_processes_go_on(daemon, how):
    """Those of a draining generation are stopped by who comes before, and found by who comes after."""
    extra = 'drain { deadline = "60s" idle-after = "20s" }'
    daemon.configure(service(address=daemon.target, extra=extra)).start()
    with Http(daemon.target) as old, Load(daemon.target, rate=50):
        assert old.generation() == 1
        daemon.reload("web")
        worker = daemon.worker(1)
        daemon.wait_event("generation-quiet", generation=1)
        daemon.signal(signal.SIGSTOP)
        os.kill(worker, signal.SIGSTOP)  # as handoffd does in the last look, before it dies
        wait_for_state(worker, stopped=True)
        if how == "crash":
            again(daemon)
        else:
            daemon.signal(signal.SIGCONT)
            upgrade(daemon)
        wait_for_state(worker, stopped=False)
        assert old.generation() == 1
