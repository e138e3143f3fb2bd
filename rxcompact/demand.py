"""How a source that can wait learns when to."""

from __future__ import annotations

from typing import Protocol


class Demand(Protocol):
    """What the stages behind a source have room for."""

    def room(self) -> int:
        """Return how many events may be pushed now, whatever their keys."""
        ...

    async def wait(self) -> int:
        """Wait until there is room; return how much."""
        ...


class Unbounded:
    """Room for everything."""

    def room(self) -> int:
        return 1 << 62

    async def wait(self) -> int:
        return self.room()


UNBOUNDED = Unbounded()
