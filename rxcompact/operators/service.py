"""What is held for one service while it is down, and while it answers that it is called too often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from rxcompact.clock import INFINITY, TICK
from rxcompact.operators.breaker import Breaker

if TYPE_CHECKING:
    from rxcompact.operators.jobs import Job

Place: TypeAlias = "tuple[float, int, Job]"
"""Of a job in a queue: by deadline, or in order."""
FASTER, SLOWER, FORGET = 1.1, 0.7, 60.0
"""How the rate for a service that limits it grows each second, and falls at a limit; the longest that it is held for,
and remembered after, seconds."""


class RateLimit:
    """Has all wait when a service asks to twice in a row; then calls go evenly, as many a second as it answered before.

    Each second there are more, until it asks again.

    Attributes:
        until: When it may be called again; minus infinity where it never asked.
        answers: How many there were since an instant.
    """

    def __init__(self, since: float, answers: int) -> None:
        self.until = -INFINITY
        self.answers, self._since = answers, since
        self._limits, self._rate = 0, INFINITY  # in a row, and calls a second

    def limited(self, now: float, asked: float) -> None:
        """Note that the service asked to wait, seconds; the first time it may mean one event alone."""
        self._limits += 1
        if self._limits == 1 and self.until == -INFINITY:
            return
        if now >= self.until and self._rate < INFINITY:  # not of the wave before
            self._rate = SLOWER * self._rate_at(now)
        self.until = max(self.until, now + min(asked, FORGET))

    def answered(self) -> None:
        """Note an answer."""
        self.answers += 1
        self._limits = 0

    def pause(self, now: float) -> float:
        """Return how long it is until the next call, seconds."""
        if self._rate == INFINITY:
            self._rate = max(1, self.answers) / max(TICK, self.until - self._since)
        return 1 / self._rate_at(now)

    def _rate_at(self, now: float) -> float:
        return float(self._rate * FASTER ** min(FORGET, now - self.until))


class Service:
    """Holds jobs, and lets them go one by one; while it is down those whose deadline leaves the time for an answer."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, release: Callable[[Job], None], most: int, since: float, answers: int
    ) -> None:
        self._loop, self._release = loop, release
        self.breaker, self._limit = Breaker(most), RateLimit(since, answers)
        self._next = -INFINITY  # when the next may go
        self._queue: list[Place] = []  # a heap; some may have expired
        self._timer: asyncio.TimerHandle | None = None

    def holds(self, place: Place) -> bool:
        """Have a job wait, unless it may go."""
        job, now = place[2], self._loop.time()
        if job.released or (self.breaker.opened is None and self._limit.until == -INFINITY):
            return False
        while self._queue and not self._queue[0][2].held:
            heappop(self._queue)
        if not self._queue and self._next <= now + TICK:
            self._advance(now)
            return False
        job.held, job.error = True, job.error or self.breaker.error
        heappush(self._queue, place)
        self._arm()
        return True

    def failed(self, error: BaseException, silent: float = 0.0) -> bool:
        """Note a failure, after seconds without an answer; return whether the service is down from now on."""
        now = self._loop.time()
        self._limit.answers += not silent
        opens = self.breaker.failed(now, error, silent)
        if self.breaker.successes:  # as many as before
            self._pop()
        if opens:
            self._next = max(self._next, now + self.breaker.pause(now))
        return opens

    def limited(self, asked: float) -> None:
        """Note that the service asked to wait, seconds."""
        self._limit.limited(self._loop.time(), asked)
        self._next = max(self._next, self._limit.until)

    def succeeded(self) -> bool:
        """Note an answer; return whether there is no need to know of the service any more."""
        now = self._loop.time()
        self._limit.answered()
        self.breaker.succeeded()
        if self.breaker.opened is not None:
            self._pop()
            self._pop()
            if not self.breaker.closes(self._queue):
                return False
            if self._limit.until > -INFINITY:
                self._limit.until = max(self._limit.until, now)  # the rate did not grow meanwhile
        self._arm()
        return now - self._limit.until > FORGET

    def probe(self) -> None:
        """Let one go now, while it is down; what a service asked to wait for waits."""
        if self.breaker.opened is not None:
            self._next = self._loop.time()
            self._disarm()
            self._wake()

    def close(self) -> list[Place]:
        """Hold nothing any more; return what was held."""
        self._disarm()
        places, self._queue = [place for place in self._queue if place[2].held], []
        for _, _, job in places:
            job.held = False
        return places

    def _advance(self, now: float) -> None:
        if self.breaker.opened is not None:
            self._next = now + self.breaker.pause(now)
        else:
            self._next = max(now, self._next + self._limit.pause(now))

    def _pop(self) -> None:
        # the last of a heap is none of the first, which expire in an outage while they are called
        pop: Callable[[list[Place]], Place] = heappop if self.breaker.opened is None else list.pop
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
