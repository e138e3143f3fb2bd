"""Finds where JSON values begin and end, without decoding them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Literal, NamedTuple

import msgspec

from rxcompact.errors import DecodeError
from rxcompact.reader.position import Malformed

KIB = 1024
SLICE = 128 * KIB
"""Bytes looked at in one step: it takes a few milliseconds."""
EVENTS = 2048
"""Events in one step."""
TAIL = 16
"""Bytes at the end of a text that may be half a number, escape or literal."""
WHITE = b" \t\r\n"
NEWLINE = ord("\n")
BRACE = ord("{")
BRACKET = ord("[")
FEW = 64
"""Elements that are looked at one by one before it is tried again to take many at once."""
LEVELS = 12
"""Levels of nesting that `_element` sees; deeper values take a slower way."""

decode_values = msgspec.json.Decoder(msgspec.Raw).decode_lines
_decode_value = msgspec.json.Decoder(msgspec.Raw).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_trailing = re.compile(r"trailing characters \(byte (\d+)\)")
_byte = re.compile(r"\(byte (\d+)\)")
TRUNCATED = "Input data was truncated"
_surrogate = re.compile(rb"\\u[dD][89a-fA-F]")
_between = re.compile(rb'\}\s*,\s*\{\s*"[^"\\]*"\s*:')  # two objects; with the first name it is hardly inside of one
_several = re.compile(rb"\}[ \t\r]*[^ \t\r\n,}\]]")  # several values on one line, or a brace in a string
_space = re.compile(rb"[ \t\r\n]*+")
_blank = re.compile(rb"[ \t\r]*+")
_string = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'


def _nested(levels: int) -> bytes:
    inner = _string
    for _ in range(levels):
        inner = _string + rb"|[{\[][^\"{}\[\]]*+(?:(?:" + inner + rb")[^\"{}\[\]]*+)*+[}\]]"
    return inner


# brackets and strings alone: what is malformed between them takes no other element along
_element = re.compile(_nested(LEVELS) + rb"|[^\s,:\"{}\[\]]++")


class MalformedError(DecodeError):
    """Text that is not JSON.

    Attributes:
        position: Where, counted in bytes of the text.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def skip_space(text: bytes, at: int, kind: re.Pattern[bytes] = _space) -> int:
    """Return where the white space at a position ends."""
    found = kind.match(text, at)
    return at if found is None else found.end()


