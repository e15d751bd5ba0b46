# SPDX-License-Identifier: MIT
"""Programs that bind their port themselves: binder.py MODE PORT."""

import contextlib
import ctypes
import http.server
import os
import pathlib
import signal
import socket
import socketserver
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "programs/apps/python"))
from pattern import answer, parse  # noqa: E402

PORT = int(sys.argv[2]) if sys.argv[2].isdigit() else sys.argv[2]  # or the path of a UNIX socket


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment

    def do_GET(self):
        nonce, size, sleep = parse(self.path.partition("?")[2])
        time.sleep(sleep)
        body = answer(nonce, size)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(address="", port=PORT):
    http.server.ThreadingHTTPServer((address, port), Handler).serve_forever()


def plain():
    serve()


def tests_first():
    """Is the port free? It finds out by having it."""
    with socket.socket() as s:
        s.bind(("", PORT))
        s.listen(5)
    serve()


def reuseport():
    """Three processes, each with a socket of its own."""
    children = []
    for _ in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            break
    else:

        def leave(*_):
            for pid in children:
                os.kill(pid, signal.SIGTERM)
            os._exit(0)

        signal.signal(signal.SIGTERM, leave)
    http.server.ThreadingHTTPServer.allow_reuse_port = True
    serve()


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

    def get_request(self):
        return self.socket.accept()[0], ("unix", 0)


def path():
    """Removes what is there, binds, and says who may connect, by the name alone."""
    if os.path.exists(PORT):
        os.unlink(PORT)
    server = UnixServer(PORT, Handler)
    os.chmod(PORT, 0o640)
    try:
        server.serve_forever()
    finally:
        os.unlink(PORT)


def early_path():
    """Says who may connect between bind and listen."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PORT)
    server = UnixServer(PORT, Handler, bind_and_activate=False)
    server.server_bind()
    os.chmod(PORT, 0o640)
    server.server_activate()
    server.serve_forever()


def careful_path():
    """Leaves another one alone that answers, as puma does."""
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(PORT)
            sys.exit("somebody serves there already")
        except OSError:
            pass
    path()


def timid_path():
    """Does not even look who is there."""
    if os.path.exists(PORT):
        sys.exit("the path exists")
    path()


def dies_after_bind():
    os.unlink(PORT)
    UnixServer(PORT, Handler)
    os._exit(7)


def path_and_others():
    """Files, directories and sockets beside its own."""
    beside = pathlib.Path(PORT).parent
    (beside / "other").touch()
    os.chdir(beside)
    os.unlink("other")
    second = socket.socket(socket.AF_UNIX)
    second.bind("second.sock")
    second.listen()
    path()


def abstract():
    UnixServer("\0" + PORT[1:], Handler).serve_forever()


def in_thread(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def reopens():
    """Closes its socket on SIGUSR1, and has a new one on SIGUSR2."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    server = in_thread(http.server.ThreadingHTTPServer(("", PORT), Handler))
    while True:
        if signal.sigwait({signal.SIGUSR1, signal.SIGUSR2}) == signal.SIGUSR1:
            server.shutdown()
            server.server_close()
            print("closed", flush=True)
        else:
            server = in_thread(http.server.ThreadingHTTPServer(("", PORT), Handler))


def one_of_two():
    """Two processes; on SIGUSR1 one of them closes its socket and lives on, or it has one only then."""
    http.server.ThreadingHTTPServer.allow_reuse_port = True
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    child = os.fork()
    if child:
        signal.signal(signal.SIGTERM, lambda *_: (os.kill(child, signal.SIGTERM), os._exit(0)))
        return serve()
    later = sys.argv[1] == "a_second_later"
    server = None if later else in_thread(http.server.ThreadingHTTPServer(("", PORT), Handler))
    signal.sigwait({signal.SIGUSR1})
    if later:
        serve()
    server.shutdown()
    server.server_close()
    print("closed", flush=True)
    signal.pause()


a_second_later = one_of_two


