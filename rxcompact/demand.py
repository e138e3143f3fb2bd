"""How a source learns what the stages behind it have room for, and what became of what it pushed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rxcompact.events import DeadLetter
from rxcompact.signals import Account


class Demand(Protocol):
    """What the stages behind a source have room for."""

    @property
    def limit(self) -> int:
        """Distinct events that can be held at all."""
        ...

    @property
    def refusals(self) -> Sequence[DeadLetter]:
        """What was rejected at the door of the chunk pushed last."""
        ...

    def room(self) -> int:
        """Return how many events may be pushed now, whatever their keys."""
        ...

    def admits(self, chunk: Sequence[Any]) -> bool:
        """Tell whether there is room for a chunk; duplicates of what is held need none."""
        ...

    async def wait(self) -> int:
        """Wait until there is room; return how much."""
        ...

    def account(self) -> Account:
        """Return what came in and what became of it."""
        ...


class Unbounded:
    """Room for everything."""

    limit = 1 << 62
    refusals: Sequence[DeadLetter] = ()

    def room(self) -> int:
        return self.limit

    def admits(self, chunk: Sequence[Any]) -> bool:
        return len(chunk) <= self.limit

    async def wait(self) -> int:
        return self.limit

    def account(self) -> Account:
        return Account()


UNBOUNDED: Demand = Unbounded()
