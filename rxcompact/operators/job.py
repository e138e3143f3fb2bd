"""What a pool works on: events on their way through a stage, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from rxcompact.events import Compacted
from rxcompact.operators.retry import Attempts, RetryPolicy


class Entry(msgspec.Struct, gc=False, eq=False):
    """A distinct event on its way through a stage. The garbage collector need not look at it: it is in no cycle."""

    compacted: Compacted
    deadline: float
    """The instant at which it is too old, in the loop's seconds."""


class Job(Attempts):
    """Events that one call is made for."""

    __slots__ = ("due", "entries", "limit", "overtime", "queued", "timer", "worker")

    def __init__(self, entries: Sequence[Entry], policy: RetryPolicy) -> None:
        super().__init__(policy)
        self.entries = entries
        self.due = 0.0
        self.queued = False
        self.limit = 0.0
        """The instant at which the call has taken too long."""
        self.overtime = False
        """Whether it was cut short then."""
        self.worker: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None


_deadline = attrgetter("deadline")


def earliest(entries: Sequence[Entry]) -> float:
    """Return the first deadline."""
    return entries[0].deadline if len(entries) == 1 else min(map(_deadline, entries))


def latest(entries: Sequence[Entry]) -> float:
    """Return the last deadline."""
    return entries[0].deadline if len(entries) == 1 else max(map(_deadline, entries))


def by_kind(failed: Sequence[tuple[Entry, BaseException]]) -> Iterable[list[tuple[Entry, BaseException]]]:
    """Group what failed alike: one attempt failed, however many events it was for."""
    kinds: dict[type[BaseException], list[tuple[Entry, BaseException]]] = {}
    for entry, error in failed:
        kinds.setdefault(type(error), []).append((entry, error))
    return kinds.values()


class Ends(Protocol):
    """What a stage does with the ends of its events."""

    def succeeded(self, job: Job, entries: Sequence[Entry], results: Sequence[Any]) -> None:
        """The call took these."""

    def expired(self, job: Job, entry: Entry) -> None:
        """Too old."""

    def rejected(self, job: Job, entry: Entry, error: BaseException) -> None:
        """Retrying cannot mend it."""

    def abandoned(self, job: Job, entry: Entry) -> None:
        """Stopped."""

    def settled(self) -> None:
        """Some were told of; more may be held."""


Call = Callable[[Sequence[Compacted]], Any]
"""Calls for some events; gives as many results, or something to await that does: an exception for one that failed, or
raises for all."""
