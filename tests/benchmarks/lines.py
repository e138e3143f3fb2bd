"""Lines of NDJSON as senders of alerts have them. Imports nothing heavy: the HTTP client needs it too."""

from __future__ import annotations

import json
import random

LENGTH = 144
"""Bytes of a line, with its end."""
LINES, KEYS = 100_000, 10_000
"""Of all lines nine in ten are duplicates."""


def line(key: int, number: int) -> bytes:
    """An alert: many small fields."""
    event = {
        "id": f"key-{key}",
        "n": number,
        "ts": 1_700_000_000 + number / 1000,
        "host": f"web{key % 100}",
        "app": "nginx",
        "level": "warning",
        "code": 502,
        "pid": 1000 + key,
        "ok": False,
        "text": "",
    }
    # the text is the last, and fills the line
    text = json.dumps(event, separators=(",", ":"))
    return f"{text[:-2]}{'x' * (LENGTH - 1 - len(text))}{text[-2:]}".encode()


def keys_of(count: int = LINES) -> list[int]:
    """The keys of the first lines."""
    keys = [n % KEYS for n in range(LINES)]
    random.Random(7).shuffle(keys)
    return keys[:count]


def lines(count: int = LINES) -> list[bytes]:
    return [line(key, number) for number, key in enumerate(keys_of(count))]
