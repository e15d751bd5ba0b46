# SPDX-License-Identifier: MIT
"""Unmodified programs that bind their port themselves are handed over like those that take theirs."""

import pathlib
import shutil
import subprocess
import sys
import threading

import pytest
from harness import HERE, NOBODY, Http, Load, generation, get, service

RELOADS = 20
OLD = 4  # generations that drain at once
BINDERS = HERE / "binders"
PYTHON = (sys.executable, BINDERS / "binder.py")
PUMA = """
letters = [*"a".."z"].join
run lambda { |env|
  query = env["QUERY_STRING"].split("&").to_h { |p| p.split("=", 2) }
  nonce = query["n"].to_s
  sleep(query["sleep"].to_f)
  start = nonce.bytes.reduce(2166136261) { |h, b| ((h ^ b) * 16777619) & 0xffffffff } % 26
  size = query["size"].to_i
  body = "pid=#{$$} generation=#{ENV["HANDOFF_GENERATION"]} n=#{nonce}\\n" +
         (letters * (size / 26 + 2))[start, size]
  [200, {"content-length" => body.bytesize.to_s}, [body]]
}
"""
NGINX = """
daemon off;
worker_processes 2;
error_log stderr;
pid nginx.pid;
events {{ worker_connections 512; }}
http {{
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server {{ listen {port} {options}; location / {{ return 200 "hello\\n"; }} }}
}}
"""
HAPROXY = """
global
	nbthread 2
defaults
	mode http
	timeout client 75s
	timeout connect 5s
	timeout server 75s
frontend web
	bind *:{port}{options}
	http-request return status 200 content-type text/plain string hello
"""


def written(daemon, name, text):
    path = daemon.directory / name
    path.write_text(text)
    return path


def binder(mode):
    return lambda daemon: [*PYTHON, mode, daemon.port]


def node(daemon):
    return ["/usr/bin/env", f"PORT={daemon.port}", "node", BINDERS / "node.js"]


def node_cluster(daemon):
    return ["/usr/bin/env", "CLUSTER=1", f"PORT={daemon.port}", "node", BINDERS / "node.js"]


def java(daemon):
    classes = daemon.directory / "classes"
    subprocess.run(["javac", "-d", classes, BINDERS / "Binder.java"], check=True, timeout=60)
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classes, "Binder", daemon.port]


def puma(daemon):
    rackup = written(daemon, "config.ru", PUMA)
    return ["puma", "-b", f"tcp://0.0.0.0:{daemon.port}", "-t", "4:8", rackup]


def gunicorn(daemon):
    app = HERE.parent / "programs/apps/gunicorn"
    return ["gunicorn", "-w", "2", "--threads", "4", "--chdir", app, "-b", f"0.0.0.0:{daemon.port}", "app:app"]


def nginx(options):
    def command(daemon):
        conf = written(daemon, "nginx.conf", NGINX.format(port=daemon.port, options=options))
        return ["nginx", "-p", f"{daemon.directory}/", "-c", conf]

    return command


def haproxy(options):
    def command(daemon):
        conf = written(daemon, "haproxy.cfg", HAPROXY.format(port=daemon.port, options=options))
        return ["haproxy", "-db", "-f", conf]

    return command


