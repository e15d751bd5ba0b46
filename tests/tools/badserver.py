#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A web server that fails on purpose and counts how often: what it says at its end, by class of
failure, the load client has to have seen exactly so.

badserver.py CLASS=N ...: every Nth request fails in that way (the requests are counted together, a
request fails in one way only). Says its port first and its counts, in JSON, on SIGTERM.
"""

import asyncio
import json
import re
import signal
import socket
import struct
import sys

# How a request may fail, and how the client has to call it.
FAULTS = {
    "reset": "reset",
    "reset-within": "reset",
    "eof": "eof",
    "truncated-head": "truncated",
    "truncated-body": "truncated",
    "truncated-chunk": "truncated",
    "wrong-byte": "wrong",
    "wrong-nonce": "wrong",
    "wrong-size": "wrong",
    "wrong-long": "wrong",
    "wrong-behind": "wrong",
    "status": "status",
    "silent": "timeout",
    "keepalive-race": "keepalive-race",  # only on a connection which has answered before
    "close": None,  # an answer which ends its connection is no failure
}


def pattern(nonce, size):
    value = 2166136261
    for byte in nonce.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return bytes(ord("a") + (value % 26 + i) % 26 for i in range(size))


def chunked(body):
    parts = (body[:7], body[7:20], body[20:])
    return b"".join(b"%x;x=y\r\n%s\r\n" % (len(p), p) for p in parts if p) + b"0\r\nTrailer: x\r\n\r\n"


class Server:
    def __init__(self, faults):
        self.faults = faults
        self.requests = 0
        self.right = 0
        self.counts = {}

    def choose(self, reused):
        self.requests += 1
        for name, every in self.faults.items():
            # Each class has its own residue, so that two never fall on one request.
            if self.requests % every == list(FAULTS).index(name) + 1:
                if name != "keepalive-race" or reused:
                    return name
        return None

    def answer(self, nonce, size, close, fault):
        if fault == "wrong-nonce":
            nonce = nonce + "0"
        if fault == "wrong-long":
            size += 1
        body = f"pid=7 generation=3 n={nonce}\n".encode() + pattern(nonce, size)
        if fault == "wrong-byte":
            body = body[:-1] + b"!"
        if fault == "wrong-size":
            body = body[:-1]
        status = b"503 No" if fault == "status" else b"200 OK"
        head = b"HTTP/1.1 " + status + b"\r\n"
        if close:
            head += b"Connection: foo, Close\r\n"
        form = self.requests % 3
        if fault == "truncated-body":
            return head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1]
        if fault == "truncated-chunk":
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body)[:-2]
        if fault == "wrong-behind":
            return head + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"X"
        if form == 0 or not close:
            return head + b"content-length: %d\r\n\r\n" % len(body) + body
        if form == 1:
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body)
        return head + b"\r\n" + body

    async def serve(self, reader, writer):
        try:
            reused = False
            while await self.request(reader, writer, reused):
                reused = True
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def request(self, reader, writer, reused):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        found = re.match(r"GET /\?n=([^& ]+)&size=(\d+)", head)
        nonce, size = found[1], int(found[2])
        close = "Connection: close" in head
        fault = self.choose(reused)
        if fault:
            self.counts[fault] = self.counts.get(fault, 0) + 1
        else:
            self.right += 1
        if fault in ("eof", "keepalive-race"):
            return False
        if fault == "silent":
            await reader.read()  # until the client gives up
            return False
        if fault == "truncated-head":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            return False
        if fault and fault.startswith("reset"):
            if fault == "reset-within":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npid=")
                await writer.drain()
            linger = struct.pack("ii", 1, 0)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        close = close or fault is not None
        writer.write(self.answer(nonce, size, close, fault))
        await writer.drain()
        return not close

    def report(self):
        classes = {}
        for name, count in self.counts.items():
            if FAULTS[name]:
                classes[FAULTS[name]] = classes.get(FAULTS[name], 0) + count
        right = self.right + self.counts.get("close", 0)
        return {"requests": self.requests, "right": right, "failures": classes}


async def main():
    faults = {name: int(every) for name, every in (arg.split("=") for arg in sys.argv[1:])}
    if any(name not in FAULTS or every <= len(FAULTS) for name, every in faults.items()):
        sys.exit(f"usage: badserver.py CLASS=N ..., N > {len(FAULTS)}, of {' '.join(FAULTS)}")
    server = Server(faults)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=4096)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    print(json.dumps(server.report()), flush=True)


asyncio.run(main())
