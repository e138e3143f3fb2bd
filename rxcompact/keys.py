"""Values as keys and as JSON: what makes two values one key, and one text in every process."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Hashable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from math import isfinite
from operator import eq
from os import PathLike, fspath
from typing import Any

import msgspec

from rxcompact.errors import DecodeError, KeyMapperError

NONE = type(None)
NUMBERS = {int, float, bool}
LIMIT = 1 << 60
"""Of the integers that are keys as they are. Python hashes modulo 2**61 - 1: a sender could choose larger ones that all
hash alike, and every look-up would cost as much as there are keys."""
MAX_LENGTH = 65_536  # characters of a key
MISSING_TYPES = {"NAType", "NaTType"}  # names of the types of pandas' missing values
CONVERSIONS = (("as_py", ""), ("to_pydatetime", "nanosecond"), ("to_pytimedelta", "nanoseconds"))
"""Of scalars of Arrow and pandas, unless they have what Python's cannot hold."""
CONVERTERS = ("isoformat", "tolist", "to_list", "to_pylist", "model_dump", "item")
"""Of values of numpy, pandas, polars, Arrow and pydantic."""


class Json(msgspec.Struct, frozen=True, gc=False):
    """The JSON of a key that Python would take for another, or cannot hash: a boolean, a float, an array and so on."""

    text: str

    def __str__(self) -> str:
        return self.text


def json_key(value: Any) -> Hashable:
    """Return the value of a field as a key: 1, 1.0, true and "1" are four keys; what is missing, and NaN, is None.

    A value that JSON has no form for, such as a date, is a key as it is.

    Raises:
        DecodeError: when it is nested too deeply.
        KeyMapperError: when it is longer than 65,536 characters.
        TypeError: when it can neither be hashed nor written as JSON.
    """
    kind = type(value)
    if value is None or (kind is int and -LIMIT <= value <= LIMIT):
        return value  # type: ignore[no-any-return]
    if kind is int:
        value = Json(str(value))
    elif isinstance(value, (bool, list, tuple, dict)) or (kind is float and isfinite(value)):
        value = Json(_canonical(value))
    elif kind is not str and (simple := plain(value)) is not value:
        return json_key(simple)
    elif kind.__hash__ is None:
        value = Json(_canonical(value))
    elif kind is not str:
        return _usable(value)
    text = value.text if type(value) is Json else value
    if type(text) is str and len(text) > MAX_LENGTH:
        raise KeyMapperError(f"a key of {len(text)} characters: at most {MAX_LENGTH}")
    return value  # type: ignore[no-any-return]


def are_texts(values: Sequence[Any]) -> bool:
    """Return whether all values are texts that are keys as they are."""
    if list(map(type, values)).count(str) != len(values):
        return False
    # joining all is faster than looking at the length of each, which is done where they are too long together
    return len("".join(values)) <= MAX_LENGTH or max(map(len, values)) <= MAX_LENGTH


def json_value(key: Any) -> Any:
    """Return the JSON value of a key."""
    if type(key) is str:
        return key
    if isinstance(key, Json):
        return msgspec.json.decode(key.text)
    return [json_value(part) for part in key] if isinstance(key, tuple) else key


def plain(value: Any) -> Any:
    """Return a scalar of numpy, pandas, Arrow or an enumeration as Python's own; None where it means missing.

    Anything else is returned as it is. None of these is imported: they are known by what they have.
    """
    kind = type(value)
    if kind.__name__ in MISSING_TYPES:
        return None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str.__str__(value)
    if hasattr(kind, "dtype") and hasattr(kind, "tolist"):
        value = _numpy(value)
    elif isinstance(value, (int, float)):
        value = value if kind in NUMBERS else int(value) if isinstance(value, int) else float(value)
    for name, finer in CONVERSIONS:
        if hasattr(kind, name) and not getattr(value, finer, 0):
            value = getattr(value, name)()
    try:
        return None if value != value else value  # noqa: PLR0124 - so are NaN and a decimal one known
    except Exception:  # noqa: BLE001 - of an array, or of a class of the caller's
        return value


def _numpy(value: Any) -> Any:
    if value.dtype.kind in "mM" and not value.shape:
        exact = value.astype(f"{value.dtype.kind}8[us]")
        return exact.tolist() if exact == value or value != value else str(value)  # noqa: PLR0124 - NaT
    return value.tolist()


def json_form(value: Any) -> Any:
    """Return a value that msgspec does not encode as one that it does, or raise TypeError."""
    if value is None or value is True or value is False:  # names of an object's members
        return msgspec.json.encode(value).decode()
    if (simple := plain(value)) is not value and (simple is None or not hasattr(value, "isoformat")):
        return simple
    for name in CONVERTERS:
        if callable(converter := getattr(value, name, None)):
            return converter()
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Collection):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _key_form(value: Any) -> Any:
    return json_form(value) if (simple := plain(value)) is value else simple


_encode = msgspec.json.Encoder(order="sorted", enc_hook=_key_form).encode


def _canonical(value: Any) -> str:
    try:
        return _encode(value).decode()
    except RecursionError:
        raise DecodeError("nested too deeply") from None


def plain_key(key: Any) -> Hashable:
    """Return what a function gave as a key: as it is, but for what is missing, and for scalars of numpy and others."""
    if type(key) is tuple:
        return tuple(map(plain_key, key))
    if inspect.iscoroutine(key):
        key.close()
        raise KeyMapperError("a coroutine: a key mapper returns the key at once")
    return _usable(plain(key))


def _usable(key: Any) -> Hashable:
    """Return a key whose own methods do not raise, or raise what they do."""
    hash(key)
    eq(key, key)
    return key  # type: ignore[no-any-return]


def stable(value: object) -> str:
    """Return a text that is the same in every process for keys that are equal; those of 1, 1.0 and True differ."""
    kind = type(value)
    if kind is str or value is None:
        return repr(value)
    if isinstance(value, (tuple, Json)):
        return "(" + ",".join(map(stable, (value.text,) if isinstance(value, Json) else value)) + ",)"
    if isinstance(value, frozenset):
        return "{" + ",".join(sorted(map(stable, value))) + "}"
    value = value if kind in NUMBERS else plain(value)
    if type(value) is int:
        return hex(value)  # repr raises for many digits
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    return repr(value)


encoder = msgspec.json.Encoder(enc_hook=json_form, decimal_format="number")  # of events
