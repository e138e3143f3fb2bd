"""Any Observable or Subject as a source, also one fed from other threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.clock import call_soon
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import LoopError
from rxcompact.operators.emitter import Gather


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
            try:
                intake = Intake(asyncio.get_running_loop(), observer)
            except RuntimeError:
                raise LoopError("an observable source hands over to a running asyncio loop") from None
            left, self._left = self._left, []
            for event in left:
                intake.push(event)
            subscription = self._events.subscribe(
                intake.push,
                lambda error: intake.end(lambda: observer.on_error(error)),
                lambda: intake.end(observer.on_completed),
                scheduler=scheduler,
            )

            def dispose() -> None:
                subscription.dispose()
                self._left = intake.take()

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

    def __init__(self, loop: asyncio.AbstractEventLoop, observer: ObserverBase[list[Any]]) -> None:
        self._observer = observer
        self._soon = partial(call_soon, loop)
        self._end: Callable[[], None] | None = None
        gather = Gather(self._soon, self.hand_over, size=float("inf"))
        self.push, self.take = gather.add, gather.take

    def end(self, end: Callable[[], None]) -> None:
        """Do this after all that was pushed."""
        self._end = end
        self._soon(self.hand_over)

    def hand_over(self) -> None:
        """Hand over what came so far."""
        end, chunk = self._end, self.take()
        if chunk:
            self._observer.on_next(chunk)
        if end is not None:
            end()
