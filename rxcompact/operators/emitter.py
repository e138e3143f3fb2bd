"""Events from any thread: gathered, worked on by one thread at a time, and emitted outside the lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

GATHERED = 1000
"""Items that do not wait for the scheduler's next turn."""


class SerializedEmitter:
    """Lets one thread work at a time, and emits what the work put into ``pending`` outside the lock.

    A slow observer holds up the thread that is calling it and no other: a second thread leaves its emissions to the
    first.
    """

    def __init__(self) -> None:
        self.pending: deque[Callable[[], object]] = deque()
        self._working = threading.RLock()
        self._emitting = threading.Lock()

    def run(self, work: Callable[[], object], then: Callable[[], object] | None = None) -> None:
        """Do some work under the lock, then emit outside it, ``then`` last.

        Raises:
            Exception: the first one that an observer raised, when all the others have been called.
        """
        with self._working:
            work()
            if then is not None:
                self.pending.append(then)
        failed: Exception | None = None
        # once more when the lock is free again: another thread may have left something just before
        while self.pending and self._emitting.acquire(blocking=False):
            try:
                while self.pending:
                    try:
                        self.pending.popleft()()
                    except Exception as error:  # noqa: BLE001 - raised below
                        failed = failed or error
            finally:
                self._emitting.release()
        if failed is not None:
            raise failed


class Gather:
    """Gathers items from any thread into chunks, at the cost of an append each.

    Args:
        call_soon: Calls a function in the scheduler's next turn.
        ready: Called in that turn when there are items, and at once when there are ``size`` of them; it takes them.
    """

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], ready: Callable[[], None], *, size: float = GATHERED
    ) -> None:
        self._call_soon, self._ready, self._size = call_soon, ready, size
        self._items: list[Any] = []
        self._threshold: float = 1  # 1 while no turn is requested

    def add(self, item: Any) -> None:
        items = self._items
        items.append(item)
        if len(items) < self._threshold:
            return
        if self._threshold == 1:
            self._threshold = self._size
            self._call_soon(self._on_turn)
        else:
            self._ready()

    def _on_turn(self) -> None:
        self._threshold = 1  # before the items are taken: what is added from here on requests another turn
        self._ready()

    def take(self) -> list[Any]:
        """Return the items; by one thread at a time."""
        items = self._items
        taken = items[:]
        del items[: len(taken)]
        return taken
