"""Key and time mappers: what `key_mapper` and `time_mapper` may be, wherever they are asked for."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, tzinfo
from functools import reduce
from itertools import chain, repeat
from operator import or_
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from rxcompact.errors import ArgumentError, DecodeError, KeyMapperError, RxCompactError, TimeMapperError
from rxcompact.fields import TEXT, Columns, Errors, Field, map_each, members, without
from rxcompact.keys import LIMIT, MAX_LENGTH, NONE, are_texts, json_key, plain_key
from rxcompact.timestamps import check_format, posix, posix_of_usual

KeySpec: TypeAlias = str | Sequence[str] | Callable[[Any], Hashable]
"""A field's name, several of them, or a function of the event."""
TimeSpec: TypeAlias = str | Callable[[Any], Any]
"""A field's name, or a function of the event."""

FUNCTIONS = {str, int, float, bool, bytes, tuple, frozenset, type}  # classes that are functions of an event as well
PLAIN = {str, int, bool, bytes, NONE}
"""Types of what a function may return as a key, and of which nothing has to be looked at."""
TEXT_KEY: Any = Annotated[str, msgspec.Meta(max_length=MAX_LENGTH)]
USUAL = TEXT_KEY | Annotated[int, msgspec.Meta(ge=-LIMIT, le=LIMIT)] | None
"""Keys of JSON that are as they should be."""
NO_ERRORS: Errors = {}
Converted: TypeAlias = tuple[Sequence[Any], Errors, bool]
"""Keys or times, None where there is none; the errors among them; whether there may be a None."""


class Column(list[Any]):
    """The keys or times of a chunk; how many events are without a field, by its name, and without any (``null``)."""

    __slots__ = ("errors", "missing", "null")

    def __init__(
        self,
        values: Iterable[Any] = (),
        errors: Errors | None = None,
        missing: Mapping[str, int] | None = None,
        null: int = 0,
    ) -> None:
        super().__init__(values)
        self.errors, self.missing, self.null = errors or {}, missing or {}, null
        for at in self.errors:
            self[at] = None


NO_TIMES = Column()


class Mapper:
    """Maps an event to its key or time, or a chunk: by fields, each with the type that most have, or by a function."""

    fields: Sequence[tuple[Field, Any]] = ()
    names: tuple[str, ...] = ()  # the fields that it reads, or leaves out
    field: str | None = None  # of which the value is the key, where it is a text

    def __init__(
        self,
        source: Sequence[tuple[Field, Any]] | Callable[[Any], Any],
        convert: Callable[[Sequence[Any]], Converted],
        error_class: type[RxCompactError],
        *,
        reject: bool,
    ) -> None:
        self.fields = () if callable(source) else source
        self._function = source if callable(source) else None
        self.names = tuple(field.name for field, _ in self.fields)
        self._columns = Columns(self.fields)
        self._convert, self._error_class, self._reject = convert, error_class, reject
        if convert is _field_keys and len(self.fields) == 1 and self.fields[0][0].flat:
            self.field = self.fields[0][0].whole

    def __call__(self, event: Any) -> Any:
        """Return the key or time of an event, or raise RxCompactError."""
        column = self.many((event,))
        if column.errors:
            raise column.errors[0]
        return column[0]

    def many(self, events: Sequence[Any]) -> Column:
        """Return those of a chunk."""
        if self._function is None:
            return self.convert(*self._columns.read(events, self._error_class))
        values, errors = _called(self._function, events, self._error_class)
        return self.convert([values], errors)

    def convert(self, columns: Sequence[Sequence[Any]], errors: Errors, usual: bool = False) -> Column:
        """Return the keys or times that columns make."""
        gapped = usual
        if not usual:
            columns, more, gaps = zip(*map(self._convert, columns), strict=True)
            errors, gapped = reduce(or_, more, errors) if any(more) else errors, any(gaps)
        rows = columns[0] if len(columns) == 1 else zip(*columns, strict=True)
        if not gapped or not (self.names or self._reject):
            return Column(rows, errors)
        missing: dict[str, int] = {}
        null: set[int] = set()
        for name, column in zip(self.names or ("",), columns, strict=True):
            if all(column):  # few keys are false
                continue
            absent = [at for at, each in enumerate(column) if each is None and at not in errors]
            if absent and name:
                missing[name] = len(absent)
            if absent and self._reject:
                error = self._error_class(f"no field {name!r}" if name else "no time")
                errors = errors | dict.fromkeys(absent, error)
            else:
                null.update(absent)
        return Column(rows, errors, missing, len(null))

    def __str__(self) -> str:
        return ", ".join(self.names) or getattr(self._function, "__name__", None) or repr(self._function)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


