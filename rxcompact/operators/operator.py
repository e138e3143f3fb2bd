"""What the operators of a pipeline have in common: options, those that the pipeline hands down among them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass, field, fields
from inspect import iscoroutinefunction
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import reactivex as rx
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, Disposable

from rxcompact.clock import INFINITY, PerSecond, Seconds, count, seconds
from rxcompact.contracts import CallObserver, Holder, StageContext
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter
from rxcompact.operators.retry import Callback, OncePerMinute, Predicate, Wait, full_jitter, retry_policy, transient
from rxcompact.signals import StageSignal

if TYPE_CHECKING:
    from rxcompact.operators.stage import PooledStage
    from rxcompact.operators.windows import Windows

DeadLetters: TypeAlias = ObserverBase[DeadLetter] | Callable[[DeadLetter], object]
"""An observer of dead letters, or a function of one."""
STALL = 1.0
"""Seconds that a function may take, before it is logged that it holds up the event loop."""


@dataclass(kw_only=True, eq=False)
class Operator(ABC):
    """An operator with its options. It is called with an observable, as ``.pipe()`` does, or bound by a pipeline."""

    flushes: Observable[Any] | None = None
    dead_letters: DeadLetters | None = None
    scheduler: SchedulerBase | None = None
    stage: str = field(init=False, default="")
    """The name that its dead letters, signals and metrics bear."""
    register: Callable[[Holder], object] | None = field(init=False, default=None)
    """Called with its stage at each subscription."""

    def __call__(self, source: Observable[Any]) -> Observable[Any]:
        def subscribe(observer: ObserverBase[Any], scheduler: SchedulerBase | None = None) -> DisposableBase:
            scheduler = self.scheduler or scheduler
            stage = self._stage(observer, scheduler)
            if self.register is not None:
                self.register(stage)
            flushes: Observable[Any] = rx.never() if self.flushes is None else self.flushes
            return CompositeDisposable(
                flushes.subscribe(lambda _: stage.expedite(), scheduler=scheduler),
                source.subscribe(stage.on_next, stage.on_error, stage.on_completed, scheduler=scheduler),
                Disposable(stage.dispose),
            )

        return Observable(subscribe)

    @abstractmethod
    def _stage(self, observer: ObserverBase[Any], scheduler: SchedulerBase | None) -> PooledStage | Windows: ...

    def having(self, **options: Any) -> Self:
        """Return it with other options, checked already."""
        changed = copy(self)
        vars(changed).update(options)
        return changed

    def check(self, *own: str) -> None:
        """Refuse options that the pipeline hands down.

        Raises:
            ArgumentError: for one that was given.
        """
        for name in ("flushes", "dead_letters", "scheduler", *own):
            if (value := getattr(self, name)) is not None:
                raise ArgumentError(f"{name} of {self.stage}", value, "absent in a Pipeline, which hands it down")

    def bind(self, context: StageContext) -> Self:
        """Return the operator with what the pipeline shares, where it has none of its own."""
        shared = (each.name for each in fields(context) if getattr(self, each.name, context) is None)
        return self.having(**{name: getattr(context, name) for name in shared})

    def reject(self) -> Callable[[DeadLetter], object]:
        """Return what is called with dead letters; by default it logs them, without events, which may be secret."""
        letters = self.dead_letters
        if letters is not None:
            return letters.on_next if isinstance(letters, ObserverBase) else letters
        log = OncePerMinute("WARNING", "{} at {} ({}): {text}")
        return lambda letter: log(letter.outcome, letter.stage, letter.reason, text=letter.error)


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
