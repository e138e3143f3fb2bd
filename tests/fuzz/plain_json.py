"""The plain way to read events: Python's json, one value after the other; an oracle for the fast ways of the package.

The reference is RFC 8259, and the limits that the package has: numbers fit a double, strings are Unicode.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from rxcompact.errors import DecodeError, KeyMapperError, TimeMapperError
from rxcompact.fields import Json, JsonKey, JsonTime, decode, json_value
from rxcompact.reader.body import located, split_body, undecodable

SPACE = re.compile(r"[ \t\r\n]*")
TWO_DIGITS = {f"{n:02}" for n in range(100)}
DEEP = 200  # neither way promises more
LONG = 4000  # digits of an integer; Python's limit is 4300


class RefusedError(Exception):
    """It cannot be taken apart at all."""


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
# take apart what is not looked at in detail: whatever its numbers are, and its strings, escapes apart; or those too
_apart = json.JSONDecoder(parse_constant=_no_constant, parse_float=str, parse_int=str, object_pairs_hook=_members)
_apart_leniently = json.JSONDecoder(parse_float=str, parse_int=str)


def event(line: bytes, *, finite: bool = True) -> dict[str, Any] | None:
    """Decode a line; None when it is no JSON object. Numbers have to fit a double where ``finite``."""
    try:
        value, end = (_strict if finite else _any_number).raw_decode(text := line.decode().strip(" \t\r\n"))
        _no_lone_surrogate(value)
    except (ValueError, RecursionError):
        return None
    return value if end == len(text) and isinstance(value, dict) else None


def _value(text: str, start: int, lenient: bool = False) -> int:
    """Return where a value ends."""
    try:
        value, end = (_apart_leniently if lenient else _apart).raw_decode(text, start)
        if not lenient:
            _no_lone_surrogate(value)
    except (ValueError, RecursionError):
        raise RefusedError from None
    return end


def _space(text: str, start: int) -> int:
    found = SPACE.match(text, start)
    assert found
    return found.end()


def elements(text: str, lenient: bool) -> list[bytes]:
    """Take an array apart."""
    found: list[bytes] = []
    at = _space(text, 1)
    if text[at : at + 1] == "]":
        at += 1
    else:
        while True:
            end = _value(text, at, lenient)
            found.append(text[at:end].encode("latin-1"))
            at = _space(text, end)
            if text[at : at + 1] not in (",", "]"):
                raise RefusedError
            at = _space(text, at + 1)
            if text[:at].rstrip(" \t\r\n")[-1] == "]":
                break
    if _space(text, at) != len(text):
        raise RefusedError
    return found


def values(text: str) -> list[bytes]:
    """Take values apart that stand one behind the other, with space between or without."""
    found: list[bytes] = []
    at = 0
    while (at := _space(text, at)) < len(text):
        end = _value(text, at)
        if text[end - 1 : end + 1] in TWO_DIGITS:
            raise RefusedError  # 01 is not 0 and 1
        found.append(text[at:end].encode("latin-1"))
        at = end
    return found


def events(body: bytes, *, lenient: bool = False) -> list[dict[str, Any] | None]:
    """Return the events of a body, None for each that is bad.

    Args:
        body: The body.
        lenient: Of an array in which something is malformed, but shows where it ends, find that alone bad.

    Raises:
        RefusedError: when it is empty, or an array that cannot be taken apart.
    """
    text = body.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n").decode("latin-1")
    if not text:
        raise RefusedError
    if text.startswith("["):
        return [event(element) for element in elements(text, lenient)]
    try:
        return [event(value) for value in values(text)]
    except RefusedError:
        return [event(line) for line in text.encode("latin-1").split(b"\n") if line.strip(b" \t\r\n")]


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
    return max(body.count(b"["), body.count(b"{")) > DEEP or re.search(rb"\d{%d}" % LONG, body) is not None


def _typed_events(body: bytes, lenient: bool) -> list[str] | None:
    try:
        return list(map(typed, events(body, lenient=lenient)))
    except RefusedError:
        return None


def check_body(body: bytes) -> None:
    """The package makes of a body what the plain way makes of it, and locates each malformed line."""
    try:
        lines = split_body(body)
    except DecodeError:
        lines = None
    if not beyond(body):
        found = None if lines is None else [typed(decoded(line)) for line in lines]
        assert found in [_typed_events(body, lenient) for lenient in (False, True)]
    if lines:
        bad = list(undecodable(lines))
        assert all(why for _, why in bad)
        places = located(body, lines, bad)
        assert all(1 <= one["event"] <= len(lines) and 1 <= one["line"] <= body.count(b"\n") + 1 for one in places)


def check_items(body: bytes, path: str) -> None:
    """A list inside an object is the list alone."""
    try:
        lines = split_body(body, path)
    except DecodeError:
        return
    found: Any = event(body.removeprefix(b"\xef\xbb\xbf"))
    if beyond(body) or found is None:
        return
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    expected = found if isinstance(found, list) else [event(body.removeprefix(b"\xef\xbb\xbf"))]
    assert [typed(json.loads(line)) for line in lines] == list(map(typed, expected))


def check_mappers(lines: list[bytes], names: list[str]) -> None:
    """Keys and times of lines, one by one or all at once, are those of the decoded events."""
    key, time = JsonKey(*names), JsonTime(names[0] if names else "a")
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
    for many, one in ((key.many, keys), (time.many, times)):
        try:
            found = list(many(lines))
        except Exception:  # noqa: S112 - whatever it raises, each line is asked for alone
            continue
        assert list(map(_same, found)) == list(map(_same, one))


def _same(key: Any) -> tuple[str, Any]:
    return type(key).__name__, tuple(map(_same, key)) if isinstance(key, tuple) and not isinstance(key, Json) else key


def _wanted(found: dict[str, Any], names: list[str]) -> Any:
    if not names:
        return found
    columns: list[Any] = []
    for name in names:
        value: Any = found
        if name in found:
            value = found[name]
        else:
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
        columns.append(value)
    return columns if len(names) > 1 else columns[0]
