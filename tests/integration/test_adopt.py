# SPDX-License-Identifier: MIT
"""Programs that bind their port themselves are handed over like those that take theirs."""

import ctypes
import os
import pathlib
import platform
import shutil
import signal
import struct

import pytest
from binders import PYTHON, binder, configured, node
from harness import NOBODY, SLEEPD, Http, Load, generation, get, pid, service
from test_recovery import again


def migrate_requests():
    """In the network namespace of the test alone."""
    try:
        pathlib.Path("/proc/sys/net/ipv4/tcp_migrate_req").write_text("1")
    except OSError as error:
        pytest.skip(f"net.ipv4.tcp_migrate_req: {error.strerror}")


def test_every_socket_gets_a_part(daemon):
    configured(daemon, binder("reuseport")).start()
    pids = set()
    for _ in range(200):
        pids.add(get(daemon.target).split()[0])
        if len(pids) == 3:
            break
    assert len(pids) == 3


def test_privileged_port_and_another_user(daemon, root):
    """The program could not bind it itself."""
    daemon.port = 81
    command = lambda d: ["/usr/bin/python3", *PYTHON[1:], "plain", d.port]  # noqa: E731
    configured(daemon, command, "adopt", extra='user = "nobody"').start()
    assert generation("127.0.0.1:81") == 1
    assert daemon.reload("web")["generation"] == 2
    assert generation("127.0.0.1:81") == 2


def test_without_any_privilege(daemons, root):
    daemon = daemons(user=NOBODY)
    command = lambda d: ["/usr/bin/python3", *PYTHON[1:], "plain", d.port]  # noqa: E731
    configured(daemon, command, "adopt").start()
    with Load(daemon.target, rate=100):
        for number in range(2, 7):
            assert daemon.reload("web")["generation"] == number
    assert daemon.service()["listeners"][0]["steering"] == "cbpf"


@pytest.mark.parametrize("mode", ["auto", "adopt"])
@pytest.mark.parametrize("rescue", ["ebpf", "sysctl", "none"])
def test_killed_under_load(daemons, mode, rescue):
    """Of the connections inside of the dead process some are lost; of those after it none is refused."""
    daemon = daemons(environment={"HANDOFF_STEERING": "ebpf" if rescue == "ebpf" else "cbpf"})
    if rescue == "sysctl":
        migrate_requests()
    configured(daemon, node, mode).start()
    assert daemon.service()["listeners"][0]["rescue"] == rescue
    with Load(daemon.target, rate=200, slow=0, keepalive=0) as load:
        for number in range(1, 6):
            start = daemon.now()
            daemon.kill(daemon.worker(1), 9)
            daemon.wait_event("socket-adopted", start)
            assert generation(daemon.target) == 1
            assert daemon.service()["generations"][0]["workers"][0]["restarts"] == number
        result = load.stop()
    assert result["failures"]["refused"] == 0
    if rescue != "none":
        # the queues of the dead ones alone had some 600
        assert result["failed"] <= 100, result["failures"]
    assert daemon.reload("web")["generation"] == 2


def test_what_waits_where_nothing_was_adopted(daemons):
    """The socket is handoffd's: it needs no rescue."""
    daemon = daemons(environment={"HANDOFF_STEERING": "cbpf"})
    daemon.configure(service(address=daemon.target)).start()
    assert daemon.service()["listeners"][0]["rescue"] == "held"


