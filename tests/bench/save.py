# SPDX-License-Identifier: MIT
"""From saving a file to the first answer by the new code, minus the program's own start and the quiet time that
the tool waits for: handoffd's development mode beside tools that stop the program and start it again."""

import os
import shutil
import socket
import statistics
import subprocess
import sys

from servers import LIMIT, Server, now

MS = 1e6
QUIET_MS = 100

PROGRAM = """
import os, socket
TEXT = b"%s"
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(os.environ["PORT"])))
s.listen(64)
print("listening", flush=True)
while True:
    c, _ = s.accept()
    c.recv(4096)
    c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %%d\\r\\nConnection: close\\r\\n\\r\\n%%s" %% (len(TEXT), TEXT))
    c.close()
"""


def ask(port):
    """One answer, or None while nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as c:
            c.settimeout(LIMIT)
            c.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b""
            while more := c.recv(4096):
                data += more
            return data.rsplit(b"\r\n\r\n", 1)[-1] or None
    except OSError:
        return None


def own_start_ms(port, file):
    """Without trying again and again, which would cost the program its processor."""
    environment = {**os.environ, "PORT": str(port)}
    at = now()
    with subprocess.Popen([sys.executable, file], env=environment, stdout=subprocess.PIPE) as program:
        program.stdout.readline()
        ask(port)
        took = (now() - at) / MS
        program.kill()
    return took


class Tool(Server):
    """A program that runs another one again when its file changes."""

    def __init__(self, bench, name, port, argv):
        super().__init__(bench, name, port)
        self.file = self.directory / "server.py"
        self.write("0")
        self.spawn(argv, PORT=str(port), HANDOFF_CONTROL=str(self.directory / "control"))
        self.wait("0")

    def write(self, text):
        temporary = self.directory / "new~"
        temporary.write_text(PROGRAM % text)
        temporary.rename(self.file)

    def wait(self, text):
        end = now() + LIMIT * 1_000_000_000
        while ask(self.port) != text.encode():
            if now() > end:
                raise RuntimeError(f"{self.name} does not answer {text}")


def tools(bench):
    """What is there on this machine; each waits until nothing has changed for QUIET_MS."""
    python = [sys.executable, "server.py"]
    known = {
        "handoffd": lambda port: [
            *(bench.handoffd, "-l", port, "--name", "web", "--watch", "server.py"),
            *("--watch-debounce", f"{QUIET_MS}ms", "--", *python),
        ],
        "nodemon": lambda _: [
            *("nodemon", "-q", "--delay", f"{QUIET_MS}ms", "--watch", "server.py", "--exec"),
            " ".join(python),
        ],
        "watchexec": lambda _: [
            *("watchexec", "-r", "--debounce", f"{QUIET_MS}ms", "-w", "server.py", "--", *python),
        ],
    }
    for name, argv in known.items():
        if name == "handoffd" or shutil.which(name):
            port = next(bench.ports)
            yield bench.add(Tool(bench, name, port, argv(port)))


def measure(bench, scale, row, verdict):
    waits, starts = {}, []
    running = list(tools(bench))
    for i in range(1, scale.repeat + 1):
        for tool in running:
            at = now()
            tool.write(str(i))
            tool.wait(str(i))
            waits.setdefault(tool.name, []).append((now() - at) / MS)
        starts.append(own_start_ms(next(bench.ports), running[0].file))
    yield row("start of the program alone: exec -> first answer", "ms", starts)
    for name, values in waits.items():
        yield row(f"save with {name}: file renamed -> first new answer", "ms", values)
    for name, values in waits.items():
        more = statistics.median(values) - statistics.median(starts) - QUIET_MS
        goal = 20 if name == "handoffd" else None
        yield verdict(f"{name}: beyond its start and {QUIET_MS} ms of quiet", "ms", more, goal)
