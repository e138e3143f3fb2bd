"""What the stages behind compaction share: events in, a pool of calls, outcomes out."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from itertools import count as numbers
from operator import attrgetter
from time import monotonic
from typing import Any, Self

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, Disposable

from rxcompact.clock import INFINITY, Clock, PerSecond, Seconds, count, default_scheduler, is_running, seconds
from rxcompact.contracts import CallObserver, StageContext
from rxcompact.errors import AbandonedError, ArgumentError, LoopError
from rxcompact.events import Compacted, DeadLetter, Window
from rxcompact.operators.jobs import Entry, Job, Loss
from rxcompact.operators.operator import Operator
from rxcompact.operators.pool import Pool
from rxcompact.operators.retry import (
    Callback,
    OncePerMinute,
    Predicate,
    Wait,
    expired_error,
    full_jitter,
    reason,
    retry_policy,
    transient,
)
from rxcompact.operators.service import Service
from rxcompact.operators.turns import SLICE
from rxcompact.signals import Failing, Healed, RetryScheduled, Slots, StageSignal

_first_seen = attrgetter("first_seen")
STALL = 1.0
"""Seconds that a function may take, before it is logged that it holds up the event loop."""


@dataclass(kw_only=True, eq=False)
class PooledOperator(Operator):
    """An operator that makes calls; ``max_age`` is the pipeline's where it has none."""

    max_age: Seconds | None = None
    max_concurrent: int
    timeout: Seconds | None
    rate: PerSecond | None = None
    wait: Wait = full_jitter
    retry: Predicate = transient
    before_sleep: Callback | None = None
    signals: Callable[[StageSignal], object] | None = field(init=False, default=None)
    calls: CallObserver | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.max_concurrent = count("max_concurrent", self.max_concurrent)
        self.max_age = None if self.max_age is None else seconds("max_age", self.max_age)
        self.timeout = None if self.timeout is None else seconds("timeout", self.timeout)
        rate: Any = self.rate
        if rate is not None and not (isinstance(rate, float | int) and 0 < rate < INFINITY):
            raise ArgumentError("rate", self.rate, "calls a second, more than 0")
        self.policy = retry_policy(self.wait, self.retry, self.before_sleep)

    def bind(self, context: StageContext) -> Self:
        bound = super().bind(context)
        return bound.having(max_age=self.max_age or context.max_age, signals=context.signals, calls=context.calls)

    def _subscribe(
        self, source: Observable[Any], observer: ObserverBase[Any], scheduler: SchedulerBase | None
    ) -> DisposableBase:
        stage = self._stage(observer, scheduler)
        return CompositeDisposable(
            self._attach(stage, stage.expedite, scheduler),
            source.subscribe(stage, scheduler=scheduler),
            Disposable(stage.dispose),
        )

    @abstractmethod
    def _stage(self, observer: ObserverBase[Any], scheduler: SchedulerBase | None) -> PooledStage: ...


