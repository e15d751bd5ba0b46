# SPDX-License-Identifier: MIT
"""Connections that are passed to the next generation: the users of chatd stay connected."""

import re
import signal
import subprocess

import pytest
from chat import Chat
from harness import BUILD, FAST, NOBODY, SLEEPD, SOURCE, WORKER, connect, service

CHATD = BUILD / "contrib/examples/chatd"
DRAIN = 'drain { by = "auto" deadline = "20s" }'


def chatting(address, extra=DRAIN, **more):
    return service(address=address, command=[CHATD], extra=extra, **more)


def pauses(daemon):
    """[(users, ms in all, longest ms)]"""
    found = [re.search(r"passed (\d+) users in ([\d.]+) ms, longest pause ([\d.]+) ms", l) for l in daemon.log.items]
    return [(int(m[1]), float(m[2]), float(m[3])) for m in found if m]


def reload_often(daemon, users, reloads, rate, target=None, kind=None):
    with Chat(target or daemon.target, users, rate) as chat:
        for generation in range(2, reloads + 2):
            chat.more(5)
            daemon.reload("web")
            chat.more(5)
            daemon.wait_event("generation-gone", generation=generation - 1)
            current = daemon.service()["generations"]
            assert [g["id"] for g in current] == [generation]
            if kind != "path":  # these keep the name of the socket that they came to
                assert current[0]["in_flight"] == users
        total = chat.stop()
    seen = pauses(daemon)
    print(
        f"{users} users, {reloads} reloads, {total} messages, none lost or doubled; longest pause of a user in ms:",
        *(s[2] for s in seen),
        "; of all together:",
        *(s[1] for s in seen),
    )
    assert [s[0] for s in seen] == [users] * reloads
    assert not daemon.seen("connections-cut")
    assert not daemon.seen("worker-crashed")


def test_users_stay(daemon):
    daemon.configure(chatting(daemon.target)).start()
    reload_often(daemon, 50 if FAST else 500, 5 if FAST else 20, rate=200)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_users_stay(daemon):
    daemon.configure(chatting(daemon.target, extra=DRAIN + ' limits { nofile = "20000" }')).start()
    reload_often(daemon, 10000, 20, rate=10)


@pytest.mark.parametrize("kind", ["cbpf", "path", "signal", "idle"])
def test_other_ways(daemons, request, kind):
    """Classic BPF without privilege, a UNIX socket, told by signal, and told when drained."""
    if kind == "cbpf":
        request.getfixturevalue("root")
    daemon = daemons(user=NOBODY if kind == "cbpf" else None)
    address = f"unix:{daemon.run}/chat.sock" if kind == "path" else daemon.target
    drain = DRAIN.replace("auto", kind) if kind in ("signal", "idle") else DRAIN
    daemon.configure(chatting(address, extra=drain)).start()
    reload_often(daemon, 50, 3, rate=200, target=address, kind=kind)


def speak(user, line):
    user.sendall(line.encode() + b"\n")


def hear(user, wanted):
    data = b""
    while wanted.encode() not in data:
        more = user.recv(4096)
        assert more, f"the connection ended after {data!r}"
        data += more
    return data.decode()


def enter(target):
    """(connection, name)"""
    user = connect(target)
    return user, re.search(r"you are (\S+)\n", hear(user, "\n"))[1]


def test_what_nobody_takes_stays(daemon):
    """The next release does not know how to take connections: the old one keeps its users."""
    daemon.configure(chatting(daemon.target)).start()
    user, _ = enter(daemon.target)
    with user:
        daemon.configure(service(address=daemon.target, command=[SLEEPD], extra=DRAIN))
        daemon.reload("web")
        daemon.wait_event("generation-draining", generation=1)
        speak(user, "/where")
        assert "generation 1" in hear(user, "process")
    daemon.wait_event("generation-gone", generation=1)
    assert not daemon.seen("connections-cut")


@pytest.mark.parametrize("versions, taken", [("take-1-1", True), ("take-0-7", True), ("take-2-3", False)])
def test_versions(daemon, versions, taken):
    """Only who understands the state is introduced; here to a program that does without libhandoff."""
    daemon.configure(chatting(daemon.target)).start()
    user, _ = enter(daemon.target)
    with user:
        taker = service(address=daemon.target, command=[*WORKER, "takes", versions], extra=DRAIN)
        daemon.configure(taker)
        daemon.reload("web")
        daemon.wait_event("generation-draining", generation=1)
        if taken:
            assert hear(user, "\n") == "taken from version 1\n"
        else:
            speak(user, "/where")
            assert "generation 1" in hear(user, "process")


