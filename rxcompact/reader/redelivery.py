"""Reads the events of dead letters again."""

from __future__ import annotations

import msgspec

PREFIX = b'{"dead_letter":"'
"""How a line of a file of dead letters begins."""
MANY = 1_000_000
"""Events that a dead letter stands for, at most, when it is read again."""


class _Line(msgspec.Struct):
    event: msgspec.Raw
    count: int | None = None


_decode = msgspec.json.Decoder(_Line).decode


def events_of(lines: list[bytes]) -> list[bytes]:
    """Return JSON lines, and of those that are dead letters the event inside, as often as it was counted."""
    if not any(line.startswith(PREFIX) for line in lines):
        return lines
    events: list[bytes] = []
    for line in lines:
        try:
            letter = _decode(line) if line.startswith(PREFIX) else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            letter = None
        events += [line] if letter is None else [_inner(letter.event)] * min(letter.count or 1, MANY)
    return events


def _inner(event: msgspec.Raw) -> bytes:
    """Return the event inside a dead letter; a line that was never decoded is kept there as text."""
    raw = bytes(event)
    return msgspec.json.decode(raw, type=str).encode() if raw.startswith(b'"') else raw
