# SPDX-License-Identifier: MIT
"""handoffd with less than all rights: it serves, reloads without loss, and says what it does without. There is a
test for each row of the table PRIVILEGES in handoffd(8), in which exactly that capability is taken away."""

import ctypes
import os
import pathlib
import re
import shutil
import socket

import pytest
from harness import FAST, HANDOFFD, NOBODY, SOURCE, WORKER, Http, Load, generation, get, quoted, service

# Of its own work; contrib/systemd/handoffd.service gives all of them but sys_admin.
OWN = (
    "bpf net_bind_service setuid setgid kill sys_ptrace sys_admin net_admin sys_resource sys_nice chown fowner "
    "dac_override setpcap"
).split()
# What a worker under root has.
USUAL = {
    *("chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod".split()),
    *("audit_write", "setfcap"),
}
NUMBERS = {
    match[1].lower(): number
    for number, match in enumerate(re.finditer(r"\tX\((\w+), ", (SOURCE / "daemon/core/capability.h").read_text()))
}


def with_rights(daemon, *words):
    daemon.command = lambda: ["setpriv", *words, str(HANDOFFD), "-c", str(daemon.file)]
    return daemon


def without(daemon, *names):
    return with_rights(daemon, "--bounding-set=" + ",".join(f"-{name}" for name in names))


def capabilities(bits):
    return {name for name, number in NUMBERS.items() if int(bits, 16) >> number & 1}


def sets(text):
    return {name: capabilities(bits) for name, bits in re.findall(r"^Cap(\w+):\s*(\w+)$", text, re.M)}


def of_process(pid):
    return sets(pathlib.Path(f"/proc/{pid}/status").read_text())


def of_worker(daemon, extra="", **options):
    daemon.configure(service(address=daemon.target, command=[*WORKER, "facts"], extra=extra, **options)).start()
    return sets(get(daemon.target))


MINE = of_process("self")["Prm"]  # what this machine gives at all


def second_line(daemon):
    return daemon.ctl("status", code=0).stdout.splitlines()[1]


def serves_and_reloads(daemon):
    with Load(daemon.target, rate=100):
        daemon.reload("web", "--wait", "drained")
    assert generation(daemon.target) == 2
    mode = daemon.status()["mode"]
    said = second_line(daemon)
    assert f"user {mode['user']}" in said
    assert ("drains by polling" in said) == (mode["drain_watch"] == "polling")
    assert ("no adoption" in said) == (not mode["adoption"])
    return mode


def lost(daemon):
    return {one["capability"].removeprefix("cap_"): one["text"] for one in daemon.status()["mode"]["lost"]}


# ---- handoffd itself ----


def test_the_numbers_are_the_kernels():
    if not shutil.which("capsh"):
        pytest.skip("capsh is not installed")
    import subprocess

    for name, number in NUMBERS.items():
        said = subprocess.run(["capsh", f"--decode={1 << number:x}"], capture_output=True, text=True, check=True)
        assert said.stdout.strip().endswith(f"=cap_{name}"), (name, said.stdout)


def test_the_table_has_them_all():
    text = (SOURCE / "docs/handoffd.8.scd").read_text()
    table = text.split("\n# PRIVILEGES\n")[1].split("\n# ")[0]
    rows = "\n".join(line for line in table.splitlines() if line.startswith(("|", "[[")))
    assert set(re.findall(r"CAP_(\w+)", rows)) == {name.upper() for name in OWN}


@pytest.mark.parametrize("lacking", ["bpf", "net_admin"] if FAST else OWN)
def test_root_without(daemon, root, lacking):
    """Root with a bounded set: it serves as ever, and tells by word what it cannot do."""
    kept = [f"+{name}" for name in OWN if name != lacking and (name != "sys_admin" or lacking != "bpf")]
    with_rights(daemon, "--bounding-set=" + ",".join(["-all", *kept]))
    daemon.configure(service(address=daemon.target)).start()
    mode = serves_and_reloads(daemon)
    assert mode["user"] == "root" and f"cap_{lacking}" not in mode["capabilities"]
    assert mode["drain_watch"] == "events" and len(mode["capabilities"]) < len(OWN)
    assert lacking in lost(daemon)
    assert f"{lacking} ({lost(daemon)[lacking]})" in second_line(daemon)
    assert (mode["steering"] == "cbpf") == (lacking == "bpf")
    assert mode["adoption"] == (lacking != "sys_ptrace")


