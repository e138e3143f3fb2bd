"""What a pool works on: events on their way through a stage, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from rxcompact.events import Compacted
from rxcompact.operators.retry import Attempts, RetryPolicy, http_status, retry_after

E = TypeVar("E")
"""A distinct event, as a stage has it."""


class Entry(msgspec.Struct, gc=False, eq=False):
    """A distinct event that is to be told from others like it."""

    compacted: Compacted
    deadline: float
    """The instant at which it is too old, in the loop's seconds."""


def deadlines(entries: Sequence[Entry]) -> Sequence[float]:
    """Return the deadline of each."""
    return [entry.deadline for entry in entries]


class Job(Attempts, Generic[E]):
    """Events that one call is made for.

    Args:
        entries: The events.
        deadlines: Gives the instants at which some of them are too old, in the loop's seconds.
        policy: When to try again.
    """

    __slots__ = ("deadlines", "due", "earliest", "entries", "latest", "limit", "overtime", "queued", "timer", "worker")

    def __init__(
        self, entries: Sequence[E], deadlines: Callable[[Sequence[E]], Sequence[float]], policy: RetryPolicy
    ) -> None:
        super().__init__(policy)
        self.deadlines = deadlines
        self.keep(entries)
        self.due = 0.0
        self.queued = False
        self.limit = 0.0
        """The instant at which the call has taken too long."""
        self.overtime = False
        """Whether it was cut short then."""
        self.worker: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def part(self) -> Job[E]:
        """Return a job for some of its events: it has come as far, and goes on by itself."""
        part = Job[E]((), self.deadlines, self._policy)
        part.count, part.failures = self.count, self.failures
        return part

    def next_wait(self, now: float) -> tuple[float | None, Exception | None]:
        """Return how long to wait after its error, or None when retrying cannot mend it; and what the policy raised."""
        if self.error is None or self.latest <= now:
            return 0.0, None
        try:
            return self.failed(self.error, self.latest - now), None
        except Exception as raised:  # noqa: BLE001 - the caller's wait or condition may raise anything
            raised.__cause__ = self.error
            return None, raised

    def keep(self, entries: Sequence[E]) -> None:
        """Go on with these alone."""
        self.entries = entries
        if entries:
            deadlines = sorted(self.deadlines(entries))  # as they nearly are: sooner done than to look for two
            self.earliest, self.latest = deadlines[0], deadlines[-1]


def by_kind(failed: Sequence[tuple[E, BaseException]]) -> Collection[list[tuple[E, BaseException]]]:
    """Group what failed alike, and is asked to wait alike: one attempt failed, however many events it was for."""
    kinds: dict[Hashable, list[tuple[E, BaseException]]] = {}
    for entry, error in failed:
        asked = retry_after(error)
        # to the second: a date is another number of them each time it is looked at
        kind = (type(error), http_status(error), asked if asked is None else f"{asked:.0f}")
        kinds.setdefault(kind, []).append((entry, error))
    return kinds.values()


class Ends(Protocol[E]):
    """What a stage does with the ends of its events."""

    def succeeded(self, job: Job[E], entries: Sequence[E], results: Sequence[Any]) -> None:
        """The call took these."""

    def expired(self, job: Job[E], entry: E) -> None:
        """Too old."""

    def failed(self, job: Job[E], entry: E, error: BaseException) -> None:
        """Retrying cannot mend it."""

    def abandoned(self, job: Job[E], entry: E) -> None:
        """Stopped."""

    def settled(self) -> None:
        """Some were told of; more may be held."""


Call = Callable[[Sequence[E]], Any]
"""Calls for some events; gives as many results, or something to await that does: an exception for one that failed, or
raises for all. None at all where none failed and nobody asks for them."""
