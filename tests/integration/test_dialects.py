# SPDX-License-Identifier: MIT
"""The ways of passing a socket, each with a real program that takes it so, and what goes wrong between
such programs and whoever passes them sockets."""

import ctypes
import os
import re
import shutil
import socket

import pytest
from harness import HERE, WORKER, Http, generation, get, quoted, service

APPS = HERE.parent / "programs/apps"
PLUGIN = "/usr/lib/uwsgi/plugins/python3_plugin.so"
UWSGI = ["uwsgi", "--master", "--workers", "2", "--need-app", "--disable-logging", "--plugin", "python3"]
UWSGI += ["--hook-master-start", "unix_signal:15 gracefully_kill_them_all", "--module", "app:app"]
RACKUP = APPS / "puma/config.ru"
NOT_BLOCKING, BLOCKING = True, False

# the program: dialect, directory of the application, command, does accept(2) wait?
CONSUMERS = {
    "starlet": (
        "server-starter",
        "starlet",
        ["plackup", "-s", "Starlet", "-E", "deployment", "--max-workers", "2", "app.psgi"],
        BLOCKING,
    ),
    "unicorn": ("unicorn", "unicorn", ["unicorn", "-c", "unicorn.rb", RACKUP], NOT_BLOCKING),
    "puma": ("puma", "puma", ["puma", "-t", "2:2", "-b", "tcp://127.0.0.1:PORT", RACKUP], NOT_BLOCKING),
    "uvicorn": ("none", "uvicorn", ["uvicorn", "--fd", "{fd:http}", "app:app"], NOT_BLOCKING),
    "hypercorn": ("none", "uvicorn", ["hypercorn", "--bind", "fd://{fd:http}", "app:app"], NOT_BLOCKING),
    "haproxy": ("none", "haproxy", ["haproxy", "-db", "-f", "haproxy.cfg"], NOT_BLOCKING),
    "uwsgi": ("none", "gunicorn", [*UWSGI, "--http-socket", "fd://{fd:http}"], NOT_BLOCKING),
    "uwsgi-stdin": ("stdin", "gunicorn", [*UWSGI, "--protocol", "http"], BLOCKING),
    "lighttpd": ("systemd", "lighttpd", ["lighttpd", "-D", "-f", "lighttpd.conf"], NOT_BLOCKING),
}


def needed(binary, file=None):
    if not shutil.which(binary) or (file and not os.path.exists(file)):
        pytest.skip(f"{file or binary} is not installed")


def flags(pid, fd):
    with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as f:
        return int(re.search(r"flags:\s*(\d+)", f.read())[1], 8)


@pytest.mark.parametrize("name", CONSUMERS)
def test_consumer(daemon, name):
    dialect, app, command, non_blocking = CONSUMERS[name]
    needed(command[0], PLUGIN if "uwsgi" in name else None)
    command = [str(word).replace("PORT", str(daemon.port)) for word in command]
    extra = (
        f'dialect = "{dialect}" directory = {quoted(APPS / app)} environ = {{{quoted(f"PYTHONPATH={APPS}/python")}}}'
        f' ready {{ by = "http:{"/answer.pl" if name == "lighttpd" else "/"}" }} drain {{ kill-after = "20s" }}'
    )
    daemon.configure(service(address=daemon.target, command=command, extra=extra)).start()
    path = "/answer.pl?n=1" if name == "lighttpd" else "/?n=1"
    for number in (1, 2, 3):
        assert [x["origin"] for x in daemon.service()["listeners"]] == ["bound"], "it did not take the socket"
        assert generation(daemon.target, path) == number
        if name in ("starlet", "puma", "unicorn", "lighttpd"):  # the others set what they want
            assert bool(flags(daemon.worker(number), 3) & os.O_NONBLOCK) == non_blocking
        if number < 3:
            daemon.reload("web")
            daemon.wait_event("generation-gone", generation=number)
    assert not daemon.seen("worker-crashed") and not daemon.seen("socket-adopted")


# ---- einhorn, of which Debian has neither the master nor a client ----

