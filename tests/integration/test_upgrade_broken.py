# SPDX-License-Identifier: MIT
"""A new handoffd that says it understands the state and then does not start: the one that ran goes on, with
everything it had."""

import os
import shutil
import signal
import subprocess

import pytest
from harness import HANDOFFD, SLEEPD, Http, Load, generation, service
from test_upgrade import own_program, replace, upgrade

# Does it in a call that is made once, when everything is loaded and nothing was done with it yet.
FAILS = """
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
static int overflow(volatile char *p) { volatile char more[4096]; more[0] = *p; return overflow(more) + more[1]; }
static void fail(void)
{
	char c = 0;
	if (unlink(MARK) < 0)
		return;
	switch (HOW) {
	case 0: exit(0);
	case 1: abort();
	case 2: raise(SIGSEGV); break;
	case 3: overflow(&c); break;
	case 4: raise(SIGALRM); /* as comes after 30 seconds */
	}
}
void ev_prepare_start(void *loop, void *prepare)
{
	fail();
	((void (*)(void *, void *))dlsym(RTLD_NEXT, "ev_prepare_start"))(loop, prepare);
}
"""
HOW = {"exits": 0, "aborts": 1, "crashes": 2, "overflows its stack": 3, "hangs": 4}


def everything(daemon, program):
    """One generation drains, one serves, one starts, and somebody waits for it."""
    gate = daemon.directory / "gate"
    extra = f'ready {{ by = "exec:test ! -e {gate}" }} drain {{ deadline = "20s" }}'
    daemon.configure(service(address=daemon.target, command=[SLEEPD], extra=extra)).start()
    old = Http(daemon.target)
    assert old.generation() == 1
    daemon.reload("web")
    gate.touch()
    waiting = daemon.ctl_later("reload", "web")
    daemon.wait_event("worker-started", generation=3)
    return gate, old, waiting


def check_all(daemon, gate, old, waiting):
    assert daemon.generations() == {1: "draining", 2: "serving", 3: "starting"}
    assert old.generation() == 1 and generation(daemon.target) == 2
    gate.unlink()
    waiting.wait(0)
    assert generation(daemon.target) == 3
    old.close()
    daemon.wait_event("generation-gone", generation=1)


def make_failing(daemon, how):
    """A program that starts handoffd with a library that makes it fail; the next time it does not."""
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    mark, source, library = (daemon.directory / n for n in ("mark", "fails.c", "fails.so"))
    source.write_text(FAILS)
    defines = [f'-DMARK="{mark}"', f"-DHOW={HOW[how]}", "-D_GNU_SOURCE"]
    subprocess.run([compiler, "-shared", "-fPIC", "-O0", *defines, "-o", library, source], check=True)
    mark.touch()
    return f'#!/bin/sh\n[ -z "$HANDOFF_STATE_FD" ] || export LD_PRELOAD={library}\nexec {HANDOFFD} "$@"\n'


@pytest.mark.parametrize("how", HOW)
def test_crash_after_the_checks(daemon, how):
    if subprocess.run(["grep", "-q", "__asan_init", HANDOFFD], check=False).returncode == 0:
        pytest.skip("a library cannot be loaded before the sanitizer's")
    program = own_program(daemon)
    script = make_failing(daemon, how)
    states = everything(daemon, program)
    pid = daemon.process.pid
    with Load(daemon.target, rate=100):
        replace(program, script)
        said = upgrade(daemon, code=1)
        assert "the running handoffd goes on" in said
        assert {"exits": "ended", "hangs": "in time"}.get(how, "crashed") in said
        assert not daemon.seen("daemon-upgraded") and daemon.wait_event("upgrade-refused")
        assert os.readlink(f"/proc/{pid}/exe").startswith(str(program))  # the old file
        check_all(daemon, *states)
        shutil.copy2(HANDOFFD, program.with_suffix(".new"))
        program.with_suffix(".new").rename(program)
        upgrade(daemon)
        assert daemon.reload("web")["generation"] == 4


@pytest.mark.parametrize("what", ["kill -SEGV $$", "exit 0", "exit 1", "echo good; exit 0"])
def test_it_is_tried(daemon, what):
    """A program that answers the question well, and does not start as handoffd."""
    program = own_program(daemon)
    states = everything(daemon, program)
    with Load(daemon.target, rate=100):
        replace(program, f'#!/bin/sh\n[ "$1" = --check-snapshot ] && exec {HANDOFFD} "$@"\n{what}\n')
        assert str(program) in upgrade(daemon, code=1)
        assert daemon.wait_event("upgrade-refused")
        check_all(daemon, *states)


def test_options_are_tried(daemon):
    """It understands the state, but not how it is called."""
    program = own_program(daemon)
    states = everything(daemon, program)
    replace(program, f'#!/bin/sh\n[ "$1" = --check-snapshot ] || set -- --new "$@"\nexec {HANDOFFD} "$@"\n')
    assert "--new is not an option" in upgrade(daemon, code=1)
    check_all(daemon, *states)


def test_wrong_file_is_no_hindrance(daemon):
    """The configuration is read at the next reload."""
    daemon.configure(service(address=daemon.target)).start()
    daemon.file.write_text("service {")
    daemon.signal(signal.SIGUSR2)
    daemon.wait_event("daemon-upgraded")
    daemon.ctl("reload", code=2)
    assert generation(daemon.target) == 1
