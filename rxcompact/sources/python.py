"""Events of the program itself: of an iterable, of an observable, or pushed; and an observable of chunks by demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from inspect import iscoroutinefunction
from itertools import islice
from typing import Any, TypeAlias

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import BooleanDisposable, Disposable
from reactivex.scheduler import CurrentThreadScheduler

from rxcompact.acks import Chunk
from rxcompact.clock import call_soon, running_loop
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import ArgumentError, LoopError, contained
from rxcompact.operators.turns import Gather

Events: TypeAlias = Iterable[Any] | AsyncIterable[Any]
CHUNK = 256  # events of an iterable that are pulled at once


class IterableSource:
    """Events from an iterable, in chunks; from an async iterable, each as it comes.

    It is not pulled while there is no capacity. Iterators go on where they were when the pipeline is restarted, and one
    that raises fails the run; other iterables begin anew, and a function is called again. All are advanced on the loop,
    so they should not block.

    Args:
        events: What to emit; or a function that gives it, such as a generator function, async or not.

    >>> from reactivex import operators as ops
    >>> IterableSource(range(5)).stream().pipe(ops.to_list()).run()
    [[0, 1, 2, 3, 4]]
    """

    def __init__(self, events: Events | Callable[[], Events] | Any) -> None:
        if isinstance(events, str | bytes):
            raise ArgumentError("source", events, "events; of a file there is NdjsonSource(path)")
        if iscoroutinefunction(events) or not (callable(events) or isinstance(events, Iterable | AsyncIterable)):
            raise ArgumentError("source", events, "an iterable, an async iterable, or a function that gives one")
        self._events: Any = events
        self._next: asyncio.Task[Any] | None = None
        self._closing: asyncio.Task[Any] | None = None  # that `aclose` cancelled
        self.restartable = not isinstance(events, Iterator | AsyncIterator)

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[list[Any]]:
        """Return the chunks, as an observable.

        Errors:
            What the iterable raises. `TypeError` for a function that gives no iterable. `LoopError` for an async
            iterable outside a running loop.
        """
        return pull(lambda: self._chunks(demand), demand)

    def _given(self) -> Events:
        events: Any = self._events
        if not isinstance(events, Iterable | AsyncIterable):
            events = events()
        if not isinstance(events, Iterable | AsyncIterable):
            raise TypeError(f"the source function gave {type(events).__name__}, not an iterable of events")
        return events

    async def _chunks(self, demand: Demand) -> AsyncGenerator[list[Any], None]:
        events = self._given()
        if isinstance(events, AsyncIterable):
            running_loop("an async iterable needs a running asyncio loop")
            async with aclosing(self._as_they_come(events)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        # no more than is asked for: what is pulled and not taken would be lost with this source
        for chunk in _pulled(iter(events), lambda: min(CHUNK, max(1, demand.capacity()))):
            yield chunk
            await asyncio.sleep(0)

    async def _as_they_come(self, events: AsyncIterable[Any]) -> AsyncGenerator[list[Any]]:
        iterator = aiter(events)

        async def following() -> Any:
            return await anext(iterator)

        while True:
            # not cancelled with the subscription: that would end a generator, and lose what it was about to give
            pending = self._next = self._next or asyncio.ensure_future(following())
            try:
                event = await asyncio.shield(pending)
            except BaseException as error:
                failed = pending.done() and (pending.cancelled() or pending.exception() is not None)
                if failed:
                    self._next = None
                if isinstance(error, StopAsyncIteration) or (failed and pending is self._closing):
                    return
                raise
            self._next = None
            yield [event]

    async def aclose(self) -> None:
        """Wait for no more of an async iterable; a generator that was waiting itself ends by that."""
        pending = self._closing = self._next
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
            if self._next is pending and (pending.cancelled() or pending.exception() is not None):
                self._next = None  # else it had an event, which the next start emits


def _pulled(events: Iterator[Any], size: Callable[[], int]) -> Iterator[list[Any]]:
    """Yield chunks; what came before an error is yielded before it is raised."""
    while True:
        chunk: list[Any] = []
        try:
            chunk.extend(islice(events, size()))
        except BaseException:
            if chunk:
                yield chunk
            raise
        if not chunk:
            return
        yield chunk


class ObservableSource:
    """Events from an observable, in chunks: what came since the loop's last turn.

    A push is an append, from whatever thread; the loop is woken once for all that came. Such a source cannot wait:
    where there is no room the overflow policy decides. What came and was not handed over yet when a restart
    unsubscribes is handed over at the next subscription.

    Args:
        events: Subscribed to anew at each subscription.
    """

    def __init__(self, events: Observable[Any]) -> None:
        self._events = events
        self._left: list[Any] = []
        self._close: Callable[[], None] | None = None

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[list[Any]]:
        """Return the chunks, as an observable.

        Errors:
            Those of the observable, after what it pushed before. `LoopError` outside a running loop.
        """
        del demand  # it cannot wait

        def subscribe(observer: ObserverBase[list[Any]], scheduler: SchedulerBase | None = None) -> DisposableBase:
            soon = partial(call_soon, running_loop("an observable source hands over to a running asyncio loop"))

            def hand_over(end: Callable[[], None] | None = None) -> None:
                if chunk := gather.take():
                    observer.on_next(chunk)
                if end is not None:
                    end()

            gather = Gather(soon, hand_over, size=float("inf"))
            left, self._left = self._left, []
            for event in left:
                gather.add(event)
            subscription = self._events.subscribe(
                gather.add,
                lambda error: soon(lambda: hand_over(lambda: observer.on_error(error))),
                lambda: soon(lambda: hand_over(observer.on_completed)),
                scheduler=scheduler,
            )

            def dispose() -> None:
                subscription.dispose()
                self._left = gather.take()

            def close() -> None:
                subscription.dispose()
                hand_over()

            self._close = close
            return Disposable(dispose)

        return Observable(subscribe)

    async def aclose(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


class PushSource:
    """Takes events from a web handler, or whatever else runs on the pipeline's loop.

    A push is refused while the pipeline has no capacity, and while it does not run. For other threads, and where an
    overflow policy has to decide, there is `ObservableSource` with a Subject.
    """

    def __init__(self) -> None:
        self._demand: Demand = UNBOUNDED
        self._observer: ObserverBase[list[Any]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[list[Any]]:
        """Return the chunks that are pushed, as an observable.

        Errors:
            LoopError: when subscribed outside a running loop.
        """

        def subscribe(observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
            self._loop = running_loop("a PushSource hands over to a running asyncio loop")
            self._demand, self._observer = demand, observer

            def dispose() -> None:
                if self._observer is observer:
                    self._observer = None

            return Disposable(dispose)

        return Observable(subscribe)

    def push(self, events: Iterable[Any]) -> bool:
        """Push events, all or none; return whether they were taken. Those without a key become dead letters.

        Raises:
            LoopError: from another thread than the loop's.
        """
        chunk = Chunk(events)
        observer = self._observer
        if observer is None:
            return False
        wrong = "push from the thread of the pipeline's loop: loop.call_soon_threadsafe(source.push, …)"
        if running_loop(wrong) is not self._loop:
            raise LoopError(wrong)
        if not self._demand.accepts(chunk):
            return False
        if chunk:
            observer.on_next(chunk)
        return True

    async def aclose(self) -> None:
        self._observer = None


def pull(chunks: Callable[[], AsyncGenerator[list[Any], None]], demand: Demand) -> Observable[list[Any]]:
    """Emit chunks, none longer than the capacity; without a running loop they wait for nothing, and come at once."""

    def subscribe(observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
        pulling = _pull(_parts(chunks(), demand), observer)
        try:
            task = asyncio.get_running_loop().create_task(pulling, name="rxcompact source")
        except RuntimeError:
            stopped = BooleanDisposable()

            def pull_now(*_: object) -> None:
                with suppress(StopIteration, asyncio.CancelledError):
                    while not stopped.is_disposed:
                        pulling.send(None)  # to the next turn that a loop would have
                    pulling.throw(asyncio.CancelledError())

            # on the trampoline: the subscriber has the disposable before the first chunk
            CurrentThreadScheduler.singleton().schedule(pull_now)
            return stopped

        def cancel() -> None:
            task.cancel()

        return Disposable(cancel)

    return Observable(subscribe)


async def _pull(parts: AsyncGenerator[list[Any], None], observer: ObserverBase[list[Any]]) -> None:
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
