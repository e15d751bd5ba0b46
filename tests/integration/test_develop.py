# SPDX-License-Identifier: MIT
"""Development mode: files are saved, and what happens is told by the terminal and the events."""

import contextlib
import os
import re
import select
import shutil
import signal
import sys
import textwrap
import threading

import harness
import pytest

SERVER = textwrap.dedent(
    """
    import http.server, os, socketserver, sys
    TEXT = "one"
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            body = f"{TEXT} generation={os.environ['HANDOFF_GENERATION']}\\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", len(body))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *_):
            pass
    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True
    server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
    print("listening", flush=True)
    server.serve_forever()
    """
)


class Project:
    """A directory with a program in src, run in development mode."""

    def __init__(
        self, daemon, *options, command=(sys.executable, "src/server.py"), text=SERVER, address="127.0.0.1:"
    ):
        self.daemon = daemon
        self.file = daemon.directory / "src/server.py"
        self.file.parent.mkdir()
        self.file.write_text(text)
        daemon.environment["PORT"] = str(daemon.port)
        daemon.environment["HANDOFF_CONTROL"] = str(daemon.control)
        daemon.argv = [
            *("-l", f"{address}{daemon.port}", "--name", "web", "--watch", "src"),
            *(*options, "--", *command),
        ]

    def start(self):
        self.daemon.spawn()
        self.daemon.wait_output("serves|FAILED")
        self.daemon.events = harness.Events(self.daemon.control)
        self.daemon.wait_event("daemon-ready")
        return self

    def save(self, old, new):
        """As most editors do: another file is renamed over it."""
        text = self.file.read_text()
        assert old in text
        temporary = self.file.with_name("new~")
        temporary.write_text(text.replace(old, new))
        temporary.rename(self.file)

    def get(self):
        return harness.get(self.daemon.target).split()[0]


@pytest.fixture
def project(daemon):
    def make(*options, **named):
        return Project(daemon, *options, **named)

    return make


def test_a_save_is_answered_by_new_code(project, daemon):
    p = project().start()
    assert p.get() == "one"
    p.save("one", "two")
    event = daemon.wait_event("files-changed", service="web")
    assert event["text"] == "src/server.py changed"
    assert p.get() == "two", "the next request after the save gets the new code"
    daemon.wait_output(r"^web +» src/server.py changed$")
    daemon.wait_output(r"^web +» generation 2 serves")
    daemon.wait_output(r"^web +│ listening$")


def test_failing_start_leaves_the_old_code(project, daemon):
    p = project().start()
    p.save("import", "imporrt")
    daemon.wait_event("files-changed")
    assert p.get() == "one", "who waited is answered by the old generation"
    daemon.wait_output(r"^web +! .*SyntaxError")
    daemon.wait_output(r"^web +» generation 2 FAILED, generation 1 goes on: worker 0 .*before it was ready")
    assert p.get() == "one"
    p.save("imporrt", "import")
    daemon.wait_event("generation-serving", generation=3)
    assert p.get() == "one"


def test_nothing_serves_at_first(project, daemon):
    p = project(text="broken(").start()
    daemon.wait_output("generation 1 FAILED, nothing serves until something changes")
    p.file.write_text(SERVER)
    daemon.wait_event("generation-serving", generation=2)
    assert p.get() == "one"


def test_a_failing_build_is_shown_and_tried_again(project, daemon):
    build = ("--build", "sh", "--build", "-c", "--build", "echo compiling; ! grep wrong src/server.py")
    p = project(*build).start()
    daemon.wait_output(r"^web +│ compiling$")
    p.save("one", "wrong")
    daemon.wait_event("files-changed")
    assert p.get() == "one", "who waited for the build is answered by the old generation"
    daemon.wait_output("generation 2 FAILED, generation 1 goes on: the build exited with status 1")
    daemon.wait_output(r'^web +│ TEXT = "wrong"$')
    p.save("wrong", "right")
    daemon.wait_event("generation-serving", generation=3)
    assert p.get() == "right"


def test_a_change_during_the_build_begins_it_again(project, daemon):
    """The first build waits for ever; the second one finds that it need not."""
    script = "echo building; [ -e go ] || exec sleep 1000"
    p = project("--build", "sh", "--build", "-c", "--build", script)
    (daemon.directory / "go").touch()
    p.start()
    (daemon.directory / "go").unlink()
    p.save("one", "two")
    daemon.wait_count("build-started", 2)
    (daemon.directory / "go").touch()
    p.save("two", "three")
    daemon.wait_event("generation-serving", generation=2)
    assert p.get() == "three"
    daemon.wait_count("build-started", 3)