ANY = {"any_body": True, "slow": 0}
PROGRAMS = {
    # binary, command, load, sockets of a generation
    "node": ("node", node, {}, 1),
    "node-cluster": ("node", node_cluster, {}, 1),
    "python": ("python3", binder("plain"), {}, 1),
    "python-tests-first": ("python3", binder("tests_first"), {}, 1),
    "python-reuseport": ("python3", binder("reuseport"), {}, 3),
    "java": ("javac", java, {"rate": 50}, 1),
    "puma": ("puma", puma, {"keepalive": 1, "slow": 1, "rate": 50}, 1),
    "gunicorn": ("gunicorn", gunicorn, {"keepalive": 1, "rate": 50}, 1),
    "nginx": ("nginx", nginx(""), ANY, 1),
    "nginx-reuseport": ("nginx", nginx("reuseport"), ANY, 2),
    "haproxy": ("haproxy", haproxy(""), ANY, 1),
    "haproxy-by-thread": ("haproxy", haproxy(" shards by-thread"), ANY, 2),
}
CASES = [(name, "auto", "ebpf") for name in PROGRAMS] + [
    ("node", "adopt", "ebpf"),
    ("node", "auto", "cbpf"),
    ("python-tests-first", "adopt", "cbpf"),
    ("python-reuseport", "auto", "cbpf"),
    ("nginx-reuseport", "adopt", "cbpf"),
    ("nginx", "adopt", "ebpf"),
]


def configured(daemon, command, mode="auto", address=None, extra="", **options):
    # the children of a draining program serve on after its parent was told to leave
    text = f'sockets = "{mode}" rollout {{ bake = "0" max-old = {OLD + 1} }}\n{extra}'
    address = address or f"*:{daemon.port}"
    return daemon.configure(service(address=address, command=command(daemon), extra=text, **options))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name, mode, steering", CASES)
def test_reload_under_load(daemons, name, mode, steering):
    binary, command, load, sockets = PROGRAMS[name]
    if not shutil.which(binary):
        pytest.skip(f"{binary} is not installed")
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    configured(daemon, command, mode).start()
    (listener,) = daemon.service()["listeners"]
    assert (listener["origin"], listener["steering"]) == ("adopted", steering)
    descriptors = daemon.descriptors()
    with Load(daemon.target, **{"rate": 200, **load}) as running:
        for number in range(2, RELOADS + 2):
            if number > OLD:
                daemon.wait_event("generation-gone", generation=number - OLD)
            assert daemon.reload("web")["generation"] == number
        result = running.check()
    if "any_body" not in load:
        assert len(result["generations"]) > RELOADS // 2
    for number in range(1, RELOADS + 1):
        daemon.wait_event("generation-gone", generation=number)
    adopted = [e for e in daemon.seen("socket-adopted") if e["generation"] == RELOADS]
    assert len(adopted) == sockets + (name == "python-tests-first")
    for event in ("connections-cut", "worker-crashed", "socket-refused", "anomaly"):
        assert not daemon.seen(event), event
    assert daemon.descriptors() <= descriptors + 8, "handoffd keeps sockets of what is gone"


def test_every_socket_gets_a_part(daemon):
    configured(daemon, binder("reuseport")).start()
    pids = set()
    for _ in range(200):
        pids.add(get(daemon.target).split()[0])
        if len(pids) == 3:
            break
    assert len(pids) == 3


def test_privileged_port_and_another_user(daemon, root):
    """The program could not bind it itself."""
    daemon.port = 81
    command = lambda d: ["/usr/bin/python3", *PYTHON[1:], "plain", d.port]  # noqa: E731
    configured(daemon, command, "adopt", extra='user = "nobody"').start()
    assert generation("127.0.0.1:81") == 1
    assert daemon.reload("web")["generation"] == 2
    assert generation("127.0.0.1:81") == 2


def test_without_any_privilege(daemons, root):
    daemon = daemons(user=NOBODY)
    command = lambda d: ["/usr/bin/python3", *PYTHON[1:], "plain", d.port]  # noqa: E731
    configured(daemon, command, "adopt").start()
    with Load(daemon.target, rate=100):
        for number in range(2, 7):
            assert daemon.reload("web")["generation"] == number
    assert daemon.service()["listeners"][0]["steering"] == "cbpf"


