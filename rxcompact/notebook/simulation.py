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
from rxcompact.notebook.history import Closed, Span
from rxcompact.operators import enrich, publish
from rxcompact.operators.operator import registering
from rxcompact.testing import run, virtual_loop

Api = Callable[..., Callable[[Any], Any]]


@dataclass(slots=True)
class Result:
    """The result of a simulation."""

    latencies: list[float] = field(default_factory=list[float])
    """Seconds from birth to publication, of each event that was published."""
    calls: list[float] = field(default_factory=list[float])
    """When the API was called, POSIX seconds."""
    expired: int = 0
    held: int = 0
    """The most distinct events held at once, open windows included."""
    idle: dict[int, int] = field(default_factory=dict[int, int])
    """Windows before which nothing was held, and how many events had expired by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """The stages behind compaction, with their options."""

    api: Api
    max_age: float
    max_concurrent: int
    batch_timespan: float

    def run(
        self,
        windows: Sequence[Closed],
        outages: Sequence[Span] = (),
        *,
        start: int = 0,
        may_end: Callable[[int, float], bool] = lambda _index, _at: False,
    ) -> Result:
        """Push windows through the stages in virtual time.

        Args:
            windows: In order.
            outages: When the API is down.
            start: The window to begin with.
            may_end: Called with the number and the instant of each window before which nothing is held; the simulation
                ends there when it returns true.
        """
        result = Result()
        service = self.api(outages=outages)

        def call(event: Any) -> Any:
            result.calls.append(virtual_loop().wall())
            return service(decode(event) if isinstance(event, bytes) else event)

        def on_dead_letter(letter: DeadLetter) -> None:
            result.expired += letter.outcome == "expired"

        def on_batch(delivered: Delivered) -> None:
            result.latencies.extend(delivered.at - (each.first_seen or 0.0) for each in delivered.batch)

        async def main() -> None:
            loop = virtual_loop()
            source: Subject[Any] = Subject()
            stages: list[Holder] = []
            common: dict[str, Any] = {"max_age": self.max_age, "dead_letters": on_dead_letter}
            source.pipe(
                registering(enrich(call, max_concurrent=self.max_concurrent, **common), stages.append),
                registering(publish(lambda _: None, timespan=self.batch_timespan, **common), stages.append),
            ).subscribe(on_batch)
            for index in range(start, len(windows)):
                at, window, open_keys = windows[index]
                await asyncio.sleep(at - loop.wall())
                held = sum(stage.held() for stage in stages)
                if not held:
                    result.idle[index] = result.expired
                    if may_end(index, at):
                        break
                result.held = max(result.held, held + open_keys)
                source.on_next(window)
            # the end of the stream would publish the last batch early; by then each event is settled
            await asyncio.sleep(self.max_age + self.batch_timespan)
            source.on_completed()

        run(main, start=windows[start].at)
        return result

    def run_outage(self, windows: Sequence[Closed], usual: Result, outage: Span) -> tuple[int, int]:
        """Return how many events expire in all of history with an outage, and how many are held at most.

        Only that part is simulated in which the outage can make a difference.
        """
        begin, end = outage
        start = max((index for index in usual.idle if windows[index].at <= begin), default=0)
        ended: list[int] = []

        def may_end(index: int, at: float) -> bool:
            if index > start and at >= end and index in usual.idle:
                ended.append(index)
            return bool(ended)

        result = self.run(windows, [outage], start=start, may_end=may_end)
        after = usual.expired - usual.idle[ended[0]] if ended else 0
        return usual.idle[start] + result.expired + after, max(usual.held, result.held)


def peak(calls: Sequence[float]) -> int:
    """Return the most calls in any one second."""
    most = first = 0
    for last, at in enumerate(calls):
        while calls[first] <= at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most