def test_a_build_that_changes_watched_files_does_not_loop(project, daemon):
    script = "date +%s%N > src/made.js"
    p = project("--build", "sh", "--build", "-c", "--build", script).start()
    daemon.wait_event("build-changes-files")
    daemon.wait_output(r"the build itself changes src/made.js")
    for old, new in (("one", "two"), ("two", "three")):
        start = len(daemon.output.items)
        p.save(old, new)
        # what the build has written may be told with it
        daemon.wait_output(r"» src/server.py\b|more changed$", start)
        assert any(p.get() == new for _ in range(1000))
    daemon.settle()
    assert len(daemon.seen("build-started")) <= 6


def test_load_over_fifty_saves(project, daemon):
    """No connection is refused, every answer is whole, and generations are strictly newer."""
    p = project().start()
    seen, stop, wrong = [], threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                seen.append(harness.generation(daemon.target))
            except Exception as e:  # pylint: disable=broad-except
                wrong.append(repr(e))

    thread = threading.Thread(target=ask)
    thread.start()
    rounds = 10 if os.environ.get("HANDOFF_FAST") else 50
    try:
        for i in range(rounds):
            start = daemon.now()
            p.save("TEXT = ", f"NUMBER = {i}\nTEXT = ")
            daemon.wait_event("generation-serving", start=start)
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert seen == sorted(seen), "an older generation answered after a newer one"
    assert len(set(seen)) > rounds / 2


@pytest.mark.skipif(not shutil.which("node"), reason="there is no node here")
def test_node(project, daemon):
    text = """
        const http = require("http");
        http.createServer((_, answer) => answer.end("one\\n")).listen(process.env.PORT, () => console.log("up"));
    """
    p = project(command=("node", "src/server.py"), text=text, address="").start()
    with harness.connect(daemon.target) as c:
        c.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert c.makefile("rb").read().endswith(b"one\n")
    p.save("one", "two")
    daemon.wait_event("files-changed")
    with harness.connect(daemon.target) as c:
        c.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert c.makefile("rb").read().endswith(b"two\n")
    daemon.wait_output("generation 2 serves")


# ---- several services, one terminal ----

WORKER = textwrap.dedent(
    """
    import os, signal
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    generation = os.environ["HANDOFF_GENERATION"]
    print(f"begins {generation}", flush=True)
    signal.sigwait([signal.SIGTERM])
    print(f"ends {generation}", flush=True)
    """
)


def run_dev(daemon, text, *services, name="handoffd.conf"):
    (daemon.directory / name).write_text(text)
    daemon.environment["HANDOFF_CONTROL"] = str(daemon.control)
    daemon.argv = ["dev", *services]
    daemon.spawn()
    return daemon


def listen_to_events(daemon):
    """When something was printed, the control socket is there."""
    daemon.events = harness.Events(daemon.control)
    daemon.wait_event("daemon-ready")


def two_services(daemon, extra=""):
    (daemon.directory / "src").mkdir()
    (daemon.directory / "src/server.py").write_text(SERVER)
    (daemon.directory / "src/worker.py").write_text(WORKER)
    return (
        harness.service(
            name="web",
            address=f"127.0.0.1:{daemon.port}",
            command=(sys.executable, "src/server.py"),
            extra=f'environ = {{"PORT={daemon.port}"}}\n environment "development" {{ watch = {{"src/server.py"}} }}',
        )
        + harness.service(
            name="job", command=(sys.executable, "src/worker.py"), extra=f'watch = {{"src/worker.py"}}\n{extra}'
        )
    )


def test_no_file(daemon):
    daemon.argv = ["dev"]
    daemon.spawn()
    daemon.wait_exit(2)
    assert daemon.log.items[0].startswith("handoffd.conf: the configuration cannot be read"), daemon.log.items


