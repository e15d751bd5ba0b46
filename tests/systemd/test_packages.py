# SPDX-License-Identifier: MIT
"""The Debian packages: built, looked at by lintian, installed, put over a running one, removed."""

import pathlib
import shutil

import machine
import pytest
from machine import BUILD, Load, ctl, generation, main_pid, run, service, show, status, systemctl, write

SOURCE = pathlib.Path(__file__).resolve().parents[2]
# lintian's remarks that stay, with the reason
KNOWN = {
    "maintscript-calls-ldconfig": "CPack writes that, besides the trigger which would do",
    "maintainer-script-calls-systemctl": "an upgrade must not restart the units, which deb-systemd-invoke would do",
}


@pytest.fixture(scope="module")
def packages():
    if not shutil.which("dpkg-shlibdeps") or not shutil.which("lintian"):
        pytest.skip("dpkg-dev or lintian is not installed")
    done = run(SOURCE / "contrib/build-packages", "/tmp/packages", limit=400)
    return [pathlib.Path(line) for line in done.stdout.split()]


def test_lintian(packages):
    lines = run("lintian", "--allow-root", *packages, code=None, limit=200).stdout.splitlines()
    bad = [line for line in lines if line[:2] in ("E:", "W:") and line.split()[2] not in KNOWN]
    assert not bad, bad


def test_install_upgrade_remove(packages):
    run("dpkg", "-i", *packages)
    run("install", BUILD / "contrib/examples/sleepd", machine.SLEEPD)
    assert run("handoffctl", "--version").stdout.startswith("handoffctl ")
    assert show("handoffd", "ActiveState") == "inactive", "nothing runs before there is a configuration"
    assert run("pkg-config", "--libs", "libhandoff").stdout.split() == ["-lhandoff"]
    write("handoffd.conf", service("127.0.0.1:8080"))
    systemctl("start", "handoffd")
    pid, worker = main_pid(), status()["generations"][0]["workers"][0]["pid"]
    with Load(8080):
        run("dpkg", "-i", *packages)  # what apt does with a newer version
        ctl("reload", "web")
    assert main_pid() == pid and generation(8080) == 2
    assert '"daemon-upgraded"' in ctl("events").stdout
    assert status()["generations"][-1]["workers"][0]["pid"] != worker or len(status()["generations"]) > 1
    run("dpkg", "--remove", "handoffd")
    assert not pathlib.Path(f"/proc/{pid}").exists()
    assert pathlib.Path("/etc/handoffd/handoffd.conf").exists(), "what the operator wrote stays"
    run("dpkg", "--purge", "handoffd", "libhandoff-dev", "libhandoff0")
    assert not pathlib.Path("/usr/bin/handoffd").exists()
