# SPDX-License-Identifier: MIT
"""Memory and descriptors that outlive their generation: counterd goes on counting."""

import os
import re
import signal
import subprocess
import threading

from harness import BUILD, LIMIT, free_port, get, service

COUNTERD = BUILD / "contrib/examples/counterd"


def counting(daemon, *options, **more):
    return service(address=daemon.target, command=[COUNTERD, *options], **more)


def visit(daemon):
    return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", get(daemon.target))}


def said(daemon, words):
    """How often; it comes through two pipes, later than an answer."""
    daemon.wait_log(re.escape(words))
    return sum(words in line for line in daemon.log.items)


def test_count_goes_on(daemon):
    """Over reloads, and over the death of a worker."""
    daemon.configure(counting(daemon)).start()
    for number in range(1, 4):
        assert visit(daemon)["visit"] == number
    for generation in range(2, 6):
        daemon.reload("web")
        seen = visit(daemon)
        assert (seen["visit"], seen["own"], seen["generation"]) == (generation + 2, 1, generation)
    start = daemon.now()
    daemon.kill(daemon.worker(5), signal.SIGKILL)
    daemon.wait_event("worker-ready", start, generation=5)
    assert visit(daemon)["visit"] == 8
    assert said(daemon, "new memory") == 1


def test_workers_race_for_one_name(daemon):
    """Whoever is first fills it, the others find it filled."""
    daemon.configure(counting(daemon, workers=8)).start()
    seen = []

    def visits():
        for _ in range(25):
            seen.append(visit(daemon)["visit"])

    threads = [threading.Thread(target=visits) for _ in range(8)]
    for t in threads:
        t.start()
    daemon.reload("web")
    for t in threads:
        t.join(LIMIT)
    assert sorted(seen) == list(range(1, 201))
    assert said(daemon, "new memory") == 1


def test_new_layout_and_back(daemon):
    """Each release has its own layout; the older generation finds its memory as it was."""
    daemon.configure(counting(daemon, "--first-release")).start()
    assert visit(daemon)["visit"] == 1
    daemon.configure(counting(daemon))
    daemon.reload("web", "--wait", "drained")
    assert visit(daemon)["visit"] == 2
    assert said(daemon, "took over 1 visits from the first release") == 1
    # nobody can ask for the first layout any more: it is gone, and does not come back
    daemon.configure(counting(daemon, "--first-release"))
    daemon.reload("web", "--wait", "drained")
    assert visit(daemon)["visit"] == 1


def test_failed_generation_takes_its_memory_along(daemon):
    """What it took over before it failed is not what the next one begins with."""
    daemon.configure(counting(daemon, "--first-release")).start()
    assert visit(daemon)["visit"] == 1
    daemon.configure(counting(daemon, "--broken-release"))
    daemon.reload("web", code=3)
    assert said(daemon, "took over 1 visits") == 1
    assert visit(daemon)["visit"] == 2
    start = daemon.now()
    daemon.kill(daemon.worker(1), signal.SIGKILL)  # the older one finds its own
    daemon.wait_event("worker-ready", start)
    assert visit(daemon)["visit"] == 3
    daemon.configure(counting(daemon))
    daemon.reload("web")
    assert said(daemon, "took over 3 visits") == 1
    assert visit(daemon)["visit"] == 4


def test_turned_back_generation_takes_its_memory_along(daemon):
    bake = 'rollout { bake = "30s" }'
    daemon.configure(counting(daemon, "--first-release")).start()
    assert visit(daemon)["visit"] == 1
    daemon.configure(counting(daemon, extra=bake))
    reload = daemon.ctl_later("reload", "web")
    daemon.wait_event("generation-serving", generation=2)
    assert visit(daemon)["visit"] == 2
    daemon.kill(daemon.worker(2), signal.SIGKILL)
    reload.wait(3)
    assert visit(daemon)["visit"] == 2  # its own: what the bad one counted is not in it
    daemon.wait_event("generation-gone", generation=2)
    daemon.configure(counting(daemon))
    daemon.reload("web")
    assert visit(daemon)["visit"] == 3
    assert said(daemon, "took over 2 visits") == 1


def test_alone():
    """The same program without handoffd: its memory is its own."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HANDOFF_", "LISTEN_", "NOTIFY_"))}
    with subprocess.Popen(
        [COUNTERD, f"127.0.0.1:{port}"], env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stderr.readline() == b"counterd: new memory\n"
            for number in range(1, 4):
                assert f"visit={number} " in get(f"127.0.0.1:{port}")
            process.terminate()
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
