"""How operators tell those who asked: of dead letters, and of what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from loguru import logger
from reactivex.abc import ObserverBase

from rxcompact.contracts import Holder
from rxcompact.events import DeadLetter

T = TypeVar("T")


Probe: TypeAlias = Callable[[Holder], object]
"""Called at subscription with what will hold the events."""


def as_callback(observer: ObserverBase[T] | Callable[[T], object]) -> Callable[[T], object]:
    """Return what tells an observer, or a function, of an item."""
    return observer.on_next if isinstance(observer, ObserverBase) else observer


def log_dead_letter(letter: DeadLetter) -> None:
    """Say that an event was set aside, and why; not which, since its body may be secret."""
    logger.warning("{} at {}: {} ({})", letter.outcome, letter.stage, letter.reason, type(letter.error).__name__)