@pytest.mark.parametrize("mode", ["auto", "adopt"])
@pytest.mark.parametrize("steering", ["ebpf", "cbpf"])
def test_killed_under_load(daemons, mode, steering):
    """Of the connections inside of the dead process some are lost; of those after it none is refused."""
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    configured(daemon, node, mode).start()
    with Load(daemon.target, rate=200, slow=0, keepalive=0) as load:
        for number in range(1, 6):
            start = daemon.now()
            daemon.kill(daemon.worker(1), 9)
            daemon.wait_event("socket-adopted", start)
            assert generation(daemon.target) == 1
            assert daemon.service()["generations"][0]["workers"][0]["restarts"] == number
        result = load.stop()
    assert result["failures"]["refused"] == 0
    if steering == "ebpf":
        assert result["failed"] <= 5 * 10, result["failures"]
    assert daemon.reload("web")["generation"] == 2


def test_wrong_port(daemon):
    configured(daemon, binder("plain"), "adopt", extra='ready { timeout = "3s" }').start()
    (daemon.directory / "handoffd.conf").write_text(
        (daemon.directory / "handoffd.conf").read_text().replace('"plain"', '"other_port"')
    )
    failed = daemon.reload("web", code=3)
    assert f"does not listen on tcp:*:{daemon.port}" in failed["text"]
    assert f"listens on tcp:0.0.0.0:{daemon.port + 1} instead" in failed["text"]
    assert generation(daemon.target) == 1


@pytest.mark.parametrize("mode, why", [("never", "does not listen on"), ("notifies_never_binds", "does not listen on")])
def test_never_binds(daemon, mode, why):
    configured(daemon, binder("plain"), "adopt", extra='ready { timeout = "3s" }').start()
    (daemon.directory / "handoffd.conf").write_text(
        (daemon.directory / "handoffd.conf").read_text().replace('"plain"', f'"{mode}"')
    )
    failed = daemon.reload("web", code=3)
    assert why in failed["text"]
    assert generation(daemon.target) == 1


def test_changed_form(daemon):
    configured(daemon, binder("loopback_from_two")).start()
    failed = daemon.reload("web", code=3)
    assert "in use" in failed["text"]
    refused = daemon.wait_event("socket-refused", generation=2)
    assert f"the program binds tcp:127.0.0.1:{daemon.port}" in refused["text"]
    assert generation(daemon.target) == 1


def test_ready_when_it_listens(daemon):
    """Not by an accepted connection: this program accepts none."""
    configured(
        daemon, binder("listens_later"), "adopt", extra='ready { by = "listening" timeout = "20s" }'
    ).spawn().listen_to_events()
    daemon.wait_event("worker-started")
    pid = daemon.worker(1)
    status = f"/proc/{pid}/status"

    def handles_usr1():
        with open(status, encoding="ascii") as f:
            return any(l.startswith("SigCgt") and int(l.split()[1], 16) & 1 << 9 for l in f)

    while not handles_usr1():
        pass
    assert not daemon.seen("generation-ready")
    daemon.kill(pid, 10)
    daemon.wait_event("generation-ready")
    daemon.wait_event("daemon-ready")


def test_old_connections_are_counted(daemon):
    configured(daemon, node).start()
    with Http(daemon.target) as idle:
        assert "generation=1" in idle.get("/?n=1")
        assert daemon.reload("web")["generation"] == 2
        old = next(g for g in daemon.service()["generations"] if g["id"] == 1)
        assert (old["state"], old["in_flight"]) == ("draining", 1)
        assert "generation=1" in idle.get("/?n=2")
    daemon.wait_event("generation-gone", generation=1)


def test_many_workers_have_one_port(daemon):
    configured(daemon, binder("plain"), workers=3).start()
    assert len(daemon.seen("socket-adopted")) == 3
    with Load(daemon.target, rate=100, keepalive=0, slow=0) as load:
        start = daemon.now()
        daemon.kill(daemon.worker(1, 1), 15)
        daemon.wait_event("socket-adopted", start, worker=1)
        assert daemon.reload("web")["generation"] == 2
        result = load.stop()
    assert result["failures"]["refused"] == 0
    assert result["failed"] <= 3, "more than what the process had"
