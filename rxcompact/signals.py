"""Frozen records of what happened, and the account of it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from rxcompact.events import DeadLetter, Stage, Trigger
from rxcompact.render import account_html

State: TypeAlias = Literal["idle", "running", "restarting", "draining", "stopped", "failed"]


class Account(NamedTuple):
    """What came in, and what became of it.

    Always: received = duplicates + distinct + refused, and
    distinct = published + expired + rejected + dropped + abandoned + in_flight.
    """

    received: int = 0
    """Events that sources emitted."""
    duplicates: int = 0
    """Absorbed by a key that was held."""
    distinct: int = 0
    refused: int = 0
    """Rejected at the door: malformed, without a key or a time, late."""
    published: int = 0
    expired: int = 0
    rejected: int = 0
    dropped: int = 0
    abandoned: int = 0
    in_flight: int = 0
    """Distinct events that have not met their end."""

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in self._asdict().items())

    def _repr_html_(self) -> str:
        return account_html(self)


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The orchestrator went from one state to another."""

    old: State
    new: State


@dataclass(frozen=True, slots=True)
class WindowClosed:
    """A window closed."""

    opened: float
    closed: float
    trigger: Trigger
    received: int
    distinct: int


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A call failed and will be made again."""

    stage: Stage
    attempt: int
    """The one that failed, from 1."""
    wait: float
    """Seconds until the next."""
    error: BaseException


@dataclass(frozen=True, slots=True)
class BatchPublished:
    """A sink took a batch."""

    size: int
    attempts: int


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """An event met an end other than published."""

    letter: DeadLetter


@dataclass(frozen=True, slots=True)
class SourceFailed:
    """A source died; it is subscribed to again, unless this is the end."""

    error: Exception
    failures: int
    """In a row."""
    wait: float
    """Seconds until it is."""


@dataclass(frozen=True, slots=True)
class ObserverFailed:
    """An observer raised; nobody else noticed."""

    observer: str
    error: BaseException
    failures: int
    """In a row."""
    detached: bool
    """Whether it failed so often that it is told of nothing more."""


Signal: TypeAlias = (
    StateChanged | WindowClosed | RetryScheduled | BatchPublished | DeadLettered | SourceFailed | ObserverFailed
)