def many():
    """As many sockets as it may have."""
    sockets = []
    try:
        for _ in range(100):
            sockets.append(socket.socket())
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sockets[-1].bind(("", PORT))
            sockets[-1].listen()
    except OSError as error:
        print(f"socket {len(sockets)}: {os.strerror(error.errno)}", flush=True)
        sockets.pop().close()
    for s in sockets:
        server = http.server.ThreadingHTTPServer(("", PORT), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = s
        in_thread(server)
    signal.pause()


def other_port():
    second = socket.socket()
    second.bind(("127.0.0.1", PORT + 2))
    server = http.server.ThreadingHTTPServer(("", PORT + 1), Handler)
    second.listen()
    server.serve_forever()


def thread():
    threading.Thread(target=serve, args=("127.0.0.1",)).start()


def grandchild():
    """The socket is its child's child's."""
    for _ in range(2):
        child = os.fork()
        if child:
            signal.signal(signal.SIGTERM, lambda *_: (os.kill(child, signal.SIGTERM), os._exit(0)))
            signal.pause()
    serve("127.0.0.1")


class SixServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


def ipv6():
    SixServer(("::1", PORT), Handler).serve_forever()


def dual():
    server = SixServer(("::", PORT), Handler, bind_and_activate=False)
    server.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.server_bind()
    server.server_activate()
    server.serve_forever()


def background():
    """As daemons of old: whoever started it is left at once."""
    if os.fork() == 0:
        signal.pause()
    os._exit(0)


def connects_first():
    """Is the port free? It finds out by looking who answers."""
    with socket.socket() as s:
        if s.connect_ex(("127.0.0.1", PORT)) == 0:
            sys.exit(f"port {PORT} is in use")
    serve()


def wrapped():
    """Told to leave, it leaves its server behind: as npm does."""
    if os.fork():
        signal.pause()
    serve()


def listening(address, port=PORT):
    """IPv6 alone where it is IPv6, as a program does that binds both."""
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in address:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not address.startswith("::ffff:"))
    s.bind((address, port))
    s.listen(128)
    return s


def serve_at(*addresses):
    """One socket for each, in this order."""
    sockets = [listening(address) for address in addresses]
    servers = []
    for s in sockets:
        servers.append(http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False))
        servers[-1].socket.close()
        servers[-1].socket = s
        in_thread(servers[-1])
    signal.pause()


def any_two():
    serve_at("0.0.0.0", "::")


def loopback_two():
    serve_at("127.0.0.1", "::1")


def loopback_mapped():
    """As Java does."""
    serve_at("::ffff:127.0.0.1")


def tests_forms():
    """Is the port free everywhere? As development servers find out."""
    for address in ("::", "0.0.0.0", "127.0.0.1", "::1"):
        listening(address).close()
    serve_at("127.0.0.1")


def two_then_one():
    """The first generation has one address more than the later ones."""
    first = os.environ["HANDOFF_GENERATION"] == "1"
    serve_at(*(["127.0.0.1", "::1"] if first else ["127.0.0.1"]))


def loopback():
    serve("127.0.0.1")


def takes_and_binds():
    """The first socket is passed, the other one its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=3)
    server.socket.setblocking(True)
    in_thread(server)
    serve("127.0.0.1", PORT + 1)


def not_dumpable():
    ctypes.CDLL(None).prctl(4, 0)
    serve()


def loopback_from_two():
    """The first generation binds every address, later ones one of them."""
    try:
        serve("" if os.environ["HANDOFF_GENERATION"] == "1" else "127.0.0.1")
    except OSError as error:
        sys.exit(str(error))


def tells_of_going_on():
    """Leaves when it goes on after it was told to leave."""
    told = []

    def on_continue(*_):
        if told:
            print("told, then it goes on", flush=True)
            os._exit(0)

    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    signal.signal(signal.SIGCONT, on_continue)
    serve()


def never():
    signal.pause()


def notifies_never_binds():
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(b"READY=1", "\0" + path[1:] if path[0] == "@" else path)
    signal.pause()


def listens_later():
    """Ready by its first port; the second comes when it is told."""
    second = socket.socket()
    second.bind(("", PORT))
    signal.signal(signal.SIGUSR1, lambda *_: second.listen(5))
    while True:
        signal.pause()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
