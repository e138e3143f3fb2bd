"""Any Observable or Subject as a source, also one fed from other threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.demand import UNBOUNDED, Demand
from rxcompact.errors import LoopError
from rxcompact.sources.pull import Chunk


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
        self._waiting: deque[Any] = deque()
        self._close: Callable[[], None] | None = None

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[Chunk]:
        """Return the chunks, as an observable.

        Errors:
            Those of the observable, after what it pushed before. `LoopError` outside a running loop.
        """
        del demand  # it cannot wait

        def subscribe(observer: ObserverBase[Chunk], scheduler: SchedulerBase | None = None) -> DisposableBase:
            waiting, self._waiting = self._waiting, deque()
            try:
                intake = Intake(asyncio.get_running_loop(), observer, waiting)
            except RuntimeError:
                raise LoopError("an observable source hands over to a running asyncio loop") from None
            subscription = self._events.subscribe(
                intake.push,
                lambda error: intake.end(lambda: observer.on_error(error)),
                lambda: intake.end(observer.on_completed),
                scheduler=scheduler,
            )

            def dispose() -> None:
                subscription.dispose()
                self._waiting = intake.release()

            def close() -> None:
                subscription.dispose()
                intake.hand_over()

            self._close = close
            return Disposable(dispose)

        return Observable(subscribe)

    async def aclose(self) -> None:
        """Take no more, and hand over what came."""
        close, self._close = self._close, None
        if close is not None:
            close()


class Intake:
    """Gathers what any thread pushes, and hands it to an observer on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, observer: ObserverBase[Chunk], waiting: deque[Any]) -> None:
        self._loop = loop
        self._observer = observer
        self._waiting = waiting
        self._woken = False
        self._released = False
        self._end: Callable[[], None] | None = None
        if waiting:
            self._wake()

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
        (self._loop.call_soon if here else self._loop.call_soon_threadsafe)(self.hand_over)

    def release(self) -> deque[Any]:
        """Hand over no more; return what waits."""
        self._released = True
        return self._waiting

    def hand_over(self) -> None:
        """Hand over what came so far."""
        if self._released:
            return
        self._woken = False  # before emptying: who appends from here on wakes the loop again
        end, waiting = self._end, self._waiting
        chunk = [waiting.popleft() for _ in range(len(waiting))]
        if chunk:
            self._observer.on_next(chunk)
        if end is not None:
            end()
