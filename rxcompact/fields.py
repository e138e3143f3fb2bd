"""Fields of events: what a name means in a mapping, in an object and in a JSON line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, repeat
from operator import attrgetter, is_
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType
from typing import Any, TypeAlias, TypedDict

import msgspec

from rxcompact.errors import ArgumentError, DecodeError, RxCompactError
from rxcompact.format import error_text

Group: TypeAlias = tuple[tuple[str, str], ...]
"""Of a name without ``[]``, at each level: all that is left of it, and that up to its first dot."""
Errors: TypeAlias = dict[int, RxCompactError]
"""Of a chunk: the positions of the events of which something cannot be read, and why."""

MISSING: Any = msgspec.UNSET
FATAL = (KeyboardInterrupt, SystemExit)
TEXT = (bytes, str, bytearray, memoryview)
MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError)
ROUTINES = (MethodType, FunctionType, BuiltinFunctionType, MethodWrapperType)
# `\.` is a dot of the name, and so on; noncharacters stand for these while the rest is split
ESCAPED = {".": "\ufdd0", ",": "\ufdd1", "[": "\ufdd2", "]": "\ufdd3"}
UNESCAPED = {ord(stand_in): mark for mark, stand_in in ESCAPED.items()}
INDEX = re.compile(r"\[(-?[0-9]+|\*|\?.*|'.*'|\".*\"|:)\]")
EXPECTED = r'a field, such as "host", "labels.app", "tags[].name", or a tuple of them; \. \, \[ are part of a name'

_decode = msgspec.json.Decoder().decode


def decode(line: Any) -> dict[str, Any]:
    """Decode a line of JSON, bytes or text, in full, or raise DecodeError; anything else is returned as it is."""
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
    if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):
        try:
            bytes(line).decode()
        except UnicodeDecodeError as found:
            return f"invalid UTF-8 (byte {found.start})"
    return "half a surrogate pair" if isinstance(error, UnicodeEncodeError) else str(error)


def members_decoder(members: Mapping[str, tuple[Any, Any]]) -> msgspec.json.Decoder[Any] | None:
    """Return what decodes of a JSON object these members alone, as ``f0``, ``f1``, …; each has a type and a default.

    None for names that JSON escapes.
    """
    if not all(name.isprintable() and '"' not in name and "\\" not in name for name in members):
        return None
    fields = [(f"f{number}", *member) for number, member in enumerate(members.values())]
    names = {f"f{number}": name for number, name in enumerate(members)}
    return msgspec.json.Decoder(msgspec.defstruct("Members", fields, rename=names, gc=False))


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

    >>> Field("tags[].n")(b'{"tags": [{"n": 1}, {"n": 2}]}')
    [1, 2]
    """

    __slots__ = ("flat", "groups", "name", "whole")

    def __init__(self, name: str, argument: str = "field") -> None:
        self.groups = _parse(name, argument)  # the parts of the name between ``[]``
        self.name = name.strip()
        self.whole = self.groups[0][0][0]
        self.flat = len(self.groups) == len(self.groups[0]) == 1
        """Whether the name is looked up whole alone: no dot, no ``[]``."""

    def __call__(self, event: Any) -> Any:
        if type(event) is not dict:
            event = decode(event)
            if _access(event.__class__) is _nothing:
                raise DecodeError(f"not an object but {type(event).__name__}")
        return find(event, self.groups)

    def __repr__(self) -> str:
        return f"Field({self.name!r})"


def parse_names(texts: str | Iterable[str], argument: str = "key") -> tuple[str, ...]:
    """Return the names of fields that a command was given, each once: separated by commas, or several texts of them."""
    parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in re.split(r"(?<!\\),", text)]
    return tuple(dict.fromkeys(Field(part, argument).name for part in parts))


def _parse(name: Any, argument: str) -> tuple[Group, ...]:
    text = re.sub(r"\\([.,\[\]])", lambda found: ESCAPED[found[1]], name.strip()) if isinstance(name, str) else ""
    first, *others = text.split("[]")
    groups = [first.split("."), *(other.split(".")[1:] for other in others)]
    wrong = "," in text or text.startswith("$.") or INDEX.search(text) or not all(map(all, groups))
    if wrong or any(other[:1] not in ("", ".") for other in others):
        raise ArgumentError(argument, name, EXPECTED)
    return tuple(
        tuple((".".join(parts[at:]).translate(UNESCAPED), parts[at].translate(UNESCAPED)) for at in range(len(parts)))
        for parts in groups
    )


