# SPDX-License-Identifier: MIT
"""Files that are watched: a change that nobody saw, between one handoffd and the next, is found by comparing."""

import pytest
from harness import HANDOFFD, SLEEPD, Load, generation, listed, quoted, service
from test_recovery import again, come_back, die
from test_upgrade import own_program, replace, upgrade

KINDS = {  # what is watched, and what is done with it
    "written": ("src", "echo two > src/file"),
    "made": ("src", "mkdir src/new; echo > src/new/file"),
    "removed": ("src", "rm src/file"),
    "pointer": ("current", "ln -sfn elsewhere current"),
}
NOTHING = {
    "nothing": ("src", ":"),
    "read": ("src", "cat src/file > other"),
    "ignored": ("src", "echo > src/file~"),
    "other": ("src/*.js", "echo two > src/file"),
    "behind": ("current", "echo two > src/file"),
}


def watching(daemon, path):
    (daemon.directory / "src").mkdir()
    (daemon.directory / "src/file").write_text("one")
    (daemon.directory / "current").symlink_to("src")
    extra = f'directory = {quoted(daemon.directory)} watch = {listed([path])} watch-debounce = "20ms"'
    daemon.configure(service(address=daemon.target, command=[SLEEPD], extra=extra)).start()


@pytest.mark.parametrize("kind", [*KINDS, *NOTHING])
def test_upgrade(daemon, kind):
    path, change = {**KINDS, **NOTHING}[kind]
    program = own_program(daemon)
    watching(daemon, path)
    run = f'cd {daemon.directory}; [ -z "$HANDOFF_STATE_FD" ] || {{ {change}; }}; exec {HANDOFFD} "$@"'
    replace(program, f"#!/bin/sh\n{run}\n")
    with Load(daemon.target, rate=100):
        upgrade(daemon)
        if kind in KINDS:
            assert "changed" in daemon.wait_event("files-changed", service="web")["text"]
            daemon.wait_event("generation-serving", generation=2)
        daemon.settle()
    assert len(daemon.seen("files-changed")) == (kind in KINDS)
    upgrade_again(daemon)


def upgrade_again(daemon):
    """What was seen then is not seen once more, and what comes is seen."""
    number = daemon.service()["generation"]
    before = len(daemon.seen("files-changed"))
    program = daemon.directory / "handoffd"
    replace(program, f'#!/bin/sh\nexec {HANDOFFD} "$@"\n')
    upgrade(daemon)
    daemon.settle()
    assert len(daemon.seen("files-changed")) == before and generation(daemon.target) == number


@pytest.mark.parametrize("kind", ["written", "nothing"])
def test_crash(daemon, kind):
    watching(daemon, "src")
    if kind == "nothing":
        again(daemon)
        daemon.settle()
        assert not daemon.seen("files-changed") and generation(daemon.target) == 1
        return
    die(daemon)
    (daemon.directory / "src/file").write_text("two")
    come_back(daemon)
    daemon.wait_event("files-changed", service="web")
    daemon.wait_event("generation-serving", generation=2)
