# SPDX-License-Identifier: MIT
"""A terminal with a program in it, in a tmux of its own. What is on it is looked at whenever
something was written; nothing is polled."""

import os
import re
import select
import shutil
import subprocess
import tempfile
import time

import harness
import pytest


class Screen:
    def __init__(self, *argv, columns=80, lines=24, environment=None, shell=False):
        if not shutil.which("tmux"):
            pytest.skip("tmux is not installed")
        self.directory = tempfile.mkdtemp(prefix="handoff-screen-")
        self.fifo = os.path.join(self.directory, "written")
        os.mkfifo(self.fifo)
        self.written = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("TMUX", "HANDOFF", "NO_COLOR"))}
        self.environment.update(TERM="screen-256color", LC_ALL="C.UTF-8", SHELL="/bin/sh")
        self.environment.update(environment or {})
        # the first process waits until everything written is told of
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines), "exec cat")
        self.tmux("set-option", "-g", "remain-on-exit", "on")
        self.tmux("pipe-pane", "-o", f"exec cat >{self.fifo}")
        self.tmux("set-option", "-g", "status", "off")
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))
        self.tmux("respawn-pane", "-k", *[str(a) for a in argv])

    def tmux(self, *arguments):
        done = subprocess.run(
            ["tmux", "-S", os.path.join(self.directory, "tmux"), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=harness.LIMIT,
            check=True,
        )
        return done.stdout

    def text(self):
        return self.tmux("capture-pane", "-p")

    def colours(self):
        return self.tmux("capture-pane", "-p", "-e")

    def wait(self, pattern, timeout=harness.LIMIT):
        """Until the screen shows it; gives the screen."""
        end = time.monotonic() + timeout
        while True:
            text = self.text()
            if re.search(pattern, text, re.MULTILINE):
                return text
            left = end - time.monotonic()
            ready = select.select([self.written], [], [], max(left, 0))[0]
            assert ready, f"{pattern!r} was not shown:\n{text}"
            os.read(self.written, 1 << 16)

    def type(self, *keys):
        self.tmux("send-keys", *keys)

    def resize(self, columns, lines):
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def ask(self, format):
        return self.tmux("display-message", "-p", format).strip()

    def close(self):
        subprocess.run(["tmux", "-S", os.path.join(self.directory, "tmux"), "kill-server"], check=False, capture_output=True)
        os.close(self.written)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
