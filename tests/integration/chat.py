# SPDX-License-Identifier: MIT
"""Many users of chatd, who write all the time, cut at odd bytes, and look whether every one of them gets
every message once and in order."""

import random
import re
import select
import socket
import threading
import time

from harness import LIMIT, connect

WELCOME = re.compile(rb"\* you are (\S+)\n")
MESSAGE = re.compile(rb"(\d+) (\S+): (\d+)\n")


class User:
    def __init__(self, target):
        self.socket = connect(target)
        self.buffer = b""
        self.name = self.ended = None
        self.number = None  # of the last message
        self.sent = 0
        self.unsent = b""

    def read(self):
        try:
            data = self.socket.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as e:
            self.ended = str(e)
            return
        if not data:
            self.ended = "end of file"
            return
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            self.on_line(line + b"\n")

    def on_line(self, line):
        if self.name is None:
            self.name = WELCOME.fullmatch(line)[1]
            return
        m = MESSAGE.fullmatch(line)
        assert m, f"{self.name}: this is no message: {line!r}"
        number = int(m[1])
        assert self.number is None or number == self.number + 1, f"{self.name}: {number} after {self.number}"
        self.number = number


class Chat:
    """`rate`: lines a second, of all users together."""

    def __init__(self, target, users, rate, mortal=False):
        """`mortal`: users may lose their connection, but those who do not get everything."""
        self.users = [User(target) for _ in range(users)]
        self.rate = rate
        self.mortal = mortal
        self.poll = select.epoll()
        self.by_fd = {u.socket.fileno(): u for u in self.users}
        for fd in self.by_fd:
            self.poll.register(fd, select.EPOLLIN)
        self.total = 0
        self.stopping = False
        self.error = None
        self.written = threading.Condition()
        self.random = random.Random(users)
        self.read_until(lambda: all(u.name for u in self.users), "the welcome")
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def read(self, timeout):
        for fd, _ in self.poll.poll(timeout):
            user = self.by_fd[fd]
            user.read()
            if user.ended and self.mortal:
                self.poll.unregister(fd)
                self.users.remove(user)
                user.socket.close()
                continue
            assert not user.ended, f"{user.name} lost the connection: {user.ended}"

    def read_until(self, done, what):
        until = time.monotonic() + LIMIT
        while not done():
            assert time.monotonic() < until, f"{what} did not come: {[u.number for u in self.users][:20]}"
            self.read(0.1)

    def write(self):
        """Some bytes: the rest of a line that was begun, or the begin of the next one."""
        user = self.random.choice(self.users)
        if not user.unsent:
            user.unsent = b"%d\n" % user.sent
            user.sent += 1
            with self.written:
                self.total += 1
                self.written.notify_all()
        n = self.random.randint(1, len(user.unsent))
        self.send(user, user.unsent[:n])
        user.unsent = user.unsent[n:]

    def send(self, user, data):
        try:
            user.socket.send(data)
        except OSError:
            if not self.mortal:
                raise

    def run(self):
        try:
            begun = time.monotonic()
            while not self.stopping:
                due = begun + self.total / self.rate - time.monotonic()
                if due <= 0:
                    self.write()
                self.read(max(0, min(due, 0.1)))
            for user in self.users:
                self.send(user, user.unsent)
            if self.mortal:
                self.read_until(lambda: len({u.number for u in self.users}) <= 1, "the last message")
            else:
                last = self.total - 1
                self.read_until(lambda: all(u.number == last for u in self.users), f"message {last}")
        except BaseException as e:  # told by stop()
            with self.written:
                self.error = e
                self.written.notify_all()

    def more(self, messages):
        """Until so many more were written."""
        with self.written:
            until = self.total + messages
            assert self.written.wait_for(lambda: self.total >= until or self.error, LIMIT), self.error

    def stop(self):
        """All of them have had all messages."""
        self.stopping = True
        self.thread.join(3 * LIMIT)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error
        return self.total

    def close(self):
        self.stopping = True
        self.thread.join(LIMIT)
        for user in self.users:
            user.socket.close()
        self.poll.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.stop()
        finally:
            self.close()
