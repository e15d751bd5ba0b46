# SPDX-License-Identifier: MIT
"""More or fewer workers without a new generation, roll-outs in steps for who cannot afford two
generations, and limits for old generations."""

import signal

import pytest
from harness import SLEEPD, Http, Load, generation, service

SIGNAL = 'drain { by = "signal" } rollout { bake = "0" }'


def workers(daemon, number=None):
    """The pids of a generation's workers that run."""
    web = daemon.service()
    wanted = number or web["generation"]
    g = next(g for g in web["generations"] if g["id"] == wanted)
    return [w["pid"] for w in g["workers"] if w["pid"]]


def test_up_and_down(daemon):
    daemon.configure(service(address=daemon.target, workers=2, extra=SIGNAL)).start()
    first = workers(daemon)
    with Load(daemon.target, rate=200, slow_ms=100):
        daemon.ctl("scale", "web", 5, code=0)
        assert workers(daemon)[:2] == first and len(workers(daemon)) == 5
        daemon.ctl("scale", "web", 1, code=0)
        assert workers(daemon) == first[:1]
    assert daemon.generations() == {1: "serving"}
    assert not daemon.seen("worker-crashed"), "who is told to leave has not crashed"
    texts = [e["text"] for e in daemon.seen("generation-scaled")]
    assert texts == ["from 2 to 5 workers", "from 5 to 1 workers"]
    # the number stays until the configuration says another one
    daemon.ctl("reload", "web", code=0)
    assert len(workers(daemon)) == 1
    daemon.configure(service(address=daemon.target, workers=3, extra=SIGNAL))
    daemon.ctl("reload", "web", code=0)
    assert len(workers(daemon)) == 3


def test_connection_of_a_surplus_worker_is_finished(daemon):
    daemon.configure(service(address=daemon.target, workers=4, extra=SIGNAL)).start()
    slow = [Http(daemon.target).send("/?sleep=0.7") for _ in range(12)]
    daemon.ctl("scale", "web", 1, code=0)
    for c in slow:
        assert c.receive()[0] == 200
    assert len(workers(daemon)) == 1


def test_down_is_refused_where_it_would_cut(daemon):
    extra = 'sockets = "pass" drain { by = "idle" } rollout { bake = "0" }'
    daemon.configure(service("--no-notify", address=daemon.target, workers=3, extra=extra)).start()
    done = daemon.ctl("scale", "web", 1, code=1)
    assert "drain.by" in done.stderr and len(workers(daemon)) == 3
    daemon.ctl("scale", "web", 4, code=0)
    assert len(workers(daemon)) == 4


def test_new_worker_that_fails(daemon):
    gate = daemon.directory / "gate"
    script = f"if test -e {gate}; then echo no more room >&2; exit 3; fi; exec {SLEEPD}"
    daemon.configure(service(address=daemon.target, command=["/bin/sh", "-c", script], extra=SIGNAL)).start()
    gate.touch()
    done = daemon.ctl("scale", "web", 2, code=1)
    assert "exited with status 3" in done.stderr and "no more room" in done.stderr
    gate.unlink()  # it is tried again like any worker
    daemon.wait_event("worker-ready", worker=1)
    assert len(workers(daemon)) == 2


def test_usage(daemon):
    daemon.configure(service(address=daemon.target)).start()
    for number in ("0", "-1", "many", "5000"):
        assert "from 1 to" in daemon.ctl("scale", "web", "--", number, code=2).stderr
    assert "no service" in daemon.ctl("scale", "nobody", 2, code=2).stderr


# ---- in steps ----


def stepped(daemon, *options, step=1, workers=4, ready='ready { by = "notify" timeout = "20s" }', more=""):
    extra = f'drain {{ by = "signal" }} rollout {{ bake = "0" step = {step} }} {ready} {more}'
    return service(*options, address=daemon.target, workers=workers, extra=extra)


def most_at_once(daemon):
    """The greatest number of workers that ran at the same time."""
    now = most = 0
    for e in daemon.events.items:
        now += e["event"] == "worker-started"
        now -= e["event"] in ("worker-exited", "worker-crashed")
        most = max(most, now)
    return most


@pytest.mark.parametrize("step", [1, 2, 3])
def test_steps(daemon, step):
    daemon.configure(stepped(daemon, step=step)).start()
    with Load(daemon.target, rate=200, slow_ms=100):
        daemon.ctl("reload", "web", code=0)
    assert daemon.service()["generation"] == 2 and len(workers(daemon)) == 4
    assert most_at_once(daemon) <= 4 + step
    daemon.wait_event("generation-gone", generation=1)
    shares = [e["text"].split()[0] for e in daemon.seen("generation-canary")]
    assert shares == [str(n) for n in range(step, 4, step)]


