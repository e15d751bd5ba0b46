# SPDX-License-Identifier: MIT
import time

from pattern import answer, parse


def app(environ, start_response):
    nonce, size, sleep = parse(environ["QUERY_STRING"])
    time.sleep(sleep)
    body = answer(nonce, size)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
