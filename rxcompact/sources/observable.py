"""Any Observable or Subject as a source, also one fed from other threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase

from rxcompact.demand import UNBOUNDED, Demand
from rxcompact.errors import LoopError
from rxcompact.sources.pull import Chunk


class ObservableSource:
    """Events from an observable, in chunks: what came since the loop's last turn.

    A push is an append, from whatever thread; the loop is woken once for all that came. Such a source cannot wait:
    where there is no room the overflow policy decides.

    Args:
        events: Subscribed to anew at each subscription.
    """

    def __init__(self, events: Observable[Any]) -> None:
        self._events = events

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[Chunk]:
        """Return the chunks, as an observable.

        Errors:
            Those of the observable, after what it pushed before. `LoopError` outside a running loop.
        """
        del demand  # it cannot wait

        def subscribe(observer: ObserverBase[Chunk], scheduler: SchedulerBase | None = None) -> DisposableBase:
            try:
                intake = Intake(asyncio.get_running_loop(), observer)
            except RuntimeError:
                raise LoopError("an observable source hands over to a running asyncio loop") from None
            return self._events.subscribe(
                intake.push,
                lambda error: intake.end(lambda: observer.on_error(error)),
                lambda: intake.end(observer.on_completed),
                scheduler=scheduler,
            )

        return Observable(subscribe)


class Intake:
    """Gathers what any thread pushes, and hands it to an observer on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, observer: ObserverBase[Chunk]) -> None:
        self._loop = loop
        self._observer = observer
        self._waiting: deque[Any] = deque()
        self._woken = False
        self._end: Callable[[], None] | None = None

    def push(self, event: Any) -> None:
        """Take an event."""
        self._waiting.append(event)
        if not self._woken:
            self._wake()

    def end(self, end: Callable[[], None]) -> None:
        """Do this after all that was pushed."""
        self._end = end
        self._wake()

    def _wake(self) -> None:
        self._woken = True
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        (self._loop.call_soon if here else self._loop.call_soon_threadsafe)(self._hand_over)

    def _hand_over(self) -> None:
        self._woken = False  # before emptying: who appends from here on wakes the loop again
        end, waiting = self._end, self._waiting
        chunk = [waiting.popleft() for _ in range(len(waiting))]
        if chunk:
            self._observer.on_next(chunk)
        if end is not None:
            end()
