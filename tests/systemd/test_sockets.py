# SPDX-License-Identifier: MIT
"""Sockets that systemd holds: several units for several services, restarts under load, and what becomes of a unit that is
changed. handoffd(8) says what is seen here."""

import pathlib
import socket

import machine
import pytest
from machine import Load, ctl, drop_in, generation, get, main_pid, run, service, show, status, systemctl, write


@pytest.fixture(autouse=True)
def clean():
    machine.install()
    drop_in("handoffd.service", "[Unit]\nAfter=second.socket\n[Service]\nSockets=handoffd.socket\n")
    listens("127.0.0.1:8081")
    yield
    for unit in ("handoffd.socket", "second.socket", "handoffd.service"):
        systemctl("stop", unit, code=None)
        systemctl("reset-failed", unit, code=None)
    run("sh", "-c", "rm -rf /etc/systemd/system/handoffd*.d /etc/systemd/system/second.socket /etc/handoffd/*")
    systemctl("daemon-reload")


def listens(*addresses):
    text = "".join(f"ListenStream={a}\n" for a in addresses)
    drop_in("handoffd.socket", f"[Socket]\nListenStream=\n{text}")


def second(port=8082):
    pathlib.Path("/etc/systemd/system/second.socket").write_text(
        f"[Socket]\nService=handoffd.service\nFileDescriptorName=api\nListenStream=127.0.0.1:{port}\nReusePort=yes\n"
    )
    drop_in("handoffd.service", "[Unit]\nAfter=second.socket\n[Service]\nSockets=handoffd.socket second.socket\n")


def is_open(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_several_units_for_several_services():
    """Two addresses of one name are one listener; a restart under load keeps whoever waits."""
    second()
    listens("127.0.0.1:8081", "127.0.0.1:8084")
    write("handoffd.conf", service("systemd:http") + service("systemd:api", name="api"))
    systemctl("start", "handoffd.socket", "second.socket", "handoffd")
    # short connections alone: one that is kept ends with the worker that has it
    with Load(8081), Load(8082), Load(8084):
        for _ in range(3):
            systemctl("restart", "handoffd")
        systemctl("reload", "handoffd")
    assert generation(8081) == generation(8082) == generation(8084) == 2


def test_changed_address():
    """By daemon-reload systemd forgets the sockets whose address is not in the unit any more. handoffd goes on with them,
    over reloads and upgrades. After a crash it serves on, but can start nothing anew on them; nor can a restart.
    Stopping both and starting both does it."""
    write("handoffd.conf", service("systemd:http"))
    systemctl("start", "handoffd.socket", "handoffd")
    with Load(8081):
        listens("127.0.0.1:8083")
        systemctl("reload", "handoffd")
        ctl("upgrade")
        pid = main_pid()
        systemctl("kill", "-s", "KILL", "--kill-who=main", "handoffd")
        done = ctl("reload", code=3)
        assert main_pid() != pid and generation(8081) == 2
        assert "systemd passed no descriptor of this name" in done.stderr
    assert not is_open(8083)
    systemctl("restart", "handoffd", code=1)
    systemctl("stop", "handoffd.socket", "handoffd")
    systemctl("start", "handoffd.socket", "handoffd")
    assert get(8083) and not is_open(8081)
    assert show("handoffd.socket", "ActiveState") == "active"


def test_restart_of_the_socket_alone():
    """It is refused while the service runs, and leaves the unit stopped; handoffd goes on with its sockets. Its next
    restart starts the unit again, as Sockets= says, but refuses connections meanwhile."""
    write("handoffd.conf", service("systemd:http"))
    systemctl("start", "handoffd.socket", "handoffd")
    pid = main_pid()
    with Load(8081):
        systemctl("restart", "handoffd.socket", code=1)
        assert show("handoffd.socket", "ActiveState") == "inactive" and main_pid() == pid
        systemctl("reload", "handoffd")
    systemctl("restart", "handoffd")
    assert show("handoffd.socket", "ActiveState") == "active" and get(8081)


def test_another_unit():
    """A second unit beside the first, which stays open: connections wait while handoffd is stopped, and start it. A
    restart would not do: systemd opens no socket for a service that runs."""
    write("handoffd.conf", service("systemd:http"))
    systemctl("start", "handoffd.socket", "handoffd")
    second()
    write("handoffd.conf", service("systemd:http") + service("systemd:api", name="api"))
    with Load(8081):
        systemctl("start", "second.socket", code=1)
        systemctl("stop", "handoffd")
        systemctl("start", "handoffd")
    assert get(8082) and status("api")["listeners"][0]["origin"] == "systemd"


def test_address_of_its_own():
    """Or handoffd opens the new one itself, which takes a reload and refuses nobody either."""
    write("handoffd.conf", service("systemd:http"))
    systemctl("start", "handoffd.socket", "handoffd")
    write("handoffd.conf", service("127.0.0.1:8085"))
    systemctl("reload", "handoffd")
    assert get(8085)
