# SPDX-License-Identifier: MIT
"""What a worker is given: exactly its descriptors, its environment, its identity and its limits."""

import json
import os
import re
import signal
import socket

import pytest
from harness import NOBODY, WORKER, Http, generation, get, quoted, service


def environment(target):
    return dict(line.split("=", 1) for line in get(target, "/env").splitlines())


def descriptors(target):
    """Without those that the worker made for itself."""
    found = {}
    for line in get(target, "/fds").splitlines():
        number, what = line.split(" ", 1)
        found[int(number)] = what
    return found


def facts(daemon, extra="", arguments=(), **options):
    """What worker.py sees of itself, by its first word."""
    target = options.pop("target", daemon.target)
    daemon.configure(
        service(address=target, command=[*WORKER, "facts", *arguments], extra=extra, **options)
    )
    if daemon.process is None:
        daemon.start()
    else:
        daemon.reload("web")
    return look(target)


def look(target):
    found = {}
    for line in get(target).splitlines():
        if line.startswith("Env: "):
            key, value = line[5:].split("=", 1)
            found.setdefault("Env", {})[key] = value
        elif line.startswith("Max open files"):
            found["Nofile"] = line.split()[3:5]
        else:
            key, value = line.split(":", 1)
            found[key] = value.strip()
    return found


def test_descriptors_are_exactly_those(daemon):
    path = f"unix:{daemon.run}/web.sock"
    daemon.configure(service(address=[daemon.target, f"[::1]:{daemon.port}", path])).start()
    for _ in range(2):
        pid = daemon.worker(daemon.service()["generation"])
        found = descriptors(daemon.target)
        assert re.match(r"/dev/null", found[0])
        assert found[1].startswith("pipe:") and found[2].startswith("pipe:")
        assert all(found[n].startswith("socket:") for n in (3, 4, 5))
        # above are the loop of sleepd itself, what libhandoff made (its page and its channel), and this
        # very connection, and nothing else
        own = [what for number, what in found.items() if number > 5]
        sockets = [what for what in own if what.startswith("socket:")]
        assert len(sockets) == 2, own
        allowed = ("socket:", "/proc/", "/memfd:handoff-page")
        assert all("anon_inode" in w or w.startswith(allowed) for w in own), own
        names = get(daemon.target, "/env")
        assert f"LISTEN_PID={pid}\n" in names and "LISTEN_FDS=3\n" in names
        daemon.reload("web")
    # two generations have two listeners each, and nothing of the other one's
    inherited = {what for number, what in found.items() if 3 <= number <= 5}
    assert inherited.isdisjoint(descriptors(daemon.target)[n] for n in (3, 4))


