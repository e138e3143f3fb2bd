"""A pool of calls: at most so many at once, each made again until its events are too old."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from copy import copy
from heapq import heappop, heappush
from itertools import count
from operator import attrgetter
from typing import Any, Literal, TypeAlias

import msgspec
from tenacity import Retrying

from rxcompact.clock import INFINITY, TICK
from rxcompact.events import Compacted
from rxcompact.operators.retry import LAST_PART, Attempts, alike, without_our_frames

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
    """

    __slots__ = ("due", "earliest", "entries", "latest", "task", "timed_out", "timer", "waiting")

    def __init__(self, entries: list[Entry], policy: Retrying, max_age: float) -> None:
        super().__init__(policy, max_age)
        self.due = INFINITY
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.timed_out = self.waiting = False
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


class Pool(ABC):
    """Makes at most ``max_concurrent`` calls at once; a job that waits to be called again is none of them.

    Each call is a task, in a copy of the context in which the pool was made: what it cancels, catches or sets concerns
    no other. No method may be called from another thread than the loop's.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, policy: Retrying, max_age: float, max_concurrent: int, timeout: float
    ) -> None:
        self._loop, self._policy = loop, policy
        self._max_age, self._max_concurrent, self._timeout = max_age, max_concurrent, timeout
        self._context = copy_context()
        self._jobs: dict[Job, None] = {}  # a set in order, so that what is done to all of them is repeatable
        self._queue: list[tuple[float, int, Job]] = []  # a heap; some may have expired
        self._expiry: asyncio.TimerHandle | None = None  # of the first in the queue, or of one that was
        self._numbers = count()
        self._calls = 0
        self._guard: asyncio.Task[None] | None = None
        self._stopping = self._closed = False

    @abstractmethod
    async def _call(self, entries: list[Entry]) -> Sequence[Any]:
        """Return as many results, an exception for an entry that failed, or raise for all.

        None at all where none failed and nobody asks for them.
        """

    @abstractmethod
    def _succeeded(self, job: Job, entries: list[Entry], results: Sequence[Any]) -> None:
        """Settle what the call took."""

    @abstractmethod
    def _lost(self, outcome: Loss, entry: Entry, job: Job, error: BaseException | None = None) -> None:
        """Settle what is too old, cannot be mended by retrying, or is given up.

        Where another event goes on in the place of one that expired, the entry is its from now on.
        """

    @abstractmethod
    def _retrying(self, job: Job, wait: float) -> None:
        """Notify others that a call failed and is made again after a wait."""

    @abstractmethod
    def _settled(self) -> None:
        """Look whether anything is still held."""

    def waiting(self) -> int:
        """Return how many calls failed and wait to be made again."""
        return sum(job.waiting and job.count > 0 for job in self._jobs)

    def _earliest(self) -> float | None:
        """Return the deadline that comes first of all that is held."""
        return min((job.earliest for job in self._jobs), default=None)

    def _submit(self, entries: list[Entry], wait: float | None = None) -> Job:
        """Have a call made for some entries: as soon as there is a place, or after a wait in which more may come."""
        job = Job(entries, self._policy, self._max_age)
        if self._closed:  # an observer disposed of it in the middle of a window, or another thread was slower
            self._abandon(job)
        elif wait is None or self._stopping:
            self._enqueue(job)
        else:
            self._sleep(job, wait)
        return job

    def _add(self, job: Job, entries: list[Entry], wait: float) -> None:
        """Add entries to a job that waits, and have it wait no longer than this."""
        job.entries += entries
        deadlines = [*map(deadline_of, entries)]
        job.earliest, job.latest = min(job.earliest, *deadlines), max(job.latest, *deadlines)
        job.due = min(job.due, self._loop.time() + wait)
        self._arm(job)

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _enqueue(self, job: Job) -> None:
        """Have a job called as soon as there is a place: the one with the earliest deadline first."""
        self._jobs[job] = None
        job.waiting = False
        job.due = INFINITY
        if self._calls < self._max_concurrent:
            self._start(job)
            return
        if self._max_concurrent > 1:
            self._push(job)
        else:  # one after another is in order
            heappush(self._queue, (0.0, next(self._numbers), job))
            self._arm(job)

    def _push(self, job: Job) -> None:
        heappush(self._queue, (job.earliest, next(self._numbers), job))
        if (
            self._expiry is None or job.earliest < getattr(self._expiry, "when", float)()
        ):  # a timer for each would cost 3 µs
            self._arm_queue()

    def _arm_queue(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        at = self._queue[0][0] if self._queue else INFINITY
        self._expiry = self._loop.call_at(at, self._expire_queued) if at < INFINITY else None

    def _expire_queued(self) -> None:
        now = self._loop.time() + TICK
        while self._queue and self._queue[0][0] <= now:
            job = heappop(self._queue)[2]
            self._expire(job, now)
            if job.entries:
                self._push(job)
            else:
                self._remove(job)
        self._arm_queue()
        self._settled()

    def _sleep(self, job: Job, wait: float) -> None:
        if self._stopping:  # that was its last attempt
            self._remove(job)
            self._abandon(job)
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
        job.waiting = False
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    # ── one attempt ───────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, job: Job) -> None:
        if self._guard is None:
            self._guard = self._loop.create_task(self._abandon_at_shutdown(), name="rxcompact pool")
        self._calls += 1
        self._loop.create_task(self._attempt(job), name="rxcompact call", context=self._context.copy())

    async def _attempt(self, job: Job) -> None:
        results: Sequence[Any]
        entries = job.entries
        try:
            try:
                now = self._loop.time()
                if job.earliest <= now + TICK:
                    self._expire(job, now + TICK)
                entries = job.entries
                if not entries:
                    self._remove(job)
                    return
                job.task = asyncio.current_task()
                job.count += 1
                job.timed_out = False
                job.due = now + self._timeout
                self._arm(job)
                results = await self._call(entries)
            except BaseException as error:
                if isinstance(error, SystemExit | KeyboardInterrupt):
                    raise
                if job.timed_out and isinstance(error, asyncio.CancelledError):
                    error = TimeoutError(f"no answer within {self._timeout} s")
                results = (without_our_frames(error),) * len(entries)
            finally:
                self._calls -= 1
                while self._queue and self._calls < self._max_concurrent:
                    self._start(heappop(self._queue)[2])
            if job in self._jobs:  # else it has expired, or was abandoned
                self._remove(job)
                await self._settle(job, entries, results)
        except (SystemExit, KeyboardInterrupt) as error:  # which end the loop
            job.error = error
            self._close()
            raise
        finally:
            del job, entries  # an error's traceback may hold this frame
            self._settled()

    async def _settle(self, job: Job, entries: list[Entry], results: Sequence[Any]) -> None:
        failed = [pair for pair in zip(entries, results, strict=False) if isinstance(pair[1], BaseException)]
        if not failed and len(job.entries) == len(entries):
            self._succeeded(job, entries, results)
            return
        held = set(map(id, job.entries))  # some may have expired
        pairs = [pair for pair in zip(entries, results, strict=True) if id(pair[0]) in held]
        taken = [(entry, result) for entry, result in pairs if not isinstance(result, BaseException)]
        groups = alike([(entry, result) for entry, result in pairs if isinstance(result, BaseException)])
        job.task = None
        parts = [(job if len(groups) == 1 else job.split([]), group) for group in groups]
        for part, group in parts:  # which may expire, or be abandoned, while the policy looks at those before
            part.narrow_to([entry for entry, _ in group])
            part.due = INFINITY
            self._jobs[part] = None
            self._arm(part)
        if taken:
            self._succeeded(job, [entry for entry, _ in taken], [result for _, result in taken])
        for part, group in parts:
            part.task = asyncio.current_task()
            await self._settle_failed(part, group)

    async def _settle_failed(self, job: Job, failed: Sequence[tuple[Entry, BaseException]]) -> None:
        """Have entries that failed alike wait for their next attempt, or settle them, by the policy."""
        error = failed[0][1]
        try:
            if await job.failed(error) is not None:
                for part, wait in list(self._fitted(job)):
                    if wait < INFINITY and not self._stopping:
                        self._retrying(part, wait)
                        await part.before_sleep(wait)
                    if part in self._jobs:  # neither expired nor abandoned meanwhile
                        self._sleep(part, wait)
                return
        except BaseException as raised:
            if isinstance(raised, SystemExit | KeyboardInterrupt):
                raise
            raised.__cause__ = error
            failed = [(entry, without_our_frames(raised)) for entry, _ in failed]
        held = set(map(id, job.entries))
        self._remove(job)
        for entry, each in failed:
            if id(entry) in held:
                self._lost("failed", entry, job, each)

    def _fitted(self, job: Job) -> Iterator[tuple[Job, float]]:
        """Yield how long a job waits; of a batch some may expire in the wait, and have a last attempt of their own."""
        now = self._loop.time()
        while len(job.entries) > 1 and job.earliest <= now + job.wait and not job.last:
            part = job.split(job.entries)
            fitted = part.fit(part.earliest - now)
            until = now + (part.asked if fitted == INFINITY else min(part.wait, fitted + LAST_PART * self._max_age))
            if part.latest <= until:
                break
            part.narrow_to([entry for entry in job.entries if entry.deadline <= until])
            job.narrow_to([entry for entry in job.entries if entry.deadline > until])
            part.task = job.task
            self._jobs[part] = None
            yield part, fitted
        yield job, job.fit(job.earliest - now)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _expedite(self) -> None:
        """Cut every wait short: one last attempt for each, then it is abandoned."""
        self._stopping = True
        for job in list(self._jobs):
            if job.waiting:
                self._enqueue(job)

    def _close(self) -> None:
        """Abandon what is held, without waiting for a call that does not end."""
        self._stopping = self._closed = True
        jobs, self._jobs = self._jobs, {}
        self._queue.clear()
        for timer in (self._guard, self._expiry):
            if timer is not None:
                timer.cancel()
        for job in jobs:
            self._remove(job)
            if job.task is not None:
                job.task.cancel()
        for job in jobs:
            self._abandon(job)
        self._settled()

    async def _abandon_at_shutdown(self) -> None:
        """Wait for the loop to cancel all its tasks; nothing else cancels this one, as it may a call's."""
        try:
            await self._loop.create_future()
        except asyncio.CancelledError:
            self._close()
            raise

    def _abandon(self, job: Job) -> None:
        entries, job.entries = job.entries, []
        for entry in entries:
            self._lost("abandoned", entry, job)
