"""What the caller of `compact` asked for, checked."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from rxcompact.contracts import Overflow
from rxcompact.errors import ArgumentError
from rxcompact.operators.bucket import FIELDS, Field, Keep

Mapper: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller of `compact` asked for."""

    timespan: float
    key_mapper: Mapper
    count: int | None
    keep: Keep
    fields: Collection[Field]
    time_mapper: Mapper | None
    lateness: float | None
    tolerance: float
    room: Callable[[], int] | None
    overflow: Overflow

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ArgumentError("count", self.count, "at least 1")
        if isinstance(self.keep, str) and self.keep not in ("first", "last"):
            raise ArgumentError("keep", self.keep, '"first", "last" or a function')
        if self.lateness is not None and self.time_mapper is None:
            raise ArgumentError("time_mapper", self.time_mapper, "given where lateness is")
        if unknown := set(self.fields) - set(FIELDS):
            raise ArgumentError("fields", unknown, f"of {FIELDS}")
        if self.overflow not in get_args(Overflow):
            raise ArgumentError("overflow", self.overflow, f"of {get_args(Overflow)}")
