# SPDX-License-Identifier: MIT
"""Users of chatd stay connected while handoffd is killed around a reload: what chatd keeps is in systemd's store."""

import os
import pathlib
import signal
import sys

import machine
import pytest
from machine import BUILD, ctl, main_pid, run, status, systemctl, write

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from chat import Chat  # noqa: E402

CHATD = "/usr/bin/chatd"


@pytest.fixture(autouse=True, scope="module")
def installed():
    machine.install()
    run("install", BUILD / "contrib/examples/chatd", CHATD)
    yield
    systemctl("stop", "handoffd", code=None)


def kill_and_wait():
    """Until the next one answers."""
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    for _ in range(600):
        if ctl("status", code=None).returncode == 0 and main_pid() not in (0, pid):
            return
    raise AssertionError("handoffd does not come back")


def test_handoffd_is_killed_around_reloads():
    text = machine.service("127.0.0.1:8090", command=(CHATD,), extra='drain { deadline = "20s" }')
    write("handoffd.conf", text)
    systemctl("start", "handoffd")
    with Chat("127.0.0.1:8090", 200, 50) as chat:
        for _ in range(4):
            chat.more(3)
            ctl("reload", "web", "--wait", "none")
            kill_and_wait()
            ctl("wait", "web", "--for", "drained")
            ctl("reload", "web", "--wait", "drained")
            chat.more(3)
        web = status()
        assert web["generations"][0]["in_flight"] == 200 and len(web["generations"]) == 1
        chat.stop()
    assert '"connections-cut"' not in run("journalctl", "-u", "handoffd", "HANDOFF_EVENT=connections-cut", code=None).stdout
