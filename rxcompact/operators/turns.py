"""Work in slices, with the loop's turn between them; events from any thread, gathered and emitted outside the lock."""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any

from rxcompact.clock import is_running
from rxcompact.errors import DecodeError
from rxcompact.events import Compacted, DeadLetter
from rxcompact.fields import decode

size_of = attrgetter("size")
SLICE = 1000
"""Events that are worked on at once, some milliseconds; then the loop has its turn."""
GATHERED = 1000
"""Items that do not wait for the scheduler's next turn."""
FAST, BYTES = 8, 256
"""Events that are made or looked through in the time that handing over one takes; bytes that are decoded in it."""


def decoded(
    window: Iterable[Compacted], found: list[Compacted], failed: Callable[[DeadLetter], object]
) -> Iterator[int]:
    """Decode raw events into a list, in steps of `Turns`; one that is not JSON has failed, with its duplicates."""
    for compacted in window:
        event = compacted.event
        size = len(event) if type(event) is bytes else 0
        count, first, last = compacted.count, compacted.first_seen, compacted.last_seen
        try:
            found.append(Compacted(compacted.key, decode(event), count, first, last, compacted.window, size))
        except DecodeError as error:
            failed(DeadLetter("failed", compacted.replace(size=size), "decode", error.reason, error))
        yield 1 + size // BYTES


def in_parts(events: list[Compacted], multiple: int, handle: Callable[[list[Compacted]], object]) -> Iterator[int]:
    """Have events handled in parts, in steps of `Turns`; all parts but the last are a multiple of a number long.

    They are removed from the list, so that they are not freed all at once.
    """
    until: Sequence[int] = range(1, len(events) + 1)  # how much work they are, each with all before it
    if max(map(size_of, events), default=0) > BYTES:  # what is published is encoded, and freed, at once
        until = list(accumulate(1 + size_of(each) // BYTES for each in events))
    start = before = 0
    while events:
        fitting = bisect(until, before + SLICE, start) - start
        number = min(max(1, fitting // multiple) * multiple, len(events))
        handle(events[:number])
        del events[:number]
        start += number
        yield until[start - 1] - before
        before = until[start - 1]


def step(action: Callable[[], object]) -> Iterator[int]:
    """Do something in its turn, which takes no time."""
    action()
    yield 0


class Turns:
    """Does work in order: at once what is little, of the rest a slice a turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = SLICE  # in this turn; where it is less, the next one is requested
        self._work: deque[Iterator[int]] = deque()
        self._working = False

    def add(self, work: Iterator[int]) -> None:
        """Do some work, after what was added before; each step yields how many events it was as much work as."""
        if not is_running(self._loop):
            self._loop.call_soon_threadsafe(self.add, work)
            return
        self._work.append(work)
        if not self._working:
            self._turn()

    def _next(self) -> None:
        self._left = SLICE
        if self._work:
            self._turn()

    def _turn(self) -> None:
        self._working, left = True, self._left
        if left == SLICE:
            self._loop.call_soon(self._next)
        try:
            while self._work and left > 0:
                for events in self._work[0]:
                    left -= events
                    if left <= 0:
                        return
                self._work.popleft()
        except BaseException:
            self._work.popleft()
            raise
        finally:
            self._left, self._working = left, bool(self._work)

    async def wait(self) -> None:
        """Wait until all is done."""
        while self._working:  # noqa: ASYNC110 - nothing else is waited for
            await asyncio.sleep(0)


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
