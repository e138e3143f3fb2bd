"""Splits request bodies and messages into events, as raw JSON lines."""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from rxcompact.errors import DecodeError
from rxcompact.fields import decode
from rxcompact.reader.lines import BOM

_values = msgspec.json.Decoder(msgspec.Raw)
_array = msgspec.json.Decoder(list[msgspec.Raw])
_scanner = json.JSONDecoder(parse_int=str, parse_float=str)
_space = re.compile(r"[ \t\r\n]*")
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_several = re.compile(rb"\}[ \t\r]*[^ \t\r\n,}\]]")  # several values on one line, or a brace in a string
WHITE = b" \t\r\n"
MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def split_body(body: bytes, items: str | None = None) -> list[bytes]:
    """Return the events of a body, each as JSON; a malformed one is returned too, and rejected where it is decoded.

    Takes an object, an array, NDJSON, concatenated JSON; content types cannot be trusted.

    Args:
        body: The body, unpacked.
        items: The field of an object, or the dotted path to it, that holds the list of events.

    Raises:
        DecodeError: when it is empty, or an array that cannot be taken apart.
    """
    if (
        items is None and body.startswith(b"{") and (lines := _split_lines(body)) is not None
    ):  # most are such; this makes no copy
        return lines
    body = body.removeprefix(BOM).strip(WHITE)
    if not body:
        raise DecodeError("empty body")
    if body.startswith(b"["):
        return _elements(body)
    if items is not None:
        inner = _find_list(body, items)
        if inner is not None:
            return _elements(inner)
    if (lines := _split_lines(body)) is not None:
        return lines
    try:
        return [bytes(value) for value in _values.decode_lines(body)]
    except MALFORMED:
        return [line for line in (line.strip(WHITE) for line in body.split(b"\n")) if line]


def _split_lines(body: bytes) -> list[bytes] | None:
    lines = body.split(b"\n")
    if not lines[-1]:
        del lines[-1]
    return lines if are_objects(lines, body) else None


def are_objects(lines: Sequence[bytes], whole: bytes) -> bool:
    """Return whether each line is one object, if it is JSON at all; ``whole`` is all of them joined."""
    if not lines or not all(lines):
        return False
    # with a brace at either end of each line no value spans two lines
    if set(map(itemgetter(0), lines)) != {ord("{")} or set(map(itemgetter(-1), lines)) != {ord("}")}:
        return False
    # `replace` counts faster than `count`; with one closing brace a line there is one value a line
    braces = len(whole) - len(whole.replace(b"}", b""))
    return braces == len(lines) or not _several.search(whole)


def _elements(array: bytes) -> list[bytes]:
    try:
        return [bytes(element) for element in _array.decode(array)]
    except MALFORMED as error:
        # one malformed element must not take the others with it
        if (elements := _split_leniently(array)) is not None:
            return elements
        raise DecodeError("nested too deeply" if isinstance(error, RecursionError) else str(error)) from None


def _split_leniently(array: bytes) -> list[bytes] | None:
    text = array.decode("utf-8", "surrogateescape")
    elements: list[bytes] = []
    try:
        start = _skip_space(text, 1)
        while True:
            _, end = _scanner.raw_decode(text, start)
            elements.append(text[start:end].encode("utf-8", "surrogateescape"))
            end = _skip_space(text, end)
            if text[end] != ",":
                return elements if text[end:] == "]" else None
            start = _skip_space(text, end + 1)
    except (ValueError, IndexError, RecursionError):
        return None


def _skip_space(text: str, position: int) -> int:
    found = _space.match(text, position)
    return position if found is None else found.end()


def _find_list(body: bytes, path: str) -> bytes | None:
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
    """Yield the lines that are not a JSON object, and the reason."""
    for line in lines:
        try:
            decode(line)
        except DecodeError as error:
            yield line, str(error)


def located(
    body: bytes, lines: Sequence[bytes], bad: Iterable[tuple[bytes, str]], items: str | None = None
) -> list[dict[str, Any]]:
    """Return number, line and reason of each malformed event of a body, for an answer in JSON.

    Args:
        body: The body, unpacked.
        lines: What `split_body` returned for it.
        bad: Some of these very objects, in their order, and the reason of each.
        items: As for `split_body`.
    """
    reasons: defaultdict[int, deque[str]] = defaultdict(deque)
    for line, why in bad:
        reasons[id(line)].append(why)  # bytes of length 1 are all the same
    found: list[dict[str, Any]] = []
    inner = _find_list(body, items) if items is not None else None
    end = 0 if inner is None else body.find(inner)
    for number, line in enumerate(lines, 1):
        start = body.find(line, end)  # between two events there is only space and commas
        end = start + len(line)
        if found_reasons := reasons.get(id(line)):
            found.append({"event": number, "line": 1 + body.count(b"\n", 0, start), "reason": found_reasons.popleft()})
    return found