def split_lines(text: bytes) -> list[bytes]:
    """Return the lines of a text, without the empty ones."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    lines = text.split(b"\n")
    if lines and not lines[-1]:
        del lines[-1]
    return lines if all(lines) else list(filter(None, lines))


def are_objects(lines: Sequence[bytes], text: bytes) -> bool:
    """Return whether each line is one object, if it is JSON at all; ``text`` is all of them joined.

    A line may also be the beginning of an object, if no line that begins with a brace follows.
    """
    if not lines:
        return False
    if set(map(itemgetter(0), lines)) != {BRACE} or set(map(itemgetter(-1), lines)) != {ord("}")}:
        return False
    # `replace` counts faster than `count`; with one closing brace a line there is one value a line
    braces = len(text) - len(text.replace(b"}", b""))
    return braces == len(lines) or not _several.search(text)


def is_value(text: bytes) -> bool:
    """Return whether a text is one value."""
    try:
        _decode_value(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def end_of_value(text: bytes, start: int, stop: int) -> int | None:
    """Return where the value at ``start`` and the space behind it end; None when ``text[:stop]`` has only a part of it.

    Raises:
        MalformedError: when it is not JSON.
    """
    value: bytes | memoryview = memoryview(text)[start:stop]
    while True:
        try:
            _decode_value(value)
        except RecursionError:
            raise MalformedError("nested too deeply", stop) from None
        except msgspec.DecodeError as error:
            message = str(error)
            if found := _trailing.search(message):
                return start + int(found[1]) - 1
            if isinstance(value, memoryview) and text.find(b"\\u", start, stop) >= 0:
                # msgspec takes a lone surrogate for damage, or for the end of the text
                value = _surrogate.sub(rb"\\u00", value)
                continue
            if message == TRUNCATED:
                return None
            found = _byte.search(message)
            raise MalformedError(message, stop if found is None else start + int(found[1])) from None
        return stop


class Unit(NamedTuple):
    """The values of a line; or of several lines, where one goes on over a newline."""

    values: list[bytes]
    end: int
    """Where the next line begins; else where the array or the value begins that goes on."""
    kind: Literal["complete", "array", "open"]


def read_unit(text: bytes, at: int, *, alone: bool, cut: bool) -> Unit:
    """Read the values of the line at a position, and of those that they go on in.

    Args:
        text: Ends where a line ends, unless ``cut``.
        at: Where the line begins.
        alone: No value may go on in the next line.
        cut: The text may end anywhere.

    Raises:
        MalformedError: when there is anything else on these lines.
    """
    newline = text.find(b"\n", at)
    if newline > at and text[at] == BRACE and is_value(text[at:newline]):  # most are
        return Unit([text[at:newline].rstrip(WHITE)], newline + 1, "complete")
    values: list[bytes] = []
    while len(values) < EVENTS:
        at = skip_space(text, at, _blank)
        if at == len(text) or text[at] == NEWLINE:
            return Unit(values, min(at + 1, len(text)), "complete")
        if text[at] == BRACKET and not alone:
            return Unit(values, at, "array")
        newline = text.find(b"\n", at)
        try:
            end = end_of_value(text, at, len(text) if newline < 0 else newline)
            if end is None and newline >= 0 and not alone:
                end = end_of_value(text, at, len(text))
        except MalformedError as error:
            if not cut or error.position < len(text) - TAIL:
                raise
            end = None
        if end is None or (cut and end == len(text) and text[at] not in b'{["'):
            return Unit(values, at, "open")
        values.append(text[at:end].rstrip(WHITE))
        at += len(values[-1])
    return Unit(values, at, "complete")  # of so long a line a part


def malformed_line(text: bytes, at: int, reason: str) -> Unit:
    """Return the line at a position as an event; where it is decoded it is rejected."""
    newline = text.find(b"\n", at)
    end = len(text) if newline < 0 else newline + 1
    line = text[at:end].strip(WHITE)
    return Unit([Malformed(line, reason) if line.startswith(b"[") else line], end, "complete")


def split_array(text: bytes, at: int = 0) -> Iterator[tuple[int, list[bytes], bool]]:
    """Split an array into slices of elements, as far as it is there.

    Args:
        text: Holds it.
        at: The position of its ``[``; or of a comma in it, to go on from there.

    Yields:
        The end of a slice, its elements, and whether the array is closed. Slices adjoin; the end is that of the array,
        or the position of a comma.

    Raises:
        MalformedError: when it is not an array.
    """
    if not at and len(text) <= SLICE and (whole := _elements(text)) is not None:
        yield len(text), whole, True
        return
    closed, start = False, at
    mark = b"},"
    while not closed:
        if at > start and text[at : at + 1] != b",":
            raise MalformedError("expected ',' or ']'", at)
        # an element most likely ends where this stands; if it does not, decoding fails
        cut = text.rfind(mark, at, at + SLICE) + 1
        if cut and (many := _elements(b"[%b]" % text[at + 1 : cut])) is not None:
            at = skip_space(text, cut)
            yield at, many, False
            continue
        stop, found, closed, complete = _split_slowly(text, at, FEW if cut else EVENTS)
        yield stop, found, closed
        if not complete:
            return
        if found:
            between = _between.match(text, text.find(found[0], at) + len(found[0]) - 1)
            mark = mark if between is None else between[0]
        at = stop


def _elements(array: bytes) -> list[bytes] | None:
    try:
        return list(map(bytes, _decode_array(array)))
    except (msgspec.DecodeError, RecursionError):
        return None


def _split_slowly(text: bytes, at: int, most: int) -> tuple[int, list[bytes], bool, bool]:
    """Return one slice: its end, its elements, whether the array is closed, and whether there may be more."""
    found: list[bytes] = []
    try:
        while len(found) < most:
            first = skip_space(text, at + 1)
            if text[first : first + 1] == b"]" and text[at : at + 1] == b"[":
                return first + 1, found, True, False
            end = _end_of_element(text, first)
            after = len(text) if end is None else skip_space(text, end)
            if after == len(text):
                return at, found, False, False
            found.append(text[first:end])
            at = after
            if text[after : after + 1] != b",":
                closed = text[after : after + 1] == b"]"
                return after + closed, found, closed, not closed
    except MalformedError:
        if not found:
            raise
    return at, found, False, True  # with any damage at the beginning of the next slice


def _end_of_element(text: bytes, first: int) -> int | None:
    if element := _element.match(text, first, first + SLICE):
        return element.end()
    if first == len(text):
        return None
    if text[first] not in b'{["':
        raise MalformedError("expected a value", first)
    try:
        end = end_of_value(text, first, len(text))
    except MalformedError as error:
        if error.position < len(text) - SLICE:
            raise
        return None  # its end may come all the same; it is malformed alone then
    return None if end is None else first + len(text[first:end].rstrip(WHITE))


def damage_of_array(text: bytes, at: int) -> MalformedError:
    """Return what is wrong with an array that ends in the element behind a position."""
    try:
        end_of_value(text, skip_space(text, at + 1), len(text))
    except MalformedError as error:
        return error
    return MalformedError("the array is cut short", len(text))
