# SPDX-License-Identifier: MIT
"""A reload: what the old generation has it answers, everything new goes to the new one."""

import pathlib
import socket
import sys

import pytest
from harness import NOBODY, Http, Load, connect, generation, service

RELOADS = 20
OLD = 8  # generations that drain at once; more would be stopped before their time
ROLLOUT = f' rollout {{ bake = "0" max-old = {OLD + 1} }}'


def test_old_answers_what_it_has_new_takes_what_comes(daemon):
    daemon.configure(service(address=daemon.target)).start()
    old = daemon.worker(1)
    with Http(daemon.target) as slow:
        slow.send("/?sleep=2")
        # the request has to be with the old one, not only on its way
        assert generation(daemon.target) == 1
        assert daemon.reload("web")["generation"] == 2
        new = daemon.worker(2)
        with Http(daemon.target) as fast:
            assert f"pid={new} generation=2" in fast.get("/?sleep=0")
        assert f"pid={old} generation=1" in slow.receive()[1]
    assert old != new
    daemon.wait_event("generation-gone", generation=1)
    assert daemon.generations() == {2: "serving"}
    assert not daemon.seen("connections-cut")


def reload_often(daemon, load_targets, workers, reloads=RELOADS, **load):
    with Load(*load_targets, **load) as running:
        for number in range(2, reloads + 2):
            if number > OLD:
                daemon.wait_event("generation-gone", generation=number - OLD)
            assert daemon.reload("web")["generation"] == number
            pids = {w["pid"] for w in daemon.service()["generations"][0]["workers"]}
            assert len(pids) == workers and None not in pids
        result = running.check()
    assert len(result["generations"]) > reloads // 2, "the load did not see the reloads"
    for number in range(1, reloads + 1):
        daemon.wait_event("generation-gone", generation=number)
    assert not daemon.seen("connections-cut")
    assert not daemon.seen("worker-crashed")
    return result


ADDRESSES = {
    "v4": (["127.0.0.1:{port}"], ["127.0.0.1:{port}"]),
    "v6": (["[::1]:{port}"], ["[::1]:{port}"]),
    "dual": (["*:{port}"], ["127.0.0.1:{port}", "[::1]:{port}"]),
    "two": (["127.0.0.1:{port}", "[::1]:{port}"], ["127.0.0.1:{port}", "[::1]:{port}"]),
    "path": (["unix:{run}/web.sock"], ["unix:{run}/web.sock"]),
    "abstract": (["unix:@handoff-{port}"], ["unix:@handoff-{port}"]),
}
CASES = [
    # address, steering, ordinary user, workers
    ("v4", "ebpf", False, 1),
    ("v4", "cbpf", False, 4),
    ("v4", "cbpf", True, 1),
    ("v6", "ebpf", False, 4),
    ("v6", "cbpf", True, 1),
    ("dual", "ebpf", False, 1),
    ("dual", "cbpf", True, 4),
    ("two", "ebpf", False, 1),
    ("path", "rename", False, 4),
    ("path", "rename", True, 1),
    ("abstract", "shared", False, 1),
    ("abstract", "shared", True, 4),
]


@pytest.mark.parametrize("address, steering, ordinary, workers", CASES)
def test_reload_under_load(daemons, request, address, steering, ordinary, workers):
    if ordinary:
        request.getfixturevalue("root")
    daemon = daemons(
        user=NOBODY if ordinary else None,
        environment={"HANDOFF_STEERING": "cbpf"} if steering == "cbpf" else None,
    )
    listen, targets = (
        [a.format(port=daemon.port, run=daemon.run) for a in side] for side in ADDRESSES[address]
    )
    # whoever shares a socket can only be told by signal; the others are not told before they are idle
    drain = 'drain { by = "signal" }' if steering == "shared" else 'drain { deadline = "20s" }'
    daemon.configure(service(address=listen, workers=workers, extra=drain + ROLLOUT)).start()
    seen = {l["steering"] for l in daemon.service()["listeners"]}
    if seen == {"cbpf"} and steering == "ebpf":
        pytest.skip("no right to load eBPF programs")
    assert seen == {steering}
    reload_often(daemon, targets, workers, requests_per_connection=10)


def test_signal_drain_under_load(daemon):
    daemon.configure(
        service(address=daemon.target, workers=2, extra='drain { by = "signal" }' + ROLLOUT)
    ).start()
    reload_often(daemon, [daemon.target], 2)


def test_reload_by_hup(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with Load(daemon.target):
        for number in range(2, 7):
            daemon.signal(1)
            daemon.wait_event("generation-serving", generation=number)


def test_one_program_without_a_file(daemons):
    daemon = daemons()
    from harness import SLEEPD  # the command stands on the command line here

    daemon.argv = ["-l", daemon.target, "--bake", "0", "--control-socket", daemon.control, "--", SLEEPD]
    daemon.start()
    with Load(daemon.target):
        for number in range(2, 5):
            assert daemon.reload()["generation"] == number
    assert daemon.status()["services"][0]["name"] == "sleepd"


def test_udp_is_shared(daemon):
    """A datagram socket is passed to every generation."""
    from harness import WORKER

    daemon.configure(
        service(
            address=f"udp:127.0.0.1:{daemon.port}",
            command=[*WORKER, "udp"],
            extra='ready { by = "notify" } drain { by = "signal" }',
        )
    ).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect(("127.0.0.1", daemon.port))
        s.send(b"?")
        assert s.recv(100) == b"1"
        daemon.reload("web")
        daemon.wait_event("generation-gone", generation=1)
        s.send(b"?")
        assert s.recv(100) == b"2"


def test_socket_file_is_there_all_the_time(daemon):
    path = pathlib.Path(daemon.run) / "web.sock"
    daemon.configure(service(address=f"unix:{path}")).start()
    for number in range(2, 5):
        daemon.reload("web", "--wait", "drained")
        assert generation(f"unix:{path}") == number
        assert path.is_socket()
    assert sorted(p.name for p in daemon.run.iterdir() if not p.name.startswith(".")) == [
        "control",
        "control.state",
        "web.sock",
    ]


def test_own_choice_of_blocking_outlives_the_generation_before(daemon):
    """What a worker makes of the sockets of its own generation stays, when an older one leaves."""
    script = daemon.directory / "worker.py"
    script.write_text(
        "import os, socket\ns = socket.socket(fileno=3)\ns.setblocking(True)\n"
        "while True:\n    c = s.accept()[0]\n    c.sendall(os.environ['HANDOFF_GENERATION'].encode())\n    c.close()\n"
    )
    daemon.configure(service(address=daemon.target, command=[sys.executable, script])).start()
    daemon.reload("web", "--wait", "drained")
    for _ in range(3):  # the first finds it waiting already
        with connect(daemon.target) as s:
            assert s.recv(10) == b"2"
    daemon.settle()
    assert not daemon.seen("worker-crashed")