class EventKeys(Mapper):
    """Keys of whole events, but for some fields."""

    def __init__(self, exclude: Sequence[Field], *, reject: bool) -> None:
        self.names = tuple(field.name for field in exclude)
        self._exclude, self._reject = exclude, reject

    def many(self, events: Sequence[Any]) -> Column:
        missing: Counter[str] = Counter()

        def key(event: Any) -> Hashable:
            rest = members(event)
            for field in self._exclude:
                before, rest = rest, without(rest, field.groups)
                if rest is before:
                    missing[field.name] += 1
                    if self._reject:
                        raise KeyMapperError(f"no field {field.name!r}")
            return json_key(rest)

        return Column(*map_each(key, events, KeyMapperError), missing)

    def __str__(self) -> str:
        return f"all but {', '.join(self.names)}" if self.names else "all"


class Known(Mapper):
    """Gives keys or times that are known already, in the order of the events."""

    def __init__(self, column: Column) -> None:
        self.go_on(column)

    def go_on(self, column: Column) -> None:
        """Give these from now on."""
        self._column, self._next = column, 0

    def many(self, events: Sequence[Any]) -> Column:
        first, self._next = self._next, self._next + len(events)
        errors = {at - first: error for at, error in self._column.errors.items() if first <= at < self._next}
        return Column(self._column[first : self._next], errors)


def key_of(
    spec: KeySpec = (),
    *,
    exclude: str | Sequence[str] = (),
    missing: Literal["null", "reject"] = "null",
    argument: str = "key_mapper",
) -> Mapper:
    """Return the key mapper that is asked for; a `Mapper` as it is.

    Args:
        spec: The name of a field, see `Field`; then the key is its value. Or a tuple or list of names; then it is a
            tuple of their values, and of no names the whole event. Or a function of the event, which may have a method
            ``many(events) -> keys`` that maps whole chunks.
        exclude: Fields that are no part of the key, which is all the rest of the event.
        missing: What an event without one of the fields gets: ``"null"``, the key None in its place, or ``"reject"``.
        argument: What ``spec`` is given for, in errors.

    Raises:
        ArgumentError: for anything else.

    >>> key_of(("id", "n.x")).many([b'{"id": "a", "n": {"x": true}}', {"id": 1}])
    [('a', Json(text='true')), (1, None)]
    >>> key_of(exclude="ts")({"id": 1, "ts": 5})
    Json(text='{"id":1}')
    """
    if missing not in ("null", "reject"):
        raise ArgumentError("missing", missing, '"null" or "reject"')
    reject = missing == "reject"
    excluded = _fields(exclude, "exclude")
    if isinstance(spec, (str, tuple, list)):
        fields = _fields(spec, argument)
        if fields and excluded:
            raise ArgumentError("exclude", exclude, f"left out where {argument} names fields")
        if not fields:
            return EventKeys(excluded, reject=reject)
        return Mapper([(field, USUAL) for field in fields], _field_keys, KeyMapperError, reject=reject)
    if excluded:
        raise ArgumentError("exclude", exclude, f"left out where {argument} is a function")
    if isinstance(spec, Mapper):
        return spec
    function = _function(spec, argument, "a field's name, a tuple of names, or a function of the event")
    return Mapper(function, _function_keys, KeyMapperError, reject=False)


def _fields(names: Any, argument: str) -> list[Field]:
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, (tuple, list)):
        raise ArgumentError(argument, names, "a field's name, or a tuple of names")
    return [Field(name, argument) for name in names]


def _function(spec: Any, argument: str, expected: str) -> Callable[[Any], Any]:
    if not callable(spec) or (isinstance(spec, type) and spec not in FUNCTIONS):
        raise ArgumentError(argument, spec, f"{expected}, not a class" if isinstance(spec, type) else expected)
    for each in (spec, type(spec).__call__):
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each):
            raise ArgumentError(argument, spec, f"{expected} that returns at once: not a coroutine function")
    return spec  # type: ignore[no-any-return]


def _called(
    function: Callable[[Any], Any], events: Sequence[Any], error_class: type[RxCompactError]
) -> tuple[list[Any], Errors]:
    many = getattr(function, "many", None)
    if many is not None:
        with suppress(Exception):  # of whichever event
            values = list(many(events))
            if len(values) == len(events):
                return values, NO_ERRORS
            error = error_class(f"{many!r} returned {len(values)} values for {len(events)} events")
            return [None] * len(events), dict.fromkeys(range(len(events)), error)
    return map_each(function, events, error_class)


