# SPDX-License-Identifier: MIT
"""What the tests do on the private machine that they run on: handoffd is installed in it as a package would do it."""

import json
import os
import pathlib
import re
import signal
import subprocess
import urllib.request

BUILD = pathlib.Path(os.environ["HANDOFF_BUILD"])
SLEEPD = "/usr/bin/sleepd"
ETC = pathlib.Path("/etc/handoffd")
LIMIT = 60  # seconds


def run(*argv, code=0, limit=LIMIT, **options):
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, timeout=limit, check=False, **options
    )
    assert code is None or done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
    return done


def install():
    """Once on this machine; it is thrown away afterwards."""
    if pathlib.Path("/usr/bin/handoffd").exists():
        return
    run("cmake", "--install", BUILD, "--prefix", "/usr")
    run("install", BUILD / "contrib/examples/sleepd", SLEEPD)
    run("systemd-sysusers")
    ETC.mkdir(exist_ok=True)
    run("chown", "root:handoffd", ETC)
    run("journalctl", "--update-catalog")
    run("systemctl", "daemon-reload")


def write(name, text):
    path = ETC / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def service(address, command=(SLEEPD,), name="web", extra=""):
    words = ", ".join(f'"{w}"' for w in command)
    rollout = "" if "rollout" in extra else 'rollout { bake = "0" }'
    return (
        f'service "{name}" {{\n\tcommand = {{{words}}}\n\tuser = "nobody"\n'
        f'\tlisten "http" {{ address = "{address}" }}\n\t{rollout}\n\t{extra}\n}}\n'
    )


def drop_in(unit, text):
    folder = pathlib.Path(f"/etc/systemd/system/{unit}.d")
    folder.mkdir(exist_ok=True)
    (folder / "test.conf").write_text(text)
    run("systemctl", "daemon-reload")


def systemctl(*arguments, code=0):
    return run("systemctl", *arguments, code=code)


def show(unit, what):
    return systemctl("show", "--value", "-p", what, unit).stdout.strip()


def main_pid(unit="handoffd"):
    return int(show(unit, "MainPID"))


def ctl(*arguments, code=0, control=None):
    environment = {**os.environ, **({"HANDOFF_CONTROL": control} if control else {})}
    return run("handoffctl", *arguments, code=code, env=environment)


def status(name="web", **options):
    document = json.loads(ctl("--json", "status", **options).stdout)
    return next(s for s in document["services"] if s["name"] == name)


def get(port, path="/"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT) as answer:
        return answer.read().decode()


def generation(port):
    return int(re.search(r"generation=(\d+)", get(port))[1])


class Load:
    """Requests without pause until the end of the block, and not one of them may fail."""

    def __init__(self, port, rate=200, **options):
        argv = [BUILD / "tests/tools/handoff-load", "--json", "--until-signal", "--verbose"]
        argv += ["--target", f"127.0.0.1:{port}", "--rate", rate]
        for name, value in options.items():
            argv += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
        self.process = subprocess.Popen(
            [str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self):
        while "started" not in (line := self.process.stderr.readline()):
            assert line, "the load did not start"
        return self

    def __exit__(self, kind, *_):
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=LIMIT)
        if kind is None:
            self.result = json.loads(out)
            assert self.result["ok"] > 0
            assert self.result["failed"] == 0, (self.result["failures"], self.result["examples"][:5])
