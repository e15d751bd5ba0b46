# SPDX-License-Identifier: MIT
"""An independent varlink client, Debian's golang-github-varlink-go-dev, uses the control socket."""

import os
import pathlib
import shutil
import subprocess

import pytest
from harness import HERE, Client, Lines, service

LIBRARY = pathlib.Path("/usr/share/gocode/src/github.com/varlink/go/varlink")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    if not shutil.which("go") or not LIBRARY.exists():
        pytest.skip("golang-go or golang-github-varlink-go-dev is not installed")
    directory = tmp_path_factory.mktemp("varlink")
    environment = dict(
        os.environ, GO111MODULE="off", GOPATH="/usr/share/gocode", GOFLAGS="", GOPROXY="off", GOCACHE=os.environ.get("GOCACHE", f"{directory}/cache"), GOMAXPROCS="2"
    )
    subprocess.run(
        ["go", "build", "-o", directory / "client", HERE / "varlink/client.go"], env=environment, check=True, timeout=200
    )
    return directory / "client"


@pytest.mark.timeout(240)
def test_go_client(client, daemon):
    daemon.configure(service(address=daemon.target)).start()
    process = subprocess.Popen([client, daemon.control], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    said = Lines(process.stdout)
    try:
        said.wait(lambda line: line == "following", "the answer to Events")
        daemon.reload("web")
        said.wait(lambda line: line == "serving 2", "the event")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert said.items[:4] == [
        "product handoffd",
        "interface org.varlink.service true",
        "interface dev.handoff.Manager true",
        "service web 1",
    ]


def test_every_method_is_described(daemon):
    """And what is not described is not there."""
    daemon.configure(service(address=daemon.target)).start()
    with Client(daemon.control) as c:
        c.socket.sendall(b'{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"dev.handoff.Manager"}}\0')
        text = c.receive()["parameters"]["description"]
        described = {line.split("(")[0].split()[1] for line in text.splitlines() if line.startswith("method ")}
        source = (HERE.parent.parent / "daemon/control/methods.c").read_text()
        methods = {part.split('"')[1][1:] for part in source.split(".name = INTERFACE_MANAGER")[1:]}
        assert described == methods
        assert c.call("Nonsense")["error"] == "org.varlink.service.MethodNotFound"
