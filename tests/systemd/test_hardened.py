# SPDX-License-Identifier: MIT
"""The units as they are, with programs as people have them: started, reloaded, upgraded, killed, stopped under load.
Whatever their hardening takes away from handoffd or from ordinary servers is found here."""

import json
import os
import pathlib
import shutil
import signal

import machine
import pytest
from machine import SLEEPD, Load, ctl, drop_in, get, main_pid, run, show, systemctl, write

BINDERS = pathlib.Path(__file__).resolve().parents[1] / "integration/binders"
NGINX = """
error_log stderr;
%s
events {}
http {
	access_log off;
	%s
	server { listen 8084; location / { return 200 "n=$arg_n\\n"; } }
}
"""
HAPROXY = """
global
	chroot /var/lib/haproxy
	user nobody
defaults
	mode http
	timeout connect 5s
	timeout client 75s
	timeout server 75s
frontend web
	bind fd@${HANDOFF_FD_HTTP}
	http-request return status 200 content-type text/plain lf-string "n=%[url_param(n)]"
"""
NODE_PORT, NGINX_PORT, HAPROXY_PORT = 8083, 8084, 8085
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Unit:
    def __init__(self, name, control, user, services):
        self.name, self.control, self.user, self.services = name, control, user, services

    def ctl(self, *arguments, **options):
        return ctl(*arguments, control=self.control, **options)

    def status(self):
        return json.loads(self.ctl("--json", "status").stdout)

    def generations(self):
        return {s["name"]: s["generation"] for s in self.status()["services"]}

    def workers(self):
        return {w["pid"] for s in self.status()["services"] for g in s["generations"] for w in g["workers"]}

    def processes(self):
        group = pathlib.Path(f"/sys/fs/cgroup{show(self.name, 'ControlGroup')}")
        return {int(p) for f in group.rglob("cgroup.procs") for p in f.read_text().split()}


def block(name, command, address, extra=""):
    words = ", ".join(f'"{w}"' for w in command)
    return f'service "{name}" {{ command = {{{words}}} listen "http" {{ address = "{address}" }} {extra}\nrollout {{ bake = "0" }} }}\n'


def programs(user, folder):
    """A C worker on a socket of systemd, and node and nginx, which bind their ports themselves."""
    shutil.copy(BINDERS / "node.js", "/etc/handoffd/server.js")
    os.chmod("/etc/handoffd/server.js", 0o644)
    paths = "" if folder is None else "".join(f"{t}_temp_path {folder}/{t};" for t in TEMPORARY)
    write("nginx.conf", NGINX % ("" if folder else "user www-data;", paths))
    pid = f"{folder or '/run'}/nginx-{{generation}}.pid"
    as_user = f'user = "{user}"' if user else ""
    text = block("web", [SLEEPD], "systemd:http", as_user)
    text += block("node", ["/usr/bin/node", "/etc/handoffd/server.js"], f"*:{NODE_PORT}", as_user + f' environ = {{"PORT={NODE_PORT}"}} sockets = "adopt"')
    return text + block(
        "nginx",
        ["/usr/sbin/nginx", "-c", "/etc/handoffd/nginx.conf", "-g", f"daemon off; pid {pid};"],
        f"0.0.0.0:{NGINX_PORT}",
        'sockets = "adopt" drain { signal = "QUIT" }',
    )


