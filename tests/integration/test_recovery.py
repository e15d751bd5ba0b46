# SPDX-License-Identifier: MIT
"""handoffd dies without systemd above it: the next one goes on with the workers, from the file beside the
control socket. (With systemd: tests/systemd.)"""

import os
import random
import select
import signal
import socket
import time

import pytest
from binders import binder, configured
from harness import BUILD, LIMIT, NOBODY, WORKER, Events, Http, Load, free_port, generation, get, pid, service


def die(daemon, reason=signal.SIGKILL):
    daemon.signal(reason)
    daemon.process.wait()


def come_back(daemon):
    """Another one, started the same way."""
    daemon.spawn()
    daemon.wait_log("daemon-recovered|config-loaded")
    daemon.events = Events(daemon.control)


def again(daemon):
    die(daemon)
    come_back(daemon)
    daemon.wait_event("daemon-recovered")


@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
@pytest.mark.parametrize("user", [None, NOBODY])
def test_under_load(daemons, root, steering, user):
    daemon = daemons(user=user, environment={"HANDOFF_STEERING": steering})
    daemon.configure(service(address=daemon.target, workers=2)).start()
    chance = random.Random(steering)
    with Load(daemon.target, rate=100):
        for number in range(2, 5):
            daemon.reload("web")
            before = daemon.worker(number)
            again(daemon)
            assert daemon.worker(number) == before
            waiting = daemon.ctl_later("reload", "web")
            time.sleep(chance.random() * 0.02)  # the moment is what is tested
            die(daemon)
            waiting.wait()
            come_back(daemon)
            daemon.ctl("wait", "web", code=0)
            now = daemon.service()["generation"]
            # the reload was done, or is begun anew, or its order was lost
            daemon.configure(service(address=daemon.target, workers=2))
            daemon.ctl("reload", "web", "--wait", "drained", code=0)
            assert daemon.service()["generation"] > now
            break
    daemon.ctl("reload", "web", code=0)


@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
def test_nobody_goes_astray_while_it_is_gone(daemons, steering):
    """The kernel's group changes when handoffd's own socket leaves it."""
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    daemon.configure(service(address=daemon.target)).start()
    for number in range(2, 6):
        with Http(daemon.target) as old:
            old.get()
            daemon.reload("web")
            assert daemon.generations() == {number - 1: "draining", number: "serving"}
            die(daemon)
            assert {generation(daemon.target) for _ in range(30)} == {number}
            come_back(daemon)
            assert {generation(daemon.target) for _ in range(30)} == {number}
        daemon.ctl("wait", "web", "--for", "drained", code=0)


@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
def test_nobody_waits_where_nobody_accepts(daemons, steering):
    """At handoffd's own listeners, which it has passed to programs that bind theirs."""
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    configured(daemon, binder("plain")).start()
    for number in range(2, 5):
        with Http(daemon.target) as old:
            old.get()
            daemon.reload("web")
            die(daemon)
            assert {generation(daemon.target) for _ in range(30)} <= {number - 1, number}
            come_back(daemon)
            assert {generation(daemon.target) for _ in range(30)} == {number}
        daemon.ctl("wait", "web", "--for", "drained", code=0)
        die(daemon)
        assert {generation(daemon.target) for _ in range(30)} == {number}
        come_back(daemon)


def test_drain_goes_on(daemon):
    extra = 'drain { deadline = "4s" kill-after = "1s" }'
    daemon.configure(service(address=daemon.target, extra=extra)).start()
    with Http(daemon.target) as old:
        assert old.generation() == 1
        daemon.reload("web")
        again(daemon)
        assert daemon.generations() == {1: "draining", 2: "serving"}
        assert old.generation() == 1 and generation(daemon.target) == 2
        assert daemon.wait_event("connections-cut", generation=1)["connections"] == 1
    daemon.wait_event("generation-gone", generation=1)


def test_worker_that_died_meanwhile(daemon):
    daemon.configure(service(address=daemon.target, workers=2)).start()
    first, second = daemon.worker(1, 0), daemon.worker(1, 1)
    die(daemon)
    os.kill(first, signal.SIGKILL)
    come_back(daemon)
    event = daemon.wait_event("worker-started")
    assert event["worker"] == 0 and daemon.worker(1, 1) == second
    assert {pid(daemon.target) for _ in range(40)} <= {event["pid"], second}


def test_all_workers_died(daemon):
    """There is nothing to go on with: it starts from the beginning."""
    daemon.configure(service(address=daemon.target)).start()
    worker = daemon.worker(1)
    fd = os.pidfd_open(worker)
    die(daemon)
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    assert select.select([fd], [], [], 20)[0]
    os.close(fd)
    daemon.spawn()
    daemon.listen_to_events()
    daemon.wait_event("daemon-ready")
    assert daemon.worker(1) != worker and generation(daemon.target) == 1


def test_start_under_way(daemon):
    """A worker that nobody knows is not left behind, and the start is made anew."""
    gate = daemon.directory / "gate"
    os.mkfifo(gate)
    extra = 'ready { by = "notify" }'
    command = [*WORKER, "gated", gate]
    daemon.configure(service(address=daemon.target, command=command, extra=extra)).start()
    daemon.signal(signal.SIGHUP)
    starting = daemon.wait_event("worker-started", generation=2)["pid"]
    again(daemon)
    daemon.wait_event("worker-started", generation=3)
    assert generation(daemon.target) == 1
    gate.write_text("")
    daemon.wait_event("generation-serving", generation=3)
    assert pid(daemon.target) != starting
    daemon.wait_event("generation-gone", generation=2)


