"""Events from a JetStream consumer, acknowledged when they have met their ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from rxcompact.brokers.intake import Intake
from rxcompact.brokers.jetstream.connection import Connection, Servers
from rxcompact.brokers.jetstream.held import Held
from rxcompact.brokers.jetstream.pulls import Pulls
from rxcompact.brokers.subscription import BrokerSource
from rxcompact.clock import Seconds, seconds
from rxcompact.contracts import Demand
from rxcompact.errors import ArgumentError

MIB = 1 << 20


class JetStreamSource(BrokerSource):
    """Messages of a durable pull consumer: each an event as JSON, an array or lines of them.

    A message is acknowledged when every event of it has been published or set aside. One that is held for longer than
    half of ``ack_wait`` is said to be in progress. When the pipeline is full no more are asked for. After ``stop`` what
    was not settled is delivered again at once.

    Several workers may share a consumer: each message goes to one of them.

    Args:
        servers: URLs of NATS; credentials in them are shown nowhere.
        stream: The stream, which has to be there.
        consumer: The durable consumer, made where it is missing; one that is there is taken as it is.
        subjects: Those of the stream that a consumer that is made shall have; by default all.
        ack_wait: Seconds, for a consumer that is made: how long after a crash its messages are delivered again.
        max_ack_pending: For a consumer that is made: messages that all of its workers hold at most; no fewer than come
            in a window and in a delivery of the sink.
        prefetch: Messages asked for at once.
        max_bytes: Bytes of messages asked for at once.
        together: Messages, of those that came at once, that are acknowledged together at most. An event that waits
            for long keeps the others of these from it; with 1 none, at several times the cost of a message.
        options: Of `nats.connect`, such as ``user_credentials``, ``token`` or ``tls``.

    Raises:
        ArgumentError: for an argument out of range.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        stream: str,
        consumer: str,
        subjects: str | Sequence[str] = (),
        ack_wait: Seconds = 10.0,
        max_ack_pending: int = 20_000,
        prefetch: int = 4_000,
        max_bytes: int = 8 * MIB,
        together: int = 32,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        for argument, value in (("max_ack_pending", max_ack_pending), ("prefetch", prefetch), ("max_bytes", max_bytes)):
            if value < 1:
                raise ArgumentError(argument, value, "at least 1")
        self._servers = Servers(servers, options)
        self._stream = stream
        self._consumer = consumer
        self._config = ConsumerConfig(
            durable_name=consumer,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=seconds("ack_wait", ack_wait),
            max_ack_pending=max_ack_pending,
            filter_subjects=[subjects] if isinstance(subjects, str) else list(subjects) or None,
        )
        self._pulls = Pulls(stream, consumer, prefetch, max_bytes)
        self._held = Held(max_ack_pending)
        self._replies: list[bytes] = []  # of messages that arrived in this turn of the loop
        self._bodies: list[bytes] = []
        self._bound: Connection  # since the last `_bind`
        self._client: Connection | None = None
        self._subscription: Subscription | None = None
        self._created: datetime | None = None
        self._changed = asyncio.Event()  # the connection is up, or closed
        self._keeper: asyncio.Future[None] | None = None
        super().__init__(Intake(self._held.settle, together=together))

    def __repr__(self) -> str:
        return f"JetStreamSource({str(self._servers)!r}, stream={self._stream!r}, consumer={self._consumer!r})"

    # ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _pull(self, demand: Demand) -> None:
        self._intake.push()
        room = demand.capacity()
        if not room:
            self._waiting = asyncio.ensure_future(demand.wait())
            await asyncio.wait({self._waiting})
        elif not self._intake:
            await self._pulls.ask(self._bound, int(room / self._intake.events_each))
            await self._pulls.wait()

    def _interrupt(self) -> None:
        super()._interrupt()
        self._pulls.wake()

    async def aclose(self) -> None:
        """Ask for no more; what was not pushed is returned."""
        try:
            await self._ended()
            client, subscription = self._client, self._subscription
            self._subscription = None
            if subscription is not None and client is not None and client.is_connected:
                with suppress(Error):  # what is on its way is received, to be returned too
                    await subscription.drain()  # type: ignore[no-untyped-call]
        finally:
            self._push()  # what arrived in this turn; to nobody
            self._held.give_back(self._intake.leave())

    async def release(self) -> None:
        """Say what there is to say of what was settled, return what was not, and disconnect."""
        try:
            await self._ended()
            self._held.give_back()
            while self._held.unsaid or not await self._heard():
                await self._held.tell(await self._connected())
        finally:
            if self._keeper is not None:
                self._keeper.cancel()
            last, self._client = self._client, None
            if last is not None:
                await last.close()

    async def _heard(self) -> bool:
        """Wait until the server has what it was told; tell whether there is nothing more to tell."""
        if self._client is not None and self._client.is_connected:
            with suppress(Error):
                await self._client.flush()
        return not self._held.unsaid

    # ── connection and consumer ───────────────────────────────────────────────────────────────────────────────────

    async def _connected(self) -> Connection:
        while True:
            client = self._client
            if client is None or client.is_closed:
                if self._keeper is not None:
                    self._keeper.cancel()
                self._subscription = None
                client = self._client = await self._servers.connect(reconnected=self._reconnected, closed=self._closed)
                self._keeper = asyncio.ensure_future(self._held.keep(client))
            if client.is_connected:
                return client
            self._changed.clear()
            await self._changed.wait()

    async def _reconnected(self) -> None:
        self._pulls.forget()  # the server has
        self._held.wake()
        self._changed.set()

    async def _closed(self) -> None:
        self._changed.set()
        self._pulls.fail(ConnectionError("the connection to NATS was closed"))

    async def _bind(self) -> None:
        client = self._bound = await self._connected()
        manager = client.jsm()
        try:
            info = await manager.consumer_info(self._stream, self._consumer)
        except NotFoundError:
            info = await manager.add_consumer(self._stream, self._config)
        if info.created != self._created:  # whoever made it anew wants all of it anew
            self._held.forget()
            self._created = info.created
        config = info.config
        if config.ack_policy != AckPolicy.EXPLICIT:
            raise ArgumentError("consumer", self._consumer, "one with explicit acknowledgements")
        self._held.ack_wait = config.ack_wait or self._held.ack_wait
        self._held.wake()  # it may be less than was thought
        if self._subscription is None:
            self._pulls.begin(client)
            client.deliver = self._take
            # what comes is bounded by what was asked for
            self._subscription = await client.subscribe(
                self._pulls.inbox, cb=self._status, pending_msgs_limit=0, pending_bytes_limit=0
            )
        self._pulls.forget()

    async def _status(self, message: Msg) -> None:
        self._pulls.status(message.headers or {})

    def _take(self, reply: bytes, body: bytes) -> None:
        self._replies.append(reply)
        self._bodies.append(body)
        if len(self._bodies) == 1:  # more may come in this turn of the loop
            asyncio.get_running_loop().call_soon(self._push)

    def _push(self) -> None:
        replies, bodies = self._replies, self._bodies
        self._replies, self._bodies = [], []
        self._intake.take(*self._held.take(replies, bodies))
        self._pulls.arrived(len(bodies))
        self._intake.push()
        if self._intake:
            self._pulls.wake()
