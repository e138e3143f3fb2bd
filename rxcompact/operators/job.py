"""What a stage calls for: entries, and jobs of entries that share a call."""

from __future__ import annotations

import asyncio
from copy import copy
from operator import attrgetter
from typing import Literal, TypeAlias

import msgspec
from tenacity import Retrying

from rxcompact.clock import INFINITY
from rxcompact.events import Compacted
from rxcompact.operators.retry import Attempts

Loss: TypeAlias = Literal["expired", "failed", "abandoned"]


class Entry(msgspec.Struct, eq=False, gc=False):
    """A distinct event on its way through a stage."""

    deadline: float
    """The instant at which it is too old, in the loop's seconds."""
    number: int
    """Its place in the order of the source."""
    compacted: Compacted
    others: list[Entry] | None = None
    """Events that the same answer serves, by deadline."""


deadline_of = attrgetter("deadline")


class Job(Attempts):
    """Entries that one call is made for: it waits for its turn, is called, or waits to be called again.

    Attributes:
        entries: What it has to settle; ``earliest`` and ``latest`` are their deadlines.
        due: When the call has taken too long, or is to be made; infinity for neither.
        timer: Due then, or at a deadline.
        task: Makes the call, and decides what becomes of it; ``timed_out`` when it was cancelled for its time.
        waiting: Whether it is to be called when it is due.
        held: Whether a circuit breaker has it wait.
        released: Whether a circuit breaker lets it go out.
    """

    __slots__ = (
        *("due", "earliest", "entries", "held", "latest", "released", "task", "timed_out", "timer", "waiting"),
    )

    def __init__(self, entries: list[Entry], policy: Retrying, max_age: float) -> None:
        super().__init__(policy, max_age)
        self.due = INFINITY
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.timed_out = self.waiting = self.held = self.released = False
        self.narrow_to(entries)

    def narrow_to(self, entries: list[Entry]) -> None:
        """Go on with these alone."""
        self.entries = entries
        if entries:
            deadlines = [*map(deadline_of, entries)]
            self.earliest, self.latest = min(deadlines), max(deadlines)

    def split(self, entries: list[Entry]) -> Job:
        """Return a job for some of its entries: it has come as far, and goes on by itself."""
        part = copy(self)
        part._state, part.timer = copy(self._state), None
        part.narrow_to(entries)
        return part