def test_descriptors_of_the_parent_stay_there(daemons):
    """Whatever handoffd was started with, close-on-exec or not."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    daemon = daemons(pass_fds=[read, write])
    daemon.configure(service(address=daemon.target)).start()
    found = descriptors(daemon.target)
    os.close(read)
    os.close(write)
    assert sum(what.startswith("pipe:") for what in found.values()) == 2  # its own output


def test_environment(daemons):
    daemon = daemons(
        environment={
            "KEPT": "as it is",
            "WATCHDOG_USEC": "1000000000",
            "WATCHDOG_PID": "1",
            "MAINPID": "1",
            "HANDOFF_FD_STRANGE": "7",
            "NGINX": "3;",
            "LISTEN_PIDFDID": "5",
            "FDSTORE": "1",
        }
    )
    extra = (
        'environ = {"A=1", "GENERATION=g{generation}-w{worker}-{service}", "SOCKET={fd:http}", "EMPTY="}'
        f"\tdirectory = {quoted(daemon.directory)}"
    )
    daemon.configure(service(address=daemon.target, extra=extra, workers=1)).start()
    found = environment(daemon.target)
    assert found["KEPT"] == "as it is" and found["A"] == "1" and found["EMPTY"] == ""
    assert found["GENERATION"] == "g1-w0-web" and found["SOCKET"] == "3"
    assert found["LISTEN_FDS"] == "1" and found["LISTEN_FDNAMES"] == "http"
    assert int(found["LISTEN_PID"]) == daemon.worker(1)
    assert found["HANDOFF_SERVICE"] == "web" and found["HANDOFF_GENERATION"] == "1"
    assert found["HANDOFF_WORKER"] == "0" and found["HANDOFF_ENVIRONMENT"] == "production"
    assert found["HANDOFF_FD_HTTP"] == "3" and found["HANDOFF_RELEASE"] == str(daemon.directory)
    assert found["NOTIFY_SOCKET"]
    strange = {"WATCHDOG_USEC", "WATCHDOG_PID", "MAINPID", "HANDOFF_FD_STRANGE", "NGINX", "LISTEN_PIDFDID", "FDSTORE"}
    assert not strange & set(found)
    known = set(daemon.environment) | {
        *("A", "GENERATION", "SOCKET", "EMPTY", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET"),
        *("HANDOFF_SERVICE", "HANDOFF_GENERATION", "HANDOFF_WORKER", "HANDOFF_ENVIRONMENT", "HANDOFF_FD_HTTP"),
        *("HANDOFF_RELEASE", "PWD"),
    }
    assert set(found) <= known, set(found) - known


def test_notify_sockets_are_private(daemon):
    daemon.configure(service(address=daemon.target, workers=2)).start()
    sockets = set()
    while len(sockets) < 2:
        sockets.add(environment(daemon.target)["NOTIFY_SOCKET"])
    daemon.reload("web")
    assert environment(daemon.target)["NOTIFY_SOCKET"] not in sockets


def test_identity_and_limits(daemon, root):
    extra = (
        'user = "nobody" group = "nogroup" groups = {"daemon"} umask = "0027" nice = 5 '
        'limits { nofile = "300:400" } no-new-privileges = yes'
    )
    (daemon.directory).chmod(0o755)
    found = facts(daemon, extra)
    assert found["Uid"].split() == [str(NOBODY)] * 4 and found["Gid"].split() == [str(NOBODY)] * 4
    assert "1" in found["Groups"].split() and "0" not in found["Groups"].split()
    assert found["Umask"] == "0027" and found["Nice"] == "5" and found["Nofile"] == ["300", "400"]
    assert found["NoNewPrivs"] == "1"
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == int(found["CapAmb"], 16) == 0
    assert found["Env"]["USER"] == "nobody"


def test_capabilities(daemon, root):
    found = facts(daemon, 'user = "nobody" capabilities = "^cap_net_bind_service"')
    only = 1 << 10
    assert int(found["CapEff"], 16) == int(found["CapAmb"], 16) == only
    assert found["Uid"].split()[0] == str(NOBODY)


def test_defaults_are_those_of_handoffd(daemon):
    found = facts(daemon)
    mask = os.umask(0o022)
    os.umask(mask)
    assert found["Umask"] == f"{mask:04o}" and found["Nice"] == str(os.nice(0))
    assert found["NoNewPrivs"] == "0"
    assert found["Masked"] == "[]"
    # python itself ignores PIPE and XFSZ
    assert set(json.loads(re.sub(r"<[^>]*: (\d+)>", r"\1", found["Ignored"]))) <= {signal.SIGPIPE, signal.SIGXFSZ}


def test_unknown_user_is_refused(daemon):
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service(address=daemon.target, extra='user = "no-such-user"'))
    done = daemon.ctl("reload", "web")
    assert done.returncode in (2, 3) and "no-such-user" in done.stderr
    assert generation(daemon.target) == 1


def test_ordinary_user_cannot_become_another(daemons, root):
    daemon = daemons(user=NOBODY)
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service(address=daemon.target, extra='user = "daemon"'))
    done = daemon.ctl("reload", "web", code=3)
    assert '"daemon"' in done.stderr and "not run as root" in done.stderr
    assert generation(daemon.target) == 1


def test_release_link_is_resolved_for_each_generation(daemon):
    releases = daemon.directory / "releases"
    for number in (1, 2):
        (releases / str(number) / "app").mkdir(parents=True)
    link = daemon.directory / "current"
    link.symlink_to("releases/1")
    # the directory may lie behind the link
    extra = f"directory = {quoted(link / 'app')} environ = {{{quoted('WHERE={release}')}}}"
    found = facts(daemon, extra)
    assert found["Cwd"] == str(releases / "1/app")
    new = daemon.directory / "new"
    new.symlink_to("releases/2")
    new.rename(link)
    assert look(daemon.target)["Cwd"] == str(releases / "1/app")
    daemon.reload("web")
    found = look(daemon.target)
    assert found["Cwd"] == str(releases / "2/app") == found["Env"]["WHERE"] == found["Env"]["HANDOFF_RELEASE"]
    assert daemon.service()["generations"][0]["release"] == str(releases / "2/app")


def test_crashed_worker_comes_back_from_the_same_release(daemon):
    """A worker that is started again belongs to its generation, whatever the link says by then."""
    releases = daemon.directory / "releases"
    for number in (1, 2):
        (releases / str(number)).mkdir(parents=True)
    link = daemon.directory / "current"
    link.symlink_to("releases/1")
    found = facts(daemon, f"directory = {quoted(link)}")
    link.unlink()
    link.symlink_to("releases/2")
    start = daemon.now()
    os.kill(int(found["Pid"]), signal.SIGKILL)
    daemon.wait_event("worker-started", start, generation=1)
    assert look(daemon.target)["Cwd"] == str(releases / "1")


def test_environment_file_is_read_for_each_generation(daemon):
    file = daemon.directory / "web.env"
    file.write_text("# of the first\nexport COLOUR='dark red'\nSIZE=\"a\\\"b\"\n")
    extra = f'environment-file = {quoted(file)} environ = {{"SIZE_OF=1"}}'
    found = facts(daemon, extra)["Env"]
    assert found["COLOUR"] == "dark red" and found["SIZE"] == 'a"b' and found["SIZE_OF"] == "1"
    file.write_text("COLOUR=blue\n")
    daemon.reload("web")
    found = look(daemon.target)["Env"]
    assert found["COLOUR"] == "blue" and "SIZE" not in found


def test_substitutions_in_the_command(daemon):
    found = facts(daemon, arguments=["{service}/{generation}/{worker}", "fd={fd:http}", "{{}", "$HOME"])
    assert found["Argv"] == "['web/1/0', 'fd=3', '{{}', '$HOME']"


@pytest.mark.parametrize(
    "dialect, key, value",
    [
        ("nginx", "NGINX", "3;4;"),
        ("server-starter", "SERVER_STARTER_PORT", "127.0.0.1:{port}=3;[::1]:{port}=4"),
        ("unicorn", "UNICORN_FD", "3,4"),
        ("php-fpm", "FPM_SOCKETS", "127.0.0.1:{port}=3,::1:{port}=4"),
        ("puma", "PUMA_INHERIT_0", "3:tcp://127.0.0.1:{port}"),
    ],
)
def test_dialects(daemon, dialect, key, value):
    target = [daemon.target, f"[::1]:{daemon.port}"]
    daemon.configure(
        service(address=target, command=[*WORKER, "facts"], extra=f'dialect = {{"{dialect}"}} ready {{ by = "notify" }}')
    ).start()
    found = look(daemon.target)["Env"]
    assert found[key] == value.format(port=daemon.port)
    assert "LISTEN_FDS" not in found
    if dialect == "server-starter":
        assert found["SERVER_STARTER_GENERATION"] == "1"
        daemon.reload("web")
        assert look(daemon.target)["Env"]["SERVER_STARTER_GENERATION"] == "2"


def test_listen_pid_of_the_parent(daemon):
    """For a server behind a wrapper that forks."""
    found = facts(daemon, 'listen-pid = "none"')["Env"]
    assert "LISTEN_PID" not in found and found["LISTEN_FDS"] == "1"


def test_sockets_are_not_given_where_they_are_not_wanted(daemon):
    daemon.configure(
        service(address=daemon.target),
        service(
            name="job",
            command=["/bin/sh", "-c", 'echo "fds=$LISTEN_FDS." $(ls /proc/$$/fd | wc -l); exec sleep 1000'],
        ),
    ).start()
    line = daemon.output.wait(lambda l: l.startswith("fds="), "the line of the job")
    assert line.split()[0] == "fds=."
    assert int(line.split()[1]) <= 5


def test_listeners_are_set_up_for_everybody(daemon):
    """Non-blocking and without delay from birth, whatever family."""
    path = f"{daemon.run}/web.sock"
    extra = f'listen "local" {{ address = "unix:{path}" mode = "0640" backlog = 17 }}'
    daemon.configure(service(address=daemon.target, extra=extra)).start()
    assert os.stat(path).st_mode & 0o777 == 0o640
    backlog = {l["name"]: l["backlog"] for l in daemon.service()["listeners"]}
    assert backlog == {"http": 4096, "local": 17}
    with Http(daemon.target) as c:
        flags = os.readlink(f"/proc/{daemon.worker(1)}/fd/3")
        assert flags.startswith("socket:")
        with open(f"/proc/{daemon.worker(1)}/fdinfo/3", encoding="ascii") as f:
            assert int(re.search(r"flags:\s*(\d+)", f.read())[1], 8) & os.O_NONBLOCK
        assert "generation=1" in c.get()


def test_worker_cannot_join_or_hijack_the_port(daemon, root):
    """Another user's socket may not take the port from under handoffd."""
    daemon.configure(service(address=daemon.target)).start()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setuid(NOBODY)
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                s.bind(("127.0.0.1", daemon.port))
        except OSError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_kept_descriptors(daemon):
    """FDSTORE=1: what a worker gives away comes back to the next generation, until it is taken out."""
    kept = service(address=daemon.target, command=[*WORKER, "keeps"])
    daemon.configure(kept).start()
    assert get(daemon.target) == "count=1 names=http\n"
    daemon.reload("web")
    assert get(daemon.target) == "count=2 names=http:counter\n"
    daemon.configure(service(address=daemon.target, command=[*WORKER, "keeps", "forget"]))
    daemon.reload("web")
    assert get(daemon.target) == "count=3 names=http:counter\n"
    daemon.reload("web")
    assert get(daemon.target) == "count=1 names=http\n"


def test_worker_that_asks_to_be_replaced(daemon):
    mark = daemon.run / "asked"
    daemon.configure(
        service(address=daemon.target, command=[*WORKER, "stuck", mark], extra='ready { by = "notify" }')
    ).start()
    daemon.wait_log(r"worker-crashed web generation 1 worker 0 .* was ended by signal 6")
    daemon.wait_log(r"worker-restarting web generation 1 worker 0")
    get(daemon.target)
    assert daemon.service()["generations"][0]["workers"][0]["status"] == "No such file or directory"
    mark.unlink()