def find(value: Any, groups: Sequence[Group]) -> Any:
    """Return what `Field.groups` name in a value; None where it is missing."""
    found = value
    for whole, head in groups[0]:
        get: Callable[..., Any] = dict.get if type(value) is dict else _access(value.__class__)
        found = get(value, whole, MISSING)
        if found is not MISSING:
            break
        value = get(value, head, MISSING)
        if value is MISSING:
            return None
    rest = groups[1:]
    if not rest:
        return found
    items = [find(item, rest) for item in found] if isinstance(found, (list, tuple)) else []
    items = [item for item in items if item is not None]
    return (list(chain.from_iterable(items)) if len(rest) > 1 else items) or None


@lru_cache(maxsize=1024)
def _access(kind: type) -> Callable[[Any, str, Any], Any]:
    """Return what looks a name up in values of a class, with a default."""
    if issubclass(kind, Mapping):
        return kind.get
    if hasattr(kind, "__getitem__") and (hasattr(kind, "keys") or hasattr(kind, "dtype")):
        return _item  # rows of databases and of frames
    return _nothing if kind.__module__ == "builtins" else _attribute


def _nothing(value: Any, name: str, default: Any) -> Any:  # noqa: ARG001 - a number or a text has no fields
    return default


def _item(value: Any, name: str, default: Any) -> Any:
    try:
        return value[name]
    except (LookupError, TypeError, ValueError):
        return default


def _attribute(value: Any, name: str, default: Any) -> Any:
    found = getattr(value, name, default)
    return default if isinstance(found, ROUTINES) else found  # a method is no field


def members(event: Any) -> Any:
    """Return all fields of an event as a mapping; an event that has none as it is."""
    event = decode(event)
    kind: Any = type(event)
    if isinstance(event, Mapping):
        return event
    if hasattr(kind, "keys"):
        return {name: event[name] for name in event.keys()}  # noqa: SIM118 - iterating may give values
    # of slots only where an object is equal to itself alone
    slots = "__slots__" if kind.__eq__ is object.__eq__ else "_fields"
    for names in ("_fields", "__struct_fields__", "__dataclass_fields__", slots):
        if hasattr(kind, names):
            return {name: getattr(event, name) for name in getattr(kind, names)}
    return {name: each for name, each in vars(event).items() if name[0] != "_"} if hasattr(event, "__dict__") else event


def without(value: Any, groups: Sequence[Group]) -> Any:
    """Return a mapping without the field that `Field.groups` name; the mapping itself, where it has none."""
    ((whole, head), *deeper), *rest = groups
    if not isinstance(value, Mapping) or (whole not in value and head not in value):
        return value
    if whole not in value:
        inner = without(value[head], (tuple(deeper), *rest))
        return value if inner is value[head] else {**value, head: inner}
    if not rest or not rest[0]:
        return {name: each for name, each in value.items() if name != whole}
    items = value[whole]
    if not isinstance(items, (list, tuple)):
        return value
    fewer = [without(item, rest) for item in items]
    return value if all(map(is_, fewer, items)) else {**value, whole: fewer}


def replaced(value: Mapping[str, Any], level: Group, new: Any) -> dict[str, Any]:
    """Return a mapping with another value for the field that a name without ``[]`` names."""
    (whole, head), *deeper = level
    inner = value.get(head)
    if whole not in value and isinstance(inner, Mapping):
        return {**value, head: replaced(inner, tuple(deeper), new)}
    return {**value, whole: new}


def map_each(
    function: Callable[[Any], Any], items: Iterable[Any], error_class: type[RxCompactError]
) -> tuple[list[Any], Errors]:
    """Map each item, once; where it raises, None is in its place and the error, of that class, beside."""
    values: list[Any] = []
    errors: Errors = {}
    for item in items:
        try:
            values.append(function(item))
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001 - a function of the caller's may raise anything
            if isinstance(error, RxCompactError):
                # its frames hold all other errors of the chunk: a cycle, of which a bad body makes 100,000
                error.__context__ = None
                errors[len(values)] = error.with_traceback(None)
            else:
                errors[len(values)] = found = error_class(error_text(error))
                found.__cause__ = error
                del found
            values.append(None)
    return values, errors