def _field_keys(values: Sequence[Any]) -> Converted:
    if are_texts(values):
        return values, NO_ERRORS, False
    kinds = set(map(type, values))
    gaps = NONE in kinds
    if kinds <= {str, NONE}:
        if max(map(len, filter(None, values)), default=0) <= MAX_LENGTH:
            return values, NO_ERRORS, gaps
    elif kinds == {int} and min(values) >= -LIMIT and max(values) <= LIMIT:
        return values, NO_ERRORS, gaps
    return *map_each(json_key, values, KeyMapperError), True


def _function_keys(keys: Sequence[Any]) -> Converted:
    kinds = set(map(type, keys))
    if kinds == {tuple}:
        kinds = set(map(type, chain.from_iterable(keys)))
    return (keys, NO_ERRORS, True) if kinds <= PLAIN else (*map_each(plain_key, keys, KeyMapperError), True)


def time_of(
    spec: TimeSpec,
    *,
    timezone: tzinfo = UTC,
    format: str | None = None,  # noqa: A002 - of strptime
) -> Mapper:
    """Return the time mapper that is asked for, which gives POSIX seconds; a `Mapper` as it is.

    Args:
        spec: The name of a field, see `Field`, or a function of the event. What is read may be anything that `posix`
            takes: ISO 8601, an epoch in seconds to nanoseconds, a `datetime`, a stamp of numpy or pandas, …
        timezone: The zone of a time without an offset.
        format: How texts are to be read, as for `datetime.strptime`, where they are of no known form.

    Raises:
        ArgumentError: for anything else.

    >>> time_of("ts")(b'{"ts": "1970-01-01T00:00:10.5Z"}')
    10.5
    """
    if isinstance(spec, Mapper):
        return spec
    if isinstance(spec, str):
        source: Any = [(Field(spec, "time_mapper"), Any)]
    else:
        source = _function(spec, "time_mapper", "a field's name, or a function of the event")
    if format is not None:
        check_format(format)

    def parse(value: Any) -> float | None:
        return None if value is None else posix(value, timezone, format)

    def convert(values: Sequence[Any]) -> Converted:
        if format is None:
            with suppress(Exception):  # of whichever value
                return posix_of_usual(values, timezone), NO_ERRORS, False
            with suppress(Exception):  # of another one than those that are missing
                rest = iter(posix_of_usual([value for value in values if value is not None], timezone))
                return [None if value is None else next(rest) for value in values], NO_ERRORS, True
        return *map_each(parse, values, TimeMapperError), True

    return Mapper(source, convert, TimeMapperError, reject=True)


class ChunkMapper:
    """Maps the chunks of one subscription to keys and times, and counts the events that lack a field."""

    def __init__(self, key_mapper: Mapper, time_mapper: Mapper | None) -> None:
        self.read = 0  # events that could be read
        self.missing: Counter[str] = Counter()  # how many of them lack a field, by its name
        self.null_keys = 0  # how many of them lack a field of the key
        self.names = tuple(dict.fromkeys((*key_mapper.names, *(time_mapper.names if time_mapper else ()))))
        self._reported: set[str] = set()
        self._keys, self._times = key_mapper, time_mapper
        self._columns = Columns((*key_mapper.fields, *(time_mapper.fields if time_mapper else ())))

    @property
    def unknown(self) -> tuple[str, ...]:
        """The fields that no event had, so far."""
        return tuple(name for name in self.names if self.missing[name] == self.read) if self.read else ()

    def new_unknown(self) -> Iterator[str]:
        """Yield a line for each field that no event had, so far; once."""
        for name in self.unknown:
            if name not in self._reported:
                self._reported.add(name)
                found = f"none of {self.read} events has the field {name!r}, so far"
                yield f"{found}: is the name right? Events in a list of it need items"

    def values(self, events: Sequence[Any]) -> Iterator[Any] | None:
        """Return the values of the key's field, unchecked; TypeError at what is no dict. None if it takes more."""
        if self._times is not None or self._keys.field is None or not isinstance(events[0], dict):
            return None
        return map(dict.get, events, repeat(self._keys.field))

    def map(self, events: Sequence[Any]) -> tuple[Column, Column, Errors]:
        """Return keys, times and errors of a chunk; without a time mapper there are no times."""
        if self._times and self._times.fields and self._keys.fields and events and isinstance(events[0], TEXT):
            # JSON is decoded once
            (*found, last), bad, usual = self._columns.read(events, KeyMapperError)
            keys, times = self._keys.convert(found, bad, usual), self._times.convert([last], bad)
        else:
            keys, times = self._keys.many(events), self._times.many(events) if self._times else NO_TIMES
        errors = times.errors | keys.errors
        self.read += len(events)
        self.null_keys += keys.null
        if errors:
            self.read -= list(map(type, errors.values())).count(DecodeError)
        if times.missing or keys.missing:
            self.missing.update({**times.missing, **keys.missing})
        return keys, times, errors
