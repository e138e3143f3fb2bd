"""retry_until_age: tries one observable, or one coroutine function's calls, again until it is too old."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar, overload

import reactivex as rx
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, SerialDisposable, SingleAssignmentDisposable

from rxcompact.clock import INFINITY, Clock, LoopScheduler, Seconds, default_scheduler, seconds
from rxcompact.errors import ExpiredError
from rxcompact.operators.retry import (
    Attempts,
    Callback,
    Predicate,
    Wait,
    expired_error,
    full_jitter,
    is_async,
    retry_policy,
    transient,
)

P = ParamSpec("P")
T = TypeVar("T")


class retry_until_age:  # noqa: N801 - an operator, named as RxPY names them
    """Try again until it is too old: an observable's subscription, or a coroutine function's call.

    ::

        source   --x   --x      --a|
                 retry_until_age(30)
        result   --------------------a|

    As an operator it resubscribes, so it belongs on the call of one item (`rx.defer(fetch)`), not on the stream. As a
    decorator it calls again::

        @retry_until_age(30, born=lambda event: event["ts"])
        async def lookup(event): ...

    Args:
        max_age: Seconds after birth at which to give up. No attempt starts after it; one under way is cancelled.
        born: POSIX seconds of birth, or a function that gives them (of the call's arguments, where it decorates); by
            default the moment of subscription, or of the call.
        wait, retry, before_sleep: As in `enrich`.
        scheduler: Its clock and timers; by default the subscription's, or the running asyncio loop's.

    Shape:
        `Observable[T]` to `Observable[T]`. Items of an attempt that fails later have been passed on.

    Cost:
        tenacity's machinery is made at the first failure, so a call that succeeds costs next to nothing.

    Errors:
        The last error, when it is one that retrying cannot mend; `ExpiredError`, with the last error as its cause, when
        it is too old.

    Raises:
        ArgumentError: for an argument out of range.

    Source:
        https://tenacity.readthedocs.io (whose ``stop_after_delay`` counts from the first attempt, which is not an age)
    """

    def __init__(
        self,
        max_age: Seconds,
        *,
        born: float | Callable[..., float] | None = None,
        wait: Wait = full_jitter,
        retry: Predicate = transient,
        before_sleep: Callback | None = None,
        scheduler: SchedulerBase | None = None,
    ) -> None:
        self._max_age = seconds("max_age", max_age)
        self._born = born
        self._policy = retry_policy(wait, retry, before_sleep)
        self._scheduler = scheduler

    @overload
    def __call__(self, what: Observable[T]) -> Observable[T]: ...
    @overload
    def __call__(self, what: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __call__(self, what: Any) -> Any:
        return self._observable(what) if isinstance(what, Observable) else self._function(what)

    def _begin(self, scheduler: SchedulerBase, *args: Any, **kwargs: Any) -> tuple[Attempts, Callable[[], float]]:
        """Return the attempts at one call, and what gives the seconds that are left to it."""
        clock = Clock(scheduler)
        age = 0.0
        if self._born is not None:
            age = clock.wall() - (self._born(*args, **kwargs) if callable(self._born) else self._born)
        deadline = clock.monotonic() + self._max_age - age
        return Attempts(self._policy, self._max_age), lambda: deadline - clock.monotonic()

    async def _wait(self, attempts: Attempts, error: Exception, left: float) -> float:
        """Return how long to wait, at most until it is too old; raise what retrying cannot mend."""
        if await attempts.failed(error) is None:
            raise error
        wait = attempts.fit(left)
        if wait == INFINITY:
            return left
        await attempts.before_sleep(wait)
        return wait

    def _expired(self, attempts: Attempts, left: float) -> ExpiredError:
        return expired_error(self._max_age - left, self._max_age, attempts.count, attempts.error)

    def _function(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(function)
        async def until_age(*args: P.args, **kwargs: P.kwargs) -> T:
            scheduler = self._scheduler or LoopScheduler(asyncio.get_running_loop())
            attempts, left = self._begin(scheduler, *args, **kwargs)
            while left() > 0:
                attempts.count += 1
                try:
                    async with asyncio.timeout(left()):
                        return await function(*args, **kwargs)
                except Exception as error:  # noqa: BLE001 - raised again, where retrying cannot mend it
                    wait = await self._wait(attempts, error, left())
                await asyncio.sleep(wait)
            raise self._expired(attempts, left())

        return until_age

    def _observable(self, source: Observable[T]) -> Observable[T]:
        def subscribe(observer: ObserverBase[T], scheduler: SchedulerBase | None = None) -> DisposableBase:
            timers = default_scheduler(self._scheduler or scheduler)
            attempts, left = self._begin(timers)
            attempt, expiry = SerialDisposable(), SingleAssignmentDisposable()

            def expire(*_: Any) -> None:
                attempt.dispose()
                observer.on_error(self._expired(attempts, left()))

            def start(*_: Any) -> None:
                attempts.count += 1
                attempt.disposable = subscription = SingleAssignmentDisposable()
                subscription.disposable = source.subscribe(
                    observer.on_next, failed, observer.on_completed, scheduler=scheduler
                )

            def failed(error: Exception) -> None:
                decision = again(error)
                if is_async(self._policy):
                    attempt.disposable = rx.from_future(asyncio.ensure_future(decision)).subscribe()
                else:
                    with suppress(StopIteration):
                        decision.send(None)

            async def again(error: Exception) -> None:
                try:
                    wait = await self._wait(attempts, error, left())
                except Exception as raised:  # noqa: BLE001 - the caller's wait or condition may raise anything
                    observer.on_error(raised)
                    return
                if wait < left():
                    attempt.disposable = pause = SingleAssignmentDisposable()
                    pause.disposable = timers.schedule_relative(wait, start)

            if left() <= 0:
                expire()
            else:
                expiry.disposable = timers.schedule_relative(left(), expire)
                start()
            return CompositeDisposable(attempt, expiry)

        return Observable(subscribe)
