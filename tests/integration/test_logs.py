# SPDX-License-Identifier: MIT
"""handoffctl logs: what workers wrote, also dead ones."""

import json
import subprocess

from harness import HANDOFFCTL, SCHEMAS, Lines, service

WRITER = """
import os, sys
for i in range({n}):
    print("line", i, "of", os.environ["HANDOFF_GENERATION"], flush=True)
print("begun", end="", flush=True)
with open({fifo!r}) as f:
    for line in f:
        if line == "bytes\\n":
            os.write(2, b"\\xff\\0\\x1b[31m\\n")
        print("got", line, end="", flush=True)
sys.exit(3)
"""


def writer(daemon, n=5):
    program = daemon.directory / "writer.py"
    fifo = daemon.directory / "fifo"
    subprocess.run(["mkfifo", fifo], check=True)
    program.write_text(WRITER.format(n=n, fifo=str(fifo)))
    daemon.configure(service(command=["python3", program], extra='restart = "never"'), service(name="other", command=["sleep", "1000"])).start()
    daemon.output.wait(lambda line: line == f"line {n - 1} of 1", "its output")
    return fifo


def test_logs_of_the_living_and_the_dead(daemon):
    fifo = writer(daemon, n=300)
    document = json.loads(daemon.ctl("--json", "logs", "web", code=0).stdout)
    SCHEMAS["logs"].validate(document)
    (worker,) = document["workers"]
    assert worker["state"] == "serving" and worker["pid"] == daemon.worker(1)
    assert worker["lines"][-1] in ("begun", "line 299 of 1")
    assert "line 298 of 1" in worker["lines"] and 200 < len(worker["lines"]) <= 256
    fifo.write_text("last words\n")
    event = daemon.wait_event("worker-crashed")
    assert len(event["text"].splitlines()) <= 17  # the end alone
    daemon.wait_event("generation-gone", generation=1)
    (dead,) = json.loads(daemon.ctl("--json", "logs", "web", code=0).stdout)["workers"]
    assert dead["state"] == "gone" and dead["lines"][-1] == "begungot last words" and len(dead["lines"]) > 200
    text = daemon.ctl("logs", "web", "--lines", "2", code=0).stdout.splitlines()
    assert text[0].startswith("generation 1  worker 0  pid") and text[1:] == ["  line 299 of 1", "  begungot last words"]


def test_follow(daemon):
    fifo = writer(daemon)
    followers = [
        subprocess.Popen([HANDOFFCTL, "-s", daemon.control, *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        for arguments in (("logs", "web", "--follow"), ("--json", "logs", "web", "--follow"))
    ]
    plain, documents = (Lines(f.stdout) for f in followers)
    plain.wait(lambda line: "line 4 of 1" in line, "what was written before")
    documents.wait(lambda line: "line 4 of 1" in line, "what was written before")
    with fifo.open("w") as pen:
        pen.write("bytes\n")
        pen.flush()
        plain.wait(lambda line: line == "  begungot bytes", "a line of now")
        plain.wait(lambda line: "[31m" in line and "\033" not in line, "harmless bytes")
        documents.wait(lambda line: "begungot bytes" in line, "a line of now")
    documents.wait(lambda line: "[31m" in line, "bytes")
    for line in documents.items:
        SCHEMAS["logs"].validate(json.loads(line))
    assert sum(line.startswith("generation 1") for line in plain.items) == 1
    daemon.stop()
    assert [f.wait(10) for f in followers] == [5, 5]
