"""A pool of calls: at most so many at once, each made again until its events are too old."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from heapq import heappop, heappush
from typing import Any

from tenacity import Retrying

from rxcompact.clock import INFINITY, TICK
from rxcompact.operators.breaker import LAG
from rxcompact.operators.circuits import Circuits
from rxcompact.operators.job import Entry, Job, Loss, deadline_of
from rxcompact.operators.retry import LAST_PART, alike, without_our_frames


class Pool(Circuits):
    """Makes at most ``max_concurrent`` calls at once, and ``rate`` a second; a job that waits is none of them.

    Each call is a task, in a copy of the context in which the pool was made: what it cancels, catches or sets concerns
    no other. No method may be called from another thread than the loop's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        policy: Retrying,
        max_age: float,
        max_concurrent: int,
        timeout: float,
        *,
        rate: float = INFINITY,
    ) -> None:
        super().__init__(loop, max_age, max_concurrent)
        self._policy, self._timeout = policy, timeout
        self._context = copy_context()
        self._jobs: dict[Job, None] = {}  # a set in order, so that what is done to all of them is repeatable
        self._expiry: asyncio.TimerHandle | None = None  # of the first in the queue, or of one that was
        self._interval = 1 / rate
        self._next_call = -INFINITY  # when the rate allows the next call
        self._turn: asyncio.TimerHandle | None = None
        self._guard: asyncio.Task[None] | None = None
        self._closed = False

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
        return sum((job.waiting or job.held) and job.count > 0 for job in self._jobs)

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
        if self._calls < self._max_concurrent and not (self._interval and self._waits_for_turn()):
            self._start(job)
            return
        one_by_one = self._max_concurrent == 1
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
        now = self._loop.time() + TICK
        while self._queue and self._queue[0][0] <= now:
            job = heappop(self._queue)[2]
            self._expire(job, now)
            if job.entries:
                heappush(self._queue, self._place(job))
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
        job.waiting = job.held = False
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    # ── one attempt ───────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, job: Job) -> None:
        if self._guard is None:
            self._guard = self._loop.create_task(self._abandon_at_shutdown(), name="rxcompact pool")
        self._calls += 1
        if self._interval:
            now, due = self._loop.time(), self._next_call
            self._next_call = (due if now - due < LAG else now) + self._interval
        self._loop.create_task(self._attempt(job), name="rxcompact call", context=self._context.copy())

    async def _attempt(self, job: Job) -> None:
        results: Sequence[Any]
        entries, failed = job.entries, False
        try:
            try:
                now = self._loop.time()
                if job.earliest <= now + TICK:
                    self._expire(job, now + TICK)
                entries = job.entries
                if (self._breakers or not entries) and self._is_held(job):
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
                results, failed = (without_our_frames(error),) * len(entries), True
            finally:
                self._calls -= 1
                if self._queue:  # after a failure when it is known whether the service is down
                    self._loop.call_soon(self._pull) if failed else self._pull()
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
        if len(failed) < len(entries):
            if (now := self._loop.time()) > self._since + 1:
                self._since, self._answers = now, 0
            self._answers += 1
            if self._breakers:
                self._succeed_at(self._target(entries[0]))
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
            await self._settle_failed(part, group, together=len(group) == len(entries))

    async def _settle_failed(self, job: Job, failed: Sequence[tuple[Entry, BaseException]], *, together: bool) -> None:
        """Have entries that failed alike wait for their next attempt, or settle them, by the policy."""
        error = failed[0][1]
        try:
            is_retried, target = await job.failed(error) is not None, self._target(failed[0][0])
            if is_retried:
                if together:  # else it answered for each
                    self._fail_at(target, job, error)
                for part, wait in list(self._fitted(job)):
                    if wait < INFINITY and not self._stopping:
                        self._retrying(part, wait)
                        await part.before_sleep(wait)
                    if part in self._jobs:  # neither expired nor abandoned meanwhile
                        self._sleep(part, wait)
                return
            self._succeed_at(target)
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
        for breaker in list(self._breakers.values()):
            breaker.probe()

    def _close(self) -> None:
        """Abandon what is held, without waiting for a call that does not end."""
        self._stopping = self._closed = True
        jobs, self._jobs = self._jobs, {}
        self._queue.clear()
        for breaker in self._breakers.values():
            breaker.close()
        for timer in (self._guard, self._expiry, self._turn):
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

    def _give_up(self, job: Job) -> None:
        self._remove(job)
        self._abandon(job)

    def _abandon(self, job: Job) -> None:
        entries, job.entries = job.entries, []
        for entry in entries:
            self._lost("abandoned", entry, job)
