"""Events of the past, and what compaction, enrichment and publishing make of them in virtual time."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from reactivex.scheduler import VirtualTimeScheduler
from reactivex.subject import Subject

from rxcompact.contracts import Holder
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter, Delivered, Window
from rxcompact.fields import decode
from rxcompact.frames import rows
from rxcompact.mappers import Mapper
from rxcompact.operators.compact import compact
from rxcompact.operators.enrich import Enrich
from rxcompact.operators.publish import Publish
from rxcompact.testing import arrivals, run, virtual_loop


class Closed(NamedTuple):
    """A window, and when it closed."""

    at: float
    """POSIX seconds."""
    window: Window
    held: int
    """Keys in open windows until then."""


class History:
    """Events with the instants at which they arrived.

    Args:
        events: In the order of their arrival.
        time_mapper: See `time_of`.

    Raises:
        ArgumentError: when no event has a time.
    """

    def __init__(self, events: Iterable[Any], time_mapper: Mapper) -> None:
        events = events if (frame := rows(events)) is None else frame
        self.events = [event.rstrip(b"\r\n") if isinstance(event, bytes) else event for event in events]
        self._time_mapper = time_mapper
        self.arrivals = arrivals(time_mapper.many(self.events))
        if not self.arrivals:
            raise ArgumentError(
                "time_mapper", time_mapper, f"one that gives a time of one of {len(self.events)} events"
            )

    def busiest(self, length: float) -> tuple[float, float]:
        """Return the span of this length in which most events arrived, POSIX seconds."""
        arrived = [bisect_left(self.arrivals, at + length) - first for first, at in enumerate(self.arrivals)]
        start = self.arrivals[arrived.index(max(arrived))]
        return start, start + length

    def compacted(self, key_mapper: Mapper, timespan: float, **options: Any) -> tuple[Sequence[Closed], int]:
        """Return the windows that `compact` makes of it in virtual time, and how many events it rejects.

        Events of one interval of the grid are pushed as one chunk: no window closes within it, and births are event
        times, so the windows are the same. With options, those of one instant are.
        """
        windows, letters, holders = list[Closed](), list[DeadLetter](), list[Holder]()
        source: Subject[Sequence[Any]] = Subject()

        def edge_of(arrived: tuple[float, Any]) -> float:
            return arrived[0] if options else arrived[0] // timespan * timespan

        def close(window: Window) -> None:
            held = len(window) + sum(holder.held() for holder in holders)
            windows.append(Closed(clock.now.timestamp(), window, held))

        last = self.arrivals[0] // timespan * timespan
        clock = VirtualTimeScheduler(last)
        operator: Any = compact(
            timespan,
            key_mapper=key_mapper,
            fields=["first_seen"],
            time_mapper=self._time_mapper,
            chunked=True,
            dead_letters=letters.append,
            scheduler=clock,
            **options,
        )
        source.pipe(operator.having(register=holders.append)).subscribe(close)
        # after so long every window has closed, with a timespan to spare
        settled = 2 * timespan
        for edge, group in groupby(zip(self.arrivals, self.events, strict=True), edge_of):
            arrived = list(group)
            if edge > last + 2 * settled:  # nothing is held: the ticks in a gap need not be simulated
                clock.advance_to(last + settled)
                clock.sleep(edge - last - 2 * settled)
            last = arrived[-1][0] if options else edge + timespan / 2  # an instant off the edges
            clock.advance_to(last)
            source.on_next(list(map(itemgetter(1), arrived)))
        clock.advance_to(last + settled)
        source.on_completed()
        return windows, len(letters)


class Result(NamedTuple):
    """The result of a simulation."""

    latencies: list[float]
    """From birth to publication, of each event that was published."""
    calls: int
    """Of the API, retries included."""
    expired: int
    held: int
    """The most distinct events at once, those in open windows included."""


def simulate(windows: Sequence[Closed], api: Callable[[Any], Any], max_age: float, max_concurrent: int) -> Result:
    """Push windows through the stages behind compaction in virtual time."""
    calls, batches, letters = 0, list[Delivered](), list[DeadLetter]()

    def call(event: Any) -> Any:
        nonlocal calls
        calls += 1
        return api(decode(event) if isinstance(event, bytes) else event)

    async def main() -> int:
        loop, most = virtual_loop(), 0
        source: Subject[Any] = Subject()
        stages: list[Holder] = []
        common: dict[str, Any] = {"max_age": max_age, "dead_letters": letters.append}
        publication = Publish(lambda _: None, **common).having(register=stages.append)
        source.pipe(
            Enrich(call, max_concurrent=max_concurrent, **common).having(register=stages.append),
            publication,
        ).subscribe(batches.append)
        for at, window, open_keys in windows:
            await asyncio.sleep(at - loop.wall())
            most = max(most, open_keys + sum(stage.held() for stage in stages))
            source.on_next(window)
        # the end of the stream would publish the last batch early; by then each event is settled
        await asyncio.sleep(max_age + publication.linger)
        source.on_completed()
        return most

    held = run(main, start=windows[0].at) if windows else 0
    latencies = [batch.at - (each.first_seen or 0.0) for batch in batches for each in batch.batch]
    return Result(latencies, calls, sum(letter.outcome == "expired" for letter in letters), held)
