"""What the stages behind compaction share: events in, a pool of calls, outcomes out."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any, Generic, Self, TypeVar

from loguru import logger
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, Disposable
from reactivex.scheduler.eventloop import AsyncIOScheduler

from rxcompact.clock import Clock, default_scheduler, is_running
from rxcompact.contracts import StageContext
from rxcompact.errors import AbandonedError, ArgumentError, LoopError
from rxcompact.events import Compacted, DeadLetter, Window
from rxcompact.operators.operator import Operator
from rxcompact.operators.pool import Call, E, Job, OutcomeHandler, Pool
from rxcompact.operators.retry import INFINITY, RetryPolicy, expired_error, reason
from rxcompact.signals import RetryScheduled

T = TypeVar("T")
STALL = 1.0
MINUTE = 60.0


def loop_of(scheduler: SchedulerBase, operator: str) -> asyncio.AbstractEventLoop:
    """Return a scheduler's loop, else the running one.

    Raises:
        LoopError: when there is neither.
    """
    if isinstance(scheduler, AsyncIOScheduler):
        return scheduler._loop  # pyright: ignore[reportPrivateUsage]
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise LoopError(f"{operator} awaits its calls: subscribe in a running asyncio loop") from None


@dataclass(frozen=True, kw_only=True)
class PooledOperator(Operator[Window | Compacted, T]):
    """An operator that makes calls; ``max_age`` is the pipeline's where it has none."""

    max_age: float | None
    max_concurrent: int
    timeout: float | None
    policy: RetryPolicy
    retries: Callable[[RetryScheduled], object] | None = None

    @property
    @abstractmethod
    def part(self) -> Any:
        """What is called: an enricher or a sink."""

    def bind(self, context: StageContext) -> Self:
        return replace(super().bind(context), max_age=self.max_age or context.max_age, retries=context.retries)

    def _subscribe(
        self, source: Observable[Window | Compacted], observer: ObserverBase[T], scheduler: SchedulerBase | None
    ) -> DisposableBase:
        stage = self._stage(observer, scheduler)
        if self.register is not None:
            self.register(stage)
        subscription = CompositeDisposable()
        if self.flushes is not None:
            subscription.add(self.flushes.subscribe(lambda _: stage.expedite(), scheduler=scheduler))
        subscription.add(source.subscribe(stage, scheduler=scheduler))
        subscription.add(Disposable(stage.dispose))
        return subscription

    @abstractmethod
    def _stage(self, observer: ObserverBase[T], scheduler: SchedulerBase | None) -> PooledStage[Any, T]: ...


