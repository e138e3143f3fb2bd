"""A pool of calls: at most so many at once, each made again until its events are too old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextvars import copy_context
from heapq import heappop, heappush
from itertools import chain, count
from typing import Any, Generic, Protocol, TypeVar

from rxcompact.operators.retry import INFINITY, LAST_PART, Attempts, RetryPolicy, alike, without_our_frames

E = TypeVar("E")
"""What a stage makes of a distinct event."""
Call = Callable[[Sequence[E]], Coroutine[Any, Any, Sequence[Any]]]
"""Calls for some entries; gives as many results, an exception for one that failed, or raises for all. None at all where
none failed and nobody asks for them."""
Deadlines = Callable[[Sequence[E]], Sequence[float]]
"""Gives the instants at which some entries are too old, in the loop's seconds."""
TICK = 1e-6
"""Timers count in microseconds: what is due in less than one is due."""


class Job(Attempts, Generic[E]):
    """Entries that one call is made for: it waits for its turn, is called, or waits to be called again.

    Attributes:
        entries: What it has to settle.
        earliest, latest: Their deadlines, in the loop's seconds.
        due: When the call has taken too long, or is to be made again; infinity for neither.
        timer: Due then, or at a deadline.
        task: Makes the call; ``calling`` once it has begun to.
        timed_out: Whether the call was cancelled, since it took too long.
        waiting: Whether it failed and is to be made again.
    """

    __slots__ = (
        "calling", "deadlines", "due", "earliest", "entries", "latest", "task", "timed_out", "timer", "waiting"
    )  # fmt: skip

    def __init__(self, entries: Sequence[E], deadlines: Deadlines[E], policy: RetryPolicy, max_age: float) -> None:
        super().__init__(policy, max_age)
        self.deadlines = deadlines
        self.due = INFINITY
        self.narrow_to(entries)
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.calling = self.timed_out = self.waiting = False

    def narrow_to(self, entries: Sequence[E]) -> None:
        """Go on with these alone."""
        self.entries = entries
        if entries:
            deadlines = self.deadlines(entries)
            self.earliest = self.latest = deadlines[0]
            if len(entries) > 1:
                self.earliest, self.latest = min(deadlines), max(deadlines)

    def split(self, entries: Sequence[E]) -> Job[E]:
        """Return a job for some of its entries: it has come as far, and goes on by itself."""
        part = Job(entries, self.deadlines, self._policy, self._max_age)
        self.copy_to(part)
        return part


class OutcomeHandler(Protocol[E]):
    """What a stage does with the outcomes of its entries."""

    def succeeded(self, job: Job[E], entries: Sequence[E], results: Sequence[Any]) -> None:
        """The call took these."""

    def expired(self, job: Job[E], entry: E) -> bool:
        """An entry is too old; return whether a younger event goes on in its place."""
        ...

    def retrying(self, job: Job[E], wait: float) -> None:
        """The call failed; it is made again after a wait."""

    def failed(self, job: Job[E], entry: E, error: BaseException) -> None:
        """Retrying cannot mend it."""

    def abandoned(self, job: Job[E], entry: E) -> None:
        """Stopped."""

    def settled(self) -> None:
        """Some are settled; more may be held."""


