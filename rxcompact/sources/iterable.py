"""Any iterable or async iterable as a source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any

from reactivex import Observable

from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import ArgumentError, LoopError
from rxcompact.sources.pull import pull


class IterableSource:
    """Events from an iterable, in chunks; from an async iterable, each as it comes.

    It is not pulled while there is no room for what it would give. Iterators go on where they were when the pipeline is
    restarted; other iterables begin anew. An iterable is advanced on the loop, so it should not block: one that does is
    better an async one.

    Args:
        events: What to emit.
        chunk_size: Events a chunk, at most.

    >>> from reactivex import operators as ops
    >>> IterableSource(range(5), chunk_size=2).stream().pipe(ops.to_list()).run()
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, events: Iterable[Any] | AsyncIterable[Any], *, chunk_size: int = 256) -> None:
        if chunk_size < 1:
            raise ArgumentError("chunk_size", chunk_size, "at least 1")
        self._events = events
        self._chunk_size = chunk_size
        self._next: asyncio.Task[Any] | None = None
        self.restartable = not isinstance(events, Iterator | AsyncIterator)  # which has raised, and is exhausted

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[list[Any]]:
        """Return the chunks, as an observable.

        Errors:
            What the iterable raises. `LoopError` for an async iterable outside a running loop.
        """
        return pull(self._chunks, lambda: self._live(demand), demand)

    def _chunks(self) -> Iterator[list[Any]]:
        if not isinstance(self._events, Iterable):
            raise LoopError("an async iterable needs a running asyncio loop")
        events = iter(self._events)
        error: Exception | None = None
        while error is None:
            chunk, error = _pulled(events, self._chunk_size)
            if chunk:
                yield chunk
            elif error is None:
                return
        raise error

    async def _live(self, demand: Demand) -> AsyncGenerator[list[Any], None]:
        if isinstance(self._events, AsyncIterable):
            async for chunk in self._as_they_come(self._events):
                yield chunk
            return
        events = iter(self._events)
        # no more than is asked for: what is pulled and not taken would be lost with this source
        error: Exception | None = None
        while error is None:
            chunk, error = _pulled(events, min(self._chunk_size, max(1, demand.capacity())))
            if chunk:
                yield chunk
                await asyncio.sleep(0)
            elif error is None:
                return
        raise error

    async def _as_they_come(self, events: AsyncIterable[Any]) -> AsyncIterator[list[Any]]:
        iterator = aiter(events)

        async def following() -> Any:
            return await anext(iterator)

        while True:
            # not cancelled with the subscription: that would end a generator, and lose what it was about to give
            self._next = self._next or asyncio.ensure_future(following())
            try:
                event = await asyncio.shield(self._next)
            except StopAsyncIteration:
                self._next = None
                return
            except Exception:
                self._next = None
                raise
            self._next = None
            yield [event]

    async def aclose(self) -> None:
        """Wait for no more of an async iterable; a generator that was waiting itself ends by that."""
        pending, self._next = self._next, None
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})


def _pulled(events: Iterator[Any], size: int) -> tuple[list[Any], Exception | None]:
    """Return the next events, and what was raised after them, if anything: they came before it."""
    chunk: list[Any] = []
    try:
        chunk.extend(islice(events, size))
    except Exception as error:  # noqa: BLE001 - whatever reading raises ends the stream, when these are handed over
        return chunk, error
    return chunk, None