def awaitable(function: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    """Return a coroutine function as it is, and one for any other function."""
    return function if iscoroutinefunction(function) else Function(function)


class Function:
    """Calls and awaits a function of the caller's. One that blocks for more than a second is logged, once a minute."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._logged = -INFINITY

    async def __call__(self, argument: Any) -> Any:
        began = monotonic()
        result = self._function(argument)
        if hasattr(result, "__await__"):
            return await result
        now = monotonic()
        if now - began > STALL and now - self._logged > MINUTE:
            self._logged = now
            name = getattr(self._function, "__qualname__", type(self._function).__name__)
            logger.warning("{} held up the event loop for {:.1f} s: call it by asyncio.to_thread", name, now - began)
        return result


class PooledStage(ObserverBase[Any], OutcomeHandler[E], Generic[E, T]):
    """A stage that calls something for its events, and emits or dead-letters each.

    Items may come from any thread; everything else happens on the loop.
    """

    def __init__(
        self,
        call: Call[E],
        observer: ObserverBase[T],
        options: PooledOperator[T],
        scheduler: SchedulerBase | None,
    ) -> None:
        if options.max_age is None:
            raise ArgumentError(f"max_age of {options.stage}", None, "given outside a Pipeline")
        scheduler = scheduler or default_scheduler()
        self.stage = options.stage
        self._loop = loop_of(scheduler, self.stage)
        self._clock = Clock(scheduler)
        self._observer = observer
        self._max_age = options.max_age
        self._dead_letters = options.reject
        self._retries = options.retries
        self._completion: Callable[[], None] | None = None
        self._pool: Pool[E] = Pool(
            call,
            self,
            max_age=options.max_age,
            max_concurrent=options.max_concurrent,
            timeout=options.timeout,
            policy=options.policy,
            loop=self._loop,
        )

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_next(self, value: Window | Compacted | Sequence[Compacted]) -> None:
        """Take a window, or one distinct event."""
        self._run(lambda: self._handle([value] if isinstance(value, Compacted) else value))

    def on_completed(self) -> None:
        """Complete when everything is settled."""
        self._run(lambda: self._finish(self._observer.on_completed))

    def on_error(self, error: Exception) -> None:
        """Fail when everything is settled."""
        self._run(lambda: self._finish(lambda: self._observer.on_error(error)))

    def expedite(self) -> None:
        """Wait for nothing more: one last attempt for each."""
        self._run(self._pool.expedite)

    def dispose(self) -> None:
        """Abandon what is held."""
        self._run(self._pool.close)

    def _run(self, action: Callable[[], None]) -> None:
        if is_running(self._loop):
            action()
        else:
            self._loop.call_soon_threadsafe(action)

    @abstractmethod
    def _handle(self, items: Sequence[Compacted]) -> None: ...

    def _finish(self, completion: Callable[[], None]) -> None:
        self._completion = completion
        self.settled()

    # ── what is held ──────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def held(self) -> int:
        """Return how many events are held."""

    def oldest(self) -> float | None:
        """Return the age of the oldest event that is called for, or waits for it, seconds."""
        earliest = self._pool.earliest()
        return None if earliest is None else self._max_age - (earliest - self._loop.time())

    def waiting(self) -> int:
        """Return how many calls failed and wait to be made again."""
        return self._pool.waiting()

    def _is_empty(self) -> bool:
        """Return whether nothing is held, without counting."""
        return self._pool.idle()

    def _deadlines(self) -> Callable[[Sequence[Compacted]], Sequence[float]]:
        """Return what gives the deadlines of events; without a birth they begin to age now."""
        now, wall = self._loop.time(), self._clock.wall
        return partial(_deadlines, None if wall.past else wall() - now, wall.instant, self._max_age, now)

    def _age(self, compacted: Compacted) -> float:
        born = compacted.first_seen
        return 0.0 if born is None else self._loop.time() - self._clock.wall.instant(born)

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def settled(self) -> None:
        """End the stream, if its source has ended and nothing is held."""
        if self._completion is not None and self._is_empty():
            completion, self._completion = self._completion, None
            completion()

    def _emit(self, item: T) -> None:
        try:
            self._observer.on_next(item)
        except BaseException as error:  # noqa: BLE001 - an observer's fault is no event's
            self._report(error)

    def _report(self, error: BaseException) -> None:
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise error
        self._loop.call_exception_handler({"message": f"an observer of {self.stage} raised", "exception": error})

    def retrying(self, job: Job[E], wait: float) -> None:
        if self._retries is not None and job.error is not None:
            self._retries(RetryScheduled(self.stage, job.count, wait, job.error))

    def _dead_letter(self, outcome: Any, compacted: Compacted, error: BaseException, attempts: int) -> None:
        letter = DeadLetter(outcome, compacted, self.stage, reason(error), error, attempts, self._age(compacted))
        try:
            self._dead_letters(letter)
        except BaseException as raised:  # noqa: BLE001 - as above
            self._report(raised)

    def _expire(self, compacted: Compacted, job: Job[E] | None = None) -> None:
        count, cause = (0, None) if job is None else (job.count, job.error)
        error = expired_error(self._age(compacted), self._max_age, count, cause)
        self._dead_letter("expired", compacted, error, count)

    def _abandon(self, compacted: Compacted, job: Job[E] | None = None) -> None:
        count = 0 if job is None else job.count
        error = AbandonedError(f"stopped after {count} attempts")
        error.__cause__ = None if job is None else job.error
        self._dead_letter("abandoned", compacted, error, count)


def _deadlines(
    offset: float | None, instant: Callable[[float], float], max_age: float, now: float, items: Sequence[Compacted]
) -> Sequence[float]:
    births = [item.first_seen for item in items]
    if offset is None:  # the wall clock was set: a birth is by what it showed then
        return [max_age + (now if born is None else instant(born)) for born in births]
    latest = now + max_age
    ages = max_age - offset
    return [latest if born is None or (deadline := born + ages) > latest else deadline for born in births]
