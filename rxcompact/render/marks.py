"""What a recording consists of: marks, each with its instant."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

OUTCOMES = ("published", "expired", "failed", "rejected", "dropped", "abandoned")
"""How an event can end."""


class WindowMark(NamedTuple):
    """A window closed."""

    at: float
    """When it was told of, POSIX seconds; this may be long after ``closed``, which may be event time."""
    opened: float
    closed: float
    trigger: str
    received: int
    distinct: int


class EventMark(NamedTuple):
    """A distinct event of a window, and how often it came."""

    window: WindowMark
    key: Hashable
    # the field's word, though tuples have a method of that name
    count: int | None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]
    first_seen: float | None
    last_seen: float | None


class RetryMark(NamedTuple):
    """A call failed and will be made again."""

    at: float
    stage: str
    attempt: int
    wait: float
    error: str


class OutcomeMark(NamedTuple):
    """A distinct event met its end, or an event was refused at the door."""

    at: float
    outcome: str
    key: Hashable
    """None where it never had one."""
    stage: str
    reason: str
    attempts: int
    age: float | None


class StateMark(NamedTuple):
    """The orchestrator changed its state, or a source or an observer failed."""

    at: float
    state: str
    detail: str = ""


Amount = tuple[float, float, float]
"""From when, until when, how much."""


Span = tuple[float, float]
"""From when, until when."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks by kind, each in the order it was made; of all, kept or not, how many there were and when."""

    clock: Span = (0.0, 0.0)
    """When the first and the last of all marks were made, POSIX seconds."""
    opened: Span = (0.0, 0.0)
    """When the first window opened, and the last one closed."""
    windows: Sequence[WindowMark] = ()
    events: Sequence[EventMark] = ()
    retries: Sequence[RetryMark] = ()
    outcomes: Sequence[OutcomeMark] = ()
    states: Sequence[StateMark] = ()
    totals: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many were "windows", "received", "distinct", "retries", and of each outcome."""
    rates: Mapping[str, Sequence[Amount]] = field(default_factory=dict[str, Sequence[Amount]])
    """When they were, of the same names."""

    def ends(self, outcome: str) -> list[OutcomeMark]:
        """Return the marks of an outcome."""
        return [mark for mark in self.outcomes if mark.outcome == outcome]

    def are_all(self, name: str, kept: Sequence[object]) -> bool:
        """Tell whether none was left out of what was kept."""
        return self.totals.get(name, 0) <= len(kept)