JSON = '{"command":"worker:ack","pid":PID}NL'
ACKS = {
    "goji": JSON,
    "ruby": "---%0Acommand: worker:ack%0Apid: PID%0ANL",
    "ping-first": '{"command":"worker:ping","pid":PID,"id":"1"}NL|' + JSON,
    "garbage-first": "x" * 3000 + "NL|NL|\u00ffNL|" + JSON,
}


@pytest.mark.parametrize("how", ACKS)
def test_einhorn(daemon, how):
    """Nothing but the acknowledgement makes it ready; the worker's user need not be ours."""
    user = 'user = "nobody"' if os.geteuid() == 0 else ""
    command = [*WORKER, "einhorn", ACKS[how], *(["keep"] if how == "garbage-first" else [])]
    extra = f'dialect = "einhorn" {user} ready {{ by = "notify" }}'
    daemon.configure(service(address=[daemon.target, f"[::1]:{daemon.port}"], command=command, extra=extra)).start()
    assert generation(daemon.target) == 1
    daemon.reload("web")
    assert generation(daemon.target) == 2
    daemon.wait_event("generation-gone", generation=1)


@pytest.mark.parametrize("said", ['{"command":"worker:ping","pid":PID}NL', "worker:ackNL", JSON.replace("NL", "")])
def test_einhorn_without_acknowledgement(daemon, said):
    extra = 'dialect = "einhorn" ready { by = "notify" }'
    good, bad = ([*WORKER, "einhorn", words, "keep"] for words in (JSON, said))
    daemon.configure(service(address=daemon.target, command=good, extra=extra)).start()
    late = extra.replace('"notify"', '"notify" timeout = "2s"')
    daemon.configure(service(address=daemon.target, command=bad, extra=late))
    assert "not ready within 2s" in daemon.ctl("reload", "web", code=3).stderr
    assert generation(daemon.target) == 1


def test_stdin(daemon):
    extra = 'dialect = {"stdin", "systemd"}'
    daemon.configure(service(address=daemon.target, command=[*WORKER, "stdin"], extra=extra)).start()
    assert generation(daemon.target) == 1
    daemon.reload("web")
    assert generation(daemon.target) == 2


# ---- what goes wrong between them ----


def behind_wrapper(*command):
    """A shell that does not replace itself by what it starts."""
    return ["/bin/sh", "-c", '"$@" & trap "kill $!" TERM; wait; wait', "wrapper", *command]


@pytest.mark.parametrize("whose", ["child", "none"])
def test_sockets_for_a_child_of_the_worker(daemon, whose):
    command = behind_wrapper(*WORKER, "checks-pid")
    daemon.configure(service(address=daemon.target, command=command, extra=f'listen-pid = "{whose}"'))
    if whose == "none":
        daemon.start()
        assert generation(daemon.target) == 1
        return
    daemon.spawn()
    daemon.wait_log("the sockets are not for me")
    daemon.wait_exit(1)


def test_sockets_for_a_child_that_knows_its_parent(daemon):
    """Of all programs lighttpd alone has it."""
    needed("lighttpd")
    extra = f'listen-pid = "parent" directory = {quoted(APPS / "lighttpd")} sockets = "pass"'
    command = behind_wrapper("lighttpd", "-D", "-f", "lighttpd.conf")
    daemon.configure(service(address=daemon.target, command=command, extra=extra)).start()
    assert get(daemon.target, "/answer.pl?n=1").endswith("n=1\n")


def test_flag_of_a_shared_socket(daemon):
    """A generation may change it for all, when it comes and when it goes."""
    address = f"unix:@handoff-{daemon.mark}"
    extra = 'drain { by = "signal" } ready { by = "notify" }'
    daemon.configure(service(address=address, command=[*WORKER, "shared-flag"], extra=extra)).start()
    assert get(address) == "blocking=False generation=1\n"
    daemon.reload("web")
    daemon.wait_event("generation-gone", generation=1)
    daemon.settle()
    assert flags(daemon.worker(2), 3) & os.O_NONBLOCK


