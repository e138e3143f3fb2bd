"""What the stages behind compaction share: events in, calls made again until these are too old, outcomes out."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from itertools import count as numbers
from operator import attrgetter
from typing import Any

from reactivex.abc import ObserverBase, SchedulerBase

from rxcompact.clock import INFINITY, TICK, Clock, default_scheduler, is_running, running_loop, seconds
from rxcompact.contracts import CallObserver
from rxcompact.errors import AbandonedError, ArgumentError, contained
from rxcompact.events import Compacted, DeadLetter, Window
from rxcompact.operators.jobs import Entry, Job, Loss, compacted_of
from rxcompact.operators.operator import PooledOperator
from rxcompact.operators.retry import alike, expired_error, reason, without_frames
from rxcompact.operators.service import Service
from rxcompact.operators.waiting import DUE, LAG, Waiting
from rxcompact.signals import Failing, Healed, RetryScheduled, StageNow

_first_seen = attrgetter("first_seen")


class PooledStage(Waiting, ObserverBase[Any]):
    """A stage that calls something for its events, and emits or dead-letters each.

    Items may come from any thread; everything else happens on the loop. It makes at most ``max_concurrent`` calls at
    once, and ``rate`` a second; a job that waits is none of them. Each call is made in a task, in a copy of the context
    in which the stage was made; the task makes another only if the call left nothing behind in it: what it cancels,
    catches or sets concerns no other.
    """

    def __init__(self, options: PooledOperator, observer: ObserverBase[Any], scheduler: SchedulerBase | None) -> None:
        if options.max_age is None:
            raise ArgumentError(f"max_age of {options.stage}", None, "given outside a Pipeline")
        scheduler = scheduler or default_scheduler()
        max_age = seconds("max_age", options.max_age, infinite=True)
        outside = f"{options.stage} awaits its calls: subscribe in a running asyncio loop"
        loop = getattr(scheduler, "_loop", None) or running_loop(outside)
        super().__init__(loop, max_age, options.max_concurrent, options.rate or INFINITY)
        self.stage = options.stage
        self._policy = options.policy
        self._timeout = INFINITY if options.timeout is None else seconds("timeout", options.timeout)
        self._context = copy_context()
        self._steps = 0  # calls that began
        self._reusable = False  # whether the task that runs can make another call
        self._follower: Job | None = None  # which it then makes
        self._guard: asyncio.Task[None] | None = None
        self._clock = Clock(scheduler)
        self._observer = observer
        self._dead_letters = options.reject()
        self._signals, self._call_observer = options.signals, options.calls or CallObserver()
        self.lookups: Counter[str] = Counter()
        """Events by what answered them."""
        self._losses = self._held = 0
        self._places = numbers()
        self._completion: Callable[[], None] | None = None

    @abstractmethod
    def _handle(self, entries: list[Entry], now: float) -> None:
        """Have calls made for events."""

    @abstractmethod
    async def _call(self, entries: list[Entry]) -> Sequence[Any]:
        """Return as many results, an exception for an entry that failed, or raise for all.

        None at all where none failed and nobody asks for them.
        """

    @abstractmethod
    def _succeeded(self, job: Job, entries: list[Entry], results: Sequence[Any]) -> None:
        """Settle what the call took."""

    # ── in and out ────────────────────────────────────────────────────────────────────────────────────────────────

    def on_next(self, value: Window | Compacted | Sequence[Compacted]) -> None:
        self._run(self._take, [value] if isinstance(value, Compacted) else value)

    def on_completed(self) -> None:
        self._run(self._finish, self._observer.on_completed)

    def on_error(self, error: Exception) -> None:
        self._run(self._finish, lambda: self._observer.on_error(error))

    def expedite(self) -> None:
        """Wait for nothing more: one last attempt for each."""
        self._run(self._expedite)

    def dispose(self) -> None:
        """Abandon what is held."""
        self._run(self._close)

    async def abandon(self) -> None:
        """Abandon what is held, and what comes. The loop has its turn between slices."""
        self._abandon(DUE)
        while self._jobs:  # noqa: ASYNC110 - nothing else is waited for
            await asyncio.sleep(0)

    def _run(self, action: Callable[..., None], *arguments: Any) -> None:
        if is_running(self._loop):
            action(*arguments)
        else:
            self._loop.call_soon_threadsafe(action, *arguments)

    def _take(self, items: Sequence[Compacted]) -> None:
        now, wall, max_age = self._loop.time(), self._clock.wall, self._max_age
        latest, ages = now + max_age, max_age - wall.offset  # without a birth they begin to age now
        births = map(_first_seen, items)
        if wall.past:  # the wall clock was set: a birth is by what it showed then
            deadlines = [latest if born is None else min(latest, max_age + wall.instant(born)) for born in births]
        else:
            deadlines = [latest if born is None or (due := born + ages) > latest else due for born in births]
        entries = list(map(Entry, deadlines, self._places, items))
        self._held += len(entries)
        self._handle(entries, now)

    def _finish(self, completion: Callable[[], None]) -> None:
        self._completion = completion
        self._settled()

    def held(self) -> int:
        return self._held

    def _age(self, compacted: Compacted) -> float:
        born = compacted.first_seen
        return 0.0 if born is None else self._loop.time() - self._clock.wall.instant(born)

    def _settled(self) -> None:
        """End the stream, if its source has ended and nothing is held."""
        if self._completion is not None and not self._held:
            completion, self._completion = self._completion, None
            completion()

    def _emit(self, item: Any, events: int = 1) -> None:
        self._held -= events
        self._notify(self._observer.on_next, item)
        if not self._held:
            self._settled()

    def _notify(self, observe: Callable[[Any], object], item: Any) -> None:
        try:
            observe(item)
        except BaseException as error:  # noqa: BLE001 - an observer may raise anything
            message = f"an observer of {self.stage} raised"
            self._loop.call_exception_handler({"message": message, "exception": contained(error)})

    def _retrying(self, job: Job, wait: float) -> None:
        if self._signals is not None and job.error is not None:
            keys = tuple(entry.compacted.key for entry in job.entries)
            self._signals(RetryScheduled(self.stage, job.count, wait, job.error, keys, self._target(job.entries[0])))

    def now(self) -> StageNow:
        calls = self._calls, self._max_concurrent, min(self._calling, self._held), self.lookups
        return StageNow(self.held(), self.oldest(), 0, None, self.waiting(), self.failing(), *calls)

    def _switched(self, target: str, service: Service, error: BaseException | None, after: float = 0.0) -> None:
        if error is not None:
            service.lost = self._losses
        if self._signals is not None:
            lost = self._losses - service.lost
            self._signals(Failing(self.stage, target, error) if error else Healed(self.stage, target, after, lost))

    def _lost(self, outcome: Loss, entry: Entry, job: Job | None = None, error: BaseException | None = None) -> None:
        attempts, cause = (0, None) if job is None else (job.count, job.error)
        age = self._age(entry.compacted)
        if outcome == "expired":
            error = expired_error(age, self._max_age, attempts, cause)
        elif outcome == "abandoned":
            error = AbandonedError(f"stopped after {attempts} attempts")
            error.__cause__ = cause
        self._held -= 1
        self._losses += 1
        why = "" if error is None else reason(error)
        letter = DeadLetter(outcome, entry.compacted, self.stage, why, error, attempts, age)
        self._notify(self._dead_letters, letter)
        self._settled()

    def _submit(self, entries: list[Entry], wait: float | None = None) -> Job:
        """Have a call made for some entries: as soon as there is a place, or after a wait in which more may come."""
        job = Job(entries, self._policy, self._max_age)
        if self._closed:  # an observer disposed of it in the middle of a window, or another thread was slower
            self._give_up(job)
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
        if self._reusable:
            self._reusable, self._follower = False, job
        else:
            self._loop.create_task(self._work(job), name="rxcompact call", context=self._context.copy())

    async def _work(self, job: Job | None) -> None:
        """Make a call, and those that follow it in the same task, which spares a quarter of the cost."""
        while job is not None:
            await self._attempt(job)
            job, self._follower = self._follower, None

    def _call_next(self, job: Job, step: int, failure: BaseException | None) -> None:
        """Have the next call made, in the task of one that ended if this left nothing behind in it."""
        if failure is not None:  # it is known later whether the service is down
            self._loop.call_soon(self._pull)
        elif self._queue:
            # only if others began meanwhile, so that the loop has its turn between those that do not wait
            alone, task = self._steps == step, job.task
            self._reusable = not alone and not (task and task.cancelling()) and copy_context() == self._context
            self._pull()
            self._reusable = False

    async def _attempt(self, job: Job) -> None:
        results: Sequence[Any]
        failure: BaseException | None = None
        entries, calling, span = job.entries, 0, None
        step = self._steps = self._steps + 1
        now = self._loop.time()
        try:
            try:
                if job.earliest <= now + TICK:
                    self._expire(job, now + TICK)
                entries = job.entries
                if (self._services or not entries) and self._is_held(job):
                    return
                job.task = asyncio.current_task(self._loop)
                job.count += 1
                job.timed_out = False
                job.began, job.due = now, now + self._timeout
                self._arm(job)
                calling = len(entries)
                self._calling += calling
                started = self._call_observer.started
                span = started and started(self.stage, job.count, map(compacted_of, entries))
                results = await self._call(entries)
                failure = next((each for each in results if isinstance(each, BaseException)), None)
            except BaseException as error:  # noqa: BLE001 - the caller's function may raise anything
                contained(error)
                if job.timed_out and isinstance(error, asyncio.CancelledError):
                    error = TimeoutError(f"no answer within {self._timeout} s")
                failure = without_frames(error)
                results = (failure,) * len(entries)
            finally:
                self._calls -= 1
                self._calling -= calling
                self._call_next(job, step, failure)
            if calling and (ended := self._call_observer.ended) is not None:
                took = self._loop.time() - now
                ended(self.stage, self._target(entries[0]), job.count, calling, took, failure, span)
            if job in self._jobs:  # else it has expired, or was abandoned
                self._remove(job)
                if failure is None and len(job.entries) == len(entries):
                    self._answered(job, entries)
                    self._succeeded(job, entries, results)
                else:
                    await self._settle(job, entries, results)
        except (SystemExit, KeyboardInterrupt) as error:  # which end the loop
            job.error = error
            self._close()
            raise
        finally:
            del job, entries  # an error's traceback may hold this frame

    def _answered(self, job: Job, entries: list[Entry]) -> None:
        if (now := self._loop.time()) > self._since + 1:
            self._since, self._answers = now, 0
        self._answers += 1
        self._latency += (now - job.began - self._latency) / (8 if self._latency else 1)
        if self._services:
            self._succeed_at(self._target(entries[0]))

    async def _settle(self, job: Job, entries: list[Entry], results: Sequence[Any]) -> None:
        """Settle what a call took; have what failed alike go on, or end, by itself."""
        if not all(isinstance(result, BaseException) for result in results):
            self._answered(job, entries)
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
        except BaseException as raised:  # noqa: BLE001 - the policy may raise anything
            with suppress(Exception):  # of a class that allows no attributes
                contained(raised).__cause__ = error
            failed = [(entry, without_frames(raised)) for entry, _ in failed]
        held = set(map(id, job.entries))
        self._remove(job)
        for entry, each in failed:
            if id(entry) in held:
                self._lost("failed", entry, job, each)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _expedite(self) -> None:
        """Cut every wait short: one last attempt for each, then it is abandoned."""
        self._stopping = True
        self._each(self._enqueue, (job for job in list(self._jobs) if job.waiting))
        for service in list(self._services.values()):
            service.probe()

    def _abandon(self, at_once: float = INFINITY) -> None:
        """Abandon what is held and what comes, without waiting for a call that does not end."""
        self._stopping = self._closed = True
        self._queue.clear()
        for service in self._services.values():
            service.close()
        self._each(self._give_up, iter(list(self._jobs)), at_once)

    def _close(self) -> None:
        for timer in (self._guard, self._turn, self._timer):
            if timer is not None:
                timer.cancel()
        self._abandon()

    async def _abandon_at_shutdown(self) -> None:
        """Wait for the loop to cancel all its tasks; nothing else cancels this one, as it may a call's."""
        try:
            await self._loop.create_future()
        except asyncio.CancelledError:
            self._close()
            raise
