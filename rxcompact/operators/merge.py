"""merge: an accumulator that merges fields of the events of a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import reduce
from operator import add
from typing import Any

from rxcompact.errors import ArgumentError
from rxcompact.fields import Field, decode, find, members, replaced
from rxcompact.keys import json_key, plain

MAX_DISTINCT = 100
"""Values of a field that are listed."""
NUMBERS = (int, float, Decimal)


def _sum(old: Any, new: Any) -> Any:
    values = [value for value in (old, new) if value is not None]
    for value in values:
        if not isinstance(value, NUMBERS) or isinstance(value, bool):
            raise TypeError(f"a {type(value).__name__} is no number")
    return reduce(add, values) if values else None


def _one_of(choose: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda old, new: new if old is None else old if new is None else choose(old, new)


def _distinct(old: Any, new: Any) -> Any:
    if isinstance(old, list) and (len(old) >= MAX_DISTINCT or new is None or (type(new) is str and new in old)):
        return old
    found: dict[Any, Any] = {}
    for values in (old, new):
        for value in values if isinstance(values, list) else (values,):
            if value is not None and len(found) < MAX_DISTINCT:
                found.setdefault(json_key(value), value)
    return list(found.values()) or None


MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "sum": _sum, "min": _one_of(min), "max": _one_of(max), "first": _one_of(lambda old, _: old),
    "last": _one_of(lambda _, new: new), "distinct": _distinct,
}  # fmt: skip


class merge:  # noqa: N801 - it is called as a function is
    """Accumulator for ``compact(keep=…)`` that merges fields, see `Field`, of a key's events.

    Args:
        fields: What becomes of fields whose names are no Python names: ``{"http.bytes": "sum"}``.
        named: What becomes of the others: ``"sum"``, ``"min"``, ``"max"``, ``"first"``, ``"last"``, or ``"distinct"``,
            a list of up to 100 different values, and of those in lists. A field that is missing changes nothing.

    The other fields are those of the first event. A line of JSON, and an object, become a dict. An event with a value
    that cannot be merged, such as a text to be summed, is a dead letter.

    Raises:
        ArgumentError: for a name that is invalid or has ``[]``, and for an unknown kind.

    >>> merge(bytes="sum", host="distinct")(b'{"id": 1, "bytes": 5, "host": "a"}', b'{"bytes": 7, "host": "b"}')
    {'id': 1, 'bytes': 12, 'host': ['a', 'b']}
    """

    def __init__(self, fields: Mapping[str, str] | None = None, /, **named: str) -> None:
        self._merges: list[tuple[Field, Callable[[Any, Any], Any]]] = []
        for name, kind in {**(fields or {}), **named}.items():
            field = Field(name, "merge")
            if kind not in MERGES or len(field.groups) > 1:
                raise ArgumentError("merge", f"{name}={kind}", f"a field without [], and one of {', '.join(MERGES)}")
            self._merges.append((field, MERGES[kind]))

    def seed(self, event: Any) -> Any:
        """Return what it begins with, of a key's first event."""
        event = members(event)
        return self._merged(event, event, is_first=True)

    def __call__(self, kept: Any, event: Any) -> Any:
        """Return an event with the merged fields of both, and all other fields of the first."""
        return self._merged(members(kept), decode(event), is_first=False)

    def _merged(self, kept: Any, event: Any, *, is_first: bool) -> Any:
        for field, merged in self._merges:
            old, new = find(kept, field.groups), plain(find(event, field.groups))
            value = merged(None if is_first else old, new)
            if value is not old:
                kept = replaced(kept, field.groups[0], value)
        return kept
