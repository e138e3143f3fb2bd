"""What the operators of a pipeline have in common: options that the pipeline hands down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Generic, Self, TypeAlias

from loguru import logger
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from typing_extensions import TypeVar

from rxcompact.contracts import Holder, StageContext
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter

A = TypeVar("A", default=Any)
B = TypeVar("B", default=Any)
F = TypeVar("F", bound=Callable[..., Any])
DeadLetters: TypeAlias = ObserverBase[DeadLetter] | Callable[[DeadLetter], object]
"""An observer of dead letters, or a function of one."""
PERIOD = 60.0
"""Seconds between two lines of the log about one cause."""


@dataclass(frozen=True, kw_only=True)
class Operator(ABC, Generic[A, B]):
    """An operator with its options. It is called with an observable, as ``.pipe()`` does, or bound by a pipeline."""

    stage: str
    """The name that its dead letters, signals and metrics bear."""
    flushes: Observable[Any] | None = None
    dead_letters: DeadLetters | None = None
    scheduler: SchedulerBase | None = None
    register: Callable[[Holder], object] | None = None

    def __call__(self, source: Observable[A]) -> Observable[B]:
        def subscribe(observer: ObserverBase[B], scheduler: SchedulerBase | None = None) -> DisposableBase:
            return self._subscribe(source, observer, self.scheduler or scheduler)

        return Observable(subscribe)

    @abstractmethod
    def _subscribe(
        self, source: Observable[A], observer: ObserverBase[B], scheduler: SchedulerBase | None
    ) -> DisposableBase: ...

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
        return replace(
            self,
            flushes=context.flushes,
            dead_letters=context.dead_letters,
            scheduler=context.scheduler,
            register=context.register,
        )

    @property
    def reject(self) -> Callable[[DeadLetter], object]:
        """What is called with dead letters; by default `DeadLetterLog`."""
        return DeadLetterLog() if self.dead_letters is None else as_callback(self.dead_letters)


def registering(operator: F, register: Callable[[Holder], object]) -> F:
    """Return one of our operators such that it calls ``register`` with its stage at each subscription."""
    if not isinstance(operator, Operator):
        raise ArgumentError("operator", operator, "compact, enrich or publish")
    registered: Any = replace(operator, register=register)
    return registered  # type: ignore[no-any-return]


def as_callback(observer: DeadLetters) -> Callable[[DeadLetter], object]:
    """Return the function that an observer is notified by; a function as it is."""
    return observer.on_next if isinstance(observer, ObserverBase) else observer


class DeadLetterLog:
    """Logs dead letters where nobody else takes them: a warning when a cause begins, then at most one a minute.

    A line has the reason and the last error, not the event, whose body may be secret.
    """

    def __init__(self) -> None:
        self._logged: dict[tuple[str, str, str], tuple[float, int]] = {}  # when, and how many since

    def __call__(self, letter: DeadLetter) -> None:
        cause, now = (letter.outcome, letter.stage, letter.reason), monotonic()
        last, since = self._logged.get(cause, (-PERIOD, 0))
        if now - last < PERIOD:
            self._logged[cause] = last, since + 1
            return
        self._logged[cause] = now, 0
        logger.warning("{} {} at {} ({}): {}", since + 1, *cause, letter.error)
