# SPDX-License-Identifier: MIT
"""Without a signal handler: TERM ends it at once, whatever it is doing."""

import http.server
import os
import socket
import threading
import time

from pattern import answer, parse


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


def serve(fd):
    server = http.server.ThreadingHTTPServer(None, Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=fd)
    server.serve_forever()


for number in range(3, 3 + int(os.environ["LISTEN_FDS"])):
    threading.Thread(target=serve, args=(number,)).start()
