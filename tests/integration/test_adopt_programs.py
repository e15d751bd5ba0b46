# SPDX-License-Identifier: MIT
"""Unmodified servers that bind their port themselves, reloaded under load: what the table of tests/programs,
which has more of them and more reloads, does not have in CTest."""

import shutil
import subprocess

import pytest
from binders import BINDERS, OLD, binder, configured, node
from harness import Load

RELOADS = 12
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
	server {{ {options} location / {{ return 200 "hello\\n"; }} }}
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


def java(daemon):
    classes = daemon.directory / "classes"
    subprocess.run(["javac", "-d", classes, BINDERS / "Binder.java"], check=True, timeout=60)
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classes, "Binder", daemon.port]


def puma(daemon):
    rackup = written(daemon, "config.ru", PUMA)
    return ["puma", "-b", f"tcp://0.0.0.0:{daemon.port}", "-t", "4:8", rackup]


def nginx(options):
    def command(daemon):
        conf = written(daemon, "nginx.conf", NGINX.format(options=options.format(port=daemon.port)))
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
    "python": ("python3", binder("plain"), {}, 1),
    "python-tests-first": ("python3", binder("tests_first"), {}, 1),
    "python-reuseport": ("python3", binder("reuseport"), {}, 3),
    "java": ("javac", java, {"rate": 50}, 1),
    "puma": ("puma", puma, {"keepalive": 1, "slow": 1, "rate": 50}, 1),
    "nginx": ("nginx", nginx("listen {port};"), ANY, 1),
    "nginx-reuseport": ("nginx", nginx("listen {port} reuseport;"), ANY, 2),
    "nginx-two-addresses": ("nginx", nginx("listen {port}; listen [::]:{port};"), ANY, 2),
    "haproxy": ("haproxy", haproxy(""), ANY, 1),
    "haproxy-by-thread": ("haproxy", haproxy(" shards by-thread"), ANY, 2),
}
CASES = [(name, "adopt" if name == "puma" else "auto", "ebpf") for name in PROGRAMS] + [
    ("node", "adopt", "ebpf"),
    ("python-tests-first", "adopt", "cbpf"),
    ("python-reuseport", "auto", "cbpf"),
    ("nginx-reuseport", "adopt", "cbpf"),
    ("nginx", "adopt", "ebpf"),
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name, mode, steering", CASES)
def test_reload_under_load(daemons, name, mode, steering):
    binary, command, load, sockets = PROGRAMS[name]
    if not shutil.which(binary):
        pytest.skip(f"{binary} is not installed")
    daemon = daemons(environment={"HANDOFF_STEERING": steering})
    two = [f"0.0.0.0:{daemon.port}", f"[::]:{daemon.port}"]
    configured(daemon, command, mode, two if "two" in name else None).start()
    for listener in daemon.service()["listeners"]:
        assert (listener["origin"], listener["steering"]) == ("adopted", steering)
    descriptors = daemon.descriptors()
    with Load(daemon.target, **{"rate": 200, "requests_per_connection": 20, **load}) as running:
        for number in range(2, RELOADS + 2):
            if number > OLD:
                daemon.wait_event("generation-gone", generation=number - OLD)
            assert daemon.reload("web")["generation"] == number
        result = running.check()
    if "any_body" not in load:
        assert len(result["generations"]) > RELOADS // 2
    for number in range(1, RELOADS + 1):
        daemon.wait_event("generation-gone", generation=number)
    for listener in daemon.service()["listeners"]:
        assert listener["origin"] == "adopted"
    adopted = [e for e in daemon.seen("socket-adopted") if e["generation"] == RELOADS]
    assert len(adopted) == sockets + (name == "python-tests-first")
    for event in ("connections-cut", "worker-crashed", "socket-refused", "anomaly"):
        assert not daemon.seen(event), event
    assert daemon.descriptors() <= descriptors + 8, "handoffd keeps sockets of what is gone"
