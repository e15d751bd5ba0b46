# SPDX-License-Identifier: MIT
"""Workers that behave in ways sleepd does not: worker.py MODE. They take their socket from LISTEN_FDS
or HANDOFF_FD_HTTP and answer HTTP with their pid and generation."""

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time

GENERATION = os.environ.get("HANDOFF_GENERATION", "0")


def notify(text):
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), "\0" + path[1:] if path[0] == "@" else path)


def passed():
    s = socket.socket(fileno=3)
    s.setblocking(True)
    return s


def answer(connection, text=None):
    """Requests until the client ends the connection."""
    with connection:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            data = data.split(b"\r\n\r\n", 1)[1]
            body = text or f"pid={os.getpid()} generation={GENERATION}\n"
            connection.sendall(
                f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )


def serve(listener, text=None):
    while True:
        answer(listener.accept()[0], text)


def plain():
    serve(passed())

def forking():
    """A child for each connection, which outlives the parent when that is told to stop."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = passed()
    notify("READY=1")
    while True:
        connection = listener.accept()[0]
        if os.fork() == 0:
            listener.close()
            answer(connection)
            os._exit(0)
        connection.close()


def leaves_children():
    """As forking, but the children do not end on their own account either: they ignore TERM."""
    listener = passed()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
    notify("READY=1")
    serve(listener)


def terminates_parent():
    """Some servers that replace themselves end their parent."""
    listener = passed()
    os.kill(os.getppid(), signal.SIGTERM)
    notify("READY=1")
    serve(listener)


def newline_on_fd():
    listener = passed()
    os.write(int(sys.argv[2]), b"\n")
    serve(listener)


def chatters():
    """Says of itself what nobody wants to know, much more often than anybody reads it."""
    listener = passed()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect("\0" + os.environ["NOTIFY_SOCKET"][1:])
        s.send(b"READY=1")
        for number in range(12000):
            s.send(f"STATUS={'x' * 100} {number}".encode())
    serve(listener)


def extends():
    """Late, but it has said so."""
    listener = passed()
    notify("EXTEND_TIMEOUT_USEC=20000000\nSTATUS=warming up")
    select_nothing(float(sys.argv[2]))
    notify("READY=1")
    serve(listener)


def select_nothing(seconds):
    time.sleep(seconds)  # being slow is what this worker is for


def udp():
    s = passed()
    notify("READY=1")
    while True:
        select.select([s], [], [])  # whether it blocks is common to all who have it
        with contextlib.suppress(BlockingIOError):
            address = s.recvfrom(100)[1]
            s.sendto(GENERATION.encode(), address)


def facts():
    """What the process was started with."""
    wanted = ("Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "CapInh:", "Umask:", "NoNewPrivs:")
    with open("/proc/self/status", encoding="ascii") as f:
        lines = [line.strip() for line in f if line.startswith(wanted)]
    with open("/proc/self/limits", encoding="ascii") as f:
        lines += [line.strip() for line in f if line.startswith("Max open files")]
    lines += [
        f"Nice: {os.getpriority(os.PRIO_PROCESS, 0)}",
        f"Cwd: {os.getcwd()}",
        f"Pid: {os.getpid()}",
        f"Argv: {sys.argv[2:]}",
        f"Masked: {sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))}",
        f"Ignored: {[n for n in range(1, 32) if n not in (9, 19) and signal.getsignal(n) == signal.SIG_IGN]}",
    ]
    lines += [f"Env: {key}={value}" for key, value in os.environ.items()]
    notify("READY=1")
    serve(passed(), "\n".join(lines) + "\n")


def gated():
    """Is ready when somebody opens the gate, a FIFO; the first generation at once."""
    listener = passed()
    if GENERATION != "1":
        with open(sys.argv[2], encoding="ascii") as gate:
            gate.read()
    notify("READY=1")
    serve(listener)


def last_words():
    print("to be or not to be", file=sys.stderr, flush=True)
    sys.exit(7)


def keeps():
    """Counts its generations in a memory file that handoffd keeps for it: WORD in argv[2] says how."""
    names = os.environ["LISTEN_FDNAMES"].split(":")
    if "counter" in names:
        fd = 3 + names.index("counter")
    else:
        fd = os.memfd_create("counter")
        path = os.environ["NOTIFY_SOCKET"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.connect("\0" + path[1:])
            for _ in range(2):  # what is there already is kept once
                socket.send_fds(s, [b"FDNAME=counter\nFDSTORE=1"], [fd])
    count = int(os.pread(fd, 20, 0) or b"0") + 1
    os.pwrite(fd, str(count).encode(), 0)
    if sys.argv[2:] == ["forget"]:
        notify("FDSTOREREMOVE=1\nFDNAME=counter")
    notify("READY=1")
    serve(passed(), f"count={count} names={':'.join(names)}\n")


def takes():
    """Takes connections that the generation before passes, in the versions of argv[2], without libhandoff."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect("\0" + os.environ["NOTIFY_SOCKET"][1:])
        socket.send_fds(s, [f"HANDOFF_LIVE={sys.argv[2]}".encode()], [theirs.fileno()])
    theirs.close()
    notify("READY=1")
    word, fds, _, _ = socket.recv_fds(ours, 64, 1)
    channel = socket.socket(fileno=fds[0])
    channel.setblocking(True)
    offer, fds, _, _ = socket.recv_fds(channel, 1 << 18, 64)
    kind, count = struct.unpack_from("=II", offer)
    assert (kind, count, len(fds)) == (0x4F48FF01, 1, 1)
    channel.send(struct.pack("=IIi", 0x4F48FF02, 1, 0))
    user = socket.socket(fileno=fds[0])
    user.setblocking(True)
    user.sendall(f"taken from version {word.decode().split()[1]}\n".encode())
    serve(passed())


