# SPDX-License-Identifier: MIT
"""handoffctl connections: who is still connected."""

import json
import os
import socket

import pytest
from harness import SCHEMAS, Client, Http, connect, generation, service


def listed(daemon, *arguments, name="web"):
    document = json.loads(daemon.ctl("--json", "connections", name, *arguments, code=0).stdout)
    SCHEMAS["connections"].validate(document)
    return document["connections"]


def peer(client):
    host, port = client.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def test_tcp_of_two_generations(daemon):
    daemon.configure(service(address=[daemon.target, f"[::1]:{daemon.port}"], workers=2)).start()
    with Http(daemon.target) as old, Http(f"[::1]:{daemon.port}") as old6:
        old.get()
        old6.get()
        daemon.reload("web")
        daemon.wait_event("generation-draining", generation=1)
        with Http(daemon.target) as new:
            new.get()
            found = {c["peer"]: c for c in listed(daemon)}
            assert set(found) == {peer(c) for c in (old, old6, new)}
            assert [found[peer(c)]["generation"] for c in (old, old6, new)] == [1, 1, 2]
            for connection in found.values():
                assert connection["state"] == "established" and connection["listener"] == "http"
                assert connection["pid"] == daemon.worker(connection["generation"], connection["worker"])
                assert connection["idle"] <= connection["age"] < 60
                assert connection["queued_in"] == connection["queued_out"] == 0
            assert [c["peer"] for c in listed(daemon, "--generation", "2")] == [peer(new)]
            text = daemon.ctl("connections", "web", code=0).stdout.splitlines()
            assert text[0].split() == ["GEN", "WORKER", "PID", "STATE", "AGE>=", "IDLE", "IN", "OUT", "PEER"]
            assert len(text) == 4 and any(peer(old6) + " (http)" in line for line in text)
    assert listed(daemon) == []


def test_what_is_queued_and_what_is_unread(daemon):
    """A program that listens and never accepts."""
    program = daemon.directory / "program.py"
    program.write_text("import signal; signal.pause()")
    daemon.configure(
        service(address=[daemon.target, f"unix:{daemon.run}/web.sock"], command=["python3", program], extra='ready { by = "after:1ms" } drain { deadline = "100ms" }')
    ).start()
    with connect(daemon.target) as waiting, connect(f"unix:{daemon.run}/web.sock"):
        waiting.sendall(b"12345")
        found = {c["peer"]: c for c in listed(daemon)}
        assert len(found) == 2
        for connection in found.values():
            assert connection["state"] == "queued" and connection["pid"] is connection["worker"] is None
        assert found[f"127.0.0.1:{waiting.getsockname()[1]}"]["queued_in"] == 5
        assert "unix" in found


def test_unix(daemon):
    path = f"{daemon.run}/web.sock"
    daemon.configure(service(address=f"unix:{path}")).start()
    with Http(f"unix:{path}") as client:
        client.get()
        (found,) = listed(daemon)
        assert found["peer"] == f"unix pid {os.getpid()}"
        assert found["worker"] == 0 and found["pid"] == daemon.worker(1)
        assert found["idle"] is None


def test_a_child_of_the_worker_holds_it(daemon):
    program = daemon.directory / "program.py"
    program.write_text("""
import os, socket, sys
s = socket.socket(fileno=3)
s.setblocking(True)
if os.fork():
    os.wait()
while True:
    c = s.accept()[0]
    c.recv(100)
    c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%d" % (len(str(os.getpid())), os.getpid()))
    c.recv(100)
    c.close()
""")
    daemon.configure(service(address=daemon.target, command=["python3", program], extra='ready { by = "after:1ms" } drain { deadline = "100ms" }')).start()
    with Http(daemon.target) as client:
        child = int(client.get())
        (found,) = listed(daemon)
        assert found["pid"] == child != daemon.worker(1)
        assert found["worker"] == 0


def test_wrong_usage(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.ctl("connections", "nobody", code=2)
    daemon.ctl("connections", "web", "--generation", "9", code=2)
    daemon.ctl("connections", "web", "--generation", "0", code=2)
    with Client(daemon.control) as client:
        assert client.call("Connections", service="web")["error"] == "org.varlink.service.ExpectedMore"
        assert client.call("Connections", service="web", generation="x")["error"].endswith("InvalidParameter")


@pytest.mark.parametrize("gone", ["generation", "client"])
def test_somebody_goes_in_the_middle(daemon, gone):
    """Many connections and a reader that stops: the daemon does other work, a generation ends and is
    forgotten meanwhile."""
    daemon.configure(service(address=daemon.target)).start()
    clients = [connect(daemon.target) for _ in range(3000)]
    with Http(daemon.target) as last:  # what came before it has been accepted
        last.get()
    with Client(daemon.control) as reader:
        reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.send("Connections", more=True, service="web")
        first = reader.receive()
        assert first["continues"]
        daemon.reload("web")
        assert generation(daemon.target) == 2
        for client in clients:
            client.close()
        daemon.wait_event("generation-gone", generation=1)
        found = first["parameters"]["connections"]
        while gone == "generation":
            reply = reader.receive()
            found += reply["parameters"]["connections"]
            if not reply.get("continues"):
                break
    if gone == "generation":
        assert all(c["generation"] == 1 and c["worker"] in (0, None) for c in found)
        assert len({c["peer"] for c in found}) == len(found) > 100
    assert listed(daemon) == []


def test_all_of_many(daemon):
    daemon.configure(service(address=daemon.target)).start()
    clients = [connect(daemon.target) for _ in range(3000)]
    with Http(daemon.target) as last:
        last.get()
        found = listed(daemon)
    wanted = {f"127.0.0.1:{c.getsockname()[1]}" for c in clients}
    assert wanted <= {c["peer"] for c in found}
    assert len(found) == 3001 and all(c["worker"] == 0 for c in found)
    for client in clients:
        client.close()
