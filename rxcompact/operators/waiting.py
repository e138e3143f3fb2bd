"""What waits to be called: for a place, for its next attempt, for the rate, for a service that is down."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from heapq import heapify, heappop, heappush
from itertools import count
from operator import attrgetter
from typing import Literal, TypeAlias

import msgspec
from tenacity import Retrying

from rxcompact.clock import INFINITY, TICK
from rxcompact.events import Compacted
from rxcompact.operators.breaker import PAUSE, Breaker, Place
from rxcompact.operators.retry import LAST_PART, Attempts
from rxcompact.operators.turns import SLICE
from rxcompact.operators.verdict import verdict

TARGETS = 1000
"""Services that have a circuit breaker at once."""
LAG = 0.005
"""Seconds by which a timer may be late; what it is late for is caught up with."""

Loss: TypeAlias = Literal["expired", "failed", "abandoned"]


class Entry(msgspec.Struct, eq=False, gc=False):
    """A distinct event on its way through a stage."""

    deadline: float
    """The instant at which it is too old, in the loop's seconds."""
    number: int
    """Its place in the order of the source."""
    compacted: Compacted
    others: list[Entry] | None = None
    """Events that the same answer serves, by deadline."""


deadline_of = attrgetter("deadline")


class Job(Attempts):
    """Entries that one call is made for: it waits for its turn, is called, or waits to be called again.

    Attributes:
        entries: What it has to settle; ``earliest`` and ``latest`` are their deadlines.
        due: When the call has taken too long, or is to be made; infinity for neither.
        timer: Due then, or at a deadline.
        task: Makes the call, and decides what becomes of it; ``timed_out`` when it was cancelled for its time.
        waiting: Whether it is to be called when it is due.
        held: Whether a circuit breaker has it wait.
        released: Whether a circuit breaker lets it go out.
    """

    __slots__ = ("due", "earliest", "entries", "held", "latest", "released", "task", "timed_out", "timer", "waiting")

    def __init__(self, entries: list[Entry], policy: Retrying, max_age: float) -> None:
        super().__init__(policy, max_age)
        self.due = INFINITY
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.timed_out = self.waiting = self.held = self.released = False
        self.narrow_to(entries)

    def narrow_to(self, entries: list[Entry]) -> None:
        """Go on with these alone."""
        self.entries = entries
        if entries:
            deadlines = [*map(deadline_of, entries)]
            self.earliest, self.latest = min(deadlines), max(deadlines)

    def split(self, entries: list[Entry]) -> Job:
        """Return a job for some of its entries: it has come as far, and goes on by itself."""
        part = copy(self)
        part._state, part.timer = copy(self._state), None
        part.narrow_to(entries)
        return part

    def fitted(self, now: float) -> Iterator[tuple[Job, float]]:
        """Yield how long a job waits; of a batch some may expire in the wait, and have a last attempt of their own."""
        while len(self.entries) > 1 and self.earliest <= now + self.wait and not self.last:
            part = self.split(self.entries)
            fitted = part.fit(part.earliest - now)
            until = now + (part.asked if fitted == INFINITY else min(part.wait, fitted + LAST_PART * self._max_age))
            if part.latest <= until:
                break
            part.narrow_to([entry for entry in self.entries if entry.deadline <= until])
            self.narrow_to([entry for entry in self.entries if entry.deadline > until])
            part.task = self.task
            yield part, fitted
        yield self, self.fit(self.earliest - now)


