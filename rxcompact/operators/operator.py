"""What the operators of a pipeline have in common: options that the pipeline hands down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias, TypeVar

import reactivex as rx
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase

from rxcompact.contracts import Holder, StageContext
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter
from rxcompact.operators.retry import OncePerMinute

F = TypeVar("F", bound=Callable[..., Any])
DeadLetters: TypeAlias = ObserverBase[DeadLetter] | Callable[[DeadLetter], object]
"""An observer of dead letters, or a function of one."""


@dataclass(kw_only=True, eq=False)
class Operator(ABC):
    """An operator with its options. It is called with an observable, as ``.pipe()`` does, or bound by a pipeline."""

    flushes: Observable[Any] | None = None
    dead_letters: DeadLetters | None = None
    scheduler: SchedulerBase | None = None
    stage: str = field(init=False, default="")
    """The name that its dead letters, signals and metrics bear."""
    register: Callable[[Holder], object] | None = field(init=False, default=None)

    def __call__(self, source: Observable[Any]) -> Observable[Any]:
        def subscribe(observer: ObserverBase[Any], scheduler: SchedulerBase | None = None) -> DisposableBase:
            return self._subscribe(source, observer, self.scheduler or scheduler)

        return Observable(subscribe)

    @abstractmethod
    def _subscribe(
        self, source: Observable[Any], observer: ObserverBase[Any], scheduler: SchedulerBase | None
    ) -> DisposableBase: ...

    def _attach(self, holder: Holder, flush: Callable[[], None], scheduler: SchedulerBase | None) -> DisposableBase:
        """Register a stage, and have it flushed."""
        if self.register is not None:
            self.register(holder)
        flushes: Observable[Any] = rx.never() if self.flushes is None else self.flushes
        return flushes.subscribe(lambda _: flush(), scheduler=scheduler)

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
        """Return the operator with what the pipeline shares."""
        shared = ("flushes", "dead_letters", "scheduler", "register")
        return self.having(**{name: getattr(context, name) for name in shared})

    def reject(self) -> Callable[[DeadLetter], object]:
        """Return what is called with dead letters; by default it logs them, without events, which may be secret."""
        letters = self.dead_letters
        if letters is not None:
            return letters.on_next if isinstance(letters, ObserverBase) else letters
        log = OncePerMinute("WARNING", "{} at {} ({}): {text}")
        return lambda letter: log(letter.outcome, letter.stage, letter.reason, text=letter.error)


def registering(operator: F, register: Callable[[Holder], object]) -> F:
    """Return one of our operators such that it calls ``register`` with its stage at each subscription."""
    if not isinstance(operator, Operator):
        raise ArgumentError("operator", operator, "compact, enrich or publish")
    registered: Any = operator.having(register=register)
    return registered  # type: ignore[no-any-return]
