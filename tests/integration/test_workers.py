# SPDX-License-Identifier: MIT
"""The programs of handoff-workers(7), and the first example of libhandoff(3), as they are printed."""

import os
import re
import shutil
import subprocess

import pytest
from harness import BUILD, LIMIT, SOURCE, Http, connect, get, service


def examples(page):
    """{name of the first line, or number: text} of a page's blocks."""
    text = (SOURCE / "docs" / page).read_text()
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.S | re.M)
    named = {}
    for number, block in enumerate(blocks):
        name = re.match(r"(?:#|//) (worker\.\w+)\n", block)
        named[name[1] if name else number] = block
    return named


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def build(directory, name):
    """Its command."""
    (directory / name).write_text(examples("handoff-workers.7.scd")[name])
    if name == "worker.py":
        return ["/usr/bin/python3", directory / name]
    if name == "worker.js":
        need("node", "systemd-notify")
        return [shutil.which("node"), directory / name]
    need("go")
    environment = dict(os.environ, GOFLAGS="-mod=mod", GO111MODULE="off", GOCACHE=f"{directory}/cache")
    subprocess.run(
        ["go", "build", "-o", "worker", name], cwd=directory, env=environment, check=True, timeout=300
    )
    return [directory / "worker"]


def visits(target):
    return tuple(int(n) for n in re.match(r"visits=(\d+) pid=(\d+)\n", get(target)).groups())


@pytest.mark.timeout(360)
@pytest.mark.parametrize("name", ["worker.py", "worker.js", "worker.go"])
def test_worker_in_another_language(daemon, tmp_path, name):
    tmp_path.chmod(0o755)
    command = build(tmp_path, name)
    daemon.configure(service(command=command, address=daemon.target, extra='ready { by = "notify" }'))
    daemon.start()
    assert [visits(daemon.target)[0] for _ in range(3)] == [1, 2, 3]
    with Http(daemon.target) as held:
        assert held.get().startswith("visits=4 ")
        daemon.reload("web")
        seen, pid = visits(daemon.target)
        assert seen == 5 and pid == daemon.worker(2)
        # the old generation still has this connection, and counts in the same place
        assert held.get().startswith("visits=6 ")
        assert visits(daemon.target)[0] == 7
    daemon.wait_event("generation-gone", generation=1)
    assert daemon.wait_event("worker-exited", generation=1)["exit_code"] == 0
    assert not daemon.seen("connections-cut") and not daemon.seen("worker-killed")


def test_example_of_the_manual(daemon, tmp_path):
    need("cc")
    tmp_path.chmod(0o755)
    source = tmp_path / "echo.c"
    source.write_text(examples("libhandoff.3.scd")[0])
    library = BUILD / "lib"
    symbols = subprocess.run(["nm", "-D", library / "libhandoff.so"], capture_output=True, text=True)
    sanitize = ["-fsanitize=address,undefined"] if "__asan_init" in symbols.stdout else []
    command = ["cc", *sanitize, "-Wall", "-Wextra", "-Werror", f"-I{SOURCE}/lib", "-o", tmp_path / "echo", source]
    command += [f"-L{library}", f"-Wl,-rpath,{library}", "-lhandoff", "-lev"]
    subprocess.run(command, check=True, timeout=120)
    text = service(command=[tmp_path / "echo"], address=daemon.target, extra='drain { by = "auto" }')
    daemon.configure(text.replace('"http"', '"echo"'))
    daemon.start()

    def say(connection):
        connection.sendall(b"hello\n")
        assert connection.recv(100) == b"hello\n"

    with connect(daemon.target) as old:
        say(old)
        daemon.reload("web")
        say(old)
        with connect(daemon.target) as new:
            say(new)
        old.settimeout(LIMIT)
        assert old.recv(1) == b""  # after the time of grace
    daemon.wait_event("generation-gone", generation=1)
    assert daemon.wait_event("worker-exited", generation=1)["exit_code"] == 0
