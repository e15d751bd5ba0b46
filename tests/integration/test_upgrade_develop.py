# SPDX-License-Identifier: MIT
"""Development mode goes on with another handoffd: its terminal, what is typed, files, and clients that wait."""

import os
import select
import threading

import harness
from test_develop import SERVER, Project
from test_upgrade import own_program, replace, upgrade


def project(daemon, *options, **named):
    """With a program that a test may replace."""
    p = Project(daemon, *options, **named)
    program = own_program(daemon)
    daemon.command = lambda: [str(a) for a in (program, *daemon.argv)]
    return p, program


def test_everything_goes_on(daemon):
    p, _ = project(daemon)
    daemon.stdin, keyboard = os.pipe()
    p.start()
    os.write(keyboard, b"rs n")  # the rest comes later
    daemon.settle()
    upgrade(daemon)
    os.write(keyboard, b"one\n")
    daemon.wait_output('no service.*"none"')
    assert p.get() == "one"
    start = daemon.now()
    p.save("one", "two")
    daemon.wait_event("generation-serving", start=start)
    assert p.get() == "two"
    upgrade(daemon)
    os.write(keyboard, b"rs web\n")
    daemon.wait_event("generation-serving", generation=3)
    daemon.wait_output(r"^web +» generation 3 serves")
    os.close(keyboard)


def test_a_save_that_nobody_saw(daemon):
    p, program = project(daemon)
    p.start()
    run = f'[ -z "$HANDOFF_STATE_FD" ] || sed -i s/one/two/ {p.file}; exec {harness.HANDOFFD} "$@"'
    replace(program, f"#!/bin/sh\n{run}\n")
    upgrade(daemon)
    daemon.wait_event("generation-serving", generation=2)
    assert p.get() == "two"


def test_clients_that_wait_for_the_build(daemon):
    """They are answered by the new code, or, if it comes to nothing, by the old one."""
    script = "[ ! -e slow ] || { echo building; read status < go; exit $status; }"
    p, _ = project(daemon, "--build", "sh", "--build", "-c", "--build", script)
    os.mkfifo(daemon.directory / "go")
    p.start()
    (daemon.directory / "slow").touch()
    for number, status in enumerate((0, 1), 1):
        start, lines = daemon.now(), len(daemon.output.items)
        p.save("TEXT =", f"NUMBER = {number}\nTEXT =")
        daemon.wait_output("building", start=lines)
        with harness.Http(daemon.target) as waiting:
            waiting.send()
            upgrade(daemon)
            (daemon.directory / "go").write_text(f"{status}\n")
            answer = waiting.receive()[1]
            assert "generation=2" in answer  # the second one has failed
            if status:  # through a relay
                upgrade(daemon)
                assert waiting.generation() == 2
        daemon.wait_event("generation-failed" if status else "generation-serving", start=start)


def test_nothing_is_refused(daemon):
    p, _ = project(daemon, text=SERVER)
    p.start()
    seen, stop, wrong = [], threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                seen.append(harness.generation(daemon.target))
            except Exception as e:  # pylint: disable=broad-except
                wrong.append(repr(e))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for i in range(5):
            start = daemon.now()
            p.save("TEXT = ", f"NUMBER = {i}\nTEXT = ")
            upgrade(daemon)
            daemon.wait_event("generation-serving", start=start)
    finally:
        stop.set()
        thread.join()
    assert not wrong and seen == sorted(seen)


def test_wrong_file(daemon):
    """Nothing of it is needed to go on."""
    daemon.configure(harness.service(address=daemon.target))
    program = own_program(daemon)
    daemon.command = lambda: [str(program), "-c", str(daemon.file), "dev"]
    daemon.spawn()
    daemon.wait_output("serves")
    daemon.file.write_text("service {")
    upgrade(daemon)
    assert harness.generation(daemon.target) == 1


def test_its_end_is_the_end_of_its_workers(daemon):
    """Also when it has started none of them: the port is free for the next one."""
    script = "[ ! -e slow ] || { echo building $$; exec sleep 1000; }"
    p, _ = project(daemon, "--build", "sh", "--build", "-c", "--build", script)
    p.start()
    (daemon.directory / "slow").touch()
    p.save("one", "two")
    build = int(daemon.wait_output("building [0-9]").split()[-1])
    upgrade(daemon)
    ends = [os.pidfd_open(pid) for pid in (daemon.worker(1), build)]
    daemon.process.kill()
    daemon.process.wait()
    for end in ends:
        assert select.select([end], [], [], harness.LIMIT)[0]
        os.close(end)
    (daemon.directory / "slow").unlink()
    p.start()
    assert p.get() == "two"
