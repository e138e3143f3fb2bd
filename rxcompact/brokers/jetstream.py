"""Events from consumers of NATS JetStream (extra ``nats``), acknowledged when they are settled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from loguru import logger
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError, ServiceUnavailableError

from rxcompact.brokers.nats import FIXED, OPTIONS, Connection
from rxcompact.brokers.source import BrokerSource, Start, start_time
from rxcompact.brokers.unacked import Identity, UnackedMessages
from rxcompact.clock import Seconds, count, seconds
from rxcompact.errors import ArgumentError, TransientError

EXPIRES = 10.0  # seconds for which the server remembers a request
GRACE = 0.5
PAUSE = 1.0  # seconds before the next request, when the server ended one that had brought nothing
OVERHEAD = 64 * 1024  # bytes of a message beside its body
TIMEOUT, NOT_FOUND, CONFLICT = "408", "404", "409"
# conflicts that end a request, and nothing else
PASSING = {"Message Size Exceeds MaxBytes", "Batch Completed", "Leadership Change", "Server Shutdown"}
MAX_BYTES = 8 << 20  # of messages requested at once
FLUSHED = 5  # seconds for which the server is waited for to read the last replies
POLICIES = {"all": DeliverPolicy.ALL, "new": DeliverPolicy.NEW}
V1 = 9  # parts of a reply subject without a domain


@dataclass
class PullConsumer:
    """A durable consumer, made where it is missing, and what was requested from it: some ahead of what is pushed.

    It calls ``wake`` when it may be time for another request, ``take`` with replies, bodies and headers of what came in
    a turn of the loop, ``fail`` with the reason why no more come.
    """

    stream: str
    config: ConsumerConfig
    max_bytes: int
    wake: Callable[[], object]
    take: Callable[[list[bytes], list[bytes], list[bytes]], object]
    fail: Callable[[TransientError], object]
    info: ConsumerInfo | None = None
    _client: Any = None
    _subscription: Subscription | None = None
    _timer: asyncio.TimerHandle | None = None  # of the latest request

    def __post_init__(self) -> None:
        self.name, self.subjects = self.config.durable_name or "", self.config.filter_subjects or []
        self._arrived: list[tuple[bytes, bytes, bytes]] = []  # in this turn of the loop
        self._reset()

    def _reset(self) -> None:
        self._outstanding = 0  # messages that were requested and have not come
        self._idle = False  # nothing came since the last request
        self._not_before = self._expires = 0.0

    async def bind(self, client: Connection) -> bool:
        """Receive on a connection; return whether the consumer was made since the last time.

        Raises:
            ArgumentError: when its messages cannot be requested, or acknowledged one by one.
        """
        try:
            info = await client.jsm().consumer_info(self.stream, self.name)
        except NotFoundError:
            info = await client.jsm().add_consumer(self.stream, self.config)
        if info.config.deliver_subject:
            raise ArgumentError("consumer", self.name, "a pull consumer, not one that pushes")
        if info.config.ack_policy != AckPolicy.EXPLICIT:
            raise ArgumentError("consumer", self.name, "one with explicit acknowledgements")
        made = self.info is None or info.created != self.info.created
        self.info = info
        for warning in self._differences(info.config) if made else ():
            logger.warning("consumer {} of stream {}: {}", self.name, self.stream, warning)
        self._reset()
        if self._client is not client:
            self._client, self._inbox = client, client.new_inbox()
            # no message must be too long to be ever sent
            self.max_bytes = max(self.max_bytes, client.max_payload + OVERHEAD)
            # what comes is bounded by what was requested
            self._subscription = await client.subscribe(
                self._inbox, cb=self._on_status, pending_msgs_limit=0, pending_bytes_limit=0
            )
            number = self._subscription._id  # pyright: ignore[reportPrivateUsage] - which is in no other place
            client.deliver[number] = self._on_message
        return made

    def _differences(self, found: ConsumerConfig) -> Iterator[str]:
        """Yield what may surprise whoever uses a consumer that somebody else made."""
        if (limit := found.max_deliver or 0) > 0:
            yield f"max_deliver is {limit}: a message is lost when {limit} workers stopped while they held it"
        wanted = self.config.max_ack_pending or 0
        if 0 < (most := found.max_ack_pending or 0) < wanted:
            yield f"max_ack_pending is {most}, not {wanted}: no more than {most} messages are compacted together"
        subjects = found.filter_subjects or ([found.filter_subject] if found.filter_subject else [])
        if set(subjects) != set(self.subjects):
            yield f"its subjects are {', '.join(subjects) or 'all'}, not {', '.join(self.subjects) or 'all'}"

    async def unsubscribe(self) -> None:
        """Receive what is on its way, and nothing more."""
        subscription, self._subscription, self._client = self._subscription, None, None
        try:
            if subscription is not None:
                await subscription.drain()  # type: ignore[no-untyped-call]
        finally:
            self._on_turn()

    async def request(self, capacity: int) -> None:
        """Request as many messages as there is capacity for, less those that are requested already."""
        now = time.monotonic()
        if now >= self._expires:  # not even that the request expired was received
            self._outstanding = 0
        wanted = max(1, capacity)
        if self._outstanding > wanted // 2 or now < self._not_before:
            return
        batch = wanted - self._outstanding
        self._outstanding += batch
        self._idle = True
        self._expires = now + EXPIRES + GRACE
        if self._timer is not None:  # with little capacity there are many requests
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(EXPIRES + GRACE, self.wake)
        request = {"batch": batch, "max_bytes": self.max_bytes, "expires": int(EXPIRES * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.name}"
        await self._client.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    def _on_message(self, reply: bytes, body: bytes, headers: bytes) -> None:
        self._arrived.append((reply, body, headers))
        if len(self._arrived) == 1:  # more may come in this turn of the loop
            asyncio.get_running_loop().call_soon(self._on_turn)

    def _on_turn(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._idle = False
        self._outstanding = max(0, self._outstanding - len(arrived))
        if arrived:
            self.take(*map(list, zip(*arrived, strict=True)))
        self.wake()

    async def _on_status(self, message: Msg) -> None:
        # https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md
        headers: dict[str, Any] = message.headers or {}
        status, description = headers.get("Status"), headers.get("Description", "")
        if status not in (TIMEOUT, NOT_FOUND) and not (status == CONFLICT and description in PASSING):
            self.fail(TransientError(f"consumer {self.name} sends no messages: {status} {description}".rstrip()))
            return
        left = headers.get("Nats-Pending-Messages", "")
        self._outstanding = max(0, self._outstanding - int(left)) if left.isdigit() else 0
        if status != TIMEOUT and self._idle:  # not again and again at once
            self._not_before = time.monotonic() + PAUSE
            asyncio.get_running_loop().call_later(PAUSE, self.wake)
        else:
            self.wake()


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
        subjects: Of a consumer that is made; by default all of the stream.
        partitions: Numbers, such as ``range(4)``: of partition 2 the subjects are ``*.2.>``, and the consumer has the
            suffix ``-2``.
        start: Where a consumer that is made begins, see `Start`.
        ack_wait: Of a consumer that is made: seconds after a crash until its messages are delivered again.
        max_ack_pending: Of a consumer that is made: messages that all of its workers hold at most; no fewer than come
            in a window and in a delivery of the sink.
        prefetch: Messages requested at once.
        items: As of `BrokerSource`.
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
        items: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if partitions is not None and (subjects or not partitions or min(partitions) < 0):
            raise ArgumentError("partitions", partitions, "numbers of partitions, without subjects")
        self._urls = [servers] if isinstance(servers, str) else list(servers)
        hosts = (url.rpartition("@")[2].rpartition("//")[2] for url in self._urls)
        self._address = ",".join(host.partition("/")[0].partition("?")[0] for host in hosts)
        if not all(self._urls) or not self._urls:
            raise ArgumentError("servers", self._address, "one URL or more")
        self._options = {**OPTIONS, **(options or {}), **FIXED}
        self._connecting, self._connection = asyncio.Lock(), Connection()
        self._stream, self._consumer, self.name = stream, consumer, f"stream {stream}"
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
        configs = [replace(config, durable_name=name, filter_subjects=some or None) for name, some in filters.items()]
        self._prefetch, max_bytes = count("prefetch", prefetch), MAX_BYTES // len(filters)
        wake = self._woken.set
        self._consumers = [
            PullConsumer(stream, each, max_bytes, wake, self._on_messages, self._fail) for each in configs
        ]
        unacked = UnackedMessages(max_ack_pending * len(filters), seconds("ack_wait", ack_wait))
        super().__init__(unacked, items)

    def __repr__(self) -> str:
        return f"JetStreamSource({self._address!r}, stream={self._stream!r}, consumer={self._consumer!r})"

    # ── connection ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _connect(self) -> Connection:
        """Return the connection; make one where there is none, or raise TransientError."""
        async with self._connecting:
            if self._connection.is_connected:
                return self._connection
            client, errors = Connection(), list[Exception]()

            def fail(error: Exception) -> None:
                self._fail(TransientError(f"connection to NATS at {self._address}: {error}"))

            async def on_error(error: Exception) -> None:
                errors.append(error)
                if client.is_connected:  # what the server refuses without a reply, such as a permission
                    fail(error)

            options: dict[str, Any] = self._options | {"error_cb": on_error}
            try:
                await client.connect(self._urls, **options)
            except Exception as error:  # noqa: BLE001 - nats-py lets through whatever the event loop raises
                await client.close()
                cause = errors[0] if errors else error
                raise TransientError(f"no connection to NATS at {self._address}: {cause}") from cause
            client.lost, self._connection = fail, client
            return client

    # ── fetching ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _bind(self) -> None:
        client = await self._connect()
        with self._errors():
            made = [await consumer.bind(client) for consumer in self._consumers]
            found = [consumer.info for consumer in self._consumers if consumer.info is not None]
            if any(made):  # whoever made one anew wants all of it anew
                self._unacked.forget()
                seen = (it.num_pending or (it.delivered and it.delivered.stream_seq) for it in found)
                if self._partitioned and not any(seen):
                    await self._warn(client)
        self._unacked.ack_wait = min(info.config.ack_wait or self._unacked.ack_wait for info in found)
        self._unacked.wake()  # it may be less than before

    async def _warn(self, client: Connection) -> None:
        """Warn when the messages of the stream are in none of the partitions."""
        info = await client.jsm().stream_info(self._stream)
        transform = info.config.subject_transform
        if info.state.messages:
            logger.warning(
                "stream {} has no messages of the partitions {}: the subjects that it stores are {}",
                self._stream,
                ", ".join(subject for consumer in self._consumers for subject in consumer.subjects),
                transform.dest if transform else ", ".join(info.config.subjects or [">"]),
            )

    async def _fetch(self, number: int) -> Coroutine[Any, Any, object]:
        self._woken.clear()
        with self._errors():
            for consumer in self._consumers:
                await consumer.request(number // len(self._consumers))
        return self._woken.wait()

    def _on_messages(self, replies: list[bytes], bodies: list[bytes], headers: list[bytes]) -> None:
        identities = [*map(identity_of, replies)]
        found = {it: fields_of(each) for it, each in zip(identities, headers, strict=True) if each}
        self._take(identities, replies, bodies, found)

    async def _stop_fetching(self) -> None:
        await super()._stop_fetching()
        for consumer in self._consumers:
            with suppress(Error):  # what is on its way is received, and given back
                await consumer.unsubscribe()

    # ── replying ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send(self, kind: bytes, replies: Sequence[bytes]) -> None:
        client = await self._connect()
        with self._errors():
            await client.publish_many(replies, kind)

    async def _measure(self) -> Mapping[str, int]:
        client = await self._connect()
        with self._errors():
            found = [await client.jsm().consumer_info(self._stream, each.name) for each in self._consumers]
        return {info.name: info.num_pending or 0 for info in found}

    async def _disconnect(self) -> None:
        if self._connection.is_connected:
            with suppress(Error):
                await self._connection.flush(FLUSHED)
            await self._connection.close()

    def _describe(self, _: Any, identity: bytes) -> str:
        return f"{self.name}, message {identity.partition(b'.')[0].decode()}"

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except Error as error:
            reason = getattr(error, "description", None) or error
            if isinstance(error, ServiceUnavailableError) and not error.description:
                reason = "JetStream is not enabled, or has no leader"
            raise TransientError(f"stream {self._stream!r} at NATS {self._address}: {reason}") from error


def identity_of(reply: bytes) -> Identity:
    """Return a message's sequence in its stream, and when it was stored: a stream made anew counts anew."""
    tokens = reply.split(b".")
    return b".".join(tokens[5:8:2] if len(tokens) == V1 else tokens[7:10:2])


def fields_of(headers: bytes) -> Mapping[str, bytes]:
    """Return the names and values of a message's headers."""
    lines = (line.partition(b":") for line in headers.splitlines()[1:])
    return {name.decode(errors="replace"): value.strip() for name, _, value in lines}
