"""What a call is made for: events on their way through a stage, and what is known of the attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from copy import copy
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from rxcompact.clock import INFINITY
from rxcompact.events import Compacted
from rxcompact.operators.retry import LAST_PART, Attempts

if TYPE_CHECKING:
    from tenacity import Retrying

Loss: TypeAlias = Literal["expired", "failed", "abandoned"]


class Entry(msgspec.Struct, eq=False, gc=False):
    """A distinct event on its way through a stage."""

    deadline: float
    """The instant at which it is too old, in the loop's seconds."""
    number: int
    """Its place in the order of the source."""
    compacted: Compacted
    others: list[tuple[float, int, Entry]] | None = None
    """Events that the same answer serves, a heap by deadline and place."""


deadline_of, number_of, compacted_of = map(attrgetter, ("deadline", "number", "compacted"))


class Job(Attempts):
    """Entries that one call is made for: it waits for its turn, is called, or waits to be called again.

    Attributes:
        entries: What it has to settle; ``earliest`` and ``latest`` are their deadlines.
        began: When the call under way did.
        due: When the call has taken too long, or is to be made; infinity for neither.
        timer: The number of its alarm, due then or at a deadline.
        task: Makes the call, and decides what becomes of it; ``timed_out`` when there was no answer in its time.
        waiting: Whether it is to be called when it is due.
        held: Whether a circuit breaker has it wait.
        released: Whether a circuit breaker lets it go out.
    """

    began, due, alarm, timer = 0.0, INFINITY, INFINITY, 0
    task: asyncio.Task[None] | None = None
    timed_out = waiting = held = released = False

    def __init__(self, entries: list[Entry], policy: Retrying, max_age: float) -> None:
        self._policy, self._max_age = policy, max_age
        self.narrow_to(entries)

    def narrow_to(self, entries: list[Entry]) -> None:
        self.entries = entries
        if entries:
            deadlines = sorted(map(deadline_of, entries))
            self.earliest, self.latest = deadlines[0], deadlines[-1]

    def split(self, entries: list[Entry]) -> Job:
        """Return a job for some of its entries: it has come as far, and goes on by itself."""
        part = copy(self)
        part._state, part.timer = copy(self._state), 0
        part.narrow_to(entries)
        return part

    def fitted(self, now: float) -> Iterator[tuple[Job, float]]:
        """Yield how long a job waits; of a batch some may expire in the wait, and have a last attempt of their own."""
        while len(self.entries) > 1 and self.earliest <= now + self.wait and not self.last:
            part = self.split(self.entries)
            fitted = part.fit(part.earliest - now)
            until = now + (part.asked if fitted == INFINITY else min(part.wait, fitted + LAST_PART * self._max_age))
            if part.latest <= until:
                break
            part.narrow_to([entry for entry in self.entries if entry.deadline <= until])
            self.narrow_to([entry for entry in self.entries if entry.deadline > until])
            part.task = self.task
            yield part, fitted
        yield self, self.fit(self.earliest - now)