@pytest.fixture(params=["handoffd", "handoffd@web"])
def unit(request):
    for program in ("node", "nginx", "haproxy"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    machine.install()
    run("chmod", "0755", "/etc/handoffd")
    name = request.param
    drop_in(f"{name}.socket", "[Socket]\nListenStream=\nListenStream=127.0.0.1:80\n")
    if name == "handoffd":
        control = "/run/handoffd/control.sock"
        write("haproxy.cfg", HAPROXY)
        text = programs("nobody", None)
        text += block("haproxy", ["/usr/sbin/haproxy", "-db", "-f", "/etc/handoffd/haproxy.cfg"], f"0.0.0.0:{HAPROXY_PORT}", 'drain { signal = "USR1" }')
        write("handoffd.conf", text)
        yield Unit(name, control, "root", ("web", "node", "nginx", "haproxy"))
    else:
        write("web.conf", programs(None, "/var/lib/handoffd/web"))
        yield Unit(name, "/run/handoffd-web/control.sock", "handoffd", ("web", "node", "nginx"))
    systemctl("stop", f"{name}.socket", name, code=None)
    run("sh", "-c", "rm -rf /etc/systemd/system/handoffd*.d /etc/handoffd/*")
    systemctl("daemon-reload")


def rights(pid):
    return dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def capabilities(pid):
    found = rights(pid)
    return [int(found[f"Cap{one}"], 16) for one in ("Inh", "Prm", "Eff", "Bnd", "Amb")]


def kill(unit):
    """Whoever asks next waits for the handoffd that comes."""
    pid = main_pid(unit.name)
    os.kill(pid, signal.SIGKILL)
    assert unit.status()["pid"] != pid


def test_everything_under_load(unit):
    systemctl("start", f"{unit.name}.socket", unit.name)
    pid = main_pid(unit.name)
    listeners = {s["name"]: s["listeners"][0] for s in unit.status()["services"]}
    assert {n: one["origin"] for n, one in listeners.items()} == {
        n: {"web": "systemd", "haproxy": "bound"}.get(n, "adopted") for n in unit.services
    }
    # a socket that root has made cannot be had twice by another user
    other = {"ebpf"} if unit.user == "root" else {"cbpf"}
    assert listeners["web"]["steering"] == ("ebpf" if unit.user == "root" else "shared")
    assert {listeners[n]["steering"] for n in ("node", "nginx")} == other
    with Load(80), Load(NODE_PORT, rate=50), Load(NGINX_PORT, rate=100, expect_nonce=True):
        systemctl("reload", unit.name)
        assert unit.generations() == dict.fromkeys(unit.services, 2)
        unit.ctl("upgrade")
        assert main_pid(unit.name) == pid
        systemctl("reload", unit.name)
        kill(unit)
        assert unit.generations() == dict.fromkeys(unit.services, 3)
        systemctl("reload", unit.name)
        assert unit.generations() == dict.fromkeys(unit.services, 4)
    for name in unit.services:
        unit.ctl("wait", name, "--for", "drained")
    if unit.user == "root":
        assert get(HAPROXY_PORT, "/?n=1") == "n=1"
    assert main_pid(unit.name) in unit.processes()
    systemctl("restart", unit.name)
    assert get(NODE_PORT) and get(80)
    pids = unit.processes()
    systemctl("stop", unit.name)
    assert show(unit.name, "Result") == "success" and show(unit.name, "ActiveState") == "inactive"
    assert not [p for p in pids if pathlib.Path(f"/proc/{p}").exists()]
    said = run("journalctl", "-u", unit.name).stdout
    for word in ("anomaly", "not permitted", "denied", "Read-only", "connections-cut", "impossible"):
        assert word not in said, word


def test_rights(unit):
    systemctl("start", f"{unit.name}.socket", unit.name)
    inheritable, permitted, effective, bounding, ambient = capabilities(main_pid(unit.name))
    line = unit.ctl("status").stdout.splitlines()[1]
    if unit.user == "root":
        assert effective and not inheritable and not ambient
        assert effective & ~permitted == 0 == permitted & ~bounding
        assert "without " in line and "sys_admin" in line
        # reading and signalling others' workers, and no more than the unit says
        assert not effective >> 16 & 3, "no modules, no raw I/O"
    else:
        assert [inheritable, permitted, effective, bounding, ambient] == [0] * 5
        assert line.startswith("user handoffd  no capabilities")
        assert rights(main_pid(unit.name))["NoNewPrivs"] == "1"
    own = 1 << 39 | 1 << 38 | 1 << 12 | 1 << 19 | 1 << 21 | 1 << 23 | 1 << 24  # handoffd's own work
    for s in unit.status()["services"]:
        for worker in s["generations"][0]["workers"]:
            found = capabilities(worker["pid"])
            assert not any(one & own for one in found), s["name"]
            if unit.user != "root" or s["name"] in ("web", "node"):
                assert not found[1] and not found[2], s["name"]


@pytest.mark.parametrize("flag", ["yes", "no"])
def test_socket_of_systemd_stays_as_it_was(unit, flag):
    """systemd sets O_NONBLOCK anew on what it passes to the restarted handoffd, and the worker has the same open file:
    it would hang in accept. The unit tells systemd the right one, and handoffd puts it right where a unit does not."""
    drop_in(f"{unit.name}.service", f"[Service]\nNonBlocking={flag}\n")
    systemctl("start", f"{unit.name}.socket", unit.name)
    (worker,) = (w["pid"] for s in unit.status()["services"] if s["name"] == "web" for w in s["generations"][0]["workers"])

    def blocks():
        flags = pathlib.Path(f"/proc/{worker}/fdinfo/3").read_text().split("flags:")[1].split()[0]
        return not int(flags, 8) & os.O_NONBLOCK

    assert not blocks()
    kill(unit)
    assert not blocks()


def test_template_with_low_ports_and_ebpf(unit):
    """As handoffd@.service tells: its own user, with two capabilities, which its workers do not get."""
    if unit.user == "root":
        pytest.skip("is about the template")
    given = "CAP_NET_BIND_SERVICE CAP_BPF"
    drop_in(f"{unit.name}.service", f"[Service]\nAmbientCapabilities={given}\nCapabilityBoundingSet={given}\nSystemCallFilter=bpf\n")
    text = block("web", [SLEEPD], "127.0.0.1:81") + block("low", [SLEEPD], "127.0.0.1:82", 'capabilities = {"net_bind_service"}')
    write("web.conf", text)
    systemctl("start", unit.name)
    with Load(81), Load(82):
        systemctl("reload", unit.name)
        unit.ctl("upgrade")
        kill(unit)
        systemctl("reload", unit.name)
    assert unit.ctl("status").stdout.splitlines()[1].startswith("user handoffd  with net_bind_service, bpf")
    for s in unit.status()["services"]:
        assert s["generation"] == 3 and s["listeners"][0]["steering"] == "ebpf"
        inheritable, permitted, effective, _, ambient = capabilities(s["generations"][0]["workers"][0]["pid"])
        wanted = 1 << 10 if s["name"] == "low" else 0
        assert permitted == effective == ambient == wanted
