"""Makes an observable of an iterator of chunks; it waits for capacity."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import BooleanDisposable, Disposable
from reactivex.scheduler import CurrentThreadScheduler

from rxcompact.contracts import Demand
from rxcompact.errors import LoopError, contained


def running_loop(message: str) -> asyncio.AbstractEventLoop:
    """Return the running loop.

    Raises:
        LoopError: where none runs, with this message.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise LoopError(message) from None


def pull(
    chunks: Callable[[], Iterator[list[Any]]], live: Callable[[], AsyncGenerator[list[Any], None]], demand: Demand
) -> Observable[list[Any]]:
    """Emit chunks, none longer than the capacity.

    Args:
        chunks: Yields them outside asyncio, where everything is pulled at once on subscription.
        live: Yields them in a running loop, without blocking it.
        demand: Waited for before each chunk, in a running loop.
    """

    def subscribe(observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            stopped = BooleanDisposable()
            # on the trampoline: the subscriber has the disposable before the first chunk
            CurrentThreadScheduler.singleton().schedule(lambda *_: _pull_now(chunks(), observer, stopped))
            return stopped
        task = loop.create_task(_pull_live(_parts(live(), demand), observer), name="rxcompact source")

        def cancel() -> None:
            task.cancel()

        return Disposable(cancel)

    return Observable(subscribe)


def _pull_now(chunks: Iterator[list[Any]], observer: ObserverBase[list[Any]], stopped: BooleanDisposable) -> None:
    while not stopped.is_disposed:
        try:
            chunk = next(chunks, None)
        except Exception as error:  # noqa: BLE001 - any error of reading ends the stream
            return observer.on_error(error)
        if chunk is None:
            return observer.on_completed()
        observer.on_next(chunk)
    return None


async def _pull_live(parts: AsyncGenerator[list[Any], None], observer: ObserverBase[list[Any]]) -> None:
    async with aclosing(parts):
        while True:
            try:
                part = await anext(parts, None)
            except BaseException as error:  # noqa: BLE001 - whatever ends it; an observer that has gone is not notified
                return observer.on_error(contained(error))  # type: ignore[arg-type]
            if part is None:
                return observer.on_completed()
            observer.on_next(part)


async def _parts(chunks: AsyncGenerator[list[Any], None], demand: Demand) -> AsyncGenerator[list[Any], None]:
    capacity = await demand.wait()
    async with aclosing(chunks):
        async for chunk in chunks:
            start = 0
            while start < len(chunk):
                yield chunk[start : start + capacity] if start or capacity < len(chunk) else chunk
                start += capacity
                capacity = await demand.wait()
