"""Key and time mappers: what `key_mapper` and `time_mapper` may be, wherever they are asked for."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, tzinfo
from functools import partial
from itertools import chain
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from rxcompact.errors import ArgumentError, DecodeError, KeyMapperError, RxCompactError, TimeMapperError
from rxcompact.fields import TEXT, Columns, Errors, Field, map_each, members, without
from rxcompact.keys import LIMIT, MAX_LENGTH, NONE, json_key, plain_key
from rxcompact.timestamps import parser, posix_of_usual

KeySpec: TypeAlias = str | Sequence[str] | Callable[[Any], Hashable]
"""A field's name, several of them, or a function of the event."""
TimeSpec: TypeAlias = str | Callable[[Any], Any]
"""A field's name, or a function of the event."""
Missing: TypeAlias = Literal["null", "reject"]

FUNCTIONS = {str, int, float, bool, bytes, tuple, frozenset, type}
"""Classes that are functions of an event as well."""
PLAIN = {str, int, bool, bytes, NONE}
"""Types of what a function may return as a key, and of which nothing has to be looked at."""


class Column(list[Any]):
    """The keys or times of a chunk; None for the events that have none.

    Attributes:
        errors: The positions of these, and why.
        missing: The names of fields that events lack, and how many events.
    """

    __slots__ = ("errors", "missing")

    def __init__(
        self, values: Iterable[Any] = (), errors: Errors | None = None, missing: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(values)
        self.errors, self.missing = errors or {}, missing or {}
        for at in self.errors:
            self[at] = None


class Mapper(ABC):
    """Maps an event to its key or time, or a chunk of them."""

    names: tuple[str, ...] = ()
    """The fields that it reads, or leaves out."""

    def __call__(self, event: Any) -> Any:
        """Return the key or time of an event.

        Raises:
            RxCompactError: when it has none.
        """
        column = self.many((event,))
        if column.errors:
            raise column.errors[0]
        return column[0]

    @abstractmethod
    def many(self, events: Sequence[Any]) -> Column:
        """Return those of a chunk."""

    def __str__(self) -> str:
        return ", ".join(self.names)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


def key_of(
    spec: KeySpec = (),
    *,
    exclude: str | Sequence[str] = (),
    missing: Missing = "null",
    max_length: int = MAX_LENGTH,
    argument: str = "key_mapper",
) -> Mapper:
    """Return the key mapper that is asked for; a `Mapper` as it is.

    Args:
        spec: The name of a field, see `Field`; then the key is its value. Or a tuple or list of names; then it is a
            tuple of their values, and of no names the whole event. Or a function of the event, which may have a method
            ``many(events) -> keys`` that maps whole chunks.
        exclude: Fields that are no part of the key, which is all the rest of the event.
        missing: What an event without one of the fields gets: ``"null"``, the key None in its place, or ``"reject"``.
        max_length: Characters of the longest key of a JSON line. An event with a longer one is rejected: keys are held.
        argument: What ``spec`` is given for, in errors.

    Keys of fields are those of JSON: 1, 1.0, true and "1" are four keys, of which Python's own equality makes two (see
    `json_key`). NaN, NaT, ``pandas.NA`` and None are one key. Scalars of numpy and pandas are Python's.

    Raises:
        ArgumentError: for anything else.

    >>> key_of("id")(b'{"id": "a", "n": 1}')
    'a'
    >>> key_of(("id", "n.x")).many([b'{"id": "a", "n": {"x": true}}', {"id": 1}])
    [('a', Json(text='true')), (1, None)]
    >>> key_of(exclude="ts")({"id": 1, "ts": 5})
    Json(text='{"id":1}')
    """
    if missing not in ("null", "reject"):
        raise ArgumentError("missing", missing, '"null" or "reject"')
    excluded = _fields([exclude] if isinstance(exclude, str) else exclude, "exclude")
    if isinstance(spec, (str, tuple, list)):
        fields = _fields([spec] if isinstance(spec, str) else spec, argument)
        if fields and excluded:
            raise ArgumentError("exclude", exclude, f"left out where {argument} names fields")
        return FieldKeys(fields, missing, max_length) if fields else EventKeys(excluded, missing, max_length)
    if excluded:
        raise ArgumentError("exclude", exclude, f"left out where {argument} is a function")
    if isinstance(spec, Mapper):
        return spec
    return FunctionKeys(_function(spec, argument, "a field's name, a tuple of names, or a function of the event"))


def _fields(names: Any, argument: str) -> list[Field]:
    if not isinstance(names, (tuple, list)):
        raise ArgumentError(argument, names, "a field's name, or a tuple of names")
    return [Field(name, argument) for name in names]


def _function(spec: Any, argument: str, expected: str) -> Callable[[Any], Any]:
    if not callable(spec):
        raise ArgumentError(argument, spec, expected)
    if isinstance(spec, type) and spec not in FUNCTIONS:
        raise ArgumentError(argument, spec, f"{expected}, not a class")
    for each in (spec, type(spec).__call__):
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each):
            raise ArgumentError(argument, spec, f"{expected} that returns at once: not a coroutine function")
    return spec  # type: ignore[no-any-return]


