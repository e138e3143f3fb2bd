"""Fields of raw JSON lines, read without decoding the rest of the line."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, tzinfo
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from rxcompact.errors import DecodeError, KeyMapperError
from rxcompact.timestamps import posix

BOM = b"\xef\xbb\xbf"
# what Python hashes and compares as JSON does; True, 1 and 1.0 would be one key, lists and dicts none
PLAIN = {str, int, type(None)}
# each digit a 0, each E an e
KINDS = bytes.maketrans(b"123456789E", b"000000000e")
# what may stand before a number
LEADS = {b":", b",", b"[", b"-", b" ", b"\t", b"\r", b"\n"}
# without three digits of exponent, a number that does not fit a double has more digits than this
LONG = b"0" * 200
FEW = 4
"""Lines that are sooner decoded in full than looked at together."""
MAX_LENGTH = 65_536
"""Characters of a key."""


class Json(NamedTuple):
    """A key that Python would take for another, or not at all: a boolean, a float, an array, an object."""

    text: str
    """Canonical JSON."""


def json_key(value: Any) -> Hashable:
    """Return a JSON value as a hashable key: 1, 1.0, true and "1" are four."""
    if type(value) in PLAIN:
        return value  # type: ignore[no-any-return]
    try:
        return Json(_canonical(value))
    except RecursionError:
        raise DecodeError("nested too deeply") from None


def json_value(key: Any) -> Any:
    """Return the JSON value of a key."""
    if isinstance(key, Json):
        return msgspec.json.decode(key.text)
    return [json_value(part) for part in key] if isinstance(key, tuple) else key


def _canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


_decode_any = msgspec.json.Decoder().decode


def decode(line: bytes | Mapping[str, Any]) -> dict[str, Any]:
    """Decode a line in full; a mapping is returned as it is.

    Raises:
        DecodeError: when it is no JSON object, saying why and where.
    """
    if type(line) is not bytes and isinstance(line, Mapping):  # which takes its time to tell
        return line  # type: ignore[return-value]
    try:
        value = _decode_any(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(_why(error, line)) from None
    if not isinstance(value, dict):
        raise DecodeError(f"not a JSON object but {type(value).__name__}")
    return value


def _why(error: Exception, line: bytes) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        try:
            line.decode()
        except UnicodeDecodeError as found:  # the first one counts from the start of the string that it is in
            return f"invalid UTF-8 (byte {found.start})"
    return str(error)


class Block(list[bytes]):
    """JSON lines, `braced`, and the bytes that they were cut from: what looks at all of them looks there.

    Args:
        lines: The lines.
        whole: All of them, with the newlines.
    """

    __slots__ = ("whole",)

    def __init__(self, lines: Sequence[bytes], whole: bytes) -> None:
        super().__init__(lines)
        self.whole = whole


def braced(lines: Sequence[bytes]) -> bool:
    """Tell whether there is a brace at either end of each line; then no value reaches over two."""
    return {ord("{")} == set(map(itemgetter(0), lines)) and {ord("}")} == set(map(itemgetter(-1), lines))


class _Fields:
    """Looks up fields by name: whole first, then as a dotted path; None where missing.

    A chunk of lines is decoded in one go into structs of these fields alone. The result is that of decoding each line
    in full, bad lines included: what is skipped is checked for being JSON, but for the encoding of strings and the
    range of numbers, which are looked at here.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        columns = dict.fromkeys([*names, *(name.split(".")[0] for name in names)])
        fields = {name: f"f{number}" for number, name in enumerate(columns)}
        # a struct cannot have names that JSON escapes
        self._plain = all(name.isprintable() and not set(name) & {'"', "\\"} for name in names)
        struct = msgspec.defstruct(
            "Fields",
            [(field, Any, UNSET) for field in fields.values()],
            rename={field: name for name, field in fields.items()} if self._plain else None,
            gc=False,
        )
        self._decode_lines = msgspec.json.Decoder(struct).decode_lines
        heads = [name.split(".") for name in names]
        self._columns = [
            (attrgetter(fields[name]), attrgetter(fields[head]), rest)
            for name, (head, *rest) in zip(names, heads, strict=True)
        ]

    def one(self, event: bytes | Mapping[str, Any]) -> list[Any]:
        """Return the fields of an event.

        Raises:
            DecodeError: when a line is no JSON object.
        """
        event = decode(event)
        return [event[name] if name in event else _walk(event, name.split(".")) for name in self._names]

    def many(self, lines: Sequence[Any]) -> list[Sequence[Any]]:
        """Return the columns of a chunk, one a field.

        Raises:
            Exception: when any line is bad; `one` tells which.
        """
        if not lines:
            return [()] * len(self._names)
        if not self._plain or not isinstance(lines[0], bytes):
            return list(zip(*map(self.one, lines), strict=True))
        if not isinstance(lines, Block) and not braced(lines):
            raise DecodeError("a line is no JSON object")
        block = lines.whole if isinstance(lines, Block) else b"\n".join(lines)
        if not block.isascii():
            block.decode()
        structs = self._decode_lines(block)
        if len(structs) != len(lines):
            raise DecodeError("a line has several values")
        if _may_overflow(block):
            for line in lines:
                _decode_any(line)
        return [self._column(structs, *column) for column in self._columns]

    @staticmethod
    def _column(
        structs: Sequence[Any], whole: Callable[[Any], Any], head: Callable[[Any], Any], rest: Sequence[str]
    ) -> list[Any]:
        values = list(map(whole, structs))
        if UNSET in values:
            for number, value in enumerate(values):
                if value is UNSET:
                    values[number] = _walk(head(structs[number]), rest)
        return values


