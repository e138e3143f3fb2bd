"""Fields of raw JSON lines, read without decoding the rest of the line."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, tzinfo
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET

from rxcompact.errors import DecodeError, KeyMapperError
from rxcompact.timestamps import posix

# what Python hashes and compares as JSON does; True, 1 and 1.0 would be one key, lists and dicts none
PLAIN = {str, int, type(None)}
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
    if type(line) is not bytes and isinstance(line, Mapping):  # isinstance alone is slow
        return line  # type: ignore[return-value]
    try:
        value = _decode_any(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(_why(error, line)) from None
    if not isinstance(value, dict):
        raise DecodeError(f"not a JSON object but {type(value).__name__}")
    return value


def _why(error: Exception, line: bytes) -> str:
    if reason := getattr(line, "reason", None):  # of the reader, that rejected it
        return str(reason)
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        try:
            line.decode()
        except UnicodeDecodeError as found:  # the first one counts from the start of the string that it is in
            return f"invalid UTF-8 (byte {found.start})"
    return str(error)


class _Fields:
    """Looks up fields by name: whole first, then as a dotted path; None where missing.

    Each line is decoded into a struct of these fields alone; the rest of it is checked for being JSON and UTF-8. A
    number that does not fit a double is an error only where it is read.

    Args:
        names: The fields.
        usual: The type that most values have: others cost a second look. Dotted names are of any type.
    """

    def __init__(self, names: Sequence[str], usual: Any = Any) -> None:
        self._names = names
        columns = dict.fromkeys([*names, *(name.split(".")[0] for name in names)])
        fields = {name: f"f{number}" for number, name in enumerate(columns)}
        # a struct cannot have names that JSON escapes
        self._plain = bool(names) and all(name.isprintable() and not set(name) & {'"', "\\"} for name in names)
        self._flat = not any("." in name for name in names)
        renamed = {field: name for name, field in fields.items()} if self._plain else None

        def decoder(kind: Any, default: Any) -> Callable[[bytes], Any]:
            members = [(field, kind, default) for field in fields.values()]
            return msgspec.json.Decoder(msgspec.defstruct("Fields", members, rename=renamed, gc=False)).decode

        self._decode = decoder(Any, None if self._flat else UNSET)
        self._decode_usual = decoder(usual, None) if self._flat else self._decode
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
        if not self._plain or type(event) is not bytes:
            event = decode(event)
            return [event[name] if name in event else _walk(event, name.split(".")) for name in self._names]
        try:
            return [column[0] for column in self._read(self._decode, (event,))]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decode(event)  # raises with the better message
            raise

    def many(self, lines: Sequence[Any]) -> tuple[list[Sequence[Any]], bool]:
        """Return the columns of a chunk, one a field, and whether all of it is of the usual type.

        Raises:
            Exception: when any line is bad; `one` gives the error of each.
        """
        if not lines:
            return [()] * len(self._names), True
        if not self._plain or not isinstance(lines[0], bytes):
            return list(zip(*map(self.one, lines), strict=True)), False
        if self._flat:
            try:
                return self._read(self._decode_usual, lines), True
            except msgspec.ValidationError:  # its type is another
                pass
        return self._read(self._decode, lines), False

    def _read(self, decode_line: Callable[[bytes], Any], lines: Sequence[bytes]) -> list[Sequence[Any]]:
        # `bytes.decode` raises for what is no UTF-8, which is not noticed where it is skipped
        if self._flat and len(self._names) == 1:  # a third faster than by columns
            return [[decode_line(line).f0 for line in lines if line.isascii() or line.decode()]]
        structs = [decode_line(line) for line in lines if line.isascii() or line.decode()]
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
        short: Any = Annotated[str, msgspec.Meta(max_length=max_length)]
        self._fields = _Fields(names, short | int | None)
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
        if not events or not self._count or not isinstance(events[0], bytes):
            return list(map(self, events))
        columns, checked = self._fields.many(events)
        if not checked:
            columns = [_typed(column) for column in columns]
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
        return [posix(value, timezone) for value in self._fields.many(events)[0][0]]
