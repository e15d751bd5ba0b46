# SPDX-License-Identifier: MIT
"""The end of the daemon and of services, and who may not end them."""

import os
import signal
import socket
import subprocess

import pytest
from harness import HANDOFFD, SLEEPD, WORKER, Http, Load, connect, generation, service


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("address", ["tcp", "path"])
def test_stop_answers_what_is_there(daemon, number, address):
    target = daemon.target if address == "tcp" else f"unix:{daemon.run}/web.sock"
    daemon.configure(service(address=target, workers=2)).start()
    with Http(target) as slow:
        slow.send("/?sleep=0.7")
        assert generation(target) == 1
        daemon.signal(number)
        assert "generation=1" in slow.receive()[1]
    daemon.wait_exit(0)
    assert not daemon.seen("connections-cut")


def test_second_term_stops_at_once(daemon):
    daemon.configure(service(address=daemon.target)).start()
    with Http(daemon.target) as slow:
        slow.send("/?sleep=3000")
        assert generation(daemon.target) == 1
        daemon.signal(signal.SIGTERM)
        daemon.wait_event("generation-draining", generation=1)
        daemon.signal(signal.SIGTERM)
        daemon.wait_exit(0)
        assert slow.ended()


def test_stop_while_a_generation_starts(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service("--never-ready", address=daemon.target, extra='ready { by = "notify" }'))
    reload = daemon.ctl_later("reload")
    daemon.wait_event("worker-started", generation=2)
    daemon.stop()
    assert "stopp" in reload.wait(8)


def test_stop_before_the_first_is_ready(daemons):
    daemon = daemons()
    daemon.configure(
        service("--never-ready", "--ignore-term", address=daemon.target, extra='drain { kill-after = "100ms" }')
    ).spawn()
    daemon.listen_to_events()
    daemon.wait_event("worker-started", generation=1)
    daemon.stop()


def test_stop_at_the_deadline(daemon):
    """A worker that neither finishes nor leaves is killed, and that is said."""
    drain = 'drain { deadline = "200ms" kill-after = "200ms" }'
    daemon.configure(service("--ignore-term", address=daemon.target, extra=drain)).start()
    with Http(daemon.target) as slow:
        slow.send("/?sleep=3000")
        assert generation(daemon.target) == 1
        daemon.stop()
        assert slow.ended()
    assert daemon.wait_event("connections-cut", connections=1)
    assert daemon.wait_event("worker-killed")


def test_stop_with_warm_and_draining_generations(daemon):
    daemon.configure(service(address=daemon.target, extra='rollout { bake = "0" keep-warm = "1h" }')).start()
    held = []
    for number in range(2, 5):
        held.append(Http(daemon.target))
        held[-1].get()
        daemon.reload("web")
    daemon.wait_event("generation-warm", generation=3)
    assert list(daemon.generations().values()) == ["serving", "warm", "draining", "draining"]
    daemon.signal(signal.SIGTERM)
    for number, connection in enumerate(held, 1):
        assert connection.generation() == number
        connection.close()
    daemon.wait_exit(0)


def test_stop_under_load_resets_nobody(daemon):
    """Who is connected is answered; who comes later is refused, never reset or left waiting."""
    daemon.configure(service(address=daemon.target, workers=2)).start()
    load = Load(daemon.target, rate=200, keepalive=0, slow_ms=100)
    daemon.signal(signal.SIGTERM)
    daemon.wait_exit(0)
    result = load.stop()
    others = {k: v for k, v in result["failures"].items() if v and k != "refused"}
    assert not others, (others, result["examples"])


def test_term_of_a_worker_is_no_order(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service(address=daemon.target, command=[*WORKER, "terminates-parent"]))
    assert daemon.reload("web")["generation"] == 2
    event = daemon.wait_event("signal-ignored")
    assert str(daemon.worker(2)) in event["text"]
    assert generation(daemon.target) == 2


def test_stop_start_restart_of_a_service(daemon):
    other = f"127.0.0.1:{daemon.port + 1}"
    daemon.configure(service(address=daemon.target), service(name="other", address=other)).start()
    with Load(other, rate=50):
        with Http(daemon.target) as slow:
            slow.send("/?sleep=0.4")
            assert generation(daemon.target) == 1
            stop = daemon.ctl_later("stop", "web")
            assert "generation=1" in slow.receive()[1]
        stop.wait(0)
        assert daemon.service()["state"] == "stopped"
        with pytest.raises(ConnectionRefusedError):
            connect(daemon.target)
        assert "start" in daemon.ctl("reload", "web", code=1).stderr
        for number, request in enumerate(("start", "restart", "reload"), 2):
            daemon.ctl(request, "web", code=0)
            assert generation(daemon.target) == number
            assert daemon.service()["last_result"]["request"] == request


# ---- two of them ----


def test_port_in_use(daemons):
    first, second = daemons(), daemons()
    first.configure(service(address=first.target)).start()
    second.configure(service(address=first.target)).spawn()
    second.wait_exit(1)
    text = "\n".join(second.log.items)
    assert first.target in text and "in use" in text
    with Load(first.target, rate=100, slow_ms=100):
        assert first.reload("web")["generation"] == 2


def test_port_of_another_program(daemon):
    """At a reload that would add it, too."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon.configure(service(address=daemon.target)).start()
        daemon.configure(service(address=[daemon.target, address]))
        assert "in use" in daemon.reload("web", code=3)["text"]
        assert generation(daemon.target) == 1


def test_socket_file_of_a_living_one(daemons):
    first, second = daemons(), daemons()
    target = f"unix:{first.run}/web.sock"
    first.configure(service(address=target)).start()
    second.configure(service(address=target)).spawn()
    second.wait_exit(1)
    second.wait_log(f"{target}.*another program listens there")
    assert generation(target) == 1


def test_control_socket_of_a_living_one(daemons):
    first, second = daemons(), daemons()
    first.configure(service(address=first.target)).start()
    second.configure(service(address=second.target))
    second.file.write_text(second.file.read_text().replace(str(second.control), str(first.control)))
    second.spawn()
    second.wait_exit(1)
    assert str(first.control) in "\n".join(second.log.items)
    assert first.status()["pid"] == first.process.pid


def test_leftovers_of_a_killed_one(daemons):
    """Socket files of a dead handoffd are no hindrance."""
    first = daemons()
    path = f"unix:{first.run}/web.sock"
    first.configure(service(address=[first.target, path])).start()
    worker = first.worker(1)
    first.process.kill()
    first.process.wait()
    os.kill(worker, signal.SIGKILL)
    left = first.left_processes()
    assert not left or left[0][0] == worker  # as init has not reaped it yet
    assert os.path.exists(first.control)
    first.start()
    assert generation(path) == 1 and generation(first.target) == 1


def test_wrong_usage_of_the_daemon():
    for arguments, words in (
        (["--nonsense"], "--nonsense"),
        (["--workesr", "4"], "did you mean --workers"),
        (["-l", "host.name:80", SLEEPD], "host.name"),
        (["-c", "/nonexistent/file.conf"], "/nonexistent/file.conf"),
        (["-l", "8080", "--workers", "many", SLEEPD], "many"),
    ):
        done = subprocess.run([HANDOFFD, *arguments], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 2, (arguments, done)
        assert words in done.stderr
