# SPDX-License-Identifier: MIT
"""Development mode: files are saved, and what happens is told by the terminal and the events."""

import os
import shutil
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
    p.save("one", "two")
    daemon.wait_event("build-changes-files")
    daemon.wait_output(r"the build itself changes src/made.js")
    daemon.wait_event("generation-serving", generation=2)
    assert p.get() == "two"
    daemon.settle()
    before = len(daemon.seen("build-started"))
    assert before <= 5
    p.save("two", "three")
    assert p.get() in ("two", "three")
    daemon.wait_event("generation-serving", generation=3)
    assert p.get() == "three"


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
