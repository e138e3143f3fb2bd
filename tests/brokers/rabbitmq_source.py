"""A source of your own, on the contract of acknowledgements: RabbitMQ, with aio-pika. The manual describes it."""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import AMQPError
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact import Ack, Chunk
from rxcompact.contracts import Demand
from rxcompact.errors import TransientError


class RabbitSource:
    """Messages of a queue, each an event as JSON.

    Args:
        url: Of the server.
        queue: The queue, which is made where it is missing.
        prefetch: Messages that are held at most; no fewer than come in a window and in a delivery of the sink.
    """

    raw = True  # events are JSON, as bytes: those that survive compaction are decoded

    def __init__(self, url: str, queue: str, prefetch: int = 10_000) -> None:
        self._url, self._queue, self._prefetch = url, queue, prefetch
        self._connection: Any = None
        self._running: asyncio.Future[None] | None = None
        self._acknowledging: set[asyncio.Future[None]] = set()
        self.name = f"queue {queue}"  # the origin of dead letters

    def stream(self, demand: Demand) -> Observable[list[Any]]:
        """Return the messages; subscribed to again it begins anew."""

        def subscribe(observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
            running = self._running = asyncio.ensure_future(self._run(observer, demand, self._running))
            return Disposable(running.cancel)

        return Observable(subscribe)

    async def _run(
        self, observer: ObserverBase[list[Any]], demand: Demand, before: asyncio.Future[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            if self._connection is None:
                self._connection = await aio_pika.connect(self._url)  # not a robust one: the orchestrator tries again
                self._channel = await self._connection.channel()
                await self._channel.set_qos(self._prefetch)
            queue = await self._channel.declare_queue(self._queue, durable=True)
            async with queue.iterator() as messages:  # it gives back what it has not passed on
                async for message in messages:
                    while not demand.accepts([message.body]):
                        await demand.wait()
                    ack = Ack(self._acknowledge, message)
                    observer.on_next(Chunk([message.body], ack, origin=f"{self.name}, message {message.message_id}"))
            raise ConnectionError("the connection was lost")
        except (AMQPError, OSError) as error:
            self._connection = None
            observer.on_error(TransientError(f"RabbitMQ: {error}"))

    def _acknowledge(self, messages: list[AbstractIncomingMessage]) -> None:
        """Acknowledge messages: every event in them has its outcome."""
        for message in messages:
            acknowledging = asyncio.ensure_future(message.ack())
            self._acknowledging.add(acknowledging)
            acknowledging.add_done_callback(self._acknowledged)

    def _acknowledged(self, acknowledging: asyncio.Future[None]) -> None:
        self._acknowledging.discard(acknowledging)
        if not acknowledging.cancelled():
            acknowledging.exception()  # of a connection that was lost: the server delivers the message again

    async def aclose(self) -> None:
        """Fetch no more; awaited before what is held is drained."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def release(self) -> None:
        """Give back what was not acknowledged: RabbitMQ takes it when the connection is closed."""
        if self._acknowledging:
            await asyncio.wait(self._acknowledging)
        if self._connection is not None:
            await self._connection.close()
