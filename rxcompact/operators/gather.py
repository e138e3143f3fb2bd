"""Single items gathered into chunks, at the cost of an append each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SIZE = 1000


class Gather:
    """Takes items from any thread; has them taken, many at once, by who owns it.

    Args:
        soon: Calls a function in the scheduler's next turn.
        ready: Called in that turn when items came, and when so many came that they cannot wait for it. It takes them.
        size: How many that is.
    """

    __slots__ = ("_due", "_items", "_ready", "_size", "_soon")

    def __init__(
        self, soon: Callable[[Callable[[], None]], object], ready: Callable[[], None], *, size: float = SIZE
    ) -> None:
        self._soon = soon
        self._ready = ready
        self._size = size
        self._items: list[Any] = []
        self._due: float = 1  # length from which on something is to be done: 1 while no turn is asked for

    def add(self, item: Any) -> None:
        """Take an item."""
        items = self._items
        items.append(item)
        if len(items) >= self._due:
            self._act()

    def _act(self) -> None:
        if self._due == 1:
            self._due = self._size
            self._soon(self._turn)
        else:
            self._ready()

    def _turn(self) -> None:
        self._due = 1  # before the items are taken: who adds from here on asks for another turn
        self._ready()

    def take(self) -> list[Any]:
        """Return what came; by one thread at a time."""
        items = self._items
        taken = items[:]
        del items[: len(taken)]
        return taken