class FieldKeys(Mapper):
    """Keys of named fields."""

    def __init__(self, fields: Sequence[Field], missing: Missing, max_length: int) -> None:
        self.names = tuple(field.name for field in fields)
        text: Any = Annotated[str, msgspec.Meta(max_length=max_length)]
        usual: Any = text | Annotated[int, msgspec.Meta(ge=-LIMIT, le=LIMIT)] | None
        self.fields = [(field, usual) for field in fields]
        self._columns = Columns(self.fields)
        self._reject = missing == "reject"
        self._max_length = max_length
        self._key = partial(json_key, max_length=max_length)

    def many(self, events: Sequence[Any]) -> Column:
        return self.convert(*self._columns.read(events, KeyMapperError))

    def convert(self, columns: Sequence[Sequence[Any]], errors: Errors, usual: bool) -> Column:
        """Return the keys that the values of the fields make; ``usual`` ones are keys already."""
        missing: dict[str, int] = {}
        keys: list[Sequence[Hashable]] = []
        for name, values in zip(self.names, columns, strict=True):
            column = values
            if not usual and not self._are_keys(values):
                column, more = map_each(self._key, values, KeyMapperError)
                errors = errors | more
            keys.append(column)
            # few keys are false
            absent = [] if all(column) else [at for at, key in enumerate(column) if key is None and at not in errors]
            if absent:
                missing[name] = len(absent)
            if absent and self._reject:
                errors = errors | dict.fromkeys(absent, KeyMapperError(f"no field {name!r}"))
        return Column(keys[0] if len(keys) == 1 else zip(*keys, strict=True), errors, missing)

    def _are_keys(self, values: Sequence[Any]) -> bool:
        kinds = set(map(type, values))
        if kinds <= {str, NONE}:
            return max(map(len, filter(None, values)), default=0) <= self._max_length
        return kinds == {int} and min(values) >= -LIMIT and max(values) <= LIMIT


class EventKeys(Mapper):
    """Keys of whole events, but for some fields."""

    def __init__(self, exclude: Sequence[Field], missing: Missing, max_length: int) -> None:
        self.names = tuple(field.name for field in exclude)
        self._exclude, self._missing, self._max_length = exclude, missing, max_length

    def many(self, events: Sequence[Any]) -> Column:
        missing: Counter[str] = Counter()

        def key(event: Any) -> Hashable:
            rest = members(event)
            for field in self._exclude:
                before, rest = rest, without(rest, field.groups)
                if rest is before:
                    missing[field.name] += 1
                    if self._missing == "reject":
                        raise KeyMapperError(f"no field {field.name!r}")
            return json_key(rest, self._max_length)

        return Column(*map_each(key, events, KeyMapperError), missing)

    def __str__(self) -> str:
        return f"all but {super().__str__()}" if self.names else "all"


class FunctionKeys(Mapper):
    """Keys that a function gives."""

    def __init__(self, function: Callable[[Any], Hashable]) -> None:
        self._function = function

    def many(self, events: Sequence[Any]) -> Column:
        keys, errors = _called(self._function, events, KeyMapperError)
        kinds = set(map(type, keys))
        if kinds == {tuple}:
            kinds = set(map(type, chain.from_iterable(keys)))
        if not kinds <= PLAIN:
            keys, more = map_each(plain_key, keys, KeyMapperError)
            errors = errors | more
        return Column(keys, errors)

    def __str__(self) -> str:
        return getattr(self._function, "__name__", None) or repr(self._function)


def _called(
    function: Callable[[Any], Any], events: Sequence[Any], error_class: type[RxCompactError]
) -> tuple[list[Any], Errors]:
    many = getattr(function, "many", None)
    if many is not None:
        with suppress(Exception):  # of whichever event
            values = list(many(events))
            if len(values) == len(events):
                return values, {}
            error = error_class(f"{many!r} returned {len(values)} values for {len(events)} events")
            return [None] * len(events), dict.fromkeys(range(len(events)), error)
    return map_each(function, events, error_class)