class Pool(Generic[E]):
    """Makes at most ``max_concurrent`` calls at once; a job that waits to be called again is none of them.

    Each call is a task, in a copy of the context in which the pool was made: what it cancels, catches or sets concerns
    no other. No method may be called from another thread than the loop's.
    """

    def __init__(
        self,
        call: Call[E],
        handler: OutcomeHandler[E],
        *,
        max_age: float,
        max_concurrent: int,
        timeout: float | None,
        policy: RetryPolicy,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._call = call
        self._handler = handler
        self._max_age = max_age
        self._max_concurrent = max_concurrent
        self._timeout = INFINITY if timeout is None else timeout
        self._policy = policy
        self._loop = loop
        self._context = copy_context()
        self._jobs: dict[Job[E], None] = {}  # a set in order, so that what is done to all of them is repeatable
        self._queue: list[tuple[float, int, Job[E]]] = []  # a heap by deadline
        self._last_place = -INFINITY
        self._numbers = count()
        self._expiry: asyncio.TimerHandle | None = None  # of the first in the queue, or of one that was
        self._calls = 0
        self._guard: asyncio.Task[None] | None = None
        self._stopping = self._closed = False

    def entries(self) -> Iterator[E]:
        """Return what is queued, called for, or waits to be called for again."""
        return chain.from_iterable(job.entries for job in self._jobs)

    def waiting(self) -> int:
        """Return how many calls failed and wait to be made again."""
        return sum(job.waiting for job in self._jobs)

    def earliest(self) -> float | None:
        """Return the deadline, in the loop's seconds, that comes first of all that is held."""
        return min((job.earliest for job in self._jobs), default=None)

    def idle(self) -> bool:
        """Return whether nothing is held."""
        return not self._jobs

    def submit(self, entries: Sequence[E], deadlines: Deadlines[E]) -> Job[E]:
        """Have a call made for some entries, as soon as there is a place."""
        job = Job(entries, deadlines, self._policy, self._max_age)
        if self._closed:  # an observer disposed of it in the middle of a window, or another thread was slower
            self._abandon(job)
        else:
            self._jobs[job] = None
            self._enqueue(job)
        return job

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _enqueue(self, job: Job[E]) -> None:
        job.waiting = False
        job.due = INFINITY
        if self._calls < self._max_concurrent:
            self._start(job)
        else:
            self._push(job)

    def _push(self, job: Job[E]) -> None:
        place = job.earliest
        if self._max_concurrent == 1:  # one after another is in order: the last is behind all others
            self._last_place = place = max(place, self._last_place)
        heappush(self._queue, (place, next(self._numbers), job))
        if place > job.earliest:
            self._arm(job, job.earliest)
        if self._queue[0][2] is job and place < INFINITY:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self._loop.call_at(place, self._expire_queued)

    def _expire_queued(self) -> None:
        self._expiry = None
        now = self._loop.time() + TICK
        while self._queue and self._queue[0][0] <= now:
            job = heappop(self._queue)[2]
            self._drop_expired(job)
            if job.entries:
                self._push(job)
            else:
                self._remove(job)
        if self._queue and self._expiry is None and self._queue[0][0] < INFINITY:
            self._expiry = self._loop.call_at(self._queue[0][0], self._expire_queued)
        self._handler.settled()

    def _sleep(self, job: Job[E], wait: float) -> None:
        self._jobs[job] = None
        job.calling = False
        job.waiting = True
        job.due = self._loop.time() + wait
        self._arm(job, min(job.due, job.earliest))

    def _arm(self, job: Job[E], at: float) -> None:
        if job.timer is not None:
            job.timer.cancel()
        job.timer = self._loop.call_at(at, self._wake, job) if at < INFINITY else None

    def _wake(self, job: Job[E]) -> None:
        now = self._loop.time() + TICK
        if job.calling and job.latest <= now:
            job.error = job.error or TimeoutError("the call took longer than the event may live")
        if job.calling and job.due <= now < job.latest and job.task is not None:
            job.timed_out = True
            job.due = INFINITY
            job.task.cancel()
        self._drop_expired(job)
        if not job.entries:
            self._remove(job)
            if job.calling and job.task is not None:
                job.task.cancel()
        elif job.due <= now:
            self._enqueue(job)
        else:
            self._arm(job, min(job.due, job.latest if job.calling else job.earliest))
        self._handler.settled()

    def _drop_expired(self, job: Job[E]) -> None:
        now = self._loop.time() + TICK
        if now < (job.latest if job.calling else job.earliest):  # a call goes on while one is young enough
            return
        expired: list[E] = []
        young: list[E] = []
        for entry, deadline in zip(job.entries, job.deadlines(job.entries), strict=True):
            (young if deadline > now else expired).append(entry)
        job.narrow_to(young)
        going_on = [entry for entry in expired if self._handler.expired(job, entry)]
        if going_on:
            job.narrow_to([*job.entries, *going_on])
            job.last = False
            if job.waiting:
                job.due = now + job.fit(job.earliest - now)
        if self._closed:  # by an observer
            self._abandon(job)

    def _remove(self, job: Job[E]) -> None:
        self._jobs.pop(job, None)
        if job.timer is not None:
            job.timer.cancel()

    # ── one attempt ───────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, job: Job[E]) -> None:
        if self._guard is None:
            self._guard = self._loop.create_task(self._abandon_at_shutdown(), name="rxcompact pool")
        self._calls += 1
        job.task = self._loop.create_task(self._attempt(job), name="rxcompact call", context=self._context.copy())

    async def _attempt(self, job: Job[E]) -> None:
        try:
            now = self._loop.time()
            if job.earliest <= now + TICK:
                self._drop_expired(job)
            entries = job.entries
            if not entries:
                self._remove(job)
                return
            job.count += 1
            job.calling, job.timed_out = True, False
            job.due = now + self._timeout
            self._arm(job, min(job.due, job.latest))
            results: Sequence[Any]
            try:
                results = await self._call(entries)
            except BaseException as error:
                if isinstance(error, SystemExit | KeyboardInterrupt):
                    raise
                if job.timed_out and isinstance(error, asyncio.CancelledError):
                    error = TimeoutError(f"no answer within {self._timeout} s")
                results = (without_our_frames(error),) * len(entries)
            if job not in self._jobs:  # it has expired, or was abandoned
                return
            if len(job.entries) < len(entries) or any_failed(results):
                await self._settle_each(job, entries, results)
            else:
                self._remove(job)
                self._handler.succeeded(job, entries, results)
        except (SystemExit, KeyboardInterrupt) as error:  # which end the loop
            job.error = error
            self.close()
            raise
        finally:
            self._calls -= 1
            while self._queue and self._calls < self._max_concurrent:
                self._start(heappop(self._queue)[2])
            self._handler.settled()

    async def _settle_each(self, job: Job[E], entries: Sequence[E], results: Sequence[Any]) -> None:
        held = set(map(id, job.entries))  # some may have expired
        taken: list[tuple[E, Any]] = []
        failed: list[tuple[E, BaseException]] = []
        for entry, result in zip(entries, results, strict=True):
            if id(entry) in held:
                (failed if isinstance(result, BaseException) else taken).append((entry, result))
        job.narrow_to([entry for entry, _ in failed])
        if not failed:
            self._remove(job)
        if taken:
            self._handler.succeeded(job, [entry for entry, _ in taken], [result for _, result in taken])
        if failed:
            await self._settle_failed(job, alike(failed))

    async def _settle_failed(self, job: Job[E], groups: Collection[Sequence[tuple[E, BaseException]]]) -> None:
        waits: list[tuple[Job[E], float]] = []
        failures: list[tuple[Job[E], E, BaseException]] = []
        for group in groups:
            part = job if len(groups) == 1 else job.split([entry for entry, _ in group])
            again, raised = await self._again(part, group[0][1])
            waits += again
            failures += [(part, entry, raised or error) for entry, error in group if not again]
        if job not in self._jobs:  # it has expired, or was abandoned
            return
        held = set(map(id, job.entries))
        self._remove(job)
        for part, wait in waits:
            part.narrow_to([entry for entry in part.entries if id(entry) in held])
            if self._stopping:  # this was its last attempt
                self._abandon(part)
            elif part.entries:
                self._sleep(part, wait)
        for part, entry, error in failures:
            if id(entry) in held:
                self._handler.failed(part, entry, error)

    async def _again(
        self, job: Job[E], error: BaseException
    ) -> tuple[list[tuple[Job[E], float]], BaseException | None]:
        """Return how long a job waits, or parts of it; nothing for `failed`, and what the caller's policy raised."""
        try:
            again = [] if await job.failed(error) is None else list(self._fitted(job))
            for part, wait in again:
                if wait < INFINITY and not self._stopping:
                    self._handler.retrying(part, wait)
                    await part.before_sleep(wait)
        except BaseException as raised:
            if isinstance(raised, SystemExit | KeyboardInterrupt):
                raise
            raised.__cause__ = error
            return [], without_our_frames(raised)
        return again, None

    def _fitted(self, job: Job[E]) -> Iterator[tuple[Job[E], float]]:
        """Yield how long a job waits; of a batch some may expire in the wait, and have a last attempt of their own."""
        now = self._loop.time()
        while len(job.entries) > 1 and job.earliest <= now + job.wait and not job.last:
            part = job.split(job.entries)
            fitted = part.fit(part.earliest - now)
            until = now + (part.asked if fitted == INFINITY else min(part.wait, fitted + LAST_PART * self._max_age))
            if part.latest <= until:
                break
            sooner: list[E] = []
            later: list[E] = []
            for entry, deadline in zip(job.entries, job.deadlines(job.entries), strict=True):
                (sooner if deadline <= until else later).append(entry)
            part.narrow_to(sooner)
            yield part, fitted
            job = job.split(later)
        yield job, job.fit(job.earliest - now)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def expedite(self) -> None:
        """Cut every wait short: one last attempt for each, then it is abandoned."""
        self._stopping = True
        for job in list(self._jobs):
            if job.waiting:
                self._enqueue(job)

    def close(self) -> None:
        """Abandon what is held, without waiting for a call that does not end."""
        self._stopping = self._closed = True
        jobs, self._jobs = self._jobs, {}
        self._queue.clear()
        for handle in (self._guard, self._expiry, *chain.from_iterable((job.timer, job.task) for job in jobs)):
            if handle is not None:
                handle.cancel()
        for job in jobs:
            self._abandon(job)
        self._handler.settled()

    async def _abandon_at_shutdown(self) -> None:
        """Wait for the loop to cancel all its tasks; nothing else cancels this one, as it may a call's."""
        try:
            await self._loop.create_future()
        except asyncio.CancelledError:
            self.close()
            raise

    def _abandon(self, job: Job[E]) -> None:
        entries, job.entries = job.entries, ()
        for entry in entries:
            self._handler.abandoned(job, entry)


def any_failed(results: Sequence[Any]) -> bool:
    """Return whether there is an exception among results."""
    for result in results:  # a generator for `any` costs more than all of this  # noqa: SIM110
        if isinstance(result, BaseException):
            return True
    return False
