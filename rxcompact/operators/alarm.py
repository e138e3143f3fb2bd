"""One timer for the earliest of many instants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from rxcompact.operators.job import Job

INFINITY = float("inf")
TICK = 1e-6
"""Timers count in microseconds: what is due in less than one is due."""
SPARE = 64


class Alarm:
    """Calls a function at the earliest instant it is set to: what is early enough already costs a comparison.

    Args:
        loop: Its ``time()`` is meant.
        ring: Does what is due, and returns the next instant at which something is; infinity for none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], float]) -> None:
        self._loop = loop
        self._ring = ring
        self._at = INFINITY
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        """Ring at this instant, if not before."""
        if at < self._at:
            self.cancel()
            self._at = at
            self._timer = self._loop.call_at(at, self._wake)

    def cancel(self) -> None:
        """Do not ring."""
        self._at = INFINITY
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._at = INFINITY
        self.set(self._ring())


class Deadlines:
    """Queued jobs by deadline. They are sorted when the first is due, which most never are."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Job[Any]]] = []
        self._fresh: list[tuple[float, int, Job[Any]]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._heap) + len(self._fresh)

    def add(self, job: Job[Any], deadline: float, queued: int) -> None:
        """Remember a job; ``queued`` is how many there are, so that those which left the queue can be forgotten."""
        self._fresh.append((deadline, next(self._numbers), job))
        if len(self) > 2 * queued + SPARE:
            self._heap = [entry for entry in (*self._heap, *self._fresh) if entry[2].queued]
            self._fresh.clear()
            heapify(self._heap)

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self._fresh.clear()

    def due(self, now: float) -> Iterator[Job[Any]]:
        """Yield the queued jobs whose deadline has come, and forget them."""
        for entry in self._fresh:
            heappush(self._heap, entry)
        self._fresh.clear()
        while self._heap and (self._heap[0][0] <= now or not self._heap[0][2].queued):
            _, _, job = heappop(self._heap)
            if job.queued:
                yield job

    def next(self) -> float:
        """Return the earliest deadline, of those that `due` looked at or that came since."""
        fresh = min(self._fresh)[0] if self._fresh else INFINITY
        return min(fresh, self._heap[0][0] if self._heap else INFINITY)
