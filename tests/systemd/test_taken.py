# SPDX-License-Identifier: MIT
"""A server that was taken over goes on when handoffd is killed or replaced under systemd."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest
from machine import BUILD, LIMIT, Load, get, main_pid, run, systemctl

PORT = 8098
UNIT = "taken"
FOLDER = pathlib.Path("/run/taken")
BINDER = pathlib.Path(__file__).parents[1] / "integration/binders/binder.py"
TEXT = f"""
[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
ExecStart={BUILD}/daemon/handoffd -l {PORT} --name web --control-socket {FOLDER}/control --take-over %d \\
    --rollout-bake 60s {sys.executable} {BINDER} plain {PORT}
Restart=always
RestartSec=50ms
KillMode=process
FileDescriptorStoreMax=4096
"""


def ctl(*arguments, code=0):
    return run(BUILD / "daemon/handoffctl", "-s", FOLDER / "control", *arguments, code=code)


def generations():
    services = json.loads(ctl("--json", "status").stdout)["services"]
    return {g["id"]: g["state"] for g in services[0]["generations"]}


@pytest.fixture
def server():
    """Listens, and knows nothing of handoffd."""
    argv = [sys.executable, BINDER, "plain", str(PORT)]
    old = subprocess.Popen(argv, env={"HANDOFF_GENERATION": "0"}, start_new_session=True)
    run("timeout", LIMIT, "bash", "-c", f"until (exec 3<>/dev/tcp/127.0.0.1/{PORT}) 2>&-; do sleep .1; done; :")
    FOLDER.mkdir(exist_ok=True)
    pathlib.Path(f"/etc/systemd/system/{UNIT}.service").write_text(TEXT % old.pid)
    systemctl("daemon-reload")
    yield old
    systemctl("stop", UNIT)
    old.kill()
    old.wait(LIMIT)


def test_killed_and_replaced(server):
    with Load(PORT, rate=100):
        systemctl("start", UNIT)
        for _ in range(3):
            assert generations() == {0: "warm", 1: "serving"}
            systemctl("kill", "-s", "KILL", "--kill-who=main", UNIT)
            assert generations() == {0: "warm", 1: "serving"}
            before = main_pid(UNIT)
            ctl("upgrade")
            assert main_pid(UNIT) == before
        ctl("rollback", "web")
        assert "generation=0" in get(PORT)
        systemctl("kill", "-s", "KILL", "--kill-who=main", UNIT)
        assert generations()[0] == "serving"
        ctl("reload", "web", "--wait", "none")
        ctl("wait", "web")
    assert server.poll() is None or server.returncode == -signal.SIGTERM
