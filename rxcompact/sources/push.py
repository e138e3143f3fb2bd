"""Events that a program pushes, with an answer whether they were taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.acks import Chunk
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import LoopError
from rxcompact.sources.pull import running_loop


class PushSource:
    """Takes events from a web handler, or whatever else runs on the pipeline's loop.

    ::

        source = PushSource()
        ...
        if not source.push(events):
            return Response(status_code=503, headers={"Retry-After": "1"})

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
        """Take no more."""
        self._observer = None
