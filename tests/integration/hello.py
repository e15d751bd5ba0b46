# SPDX-License-Identifier: MIT
"""A worker that speaks the protocol of libhandoff (handoff-protocol(7)) by hand, well or badly:
hello.py MODE. It answers HTTP with its pid and generation, and writes the words it hears to stderr."""

import array
import os
import selectors
import signal
import socket
import sys
import tempfile

F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
GENERATION = os.environ["HANDOFF_GENERATION"]


def notify(text, *fds):
    path = os.environ["NOTIFY_SOCKET"]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendmsg([text.encode()], rights, 0, "\0" + path[1:] if path[0] == "@" else path)


def hello(*more, kind=socket.SOCK_SEQPACKET, text="HANDOFF_HELLO=1\nHANDOFF_DRAINS=1"):
    """The worker's end of the channel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    notify(text, theirs.fileno(), *more)
    theirs.close()
    return ours


def page(size=4096, seal=True, magic=b"hndf\x01\0\0\0", name="page"):
    import ctypes

    fd = ctypes.CDLL(None).memfd_create(name.encode(), 2)  # MFD_ALLOW_SEALING
    os.ftruncate(fd, size)
    os.pwrite(fd, magic, 0)
    if seal:
        ctypes.CDLL(None).fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)
    return fd


def plain():
    return hello()


def says_nothing_of_drain():
    return hello(text="HANDOFF_HELLO=1")


def late_word():
    channel = hello(text="HANDOFF_HELLO=1")
    channel.send(b"HANDOFF_DRAINS=1")
    return channel


def hostile():
    """All that could go wrong with it, and then a good one."""
    fd, path = tempfile.mkstemp()
    os.ftruncate(fd, 4096)
    os.unlink(path)
    hello(kind=socket.SOCK_STREAM).close()
    hello(kind=socket.SOCK_DGRAM).close()
    notify("HANDOFF_HELLO=1")
    notify("HANDOFF_HELLO=1", fd, fd)
    for bad in (fd, page(seal=False), page(size=0), page(size=8192), page(magic=b"x" * 8)):
        hello(bad).close()
    lying = page()
    os.pwrite(lying, b"\xff" * 8 + b"\x80" + b"\x7f" * 23, 64)
    channel = hello(lying)
    channel.send(b"\0" * 4000)
    channel.send(b"x" * 60000)
    channel.send(b"HANDOFF_HELLO=1\nREADY=1\nSTATUS=no\nMAINPID=1\nFDSTORE=1")
    second = hello()  # refused: the first one is alive
    assert second.recv(100) == b"", "a second channel was taken"
    return channel


def shrinks():
    """Takes its memory back; the daemon must not touch it then."""
    fd = page(seal=False)
    channel = hello(fd)
    os.ftruncate(fd, 0)
    return channel


def hangs_up():
    hello().close()
    return None


def begins_anew():
    """Its first channel ends with something unread on both sides; handoffd sees that and the second
    hello at once."""
    first = hello(text="HANDOFF_HELLO=1")
    first.recv(1, socket.MSG_PEEK)
    os.kill(os.getppid(), signal.SIGSTOP)
    try:
        first.send(b"HANDOFF_DRAINS=1")
        first.close()
        return hello()
    finally:
        os.kill(os.getppid(), signal.SIGCONT)


def serve(channel):
    listener = socket.socket(fileno=3)
    loop = selectors.DefaultSelector()
    loop.register(listener, selectors.EVENT_READ)
    if channel:
        loop.register(channel, selectors.EVENT_READ)
    connections = set()
    draining = False
    while not draining or connections:
        for key, _ in loop.select():
            if key.fileobj is channel:
                words = channel.recv(4096).decode()
                print("heard", words, file=sys.stderr, flush=True)
                if not words:
                    loop.unregister(channel)
                if "DRAIN=" in words and not draining:
                    draining = True
                    loop.unregister(listener)
            elif key.fileobj is listener:
                try:
                    c = listener.accept()[0]
                except BlockingIOError:  # it has been taken back out of the queue, as a probe may be
                    continue
                connections.add(c)
                loop.register(c, selectors.EVENT_READ)
            elif key.fileobj.recv(65536):
                body = f"pid={os.getpid()} generation={GENERATION}\n"
                key.fileobj.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            else:
                loop.unregister(key.fileobj)
                connections.discard(key.fileobj)
                key.fileobj.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: (print("told by signal", file=sys.stderr), os._exit(0)))
    its = globals()[sys.argv[1]]()
    notify("READY=1")
    serve(its)
