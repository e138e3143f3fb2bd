"""The plain way to read events: Python's json, one value after the other; an oracle for the fast ways of the package.

The reference is RFC 8259, and the limits that the package has: numbers fit a double, strings are Unicode.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, chain, pairwise, takewhile
from typing import Any

from plain_reader import RefusedError, split_input

from rxcompact.errors import DecodeError, KeyMapperError, TimeMapperError
from rxcompact.fields import decode
from rxcompact.keys import Json, json_value
from rxcompact.mappers import key_of, time_of
from rxcompact.reader.items import Malformed, items_path, lines_of
from rxcompact.reader.reader import Reader
from rxcompact.reader.scan import EVENTS, WHITE

REJECTED = b"\0"
ERRORS = (DecodeError, OSError, EOFError)  # an input that cannot be read on
DEEP = 200  # neither way promises more
OTHER_FORMATS = (
    *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5", b"PK", b"7z", b"\x04\x22", b"PAR1", b"Obj\x01"),
    *(b"\xff\xfe", b"\xfe\xff"),
)
LONG = 4000  # digits of an integer; Python's limit is 4300


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _no_lone_surrogate(value: Any) -> None:
    json.dumps(value, ensure_ascii=False).encode()


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _no_lone_surrogate(pairs)  # nor in what a duplicate takes the place of
    return dict(pairs)


_strict = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_members)
_any_number = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_members)


def event(line: bytes, *, finite: bool = True) -> dict[str, Any] | None:
    """Decode a line; None when it is no JSON object. Numbers have to fit a double where ``finite``."""
    try:
        value, end = (_strict if finite else _any_number).raw_decode(text := line.decode().strip(" \t\r\n"))
        _no_lone_surrogate(value)
    except (ValueError, RecursionError):
        return None
    return value if end == len(text) and isinstance(value, dict) else None


def events(body: bytes) -> list[dict[str, Any] | None]:
    """Return the events of a body, None for each that is malformed.

    Raises:
        RefusedError: when it is an array that is malformed.
    """
    return [event(piece) for piece in split_input(body)]


def typed(value: Any) -> str:
    """Return canonical text: 1, 1.0 and true differ, the order of members does not matter."""
    return json.dumps(value, sort_keys=True)


def decoded(line: bytes) -> dict[str, Any] | None:
    try:
        return decode(line)
    except DecodeError:
        return None


def beyond(body: bytes) -> bool:
    """Return whether a body may be nested deeper, or have longer numbers, than both ways take alike."""
    return (
        max(body.count(b"["), body.count(b"{")) > DEEP
        or re.search(rb"\d{%d}" % LONG, body) is not None
        or re.search(rb"\\u.{0,3}\n", body) is not None  # msgspec places that damage behind the newline
        or body.startswith(OTHER_FORMATS)
        or b"\0" in body[:4]
    )


def read(body: bytes, sizes: Sequence[int], **options: Any) -> list[bytes]:
    """Return what `Reader` makes of a body that comes in blocks of these sizes."""
    reader = Reader(**options)
    found: list[bytes] = []
    ends = accumulate(sizes, initial=0)
    blocks = [body[start:end] for start, end in pairwise([*takewhile(lambda end: end < len(body), ends), len(body)])]
    for chunk in chain(chain.from_iterable(map(reader.feed, blocks)), reader.end()):
        assert len(chunk) <= EVENTS
        for piece in chunk:
            place = reader.position.find(piece)
            assert place is not None
            assert place.line <= body.count(b"\n") + 1
            found.append(piece)
            assert place.event == len(found)
    return found


def check_body(body: bytes, sizes: Sequence[int] = ()) -> None:
    """The package makes of a body what the plain way makes of it, however the body is cut."""
    try:
        expected = None if beyond(body) else split_input(body)
    except RefusedError:
        expected = None
    try:
        found = [REJECTED if isinstance(piece, Malformed) else piece for piece in read(body, sizes)]
    except ERRORS:
        found = None
    if beyond(body):
        return
    assert found == expected
    assert (lines := lines_of([body.rstrip(WHITE)])) is None or found == list(lines[1])
    for piece in found or ():
        if piece != REJECTED:
            assert typed(decoded(piece)) == typed(event(piece))


def check_items(body: bytes, path: str) -> None:
    """The events of a list inside an object are its elements, objects or arrays; an object without one is rejected."""
    try:
        pieces = read(body, (), items=items_path(path))
        wrappers = [] if beyond(body) else split_input(body)
    except (RefusedError, *ERRORS):
        return
    if beyond(body):
        return
    expected: list[Any] = []
    for wrapper in wrappers:
        found: Any = event(wrapper)
        if found is None:
            return
        found = _looked_up(found, path)
        expected += found if isinstance(found, list) else [None]
    assert [typed(decoded(piece)) for piece in pieces] == [typed(_item(element)) for element in expected]


def _item(element: Any) -> dict[str, Any] | None:
    """An array is an event of which the positions are the names."""
    if isinstance(element, list):
        return {str(at): value for at, value in enumerate(element)}
    return element if isinstance(element, dict) else None


def check_mappers(lines: list[bytes], names: list[str]) -> None:
    """Keys and times of lines, one by one or all at once, are those of the decoded events."""
    key, time = _mappers(tuple(names))
    keys: list[Any] = []
    times: list[float | None] = []
    for line in lines:
        plain = event(line, finite=False)  # what is not read may be any number
        try:
            keys.append(key(line))
        except DecodeError:
            keys.append(None)
            assert plain is None or event(line) is None or beyond(line)
        except KeyMapperError:
            return
        else:
            hash(keys[-1])
            if not beyond(line):
                assert plain is not None
                assert typed(json_value(keys[-1])) == typed(_wanted(plain, names))
        try:
            times.append(time(line))
            assert math.isfinite(times[-1] or 0.0)
        except (DecodeError, TimeMapperError):
            times.append(None)
    for column, each in ((key.many(lines), keys), (time.many(lines), times)):
        assert list(map(_same, column)) == list(map(_same, each))


@cache
def _mappers(names: tuple[str, ...]) -> tuple[Any, Any]:
    return key_of(list(names)), time_of(names[0] if names else "a")


def _same(key: Any) -> tuple[str, Any]:
    return type(key).__name__, tuple(map(_same, key)) if isinstance(key, tuple) and not isinstance(key, Json) else key


def _wanted(found: dict[str, Any], names: list[str]) -> Any:
    if not names:
        return found
    columns = [_looked_up(found, name) for name in names]
    return columns if len(names) > 1 else columns[0]


def _looked_up(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        return None
    head, dot, rest = name.partition(".")
    return value[name] if name in value else _looked_up(value.get(head), rest) if dot else None