def test_step_fails(daemon):
    """The third worker of the new release does not come up: the old generation is as it was."""
    daemon.configure(stepped(daemon)).start()
    script = f"if test $HANDOFF_WORKER = 2; then echo no luck >&2; exit 4; fi; exec {SLEEPD}"
    bad = stepped(daemon).replace(f'"{SLEEPD}"', f'"/bin/sh", "-c", "{script}"')
    with Load(daemon.target, rate=200, slow_ms=100):
        daemon.configure(bad)
        done = daemon.ctl("reload", "web", code=3)
        assert "no luck" in done.stderr and "exited with status 4" in done.stderr
        daemon.wait_event("generation-gone", generation=2)
        assert len(workers(daemon, 1)) == 4
        daemon.configure(stepped(daemon))
        assert generation(daemon.target) == 1
        daemon.ctl("reload", "web", code=0)
    assert most_at_once(daemon) <= 5


def test_step_hangs(daemon):
    daemon.configure(stepped(daemon, workers=3)).start()
    script = f"test $HANDOFF_WORKER = 1 && exec {SLEEPD} --never-ready; exec {SLEEPD}"
    bad = stepped(daemon, workers=3, ready='ready { by = "notify" timeout = "700ms" }')
    daemon.configure(bad.replace(f'"{SLEEPD}"', f'"/bin/sh", "-c", "{script}"'))
    done = daemon.ctl("reload", "web", code=3)
    assert "ready in time" in done.stderr
    assert daemon.service()["generation"] == 1


def test_steps_of_a_shared_socket(daemon):
    text = stepped(daemon).replace(f'"{daemon.target}"', f'"unix:@{daemon.mark}"')
    daemon.configure(text).start()
    with Load(f"unix:@{daemon.mark}", rate=100, slow_ms=100):
        daemon.ctl("reload", "web", code=0)
    assert daemon.service()["generation"] == 2 and most_at_once(daemon) <= 5


def test_stop_in_the_middle(daemon):
    daemon.configure(stepped(daemon, "--ready-delay", "0.3")).start()
    later = daemon.ctl_later("reload", "web")
    daemon.wait_event("generation-canary", generation=2)
    daemon.ctl("stop", "web", code=0)
    later.wait(8)
    assert daemon.generations() == {}


@pytest.mark.parametrize(
    "extra, words",
    [
        ('rollout { step = 1 } drain { by = "idle" }', 'drain.by = "signal"'),
        ('rollout { step = 1 canary = "5%" } drain { by = "signal" }', "no canary"),
    ],
)
def test_step_that_cannot_be(daemon, extra, words):
    daemon.configure(service(address=daemon.target, extra=extra))
    done = daemon.ctl("config", "check", daemon.file, code=2)
    assert words in done.stderr and "handoffd.conf:" in done.stderr


# ---- old generations ----


def test_memory_of_old_ones(daemon):
    """Old generations with too much memory are stopped, the oldest first, and it is said why."""
    hog = [
        "/usr/bin/python3",
        "-c",
        "import os,http.server as h,socket,sys\n"
        "b=bytearray(os.urandom(1))*(60<<20)\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        " protocol_version='HTTP/1.1'\n"
        " def do_GET(s):\n"
        "  t=f'generation={os.environ[\"HANDOFF_GENERATION\"]}'.encode()\n"
        "  s.send_response(200);s.send_header('Content-Length',str(len(t)));s.end_headers();s.wfile.write(t)\n"
        "s=h.ThreadingHTTPServer(('127.0.0.1',0),H,False)\n"
        "s.socket.close();s.socket=socket.socket(fileno=3);s.daemon_threads=True\n"
        "s.socket.setblocking(True)\n"
        "s.serve_forever()",
    ]
    text = service(
        address=daemon.target,
        command=["/bin/true"],
        extra='rollout { bake = "0" max-old-memory = "100M" } drain { deadline = "10min" }',
    )
    listed = ", ".join('"' + part.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"' for part in hog)
    daemon.configure(text.replace('"/bin/true"', listed)).start()
    held = []
    for n in range(1, 4):
        held.append(Http(daemon.target))
        assert held[-1].generation() == n
        daemon.ctl("reload", "web", code=0)
    event = daemon.wait_event("generation-hastened")
    assert event["generation"] == 1 and "max-old-memory" in event["text"]
    assert held[2].generation() == 3, "the newest of the old ones goes on"
    for c in held:
        c.close()


def test_number_of_old_ones(daemon):
    daemon.configure(
        service(address=daemon.target, extra='rollout { bake = "0" max-old = 2 } drain { deadline = "10min" }')
    ).start()
    held = []
    for n in range(1, 5):
        held.append(Http(daemon.target))
        assert held[-1].generation() == n
        daemon.ctl("reload", "web", code=0)
    daemon.wait_event("generation-hastened", generation=2)
    events = [(e["generation"], e["text"]) for e in daemon.seen("generation-hastened")]
    assert [g for g, _ in events] == [1, 2] and "max-old" in events[0][1]
    for c in held:
        c.close()
    daemon.signal(signal.SIGTERM)
