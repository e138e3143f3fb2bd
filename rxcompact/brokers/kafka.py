"""Kafka as a source and a sink (extra ``kafka``)."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any
from urllib.parse import unquote

# pyright: reportMissingTypeStubs=false, reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition, errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.structs import OffsetAndMetadata
from loguru import logger

from rxcompact.brokers.offsets import Offsets, PartitionedMessages
from rxcompact.brokers.source import BrokerSource, Messages, Start, start_time
from rxcompact.clock import Seconds, count, seconds
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.events import Compacted
from rxcompact.keys import encoder, json_value
from rxcompact.sinks.encoding import json_object

TIMEOUT, BLOCK, LEAVING, COMMIT = 5.0, 0.1, 1.0, 0.5
"""Seconds: for an answer, for messages to come, for leaving a group and closing connections, between commits."""
METADATA = 4096  # characters of a commit, by default of Kafka's offset.metadata.max.bytes
REBALANCED = errors.IllegalGenerationError, errors.UnknownMemberIdError, errors.RebalanceInProgressError
collected: ContextVar[list[Exception]] = ContextVar("collected")


def _send(connection: Any, *arguments: Any, send: Any = AIOKafkaConnection.send, **options: Any) -> Any:
    try:
        return send(connection, *arguments, **options)
    except RuntimeError as error:  # of uvloop, where a connection was closed (aiokafka #1038)
        connection.close()
        raise errors.KafkaConnectionError(str(error)) from error


AIOKafkaConnection.send = _send


class Collector(logging.Handler):
    """Collects the errors that aiokafka tries to get over; nothing but its log has them."""

    def emit(self, record: logging.LogRecord) -> None:
        for it in record.args if isinstance(record.args, tuple) else ():
            if isinstance(it, Exception) and not isinstance(it, REBALANCED):
                collected.get([]).append(it)


logging.getLogger("aiokafka").addHandler(Collector(logging.WARNING))


class Servers:
    """Where Kafka is, at ``kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…]``, and a client with these options."""

    client: Any = None

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        scheme, _, rest = url.partition("://")
        user, _, self._hosts = rest.rpartition("@")
        if scheme not in ("kafka", "kafkas") or not self._hosts:
            raise ArgumentError("servers", "***", "kafka://HOST:PORT, or kafkas:// with TLS")
        name, _, password = map(unquote, user.partition(":"))
        self._options: dict[str, Any] = {
            "bootstrap_servers": self._hosts.split(","),
            "security_protocol": ("SASL_" if user else "") + ("SSL" if scheme == "kafkas" else "PLAINTEXT"),
            "ssl_context": ssl.create_default_context() if scheme == "kafkas" else None,
            "sasl_plain_username": name or None,
            "sasl_plain_password": password or None,
            **options,
        }
        self.errors: list[Exception] = []

    def __str__(self) -> str:
        return self._hosts

    async def connect(self, kind: Callable[..., Any]) -> Any:
        collected.set(self.errors)  # in the client's tasks too
        self.client = kind(**self._options)
        try:
            async with self.answer():
                await self.client.start()
        except BaseException:
            await self.close()
            raise
        return self.client

    @asynccontextmanager
    async def answer(self) -> AsyncGenerator[None]:
        """Raise a TransientError with the reason for what fails, or takes too long."""
        try:
            async with asyncio.timeout(TIMEOUT):
                yield
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: Exception | None = None) -> TransientError:
        reason = self.errors[-1] if self.errors else error
        self.errors.clear()
        return TransientError(f"Kafka at {self}: {str(reason) or type(reason).__name__}")

    async def close(self) -> None:
        """Leave the group and close the connections, or after a second just these."""
        client, self.client = self.client, None
        if client is None:
            return
        closing: set[asyncio.Future[None]] = set()
        for place in "", "client" if isinstance(client, AIOKafkaProducer) else "_client":
            task = asyncio.ensure_future(getattr(client, place).close() if place else client.stop())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            _, closing = await asyncio.wait({task, *closing}, timeout=LEAVING)
            if not closing:
                return


class KafkaSource(BrokerSource, ConsumerRebalanceListener):  # type: ignore[misc]
    """Messages of a topic, consumed in a group: each an event as JSON, an array or lines of them.

    The first offset that is not settled is committed, with those behind it that are in the metadata: what is delivered
    again is what was not settled, or since the last commit. When the metadata is full no more of the partition are
    fetched.

    Args:
        servers: ``kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…]``, ``kafkas://`` with TLS; it shows no credentials.
        topic: The topic, which has to be there.
        group: The consumer group.
        start: Where the group begins, see `Start`; messages are of the instant of their timestamp.
        grace: Seconds for which the group waits, when workers come or go, until what is held is settled; what takes
            longer is published twice where its partition goes to another worker.
        max_pending: Messages that are held at most; no fewer than come in a window and in a delivery of the sink.
        prefetch: Messages taken at once.
        items: As of `BrokerSource`.
        mechanism: Of SASL, where there is a user: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512.
        options: Of `aiokafka.AIOKafkaConsumer`, such as ``ssl_context`` or ``session_timeout_ms``.

    Raises:
        ArgumentError: for an argument out of range, or a URL that cannot be parsed.
    """

    def __init__(
        self,
        servers: str,
        *,
        topic: str,
        group: str,
        start: Start = "all",
        grace: Seconds = 10.0,
        max_pending: int = 100_000,
        prefetch: int = 1_000,
        items: str | None = None,
        mechanism: str = "PLAIN",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._topic, self._group, self.name = topic, group, f"topic {topic}"
        self._start, self._since = start, start_time(start)
        self._grace = seconds("grace", grace)
        defaults: dict[str, Any] = {
            "sasl_mechanism": mechanism,
            "isolation_level": "read_committed",
            "max_poll_interval_ms": 2**31 - 1,  # a worker that waits for capacity stays in the group
            "rebalance_timeout_ms": int(1000 * (self._grace + 10)),
            "request_timeout_ms": int(1000 * (self._grace + 20)),  # joining waits for the rebalance
        }
        fixed: dict[str, Any] = {"group_id": group, "enable_auto_commit": False, "auto_offset_reset": "none"}
        self._servers = Servers(servers, defaults | dict(options or {}) | fixed)
        self._broken = False  # the client cannot go on
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._messages = PartitionedMessages()
        self._max_pending, self._prefetch = count("max_pending", max_pending), count("prefetch", prefetch)
        super().__init__(self._messages, items)

    def __repr__(self) -> str:
        return f"KafkaSource({str(self._servers)!r}, topic={self._topic!r}, group={self._group!r})"

    # ── partitions ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _bind(self) -> None:
        if self._servers.client is not None and not self._broken:
            return
        await self._disconnect()
        client = await self._servers.connect(AIOKafkaConsumer)
        self._broken = True  # until this is done
        async with self._servers.answer():
            topics = await client.topics()
        if self._topic not in topics:
            raise TransientError(f"Kafka at {self._servers}: topic {self._topic!r} is missing, or not permitted")
        client.subscribe([self._topic], listener=self)
        self._broken = False

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Wait until what is held is settled."""
        self._assigned = frozenset()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace if revoked else 0):
                await self._messages.fewer(1)
        with suppress(TransientError):
            await self._commit()
        self._messages.owned.clear()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Begin with partitions at the next fetch."""
        self._assigned = frozenset(assigned)

    async def _begin(self) -> None:
        """Go on in the partitions that were assigned, where the last worker had come to."""
        assigned, messages, client = self._assigned, self._messages, self._servers.client
        async with self._servers.answer():
            found = await client._coordinator.fetch_committed_offsets(list(assigned))
            starts = await self._starts(client, assigned - found.keys())
        if self._assigned is not assigned:
            return
        for partition in assigned:
            offsets = Offsets(partition.partition, *found.get(partition, (starts.get(partition), "")))
            if partition in starts:
                offsets.committed = -1, ""  # whoever removed the group wants all of it anew
            offsets = messages.known.get(partition, offsets).resume(offsets)
            messages.known[partition] = messages.owned[partition] = offsets
            client.seek(partition, offsets.position)
        messages.commit()  # a start

    async def _starts(self, client: Any, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        if self._since is None:
            return dict(await (client.beginning_offsets if self._start == "all" else client.end_offsets)(partitions))
        found = await client.offsets_for_times(dict.fromkeys(partitions, int(self._since * 1000)))
        ends = await client.end_offsets(partitions)
        return {each: it.offset if (it := found.get(each)) else end for each, end in ends.items()}

    async def _skip(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go on where there is something in partitions that have nothing at a position."""
        async with self._servers.answer():
            beginnings = await self._servers.client.beginning_offsets(list(positions))
        for partition, beginning in beginnings.items():
            if (offsets := self._messages.owned.get(partition)) is None:
                continue
            if positions[partition] < beginning:
                lost = f"{offsets.skip(beginning)} offsets, removed before they were read"
            else:
                lost = "its position, behind the end; all that is there is read"
                offsets = Offsets(partition.partition, beginning)
                self._messages.known[partition] = self._messages.owned[partition] = offsets
            logger.warning("{} lost in partition {}: {}", self, partition.partition, lost)
            self._servers.client.seek(partition, offsets.position)

    # ── fetching, committing ──────────────────────────────────────────────────────────────────────────────────────

    async def _fetch(self, number: int) -> Coroutine[Any, Any, object]:
        return self._receive(number)

    async def _receive(self, number: int) -> None:
        try:
            await self._poll(number)
        except (*REBALANCED, errors.IllegalStateError):
            pass
        except Exception as error:  # noqa: BLE001 - nobody else would notice it
            self._broken = isinstance(error, errors.KafkaError)
            self._fail(self._servers.failure(error) if self._broken else error)

    async def _poll(self, number: int) -> None:
        if len(self._messages.owned) != len(self._assigned):
            await self._begin()
        assigned, getmany = self._assigned, partial(self._servers.client.getmany, max_records=number)
        owned = dict(self._messages.owned)
        polled = [partition for partition, offsets in owned.items() if not offsets.full]
        polled.sort(key=lambda partition: owned[partition].time)
        wanted = polled or [TopicPartition(self._topic, -1)]  # it waits, and raises the errors of the group
        records: Mapping[TopicPartition, Any] = {}
        try:
            for each in wanted:  # of what is there, what is oldest: windows of event time go on in all of them
                records = records or await getmany(each)
            records = records or await getmany(*wanted, timeout_ms=int(BLOCK * 1000))
        except errors.OffsetOutOfRangeError as error:
            await self._skip(error.args[0])
            return
        if self._assigned is not assigned:  # it waited for that, and came from where these did not begin yet
            return
        for partition, found in records.items():
            offsets, owned[partition].time = owned[partition], found[-1].timestamp
            bodies = {record.offset: record.value for record in found if record.value is not None}
            headers = {record.offset: dict(record.headers) for record in found if record.headers}
            if new := offsets.take(list(bodies), found[-1].offset + 1):
                settle = partial(self._messages.settle_in, offsets)
                self._waiting.append(Messages(new, [bodies[it] for it in new], settle, offsets, self._spans(headers)))
        for partition in polled:
            owned[partition].skip(await self._servers.client.position(partition))
        if records:
            self._messages.commit()  # there may be nothing in them
        elif self._servers.errors:
            raise self._servers.failure()

    async def _send(self, *_: object) -> None:
        if self._tasks:  # not at the end
            await asyncio.sleep(COMMIT)
        await self._commit()

    async def _commit(self) -> None:
        """Commit what changed; a partition that belongs to another worker by now is its business."""
        owned = dict(self._messages.owned)
        commits = {partition: offsets.to_commit(METADATA) for partition, offsets in owned.items()}
        new = {each: OffsetAndMetadata(*it) for each, it in commits.items() if it != owned[each].committed}
        try:
            async with self._servers.answer():
                if new:  # not by `commit`, whose requests go on when it is cancelled, and fail where nobody looks
                    await self._servers.client._coordinator._do_commit_offsets(None, new)
        except TransientError as error:
            if not isinstance(error.__cause__, REBALANCED):
                raise
        else:
            for partition, commit in new.items():
                owned[partition].committed = commit

    async def _measure(self) -> Mapping[str, int]:
        owned = dict(self._messages.owned)
        async with self._servers.answer():
            ends = await self._servers.client.end_offsets(owned)
        return {str(it.partition): max(0, end - owned[it].position) for it, end in ends.items()}

    async def _disconnect(self) -> None:
        self._assigned = frozenset()
        self._messages.owned.clear()
        await self._servers.close()

    def _describe(self, part: Offsets, identity: int) -> str:
        return f"{self.name}, partition {part.partition}, offset {identity}"