def test_keeps_in_effect_what_it_uses(daemon, root):
    """The rest can still be given to workers, but handoffd itself does not act with it; also after an upgrade."""
    daemon.configure(service(address=daemon.target)).start()
    for _ in range(2):
        found = of_process(daemon.process.pid)
        assert found["Eff"] == MINE & set(OWN) and found["Prm"] == MINE and not found["Amb"]
        assert lost(daemon).keys() == set(OWN) - MINE
        daemon.ctl("upgrade", code=0)
    if MINE >= set(OWN):
        assert second_line(daemon).startswith("user root  all rights")


def test_without_any(daemons, root):
    daemon = daemons(user=NOBODY)
    daemon.configure(service(address=daemon.target)).start()
    mode = serves_and_reloads(daemon)
    assert mode["capabilities"] == [] and lost(daemon).keys() == set(OWN)
    assert second_line(daemon).startswith("user nobody  no capabilities")


def test_user_with_low_ports_only(daemons, root):
    """The unprivileged form: its own user, and ports below 1024."""
    daemon = daemons(user=NOBODY)
    rights = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with_rights(daemon, *rights, "--inh-caps=-all,+net_bind_service", "--ambient-caps=-all,+net_bind_service")
    daemon.target = "127.0.0.1:80"  # of a network of its own
    daemon.configure(service(address=daemon.target)).start()
    mode = serves_and_reloads(daemon)
    assert mode["capabilities"] == ["cap_net_bind_service"]
    assert mode["user"] == "nobody" and mode["steering"] == "cbpf" and mode["drain_watch"] == "events"
    assert mode["adoption"]  # all its programs are of its own user
    assert second_line(daemon).startswith("user nobody  with net_bind_service")
    found = of_process(daemon.worker(2))
    assert not (found["Eff"] | found["Prm"] | found["Inh"] | found["Amb"])
    # what it has it may give away
    daemon.configure(service(address=daemon.target, extra='capabilities = {"net_bind_service"}'))
    daemon.reload("web")
    assert of_process(daemon.worker(3))["Eff"] == {"net_bind_service"}
    daemon.configure(service(address=daemon.target, extra='capabilities = {"net_bind_service", "chown"}'))
    assert "handoffd itself does not have chown" in daemon.reload("web", code=3)["text"]


# ---- the table, row by row ----


def refused(daemon, extra, wanted, **options):
    """The service that serves gets new settings, which fail in these words and change nothing."""
    daemon.configure(service(address=daemon.target)).start()
    daemon.configure(service(address=options.pop("address", daemon.target), extra=extra, **options))
    done = daemon.ctl("reload", "web")
    assert done.returncode in (2, 3) and wanted in done.stderr, done
    assert generation(daemon.target) == 1


@pytest.mark.parametrize("lacking", ["setuid", "setgid"])
def test_setuid(daemon, root, lacking):
    """A service under another user is refused in words, and the one that serves goes on."""
    refused(without(daemon, lacking), 'user = "nobody"', "Operation not permitted")


def test_net_bind_service(daemon, root):
    refused(without(daemon, "net_bind_service"), "", "needs CAP_NET_BIND_SERVICE", address="127.0.0.1:80")


def test_low_port_needs_its_capability(daemons, root):
    daemon = daemons(user=NOBODY)
    daemon.configure(service(address="127.0.0.1:80")).spawn()
    daemon.wait_log("needs CAP_NET_BIND_SERVICE")
    daemon.wait_exit(1)


def test_kill(daemon, root):
    """Without CAP_KILL a worker under another user cannot be told to stop, and that is said."""
    daemon.directory.chmod(0o755)
    without(daemon, "kill")
    daemon.configure(service(address=daemon.target, extra='user = "nobody"')).start()
    old = daemon.worker(1)
    daemon.reload("web")
    daemon.wait_log("Operation not permitted")
    daemon.kill(old, 9)
    daemon.wait_event("generation-gone", generation=1)
    new = daemon.worker(2)
    daemon.signal(15)
    daemon.wait_event("service-stopping")
    daemon.kill(new, 9)
    daemon.wait_exit()


BINDER = pathlib.Path(__file__).parent / "binders/binder.py"


@pytest.mark.parametrize("lacking", ["sys_ptrace", "sys_nice"])
def test_sys_ptrace(daemon, root, lacking):
    """Sockets that a program under another user binds itself; sys_nice has nothing to do with it."""
    without(daemon, lacking)
    command = ["/usr/bin/python3", BINDER, "plain", daemon.port]
    block = service(address=f"*:{daemon.port}", command=command, extra='user = "nobody" sockets = "adopt"')
    daemon.directory.chmod(0o755)
    if lacking == "sys_ptrace":
        daemon.configure(block).spawn()
        daemon.wait_log("generation-failed.*cannot look at the sockets")
        daemon.wait_exit(1)
    else:
        daemon.configure(block).start()
        assert daemon.service()["listeners"][0]["origin"] == "adopted"


