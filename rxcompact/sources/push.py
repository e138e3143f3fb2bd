"""Events that a program pushes: into an observable, also from other threads, or with an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.acks import Chunk
from rxcompact.clock import call_soon
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import LoopError
from rxcompact.operators.emitter import Gather
from rxcompact.sources.iterable import running_loop


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
            ending: list[Callable[[], None]] = []

            def hand_over() -> None:
                end = ending[:1]  # before what it ends is taken
                if chunk := gather.take():
                    observer.on_next(chunk)
                for each in end:
                    each()

            def end(with_: Callable[[], None]) -> None:
                ending.append(with_)
                soon(hand_over)

            gather = Gather(soon, hand_over, size=float("inf"))
            left, self._left = self._left, []
            for event in left:
                gather.add(event)
            subscription = self._events.subscribe(
                gather.add,
                lambda error: end(lambda: observer.on_error(error)),
                lambda: end(observer.on_completed),
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
