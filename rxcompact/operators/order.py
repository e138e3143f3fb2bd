"""Puts what finishes in any order back into the order in which it began."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from rxcompact.events import Compacted
from rxcompact.operators.job import Entry


class InOrder:
    """Emits results in order of entry; each waits for all before it to leave, with a result or without."""

    __slots__ = ("_emit", "_left", "_line")

    def __init__(self, emit: Callable[[Compacted], object]) -> None:
        self._emit = emit
        self._line: deque[Entry] = deque()
        self._left: dict[Entry, Compacted | None] = {}

    def __len__(self) -> int:
        """Return how many results wait for one before them."""
        return sum(result is not None for result in self._left.values())

    def waiting(self) -> list[Compacted]:
        """Return the results that wait for one before them."""
        return [result for result in self._left.values() if result is not None]

    def enter(self, entry: Entry) -> None:
        """Stand in line."""
        self._line.append(entry)

    def leave(self, entry: Entry, result: Any = None) -> None:
        """Leave with a result, or without one."""
        self._left[entry] = result
        while self._line and self._line[0] in self._left:
            result = self._left.pop(self._line.popleft())
            if result is not None:
                self._emit(result)
