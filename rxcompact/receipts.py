"""What a durable source is owed: word of the end of all that it pushed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeAlias


class Receipt:
    """Word for the source of a message, given once: when every event of it has met its end.

    An event that is merged with others has the end of the one that survives. One that is abandoned, at a stop's
    deadline, has none, and its message is not settled: the source returns it to the broker.

    Args:
        settled: Called then, on the loop.
    """

    __slots__ = ("_holds", "_settled")

    def __init__(self, settled: Callable[[], object]) -> None:
        self._settled = settled
        self._holds = 0

    def hold(self) -> None:
        """Wait for one more."""
        self._holds += 1

    def release(self) -> None:
        """Wait for one less."""
        self._holds -= 1
        if not self._holds:
            self._settled()


class Receipted(list[Any]):
    """A chunk of events, such as those of one message, with the receipt for it.

    Args:
        events: The events.
        receipt: Settled when all of them have met their end.
    """

    def __init__(self, events: Iterable[Any], receipt: Receipt) -> None:
        super().__init__(events)
        self.receipt = receipt


Claims: TypeAlias = Sequence[tuple[Receipt, Iterable[Hashable]]]
"""Receipts, with the keys of a window that each waits for."""