def test_two_services_and_the_keyboard(daemon):
    text = two_services(daemon)
    reader, writer = os.pipe()
    daemon.stdin = reader
    run_dev(daemon, text)
    os.close(reader)
    daemon.wait_output("^job +» generation 1 serves")
    daemon.wait_output("^web +» generation 1 serves")
    daemon.wait_output("^job +│ begins 1")
    listen_to_events(daemon)
    assert daemon.status()["environment"] == "development"
    with open(writer, "w", buffering=1) as keyboard:
        keyboard.write("rs job\n")
        daemon.wait_event("generation-serving", service="job", generation=2)
        daemon.wait_output("^job +│ ends 1")
        daemon.wait_output("^job +│ begins 2")
        keyboard.write("  rs nobody \n")
        daemon.wait_output('no service is named "nobody"; there are "web", "job"')
        keyboard.write("rs\n")
        daemon.wait_output("^job +│ begins 3")
        daemon.wait_event("generation-serving", service="web", generation=2)
        keyboard.write("?\n")
        daemon.wait_output("^handoffd » rs NAME +the same for one service")
        keyboard.write("what\n" + "x" * 1000 + "\n")
        daemon.wait_output('"what" is no command')
    (daemon.directory / "src/worker.py").write_text(WORKER + "\n")
    daemon.wait_output("^job +│ begins 4")
    daemon.stop()
    lines = daemon.output.items
    assert all(re.match(r"(web     |job     |handoffd) [│!»]", line) for line in lines), lines
    assert re.search("^job +│ ends 4", "\n".join(lines), re.MULTILINE), "nothing is lost at the end"


def test_only_named_services(daemon):
    run_dev(daemon, two_services(daemon), "job")
    daemon.wait_output("^job +» generation 1 serves")
    listen_to_events(daemon)
    assert [s["name"] for s in daemon.status()["services"]] == ["job"]


def test_stop_first_never_runs_twice(daemon):
    """The new worker begins when the old one has ended."""
    text = two_services(daemon, extra='rollout { order = "stop-first" bake = "0" }')
    run_dev(daemon, text)
    daemon.wait_output("^job +» generation 1 serves")
    listen_to_events(daemon)
    daemon.wait_output("^job +│ begins 1")
    for number in (2, 3, 4):
        (daemon.directory / "src/worker.py").write_text(WORKER + "#" * number)
        daemon.wait_output(f"^job +│ begins {number}")
    daemon.stop()
    said = [line.split("│ ")[1] for line in daemon.output.items if re.match("job +│", line)]
    assert said == [f"{what} {n}" for n in (1, 2, 3, 4) for what in ("begins", "ends")]


def test_stop_first_keeps_the_port(daemon):
    """In production as well: connections wait while the old one leaves."""
    (daemon.directory / "server.py").write_text(SERVER)
    daemon.configure(
        harness.service(
            address=f"127.0.0.1:{daemon.port}",
            command=(sys.executable, "server.py"),
            extra=f'environ = {{"PORT={daemon.port}"}}\nrollout {{ order = "stop-first" bake = "0" }}',
        )
    ).start()
    stop, wrong, seen = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            try:
                seen.append(harness.generation(daemon.target))
            except OSError as e:
                wrong.append(repr(e))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(5):
            daemon.reload()
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert seen == sorted(seen)
    assert seen[-1] >= 5


def test_procfile(daemon):
    text = (
        "# two of them\n"
        f"web: {sys.executable} server.py\n"
        'job: echo "mine is $PORT, $COLOUR"; exec sleep 1000\n'
    )
    (daemon.directory / "server.py").write_text(SERVER.replace("127.0.0.1", "0.0.0.0"))
    (daemon.directory / ".env").write_text("COLOUR=blue\n")
    daemon.environment["PORT"] = str(daemon.port)
    run_dev(daemon, text, name="Procfile")
    daemon.wait_output("^web +» generation 1 serves")
    daemon.wait_output(f"^job +│ mine is {daemon.port + 100}, blue")
    assert harness.get(daemon.target).startswith("one")


def test_nothing_is_lost_at_speed(daemon):
    """Two services write as fast as they can, lines long and short, parts and wholes."""
    count = 20000
    script = (
        f"import sys\nfor i in range({count}):\n sys.stdout.write(f'{{i}} ' + 'x' * (i % 200) + '\\n')\n"
        "sys.stdout.write('y' * 20000 + '\\n')\nsys.stdout.write('no newline')\nsys.stdout.flush()\n"
    )
    (daemon.directory / "writer.py").write_text(script)
    one = 'restart = "never"'
    text = harness.service(name="a", command=(sys.executable, "writer.py"), extra=one) + harness.service(
        name="bbbb", command=(sys.executable, "writer.py"), extra=one
    )
    run_dev(daemon, text)
    daemon.wait_output("^a +│ no newline")
    daemon.wait_output("^bbbb +│ no newline")
    daemon.stop()
    for name in ("a       ", "bbbb    "):
        mine = [line[11:] for line in daemon.output.items if line.startswith(f"{name} │")]
        assert mine[:count] == [f"{i} " + "x" * (i % 200) for i in range(count)]
        assert "".join(mine[count:-1]) == "y" * 20000
        assert mine[-1] == "no newline"