@pytest.mark.parametrize("lacking", ["sys_admin", "sys_nice"])
def test_sys_admin(daemon, root, lacking):
    """Adopting costs a program its set-user-ID programs, but for SYS_ADMIN."""
    without(daemon, lacking)
    daemon.configure(service(address=daemon.target)).start()
    status = pathlib.Path(f"/proc/{daemon.worker(1)}/status").read_text()
    assert f"NoNewPrivs:\t{int(lacking == 'sys_admin')}" in status


def buffers(pid):
    """The largest receive buffer of its netlink sockets."""
    libc = ctypes.CDLL(None, use_errno=True)
    process, found = os.pidfd_open(pid), 0
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        fd = libc.syscall(438, process, int(link.name), 0)  # pidfd_getfd
        if fd >= 0 and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            with socket.socket(fileno=fd) as s:
                if s.family == socket.AF_NETLINK:
                    found = max(found, s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
        elif fd >= 0:
            os.close(fd)
    os.close(process)
    return found


@pytest.mark.parametrize("lacking", ["net_admin", "sys_nice"])
def test_net_admin(daemon, root, lacking):
    """The kernel doubles what it is asked for. Where it allows 4 MiB to everybody, nothing is lost."""
    most = int(pathlib.Path("/proc/sys/net/core/rmem_max").read_text())
    without(daemon, lacking)
    daemon.configure(service(address=daemon.target)).start()
    with Http(daemon.target) as held:
        held.get()
        daemon.reload("web")
        daemon.wait_event("generation-quiet", generation=1)
        assert buffers(daemon.process.pid) == 2 * min(4 << 20, most if lacking == "net_admin" else 4 << 20)


def test_sys_resource(daemon, root):
    without(daemon, "sys_resource")
    inner = daemon.command()
    daemon.command = lambda: ["prlimit", "--nofile=900:900", *inner]
    refused(daemon, 'limits { nofile = "1000" }', "cannot set RLIMIT_NOFILE to 1000")


def test_sys_nice(daemon, root):
    refused(without(daemon, "sys_nice"), "nice = -5", "cannot set the nice value to -5")


@pytest.mark.parametrize("lacking", ["chown", "fowner"])
def test_chown(daemon, root, lacking):
    extra = f'listen "local" {{ address = {quoted(f"unix:{daemon.run}/web.sock")} owner = "nobody" }}'
    refused(without(daemon, lacking), extra, "needs CAP_CHOWN and CAP_FOWNER")
    assert not (daemon.run / "web.sock").exists()


def test_dac_override(daemon, root):
    """The folder of the release link belongs to another user."""
    site = daemon.directory / "site"
    for number in (1, 2):
        (site / str(number)).mkdir(parents=True)
    (site / "current").symlink_to("1")
    os.chown(site, NOBODY, NOBODY)
    without(daemon, "dac_override")
    daemon.configure(service(address=daemon.target, extra=f"directory = {quoted(site / 'current')}")).start()
    done = daemon.ctl("deploy", "web", "--release", site / "2")
    assert done.returncode not in (0, 5) and "Permission denied" in done.stderr, done
    assert generation(daemon.target) == 1 and os.readlink(site / "current") == "1"


def test_setpcap(daemon, root):
    """What cannot be taken from a worker is left to it, but not if that was asked for."""
    without(daemon, "setpcap")
    assert of_worker(daemon)["Eff"] == MINE - {"setpcap"}
    daemon.configure(service(address=daemon.target, extra='capabilities = {"none"}'))
    assert "needs CAP_SETPCAP" in daemon.reload("web", code=3)["text"]
    # another user loses them all the same
    daemon.directory.chmod(0o755)
    daemon.configure(service(address=daemon.target, command=[*WORKER, "facts"], extra='user = "nobody" capabilities = {"none"}'))
    daemon.reload("web")
    found = sets(get(daemon.target))
    assert not found["Eff"] and not found["Prm"] and found["Bnd"]


# ---- workers ----


@pytest.mark.parametrize("user", ["", 'user = "root"', 'user = "nobody"'])
def test_what_workers_get(daemon, root, user):
    found = of_worker(daemon, user)
    usual = MINE & USUAL
    assert not found["Amb"] and not found["Inh"]
    assert found["Eff"] == found["Prm"] == (set() if "nobody" in user else usual)
    assert found["Bnd"] == usual, "nor does a set-user-ID program get more"


@pytest.mark.parametrize("user", ["", 'user = "nobody"'])
def test_capabilities_are_exactly_those(daemon, root, user):
    daemon.directory.chmod(0o755)
    for words, expected in (
        ('"net_bind_service", "CAP_SYS_CHROOT"', {"net_bind_service", "sys_chroot"}),
        ('"sys_ptrace,^cap_sys_time"', {"sys_ptrace", "sys_time"}),  # what handoffd does not use, too
        ('"all"', MINE),
        ('"none"', set()),
        ("", set()),
    ):
        block = service(address=daemon.target, command=[*WORKER, "facts"], extra=f"{user} capabilities = {{{words}}}")
        daemon.configure(block)
        if daemon.process:
            daemon.reload("web")
        else:
            daemon.start()
        found = sets(get(daemon.target))
        assert found["Eff"] == found["Prm"] == expected, words
        assert found["Amb"] == found["Inh"] == (expected if user else set()), words
        assert found["Bnd"] == (of_process("self")["Bnd"] if words == '"all"' else expected), words


def test_set_user_id_programs_get_no_more(daemon, root):
    """A worker under another user executes a program of root's."""
    daemon.directory.chmod(0o755)
    program = daemon.directory / "cat"
    shutil.copy("/bin/cat", program)
    program.chmod(0o4755)
    out = daemon.directory / "out"
    out.touch()
    out.chmod(0o666)
    text = f"{program} /proc/self/status >{out}; exec {' '.join(map(str, WORKER))} facts"
    if os.statvfs(daemon.directory).f_flag & os.ST_NOSUID:
        pytest.skip("the directory of the tests is mounted with nosuid")
    extra = 'user = "nobody" sockets = "pass"'
    daemon.configure(service(address=daemon.target, command=["/bin/sh", "-c", text], extra=extra)).start()
    assert "Uid:\t65534\t0\t0\t0" in out.read_text()
    assert sets(out.read_text())["Eff"] == MINE & USUAL


def test_builds_and_checks_have_no_more(daemon, root):
    """What runs beside a worker: the build, and the command of ready.by."""
    daemon.directory.chmod(0o755)
    for name in ("build", "check"):
        (daemon.directory / name).touch()
        (daemon.directory / name).chmod(0o666)
    extra = f"""user = "nobody"
        build = {{"/bin/sh", "-c", "cat /proc/self/status >{daemon.directory}/build"}}
        ready {{ by = "exec:cat /proc/self/status >{daemon.directory}/check" }}"""
    daemon.configure(service(address=daemon.target, extra=extra)).start()
    for name in ("build", "check"):
        found = sets((daemon.directory / name).read_text())
        assert found["Eff"] == found["Amb"] == set() and found["Bnd"] == MINE & USUAL, name


def test_one_program(daemons, root):
    """As with a file."""
    for words in ([], ["--capabilities", "kill", "--capabilities", "chown,net_raw"]):
        daemon = daemons()
        daemon.command = lambda d=daemon, w=words: [
            *map(str, (HANDOFFD, "-l", d.target, "--name", "web", "--control-socket", d.control, *w, "--", *WORKER, "facts"))
        ]
        daemon.start()
        assert sets(get(daemon.target))["Eff"] == ({"kill", "chown", "net_raw"} if words else MINE & USUAL)
        daemon.stop()


def test_development(daemon, root):
    daemon.configure(service(address=daemon.target, command=[*WORKER, "facts"]))
    daemon.command = lambda: [str(HANDOFFD), "-c", str(daemon.file), "dev"]
    daemon.spawn().wait_output("generation 1 serves")
    assert sets(get(daemon.target))["Eff"] == MINE & USUAL
    assert of_process(daemon.process.pid)["Eff"] == MINE & set(OWN)


def test_config_show_tells_the_set(daemon):
    daemon.configure(
        service(address=daemon.target),
        service(name="user", extra='user = "nobody" restart = "never"', command=["/bin/true"]),
        service(name="own", extra='capabilities = {"cap_kill", "chown"} restart = "never"', command=["/bin/true"]),
    )
    shown = daemon.ctl("-c", daemon.file, "config", "show").stdout
    usual, none, own = (line.strip() for line in shown.splitlines() if "capabilities" in line)
    assert usual.startswith("# capabilities: as root at most chown, dac_override,")
    assert none == "# capabilities: none  # default"
    assert own.startswith('capabilities = {"chown", "kill"}')
