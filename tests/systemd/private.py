#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a command beside a systemd of its own: private.py [--see PATH]... COMMAND...

The machine's systemd is started as process 1 of new namespaces, on an overlay of the machine's files that is
thrown away afterwards: whatever is installed, configured or broken in there, the machine does not notice. /tmp and
/run are empty, the network is a loopback interface; paths named with --see are seen as they are and can be
written to. It ends with the command's exit code, with 77 and the reason where the machine lacks a right, and with
125 when systemd does not come up. Everything that was started ends with it."""

import argparse
import os
import pathlib
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading

SYSTEMD = "/lib/systemd/systemd"
NEEDED = [SYSTEMD, "systemctl", "journalctl", "dbus-daemon", "unshare", "nsenter", "setpriv", "mount"]
BOOT_LIMIT, RUN_LIMIT = 30, 900  # seconds
# What basic.target may start; the rest of what it wants is about hardware, and belongs to the machine.
WANTED = {"systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket", "dbus.socket"}
FORGOTTEN = ("JOURNAL_STREAM", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "INVOCATION_ID", "XDG_RUNTIME_DIR", "HANDOFF_CONTROL")
RIGHTS = "-sys_time,-sys_module,-sys_rawio"  # no namespace confines these

# $1: a directory with etc/ and notify/; $2: the terminal for the console; then the paths to be seen.
FIRST = r"""
right() { "$@" || { echo "private systemd: not permitted: $*" >&2; exit 77; }; }
stage=$1 console=$2; shift 2
right mount -t tmpfs none "$stage/root"
cd "$stage/root"; mkdir upper work merged
right mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work none merged
cd merged
right mount -t proc none proc
mount --bind proc/sys proc/sys && mount --bind proc/sys/net proc/sys/net && mount -o remount,bind,ro proc/sys
right mount -t sysfs -o ro none sys
right mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 none run; mount -t tmpfs -o mode=1777 none tmp; mount -t tmpfs -o mode=755 none dev
mkdir run/private dev/pts; mount --bind "$stage/notify" run/private
for node in null:3 zero:5 full:7 random:8 urandom:9; do right mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"; done
mknod -m 666 dev/tty c 5 0; ln -s pts/ptmx dev/ptmx; touch dev/console; mount --bind "$console" dev/console
mount -t devpts -o newinstance,ptmxmode=666 none dev/pts
rm -rf etc/systemd etc/fstab etc/machine-id; cp -R "$stage/etc" etc/systemd
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
mkdir .before; right pivot_root . .before; cd /
for path; do mkdir -p "$path"; mount --rbind ".before$path" "$path"; done
umount -l .before; rmdir .before; mount --make-rshared /
exec setpriv --bounding-set "$RIGHTS" env -i PATH="$PATH" container=private NOTIFY_SOCKET=/run/private/socket \
	SYSTEMD_GENERATOR_PATH=/nonexistent "$SYSTEMD" --system --unit=private.target