def filtered(*instructions, listener=False):
    """Runs handoffd and all below it behind a seccomp filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("HBBI", *i) for i in instructions)
    code = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    fd = libc.syscall(317, 1, listener << 3, ctypes.create_string_buffer(program, len(program)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return fd


ALLOW, EPERM = 0x7FFF0000, 0x50001


def blind():
    """As in a container of Docker without CAP_SYS_PTRACE: pidfd_getfd and process_vm_readv are refused."""
    filtered((0x20, 0, 0, 0), (0x15, 2, 0, 438), (0x15, 1, 0, 310), (6, 0, 0, ALLOW), (6, 0, 0, EPERM))


def occupied():
    """As in a container that has a seccomp listener of its own: there cannot be a second one."""
    os.set_inheritable(filtered((6, 0, 0, ALLOW), listener=True), True)


@pytest.fixture
def x86_64(root):
    if platform.machine() != "x86_64":
        pytest.skip("the number of the system call is that of x86_64")


@pytest.fixture
def no_second_listener(x86_64):
    return {"preexec_fn": occupied, "close_fds": False}


def test_blind_but_not_needed(daemons, x86_64):
    """Said at once, with what could be done; the program takes what it is passed."""
    daemon = daemons(preexec_fn=blind)
    daemon.configure(service(address=daemon.target)).start()
    told = daemon.wait_event("adoption-impossible")
    assert "--cap-add SYS_PTRACE" in told["text"]
    assert daemon.reload("web")["generation"] == 2
    assert daemon.service()["listeners"][0]["origin"] == "bound"


def test_blind(daemons, x86_64):
    daemon = configured(daemons(preexec_fn=blind), binder("plain"), "adopt").spawn()
    daemon.wait_log("generation-failed.*could not be started: cannot look at the sockets.*sockets = .*pass")
    daemon.wait_exit(1)


def test_not_dumpable(daemons, root):
    """Without privileges handoffd may not look at such a program; why it failed is said."""
    daemon = daemons(user=NOBODY)
    command = lambda d: ["/usr/bin/python3", *PYTHON[1:], "not_dumpable", d.port]  # noqa: E731
    configured(daemon, command, "adopt").spawn()
    daemon.wait_log("generation-failed.*cannot take over the sockets that the program binds")
    daemon.wait_exit(1)


def test_set_user_id(daemons, root):
    daemon = daemons(user=NOBODY)
    program = daemon.directory / "server"
    shutil.copy(SLEEPD, program)
    program.chmod(0o4755)
    daemon.configure(service(address=daemon.target, command=[program])).start()
    assert "set-user-ID" in daemon.wait_event("adoption-impossible")["text"]


def test_impossible_but_not_needed(daemons, no_second_listener):
    daemon = daemons(**no_second_listener)
    daemon.configure(service(address=daemon.target)).start()
    told = daemon.wait_event("adoption-impossible")
    assert "sockets are only passed" in told["text"]
    assert daemon.reload("web")["generation"] == 2
    assert len(daemon.seen("adoption-impossible")) == 1


def test_impossible(daemons, no_second_listener):
    daemon = configured(daemons(**no_second_listener), binder("plain"), "adopt").spawn()
    daemon.wait_log("generation-failed.*cannot take over the sockets of service .web.*seccomp")
    daemon.wait_exit(1)


@pytest.mark.parametrize("mode", ["auto", "adopt"])
def test_wrong_port(daemon, mode):
    configured(daemon, binder("plain"), mode, extra='ready { timeout = "3s" }').start()
    (daemon.directory / "handoffd.conf").write_text(
        (daemon.directory / "handoffd.conf").read_text().replace('"plain"', '"other_port"')
    )
    failed = daemon.reload("web", code=3)
    assert mode == "auto" or f"does not listen on tcp:0.0.0.0:{daemon.port}" in failed["text"]
    other = [f"tcp:0.0.0.0:{daemon.port + 1}", f"tcp:127.0.0.1:{daemon.port + 2}"]
    assert f"listens on {', '.join(other)} instead" in failed["text"]
    assert generation(daemon.target) == 1


@pytest.mark.parametrize("mode, why", [("never", "does not listen on"), ("notifies_never_binds", "does not listen on")])
def test_never_binds(daemon, mode, why):
    configured(daemon, binder("plain"), "adopt", extra='ready { timeout = "3s" }').start()
    (daemon.directory / "handoffd.conf").write_text(
        (daemon.directory / "handoffd.conf").read_text().replace('"plain"', f'"{mode}"')
    )
    failed = daemon.reload("web", code=3)
    assert why in failed["text"]
    assert generation(daemon.target) == 1


def test_changed_form(daemon):
    configured(daemon, binder("loopback_from_two")).start()
    failed = daemon.reload("web", code=3)
    why = f"the program binds tcp:127.0.0.1:{daemon.port}, but the generation before it listens on tcp:0.0.0.0:{daemon.port}"
    assert why in failed["text"]
    assert why in daemon.wait_event("socket-refused", generation=2)["text"]
    assert generation(daemon.target) == 1


def test_ready_when_it_listens(daemon):
    """Not by an accepted connection: this program accepts none."""
    configured(
        daemon, binder("listens_later"), "adopt", extra='ready { by = "listening" timeout = "20s" }'
    ).spawn().listen_to_events()
    daemon.wait_event("worker-started")
    pid = daemon.worker(1)
    status = f"/proc/{pid}/status"

    def handles_usr1():
        with open(status, encoding="ascii") as f:
            return any(l.startswith("SigCgt") and int(l.split()[1], 16) & 1 << 9 for l in f)

    while not handles_usr1():
        pass
    assert not daemon.seen("generation-ready")
    daemon.kill(pid, 10)
    daemon.wait_event("generation-ready")
    daemon.wait_event("daemon-ready")


def test_program_that_looks_by_connecting(daemon):
    configured(daemon, binder("connects_first")).spawn()
    daemon.wait_log("generation-failed.*it has called no bind.*cannot be adopted")
    daemon.wait_exit(1)


def test_program_that_goes_into_the_background(daemon):
    configured(daemon, binder("background")).spawn()
    daemon.wait_log("generation-failed.*exited with status 0.*has put itself into the background.*foreground")
    daemon.wait_exit(1)


def test_wrapper_that_does_not_pass_the_signal_on(daemon):
    """What it leaves behind is told as soon as it has no connection, not killed at the deadline."""
    configured(daemon, binder("wrapped")).start()
    with Http(daemon.target) as idle:
        assert "generation=1" in idle.get("/?n=1")
        assert daemon.reload("web")["generation"] == 2
        assert "generation=1" in idle.get("/?n=2")
    assert daemon.wait_event("generation-gone", generation=1)["duration"] < 20


def test_old_connections_are_counted(daemon):
    configured(daemon, node).start()
    with Http(daemon.target) as idle:
        assert "generation=1" in idle.get("/?n=1")
        assert daemon.reload("web")["generation"] == 2
        old = next(g for g in daemon.service()["generations"] if g["id"] == 1)
        assert (old["state"], old["in_flight"]) == ("draining", 1)
        assert "generation=1" in idle.get("/?n=2")
    daemon.wait_event("generation-gone", generation=1)


@pytest.mark.parametrize("mode", ["auto", "adopt"])
def test_closed_while_it_serves(daemon, mode):
    """Nobody asks about close(2): it is seen when a client comes. He waits for the next socket."""
    configured(daemon, binder("reopens"), mode).start()
    assert generation(daemon.target) == 1
    for _ in range(2):
        start, lines = daemon.now(), len(daemon.output.items)
        daemon.kill(daemon.worker(1), signal.SIGUSR1)
        said(daemon, "closed", lines)
        with Http(daemon.target) as client:
            client.send()
            assert str(daemon.port) in daemon.wait_event("socket-closed", start)["text"]
            daemon.kill(daemon.worker(1), signal.SIGUSR2)
            daemon.wait_event("socket-adopted", start)
            assert "generation=1" in client.receive()[1]
    assert len(daemon.seen("socket-closed")) == 2
    assert daemon.reload("web")["generation"] == 2


def said(daemon, text, start=0):
    return daemon.output.wait(lambda line: text in line, f"the word {text!r}", start)


def both(target, known):
    """The pids that answer: waits until there is another one than the known."""
    for _ in range(300):
        answered = pid(target)
        if answered != known:
            return answered
    raise AssertionError("nobody else answers")


def test_one_of_two_sockets_is_closed(daemon):
    """Whoever waits there moves to the other one."""
    configured(daemon, binder("one_of_two")).start()
    child = both(daemon.target, daemon.worker(1))
    with Load(daemon.target, rate=200, keepalive=0, slow=0):
        daemon.kill(child, signal.SIGUSR1)
        said(daemon, "closed")
        for _ in range(100):
            assert pid(daemon.target) != child
    assert not daemon.seen("socket-closed")


def test_a_second_socket_later(daemon):
    """Of a generation that serves: it has its part at once."""
    configured(daemon, binder("a_second_later")).start()
    main = daemon.worker(1)
    assert {pid(daemon.target) for _ in range(20)} == {main}
    child = int(pathlib.Path(f"/proc/{main}/task/{main}/children").read_text())
    start = daemon.now()
    daemon.kill(child, signal.SIGUSR1)
    daemon.wait_event("socket-adopted", start)
    assert both(daemon.target, main) == child


def test_more_sockets_than_possible(daemon):
    configured(daemon, binder("many"), "adopt").start()
    assert "more than 64 sockets" in daemon.wait_event("socket-refused")["text"]
    said(daemon, "socket 65: No buffer space available")
    assert len(daemon.seen("socket-adopted")) == 64
    with Load(daemon.target, rate=200, keepalive=0, slow=0):
        assert daemon.reload("web")["generation"] == 2
    assert generation(daemon.target) == 2


def test_stopped_for_the_last_look(daemon):
    """It is counted while it stands still, then told, and only then goes on."""
    configured(daemon, binder("tells_of_going_on"), extra='drain { kill-after = "1s" }').start()
    assert daemon.reload("web")["generation"] == 2
    said(daemon, "told, then it goes on")
    daemon.wait_event("generation-gone", generation=1)
@pytest.mark.parametrize("mode", ["thread", "grandchild", "dual", "ipv6", "loopback"])
def test_who_and_what_binds(daemon, mode):
    """Threads, children of children; every form of an address, through reloads under load."""
    wide = {"dual": f"*:{daemon.port}", "ipv6": f"[::1]:{daemon.port}"}
    address = wide.get(mode, f"127.0.0.1:{daemon.port}")
    targets = {"dual": [daemon.target, f"[::1]:{daemon.port}"], "ipv6": [address]}.get(mode, [daemon.target])
    configured(daemon, binder(mode), "adopt", address).start()
    with Load(*targets, rate=200, keepalive=1, slow=1):
        for number in range(2, 5):
            assert daemon.reload("web")["generation"] == number
    for number in range(1, 4):
        daemon.wait_event("generation-gone", generation=number)
    assert {listener["origin"] for listener in daemon.service()["listeners"]} == {"adopted"}


FORMS = {
    "any_two": ["0.0.0.0:{}", "[::]:{} (IPv6 only)"],
    "loopback_two": ["127.0.0.1:{}", "[::1]:{}"],
    "loopback_mapped": ["[::ffff:127.0.0.1]:{}"],
}


@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
@pytest.mark.parametrize("mode", FORMS)
def test_form_of_a_port(daemons, mode, steering):
    """Where a port alone is configured the program chooses what it binds, and that stays so."""
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    configured(daemon, binder(mode)).start()
    forms = [f"tcp:{form.format(daemon.port)}" for form in FORMS[mode]]
    targets = [daemon.target, f"[::1]:{daemon.port}"][: len(forms)]
    with Load(*targets, rate=100, keepalive=1, slow=1):
        for number in range(2, 5):
            listeners = daemon.service()["listeners"]
            assert [listener["form"] for listener in listeners] == forms
            assert {listener["address"] for listener in listeners} == {f"tcp:*:{daemon.port}"}
            assert {listener["origin"] for listener in listeners} == {"adopted"}
            assert daemon.reload("web")["generation"] == number
        daemon.signal(signal.SIGUSR2)
        daemon.wait_event("daemon-upgraded")
        assert daemon.reload("web")["generation"] == 5
        daemon.ctl("wait", "web", "--for", "drained", code=0)
        again(daemon)
        assert daemon.reload("web")["generation"] == 6
    assert [listener["form"] for listener in daemon.service()["listeners"]] == forms
    assert generation(targets[-1]) == 6


def test_tests_all_forms_first(daemon):
    configured(daemon, binder("tests_forms")).start()
    (listener,) = daemon.service()["listeners"]
    assert (listener["form"], listener["origin"]) == (f"tcp:{daemon.target}", "adopted")
    with Load(daemon.target, rate=100, keepalive=1, slow=1):
        for number in range(2, 5):
            assert daemon.reload("web")["generation"] == number
    assert generation(daemon.target) == 4
    assert not daemon.seen("socket-refused")


def test_one_form_less(daemon):
    """Clients have used it."""
    configured(daemon, binder("two_then_one"), extra='ready { timeout = "3s" }').start()
    assert f"does not listen on tcp:[::1]:{daemon.port}" in daemon.reload("web", code=3)["text"]
    assert generation(f"[::1]:{daemon.port}") == generation(daemon.target) == 1


def test_one_of_two_addresses(daemon):
    """The program takes one from us and binds the other itself: status tells which."""
    second = f"127.0.0.1:{daemon.port + 1}"
    configured(daemon, binder("takes_and_binds"), address=[daemon.target, second]).start()
    for number in (1, 2):
        origins = {listener["address"]: listener["origin"] for listener in daemon.service()["listeners"]}
        assert origins == {f"tcp:{daemon.target}": "bound", f"tcp:{second}": "adopted"}
        with Load(daemon.target, rate=100, keepalive=0, slow=0), Load(second, rate=100, keepalive=0, slow=0):
            assert generation(daemon.target) == generation(second) == number
            assert daemon.reload("web")["generation"] == number + 1


def test_many_workers_have_one_port(daemon):
    configured(daemon, binder("plain"), workers=3).start()
    daemon.wait_count("socket-adopted", 3)
    with Load(daemon.target, rate=100, keepalive=0, slow=0) as load:
        start = daemon.now()
        daemon.kill(daemon.worker(1, 1), 15)
        daemon.wait_event("socket-adopted", start, worker=1)
        assert daemon.reload("web")["generation"] == 2
        result = load.stop()
    assert result["failures"]["refused"] == 0
    assert result["failed"] <= 3, "more than what the process had"
