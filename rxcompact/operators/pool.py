"""A pool of workers that call, wait and call again, each event until it is too old."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, compress
from operator import not_
from typing import Any, Generic

from rxcompact.operators.alarm import INFINITY, TICK, Alarm, Deadlines
from rxcompact.operators.job import Call, E, Ends, Job, by_kind
from rxcompact.operators.retry import RetryPolicy

SUCCESSION = 0.01
"""Seconds after which a worker that was cancelled is replaced."""


class Pool(Generic[E]):
    """Runs at most ``max_concurrent`` calls at once. A job that waits to try again holds no worker.

    Workers are started as jobs ask for them and live as long as the pool: a task for each call would cost twice as
    much. All of it is one loop's business; no method may be called from another thread.
    """

    def __init__(
        self,
        call: Call[E],
        ends: Ends[E],
        *,
        single: bool,
        max_concurrent: int,
        timeout: float | None,
        policy: RetryPolicy,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._call = call
        self._ends = ends
        self._single = single  # the call takes one event and gives one result
        self._max_concurrent = max_concurrent
        self._timeout = INFINITY if timeout is None else timeout
        self._policy = policy
        self._loop = loop
        self._queue: deque[Job[E]] = deque()
        self._waiting: dict[Job[E], None] = {}  # sets in order, so that what is done to all of them is repeatable
        self._running: dict[Job[E], None] = {}
        self._idle: deque[asyncio.Future[None]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._stopping = self._closed = False
        self._deadlines = Deadlines()  # of queued jobs that found no worker
        self._expiry = Alarm(loop, self._expire_queued)
        self._overtime = Alarm(loop, self._cut_short)
        self._succession = Alarm(loop, self._succeed)

    def held(self) -> int:
        """Return how many events are queued, called for, or waiting to be tried again."""
        return sum(len(job.entries) for jobs in (self._queue, self._waiting, self._running) for job in jobs)

    def waiting(self) -> int:
        """Return how many calls failed and wait to be made again."""
        return len(self._waiting)

    def earliest(self) -> float | None:
        """Return the deadline, in the loop's seconds, that comes first of all that is held."""
        jobs = chain(self._queue, self._waiting, self._running)
        return min((job.earliest for job in jobs if job.entries), default=None)

    def idle(self) -> bool:
        """Tell whether nothing is held."""
        return not (self._queue or self._waiting or self._running)

    def submit(self, entries: Sequence[E], deadlines: Callable[[Sequence[E]], Sequence[float]]) -> None:
        """Have a call made for some events, as soon as a worker is free.

        Args:
            entries: The events.
            deadlines: Gives the instants at which some of them are too old, in the loop's seconds.
        """
        job = Job(entries, deadlines, self._policy)
        if self._closed:  # an observer disposed of it in the middle of a window, or another thread was slower
            self._abandon(job)
        else:
            self._enqueue(job)

    def _enqueue(self, job: Job[E]) -> None:
        self._queue.append(job)
        job.queued = True
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self._workers) < self._max_concurrent:
            self._start_worker()
        else:
            self._watch(job)

    def _start_worker(self) -> None:
        worker = self._loop.create_task(self._work(), name="rxcompact worker")
        self._workers.add(worker)
        worker.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not self._closed:  # someone else cancelled it: a call, or who shuts the loop down, which then turns no more
            self._succession.set(self._loop.time() + SUCCESSION)

    def _succeed(self) -> float:
        while self._queue and len(self._workers) < min(self._max_concurrent, len(self._queue)):
            self._start_worker()
        self._ends.settled()
        return INFINITY

    # ── waiting for a worker ──────────────────────────────────────────────────────────────────────────────────────

    def _watch(self, job: Job[E]) -> None:
        if job.earliest < INFINITY:
            self._deadlines.add(job, job.earliest, len(self._queue))
            self._expiry.set(job.earliest)

    def _expire_queued(self) -> float:
        for job in self._deadlines.due(self._loop.time() + TICK):
            if self._drop_expired(job):
                self._watch(job)
        self._ends.settled()
        return self._deadlines.next()

    # ── working ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self) -> None:
        worker = asyncio.current_task()
        if worker is None:
            raise AssertionError("a worker is a task")
        while True:
            while self._queue:
                await self._attempt(self._queue.popleft(), worker)
            self._deadlines.clear()
            if self._closed:  # during a call that would not be cancelled
                return
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(waiter)
            await waiter

    # ── one attempt ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _attempt(self, job: Job[E], worker: asyncio.Task[Any]) -> None:
        job.queued = False
        entries = self._drop_expired(job)
        if not entries:
            self._ends.settled()
            return
        job.count += 1
        job.overtime = False
        job.worker = worker
        job.limit = min(self._loop.time() + self._timeout, job.latest)
        self._overtime.set(job.limit)
        self._running[job] = None
        try:
            results: Any = self._call(entries)
            if hasattr(results, "__await__"):
                results = await results
            results = (results,) if self._single else results
        except Exception as error:  # noqa: BLE001 - whatever the call raises is the event's, not the stream's
            results = (error,) * len(entries)
        except asyncio.CancelledError as error:
            if worker.cancelling() > job.overtime:
                if job in self._running:  # not by close: the loop is being shut down
                    del self._running[job]
                    self._abandon(job)
                raise
            results = (TimeoutError() if job.overtime else error,) * len(entries)  # else the call cancelled itself
        if job.overtime:
            worker.uncancel()
        if job in self._running:  # else it was abandoned meanwhile
            del self._running[job]
            self._settle(job, entries, results)

    def _cut_short(self) -> float:
        """Cancel the calls that have taken their time; asyncio.timeout does it at a timer for each."""
        now = self._loop.time() + TICK
        following = INFINITY
        for job in self._running:
            if job.limit > now:
                following = min(following, job.limit)
            elif not job.overtime and job.worker is not None:
                job.overtime = True
                job.worker.cancel()
        return following

    def _settle(self, job: Job[E], entries: Sequence[E], results: Sequence[Any]) -> None:
        if not any(issubclass(kind, BaseException) for kind in set(map(type, results))):
            job.entries = ()
            self._ends.succeeded(job, entries, results)
            self._ends.settled()
            return
        failed = [
            (entry, result) for entry, result in zip(entries, results, strict=True) if isinstance(result, BaseException)
        ]
        if len(failed) < len(entries):
            taken = [
                (entry, result)
                for entry, result in zip(entries, results, strict=True)
                if not isinstance(result, BaseException)
            ]
            self._ends.succeeded(job, [entry for entry, _ in taken], [result for _, result in taken])
        now = self._loop.time() + TICK
        kinds = by_kind(failed)
        for alike in kinds:
            part = job if len(kinds) == 1 else job.part()
            part.keep([entry for entry, _ in alike])
            part.error = alike[0][1]
            wait, raised = part.next_wait(now)
            retried: list[E] = []
            for (entry, error), deadline in zip(alike, part.deadlines(part.entries), strict=True):
                if wait is None:
                    self._ends.failed(part, entry, raised or error)
                elif deadline <= now:
                    self._ends.expired(part, entry)
                else:
                    retried.append(entry)
            part.keep(retried)
            if retried and wait is not None:
                self._wait(part, wait)
        self._ends.settled()

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _wait(self, job: Job[E], wait: float) -> None:
        if self._stopping:  # this was its last attempt
            self._abandon(job)
            return
        job.due = self._loop.time() + wait
        self._waiting[job] = None
        self._sleep(job)

    def _sleep(self, job: Job[E]) -> None:
        wake = min(job.due, job.earliest)
        job.timer = self._loop.call_at(wake, self._wake, job) if wake < INFINITY else None

    def _wake(self, job: Job[E]) -> None:
        if not self._drop_expired(job):
            self._waiting.pop(job, None)
            self._ends.settled()
        elif job.due <= self._loop.time() + TICK:
            self._waiting.pop(job, None)
            self._enqueue(job)
        else:
            self._sleep(job)

    def _drop_expired(self, job: Job[E]) -> Sequence[E]:
        now = self._loop.time() + TICK
        if job.entries and job.earliest <= now:
            entries, young = job.entries, [deadline > now for deadline in job.deadlines(job.entries)]
            job.keep(list(compress(entries, young)))
            for entry in compress(entries, map(not_, young)):
                self._ends.expired(job, entry)
        return job.entries

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def expedite(self) -> None:
        """Cut every wait short: one last attempt for each, then it is abandoned."""
        self._stopping = True
        waiting, self._waiting = self._waiting, {}
        for job in waiting:
            if job.timer is not None:
                job.timer.cancel()
            self._enqueue(job)

    def close(self) -> None:
        """Abandon what is held and end the workers, without waiting for a call that does not end."""
        self._stopping = self._closed = True
        jobs = [*self._running, *self._queue, *self._waiting]
        for job in self._waiting:
            if job.timer is not None:
                job.timer.cancel()
        self._running.clear()
        self._queue.clear()
        self._waiting.clear()
        self._deadlines.clear()
        self._expiry.cancel()
        self._overtime.cancel()
        self._succession.cancel()
        for worker in self._workers:
            worker.cancel()
        for job in jobs:
            self._abandon(job)
        self._ends.settled()

    def _abandon(self, job: Job[E]) -> None:
        for entry in job.entries:
            self._ends.abandoned(job, entry)
        job.entries = ()
