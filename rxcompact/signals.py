"""Frozen records of what happened, and the account of it all."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from rxcompact.events import DeadLetter, Trigger

State: TypeAlias = Literal["idle", "running", "restarting", "draining", "stopped", "failed"]
CallOutcome: TypeAlias = Literal["ok", "transient", "rate_limited", "permanent", "timeout", "cancelled"]
Target: TypeAlias = str
"""Host and port of a service, or nothing where it has no name."""


class Account(NamedTuple):
    """What came in, and what became of it: the manual's glossary has the words.

    Always: received = duplicates + distinct + rejected, and
    distinct = published + expired + failed + dropped + abandoned + in_flight.
    """

    received: int = 0
    duplicates: int = 0
    distinct: int = 0
    rejected: int = 0
    published: int = 0
    expired: int = 0
    failed: int = 0
    dropped: int = 0
    abandoned: int = 0
    in_flight: int = 0

    @property
    def lost(self) -> int:
        """Distinct events that became dead letters."""
        return self.distinct - self.published - self.in_flight

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in self._asdict().items())


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
    failing: tuple[Target, ...] = ()
    """Services that are down."""
    busy: int = 0
    """Calls under way."""
    limit: int = 0
    """How many may be at once; 0 where it makes none."""
    calling: int = 0
    """Events that they are for; all others wait."""
    lookups: Mapping[str, int] = MappingProxyType({})
    """Events by what answered them: a "call" of their own, one that they "shared", the "cache"."""


class Report(Struct, frozen=True):
    """What a run came to."""

    account: Account
    seconds: float
    """How long stopping took."""
    in_time: bool
    """Whether everything was settled before the deadline; what was not was abandoned."""


class Signal(Struct, frozen=True, kw_only=True):
    """Something that happened in a pipeline; when, and the pipeline's name, are filled in when it is passed on."""

    at: float = 0.0
    pipeline: str = ""


class StateChanged(Signal, frozen=True):
    """The orchestrator went from one state to another."""

    old: State
    new: State


class WindowClosed(Signal, frozen=True):
    """A window closed."""

    opened: float
    closed: float
    trigger: Trigger
    received: int
    distinct: int


class CallEnded(Signal, frozen=True):
    """A call of a stage returned, failed or was cancelled; made while an observer has ``on_call``."""

    stage: str
    target: Target
    outcome: CallOutcome
    attempt: int
    """From 1."""
    size: int
    """Events that it was for."""
    duration: float
    error: BaseException | None = None
    """Of a batch of which some failed, the first of them."""
    trace_id: str = ""
    """Of its span, where the call is traced."""


class RetryScheduled(Signal, frozen=True):
    """A call failed, and will be made again after ``wait`` seconds."""

    stage: str
    attempt: int
    """The one that failed, from 1."""
    wait: float
    error: BaseException
    keys: tuple[Hashable, ...] = ()
    """Of the events that the call was for."""
    target: Target = ""


class Failing(Signal, frozen=True):
    """A service is down: its circuit breaker opened, and probes alone are sent."""

    stage: str
    target: Target
    error: BaseException


class Healed(Signal, frozen=True):
    """A service that was down answers again, ``after`` seconds in which the stage lost so many events."""

    stage: str
    target: Target
    after: float
    lost: int


class BatchPublished(Signal, frozen=True):
    """A sink took a batch."""

    size: int
    attempts: int


class DeadLettered(Signal, frozen=True):
    """An event became a dead letter."""

    letter: DeadLetter


class SourceFailed(Signal, frozen=True):
    """A source died, so many times in a row; it is subscribed to again after ``wait`` seconds, unless this is None."""

    error: Exception
    failures: int
    wait: float | None


class ObserverFailed(Signal, frozen=True):
    """An observer raised, so many times in a row; one that is detached is notified no more. No other noticed."""

    observer: str
    error: BaseException
    failures: int
    detached: bool


class Tick(Signal, frozen=True):
    """A second has passed, for which the loop was so late; made while an observer has ``on_tick``."""

    lag: float


StageSignal: TypeAlias = RetryScheduled | Failing | Healed
