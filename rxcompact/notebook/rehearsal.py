"""What enrichment and publishing make of windows, in virtual time, with an API that may be down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reactivex.subject import Subject

from rxcompact.contracts import Holder
from rxcompact.events import DeadLetter, Delivered
from rxcompact.fields import decode
from rxcompact.notebook.history import Closed
from rxcompact.operators import enrich, publish
from rxcompact.operators.operator import registering
from rxcompact.testing import run, virtual_loop

Api = Callable[..., Callable[[Any], Any]]
Stretch = tuple[float, float]


@dataclass(slots=True)
class Rehearsal:
    """What one replay came to."""

    latencies: list[float] = field(default_factory=list[float])
    """Seconds from birth to the sink's taking it, of each event that was published."""
    calls: list[float] = field(default_factory=list[float])
    """When the API was called, POSIX seconds."""
    expired: int = 0
    held: int = 0
    """Distinct events held at once, at most, open windows included."""
    idle: dict[int, int] = field(default_factory=dict[int, int])
    """Windows before which nothing was on its way, and how many had expired by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The stages behind compaction, with their options."""

    api: Api
    max_age: float
    max_concurrent: int
    batch_timespan: float

    def rehearse(
        self,
        windows: Sequence[Closed],
        outages: Sequence[Stretch] = (),
        *,
        start: int = 0,
        may_end: Callable[[int, float], bool] = lambda _index, _at: False,
    ) -> Rehearsal:
        """Replay windows in virtual time.

        Args:
            windows: In order.
            outages: When the API is down.
            start: The window to begin with.
            may_end: Told of each window before which nothing is on its way, by its number and instant; when true, the
                replay ends there.
        """
        done = Rehearsal()
        service = self.api(outages=outages)

        def call(event: Any) -> Any:
            done.calls.append(virtual_loop().wall())
            return service(decode(event) if isinstance(event, bytes) else event)

        def bury(letter: DeadLetter) -> None:
            done.expired += letter.outcome == "expired"

        def deliver(delivered: Delivered) -> None:
            done.latencies.extend(delivered.at - (each.first_seen or 0.0) for each in delivered.batch)

        async def main() -> None:
            loop = virtual_loop()
            source: Subject[Any] = Subject()
            stages: list[Holder] = []
            common: dict[str, Any] = {"max_age": self.max_age, "dead_letters": bury}
            source.pipe(
                registering(enrich(call, max_concurrent=self.max_concurrent, **common), stages.append),
                registering(publish(lambda _: None, timespan=self.batch_timespan, **common), stages.append),
            ).subscribe(deliver)
            for index in range(start, len(windows)):
                at, window, opened = windows[index]
                await asyncio.sleep(at - loop.wall())
                on_the_way = sum(stage.held() for stage in stages)
                if not on_the_way:
                    done.idle[index] = done.expired
                    if may_end(index, at):
                        break
                done.held = max(done.held, on_the_way + opened)
                source.on_next(window)
            # not the end of the stream, which would expedite the last batch: each meets its end by then
            await asyncio.sleep(self.max_age + self.batch_timespan)
            source.on_completed()

        run(main, start=windows[start].at)
        return done

    def rehearse_outage(self, windows: Sequence[Closed], usual: Rehearsal, outage: Stretch) -> tuple[int, int]:
        """Return how many events expire in all of history with an outage in it, and how many are held at most.

        Only that stretch is replayed in which anything can be otherwise than without it.
        """
        begin, end = outage
        start = max((index for index in usual.idle if windows[index].at <= begin), default=0)
        ended: list[int] = []

        def may_end(index: int, at: float) -> bool:
            if index > start and at >= end and index in usual.idle:
                ended.append(index)
            return bool(ended)

        done = self.rehearse(windows, [outage], start=start, may_end=may_end)
        after = usual.expired - usual.idle[ended[0]] if ended else 0
        return usual.idle[start] + done.expired + after, max(usual.held, done.held)


def peak(calls: Sequence[float]) -> int:
    """Return how many calls there were in any one second, at most."""
    most = first = 0
    for last, at in enumerate(calls):
        while calls[first] <= at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most
