"""Where JSON values begin and end, without decoding them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import msgspec

from rxcompact.errors import DecodeError
from rxcompact.reader.text import PIECE

EVENTS = 1024  # events in one step
WHITE = b" \t\r\n"
BRACKET = ord("[")
SMALL = 1024  # bytes of a value that is decoded at once, with whatever follows it
FEW = 64  # elements that are looked at one by one before it is tried again to take many at once
LEVELS = 12  # levels of nesting that `_element` sees; deeper values take a slower way

_decode_value = msgspec.json.Decoder(msgspec.Raw).decode
_decode_values = msgspec.json.Decoder(msgspec.Raw).decode_lines
_byte = re.compile(r"(trailing characters )?\(byte (\d+)\)")
_between = re.compile(rb'\}\s*,\s*\{\s*"[^"\\]*"\s*:')  # two objects; with the first name it is hardly inside of one
_several = re.compile(rb"\}[ \t\r]*[^ \t\r\n,}\]]")  # several values on one line, or a brace in a string
_space = re.compile(rb"[ \t\r\n]*+")
BLANK = re.compile(rb"(?:[ \t\r\x1e]|\xef\xbb\xbf)*+")
"""White space on a line, what begins a record of a JSON text sequence (RFC 7464), and the byte order mark."""
_string = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'


@cache
def _element() -> re.Pattern[bytes]:
    """Return what matches an element: brackets and strings alone, so that what is malformed takes no other along."""
    inner = _string
    for _ in range(LEVELS):
        inner = _string + rb"|[{\[][^\"{}\[\]]*+(?:(?:" + inner + rb")[^\"{}\[\]]*+)*+[}\]]"
    return re.compile(inner + rb"|[^\s,:\"{}\[\]]++")


class MalformedError(DecodeError):
    """Text that is not JSON, from a position on."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def slice_of(events: Sequence[bytes], most: int) -> int:
    """Return how many events, of so many at most, are looked at in one step."""
    size = sum(map(len, islice(events, most)))
    return most if size <= PIECE else max(1, min(most, len(events)) * PIECE // size)


def skip_space(text: bytes, at: int, kind: re.Pattern[bytes] = _space) -> int:
    """Return where the white space at a position ends."""
    return kind.match(text, at).end()  # type: ignore[union-attr]  # it matches anything


def pieces_of(text: bytes, decode: Callable[[bytes], Iterable[msgspec.Raw]] = _decode_values) -> list[bytes] | None:
    """Return the values of a text, or the elements of an array; None where anything is malformed."""
    try:
        return list(map(bytes, decode(text)))
    except (msgspec.DecodeError, RecursionError):
        return None


elements_of = partial(pieces_of, decode=msgspec.json.Decoder(list[msgspec.Raw]).decode)


class Objects(NamedTuple):
    """Lines of a text that are an object each."""

    lines: list[bytes]
    least: bytes
    newlines: int
    text: memoryview | None
    """All of them as they stand there, if they are UTF-8."""


def objects_of(text: bytes) -> Objects | None:
    """Return lines that are an object each, see `are_objects`; None where there is anything else.

    Of the last one, which may go on in the next line, it is known that it does not.
    """
    lines = (text.replace(b"\r\n", b"\n") if b"\r" in text else text).split(b"\n")
    rest, newlines = lines.pop(), len(lines)
    least = min(lines, default=b"")
    if not least:
        lines = list(filter(None, lines))
        least = min(lines, default=b"")
    if not are_objects(lines, text, rest, least):
        return None
    with suppress(MalformedError):  # it is malformed alone
        if end_of_value(lines[-1], 0, len(lines[-1])) is None:
            return None
    return Objects(lines, least, newlines, text_of(text, text.rfind(b"\n") + 1))


def text_of(text: bytes, end: int | None = None) -> memoryview | None:
    """Return a text up to its end, which is decoded at once; None where it is no UTF-8."""
    whole = memoryview(text)[:end]
    if not text.isascii():
        try:
            str(whole, "utf-8")
        except UnicodeDecodeError:
            return None
    return whole


def are_objects(lines: Sequence[bytes], text: bytes, rest: bytes = b"", least: bytes | None = None) -> bool:
    """Return whether each line is one object, if it is JSON at all; ``text`` is all of them joined, and the ``rest``.

    A line may also be the beginning of an object, if no line that begins with a brace follows. The ``least`` of them
    may be given.
    """
    # comparing lines is faster than looking at the first byte of each
    if not lines or (least or min(lines)) < b"{" or max(lines) >= b"|" or set(map(itemgetter(-1), lines)) != {ord("}")}:
        return False
    # `replace` counts faster than `count`; with one closing brace a line there is one value a line
    braces = len(text) - len(text.replace(b"}", b"")) - rest.count(b"}")
    return braces == len(lines) or not _several.search(text, 0, len(text) - len(rest))


def end_of_value(text: bytes, start: int, stop: int) -> int | None:
    """Return where a value and the space behind it end; None when only a part of it is there. Raise MalformedError."""
    value: bytes | memoryview = memoryview(text)[start:stop]
    while True:
        try:
            _decode_value(value)
        except RecursionError:
            raise MalformedError("nested too deeply", stop) from None
        except msgspec.DecodeError as error:
            message = str(error)
            found = _byte.search(message)
            if found and found[1]:  # trailing characters
                return start + int(found[2]) - 1
            if isinstance(value, memoryview) and text.find(b"\\u", start, stop) >= 0:
                # msgspec takes a lone surrogate for damage, or for the end of the text
                value = bytes(value).replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")
                continue
            if message == "Input data was truncated":
                return None
            raise MalformedError(message, stop if found is None else start + int(found[2])) from None
        return stop


def end_of_small(text: bytes, at: int) -> int | None:
    """Return where a small value ends, which costs as much as it is long; None for any other."""
    stop = min(at + SMALL, len(text))
    with suppress(MalformedError):
        end = end_of_value(text, at, stop)
        return at + len(text[at:end].rstrip(WHITE)) if end is not None and end < stop else None
    return None


def split_array(text: bytes, at: int = 0) -> Iterator[tuple[int, list[bytes], bool]]:
    """Split an array into slices of elements, as far as it is there; raise MalformedError for anything else.

    Begins at its ``[``, or at a comma in it. Yields the end of each slice, which is the position of a comma or the end
    of the array, its elements, and whether the array is closed.
    """
    if not at and len(text) <= PIECE and (whole := elements_of(text)) is not None:
        yield len(text.rstrip(WHITE)), whole, True
        return
    end = end_of_small(text, at) if text[at] == BRACKET else None
    if end is not None and (whole := elements_of(text[at:end])) is not None:
        yield end, whole, True
        return
    start, mark = at, b"},"
    while True:
        if at > start and text[at : at + 1] != b",":
            raise MalformedError("expected ',' or ']'", at)
        # an element most likely ends where this stands; if it does not, decoding fails
        cut = text.rfind(mark, at, at + PIECE) + 1
        if cut and (many := elements_of(b"[%b]" % text[at + 1 : cut])) is not None:
            at = skip_space(text, cut)
            yield at, many, False
            continue
        end, found, closed = _split_slowly(text, at, FEW if cut else EVENTS)
        yield end, found, closed
        if closed or not found:
            return
        between = _between.match(text, text.find(found[0], at) + len(found[0]) - 1)
        mark = mark if between is None else between[0]
        at = end


def _split_slowly(text: bytes, at: int, most: int) -> tuple[int, list[bytes], bool]:
    found: list[bytes] = []
    over = at + PIECE
    try:
        while len(found) < most and at < over:
            first = skip_space(text, at + 1)
            if text[first : first + 1] == b"]" and text[at : at + 1] == b"[":
                return first + 1, found, True
            end = _end_of_element(text, first)
            after = len(text) if end is None else skip_space(text, end)
            if after == len(text):
                break
            found.append(text[first:end])
            at = after
            if text[at : at + 1] == b"]":
                return at + 1, found, True
            if text[at : at + 1] != b",":
                break
    except MalformedError:
        if not found:
            raise
    return at, found, False  # with any damage at the beginning of the next slice


def _end_of_element(text: bytes, first: int) -> int | None:
    if element := _element().match(text, first, first + PIECE):
        return element.end()
    if first == len(text):
        return None
    if text[first] not in b'{["':
        raise MalformedError("expected a value", first)
    try:
        end = end_of_value(text, first, len(text))
    except MalformedError as error:
        if error.position < len(text) - PIECE:
            raise
        return None  # its end may come all the same; it is malformed alone then
    return None if end is None else first + len(text[first:end].rstrip(WHITE))