class Waiting(ABC):
    """Jobs, each until it is called: at most ``max_concurrent`` at once, and ``rate`` a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_age: float, max_concurrent: int, rate: float) -> None:
        self._loop, self._max_age, self._max_concurrent = loop, max_age, max_concurrent
        self._jobs: dict[Job, None] = {}  # a set in order, so that what is done to all of them is repeatable
        self._queue: list[Place] = []  # a heap; some may have expired
        self._expiry: asyncio.TimerHandle | None = None  # of the first in the queue, or of one that was
        self._numbers = count()
        self._calls = self._calling = 0  # and the events that they are for
        self._breakers: dict[str, Breaker] = {}  # of services that fail, by name
        self._since, self._answers = loop.time(), 0  # in the present second
        self._interval = 1 / rate
        self._next_call = -INFINITY  # when the rate allows the next call
        self._turn: asyncio.TimerHandle | None = None
        self._stopping = self._closed = False

    @abstractmethod
    def _start(self, job: Job) -> None:
        """Call a job."""

    @abstractmethod
    def _lost(self, outcome: Loss, entry: Entry, job: Job, error: BaseException | None = None) -> None:
        """Settle what is too old, cannot be mended by retrying, or is given up.

        Where another event goes on in the place of one that expired, the entry is its from now on.
        """

    @abstractmethod
    def _settled(self) -> None:
        """Look whether anything is still held."""

    def _target(self, entry: Entry) -> str:  # noqa: ARG002 - of a stage
        """Return the name of the service that is called for an entry."""
        return ""

    def _switched(self, target: str, breaker: Breaker, error: BaseException | None, after: float = 0.0) -> None:  # noqa: B027
        """Notify others that a service is down, or, without an error, that it is back after some time."""

    def failing(self) -> tuple[str, ...]:
        """Return the names of the services that are down, as far as is known."""
        return tuple(target for target, breaker in self._breakers.items() if breaker.opened is not None)

    def waiting(self) -> int:
        """Return how many calls failed and wait to be made again."""
        return sum((job.waiting or job.held) and job.count > 0 for job in self._jobs)

    def _earliest(self) -> float | None:
        """Return the deadline that comes first of all that is held."""
        return min((job.earliest for job in self._jobs), default=None)

    def _add(self, job: Job, entries: list[Entry], wait: float) -> None:
        """Add entries to a job that waits, and have it wait no longer than this."""
        job.entries += entries
        deadlines = [*map(deadline_of, entries)]
        job.earliest, job.latest = min(job.earliest, *deadlines), max(job.latest, *deadlines)
        job.due = min(job.due, self._loop.time() + wait)
        self._arm(job)

    def _enqueue(self, job: Job) -> None:
        """Have a job called as soon as there is a place: the one with the earliest deadline first."""
        self._jobs[job] = None
        job.waiting = False
        job.due = INFINITY
        if self._calls < self._max_concurrent and not (self._interval and self._waits_for_turn()):
            self._start(job)
            return
        one_by_one = self._max_concurrent == 1  # in order
        heappush(self._queue, (0.0 if one_by_one else job.earliest, next(self._numbers), job))
        if one_by_one:
            self._arm(job)
        elif self._expiry is None or job.earliest < getattr(self._expiry, "when", float)():
            self._arm_queue()  # a timer for each would cost 3 µs

    def _waits_for_turn(self) -> bool:
        """Return whether the rate allows no call now; those that wait are called when it does."""
        if self._next_call <= self._loop.time() + TICK:
            return False
        if self._turn is None:
            self._turn = self._loop.call_at(self._next_call, self._take_turn)
        return True

    def _take_turn(self) -> None:
        self._turn = None
        self._pull()

    def _pull(self) -> None:
        """Have those called that wait for a place."""
        while self._queue and self._calls < self._max_concurrent and not (self._interval and self._waits_for_turn()):
            self._start(heappop(self._queue)[2])

    def _arm_queue(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        at = self._queue[0][0] if self._queue else INFINITY
        self._expiry = self._loop.call_at(at, self._expire_queued) if at < INFINITY else None

    def _expire_queued(self) -> None:
        now, left = self._loop.time() + TICK, SLICE  # the rest in the next turn
        while left > 0 and self._queue and self._queue[0][0] <= now:
            job = heappop(self._queue)[2]
            left -= len(job.entries)
            self._expire(job, now)
            if job.entries:
                heappush(self._queue, (job.earliest, next(self._numbers), job))
            else:
                self._remove(job)
        self._arm_queue()
        self._settled()

    def _sleep(self, job: Job, wait: float) -> None:
        if self._stopping:  # that was its last attempt
            self._give_up(job)
            return
        self._jobs[job] = None
        job.task = None
        job.waiting = True
        job.due = self._loop.time() + wait
        self._arm(job)

    def _arm(self, job: Job) -> None:
        # a call goes on while one of its entries is young enough
        at = min(job.due, job.earliest if job.task is None else job.latest)
        if job.timer is not None:
            if getattr(job.timer, "when", float)() == at:  # uvloop's handle of what is due has none
                return
            job.timer.cancel()
        job.timer = self._loop.call_at(at, self._wake, job) if at < INFINITY else None

    def _wake(self, job: Job) -> None:
        now = self._loop.time() + TICK
        task, job.timer = job.task, None
        if (job.earliest if task is None else job.latest) <= now:
            if task is not None:
                job.error = job.error or TimeoutError("the call took longer than the event may live")
            self._expire(job, now)
        if not job.entries:
            self._remove(job)
            if task is not None:
                task.cancel()
        elif job.due > now:
            self._arm(job)
        elif task is None:
            self._enqueue(job)
        else:
            job.timed_out = True
            job.due = INFINITY
            task.cancel()
            self._arm(job)
        self._settled()

    def _expire(self, job: Job, now: float) -> None:
        expired = [entry for entry in job.entries if entry.deadline <= now]
        job.narrow_to([entry for entry in job.entries if entry.deadline > now])
        for entry in expired:
            self._lost("expired", entry, job)
        going_on = [entry for entry in expired if entry.deadline > now]
        if going_on:
            job.narrow_to([*job.entries, *going_on])
            job.last = False
            if job.waiting:
                job.due = now + job.fit(job.earliest - now)
            if self._closed:  # by an observer
                self._abandon(job)

    def _remove(self, job: Job) -> None:
        self._jobs.pop(job, None)
        job.waiting = job.held = job.released = False
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    # ── circuit breakers ──────────────────────────────────────────────────────────────────────────────────────────

    def _is_held(self, job: Job) -> bool:
        """Have a job wait, where the service that it is for is down; forget it, where it has expired."""
        if not job.entries:
            self._remove(job)
            return True
        breaker = self._breakers.get(self._target(job.entries[0]))
        key = 0.0 if self._max_concurrent == 1 else job.earliest
        if breaker is None or not breaker.holds((key, next(self._numbers), job)):
            return False
        self._arm(job)
        return True

    def _succeed_at(self, target: str) -> None:
        """Note that a service answered."""
        if (breaker := self._breakers.get(target)) is None:
            return
        opened = breaker.opened
        if breaker.succeeded():
            del self._breakers[target]
            self._queue += breaker.close()
            heapify(self._queue)
            self._pull()
        if opened is not None and breaker.opened is None:
            self._switched(target, breaker, None, self._loop.time() - opened)

    def _fail_at(self, target: str, job: Job, error: BaseException) -> None:
        """Note that a call failed, so that it is made again."""
        breaker = self._breakers.get(target)
        if breaker is None:
            if len(self._breakers) >= TARGETS:  # those that fail now and then make room
                self._breakers = {name: each for name, each in self._breakers.items() if each.opened is not None}
            if len(self._breakers) >= TARGETS:
                return
            breaker = Breaker(self._loop, self._enqueue, self._max_concurrent, self._since, self._answers)
            self._breakers[target] = breaker
        if verdict(error) == "rate limited":
            breaker.limited(min(job.asked or min(job.wait, PAUSE), self._max_age))
        elif breaker.failed(error):
            self._switched(target, breaker, error)
        if breaker.opened is not None:
            job.last = False  # it was a probe, or under way when the service failed
            if self._stopping and not breaker.successes:  # that was the last attempt of all
                for _, _, held in breaker.close():
                    self._give_up(held)

    def _give_up(self, job: Job) -> None:
        self._remove(job)
        self._abandon(job)

    def _abandon(self, job: Job) -> None:
        entries, job.entries = job.entries, []
        for entry in entries:
            self._lost("abandoned", entry, job)