def test_own_choice_of_blocking(daemon):
    extra = 'accept = "blocking"'
    daemon.configure(service(address=daemon.target, command=[*WORKER, "stdin"], extra=f'dialect = "stdin" {extra}'))
    daemon.start()
    assert not flags(daemon.worker(1), 3) & os.O_NONBLOCK
    again = service(address=daemon.target, command=[*WORKER, "plain"], extra='dialect = "stdin" accept = "non-blocking"')
    daemon.configure(again)
    daemon.reload("web")
    assert generation(daemon.target) == 2


def socket_of(pid, fd):
    """A descriptor of another process's socket."""
    pidfd = os.pidfd_open(pid)
    try:
        found = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0)  # pidfd_getfd
    finally:
        os.close(pidfd)
    assert found >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=found)


def test_accepted_sockets_do_not_delay(daemon, root):
    """uvicorn takes the socket for one of AF_UNIX and sets nothing."""
    needed("uvicorn")
    environ = quoted(f"PYTHONPATH={APPS}/python")
    extra = f'directory = {quoted(APPS / "uvicorn")} environ = {{{environ}}}'
    command = ["uvicorn", "--fd", "{fd:http}", "app:app"]
    daemon.configure(service(address=daemon.target, command=command, extra=extra)).start()
    with Http(daemon.target) as client:
        client.get("/?n=1")
        pid, found = daemon.worker(1), []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
                continue
            with socket_of(pid, int(fd)) as s:
                if s.family == socket.AF_INET and not s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    assert found == [1]


def test_unlinked_path(daemon):
    """php-fpm and others remove the file of the socket when they leave."""
    path = daemon.run / "web.sock"
    extra = 'ready { by = "notify" }'
    daemon.configure(service(address=f"unix:{path}", command=[*WORKER, "unlinks"], extra=extra)).start()
    for number in (2, 3):
        daemon.reload("web")
        daemon.wait_event("generation-gone", generation=number - 1)
        daemon.settle()
        assert generation(f"unix:{path}") == number


def test_pid_file(daemon):
    """Two generations at once: what belongs to one alone has to have its number."""
    needed("gunicorn")
    file = daemon.directory / "gunicorn-{generation}.pid"
    command = ["gunicorn", "--pid", file, "--chdir", APPS / "gunicorn", "app:app"]
    extra = 'ready { by = "http:/" }'
    daemon.configure(service(address=daemon.target, command=command, extra=extra)).start()
    daemon.reload("web")
    assert generation(daemon.target, "/?n=1") == 2
    command[2] = daemon.directory / "gunicorn.pid"
    daemon.configure(service(address=daemon.target, command=command, extra=extra))
    daemon.reload("web")
    done = daemon.ctl("reload", "web", code=3)
    assert "Already running" in done.stderr
    assert generation(daemon.target, "/?n=1") == 3


def test_directory_of_a_generation(daemon):
    for number in (1, 2):
        (daemon.directory / f"web-{number}").mkdir()
    extra = f'directory = {quoted(daemon.directory / "{service}-{generation}")}'
    daemon.configure(service(address=daemon.target, command=[*WORKER, "facts"], extra=extra)).start()
    daemon.reload("web")
    assert f"Cwd: {daemon.directory}/web-2\n" in get(daemon.target)


@pytest.mark.parametrize("end", ["kill -TERM $$", "exit 143", "exit 0"])
def test_end_after_the_drain(daemon, end):
    """uvicorn and puma die by the signal that told them to leave, others exit with its number."""
    worker = " ".join(f"'{word}'" for word in WORKER)
    command = ["/bin/sh", "-c", f"trap 'kill $!; trap - TERM; {end}' TERM; {worker} plain & wait"]
    daemon.configure(service(address=daemon.target, command=command, extra='listen-pid = "none"')).start()
    daemon.reload("web")
    daemon.wait_event("generation-gone", generation=1)
    for event in ("worker-crashed", "worker-killed", "generation-failed", "rolled-back"):
        assert not daemon.seen(event)
