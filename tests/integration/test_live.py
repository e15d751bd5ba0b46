# SPDX-License-Identifier: MIT
"""Connections that are passed to the next generation: the users of chatd stay connected."""

import re

import pytest
from chat import Chat
from harness import BUILD, FAST, service

CHATD = BUILD / "contrib/examples/chatd"


def chatting(daemon, address=None, **more):
    more.setdefault("extra", 'drain { deadline = "20s" }')
    return service(address=address or daemon.target, command=[CHATD], **more)


def pauses(daemon):
    """[(users, ms in all, longest ms)]"""
    found = [re.search(r"passed (\d+) users in ([\d.]+) ms, longest pause ([\d.]+) ms", l) for l in daemon.log.items]
    return [(int(m[1]), float(m[2]), float(m[3])) for m in found if m]


def reload_often(daemon, users, reloads, rate, target=None):
    with Chat(target or daemon.target, users, rate) as chat:
        for generation in range(2, reloads + 2):
            daemon.reload("web")
            daemon.wait_event("generation-gone", generation=generation - 1)
        total = chat.stop()
    seen = pauses(daemon)
    print(f"{users} users, {reloads} reloads, {total} messages; passed in ms: ", *(s[1] for s in seen),
          "; longest pause in ms: ", *(s[2] for s in seen))
    assert [s[0] for s in seen] == [users] * reloads
    assert not daemon.seen("connections-cut")
    assert not daemon.seen("worker-crashed")


def test_users_stay(daemon):
    daemon.configure(chatting(daemon)).start()
    reload_often(daemon, 20 if FAST else 100, 5 if FAST else 20, rate=200)
