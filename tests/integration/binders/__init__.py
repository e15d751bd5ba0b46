# SPDX-License-Identifier: MIT
"""Programs that bind their port themselves, and services that run them."""

import pathlib
import sys

from harness import service

OLD = 4  # generations that drain at once
BINDERS = pathlib.Path(__file__).resolve().parent
PYTHON = (sys.executable, BINDERS / "binder.py")


def binder(mode):
    return lambda daemon: [*PYTHON, mode, daemon.port]


def node(daemon):
    return ["/usr/bin/env", f"PORT={daemon.port}", "node", BINDERS / "node.js"]


def configured(daemon, command, mode="auto", address=None, extra="", **options):
    # the children of a draining program serve on after its parent was told to leave
    text = f'sockets = "{mode}" rollout {{ bake = "0" max-old = {OLD + 1} }}\n{extra}'
    address = address or f"*:{daemon.port}"
    return daemon.configure(service(address=address, command=command(daemon), extra=text, **options))
