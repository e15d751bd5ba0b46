# SPDX-License-Identifier: MIT
"""When a generation is ready: by the sign that was asked for, never earlier, and without the public
noticing how it was found out."""

import os

import pytest
from harness import WORKER, Load, generation, service


def ready(daemon, how, *options, **more):
    timeout = more.pop("timeout", "10s")
    extra = f'ready {{ by = "{how}" timeout = "{timeout}" }} ' + more.pop("extra", "")
    return service(*options, address=more.pop("address", daemon.target), extra=extra, **more)


MODES = {
    "notify": (["notify"], {}),
    "accepting": (["accepting", "--no-notify"], {}),
    "listening": (["listening", "--no-notify"], {}),
    "http": (["http:/health", "--no-notify"], {}),
    "exec": (["exec:/bin/true", "--no-notify"], {}),
    "fd": (["fd:9"], {"command": [*WORKER, "newline-on-fd", "9"]}),
    "after": (["after:100ms", "--no-notify"], {}),
    "auto-notify": (["auto"], {}),
    "auto-accepting": (["auto", "--no-notify"], {}),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_ready_by(daemon, mode, workers):
    (how, *options), more = MODES[mode]
    daemon.configure(ready(daemon, how, *options, workers=workers, **more)).start()
    with Load(daemon.target, rate=100, keepalive=2, slow=1, slow_ms=100) if "command" not in more else nothing():
        for number in range(2, 5):
            assert daemon.reload("web")["generation"] == number
    assert generation(daemon.target) == 4


class nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("mode", ["accepting", "http:/health", "auto"])
@pytest.mark.parametrize("address", ["v4", "v6", "dual", "path", "cbpf", "two"])
def test_probe_never_disturbs_the_public(daemons, mode, address):
    """It goes to the new generation alone, and nobody else's connection does before the turn."""
    daemon = daemons(environment={"HANDOFF_STEERING": "cbpf"} if address == "cbpf" else None)
    path = f"unix:{daemon.run}/web.sock"
    targets = {
        "v6": [f"[::1]:{daemon.port}"],
        "dual": [f"*:{daemon.port}"],
        "path": [path],
        "two": [daemon.target, path],
    }.get(address, [daemon.target])
    public = [t.replace("*", "127.0.0.1") for t in targets]
    daemon.configure(ready(daemon, mode, "--no-notify", address=targets)).start()
    daemon.configure(ready(daemon, mode, "--no-notify", "--ready-delay", "0.4", address=targets))
    with Load(*public, rate=300) as load:
        start = daemon.now()
        reload = daemon.ctl_later("reload", "web")
        daemon.wait_event("worker-started", start, generation=2)
        for _ in range(50):
            for target in public:
                assert generation(target) == 1
        reload.wait(0)
        ready_at = daemon.wait_event("generation-ready", generation=2)["duration"]
        assert ready_at >= 0.4
        for target in public:
            assert generation(target) == 2
        load.check()


def test_not_before_every_worker_has_said_so(daemon):
    """One of two is late: new connections come only when both are ready."""
    gate = daemon.directory / "gate"
    os.mkfifo(gate)
    script = 'if [ "$HANDOFF_GENERATION$HANDOFF_WORKER" = 21 ]; then : < "$1"; fi; shift; exec "$@"'
    from harness import SLEEPD

    daemon.configure(
        ready(daemon, "notify", command=["/bin/sh", "-c", script, "sh", gate, SLEEPD], workers=2)
    ).start()
    reload = daemon.ctl_later("reload", "web")
    daemon.wait_event("worker-ready", generation=2, worker=0)
    daemon.settle()
    assert generation(daemon.target) == 1
    with open(gate, "w", encoding="ascii"):
        reload.wait(0)
    assert generation(daemon.target) == 2


def test_extended_timeout(daemon):
    """It says that it needs longer, and gets it; the text that it tells is shown."""
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(
        ready(daemon, "notify", command=[*WORKER, "extends", "0.8"], timeout="400ms")
    )
    start = daemon.now()
    reload = daemon.ctl_later("reload", "web")
    daemon.wait_event("worker-status", start, generation=2, text="warming up")
    assert daemon.service()["generations"][0]["workers"][0]["status"] == "warming up"
    reload.wait(0)


def test_check_is_repeated_until_it_succeeds(daemon):
    flag = daemon.directory / "flag"
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(ready(daemon, f"exec:test -e {flag}"))
    reload = daemon.ctl_later("reload", "web")
    daemon.wait_event("worker-started", generation=2)
    assert generation(daemon.target) == 1
    flag.touch()
    reload.wait(0)
    assert generation(daemon.target) == 2


def test_health_that_comes_later(daemon):
    """A probe that was answered badly is made again."""
    daemon.configure(service(address=daemon.target)).start()
    flag = daemon.directory / "well"
    from harness import SLEEPD

    # the first process is ill; it is no crash loop but one generation whose health changes
    server = daemon.directory / "server.py"
    server.write_text(
        "import os, socket\n"
        "s = socket.socket(fileno=3)\ns.setblocking(True)\n"
        "while True:\n"
        "    c = s.accept()[0]\n    c.recv(9999)\n"
        f"    well = os.path.exists({str(flag)!r})\n"
        "    c.sendall(b'HTTP/1.1 ' + (b'200 OK' if well else b'503 No') + b'\\r\\nContent-Length: 0\\r\\n\\r\\n')\n"
        "    c.close()\n"
    )
    daemon.configure(ready(daemon, "http:/", command=[WORKER[0], server]))
    reload = daemon.ctl_later("reload", "web")
    daemon.wait_event("worker-started", generation=2)
    assert generation(daemon.target) == 1
    flag.touch()
    reload.wait(0)
    assert daemon.generations()[2] == "serving"
