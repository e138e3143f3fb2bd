"""What is requested from a consumer of JetStream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loguru import logger
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo
from nats.js.errors import NotFoundError

from rxcompact.brokers.jetstream.connection import Connection
from rxcompact.errors import ArgumentError, TransientError

EXPIRES = 10.0
"""Seconds for which the server remembers a request."""
GRACE = 0.5
PAUSE = 1.0
"""Seconds before the next request, when the server ended one that had brought nothing."""
OVERHEAD = 64 * 1024
"""Bytes of a message beside its body."""
TIMEOUT, NOT_FOUND, CONFLICT = "408", "404", "409"
PASSING = {"Message Size Exceeds MaxBytes", "Batch Completed", "Leadership Change", "Server Shutdown"}
"""Conflicts that end a request, and nothing else."""


@dataclass
class PullConsumer:
    """A durable consumer, made where it is missing, and what was requested from it: some ahead of what is pushed.

    It calls ``wake`` when it may be time for another request, ``take`` with replies, bodies and headers of what came in
    a turn of the loop, ``fail`` with the reason why no more come.
    """

    stream: str
    config: ConsumerConfig
    prefetch: int
    max_bytes: int
    wake: Callable[[], object]
    take: Callable[[list[bytes], list[bytes], list[bytes]], object]
    fail: Callable[[TransientError], object]
    _created: datetime | None = None
    _subscription: Subscription | None = None

    def __post_init__(self) -> None:
        self.name, self.subjects = self.config.durable_name or "", self.config.filter_subjects or []
        self._arrived: list[tuple[bytes, bytes, bytes]] = []  # in this turn of the loop
        self._reset()

    def _reset(self) -> None:
        self._outstanding = 0  # messages that were requested and have not come
        self._idle = False  # nothing came since the last request
        self._not_before = self._expires = 0.0

    async def bind(self, client: Connection) -> tuple[ConsumerInfo, bool]:
        """Return what the server knows of the consumer, and whether it was made since the last time.

        Raises:
            ArgumentError: when its messages cannot be requested, or acknowledged one by one.
        """
        try:
            info = await self.info(client)
        except NotFoundError:
            info = await client.jsm().add_consumer(self.stream, self.config)
        if info.config.deliver_subject:
            raise ArgumentError("consumer", self.name, "a pull consumer, not one that pushes")
        if info.config.ack_policy != AckPolicy.EXPLICIT:
            raise ArgumentError("consumer", self.name, "one with explicit acknowledgements")
        made = info.created != self._created
        if made:
            for warning in self._differences(info.config):
                logger.warning("consumer {} of stream {}: {}", self.name, self.stream, warning)
        self._created = info.created
        self._reset()
        return info, made

    async def info(self, client: Connection) -> ConsumerInfo:
        """Return what the server knows of the consumer."""
        info: ConsumerInfo = await client.jsm().consumer_info(self.stream, self.name)
        return info

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

    async def subscribe(self, client: Connection) -> None:
        """Receive on a connection that is new."""
        self._client, self._inbox = client, client.new_inbox()
        # no message must be too long to be ever sent
        self.max_bytes = max(self.max_bytes, client.max_payload + OVERHEAD)
        # what comes is bounded by what was requested
        self._subscription = await client.subscribe(
            self._inbox, cb=self._on_status, pending_msgs_limit=0, pending_bytes_limit=0
        )
        number = self._subscription._id  # pyright: ignore[reportPrivateUsage] - which is in no other place
        client.deliver[number] = self._on_message

    async def unsubscribe(self) -> None:
        """Receive what is on its way, and nothing more."""
        subscription, self._subscription = self._subscription, None
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
        wanted = min(self.prefetch, max(1, capacity))
        if self._outstanding > wanted // 2 or now < self._not_before:
            return
        batch = wanted - self._outstanding
        self._outstanding += batch
        self._idle = True
        self._expires = now + EXPIRES + GRACE
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
        if self._outstanding <= self.prefetch // 2:
            self.wake()
        if arrived:
            self.take(*map(list, zip(*arrived, strict=True)))

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
