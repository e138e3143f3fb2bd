"""Events of the past, and what compaction makes of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from math import nan
from typing import Any, NamedTuple

from reactivex.scheduler import VirtualTimeScheduler
from reactivex.subject import Subject

from rxcompact.contracts import Holder
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter, Window
from rxcompact.mappers import Mapper
from rxcompact.operators import compact
from rxcompact.operators.bucket import Field
from rxcompact.operators.operator import registering
from rxcompact.testing import DAY, YEAR_ONE

Span = tuple[float, float]
"""From and to, POSIX seconds."""
BIRTHS: tuple[Field, ...] = ("first_seen",)


class Closed(NamedTuple):
    """A window, and when it closed."""

    at: float
    """POSIX seconds."""
    window: Window
    held: int
    """The most keys in open windows since the window before it closed."""


class Compaction(NamedTuple):
    """What one key and timespan make of history."""

    windows: Sequence[Closed]
    received: int
    rejected: int
    """Events without a key or a time, or that were too late."""

    @property
    def distinct(self) -> int:
        """Events that are left."""
        return sum(len(closed.window) for closed in self.windows)


class History:
    """Events with the instants at which they arrived.

    Args:
        events: In the order of their arrival.
        time_mapper: See `time_of`.

    Raises:
        ArgumentError: when no event has a time.
    """

    def __init__(self, events: Iterable[Any], time_mapper: Mapper) -> None:
        self.events = [event.rstrip(b"\r\n") if isinstance(event, bytes) else event for event in events]
        self._time_mapper = time_mapper
        latest = time.time() + DAY
        times = [nan if at is None or not YEAR_ONE < at <= latest else at for at in time_mapper.many(self.events)]
        first = next((at for at in times if at == at), None)  # noqa: PLR0124 - not the not-a-numbers
        if first is None:
            raise ArgumentError("time_mapper", time_mapper, f"one that gives a time of one of {len(times)} events")
        # an event without a time arrives with the one before it: no number is less than nan, or more
        self.arrivals = list(accumulate(times, max, initial=first))[1:]

    def busiest(self, length: float) -> Span:
        """Return the span of this length in which most events arrived."""
        arrivals, end, most, start = self.arrivals, 0, 0, 0
        for first, at in enumerate(arrivals):
            while end < len(arrivals) and arrivals[end] < at + length:
                end += 1
            if end - first > most:
                most, start = end - first, first
        return arrivals[start], arrivals[start] + length

    def compacted(self, key_mapper: Mapper, timespan: float, lateness: float | None) -> Compaction:
        """Return what `compact` makes of it, in virtual time.

        Events of one interval of the grid are pushed as one chunk: no window closes within it, and births are event
        times, so the windows are the same.
        """
        offset = 0.0 if lateness is None else lateness % timespan
        last = _edge(self.arrivals[0], timespan, offset)
        clock = VirtualTimeScheduler(last)
        source: Subject[Sequence[Any]] = Subject()
        windows: list[Closed] = []
        letters: list[DeadLetter] = []
        holders: list[Holder] = []
        peak = 0

        def close(window: Window) -> None:
            nonlocal peak
            windows.append(Closed(clock.now.timestamp(), window, max(peak, len(window))))
            peak = 0

        operator = compact(
            timespan,
            key_mapper=key_mapper,
            fields=BIRTHS,
            time_mapper=self._time_mapper,
            lateness=lateness,
            chunked=True,
            dead_letters=letters.append,
            scheduler=clock,
        )
        source.pipe(registering(operator, holders.append)).subscribe(close)
        # after so long every window has closed, with a timespan to spare
        settled = (lateness or 0.0) + 2 * timespan
        for edge, chunk, arrived in self._chunks(timespan, offset):
            if edge > last + settled:  # nothing is held: the ticks in a gap need not be simulated
                clock.advance_to(last + settled)
                clock.sleep(edge - last - settled)
            # windows of event time need the latest arrival, windows of the clock only an instant off the edges
            last = edge + timespan / 2 if lateness is None else arrived
            clock.advance_to(last)
            source.on_next(chunk)
            peak = max(peak, *(holder.held() for holder in holders))
        clock.advance_to(last + settled)
        source.on_completed()
        return Compaction(windows, len(self.events), len(letters))

    def _chunks(self, timespan: float, offset: float) -> Iterator[tuple[float, Sequence[Any], float]]:
        """Yield the start of each interval of the grid that has events, the events, and the arrival of the last."""
        start = 0
        for edge, group in groupby(self.arrivals, lambda at: _edge(at, timespan, offset)):
            end = start + sum(1 for _ in group)
            yield edge, self.events[start:end], self.arrivals[end - 1]
            start = end


def _edge(at: float, timespan: float, offset: float) -> float:
    return (at - offset) // timespan * timespan + offset
