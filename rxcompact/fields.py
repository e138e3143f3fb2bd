"""Fields of events: what a name means in a mapping, in an object and in a JSON line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import repeat
from operator import attrgetter, is_
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType
from typing import Any, NoReturn, TypeAlias

import msgspec

from rxcompact.errors import ArgumentError, DecodeError, RxCompactError

Group: TypeAlias = tuple[tuple[str, str], ...]
"""Of a name without ``[]``, at each level: all that is left of it, and that up to its first dot."""
Errors: TypeAlias = dict[int, RxCompactError]
"""Of a chunk: the positions of the events of which something cannot be read, and why."""

Read: TypeAlias = tuple[list[Sequence[Any]], Errors, bool]
"""Columns of a chunk, the errors, and whether all values are of the types that they usually have."""
MISSING: Any = msgspec.UNSET
FATAL = (KeyboardInterrupt, SystemExit, GeneratorExit)
TEXT = (bytes, str, bytearray, memoryview)
MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError)
ROUTINES = (MethodType, FunctionType, BuiltinFunctionType, MethodWrapperType)
# `\.` is a dot of the name, and so on; noncharacters stand for these while the rest is split
ESCAPED = {".": "\ufdd0", ",": "\ufdd1", "[": "\ufdd2", "]": "\ufdd3"}
UNESCAPED = {ord(stand_in): mark for mark, stand_in in ESCAPED.items()}
INDEX = re.compile(r"\[(-?[0-9]+|\*|\?.*|'.*'|\".*\"|:)\]")

_decode = msgspec.json.Decoder().decode


def decode(line: Any) -> dict[str, Any]:
    """Decode a line of JSON, bytes or text, in full; anything else is returned as it is.

    Raises:
        DecodeError: when it is no JSON object, with the reason and where.
    """
    if not isinstance(line, TEXT):
        return line  # type: ignore[no-any-return]
    try:
        value = _decode(line)
    except MALFORMED as error:
        raise DecodeError(why_malformed(error, line)) from None
    if not isinstance(value, dict):
        raise DecodeError(f"not a JSON object but {type(value).__name__}")
    return value


def why_malformed(error: Exception, line: Any) -> str:
    """Return why a line cannot be decoded."""
    if reason := getattr(line, "reason", None):  # of the reader, that rejected it
        return str(reason)
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        try:
            bytes(line).decode()
        except UnicodeDecodeError as found:  # the first one counts from the start of the string that it is in
            return f"invalid UTF-8 (byte {found.start})"
    return "half a surrogate pair" if isinstance(error, UnicodeEncodeError) else str(error)


def can_be_member(name: str) -> bool:
    """Return whether `members_decoder` takes a name: one that JSON does not escape."""
    return name.isprintable() and not set(name) & {'"', "\\"}


def members_decoder(members: Mapping[str, tuple[Any, Any]]) -> Callable[[Any], Any]:
    """Return what decodes of a JSON object these members alone, as ``f0``, ``f1``, …; each has a type and a default."""
    fields = [(f"f{number}", *member) for number, member in enumerate(members.values())]
    names = {f"f{number}": name for number, name in enumerate(members)}
    return msgspec.json.Decoder(msgspec.defstruct("Members", fields, rename=names, gc=False)).decode


class Field:
    r"""A field, by its name; called with an event it returns the value, None where it is missing.

    The whole name is looked up first; then, at each dot, the rest of it whole, before it is split. ``[]`` goes through
    a list: the value is the list of what is found. A backslash makes a dot, a comma or a bracket part of a name.
    Mappings are looked into by their items, objects by their attributes, and JSON, bytes or text, is decoded.

    Args:
        name: Such as ``"host"``, ``"k.labels.app.kubernetes.io/name"``, ``"tags[].name"``, ``r"a\.b"``.
        argument: What the name is given for, in errors.

    Raises:
        ArgumentError: for a name that cannot be one.

    >>> Field("k.labels.app.kubernetes.io/name")({"k": {"labels": {"app.kubernetes.io/name": "api"}}})
    'api'
    >>> Field("tags[].n")(b'{"tags": [{"n": 1}, {"n": 2}]}')
    [1, 2]
    """

    __slots__ = ("groups", "name", "whole")

    def __init__(self, name: str, argument: str = "field") -> None:
        self.groups = _parse(name, argument)
        """The parts of the name between ``[]``."""
        self.name = name.strip()
        self.whole = self.groups[0][0][0]

    @property
    def flat(self) -> bool:
        """Whether the name is looked up whole alone: no dot, no ``[]``."""
        return len(self.groups) == len(self.groups[0]) == 1

    def __call__(self, event: Any) -> Any:
        event = decode(event)
        if _access(event.__class__) is _nothing:
            raise DecodeError(f"not an object but {type(event).__name__}")
        found = find(event, self.groups)
        return None if found is MISSING else found

    def __repr__(self) -> str:
        return f"Field({self.name!r})"


def parse_names(texts: str | Iterable[str], argument: str = "key") -> tuple[str, ...]:
    r"""Return the names of fields that a command was given, each once: separated by commas, or several texts of them.

    Raises:
        ArgumentError: for a name that cannot be one.

    >>> parse_names(["host, alert", "k.labels.app"])
    ('host', 'alert', 'k.labels.app')
    """
    parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in re.split(r"(?<!\\),", text)]
    return tuple(dict.fromkeys(Field(part, argument).name for part in parts))


def _parse(name: Any, argument: str) -> tuple[Group, ...]:
    def refuse(expected: str) -> NoReturn:
        raise ArgumentError(argument, name, f"a field{expected}")

    if not isinstance(name, str) or not name.strip():
        refuse("'s name")
    text = re.sub(r"\\([.,\[\]])", lambda found: ESCAPED[found[1]], name.strip())
    if "," in text:
        refuse(r', such as "host", or a tuple of them ("host", "alert"); \, is a comma')
    first, *others = text.split("[]")
    groups = [first.split("."), *(other.split(".")[1:] for other in others)]
    if not first or first.startswith("$.") or INDEX.search(text) or any(other[:1] not in ("", ".") for other in others):
        refuse(', such as "host", "labels.app", "tags[].name": [] goes through a list')
    if not all(map(all, groups)):
        refuse(r' without an empty part: "labels.app"; \. is a dot of a name')
    return tuple(
        tuple((".".join(parts[at:]).translate(UNESCAPED), parts[at].translate(UNESCAPED)) for at in range(len(parts)))
        for parts in groups
    )


def find(value: Any, groups: Sequence[Group]) -> Any:
    """Return what `Field.groups` name in a value, or MISSING."""
    found = value
    for whole, head in groups[0]:
        found = value.get(whole, MISSING) if type(value) is dict else _access(value.__class__)(value, whole)
        if found is not MISSING or len(whole) == len(head):
            break
        value = value.get(head, MISSING) if type(value) is dict else _access(value.__class__)(value, head)
        if value is MISSING:
            return MISSING
    rest = groups[1:]
    if not rest or found is MISSING:
        return found
    if not isinstance(found, (list, tuple)):
        return MISSING
    items = [each for item in found if (each := find(item, rest)) is not MISSING and each is not None]
    if len(rest) > 1:
        items = [each for inner in items for each in inner]
    return items or MISSING


@lru_cache(maxsize=1024)
def _access(kind: type) -> Callable[[Any, str], Any]:
    """Return what looks a name up in values of a class."""
    if issubclass(kind, dict):
        return lambda value, name: dict.get(value, name, MISSING)
    if issubclass(kind, Mapping):
        return lambda value, name: value.get(name, MISSING)
    if hasattr(kind, "__getitem__") and (hasattr(kind, "keys") or hasattr(kind, "dtype")):
        return _item  # rows of databases and of frames
    return _nothing if kind.__module__ == "builtins" else _attribute


def _nothing(value: Any, name: str) -> Any:  # noqa: ARG001 - a number or a text has no fields
    return MISSING


def _item(value: Any, name: str) -> Any:
    try:
        return value[name]
    except (LookupError, TypeError, ValueError):
        return MISSING


def _attribute(value: Any, name: str) -> Any:
    found = getattr(value, name, MISSING)
    return MISSING if isinstance(found, ROUTINES) else found  # a method is no field


def members(event: Any) -> Any:
    """Return all fields of an event as a mapping; an event that has none as it is."""
    event = decode(event)
    kind = type(event)
    if isinstance(event, Mapping):
        return event
    if hasattr(kind, "keys"):
        return {name: event[name] for name in event.keys()}  # noqa: SIM118 - iterating may give values
    for names in ("_fields", "__struct_fields__", "__dataclass_fields__"):
        if hasattr(kind, names):
            return {name: getattr(event, name) for name in getattr(kind, names)}
    return {name: each for name, each in vars(event).items() if name[0] != "_"} if hasattr(event, "__dict__") else event


def without(value: Any, groups: Sequence[Group]) -> Any:
    """Return a mapping without the field that `Field.groups` name; the mapping itself, where it has none."""
    (level, *deeper), *rest = groups
    if not isinstance(value, Mapping):
        return value
    whole, head = level
    if whole in value:
        if not rest or not rest[0]:
            return {name: each for name, each in value.items() if name != whole}
        inner: Any = value[whole]
        if not isinstance(inner, (list, tuple)):
            return value
        items = [without(item, rest) for item in inner]
        return value if all(map(is_, items, inner)) else {**value, whole: items}
    if not deeper or head not in value:
        return value
    inner = without(value[head], (tuple(deeper), *rest))
    return value if inner is value[head] else {**value, head: inner}


def map_each(
    function: Callable[..., Any], items: Sequence[Any], error_class: type[RxCompactError], *constants: Any
) -> tuple[list[Any], Errors]:
    """Map each item, once; where it raises, None is in its place and the error, of that class, beside."""
    values: list[Any] = []
    errors: Errors = {}
    rest = iter(items)
    while len(values) < len(items):
        cause: BaseException = StopIteration()  # `extend` takes it for the end
        try:
            values.extend(map(function, rest, *map(repeat, constants)))  # keeps what came before an error
            if len(values) == len(items):
                break
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001 - a function of the caller's may raise anything
            cause = error
        errors[len(values)] = _caused(cause, error_class)
        values.append(None)
    return values, errors


def _caused(cause: BaseException, error_class: type[RxCompactError]) -> RxCompactError:
    if isinstance(cause, RxCompactError):
        # its frames hold all other errors of the chunk: a cycle, of which a bad body makes 100,000
        cause.__context__ = None
        return cause.with_traceback(None)
    text = type(cause).__name__
    with suppress(Exception):  # its own text may raise
        text += f": {cause}"
    error = error_class(text)
    error.__cause__ = cause
    return error


class Columns:
    """Reads fields of a chunk of events, a column a field; None where one is missing.

    Of each line of JSON these fields alone are decoded; the rest of it is checked for being JSON and UTF-8. A number
    that does not fit a double is an error only where it is read.

    Args:
        fields: Each with the type that most of its values have: other types cost a second look.
    """

    def __init__(self, fields: Sequence[tuple[Field, Any]]) -> None:
        self.fields = [field for field, _ in fields]
        self._flat = all(field.flat for field in self.fields)
        usual = {field.whole: kind for field, kind in fields}
        names = list(dict.fromkeys(name for field in self.fields for name in field.groups[0][0]))
        members = [attrgetter(f"f{number}") for number in range(len(names))]
        self._getters = [tuple(members[names.index(name)] for name in field.groups[0][0]) for field in self.fields]
        self._decode = self._decode_usual = None
        if all(map(can_be_member, names)):
            self._decode = members_decoder(dict.fromkeys(names, (Any, None if self._flat else MISSING)))
            if self._flat and all(usual[field.whole] == kind for field, kind in fields):
                self._decode_usual = members_decoder({name: (usual[name], None) for name in names})

    def read(self, events: Sequence[Any], error_class: type[RxCompactError]) -> Read:
        """Return the fields of a chunk."""
        if not events:
            return [()] * len(self.fields), {}, True
        try:
            columns, usual = self._all(events)
        except FATAL:
            raise
        except BaseException:  # noqa: BLE001 - of whichever event, and a property may raise anything
            rows, errors = map_each(self._row, events, error_class)
            nothing = [None] * len(self.fields)
            return list(zip(*(nothing if row is None else row for row in rows), strict=True)), errors, False
        return columns, {}, usual

    def _all(self, events: Sequence[Any]) -> tuple[list[Sequence[Any]], bool]:
        if not isinstance(events[0], TEXT):
            return self._objects(events), False
        lines = events if type(events[0]) is bytes else list(map(_utf8, events))
        if self._decode is None:
            return self._objects(list(map(decode, lines))), False
        if self._decode_usual is not None:
            try:
                return self._lines(self._decode_usual, lines), True
            except msgspec.ValidationError:  # a value of another type, or no object
                pass
        return self._lines(self._decode, lines), False

    def _lines(self, decode_line: Callable[[Any], Any], lines: Sequence[bytes]) -> list[Sequence[Any]]:
        if not all(map(bytes.isascii, lines)):
            for line in lines:
                line.decode()  # raises for what is no UTF-8, which is not noticed where it is skipped
        if self._flat and len(self.fields) == 1:
            return [[struct.f0 for struct in map(decode_line, lines)]]
        structs = list(map(decode_line, lines))
        return [self._column(structs, *each) for each in zip(self.fields, self._getters, strict=True)]

    def _column(self, structs: Sequence[Any], field: Field, getters: tuple[Callable[[Any], Any], ...]) -> Sequence[Any]:
        column: list[Any] = list(map(getters[0], structs))
        if self._flat:
            return column
        (_, *deeper), *rest = field.groups
        heads = map(getters[1], structs)
        for at, (found, head) in enumerate(zip(column, heads, strict=True)):
            if found is MISSING and deeper and head is not MISSING:
                found = find(head, (tuple(deeper), *rest))  # noqa: PLW2901
            elif found is not MISSING and rest:
                found = find(found, ((), *rest))  # noqa: PLW2901
            column[at] = None if found is MISSING else found
        return column

    def _objects(self, events: Sequence[Any]) -> list[Sequence[Any]]:
        try:
            return [
                list(map(dict.get, events, repeat(field.whole)) if field.flat else map(field, events))
                for field in self.fields
            ]
        except TypeError:  # not all are dicts
            return [list(map(field, events)) for field in self.fields]

    def _row(self, event: Any) -> list[Any]:
        try:
            return [column[0] for column in self._all((event,))[0]]
        except MALFORMED:
            decode(event)  # raises with the better message
            raise


def _utf8(line: Any) -> bytes:
    if not isinstance(line, TEXT):
        raise TypeError
    return line.encode() if isinstance(line, str) else bytes(line)
