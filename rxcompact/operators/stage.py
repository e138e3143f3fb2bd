"""What the stages behind compaction share: events in, a pool of calls, outcomes out."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Self, TypeVar

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, Disposable
from reactivex.scheduler.eventloop import AsyncIOScheduler
from tenacity import RetryCallState

from rxcompact.clock import Clock, default_scheduler, is_running
from rxcompact.contracts import StageContext
from rxcompact.errors import AbandonedError, ArgumentError, ExpiredError, LoopError
from rxcompact.events import Compacted, DeadLetter, Window
from rxcompact.operators.job import Call, E, Job
from rxcompact.operators.operator import Operator
from rxcompact.operators.pool import Pool
from rxcompact.operators.retry import RetryPolicy, reason
from rxcompact.signals import RetryScheduled

T = TypeVar("T")


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

    @property
    def reported_policy(self) -> RetryPolicy:
        """The policy, with a signal for each retry."""
        own, retries = self.policy.before_sleep, self.retries
        if retries is None:
            return self.policy

        def before_sleep(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            if error is not None:
                retries(RetryScheduled(self.stage, state.attempt_number, state.upcoming_sleep, error))
            if own is not None:
                own(state)

        return replace(self.policy, before_sleep=before_sleep)

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


class PooledStage(ObserverBase[Any], Generic[E, T]):
    """A stage that calls something for its events, and tells of the end of each.

    Items may come from any thread; everything else happens on the loop.
    """

    def __init__(
        self,
        call: Call[E],
        observer: ObserverBase[T],
        options: PooledOperator[T],
        scheduler: SchedulerBase | None,
        *,
        single: bool,
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
        self._completion: Callable[[], None] | None = None
        self._pool: Pool[E] = Pool(
            call,
            self,
            single=single,
            max_concurrent=options.max_concurrent,
            timeout=options.timeout,
            policy=options.reported_policy,
            loop=self._loop,
        )

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_next(self, value: Window | Compacted | Sequence[Compacted]) -> None:
        """Take a window, or one distinct event."""
        self._run(lambda: self._take([value] if isinstance(value, Compacted) else value))

    def on_completed(self) -> None:
        """Complete when everything has met its end."""
        self._run(lambda: self._finish(self._observer.on_completed))

    def on_error(self, error: Exception) -> None:
        """Fail when everything has met its end."""
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
    def held(self) -> int:
        """Return how many events are on their way through."""

    def oldest(self) -> float | None:
        """Return the age of the oldest event that is called for, or waits for it, seconds."""
        earliest = self._pool.earliest()
        return None if earliest is None else self._max_age - (earliest - self._loop.time())

    def waiting(self) -> int:
        """Return how many calls failed and wait to be made again."""
        return self._pool.waiting()

    def _is_empty(self) -> bool:
        """Tell whether nothing is held, without counting."""
        return self._pool.idle()

    @abstractmethod
    def _take(self, items: Sequence[Compacted]) -> None: ...

    def _deadlines(self) -> Callable[[Sequence[Compacted]], Sequence[float]]:
        """Return what gives the deadlines of events; without a birth they begin to age now."""
        now, wall = self._loop.time(), self._clock.wall()
        return partial(_deadlines, now - wall + self._max_age, now + self._max_age)

    def _age(self, compacted: Compacted) -> float:
        return 0.0 if compacted.first_seen is None else self._clock.wall() - compacted.first_seen

    def _finish(self, completion: Callable[[], None]) -> None:
        self._completion = completion
        self.settled()

    def settled(self) -> None:
        """End the stream, if its source has ended and nothing is held."""
        if self._completion is not None and self._is_empty():
            completion, self._completion = self._completion, None
            completion()

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _emit(self, item: T) -> None:
        try:
            self._observer.on_next(item)
        except Exception as error:  # noqa: BLE001 - an observer's fault must not end a worker
            message = f"an observer of {self.stage} raised"
            self._loop.call_exception_handler({"message": message, "exception": error})

    def _bury(self, outcome: Any, compacted: Compacted, error: BaseException, attempts: int) -> None:
        letter = DeadLetter(outcome, compacted, self.stage, reason(error), error, attempts, self._age(compacted))
        try:
            self._dead_letters(letter)
        except Exception as raised:  # noqa: BLE001 - as above
            message = f"a dead letter observer of {self.stage} raised"
            self._loop.call_exception_handler({"message": message, "exception": raised})

    @staticmethod
    @abstractmethod
    def _compacted(entry: E) -> Compacted: ...

    def _expire(self, compacted: Compacted, attempts: int, cause: BaseException | None = None) -> None:
        error = ExpiredError(self._age(compacted), self._max_age, attempts)
        error.__cause__ = cause
        self._bury("expired", compacted, error, attempts)

    def expired(self, job: Job[E], entry: E) -> None:
        self._expire(self._compacted(entry), job.count, job.error)

    def failed(self, job: Job[E], entry: E, error: BaseException) -> None:
        self._bury("failed", self._compacted(entry), error, job.count)

    def abandoned(self, job: Job[E], entry: E) -> None:
        error = AbandonedError(f"stopped after {job.count} attempts")
        error.__cause__ = job.error
        self._bury("abandoned", self._compacted(entry), error, job.count)

    @abstractmethod
    def succeeded(self, job: Job[E], entries: Sequence[E], results: Sequence[Any]) -> None: ...


def _deadlines(from_birth: float, unknown: float, items: Sequence[Compacted]) -> Sequence[float]:
    return [unknown if (born := item.first_seen) is None else born + from_birth for item in items]