def test_what_moves_the_cursor_is_taken_out(daemon):
    script = r"printf '\033[2J\033[H\033[31mred\033[0m\a\n 10%%\r 50%%\r100%%\n\033]0;title\007text\n'; exec sleep 1000"
    run_dev(daemon, harness.service(name="a", command=("sh", "-c", script)))
    daemon.wait_output("^a +│ \033\\[31mred\033\\[0m")
    daemon.wait_output("^a +│ 100%$")
    daemon.wait_output("^a +│ text$")


def test_inotify_watches_run_out(project, daemon):
    """Then the files are looked at, and it is said."""
    p = project()
    for i in range(10):
        (p.file.parent / f"d{i}").mkdir()
    command = daemon.command()
    script = 'echo 4 >/proc/sys/user/max_inotify_watches && exec "$@"'
    daemon.command = lambda: ["unshare", "-U", "-r", "sh", "-c", script, "sh", *command]
    if harness.subprocess.run(["unshare", "-U", "-r", "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    p.start()
    daemon.wait_output("there are no inotify watches left .* looked at every second instead")
    p.save("one", "two")
    daemon.wait_event("generation-serving", generation=2)
    assert p.get() == "two"


# ---- a real terminal ----


class Screen:
    """A shell with handoffd in it, in a terminal of tmux."""

    def __init__(self, daemon):
        self.tmux = ["tmux", "-S", daemon.directory / "tmux", "-f", "/dev/null"]
        self.cwd = daemon.directory
        self.environment = {**daemon.environment, "HANDOFF_CONTROL": str(daemon.control), "LC_ALL": "C.UTF-8"}
        self.environment.pop("NO_COLOR", None)

    def run(self, *arguments):
        return harness.subprocess.run(
            [str(a) for a in (*self.tmux, *arguments)],
            env=self.environment,
            cwd=self.cwd,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout

    def wait(self, pattern, *options):
        """It is looked at again whenever tmux has written to its log of the pane."""
        for _ in range(600):
            text = self.run("capture-pane", "-p", "-J", *options, "-t", "dev")
            if re.search(pattern, text, re.MULTILINE):
                return text
            self.run("run-shell", "-d", "0.05")
        raise AssertionError(text)

    def type(self, *keys):
        self.run("send-keys", "-t", "dev", *keys)


@pytest.fixture
def screen(daemon):
    if not shutil.which("tmux"):
        pytest.skip("there is no tmux here")
    (daemon.directory / "handoffd.conf").write_text(two_services(daemon))
    s = Screen(daemon)
    s.run("new-session", "-d", "-s", "dev", "-x", "150", "-y", "40", "bash", "--norc")
    yield s
    harness.subprocess.run([str(a) for a in (*s.tmux, "kill-server")], capture_output=True, timeout=30)


def test_screen(screen, daemon):
    """What a person sees, and Ctrl-C."""
    screen.type(f"{harness.HANDOFFD} dev; echo left $?", "Enter")
    screen.wait("rs . Enter reloads, . tells more, Ctrl-C stops")
    screen.wait(r"^web      » generation 1 serves")
    screen.wait(r"^job      │ begins 1$")
    coloured = screen.wait(r"begins 1", "-e")
    assert re.search("\033\\[3[0-9]m(web|job) ", coloured), coloured
    screen.type("rs job", "Enter")
    screen.wait(r"^job      » generation 2 serves")
    (daemon.directory / "src/server.py").write_text(SERVER.replace("one", "two").replace("import", "imporrt"))
    screen.wait(r"^web      » src/server.py changed$")
    screen.wait(r"^web      ! SyntaxError")
    screen.wait(r"^web      » generation 2 FAILED, generation 1 goes on: worker 0 .* before it was ready")
    assert harness.get(daemon.target).startswith("one")
    screen.type("C-c")
    screen.wait(r"^handoffd » stopped$")
    screen.wait(r"^left 0$")


def test_a_failing_first_start_is_told_once(screen, daemon):
    (daemon.directory / "src/server.py").write_text("imporrt")
    screen.type(f"{harness.HANDOFFD} dev", "Enter")
    text = screen.wait(r"^web      » generation 1 FAILED, nothing serves until something changes: worker 0")
    assert "web      » worker" not in text, text


def test_in_the_background(screen, daemon):
    """The keys are the shell's there, and handoffd goes on; Ctrl-D means nothing."""
    screen.type(f"{harness.HANDOFFD} dev &", "Enter")
    screen.wait(r"^web      » generation 1 serves")
    for generation in (2, 3):
        screen.type("echo typed-$((1 + 1))", "Enter")
        screen.wait("^typed-2$")
        (daemon.directory / "src/server.py").write_text(SERVER.replace("one", f"code{generation}"))
        screen.wait(rf"^web      » generation {generation} serves")
        assert harness.get(daemon.target).startswith(f"code{generation}")
    screen.type("fg", "Enter")
    screen.wait(r"^/.*handoffd dev$")
    screen.type("C-d", "rs job", "Enter")
    screen.wait(r"^job      » generation 2 serves")
    screen.type("C-z")
    screen.wait("Stopped")
    screen.type("fg", "Enter")
    screen.wait(r"^/.*handoffd dev$(?s:.*)Stopped(?s:.*)^/.*handoffd dev$")
    screen.type("rs job", "Enter")
    screen.wait(r"^job      » generation 3 serves")


def test_a_closed_terminal_stops_it(screen, daemon):
    """Without it handoffd would keep the port, out of anybody's sight. SIGHUP alone is a reload."""
    screen.type(f"{harness.HANDOFFD} dev & echo $! >pid; fg", "Enter")
    screen.wait(r"^web      » generation 1 serves")
    listen_to_events(daemon)
    os.kill(int((daemon.directory / "pid").read_text()), signal.SIGHUP)
    daemon.wait_event("generation-serving", service="web", generation=2)
    screen.run("kill-server")
    assert "terminal" in daemon.wait_event("stop-requested")["text"]
    daemon.wait_event("daemon-stopped")


def test_workers_follow_a_killed_handoffd(project, daemon):
    """They would keep the port from the next one."""
    p = project().start()
    worker = os.pidfd_open(daemon.worker(1))
    daemon.process.kill()
    assert select.select([worker], [], [], harness.LIMIT)[0], "it goes on"
    os.close(worker)
    daemon.process.wait(harness.LIMIT)
    daemon.run.joinpath("control").unlink()
    p.start()
    assert p.get() == "one"


# ---- file systems ----


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_file_systems(root, kind, tmp_path):
    """Every way in which files change, on other file systems than that of the build."""
    mounts = f"mount -t tmpfs none {tmp_path} && mkdir -p {tmp_path}/l {tmp_path}/u {tmp_path}/w {tmp_path}/m"
    if kind == "overlay":
        mounts += (
            f" && mount -t overlay overlay -o lowerdir={tmp_path}/l,upperdir={tmp_path}/u,"
            f"workdir={tmp_path}/w {tmp_path}/m"
        )
    test = harness.BUILD / "tests/test_watch"
    done = harness.subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mounts} || exit 99; exec {test}"],
        env={**os.environ, "HANDOFF_WATCH_DIRECTORY": f"{tmp_path}/m"},
        capture_output=True,
        text=True,
        check=False,
        timeout=harness.LIMIT,
    )
    if done.returncode == 99:
        pytest.skip(f"cannot mount {kind} here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_first_write_to_a_lower_file(root, daemon):
    """On overlayfs this makes a copy of the file, with another inode."""
    base = daemon.directory
    mount = (
        f"mkdir -p {base}/l/src {base}/u {base}/w {base}/m && mv src/server.py l/src && mount -t overlay overlay "
        f"-o lowerdir={base}/l,upperdir={base}/u,workdir={base}/w {base}/m && cd m"
    )
    p = Project(daemon)
    command = daemon.command()
    daemon.command = lambda: ["unshare", "-m", "sh", "-c", f'{mount} || exit 99; exec "$@"', "sh", *command]
    daemon.spawn()
    if daemon.process.poll() == 99:
        pytest.skip("cannot mount overlayfs here")
    daemon.wait_output("generation 1 serves")
    listen_to_events(daemon)
    # its mount namespace has the merged tree
    path = f"/proc/{daemon.process.pid}/root{base}/m/src/server.py"
    with open(path, "w", encoding="utf-8") as file:
        file.write(SERVER.replace("one", "two"))
    daemon.wait_event("generation-serving", generation=2)
    assert p.get() == "two"


# ---- other people's tools ----


def test_nodemon_as_a_command(daemon):
    """The classic way, inside of this one: nodemon watches, and what it runs is handed over with it."""
    npx = shutil.which("nodemon")
    if not npx:
        pytest.skip("there is no nodemon here (npm install -g nodemon)")
    (daemon.directory / "server.js").write_text(
        'require("http").createServer((_, a) => a.end("one\\n")).listen(process.env.PORT);\n'
    )
    text = harness.service(
        address=str(daemon.port),
        command=("false",),
        extra=(
            f'environ = {{"PORT={daemon.port}"}}\nwatch = {{"handoffd.conf"}}\n'
            'environment "development" { command = {"nodemon", "-q", "server.js"} }'
        ),
    )
    run_dev(daemon, text)
    daemon.wait_output("^web +» generation 1 serves")
    listen_to_events(daemon)

    def ask():
        with harness.connect(daemon.target) as c:
            c.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return c.makefile("rb").read().split()[-1]

    assert ask() == b"one"
    start = daemon.now()
    (daemon.directory / "server.js").write_text(
        'require("http").createServer((_, a) => a.end("two\\n")).listen(process.env.PORT);\n'
    )
    daemon.wait_event("socket-adopted", start=start)
    assert ask() == b"two", "who comes while nodemon restarts its program waits"
    (daemon.directory / "handoffd.conf").write_text(text + "# another generation\n")
    daemon.wait_event("generation-serving", generation=2)
    assert ask() == b"two"


# ---- deploying by a pointer ----


def test_pointer(daemon):
    """In production: a release of several files comes into force in one step, when the link is turned."""
    web = daemon.directory / "web"
    for n in (1, 2, 3):
        (web / f"releases/{n}").mkdir(parents=True)
        (web / f"releases/{n}/text.py").write_text(f"TEXT = 'release{n}'\n")
        (web / f"releases/{n}/server.py").write_text(SERVER.replace('TEXT = "one"', "from text import TEXT"))
    (web / "current").symlink_to("releases/1")
    daemon.configure(
        harness.service(
            address=f"127.0.0.1:{daemon.port}",
            command=(sys.executable, "server.py"),
            extra=(
                f'directory = "{web}/current"\nwatch = {{"{web}/current"}}\nwatch-debounce = "10ms"\n'
                f'environ = {{"PORT={daemon.port}", "PYTHONDONTWRITEBYTECODE=1"}}'
            ),
        )
    ).start()
    assert harness.get(daemon.target).split()[0] == "release1"
    for n in (2, 3):
        (web / "releases/1/text.py").write_text("broken(")
        (web / f"releases/{n}/more.py").write_text("")
        if n == 3:  # handoffd itself has been replaced meanwhile
            daemon.ctl("upgrade", code=0)
            daemon.events = harness.Events(daemon.control)
            daemon.settle()
        start = daemon.now()
        (web / "new").symlink_to(f"releases/{n}")
        (web / "new").rename(web / "current")
        daemon.wait_event("generation-serving", start=start, generation=n)
        assert harness.get(daemon.target).split()[0] == f"release{n}"
        assert daemon.wait_event("files-changed", start=start)["text"] == f"{web}/current changed"
    assert daemon.service()["generations"][0]["release"] == str(web / "releases/3")


# ---- pages in browsers ----


def test_live_reload(project, daemon):
    """A page that has the script is told when new code serves; nothing else is answered."""
    port = harness.free_port()
    p = project("--live-reload", str(port)).start()

    def ask(path):
        c = harness.connect(f"127.0.0.1:{port}")
        c.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return c.makefile("rb")

    with ask("/reload.js") as answer:
        assert b"EventSource" in answer.read()
    with ask("/anything") as answer:
        assert answer.readline().startswith(b"HTTP/1.1 404")
    with ask("/events") as page:
        while page.readline() != b": open\n":
            pass
        p.save("one", "two")
        while page.readline() != b"data: reload\n":
            pass
    daemon.wait_event("generation-serving", generation=2)
    with contextlib.suppress(OSError), harness.connect(f"127.0.0.1:{port}") as c:
        c.sendall(b"x" * 100000)
        assert c.recv(1) == b""
    assert p.get() == "two"
