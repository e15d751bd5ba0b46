# SPDX-License-Identifier: MIT
"""An ASGI application, for uvicorn and hypercorn."""

import asyncio

from pattern import answer, parse


async def app(scope, receive, send):
    assert scope["type"] == "http"
    nonce, size, sleep = parse(scope["query_string"].decode())
    await asyncio.sleep(sleep)
    body = answer(nonce, size)
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
