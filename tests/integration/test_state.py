# SPDX-License-Identifier: MIT
"""What is written down for who comes after a crash: where there is no room for it, and with many services."""

import os
import pathlib
import signal
import subprocess

import pytest
from harness import Events, service

NO_STATE = "the state cannot be written"


def in_namespace(daemon):
    """Its directory for sockets is a small disk that only it and its workers see."""
    command = daemon.command()
    mount = f"mount -t tmpfs -o size=128k none {daemon.run}"
    daemon.command = lambda: ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    return command


def look_into(daemon):
    """From outside."""
    daemon.wait_log("daemon-recovered|config-loaded")
    daemon.control = pathlib.Path(f"/proc/{daemon.process.pid}/root{daemon.run}/control")
    daemon.events = Events(daemon.control)


def fill(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    size = 4096
    while size:
        try:
            os.write(fd, b"x" * size)
        except OSError:
            size //= 2
    os.close(fd)


def come_back(daemon):
    daemon.spawn()
    daemon.wait_log("daemon-recovered")
    daemon.events = Events(daemon.control)


def written(daemon):
    """Bytes, to whatever."""
    text = pathlib.Path(f"/proc/{daemon.process.pid}/io").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("wchar:")).split()[1])


def told(daemon):
    return sum(NO_STATE in line for line in daemon.log.items)


def test_full_disk(daemon, root):
    """It is told once, nothing else suffers, and it is written as soon as there is room."""
    daemon.configure(service(address=daemon.target))
    command = in_namespace(daemon)
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode:
        pytest.skip("cannot mount here")
    daemon.spawn()
    look_into(daemon)
    daemon.wait_event("daemon-ready")
    filler = daemon.control.parent / "filler"
    fill(filler)
    for _ in range(12):  # until what was written is so much that it is to be written anew
        daemon.ctl("reload", "web", "--wait", "drained", code=0)
    assert 1 <= told(daemon) <= 3  # what is written anew may fit where the old state was
    assert daemon.wait_log(NO_STATE).endswith("No space left on device")
    filler.unlink()
    daemon.wait_log("the state is written again")
    daemon.ctl("reload", "web", "--wait", "drained", code=0)
    number = daemon.service()["generation"]
    before = daemon.worker(number)
    daemon.signal(signal.SIGKILL)
    daemon.process.wait()
    daemon.command = lambda: ["nsenter", f"--mount=/proc/{before}/ns/mnt", "--", *command]
    daemon.spawn()
    look_into(daemon)
    daemon.wait_event("daemon-recovered")
    assert daemon.worker(number) == before
    daemon.ctl("reload", "web", code=0)
    assert told(daemon) == 0


def test_too_large_a_file(daemon):
    """A limit of its size does not kill handoffd either (SIGXFSZ)."""
    daemon.configure(service(address=daemon.target))
    command = daemon.command()
    daemon.command = lambda: ["prlimit", "--fsize=8192:unlimited", "--", *command]
    daemon.start()
    daemon.wait_log(NO_STATE)
    daemon.ctl("reload", "web", "--wait", "drained", code=0)
    assert told(daemon) == 1
    subprocess.run(["prlimit", f"--pid={daemon.process.pid}", "--fsize=unlimited"], check=True)
    daemon.wait_log("the state is written again")
    before = daemon.worker(2)
    daemon.signal(signal.SIGKILL)
    daemon.process.wait()
    daemon.command = lambda: command
    come_back(daemon)
    assert daemon.worker(2) == before
    assert daemon.generations() == {2: "serving"}


def test_a_reload_writes_only_its_own_service(daemon):
    """Whatever the others are like, and how many. (Now and then all is written anew.)"""
    del daemon.environment["HANDOFF_CHECK_STATE"]  # which looks at all of them
    least = []
    for others in (1, 200):
        services = [service(name=f"other-{i}", command=["/bin/sleep", "infinity"]) for i in range(others)]
        daemon.configure(service(address=daemon.target), *services).start()
        sizes = []
        for _ in range(4):
            begin = written(daemon)
            daemon.ctl("reload", "web", "--wait", "drained", code=0)
            daemon.settle()
            sizes.append(written(daemon) - begin)
        least.append(min(sizes))
        daemon.stop()
    assert 0 < least[1] < 1.5 * least[0], least


def test_services_that_come_and_go(daemon):
    """What is gone is not there for the next handoffd, what is left is."""
    names = [f"s{i}" for i in range(12)]
    sleeper = {n: service(name=n, command=["/bin/sleep", "infinity"]) for n in names}
    daemon.configure(*sleeper.values()).start()
    daemon.ctl("reload", "s0", "s3", code=0)
    daemon.configure(*(sleeper[n] for n in names[::2]))
    daemon.ctl("reload", code=0)
    daemon.configure(*(sleeper[n] for n in [*names[::2], "s1"]))
    daemon.ctl("reload", code=0)
    want = {s["name"]: s["generations"][-1]["workers"][0]["pid"] for s in daemon.status()["services"]}
    daemon.signal(signal.SIGKILL)
    daemon.process.wait()
    come_back(daemon)
    found = {s["name"]: s["generations"][-1]["workers"][0]["pid"] for s in daemon.status()["services"]}
    assert found == want
    assert sorted(found) == sorted([*names[::2], "s1"])
