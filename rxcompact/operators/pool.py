"""A pool of calls: at most so many at once, each made again until its events are too old."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rxcompact.clock import INFINITY, TICK
from rxcompact.contracts import CallObserver
from rxcompact.operators.jobs import Entry, Job
from rxcompact.operators.retry import alike, without_our_frames
from rxcompact.operators.turns import SLICE
from rxcompact.operators.waiting import LAG, Waiting

if TYPE_CHECKING:
    from tenacity import Retrying


_compacted = attrgetter("compacted")


class Pool(Waiting):
    """Makes at most ``max_concurrent`` calls at once, and ``rate`` a second; a job that waits is none of them.

    Each call is a task, in a copy of the context in which the pool was made: what it cancels, catches or sets concerns
    no other. No method may be called from another thread than the loop's.
    """

    stage: str

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
        super().__init__(loop, max_age, max_concurrent, rate)
        self._policy, self._timeout = policy, timeout
        self._context = copy_context()
        self._guard: asyncio.Task[None] | None = None
        self._call_observer = CallObserver()

    @abstractmethod
    async def _call(self, entries: list[Entry]) -> Sequence[Any]:
        """Return as many results, an exception for an entry that failed, or raise for all.

        None at all where none failed and nobody asks for them.
        """

    def _call_ended(self, job: Job, entries: list[Entry], began: float, span: Any, results: Sequence[Any]) -> None:
        """Notify the observer of calls."""

    @abstractmethod
    def _succeeded(self, job: Job, entries: list[Entry], results: Sequence[Any]) -> None:
        """Settle what the call took."""

    @abstractmethod
    def _retrying(self, job: Job, wait: float) -> None:
        """Notify others that a call failed and is made again after a wait."""

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
        entries, failed, calling, span = job.entries, False, 0, None
        now = self._loop.time()
        try:
            try:
                if job.earliest <= now + TICK:
                    self._expire(job, now + TICK)
                entries = job.entries
                if (self._services or not entries) and self._is_held(job):
                    return
                job.task = asyncio.current_task()
                job.count += 1
                job.timed_out = False
                job.began, job.due = now, now + self._timeout
                self._arm(job)
                calling = len(entries)
                self._calling += calling
                started = self._call_observer.started
                span = started and started(self.stage, job.count, map(_compacted, entries))
                results = await self._call(entries)
            except BaseException as error:
                if isinstance(error, SystemExit | KeyboardInterrupt):
                    raise
                if job.timed_out and isinstance(error, asyncio.CancelledError):
                    error = TimeoutError(f"no answer within {self._timeout} s")
                results, failed = (without_our_frames(error),) * len(entries), True
            finally:
                self._calls -= 1
                self._calling -= calling
                if self._queue or self._short:  # after a failure when it is known whether the service is down
                    self._loop.call_soon(self._pull) if failed else self._pull()
            if calling:
                self._call_ended(job, entries, now, span, results)
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
            self._latency += (now - job.began - self._latency) / (8 if self._latency else 1)
            if self._services:
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
            await self._settle_failed(part, group, together=len(groups) == 1 and not taken)

    async def _settle_failed(self, job: Job, failed: Sequence[tuple[Entry, BaseException]], *, together: bool) -> None:
        """Have entries that failed alike wait for their next attempt, or settle them, by the policy."""
        error = failed[0][1]
        try:
            is_retried, target = await job.failed(error) is not None, self._target(failed[0][0])
            if is_retried:
                if together:  # else it answered for each
                    self._fail_at(target, job, error)
                parts = list(job.fitted(self._loop.time()))
                self._jobs |= dict.fromkeys(part for part, _ in parts if part is not job)
                for part, wait in parts:
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
            with suppress(Exception):  # of a class that allows no attributes
                raised.__cause__ = error
            failed = [(entry, without_our_frames(raised)) for entry, _ in failed]
        held = set(map(id, job.entries))
        self._remove(job)
        for entry, each in failed:
            if id(entry) in held:
                self._lost("failed", entry, job, each)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _expedite(self) -> None:
        """Cut every wait short: one last attempt for each, then it is abandoned."""
        self._stopping = True
        waiting = [job for job in self._jobs if job.waiting]
        for job in waiting[:SLICE]:
            self._enqueue(job)
        if len(waiting) > SLICE:
            self._loop.call_soon(self._expedite)
            return
        for service in list(self._services.values()):
            service.probe()

    def _start_nothing(self) -> None:
        """Make no call from now on."""
        self._stopping = self._closed = True
        self._queue.clear()
        self._short.clear()
        for service in self._services.values():
            service.close()

    def _close(self) -> None:
        """Abandon what is held, without waiting for a call that does not end."""
        self._start_nothing()
        jobs, self._jobs = self._jobs, {}
        for timer in (self._guard, self._turn, self._timer):
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
