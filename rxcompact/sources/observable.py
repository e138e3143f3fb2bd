"""Any Observable or Subject as a source, also one fed from other threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.clock import call_soon
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.operators.emitter import Gather
from rxcompact.sources.pull import running_loop


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
        """Take no more, and hand over what came."""
        close, self._close = self._close, None
        if close is not None:
            close()