"""


class Skip(Exception):
    pass


def cgroup2():
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            return pathlib.Path(fields.split()[4])
    raise Skip("cgroup2 is not mounted")


def check_rights():
    if os.geteuid() != 0:
        raise Skip("only root may make the namespaces of a system")
    lacking = [p for p in NEEDED if not shutil.which(p, path=os.defpath + ":/sbin:/usr/sbin")]
    if lacking:
        raise Skip(f"not installed: {', '.join(lacking)}")
    if not os.access(cgroup2() / "cgroup.procs", os.W_OK):
        raise Skip(f"{cgroup2()} is read-only")
    probe = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--fork", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skip(f"no right to make namespaces: {done.stderr.strip()}")


class System:
    def __init__(self, see):
        self.see = see
        self.name = f"private-systemd-{os.getpid()}"
        self.stage = pathlib.Path("/run") / self.name
        self.cgroup = cgroup2() / self.name
        self.first = None
        self.console = b""

    def __enter__(self):
        try:
            self.make_stage()
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def make_stage(self):
        self.cgroup.mkdir()
        if not (self.cgroup / "cgroup.kill").exists():
            raise Skip("the kernel has no cgroup.kill (Linux 5.14)")
        for name in ("root", "notify", "etc/system"):
            (self.stage / name).mkdir(parents=True)
        units = self.stage / "etc/system"
        (units / "private.target").write_text("[Unit]\nRequires=basic.target\nAfter=basic.target\n")
        (self.stage / "etc/journald.conf").write_text("[Journal]\nStorage=volatile\n")
        for target in ("sysinit", "basic", "local-fs", "swap", "sockets", "timers", "paths", "slices"):
            for unit in pathlib.Path("/lib/systemd/system").glob(f"{target}.target.wants/*"):
                if unit.name not in WANTED and not (units / unit.name).is_symlink():
                    (units / unit.name).symlink_to("/dev/null")

    def read_console(self, terminal):
        try:
            while data := os.read(terminal, 4096):
                self.console += data
        except OSError:
            pass  # the last writer has gone

    def boot(self):
        terminal, other_end = pty.openpty()
        threading.Thread(target=self.read_console, args=(terminal,), daemon=True).start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(self.stage / "notify/socket"))
            notify.settimeout(0.2)
            # the parent of process 1 stays outside of the cgroup, whose top systemd takes for itself
            enter = ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec unshare --cgroup "$@"', self.cgroup]
            self.first = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--mount", "--uts", "--ipc", "--net"]
                + ["--fork", "--kill-child", *enter, "sh", "-euc", FIRST, "first", self.stage]
                + [os.ttyname(other_end), *self.see],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD": SYSTEMD, "RIGHTS": RIGHTS},
                stdin=subprocess.DEVNULL,
                stdout=other_end,
                stderr=other_end,
                start_new_session=True,
            )
            for _ in range(BOOT_LIMIT * 5):
                try:
                    if b"READY=1" in notify.recv(4096).split(b"\n"):
                        os.close(other_end)
                        return
                except TimeoutError:
                    pass
                if self.first.poll() is not None:
                    break
        text = self.console.decode(errors="replace").strip()
        if self.first.poll() == 77:
            raise Skip(text.splitlines()[-1] if text else "a mount is not permitted")
        raise RuntimeError(f"systemd did not come up:\n{text}")

    def run(self, command):
        procs = self.cgroup / "init.scope/cgroup.procs"
        pid = procs.read_text().split()[0]
        keep = {k: v for k, v in os.environ.items() if not k.startswith(FORGOTTEN)}
        return subprocess.run(
            ["sh", "-c", 'echo 0 >"$0" && exec "$@"', procs, "nsenter", "--target", pid, "--mount", "--uts", "--ipc"]
            + ["--net", "--pid", "--cgroup", "setpriv", "--bounding-set", RIGHTS, "env", f"--chdir={os.getcwd()}"]
            # in a scope of its own, apart from the units
            + ["systemd-run", "--quiet", "--scope", "--collect", "--", *command],
            env=keep,
            timeout=RUN_LIMIT,
            check=False,
        ).returncode

    def __exit__(self, *_):
        if self.first is not None:
            (self.cgroup / "cgroup.kill").write_text("1")
            self.first.wait()
        if self.cgroup.exists():
            self.wait_empty()
            for directory, _, _ in os.walk(self.cgroup, topdown=False):
                os.rmdir(directory)
        shutil.rmtree(self.stage, ignore_errors=True)

    def wait_empty(self):
        """The killed are gone when the kernel says that nobody is left (cgroup.events, poll(2))."""
        import select

        with open(self.cgroup / "cgroup.events") as events:
            poller = select.poll()
            poller.register(events, select.POLLPRI)
            for _ in range(50):
                events.seek(0)
                if "populated 0" in events.read():
                    return
                poller.poll(200)
        raise RuntimeError(f"processes are left in {self.cgroup}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--see", metavar="PATH", action="append", default=[], type=os.path.realpath)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        check_rights()
        with System(options.see) as system:
            return system.run(options.command)
    except Skip as why:
        print(f"SKIP: {why}")
        return 77
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
