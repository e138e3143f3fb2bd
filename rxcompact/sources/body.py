"""Request bodies as raw JSON lines, whatever form they come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from rxcompact.errors import DecodeError
from rxcompact.fields import BOM, decode

_values = msgspec.json.Decoder(msgspec.Raw)
_array = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
WHITE = b" \t\r\n"
MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def lines_of(body: bytes, items: str | None = None) -> list[bytes]:
    """Return the events of a body, each as JSON; one that is bad as it is, to be set aside where it is decoded.

    Takes an object, an array, NDJSON, concatenated JSON; content types cannot be trusted.

    Args:
        body: The body, unpacked.
        items: The field of an object, or the dotted path to it, that holds the list of events.

    Raises:
        DecodeError: when it is empty, or an array that cannot be taken apart.
    """
    body = body.removeprefix(BOM).strip(WHITE)
    if not body:
        raise DecodeError("empty body")
    if body.startswith(b"["):
        return _elements(body)
    if items is not None:
        inner = _inside(body, items)
        if inner is not None:
            return _elements(inner)
    lines = body.split(b"\n")
    # where each line has but one pair of braces, at its ends, there is no other way to take it apart
    if body.count(b"}") == len(lines) == body.count(b"{") and set(map(itemgetter(-1), lines)) == {ord("}")}:
        return lines
    try:
        return [bytes(value) for value in _values.decode_lines(body)]
    except MALFORMED:
        return [line for line in (line.strip(WHITE) for line in lines) if line]


def _elements(array: bytes) -> list[bytes]:
    try:
        return [bytes(element) for element in _array.decode(array)]
    except MALFORMED as error:
        raise DecodeError("nested too deeply" if isinstance(error, RecursionError) else str(error)) from None


def _inside(body: bytes, path: str) -> bytes | None:
    for name in path.split("."):
        try:
            found = _object.decode(body).get(name)
        except MALFORMED:
            return None
        if found is None:
            return None
        body = bytes(found)
    return body if body.startswith(b"[") else None


def undecodable(lines: Sequence[bytes]) -> Iterator[tuple[bytes, str]]:
    """Yield the lines that are no JSON object, and why."""
    for line in lines:
        try:
            decode(line)
        except DecodeError as error:
            yield line, str(error)


def located(body: bytes, lines: Sequence[bytes], bad: Iterable[tuple[bytes, str]]) -> list[dict[str, Any]]:
    """Return where in a body lines stand, as JSON: number and line of the event, and what is wrong.

    Args:
        body: The body, unpacked.
        lines: What `lines_of` made of it.
        bad: Some of these very lines, and why they are told of.
    """
    reasons = {id(line): why for line, why in bad}
    found: list[dict[str, Any]] = []
    end = 0
    for number, line in enumerate(lines, 1):
        start = body.find(line, end)  # between one and the next there is nothing but space and commas
        end = start + len(line)
        if (why := reasons.pop(id(line), None)) is not None:
            found.append({"event": number, "line": 1 + body.count(b"\n", 0, start), "reason": why})
    return found
