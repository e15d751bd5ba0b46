# SPDX-License-Identifier: MIT
"""handoffd with less than all rights: it serves, reloads without loss, and says what it does without."""

import pathlib
import re

import pytest
from harness import FAST, HANDOFFD, NOBODY, WORKER, Load, generation, get, service

# Those of contrib/systemd/handoffd.service, and what the status says without one of them.
LOST = {
    "bpf": {"steering": "cbpf"},
    "sys_ptrace": {"adoption": False},
    "setuid": {"adoption": True},
    **dict.fromkeys(("net_admin", "kill", "chown", "fowner", "dac_override", "setpcap", "sys_resource"), {}),
    **dict.fromkeys(("sys_nice", "setgid", "net_bind_service"), {}),
}


def with_rights(daemon, *words):
    daemon.command = lambda: ["setpriv", *words, str(HANDOFFD), "-c", str(daemon.file)]
    return daemon


def effective(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"CapEff:\s*(\w+)", status)[1], 16)


def serves_and_reloads(daemon):
    with Load(daemon.target, rate=100):
        daemon.reload("web", "--wait", "drained")
    assert generation(daemon.target) == 2
    mode = daemon.status()["mode"]
    said = daemon.ctl("status", code=0).stdout.splitlines()[1]
    assert f"user {mode['user']}" in said
    assert ("drains by polling" in said) == (mode["drain_watch"] == "polling")
    assert ("no adoption" in said) == (not mode["adoption"])
    return mode


@pytest.mark.parametrize("lacking", ["bpf", "net_admin"] if FAST else LOST)
def test_root_without(daemon, root, lacking):
    """Root with a bounded set."""
    kept = [f"+{name}" for name in LOST if name != lacking]
    with_rights(daemon, "--bounding-set=" + ",".join(["-all", *kept]))
    daemon.configure(service(address=daemon.target)).start()
    mode = serves_and_reloads(daemon)
    assert mode["user"] == "root" and f"cap_{lacking}" not in mode["capabilities"]
    for key, value in LOST[lacking].items():
        assert mode[key] == value, (lacking, mode)
    assert mode["drain_watch"] == "events" and len(mode["capabilities"]) < len(LOST)


@pytest.mark.parametrize("lacking", ["setuid", "setgid"])
def test_user_needs_setuid(daemon, root, lacking):
    """A service under another user is refused in words, and the one that serves goes on."""
    with_rights(daemon, f"--bounding-set=-{lacking}")
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service(address=daemon.target, extra='user = "nobody"'))
    daemon.reload("web", code=3)
    assert generation(daemon.target) == 1


def test_user_with_low_ports_only(daemons, root):
    """The unprivileged form: its own user, and ports below 1024."""
    daemon = daemons(user=NOBODY)
    rights = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with_rights(daemon, *rights, "--inh-caps=-all,+net_bind_service", "--ambient-caps=-all,+net_bind_service")
    daemon.target = "127.0.0.1:80"  # of a network of its own
    daemon.configure(service(address=daemon.target)).start()
    mode = serves_and_reloads(daemon)
    assert mode["capabilities"] == ["cap_net_bind_service"]
    assert mode["user"] == "nobody" and mode["steering"] == "cbpf" and mode["drain_watch"] == "events"
    assert mode["adoption"]  # all its programs are of its own user
    assert effective(daemon.worker(2)) == 0


def test_low_port_needs_its_capability(daemons, root):
    daemon = daemons(user=NOBODY)
    daemon.configure(service(address="127.0.0.1:80")).spawn()
    daemon.wait_log("needs CAP_NET_BIND_SERVICE")
    daemon.wait_exit(1)


def test_kill_reaches_other_users(daemon, root):
    """Without CAP_KILL a worker under another user cannot be told to stop, and that is said."""
    daemon.directory.chmod(0o755)
    with_rights(daemon, "--bounding-set=-kill")
    daemon.configure(service(address=daemon.target, extra='user = "nobody"')).start()
    old = daemon.worker(1)
    daemon.reload("web")
    daemon.wait_log("Operation not permitted")
    daemon.kill(old, 9)
    daemon.wait_event("generation-gone", generation=1)
    new = daemon.worker(2)
    daemon.signal(15)
    daemon.wait_event("service-stopping")
    daemon.kill(new, 9)
    daemon.wait_exit()


@pytest.mark.parametrize("user", [None, "nobody"])
def test_workers_get_none(daemon, root, user):
    """But a service under root, where handoffd is root, has what root has."""
    extra = f'user = "{user}"' if user else ""
    daemon.configure(service(address=daemon.target, command=[*WORKER, "facts"], extra=extra)).start()
    found = dict(re.findall(r"^(Cap\w+):\s*(\w+)$", get(daemon.target), re.M))
    assert int(found["CapAmb"], 16) == 0 == int(found["CapInh"], 16)
    assert (int(found["CapEff"], 16) == 0) == bool(user)
