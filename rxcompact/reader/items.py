"""Where the lists of events are in wrapper objects: ``{"Records": [...]}``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

from rxcompact.errors import ArgumentError
from rxcompact.fields import Field, Group, can_be_member, members_decoder, why_malformed
from rxcompact.reader.position import Malformed

LookUp: TypeAlias = Callable[[bytes], bytes | None]


class ItemsPath:
    """The path to the lists of events in a wrapper object.

    Args:
        path: A name as `Field` takes it; ``[]`` behind a list on the way:
            ``"resourceLogs[].scopeLogs[].logRecords[]"``. At the end it may be left out.

    Attributes:
        steps: For each list on the way what returns it, as JSON; `Malformed` where it is missing.

    Raises:
        ArgumentError: for a name that cannot be one.

    >>> [step(b'{"data": {"list": [1, 2]}}') for step in ItemsPath("data.list").steps]
    [b'[1, 2]']
    """

    def __init__(self, path: str) -> None:
        parts = path.strip().removesuffix("[]").split("[]")
        groups = Field("[]".join(parts), "items").groups
        if not all(groups) or not all(can_be_member(whole) for (whole, _), *_ in groups):
            raise ArgumentError("items", path, "a field, or a path such as 'streams[].values[]'")
        self.steps = [
            partial(_list_in, "[]".join(parts[:number]), _look_up(group)) for number, group in enumerate(groups, 1)
        ]


def _list_in(path: str, look_up: LookUp, value: bytes) -> bytes:
    try:
        found = look_up(value)
    except msgspec.ValidationError:  # not an object
        found = None
    except (msgspec.DecodeError, RecursionError) as error:
        return Malformed(value, why_malformed(error, value))
    return Malformed(value, f"no list {path!r}") if found is None or not found.startswith(b"[") else found


def _look_up(group: Group) -> LookUp:
    """Return what looks up a field, and decodes no other."""
    (whole, head), *rest = group
    decode = members_decoder(dict.fromkeys((whole, head), (msgspec.Raw, UNSET)))
    inner = _look_up(tuple(rest)) if rest else None

    def look_up(value: bytes) -> bytes | None:
        found: Any = decode(value)
        if found.f0 is not UNSET:
            return bytes(found.f0)
        return inner(bytes(found.f1)) if inner is not None and found.f1 is not UNSET else None

    return look_up
