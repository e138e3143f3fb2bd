"""What the sources of brokers have in common: one task that asks for more, for whoever subscribes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import BooleanDisposable, Disposable

from rxcompact.brokers.intake import Intake
from rxcompact.contracts import Demand


class BrokerSource(ABC):
    """Binds to a broker when it is subscribed to, and pulls until it is not.

    Args:
        intake: Where messages wait for room.
    """

    raw = True

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._task: asyncio.Future[None] | None = None
        self._subscribed = BooleanDisposable()
        self._waiting: asyncio.Future[Any] | None = None  # what `_pull` waits for

    @abstractmethod
    async def _bind(self) -> None:
        """Make what is missing to pull; what it raises is the stream's error."""

    @abstractmethod
    async def _pull(self, demand: Demand) -> None:
        """Push what there is room for, and ask for more."""

    def stream(self, demand: Demand) -> Observable[list[Any]]:
        """Return the messages, several a chunk; of one that has no room as a whole, parts.

        Errors:
            TransientError: when the broker cannot be reached, or refuses.
            ArgumentError: when what is there is not what was asked for.
        """

        def subscribe(observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
            subscribed = self._subscribed = BooleanDisposable()
            self._task = asyncio.ensure_future(self._run(observer, demand, subscribed, self._task))

            def dispose() -> None:
                subscribed.dispose()
                if self._subscribed is subscribed:  # another may have subscribed already
                    self._interrupt()

            return Disposable(dispose)

        return Observable(subscribe)

    async def _run(
        self,
        observer: ObserverBase[list[Any]],
        demand: Demand,
        subscribed: BooleanDisposable,
        before: asyncio.Future[None] | None,
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            await self._bind()
            if not subscribed.is_disposed:
                self._intake.attach(observer, demand)
            while not subscribed.is_disposed:
                await self._pull(demand)
        except Exception as error:  # noqa: BLE001 - whatever it is ends the stream
            if not subscribed.is_disposed:
                self._intake.detach()
                observer.on_error(error)

    def _interrupt(self) -> None:
        """Have `_run` end. It is not cancelled: what is on its way has messages, which are returned."""
        self._intake.detach()
        if self._waiting is not None:
            self._waiting.cancel()

    async def _ended(self) -> None:
        self._subscribed.dispose()
        self._interrupt()
        if self._task is not None:
            await asyncio.wait({self._task})