def test_output_goes_on(daemon):
    """A worker that writes while nobody reads does not end by that."""
    daemon.configure(service(address=daemon.target)).start()
    again(daemon)
    daemon.reload("web")  # it says that it drains
    daemon.wait_event("generation-gone", generation=1)
    exited = daemon.wait_event("worker-exited", generation=1)
    assert exited.get("exit_signal") is None and exited.get("exit_code") in (0, None)  # None: not known
    daemon.wait_log(r"sleepd\[")


def test_kept_memory(daemon):
    """handoffd had it last, but those who use it have it as well."""
    daemon.configure(service(address=daemon.target, command=[BUILD / "contrib/examples/counterd"])).start()
    for visit in range(1, 6):
        assert f"visit={visit} " in get(daemon.target)
        daemon.reload("web", "--wait", "drained")
        again(daemon)
    assert "visit=6 " in get(daemon.target)


def test_kept_descriptor(daemon):
    daemon.configure(service(address=daemon.target, command=[*WORKER, "keeps"])).start()
    for count in range(1, 4):
        assert get(daemon.target).startswith(f"count={count} ")
        again(daemon)
        daemon.reload("web")


def udp_ask(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(LIMIT)
        s.connect(("127.0.0.1", port))
        s.send(b"who")
        return int(s.recv(10))


def test_udp(daemon):
    """One socket for all generations: who asks while nobody is there is answered by the worker."""
    command = [*WORKER, "udp"]
    daemon.configure(service(address=f"udp:{daemon.target}", command=command)).start()
    for number in range(1, 4):
        assert udp_ask(daemon.port) == number
        die(daemon)
        assert udp_ask(daemon.port) == number
        come_back(daemon)
        assert udp_ask(daemon.port) == number
        daemon.reload("web", "--wait", "drained")


def test_several_services(daemon):
    """Each of a kind of its own; one had a reload under way."""
    gate = daemon.directory / "gate"
    os.mkfifo(gate)
    targets = {"web": daemon.target, "name": f"unix:{daemon.run}/s.sock", "abstract": f"unix:@handoff-{daemon.mark}"}
    texts = [service(name=name, address=target) for name, target in targets.items()]
    gated = [*WORKER, "gated", gate]
    slow = f"127.0.0.1:{free_port()}"
    texts.append(service(name="slow", address=slow, command=gated, extra='ready { by = "notify" }'))
    daemon.configure(*texts).start()
    workers = {name: daemon.worker(1, name=name) for name in targets}
    waiting = daemon.ctl_later("reload", "slow")
    daemon.wait_event("worker-started", service="slow", generation=2)
    die(daemon)
    waiting.wait(5)
    assert {name: pid(target) for name, target in targets.items()} == workers
    come_back(daemon)
    assert {name: daemon.worker(1, name=name) for name in targets} == workers
    daemon.wait_event("worker-started", service="slow", generation=3)
    assert generation(slow) == 1
    gate.write_text("")
    daemon.wait_event("generation-serving", service="slow", generation=3)
    daemon.ctl("reload", *targets, code=0)
    assert [generation(target) for target in targets.values()][:2] == [2, 2]  # the third is shared


@pytest.mark.parametrize("mode", ["adopt", "auto"])
def test_program_that_binds_itself(daemon, mode):
    """It serves on, is replaced when it dies, and is reloaded."""
    configured(daemon, binder("plain"), mode).start()
    with Load(daemon.target, rate=50):
        again(daemon)
        daemon.wait_log(r'generation 1 of service "web" .* reload it')
        assert daemon.reload("web")["generation"] == 2
        again(daemon)
    start = daemon.now()
    before = daemon.worker(2)
    os.kill(before, signal.SIGKILL)
    daemon.wait_event("socket-adopted", start=start)
    assert generation(daemon.target) == 2 and pid(daemon.target) != before


def test_unix_socket(daemon):
    target = f"unix:{daemon.run}/web.sock"
    daemon.configure(service(address=target)).start()
    again(daemon)
    assert generation(target) == 1
    assert daemon.reload("web")["generation"] == 2
    assert generation(target) == 2


def test_file_of_others_is_not_believed(daemons, root):
    daemon = daemons()
    daemon.configure(service(address=daemon.target))
    state = daemon.control.with_name("control.state")
    state.write_text("anything")
    os.chown(state, NOBODY, NOBODY)
    daemon.start()
    assert generation(daemon.target) == 1
    assert state.read_text() == "anything"
    state.unlink()


@pytest.mark.parametrize("text", ["", "HOSTATE\0" + "x" * 5000, "\0" * 4096 + "{}"])
def test_broken_file(daemon, text):
    daemon.configure(service(address=daemon.target))
    state = daemon.control.with_name("control.state")
    state.write_text(text)
    state.chmod(0o600)
    daemon.start()
    assert generation(daemon.target) == 1
