"""Ours at work: `compact` alone, event by event and by chunks, and the whole pipeline."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import reactivex as rx
from measuring import WINDOW, Close, Event
from reactivex import Observable
from reactivex.disposable import Disposable
from reactivex.subject import Subject

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.contracts import StageContext

FOREVER = 1e9
TURN = 1000
"""Events between two turns of the loop."""


def pushing(items: list[Any], per_window: int, flushes: Subject[None]) -> Observable[Any]:
    """A source that pushes directly, and signals when a window is full."""

    def subscribe(observer: Any, _: Any = None) -> Disposable:
        push = observer.on_next
        for start in range(0, len(items), per_window):
            for item in items[start : start + per_window]:
                push(item)
            flushes.on_next(None)
        observer.on_completed()
        return Disposable()

    return Observable(subscribe)


def compact(
    close: Close, items: list[Any], *, chunked: bool, key_mapper: Any = "id", window: int = WINDOW, **options: Any
) -> int:
    flushes: Subject[None] = Subject()
    closed: list[int] = []
    per_window = max(1, window // (len(items[0]) if chunked else 1))
    pushing(items, per_window, flushes).pipe(
        rxo.compact(FOREVER, key_mapper=key_mapper, chunked=chunked, flushes=flushes, **options)
    ).subscribe(lambda window: closed.append(close(window)))
    return sum(closed)


def compact_in_loop(close: Close, events: list[Event], **options: Any) -> int:
    """Event by event from a direct observable, in a running loop that gets its turns."""
    flushes: Subject[None] = Subject()
    closed: list[int] = []
    observers: list[Any] = []

    def subscribe(observer: Any, _: Any = None) -> Disposable:
        observers.append(observer)
        return Disposable()

    async def main() -> None:
        Observable(subscribe).pipe(rxo.compact(FOREVER, key_mapper="id", flushes=flushes, **options)).subscribe(
            lambda window: closed.append(close(window))
        )
        push = observers[0].on_next
        for start in range(0, len(events), WINDOW):
            for turn in range(start, min(start + WINDOW, len(events)), TURN):
                for event in events[turn : turn + TURN]:
                    push(event)
                await asyncio.sleep(0)
            flushes.on_next(None)
        observers[0].on_completed()

    asyncio.run(main())
    return sum(closed)


class ChunkSource:
    """Chunks that are there, pushed as long as there is room, and the word that a window is full."""

    def __init__(self, chunks: list[list[Event]], flushes: Subject[None]) -> None:
        self._chunks = chunks
        self._per_window = WINDOW // len(chunks[0])
        self._flushes = flushes

    def stream(self, demand: Any) -> Observable[list[Event]]:
        def subscribe(observer: Any, _: Any = None) -> Disposable:
            task = asyncio.ensure_future(self._push(observer, demand))
            return Disposable(lambda: task.cancel() and None)

        return Observable(subscribe)

    async def _push(self, observer: Any, demand: Any) -> None:
        for number, chunk in enumerate(self._chunks, 1):
            if not demand.accepts(chunk):
                await demand.wait()
            observer.on_next(chunk)
            if number % self._per_window == 0:
                self._flushes.on_next(None)
            await asyncio.sleep(0)
        observer.on_completed()


class FlushedCompaction:
    """The pipeline's own reducer, but its windows also close on demand."""

    def __init__(self, flushes: Subject[None], fields: tuple[Any, ...]) -> None:
        self._flushes = flushes
        self._compact: Any = rxo.compact(FOREVER, key_mapper="id", fields=fields)

    def reduce(self, chunks: Observable[list[Any]], context: StageContext, /) -> Observable[Any]:
        both = rx.merge(context.flushes, self._flushes)
        return self._compact.reduce(chunks, replace(context, flushes=both))


class Mute(Orchestrator):
    """One that counts nothing and notifies no observer: the difference is what being observable costs."""

    def notify_signal(self, what: Any) -> None:
        pass

    notify_window = notify_delivered = notify_dead_letter = notify_signal


def pipeline(
    close: Close,
    chunks: list[list[Event]],
    *,
    fields: tuple[Any, ...],
    runner: type[Orchestrator] = Orchestrator,
) -> int:
    """Source, compact, publish to a sink that does nothing; batches have the default size."""
    closed: list[int] = []

    async def sink(batch: Any) -> None:
        closed.append(close(batch))

    async def main() -> None:
        flushes: Subject[None] = Subject()
        described = Pipeline(
            ChunkSource(chunks, flushes), FlushedCompaction(flushes, fields), rxo.publish(sink), max_age=FOREVER
        )
        async with runner(described) as orchestrator:
            account = (await orchestrator.wait()).account
        if account.received != sum(map(len, chunks)) or account.in_flight:
            raise AssertionError(f"the account does not balance: {account}")

    asyncio.run(main())
    return sum(closed)


def joined_by_hand(close: Close, chunks: list[list[Event]], *, fields: tuple[Any, ...]) -> int:
    """The pipeline's operators without anyone who watches over them."""
    closed: list[int] = []

    async def sink(batch: Any) -> None:
        closed.append(close(batch))

    async def main() -> None:
        flushes: Subject[None] = Subject()
        ended = asyncio.Event()
        observers: list[Any] = []

        def subscribe(observer: Any, _: Any = None) -> Disposable:
            observers.append(observer)
            return Disposable()

        Observable(subscribe).pipe(
            rxo.compact(
                FOREVER,
                key_mapper="id",
                chunked=True,
                fields=fields,
                flushes=flushes,
                max_keys=100_000,
                overflow="drop_oldest",
            ),
            rxo.publish(sink, count=500, timespan=1.0, max_age=FOREVER),
        ).subscribe(on_completed=ended.set)
        per_window = WINDOW // len(chunks[0])
        for number, chunk in enumerate(chunks, 1):
            observers[0].on_next(chunk)
            if number % per_window == 0:
                flushes.on_next(None)
            await asyncio.sleep(0)
        observers[0].on_completed()
        await ended.wait()

    asyncio.run(main())
    return sum(closed)
