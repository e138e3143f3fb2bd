"""Frozen records of what happened, and the account of it all."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from rxcompact.events import DeadLetter, Stage, Trigger, shown_by

State: TypeAlias = Literal["idle", "running", "restarting", "draining", "stopped", "failed"]


class Account(NamedTuple):
    """What came in, and what became of it.

    Always: received = duplicates + distinct + rejected, and
    distinct = published + expired + failed + dropped + abandoned + in_flight.
    """

    received: int = 0
    """Events that sources emitted."""
    duplicates: int = 0
    """Absorbed by a key that was held."""
    distinct: int = 0
    rejected: int = 0
    """Not taken at intake: malformed, without a key or a time, late, in the future, too large."""
    published: int = 0
    expired: int = 0
    """Too old before they were published."""
    failed: int = 0
    """Met an error that retrying cannot mend."""
    dropped: int = 0
    """Given up for want of capacity."""
    abandoned: int = 0
    """Not settled by a stop's deadline."""
    in_flight: int = 0
    """Distinct events that are not settled."""

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in self._asdict().items())

    def _repr_html_(self) -> str:
        return shown_by("account_html")(self)


class StageNow(NamedTuple):
    """What a stage holds, and what went wrong in it."""

    held: int = 0
    """Distinct events in it."""
    oldest: float | None = None
    """Seconds since the birth of the oldest of them."""
    dead_letters: int = 0
    error: BaseException | None = None
    """The last error, of a retry or of a dead letter."""
    waiting: int = 0
    """Calls that failed and wait to be made again."""
    failing: tuple[str, ...] = ()
    """Services that are down: the origin of each, or nothing where it has no name."""


class Report(Struct, frozen=True):
    """What a run came to."""

    account: Account
    seconds: float
    """How long stopping took."""
    in_time: bool
    """Whether everything was settled before the deadline; what was not was abandoned."""


class StateChanged(Struct, frozen=True):
    """The orchestrator went from one state to another."""

    old: State
    new: State


class WindowClosed(Struct, frozen=True):
    """A window closed."""

    opened: float
    closed: float
    trigger: Trigger
    received: int
    distinct: int


class RetryScheduled(Struct, frozen=True):
    """A call failed and will be made again."""

    stage: Stage
    attempt: int
    """The one that failed, from 1."""
    wait: float
    """Seconds until the next."""
    error: BaseException
    keys: tuple[Hashable, ...] = ()
    """Of the events that the call was for."""


class Failing(Struct, frozen=True):
    """A service is down: its circuit breaker opened, and probes alone are sent."""

    stage: Stage
    target: str
    """Where the enricher names it, the origin of the service."""
    error: BaseException
    """The last."""


class Healed(Struct, frozen=True):
    """A service that was down answers again."""

    stage: Stage
    target: str
    after: float
    """Seconds."""
    lost: int
    """Events that the stage lost meanwhile."""


class BatchPublished(Struct, frozen=True):
    """A sink took a batch."""

    size: int
    attempts: int


class DeadLettered(Struct, frozen=True):
    """An event became a dead letter."""

    letter: DeadLetter


class SourceFailed(Struct, frozen=True):
    """A source died; it is subscribed to again, unless this is the end."""

    error: Exception
    failures: int
    """In a row."""
    wait: float | None
    """Seconds until it is; None when it is given up."""


class ObserverFailed(Struct, frozen=True):
    """An observer raised; no other noticed."""

    observer: str
    error: BaseException
    failures: int
    """In a row."""
    detached: bool
    """Whether it failed so often that it is notified no more."""


StageSignal: TypeAlias = RetryScheduled | Failing | Healed
Signal: TypeAlias = (
    StateChanged | WindowClosed | StageSignal | BatchPublished | DeadLettered | SourceFailed | ObserverFailed
)
