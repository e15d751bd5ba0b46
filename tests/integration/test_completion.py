# SPDX-License-Identifier: MIT
"""What the shells offer behind a half-typed handoffctl."""

import shutil
import subprocess

import pytest
from harness import BUILD, HANDOFFCTL, LIMIT, service
from screen import Screen

SLEEP = ["sleep", "1000"]


def offered(daemon, *words):
    """By bash, for the last of the words."""
    script = """
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _handoffctl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", BUILD / "daemon/handoffctl.bash", "handoffctl", *words],
        env={"PATH": f"{HANDOFFCTL.parent}:/usr/bin:/bin", "HANDOFF_CONTROL": str(daemon.control)},
        cwd=daemon.directory,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert not done.stderr
    return done.stdout.split()


def test_bash(daemon):
    daemon.configure(service(address=daemon.target), service(name="worker", command=SLEEP), service(name="website", command=SLEEP)).start()
    assert offered(daemon, "rel") == ["reload"]
    assert {"status", "events", "config", "completion"} <= set(offered(daemon, ""))
    assert sorted(offered(daemon, "reload", "w")) == ["web", "website", "worker"]
    assert sorted(offered(daemon, "reload", "web", "worker", "webs")) == ["website"]
    assert offered(daemon, "reload", "--wait", "d") == ["drained"]
    assert offered(daemon, "reload", "--wait", "=", "d") == ["drained"]
    assert offered(daemon, "reload", "--wait", "drained", "wo") == ["worker"]
    assert "--timeout" in offered(daemon, "reload", "--")
    assert "--timeout" not in offered(daemon, "status", "--")
    assert offered(daemon, "config", "s") == ["show"]
    assert offered(daemon, "config", "check", "hand") == ["handoffd.conf"]
    assert offered(daemon, "help", "sto") == ["stop"]
    assert offered(daemon, "-s", "/nonexistent", "status", "") == []
    assert sorted(offered(daemon, "-s", str(daemon.control), "status", "web")) == ["web", "website"]


def test_every_command_has_help(daemon):
    commands = offered(daemon, "")
    assert len(commands) > 8
    for command in commands:
        text = daemon.ctl(command, "--help", code=0).stdout
        assert text.startswith("handoffctl") and command in text
        assert text == daemon.ctl("help", command, code=0).stdout
        for option in offered(daemon, command, "--"):
            assert option in text or option in daemon.ctl("help", code=0).stdout


def test_zsh(daemon):
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    daemon.configure(service(address=daemon.target), service(name="worker", command=SLEEP)).start()
    environment = {
        "PATH": f"{HANDOFFCTL.parent}:/usr/bin:/bin",
        "HANDOFF_CONTROL": str(daemon.control),
        "PS1": "$ ",
        "HOME": str(daemon.directory),
    }
    with Screen("zsh", "-f", "-i", environment=environment, columns=160) as screen:
        screen.wait(r"^\$")
        screen.type(f"PS1='> '; fpath=({BUILD}/daemon $fpath); autoload -Uz compinit; compinit -u -D; echo set up", "Enter")
        screen.wait(r"^set up\n>")
        screen.type("handoffctl rel", "Tab", "wo", "Tab", "--wa", "Tab", "dr", "Tab")
        screen.wait(r"> handoffctl reload worker --wait drained")
        screen.type("C-u", f"handoffctl -s {daemon.run}/nothing status w", "Tab", "e", "Tab", "X")
        screen.wait(r"status weX")
        screen.type("C-u", f"handoffctl -s {daemon.control} conf", "Tab", "sh", "Tab")
        screen.wait(r"control config show")