def _may_overflow(block: bytes) -> bool:
    """Return whether a number in it may not fit a double: by an exponent of three digits, or its length."""
    kinds = block.translate(KINDS)
    if LONG in kinds:
        return True
    for exponent in (b"0e000", b"0e+000") if b"+" in kinds else (b"0e000",):
        # from the end: there it begins with what is rare, which is a third of the time
        if kinds.rfind(exponent) >= 0:
            # hashes have such digits too, after a letter or a quote
            before = {part.rstrip(b"0.")[-1:] for part in kinds.split(exponent)[:-1]}
            if not LEADS.isdisjoint(before):
                return True
    return False


def _walk(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return None if value is UNSET else value


class JsonKey:
    """A key mapper for raw JSON lines (bytes), or mappings.

    Args:
        names: Fields, each looked up whole before it is read as a dotted path. Of one field the key is its value, of
            several a tuple of them, of none the whole event. A missing field is None.
        max_length: Characters of the longest key. An event with a longer one is rejected: keys are held.

    >>> JsonKey("id")(b'{"id": "a", "n": 1}')
    'a'
    >>> JsonKey("id", "n.x").many([b'{"id": "a", "n": {"x": true}}', b'{"id": 1}'])
    [('a', Json(text='true')), (1, None)]
    """

    def __init__(self, *names: str, max_length: int = MAX_LENGTH) -> None:
        self._fields = _Fields(names)
        self._count = len(names)
        self._max_length = max_length

    def __call__(self, event: bytes | Mapping[str, Any]) -> Hashable:
        values = self._fields.one(event) if self._count else [decode(event)]
        keys = tuple(map(json_key, values))
        for key in keys:
            self._check(key)
        return keys if self._count > 1 else keys[0]

    def many(self, events: Sequence[Any]) -> Sequence[Hashable]:
        """Return the keys of a chunk; raises when any event is bad."""
        if not self._count or len(events) < FEW or not isinstance(events[0], bytes):
            return list(map(self, events))
        columns = [_typed(column) for column in self._fields.many(events)]
        if max(map(len, events)) > self._max_length:  # else no part of one can be
            deque(map(self._check, chain(*columns)), maxlen=0)
        return list(zip(*columns, strict=True)) if self._count > 1 else columns[0]

    def _check(self, key: Hashable) -> None:
        length = len(key.text) if isinstance(key, Json) else len(key) if isinstance(key, str) else 0
        if length > self._max_length:
            raise KeyMapperError(f"a key of {length} characters: at most {self._max_length}")

    def __repr__(self) -> str:
        return f"JsonKey({', '.join(map(repr, self._fields._names))})"  # pyright: ignore[reportPrivateUsage]


def _typed(values: Sequence[Any]) -> Sequence[Hashable]:
    return values if set(map(type, values)) <= PLAIN else list(map(json_key, values))


class JsonTime:
    """A time mapper for raw JSON lines (bytes), or mappings.

    Args:
        name: The field, looked up whole before it is read as a dotted path.
        timezone: What a timestamp without an offset is in.

    >>> JsonTime("ts")(b'{"ts": "1970-01-01T00:00:10.5Z"}')
    10.5
    """

    def __init__(self, name: str, *, timezone: tzinfo = UTC) -> None:
        self._fields = _Fields([name])
        self._timezone = timezone

    def __call__(self, event: bytes | Mapping[str, Any]) -> float:
        return posix(self._fields.one(event)[0], self._timezone)

    def many(self, events: Sequence[Any]) -> Sequence[float]:
        """Return the times of a chunk; raises when any event is bad."""
        timezone = self._timezone
        return [posix(value, timezone) for value in self._fields.many(events)[0]]
