"""What the sources of brokers share: one task that fetches messages, and one that replies for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.brokers.intake import Intake
from rxcompact.brokers.unacked import UnackedMessages
from rxcompact.contracts import Demand
from rxcompact.errors import ArgumentError, TimeMapperError, TransientError
from rxcompact.timestamps import posix

PAUSE = 0.25
"""Seconds until replies that could not be sent are sent again."""

Start: TypeAlias = str | float | datetime
"""Where a consumer begins: with "all" that is there, with what is "new", or at an instant."""


def start_time(start: Start) -> float | None:
    """Return the POSIX seconds of an instant; None for "all" and "new"."""
    if start in ("all", "new"):
        return None
    try:
        return posix(start.timestamp() if isinstance(start, datetime) else start)
    except TimeMapperError as error:
        raise ArgumentError("start", start, '"all", "new" or an instant') from error


class RefusedError(TransientError):
    """The broker answered that it does not do what it was asked."""


class BrokerSource(ABC):
    """Binds to a broker when it is subscribed to, and fetches messages until it is unsubscribed."""

    raw = True

    def __init__(self, unacked: UnackedMessages, together: int) -> None:
        self._unacked = unacked
        self._intake = Intake(unacked.settle, together=together, describe=self._describe)
        self._fetching: asyncio.Future[None] | None = None
        self._replying: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None  # of the subscription, with what it failed with
        self._bound = asyncio.Event()

    async def bound(self) -> None:
        """Wait until messages can be fetched."""
        await self._bound.wait()

    # ── what a broker adds ────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def _bind(self) -> None:
        """Connect, and create what is missing; what it raises is the stream's error."""

    @abstractmethod
    async def _fetch(self, demand: Demand) -> Coroutine[Any, Any, object] | None:
        """Fetch messages that there is capacity for; return what to wait for before the next call."""

    @abstractmethod
    async def _send(self, kind: bytes, replies: Sequence[bytes]) -> None:
        """Send one of ``ACK``, ``NAK`` and ``IN_PROGRESS`` for each of some messages.

        What it could not send is sent again; all errors but TransientError fail the stream, and so does RefusedError.
        """

    @abstractmethod
    def _describe(self, identity: bytes) -> str: ...

    async def _stop_receiving(self) -> None:  # noqa: B027 - not every broker sends without being asked
        """Take what is on its way, when no more is fetched."""

    async def _confirmed(self) -> bool:
        """Return whether the broker has read all replies that were sent."""
        return True

    @abstractmethod
    async def _disconnect(self) -> None: ...

    # ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────────────

    def stream(self, demand: Demand) -> Observable[list[Any]]:
        """Return the messages, several a chunk; one for which there is too little capacity comes in parts.

        Errors:
            TransientError: when the broker cannot be reached, or refuses.
            ArgumentError: when what is there cannot be consumed.
        """

        def subscribe(observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
            ended = self._ended = asyncio.get_running_loop().create_future()
            self._fetching = asyncio.ensure_future(self._run(observer, demand, ended, self._fetching))
            return Disposable(lambda: self._end(ended))

        return Observable(subscribe)

    def _end(self, ended: asyncio.Future[None] | None, error: Exception | None = None) -> None:
        """End a subscription. Its task is not cancelled: messages may be on their way, and have to be given back."""
        if ended is self._ended:  # another may have begun already
            self._intake.detach()
        if ended is not None and not ended.done():
            if error is None:
                ended.set_result(None)
            else:
                ended.set_exception(error)

    def _fail(self, error: Exception) -> None:
        self._end(self._ended, error)

    async def _run(
        self,
        observer: ObserverBase[list[Any]],
        demand: Demand,
        ended: asyncio.Future[None],
        before: asyncio.Future[None] | None,
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            await self._bind()
            self._bound.set()
            if self._replying is None:
                self._replying = asyncio.ensure_future(self._reply())
            if not ended.done():
                self._intake.attach(observer, demand)
            while not ended.done():
                if (condition := await self._fetch(demand)) is not None:
                    waiting: asyncio.Future[Any] = asyncio.ensure_future(condition)
                    await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
            ended.result()
        except Exception as error:  # noqa: BLE001 - whatever it is ends the stream
            if not ended.done() or ended.exception() is not None:
                self._intake.detach()
                observer.on_error(error)

    async def _stop_fetching(self) -> None:
        self._end(self._ended)
        if self._fetching is not None:
            await asyncio.wait({self._fetching})

    async def _reply(self) -> None:
        """Send replies until `release`. A failure is tried again; all but the network's are errors of the stream."""
        while self._replying is asyncio.current_task():  # clients swallow cancellations
            await self._unacked.wait()
            try:
                await self._unacked.flush(self._send)
            except Exception as error:  # noqa: BLE001 - this task has to outlive whatever a client raises
                if isinstance(error, RefusedError) or not isinstance(error, TransientError):
                    self._fail(error)
                await asyncio.sleep(PAUSE)
                self._unacked.wake()

    async def aclose(self) -> None:
        """Fetch no more; what was not pushed is given back."""
        try:
            await self._stop_fetching()
            await self._stop_receiving()
        finally:
            self._unacked.give_back(self._intake.leave())

    async def release(self) -> None:
        """Send the replies that are left, give back what was not settled, and disconnect.

        Raises:
            RefusedError: when the broker does not take a reply.
        """
        replying, self._replying = self._replying, None
        try:
            await self._stop_fetching()
            self._unacked.give_back()
            if replying is not None:
                replying.cancel()
                await asyncio.wait({replying})
            while self._unacked.pending_replies or not await self._confirmed():
                try:
                    await self._unacked.flush(self._send)
                except RefusedError:
                    raise
                except TransientError:
                    await asyncio.sleep(PAUSE)
        finally:
            await self._disconnect()
