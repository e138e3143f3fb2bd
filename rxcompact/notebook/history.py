"""What happened, and what compaction makes of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate, groupby
from math import nan
from typing import Any, NamedTuple

from reactivex.scheduler import VirtualTimeScheduler
from reactivex.subject import Subject

from rxcompact.contracts import Holder
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter, Window
from rxcompact.operators import compact
from rxcompact.operators.bucket import Field
from rxcompact.operators.operator import registering
from rxcompact.operators.windows import Mapper
from rxcompact.testing import DAY, YEAR_ONE

_BIRTHS: tuple[Field, ...] = ("first_seen",)


class Closed(NamedTuple):
    """A window, and when it closed."""

    at: float
    """POSIX seconds."""
    window: Window
    held: int
    """Keys that were held in open windows, at most, since the one before it closed."""


class Compactions(NamedTuple):
    """What one key and timespan make of history."""

    windows: Sequence[Closed]
    received: int
    refused: int
    """Events without a key or a time, or that were too late."""

    @property
    def distinct(self) -> int:
        """Events that are left."""
        return sum(len(closed.window) for closed in self.windows)


class History:
    """Events with the instants at which they came.

    Args:
        events: In the order in which they came.
        time_mapper: Gives an event's time, POSIX seconds.

    Raises:
        ArgumentError: when no event has a time.
    """

    def __init__(self, events: Iterable[Any], time_mapper: Mapper) -> None:
        self.events = [event.rstrip(b"\r\n") if isinstance(event, bytes) else event for event in events]
        self.raw = bool(self.events) and isinstance(self.events[0], bytes)
        self._time_mapper = time_mapper
        times = _times(self.events, time_mapper)
        latest = time.time() + DAY
        believed = [at if YEAR_ONE < at <= latest else nan for at in times]
        first = next((at for at in believed if at == at), None)  # noqa: PLR0124 - not the not-a-numbers
        if first is None:
            raise ArgumentError("time_mapper", time_mapper, f"one that gives a time of one of {len(times)} events")
        # one without a time comes when it is its turn: nothing is less than it, or more
        self.arrivals = list(accumulate(believed, max, initial=first))[1:]

    def busiest(self, length: float) -> tuple[float, float]:
        """Return the stretch of this length in which most events came, POSIX seconds."""
        arrivals, end, most, start = self.arrivals, 0, 0, 0
        for first, at in enumerate(arrivals):
            while end < len(arrivals) and arrivals[end] < at + length:
                end += 1
            if end - first > most:
                most, start = end - first, first
        return arrivals[start], arrivals[start] + length

    def compacted(self, key_mapper: Mapper | str, timespan: float, lateness: float | None) -> Compactions:
        """Return what `compact` makes of it, in virtual time.

        Events of one grid interval come as one chunk: no window closes within it, and births are event times, so it
        makes no difference to what comes out.
        """
        offset = 0.0 if lateness is None else lateness % timespan
        first = _edge(self.arrivals[0], timespan, offset)
        clock = VirtualTimeScheduler(first)
        source: Subject[Sequence[Any]] = Subject()
        windows: list[Closed] = []
        letters: list[DeadLetter] = []
        holders: list[Holder] = []
        peak = 0

        def closed(window: Window) -> None:
            nonlocal peak
            windows.append(Closed(clock.now.timestamp(), window, max(peak, len(window))))
            peak = 0

        source.pipe(
            registering(
                compact(
                    timespan,
                    key_mapper=key_mapper,
                    fields=_BIRTHS,
                    time_mapper=self._time_mapper,
                    lateness=lateness,
                    chunked=True,
                    dead_letters=letters.append,
                    scheduler=clock,
                ),
                holders.append,
            )
        ).subscribe(closed)
        # when all that came has been closed, with a timespan to spare
        settled = (lateness or 0.0) + 2 * timespan
        last = first
        for edge, chunk, arrived in self._chunks(timespan, offset):
            if edge > last + settled:  # nobody home: no need to tick all the way
                clock.advance_to(last + settled)
                clock.sleep(edge - last - settled)
            # by event time it matters when the latest came, by the clock only that it is not on an edge
            last = edge + timespan / 2 if lateness is None else arrived
            clock.advance_to(last)
            source.on_next(chunk)
            peak = max(peak, *(holder.held() for holder in holders))
        clock.advance_to(last + settled)
        source.on_completed()
        return Compactions(windows, len(self.events), len(letters))

    def _chunks(self, timespan: float, offset: float) -> Iterable[tuple[float, Sequence[Any], float]]:
        """Yield the start of each grid interval in which events came, these events, and when the last of them came."""
        start = 0
        for edge, group in groupby(self.arrivals, lambda at: _edge(at, timespan, offset)):
            end = start + sum(1 for _ in group)
            yield edge, self.events[start:end], self.arrivals[end - 1]
            start = end


def _edge(at: float, timespan: float, offset: float) -> float:
    return (at - offset) // timespan * timespan + offset


def _times(events: Sequence[Any], time_mapper: Any) -> Sequence[float]:
    many = getattr(time_mapper, "many", None)
    if many is not None:
        with suppress(Exception):  # some event is bad: it is found out which
            return list(map(float, many(events)))
    return [_time(time_mapper, event) for event in events]


def _time(time_mapper: Mapper, event: Any) -> float:
    try:
        return float(time_mapper(event))
    except Exception:  # noqa: BLE001 - compact says what is wrong with it
        return nan
