"""What is held for one service: a circuit breaker while it is down, and a rate while it is called too often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from rxcompact.clock import INFINITY, TICK

if TYPE_CHECKING:
    from rxcompact.operators.jobs import Job

Place: TypeAlias = "tuple[float, int, Job]"
"""Of a job in a queue: by deadline, or in order."""
FAILURES, WITHIN = 12, 5.0
"""In a row, and seconds: so many in so few open the breaker. Fewer are no more than the probes it would send."""
SILENCE = 4
"""Failures that a call counts for which was not answered in its time: three of them open it."""
PAUSE, LONGEST = 1.0, 1.25
"""Seconds between probes, at first and later: full speed within two of the service's return is the promise."""
FASTER, SLOWER, FORGET = 1.1, 0.7, 60.0
"""How the rate for a service that limits it grows each second, and falls at a limit; the longest that it is held for,
and remembered after, seconds."""


class Service:
    """Holds jobs, and lets them go one by one; while it is down those whose deadline leaves the time for an answer.

    Its breaker opens when calls fail in a row. Each answer then lets two more go, so that they double with each round
    trip; it closes when as many were answered as may be under way at once, or nothing is held.

    When it asks to wait twice in a row, all wait; then calls go evenly, as many a second as it answered before, and
    each second more, until it asks again.

    Attributes:
        opened: When the breaker opened; None while it is closed.
        lost: What its stage had lost then.
        successes: Answers since, less failures.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, release: Callable[[Job], None], most: int, since: float, answers: int
    ) -> None:
        self._loop, self._release, self._most = loop, release, most
        self.opened: float | None = None
        self.lost = self.successes = 0
        self._error: BaseException | None = None  # the failure that opened it
        self._failures, self._first = 0, -INFINITY  # in a row, and when the first was, or the last without an answer
        self._since, self._answers = since, answers  # how many there were since an instant
        self._limits, self._rate = 0, INFINITY  # in a row, and calls a second
        self._limited_until = self._next = -INFINITY  # minus infinity where it never asked; when the next call may go
        self._queue: list[Place] = []  # a heap; some may have expired
        self._timer: asyncio.TimerHandle | None = None

    def holds(self, place: Place) -> bool:
        """Have a job wait, unless it may go."""
        job, now = place[2], self._loop.time()
        if job.released or (self.opened is None and self._limited_until == -INFINITY):
            return False
        while self._queue and not self._queue[0][2].held:
            heappop(self._queue)
        if not self._queue and self._next <= now + TICK:
            self._advance(now)
            return False
        job.held, job.error = True, job.error or self._error
        heappush(self._queue, place)
        self._arm()
        return True

    def failed(self, error: BaseException, silent: float = 0.0) -> bool:
        """Note a failure, after seconds without an answer; return whether the service is down from now on."""
        now = self._loop.time()
        self._answers += not silent
        is_first = now - silent >= self._first + WITHIN
        self._failures = (0 if is_first else self._failures) + (SILENCE if silent else 1)
        if is_first or silent:
            self._first = now
        self.successes = max(0, self.successes - 1)
        if self.successes:  # as many as before
            self._pop()
        if self.opened is not None or self._failures < FAILURES:
            return False
        self.opened, self._error = now, error
        self._next = max(self._next, now + PAUSE)
        return True

    def limited(self, asked: float) -> None:
        """Note that the service asked to wait, seconds; the first time it may mean one event alone."""
        now = self._loop.time()
        self._limits += 1
        if self._limits > 1 or self._limited_until > -INFINITY:
            if now >= self._limited_until and self._rate < INFINITY:  # not of the wave before
                self._rate = SLOWER * self._rate_at(now)
            self._limited_until = max(self._limited_until, now + min(asked, FORGET))
        self._next = max(self._next, self._limited_until)

    def succeeded(self) -> bool:
        """Note an answer; return whether there is no need to know of the service any more."""
        now = self._loop.time()
        self._answers += 1
        self._limits = self._failures = 0
        if self.opened is not None:
            self.successes += 1
            self._pop()
            self._pop()
            if self._queue and self.successes < self._most:
                return False
            self.opened, self.successes = None, 0
            if self._limited_until > -INFINITY:
                self._limited_until = max(self._limited_until, now)  # the rate did not grow meanwhile
        self._arm()
        return now - self._limited_until > FORGET

    def probe(self) -> None:
        """Let one go now, while it is down; what a service asked to wait for waits."""
        if self.opened is not None:
            self._next = self._loop.time()
            self._disarm()
            self._wake()

    def close(self) -> Iterator[Place]:
        """Hold nothing any more; return what is ``held``, which is looked at as it is taken."""
        self._disarm()
        places, self._queue = self._queue, []
        return (place for place in places if place[2].held)

    def _advance(self, now: float) -> None:
        if self.opened is not None:
            self._next = now + (PAUSE if now < self.opened + WITHIN else LONGEST)
            return
        if self._rate == INFINITY:
            self._rate = max(1, self._answers) / max(TICK, self._limited_until - self._since)
        self._next = max(now, self._next + 1 / self._rate_at(now))

    def _rate_at(self, now: float) -> float:
        return float(self._rate * FASTER ** min(FORGET, now - self._limited_until))

    def _pop(self) -> None:
        # the last of a heap is none of the first, which expire in an outage while they are called
        pop: Callable[[list[Place]], Place] = heappop if self.opened is None else list.pop
        while self._queue:
            job = pop(self._queue)[2]
            if job.held:
                job.held, job.released = False, True
                self._release(job)
                break

    def _wake(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._queue and self._next <= now + TICK:
            self._advance(now)
            self._pop()
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._queue:
            self._timer = self._loop.call_at(self._next, self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