def awaitable(function: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    """Return a coroutine function as it is, and one for any other function.

    One that blocks for more than a second is logged, once a minute.
    """
    if iscoroutinefunction(function):
        return function
    log = OncePerMinute("WARNING", "{} held up the event loop for {text} s: call it by asyncio.to_thread")

    async def call(argument: Any) -> Any:
        began = monotonic()
        result = function(argument)
        if hasattr(result, "__await__"):
            return await result
        if (took := monotonic() - began) > STALL:
            log(getattr(function, "__qualname__", type(function).__name__), text=f"{took:.1f}")
        return result

    return call


def loop_of(scheduler: SchedulerBase, operator: str) -> asyncio.AbstractEventLoop:
    """Return a scheduler's loop, else the running one."""
    try:
        of_scheduler: asyncio.AbstractEventLoop | None = getattr(scheduler, "_loop", None)
        return of_scheduler or asyncio.get_running_loop()
    except RuntimeError:
        raise LoopError(f"{operator} awaits its calls: subscribe in a running asyncio loop") from None


class PooledStage(Pool, ObserverBase[Any]):
    """A stage that calls something for its events, and emits or dead-letters each.

    Items may come from any thread; everything else happens on the loop.
    """

    def __init__(self, options: PooledOperator, observer: ObserverBase[Any], scheduler: SchedulerBase | None) -> None:
        if options.max_age is None:
            raise ArgumentError(f"max_age of {options.stage}", None, "given outside a Pipeline")
        scheduler = scheduler or default_scheduler()
        super().__init__(
            loop_of(scheduler, options.stage),
            options.policy,
            max_age=seconds("max_age", options.max_age, infinite=True),
            max_concurrent=options.max_concurrent,
            timeout=INFINITY if options.timeout is None else seconds("timeout", options.timeout),
            rate=options.rate or INFINITY,
        )
        self.stage = options.stage
        self._clock = Clock(scheduler)
        self._observer = observer
        self._dead_letters = options.reject()
        self._signals, self._call_observer = options.signals, options.calls or CallObserver()
        self.lookups: Counter[str] = Counter()
        """Events by what answered them."""
        self._losses = 0
        self._held = 0
        self._places = numbers()
        self._completion: Callable[[], None] | None = None

    def on_next(self, value: Window | Compacted | Sequence[Compacted]) -> None:
        """Take a window, or one distinct event."""
        self._run(self._take, [value] if isinstance(value, Compacted) else value)

    def on_completed(self) -> None:
        """Complete when everything is settled."""
        self._run(self._finish, self._observer.on_completed)

    def on_error(self, error: Exception) -> None:
        """Fail when everything is settled."""
        self._run(self._finish, lambda: self._observer.on_error(error))

    def expedite(self) -> None:
        """Wait for nothing more: one last attempt for each."""
        self._run(self._expedite)

    def dispose(self) -> None:
        """Abandon what is held."""
        self._run(self._close)

    async def abandon(self) -> None:
        """Abandon what is held, and what comes. The loop has its turn between slices."""
        self._start_nothing()
        left = SLICE
        for job in list(self._jobs):
            if job in self._jobs:  # else its call has ended meanwhile
                left -= len(job.entries)
                if job.task is not None:
                    job.task.cancel()
                self._give_up(job)
            if left <= 0:
                left = SLICE
                await asyncio.sleep(0)
        self._settled()

    def _run(self, action: Callable[..., None], *arguments: Any) -> None:
        if is_running(self._loop):
            action(*arguments)
        else:
            self._loop.call_soon_threadsafe(action, *arguments)

    def _take(self, items: Sequence[Compacted]) -> None:
        self._held += len(items)
        self._handle(list(map(Entry, self._deadlines(items), self._places, items)))

    def _deadlines(self, items: Sequence[Compacted]) -> Sequence[float]:
        """Return when events are too old; without a birth they begin to age now."""
        now, wall, max_age = self._loop.time(), self._clock.wall, self._max_age
        births = list(map(_first_seen, items))
        if wall.past:  # the wall clock was set: a birth is by what it showed then
            return [max_age + (now if born is None else wall.instant(born)) for born in births]
        latest = now + max_age
        ages = latest - wall()
        return [latest if born is None or (deadline := born + ages) > latest else deadline for born in births]

    @abstractmethod
    def _handle(self, entries: list[Entry]) -> None:
        """Have calls made for events."""

    def _finish(self, completion: Callable[[], None]) -> None:
        self._completion = completion
        self._settled()

    def held(self) -> int:
        """Return how many events are held."""
        return self._held

    def oldest(self) -> float | None:
        """Return the age of the oldest event that is called for, or waits for it, seconds."""
        earliest = self._earliest()
        return None if earliest is None else self._max_age - (earliest - self._loop.time())

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

    def _notify(self, observe: Callable[[Any], object], item: Any) -> None:
        try:
            observe(item)
        except BaseException as error:
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise
            self._loop.call_exception_handler({"message": f"an observer of {self.stage} raised", "exception": error})

    def _retrying(self, job: Job, wait: float) -> None:
        if self._signals is not None and job.error is not None:
            keys = tuple(entry.compacted.key for entry in job.entries)
            self._signals(RetryScheduled(self.stage, job.count, wait, job.error, keys))

    def slots(self) -> Slots:
        """Return what it has to do."""
        return Slots(self._calls, self._max_concurrent, min(self._calling, self._held), self.lookups)

    def _call_ended(self, job: Job, entries: list[Entry], began: float, span: Any, results: Sequence[Any]) -> None:
        if self._call_observer.ended is not None:
            found = results[0] if results else None
            if len(results) > 1:
                found = next((each for each in results if isinstance(each, BaseException)), None)
            error = found if isinstance(found, BaseException) else None
            target, took = self._target(entries[0]), self._loop.time() - began
            self._call_observer.ended(self.stage, target, job.count, len(entries), took, error, span)

    def _switched(self, target: str, service: Service, error: BaseException | None, after: float = 0.0) -> None:
        if error is not None:
            service.breaker.lost = self._losses
        if self._signals is not None:
            lost = self._losses - service.breaker.lost
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
