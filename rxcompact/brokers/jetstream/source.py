"""Events from JetStream consumers, acknowledged when they are settled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from loguru import logger
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import ServiceUnavailableError

from rxcompact.brokers.jetstream.connection import Connection, Servers
from rxcompact.brokers.jetstream.consumer import EXPIRES, GRACE, PullConsumer
from rxcompact.brokers.source import BrokerSource, Start, start_time
from rxcompact.brokers.unacked import Identity, UnackedMessages
from rxcompact.clock import Seconds, count, seconds
from rxcompact.contracts import Demand
from rxcompact.errors import ArgumentError, TransientError

MIB = 1 << 20
POLICIES = {"all": DeliverPolicy.ALL, "new": DeliverPolicy.NEW}
V1 = 9
"""Parts of a reply subject without a domain."""


class JetStreamSource(BrokerSource):
    """Messages of durable pull consumers: each an event as JSON, an array or lines of them.

    A message is acknowledged when every event of it is published or a dead letter. For one that is held for longer than
    half of ``ack_wait`` an "in progress" is sent. When the pipeline is full no more are requested. After ``stop`` what
    was not settled is delivered again at once.

    Several workers may share a consumer: each message goes to one of them. With ``partitions`` there is a consumer a
    partition, so that its position is found whichever worker has the partition next.

    Args:
        servers: URLs of NATS; credentials in them are shown nowhere.
        stream: The stream, which has to be there.
        consumer: The durable consumer, made where it is missing; one that is there is taken as it is.
        subjects: Those of the stream that a consumer that is made has; by default all.
        partitions: Numbers of partitions, such as ``range(4)``: of partition 2 the subjects are ``*.2.>``, and the
            consumer has the suffix ``-2``.
        start: Where a consumer that is made begins: with all that is in the stream, with what is new, or with what was
            stored since an instant, POSIX seconds or a datetime.
        ack_wait: Seconds, for a consumer that is made: how long after a crash its messages are delivered again.
        max_ack_pending: For a consumer that is made: messages that all of its workers hold at most; no fewer than come
            in a window and in a delivery of the sink.
        prefetch: Messages requested at once.
        max_bytes: Bytes of messages requested at once.
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
        partitions: Sequence[int] | None = None,
        start: Start = "all",
        ack_wait: Seconds = 10.0,
        max_ack_pending: int = 20_000,
        prefetch: int = 4_000,
        max_bytes: int = 8 * MIB,
        together: int = 32,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if partitions is not None and (subjects or not partitions or min(partitions) < 0):
            raise ArgumentError("partitions", partitions, "numbers of partitions, without subjects")
        self._servers = Servers(servers, options)
        self._stream = stream
        self._consumer = consumer
        self._partitioned = partitions is not None
        filters = {consumer: [subjects] if isinstance(subjects, str) else list(subjects)}
        if partitions is not None:
            filters = {f"{consumer}-{number}": [f"*.{number}.>"] for number in partitions}
        since = start_time(start)
        config = ConsumerConfig(
            deliver_policy=POLICIES.get(str(start), DeliverPolicy.BY_START_TIME),
            opt_start_time=None if since is None else datetime.fromtimestamp(since, UTC),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=seconds("ack_wait", ack_wait),
            max_ack_pending=count("max_ack_pending", max_ack_pending),
        )
        self._woken = asyncio.Event()
        self._consumers = [
            PullConsumer(
                stream,
                replace(config, durable_name=name, filter_subjects=some or None),
                prefetch=max(1, count("prefetch", prefetch) // len(filters)),
                max_bytes=count("max_bytes", max_bytes) // len(filters),
                wake=self._woken.set,
                fail=self._fail,
            )
            for name, some in filters.items()
        ]
        self._replies: list[bytes] = []  # of messages that arrived in this turn of the loop
        self._bodies: list[bytes] = []
        self._sids: list[int] = []
        self._connecting = asyncio.Lock()
        self._client: Connection | None = None
        self._subscriptions: dict[int, tuple[PullConsumer, Subscription]] = {}  # of the connection
        super().__init__(UnackedMessages(max_ack_pending * len(filters), seconds("ack_wait", ack_wait)), together)

    def __repr__(self) -> str:
        return f"JetStreamSource({str(self._servers)!r}, stream={self._stream!r}, consumer={self._consumer!r})"

    # ── fetching ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _bind(self) -> None:
        client = await self._connected()
        with self._errors():
            found = [await consumer.bind(client) for consumer in self._consumers]
            if any(made for _, made in found):  # whoever made one anew wants all of it anew
                self._unacked.forget()
                if self._partitioned:
                    await self._warn(client, [info for info, _ in found])
            self._unacked.ack_wait = min(info.config.ack_wait or self._unacked.ack_wait for info, _ in found)
            self._unacked.wake()  # it may be less than before
            if not self._subscriptions:
                client.deliver = self._receive
                for consumer in self._consumers:
                    subscription = await consumer.subscribe(client)
                    number = subscription._id  # pyright: ignore[reportPrivateUsage] - which is in no other place
                    self._subscriptions[number] = consumer, subscription

    async def _warn(self, client: Connection, found: Sequence[ConsumerInfo]) -> None:
        """Warn when the messages of the stream are in none of the partitions."""
        info = await client.jsm().stream_info(self._stream)
        if not info.state.messages or any(it.num_pending or (it.delivered and it.delivered.stream_seq) for it in found):
            return
        transform = info.config.subject_transform
        logger.warning(
            "stream {} has no messages of the partitions {}: the subjects that it stores are {}",
            self._stream,
            ", ".join(subject for consumer in self._consumers for subject in consumer.subjects),
            transform.dest if transform else ", ".join(info.config.subjects or [">"]),
        )

    async def _fetch(self, demand: Demand) -> Coroutine[Any, Any, object] | None:
        self._intake.push()
        capacity = demand.capacity()
        if not capacity:
            return demand.wait()
        if self._intake:
            return None
        each = int(capacity / self._intake.events_each / len(self._consumers))
        with self._errors():
            for consumer in self._consumers:
                await consumer.request(each)
        return self._arrival()

    async def _arrival(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(EXPIRES + GRACE):
                await self._woken.wait()
        self._woken.clear()

    def _receive(self, sid: int, reply: bytes, body: bytes) -> None:
        self._sids.append(sid)
        self._replies.append(reply)
        self._bodies.append(body)
        if len(self._bodies) == 1:  # more may come in this turn of the loop
            asyncio.get_running_loop().call_soon(self._push)

    def _push(self) -> None:
        replies, bodies, sids = self._replies, self._bodies, self._sids
        self._replies, self._bodies, self._sids = [], [], []
        self._intake.take(*self._unacked.take([*map(identity_of, replies)], replies, bodies))
        for sid, messages in Counter(sids).items():
            if sid in self._subscriptions:
                self._subscriptions[sid][0].arrived(messages)
        try:
            self._intake.push()
        except Exception as error:  # noqa: BLE001 - of whoever observes; nobody else would notice it
            self._fail(error)
        if self._intake:
            self._woken.set()

    async def _stop_receiving(self) -> None:
        try:
            for _, subscription in self._subscriptions.values():
                with suppress(Error):  # what is on its way is received, and given back
                    await subscription.drain()  # type: ignore[no-untyped-call]
        finally:
            self._subscriptions = {}
            self._push()  # what arrived in this turn of the loop

    # ── replying ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send(self, kind: bytes, replies: Sequence[bytes]) -> None:
        client = await self._connected()
        with self._errors():
            await client.publish_many(replies, kind)

    async def _confirmed(self) -> bool:
        if self._client is not None and self._client.is_connected:
            with suppress(Error):
                await self._client.flush()
        return not self._unacked.pending_replies

    def _describe(self, identity: bytes) -> str:
        return f"stream {self._stream}, message {identity.partition(b'.')[0].decode()}"

    # ── connection ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _connected(self) -> Connection:
        async with self._connecting:
            client = self._client
            if client is None or not client.is_connected:
                self._subscriptions = {}
                client = self._client = await self._servers.connect(self._fail)
            return client

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except Error as error:
            reason = getattr(error, "description", None) or error
            if isinstance(error, ServiceUnavailableError) and not error.description:
                reason = "JetStream is not enabled, or has no leader"
            raise TransientError(f"stream {self._stream!r} at NATS {self._servers}: {reason}") from error


def identity_of(reply: bytes) -> Identity:
    """Return a message's sequence in its stream, and when it was stored: a stream made anew counts anew."""
    tokens = reply.split(b".")
    return b".".join(tokens[5:8:2] if len(tokens) == V1 else tokens[7:10:2])
