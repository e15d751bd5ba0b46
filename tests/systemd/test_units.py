# SPDX-License-Identifier: MIT
"""The units, as an operator uses them."""

import json
import os
import pathlib
import select
import signal
import time

import machine
import pytest
from machine import ETC, SLEEPD, Load, ctl, drop_in, generation, get, main_pid, run, service, show, status, systemctl, write

UNITS = ("handoffd.service", "handoffd@.service", "handoffd.socket", "handoffd@.socket")


@pytest.fixture(autouse=True, scope="module")
def installed():
    machine.install()


@pytest.fixture(autouse=True)
def clean():
    yield
    units = ("handoffd.socket", "handoffd@web.socket", "handoffd@web.service", "handoffd.service", "second.socket")
    for unit in units:
        systemctl("stop", unit, code=None)
        systemctl("reset-failed", unit, code=None)
    run("sh", "-c", "rm -rf /etc/systemd/system/handoffd* /etc/systemd/system/second.socket /etc/handoffd/*")
    systemctl("daemon-reload")


def ended(pid):
    """Waits for the end of a process that is not a child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(machine.LIMIT * 1000), f"process {pid} does not end"
    os.close(fd)


def active(unit):
    """Waits until a unit is active again."""
    for _ in range(machine.LIMIT * 20):
        if systemctl("is-active", unit, code=None).stdout.strip() == "active":
            return
        time.sleep(0.05)  # systemctl has no wait for it
    raise AssertionError(f"{unit} does not become active")


def test_verify_and_security():
    paths = [f"/usr/lib/systemd/system/{u}" for u in UNITS]
    done = run("systemd-analyze", "verify", "--recursive-errors=no", "--man=no", *paths)
    assert "handoffd" not in done.stderr, done.stderr
    # below 2.0, in tenths
    run("systemd-analyze", "security", "--offline=true", "--threshold=19", paths[1])


def test_start_reload_stop():
    write("handoffd.conf", service("127.0.0.1:8080"))
    systemctl("start", "handoffd")
    assert show("handoffd", "SubState") == "running" and "generation 1 serves" in show("handoffd", "StatusText")
    pid = main_pid()
    with Load(8080):
        systemctl("reload", "handoffd")
        assert generation(8080) == 2
        # a release that is no good: the reload fails, and nothing else
        write("handoffd.conf", service("127.0.0.1:8080", command=(SLEEPD, "--exit-at-start", "3")))
        done = systemctl("reload", "handoffd", code=1)
        assert "failed" in done.stderr
        assert generation(8080) == 2 and show("handoffd", "SubState") == "running"
        write("handoffd.conf", "nonsense")
        systemctl("reload", "handoffd", code=1)
        write("handoffd.conf", service("127.0.0.1:8080"))
        os.kill(pid, signal.SIGHUP)
        ctl("wait", "web")
    assert main_pid() == pid
    assert "exited with status 3" in run("journalctl", "-u", "handoffd").stdout
    systemctl("stop", "handoffd")
    assert show("handoffd", "Result") == "success"


def test_bad_configuration_does_not_start():
    write("handoffd.conf", "nonsense")
    systemctl("start", "handoffd", code=1)
    assert "handoffd.conf:1" in run("journalctl", "-u", "handoffd").stdout


def test_main_pid_over_upgrade():
    write("handoffd.conf", service("127.0.0.1:8080"))
    systemctl("start", "handoffd")
    pid, worker = main_pid(), status()["generations"][0]["workers"][0]["pid"]
    with Load(8080):
        for _ in range(3):
            ctl("upgrade")
            ctl("reload", "web")
    assert main_pid() == pid and generation(8080) == 4
    assert worker != status()["generations"][0]["workers"][0]["pid"]
    systemctl("reload", "handoffd")


def test_journal_and_catalog():
    write("handoffd.conf", service("127.0.0.1:8080"))
    systemctl("start", "handoffd")
    ctl("reload", "web")
    run("journalctl", "--sync")
    lines = run("journalctl", "-o", "json", "HANDOFF_EVENT=generation-serving", "HANDOFF_GENERATION=2").stdout
    entry = json.loads(lines.splitlines()[-1])
    assert entry["HANDOFF_SERVICE"] == "web" and entry["SYSLOG_IDENTIFIER"] == "handoffd"
    assert entry["_SYSTEMD_UNIT"] == "handoffd.service" and entry["PRIORITY"] == "5"
    text = run("journalctl", "-x", f"MESSAGE_ID={entry['MESSAGE_ID']}", "HANDOFF_GENERATION=2").stdout
    assert "Generation 2 of web serves" in text and "finishes those that it has" in text


def test_every_event_is_in_the_catalog():
    """The identifier is made from the name; the list of names is the one of the header."""
    source = pathlib.Path(__file__).resolve().parents[2]
    header = (source / "daemon/core/record.h").read_text()
    catalog = (source / "contrib/systemd/handoffd.catalog").read_text()
    import re

    names = re.findall(r'X\([A-Z_]+, "([a-z-]+)", [A-Z]+\)', header)
    assert len(names) > 40
    for name in names:
        number = 0x811C9DC5
        for byte in name.encode():
            number = (number ^ byte) * 0x01000193 & 0xFFFFFFFF
        assert f"-- 6f1b6c3a9d2e4c7fb0a85d41{number:08x}\n" in catalog, name


def socket_unit(name, port, fd_name):
    pathlib.Path(f"/etc/systemd/system/{name}.socket").write_text(
        f"[Socket]\nService=handoffd.service\nFileDescriptorName={fd_name}\nListenStream=127.0.0.1:{port}\n"
        "ReusePort=yes\n"
    )


def test_sockets_by_name():
    """Two services, two socket units, each takes its own; a restart loses nobody who waits."""
    drop_in("handoffd.socket", "[Socket]\nListenStream=\nListenStream=127.0.0.1:8081\n")
    drop_in("handoffd.service", "[Unit]\nAfter=second.socket\n[Service]\nSockets=handoffd.socket second.socket\n")
    socket_unit("second", 8082, "api")
    write("handoffd.conf", service("systemd:http") + service("systemd:api", name="api"))
    systemctl("daemon-reload")
    systemctl("start", "handoffd.socket", "second.socket")
    assert "service=web" in get(8081) or generation(8081) == 1
    assert status("api")["listeners"][0]["address"] == "systemd:api"
    assert status("web")["listeners"][0]["origin"] == "systemd"
    with Load(8081), Load(8082):
        systemctl("restart", "handoffd")
        systemctl("reload", "handoffd")
    assert generation(8082) == 2


def test_template_without_privileges():
    """As its own user, hardened: steering by classic BPF, and a program that binds its port itself."""
    program = (
        "import http.server as h, os\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        " def do_GET(s):\n"
        "  t=('generation='+os.environ['HANDOFF_GENERATION']+'\\n').encode()\n"
        "  s.send_response(200); s.send_header('Content-Length',str(len(t))); s.end_headers(); s.wfile.write(t)\n"
        " def log_message(s,*a): pass\n"
        "h.ThreadingHTTPServer(('127.0.0.1',8083),H).serve_forever()\n"
    )
    write("server.py", program)
    command = ", ".join(f'"{w}"' for w in ("/usr/bin/python3", "/etc/handoffd/server.py"))
    write(
        "web.conf",
        f'service "web" {{ command = {{{command}}}\n rollout {{ bake = "0" }}\n'
        'listen "http" { address = "127.0.0.1:8083" } }\n',
    )
    systemctl("start", "handoffd@web")
    control = "/run/handoffd-web/control.sock"
    listener = status(control=control)["listeners"][0]
    assert listener["origin"] == "adopted" and listener["steering"] == "cbpf"
    assert run("ps", "-o", "user=", "-p", main_pid("handoffd@web")).stdout.strip() == "handoffd"
    for n in range(2, 5):
        systemctl("reload", "handoffd@web")
        assert generation(8083) == n


def test_watchdog():
    """handoffd that hangs is ended and started again; its workers serve on."""
    drop_in("handoffd.service", "[Service]\nWatchdogSec=1s\n")
    write("handoffd.conf", service("127.0.0.1:8080"))
    systemctl("start", "handoffd")
    pid = main_pid()
    os.kill(pid, signal.SIGSTOP)
    assert generation(8080) == 1
    ended(pid)
    active("handoffd")
    assert main_pid() != pid and get(8080)
    assert "Result=watchdog" in run("journalctl", "-u", "handoffd").stdout or "watchdog" in run(
        "journalctl", "-u", "handoffd"
    ).stdout


def test_stop_takes_the_time_it_needs():
    """A connection holds the stop back for longer than TimeoutStopSec: handoffd asks for the time."""
    drop_in("handoffd.service", "[Service]\nTimeoutStopSec=1s\n")
    write("handoffd.conf", service("127.0.0.1:8080", extra='drain { deadline = "30s" }'))
    systemctl("start", "handoffd")
    with Load(8080, rate=1, slow=1, slow_ms=2500):
        pass
    import threading

    answers = []
    slow = threading.Thread(target=lambda: answers.append(get(8080, "/?sleep=2.5")))
    slow.start()
    while not status()["generations"][0]["in_flight"]:
        pass
    systemctl("stop", "handoffd")
    slow.join()
    assert answers and show("handoffd", "Result") == "success"
