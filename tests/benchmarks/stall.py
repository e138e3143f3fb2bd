"""A sink, or an API, that answers nothing for a minute, at full input; in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from reactivex import Observable
from reactivex.disposable import Disposable

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.testing import run

TIMESPAN = 10.0
PACE = 0.1
CHUNK = 1000
KEYS = 5000
"""Distinct events of a window."""
ROOM = 20_000
BEGINS, ENDS, OVER = 40.0, 100.0, 140.0


@dataclass(frozen=True, slots=True)
class Stalled:
    """How it went."""

    most_held: int
    waited: bool
    """Whether the source was made to wait at all; if not, nothing was tested."""
    back_after: float
    """Seconds from the first answer until a window's worth was taken, and published, at the old rate."""
    lost: int


class Firehose:
    """So many events a second, as long as there is room; keys are new in each window."""

    def __init__(self) -> None:
        self.pushed: list[float] = []
        self.waited = False

    def stream(self, demand: Any) -> Observable[list[Any]]:
        def subscribe(observer: Any, _: Any = None) -> Disposable:
            task = asyncio.ensure_future(self._push(observer, demand))
            return Disposable(lambda: task.cancel() and None)

        return Observable(subscribe)

    async def _push(self, observer: Any, demand: Any) -> None:
        time = asyncio.get_running_loop().time
        number = 0
        while time() < OVER:
            era = int(time() // TIMESPAN)
            chunk = [{"id": f"{era}-{n % KEYS}"} for n in range(number, number + CHUNK)]
            while not demand.accepts(chunk):
                self.waited = True
                await demand.wait()
                await asyncio.sleep(PACE)
            observer.on_next(chunk)
            self.pushed.append(time())
            number += CHUNK
            await asyncio.sleep(PACE)
        observer.on_completed()


async def _stalled(where: Literal["sink", "API"]) -> Stalled:
    time = asyncio.get_running_loop().time
    source = Firehose()
    published: list[tuple[float, int]] = []

    async def answer() -> None:
        if BEGINS <= time() < ENDS:
            await asyncio.sleep(ENDS - time())

    async def sink(batch: Any) -> None:
        if where == "sink":
            await answer()
        published.append((time(), len(batch)))

    async def enricher(event: Any) -> Any:
        await answer()
        return event

    pipeline = Pipeline(
        source,
        rxo.compact(TIMESPAN, key_mapper="id"),
        *([rxo.enrich(enricher)] if where == "API" else []),
        rxo.publish(sink),
        max_age=3600,
        max_in_flight=ROOM,
    )
    held: list[int] = []
    async with Orchestrator(pipeline) as orchestrator:
        while time() < OVER:
            held.append(orchestrator.account.in_flight)
            await asyncio.sleep(PACE / 2)
        account = (await orchestrator.wait()).account
    return Stalled(
        max(held),
        source.waited,
        max(_back(source.pushed), _back([at for at, size in published for _ in range(size)])),
        account.received - account.duplicates - account.published,
    )


def _back(moments: list[float]) -> float:
    """Seconds after the stall from which on as much came in a window's time as did before it."""
    before = sum(BEGINS - 2 * TIMESPAN <= at < BEGINS - TIMESPAN for at in moments)
    for steps in range(int((OVER - ENDS - TIMESPAN) / PACE)):
        began = ENDS + steps * PACE
        if sum(began <= at < began + TIMESPAN for at in moments) >= 0.95 * before:
            return steps * PACE
    return float("inf")


def stalled(where: Literal["sink", "API"]) -> Stalled:
    return run(lambda: _stalled(where))


if __name__ == "__main__":
    for each in ("sink", "API"):
        print(each, stalled(each))
