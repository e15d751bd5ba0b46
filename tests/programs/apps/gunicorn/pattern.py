# SPDX-License-Identifier: MIT
"""What handoff-load expects of an answer."""

import os
import string
from urllib.parse import parse_qs


def parse(query):
    values = {key: value[0] for key, value in parse_qs(query).items()}
    return values.get("n", ""), int(values.get("size", 0)), float(values.get("sleep", 0))


def answer(nonce, size):
    start = 2166136261
    for byte in nonce.encode():
        start = (start ^ byte) * 16777619 % 2**32
    start %= 26
    line = f"pid={os.getpid()} generation={os.environ['HANDOFF_GENERATION']} n={nonce}\n"
    pattern = string.ascii_lowercase * (size // 26 + 2)
    return (line + pattern[start : start + size]).encode()