def time_of(
    spec: TimeSpec,
    *,
    timezone: tzinfo = UTC,
    format: str | None = None,  # noqa: A002 - of strptime
    argument: str = "time_mapper",
) -> Mapper:
    """Return the time mapper that is asked for, which gives POSIX seconds; a `Mapper` as it is.

    Args:
        spec: The name of a field, see `Field`, or a function of the event. What is read may be anything that `posix`
            takes: ISO 8601, an epoch in seconds to nanoseconds, a `datetime`, a stamp of numpy or pandas, …
        timezone: The zone of a time without an offset.
        format: How texts are to be read, as for `datetime.strptime`, where they are of no known form.
        argument: What ``spec`` is given for, in errors.

    Raises:
        ArgumentError: for anything else.

    >>> time_of("ts")(b'{"ts": "1970-01-01T00:00:10.5Z"}')
    10.5
    """
    if isinstance(spec, Mapper):
        return spec
    expected = "a field's name, or a function of the event"
    source = Field(spec, argument) if isinstance(spec, str) else _function(spec, argument, expected)
    return Times(source, timezone, format)


class Times(Mapper):
    """Times of a field, or those that a function gives."""

    def __init__(self, source: Callable[[Any], Any], timezone: tzinfo, format: str | None) -> None:  # noqa: A002
        self._function = source
        self._parse = parser(timezone, format)
        self._usual, self._timezone = format is None, timezone
        self.fields = [(source, Any)] if isinstance(source, Field) else []
        self._columns = Columns(self.fields)
        self.names = tuple(field.name for field, _ in self.fields)

    def many(self, events: Sequence[Any]) -> Column:
        if self.fields:
            (values,), errors, _ = self._columns.read(events, TimeMapperError)
        else:
            values, errors = _called(self._function, events, TimeMapperError)
        return self.convert(values, errors)

    def convert(self, values: Sequence[Any], errors: Errors) -> Column:
        """Return the times that the values of the field are."""
        kinds = set(map(type, values))
        if NONE not in kinds:
            with suppress(Exception):  # of whichever value
                if self._usual:
                    return Column(posix_of_usual(values, kinds, self._timezone))
            return Column(*map_each(self._parse, values, TimeMapperError))
        present = [at for at, value in enumerate(values) if value is not None]
        found = self.convert([values[at] for at in present], {})
        times: list[float | None] = [None] * len(values)
        for at, time in zip(present, found, strict=True):
            times[at] = time
        absent = set(range(len(values))).difference(present, errors)
        error = TimeMapperError(f"no field {self.names[0]!r}" if self.names else "no time")
        errors = errors | {present[at]: each for at, each in found.errors.items()} | dict.fromkeys(absent, error)
        return Column(times, errors, dict.fromkeys(self.names, len(absent)) if absent else None)


class ChunkMapper:
    """Maps the chunks of one subscription to keys and times, and counts the events that lack a field.

    Attributes:
        names: The fields that are read.
        read: Events that could be read.
        missing: How many of them lack a field, by its name.
    """

    def __init__(self, key_mapper: Mapper, time_mapper: Mapper | None) -> None:
        self.read = 0
        self._reported: set[str] = set()
        self.missing: Counter[str] = Counter()
        self.names = tuple(dict.fromkeys((*key_mapper.names, *(time_mapper.names if time_mapper else ()))))
        self._keys, self._times = key_mapper, time_mapper
        self._both: tuple[FieldKeys, Times, Columns] | None = None
        if isinstance(key_mapper, FieldKeys) and isinstance(time_mapper, Times) and time_mapper.fields:
            self._both = key_mapper, time_mapper, Columns([*key_mapper.fields, *time_mapper.fields])

    @property
    def unknown(self) -> tuple[str, ...]:
        """The fields that no event had, so far."""
        return tuple(name for name in self.names if self.missing[name] == self.read) if self.read else ()

    def new_unknown(self) -> Iterator[str]:
        """Yield a line for each field that no event had, so far; once."""
        for name in self.unknown:
            if name not in self._reported:
                self._reported.add(name)
                yield f"none of {self.read} events has the field {name!r}, so far: is the name right?"

    def map(self, events: Sequence[Any]) -> tuple[Column, Column, Errors]:
        """Return keys, times and errors of a chunk; without a time mapper there are no times."""
        if self._both is not None and events and isinstance(events[0], TEXT):  # JSON is decoded once
            key_mapper, time_mapper, both = self._both
            (*found, last), bad, usual = both.read(events, KeyMapperError)
            keys, times = key_mapper.convert(found, bad, usual), time_mapper.convert(last, bad)
        else:
            keys, times = self._keys.many(events), self._times.many(events) if self._times else Column()
        errors = times.errors | keys.errors
        self.read += len(events) - sum(isinstance(error, DecodeError) for error in errors.values())
        self.missing.update(times.missing | keys.missing)
        return keys, times, errors
