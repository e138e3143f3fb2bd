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


def simulate(
    windows: Sequence[Closed], api: Callable[[Any], Any], *, max_age: float, max_concurrent: int, linger: float
) -> Result:
    """Push windows through the stages behind compaction in virtual time."""
    result = Result()

    def call(event: Any) -> Any:
        result.calls.append(virtual_loop().wall())
        return api(decode(event) if isinstance(event, bytes) else event)

    def on_dead_letter(letter: DeadLetter) -> None:
        result.expired += letter.outcome == "expired"

    def on_batch(delivered: Delivered) -> None:
        result.latencies.extend(delivered.at - (each.first_seen or 0.0) for each in delivered.batch)

    async def main() -> None:
        loop = virtual_loop()
        source: Subject[Any] = Subject()
        stages: list[Holder] = []
        common: dict[str, Any] = {"max_age": max_age, "dead_letters": on_dead_letter}
        source.pipe(
            registering(enrich(call, max_concurrent=max_concurrent, **common), stages.append),
            registering(publish(lambda _: None, timespan=linger, **common), stages.append),
        ).subscribe(on_batch)
        for at, window, open_keys in windows:
            await asyncio.sleep(at - loop.wall())
            result.held = max(result.held, open_keys + sum(stage.held() for stage in stages))
            source.on_next(window)
        # the end of the stream would publish the last batch early; by then each event is settled
        await asyncio.sleep(max_age + linger)
        source.on_completed()

    if windows:
        run(main, start=windows[0].at)
    return result


def peak(calls: Sequence[float]) -> int:
    """Return the most calls in any one second."""
    most = first = 0
    for last, at in enumerate(calls):
        while calls[first] <= at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most