class Columns:
    """Reads fields of a chunk of events, a column a field; None where one is missing.

    Of each line of JSON these fields alone are decoded; the rest of it is checked for being JSON and UTF-8. Each field
    has the type that most of its values have: other types cost a second look.
    """

    def __init__(self, fields: Sequence[tuple[Field, Any]]) -> None:
        self.fields = [field for field, _ in fields]
        names = dict.fromkeys(chain.from_iterable(field.groups[0][0] for field in self.fields), Any)
        # msgspec looks for names of ASCII alone
        members: Any = TypedDict("Members", names, total=False) if all(map(str.isascii, names)) else dict[str, Any]  # type: ignore[operator]
        self._decode = msgspec.json.Decoder(members)
        self._decode_usual: Any = None  # into structs, which takes less, where no name leads into an object
        self._typed = any(kind is not Any for _, kind in fields)
        if all(field.flat for field in self.fields):
            kinds = {field.whole: (kind, None) for field, kind in reversed(fields)}
            self._decode_usual = members_decoder(kinds)
            self._columns = [attrgetter(f"f{list(kinds).index(field.whole)}") for field in self.fields]

    def read(
        self, events: Sequence[Any], error_class: type[RxCompactError]
    ) -> tuple[list[Sequence[Any]], Errors, bool]:
        """Return the columns of a chunk, its errors, and whether all values are of the types that they usually have."""
        if not events:
            return [()] * len(self.fields), {}, True
        try:
            columns, usual = self._all(events)
        except FATAL:
            raise
        except BaseException:  # noqa: BLE001 - of whichever event, and a property may raise anything
            rows, errors = map_each(self._row, events, error_class)
            nothing = [None] * len(self.fields)
            return list(zip(*(row or nothing for row in rows), strict=True)), errors, False
        return columns, {}, usual

    def _all(self, events: Sequence[Any]) -> tuple[list[Sequence[Any]], bool]:
        if isinstance(events[0], TEXT):
            text: memoryview | None = getattr(events, "text", None)
            lines = events if type(events[0]) is bytes else list(map(_utf8, events))
            if text is None and not all(map(bytes.isascii, lines)):
                for line in lines:
                    line.decode()  # raises for what is no UTF-8, which is not noticed where it is skipped
            if self._decode_usual is not None:
                with suppress(msgspec.ValidationError):  # a value of another type, or no object
                    return self._columns_of(_decoded(self._decode_usual, lines, text)), self._typed
            events = list(_decoded(self._decode, lines, text))
        return [_values(field, events) for field in self.fields], False

    def _columns_of(self, structs: Iterable[Any]) -> list[Sequence[Any]]:
        if len(self.fields) == 1:
            return [[struct.f0 for struct in structs]]
        structs = list(structs)
        return [list(map(column, structs)) for column in self._columns]

    def _row(self, event: Any) -> list[Any]:
        try:
            return [column[0] for column in self._all((event,))[0]]
        except MALFORMED:
            decode(event)  # raises with the better message
            raise


def _values(field: Field, events: Sequence[Any]) -> list[Any]:
    if field.flat:
        with suppress(TypeError):  # not all are dicts
            return list(map(dict.get, events, repeat(field.whole)))
    elif set(map(type, events)) == {dict}:
        return [find(event, field.groups) for event in events]
    return list(map(field, events))


def _decoded(decoder: msgspec.json.Decoder[Any], lines: Sequence[bytes], text: memoryview | None) -> Iterable[Any]:
    """Return what lines are decoded to, decoded at once where they have a text, in three quarters of the time."""
    if text is None:
        return map(decoder.decode, lines)
    structs = decoder.decode_lines(text)
    if len(structs) != len(lines):
        raise msgspec.DecodeError(f"{len(structs)} values in {len(lines)} lines")
    return structs


def _utf8(line: Any) -> bytes:
    if not isinstance(line, TEXT):
        raise TypeError
    return line.encode() if isinstance(line, str) else bytes(line)