def test_way_back(daemon):
    """While the old generation is kept whole its users stay with it."""
    daemon.configure(chatting(daemon.target, extra=DRAIN + 'rollout { bake = "20s" }')).start()
    user, name = enter(daemon.target)
    with user:
        reload = daemon.ctl_later("reload", "web")
        daemon.wait_event("generation-serving", generation=2)
        other, other_name = enter(daemon.target)
        with other:  # they hear each other all the same
            speak(other, "hello")
            assert hear(user, "\n") == f"0 {other_name}: hello\n"
            speak(user, "hello yourself")
            hear(other, f"1 {name}: hello yourself\n")
            speak(user, "/where")
            assert "generation 1" in hear(user, "process")
        daemon.kill(daemon.worker(2), signal.SIGKILL)
        reload.wait(3)
        speak(user, "/where")
        assert "generation 1" in hear(user, "process")


def hold_the_taker(daemon, users, **options):
    """The taker is stopped before anything is passed to it, so that what comes then waits there; returns
    the chat."""
    daemon.configure(chatting(daemon.target, extra=DRAIN + 'rollout { bake = "500ms" }')).start()
    first, _ = enter(daemon.target)
    chat = Chat(daemon.target, users, rate=200, **options)
    daemon.ctl_later("reload", "web", "--wait", "none").wait(0)
    daemon.wait_event("generation-serving", generation=2)
    daemon.kill(daemon.worker(2), signal.SIGSTOP)
    daemon.wait_event("generation-draining", generation=1)
    with first:  # he is the last to be passed: he is still answered when others are on their way
        for _ in range(3):
            speak(first, "/where")
            assert "generation 1" in hear(first, "process")
    return chat


def test_taker_is_killed(daemon):
    """What it had not taken stays, and goes to the worker that is started in its place: nobody is lost."""
    with hold_the_taker(daemon, 300) as chat:
        daemon.kill(daemon.worker(2), signal.SIGKILL)
        daemon.wait_event("generation-gone", generation=1)
        chat.more(20)
        chat.stop()
        assert len(chat.users) == 300
    assert not daemon.seen("connections-cut")


def test_giver_is_killed(daemon):
    """What it had offered is the taker's, the others are lost with it."""
    with hold_the_taker(daemon, 300, mortal=True) as chat:
        daemon.kill(daemon.worker(1), signal.SIGKILL)
        daemon.kill(daemon.worker(2), signal.SIGCONT)
        daemon.wait_event("generation-gone", generation=1)
        chat.more(20)
        chat.stop()
        assert len(chat.users) == 128


def test_after_an_upgrade_of_handoffd(daemon):
    """It knows the doors, the memory and the descriptors again."""
    daemon.configure(chatting(daemon.target)).start()
    with Chat(daemon.target, 50, rate=200) as chat:
        daemon.reload("web")
        daemon.wait_event("generation-gone", generation=1)
        daemon.ctl("upgrade", code=0)
        daemon.listen_to_events()
        chat.more(20)
        daemon.reload("web")
        daemon.wait_event("generation-gone", generation=2)
        chat.more(20)
        chat.stop()
    assert [s[0] for s in pauses(daemon)] == [50, 50]


def test_example_of_the_manual(daemon, tmp_path):
    """handoff_pass(3): a client's lines are counted over the generations."""
    page = (SOURCE / "docs/handoff_pass.3.scd").read_text()
    source, program = tmp_path / "example.c", tmp_path / "example"
    source.write_text(re.search(r"```\n(.*?)```", page, re.S)[1])
    library = BUILD / "lib"
    sanitizers = b"__asan_init" in (library / "libhandoff.so").read_bytes()
    flags = ["-fsanitize=address,undefined"] if sanitizers else []
    paths = [f"-I{SOURCE / 'lib'}", f"-L{library}", f"-Wl,-rpath,{library}"]
    subprocess.run(["gcc", *flags, "-o", program, source, *paths, "-lhandoff", "-lev"], check=True)
    daemon.configure(service(address=daemon.target, command=[program], extra=DRAIN)).start()
    with connect(daemon.target) as client:
        for number in range(1, 4):
            speak(client, "a line")
            assert hear(client, "\n") == f"{number}\n"
            daemon.reload("web")
            daemon.wait_event("generation-gone", generation=number)