def stuck():
    """The first one asks to be replaced."""
    if not os.path.exists(sys.argv[2]):
        open(sys.argv[2], "w", encoding="ascii").close()
        notify("READY=1\nWATCHDOG=trigger")
    else:
        notify("READY=1\nERRNO=2")
    serve(passed())


def watched():
    """Says that it is alive; the first one does so until there is the file of argv[2]."""
    first = not os.path.exists(sys.argv[2])
    assert int(os.environ["WATCHDOG_PID"]) == os.getpid()
    pause = int(os.environ["WATCHDOG_USEC"]) / 1e6 / 4
    if "deaf" in sys.argv and first:
        signal.signal(signal.SIGABRT, signal.SIG_IGN)
    if "silent" not in sys.argv:
        def tell(*_):
            if not (first and os.path.exists(sys.argv[2])):
                notify("WATCHDOG=1")

        signal.signal(signal.SIGALRM, tell)
        signal.setitimer(signal.ITIMER_REAL, pause, pause)
    if "unready" not in sys.argv:
        notify("READY=1")
    serve(passed())


def unlinks():
    """Removes the socket's file when it leaves, as php-fpm does."""
    listener = passed()

    def leave(*_):
        os.unlink(listener.getsockname())
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    notify("READY=1")
    serve(listener)


def einhorn():
    """As the clients of einhorn do it: argv[2] is what it writes to the socket, a connection for
    each part of it, with PID and NL in place of what they stand for."""
    assert os.getppid() == int(os.environ["EINHORN_MASTER_PID"])
    fds = [int(os.environ[f"EINHORN_FD_{i}"]) for i in range(int(os.environ["EINHORN_FD_COUNT"]))]
    assert os.environ["EINHORN_FDS"] == " ".join(map(str, fds)) and os.get_blocking(fds[0])
    assert os.environ["EINHORN_CHILD_INDEX"] == os.environ["HANDOFF_WORKER"]
    for message in sys.argv[2].replace("PID", str(os.getpid())).replace("NL", "\n").split("|"):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.environ["EINHORN_SOCK_PATH"])
            with contextlib.suppress(ConnectionError):  # it does not listen to all of it
                for byte in message.encode():
                    s.sendall(bytes([byte]))
            if "keep" not in sys.argv:
                assert s.recv(1) == b"", "einhorn closes the connection and says nothing"
    serve(socket.socket(fileno=fds[0]))


def stdin():
    """As inetd with "wait" starts it."""
    serve(socket.socket(fileno=0))


def checks_pid():
    """Takes the sockets as libsystemd does: if they are for this very process."""
    if os.environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        sys.exit("the sockets are not for me")
    plain()


def shared_flag():
    """Tells whether accept(2) would have waited, and leaves it changed when it goes."""
    listener = socket.socket(fileno=3)
    blocking = os.get_blocking(3)
    os.set_blocking(3, True)

    def leave(*_):
        os.set_blocking(3, True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    notify("READY=1")
    serve(listener, f"blocking={blocking} generation={GENERATION}\n")


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")]()