class KafkaSink:
    """Publishes each event as a JSON message, under its key; all replicas have it when it is acknowledged.

    Args:
        servers: As of `KafkaSource`.
        topic: Where to; or a function of a `Compacted`.
        to_json: Makes of a `Compacted` what is sent; by default all its fields.
        timeout: Seconds an event may take to be acknowledged.
        options: Of `aiokafka.AIOKafkaProducer`, such as ``compression_type``.
    """

    def __init__(
        self,
        servers: str,
        *,
        topic: str | Callable[[Compacted], str],
        to_json: Callable[[Compacted], Any] = json_object,
        timeout: Seconds = 10.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._timeout = seconds("timeout", timeout)
        defaults = {"acks": "all", "enable_idempotence": True, "request_timeout_ms": int(self._timeout * 1000)}
        self._servers = Servers(servers, defaults | dict(options or {}))
        self._topic, self._to_json, self._connecting = topic, to_json, asyncio.Lock()

    def __repr__(self) -> str:
        return f"KafkaSink({str(self._servers)!r}, topic={self._topic!r})"

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Publish a batch; return the error of each position that was not taken, or raise TransientError."""
        async with self._connecting:
            producer = self._servers.client or await self._servers.connect(AIOKafkaProducer)
        results = await asyncio.gather(*(self._publish(producer, it) for it in batch), return_exceptions=True)
        failed = {position: error for position, error in enumerate(results) if error is not None}
        if producer is self._servers.client and any(isinstance(it, TransientError) for it in failed.values()):
            await self._servers.close()  # or what waits in it would be sent as well as what is tried again
        return failed or None

    async def _publish(self, producer: Any, compacted: Compacted) -> None:
        try:
            topic = self._topic if isinstance(self._topic, str) else self._topic(compacted)
            key = it.encode() if isinstance(it := compacted.key, str) else encoder.encode(json_value(it))
            body = encoder.encode(self._to_json(compacted))
        except Exception as error:  # noqa: BLE001 - of one event; the others go on
            raise PermanentError(f"cannot be made a message: {type(error).__name__}") from None
        try:
            async with asyncio.timeout(self._timeout):
                await (await producer.send(topic, body, key=key))
        except (errors.MessageSizeTooLargeError, errors.InvalidTopicError, TypeError) as error:
            raise PermanentError(str(error)) from error
        except Exception as error:
            raise self._servers.failure(error) from error

    async def aclose(self) -> None:
        await self._servers.close()
