"""A durable pull consumer, and the messages that were requested from it: always some ahead of what is pushed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
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
HEARTBEAT, TIMEOUT, NOT_FOUND, CONFLICT = "100", "408", "404", "409"
PASSING = {"Message Size Exceeds MaxBytes", "Batch Completed", "Leadership Change", "Server Shutdown"}
"""Conflicts that end a request, and nothing else."""


class PullConsumer:
    """A consumer, made where it is missing; ``wake`` is called when it may be time for another request."""

    def __init__(
        self,
        stream: str,
        config: ConsumerConfig,
        *,
        prefetch: int,
        max_bytes: int,
        wake: Callable[[], object],
        fail: Callable[[TransientError], object],
    ) -> None:
        self._stream = stream
        self._config = config
        self._name = config.durable_name or ""
        self.subjects = config.filter_subjects or []
        self._prefetch = prefetch
        self._max_bytes = max_bytes
        self._wake = wake
        self._fail = fail
        self._created: datetime | None = None
        self._client: Connection  # since `subscribe`
        self._inbox = ""
        self._reset()

    def _reset(self) -> None:
        self._outstanding = 0  # messages that were requested and have not come
        self._low = 0  # with no more than so many outstanding more are requested
        self._idle = False  # nothing came since the last request
        self._not_before = self._expires = 0.0

    async def bind(self, client: Connection) -> tuple[ConsumerInfo, bool]:
        """Return what the server knows of the consumer, and whether it was made since the last time.

        Raises:
            ArgumentError: when its messages cannot be requested, or acknowledged one by one.
        """
        manager = client.jsm()
        try:
            info = await manager.consumer_info(self._stream, self._name)
        except NotFoundError:
            info = await manager.add_consumer(self._stream, self._config)
        if info.config.deliver_subject:
            raise ArgumentError("consumer", self._name, "a pull consumer, not one that pushes")
        if info.config.ack_policy != AckPolicy.EXPLICIT:
            raise ArgumentError("consumer", self._name, "one with explicit acknowledgements")
        made = info.created != self._created
        if made:
            for warning in self._differences(info.config):
                logger.warning("consumer {} of stream {}: {}", self._name, self._stream, warning)
        self._created = info.created
        self._reset()
        return info, made

    def _differences(self, found: ConsumerConfig) -> Iterator[str]:
        """Yield what may surprise whoever uses a consumer that somebody else made."""
        if (limit := found.max_deliver or 0) > 0:
            yield f"max_deliver is {limit}: a message is lost when {limit} workers stopped while they held it"
        wanted = self._config.max_ack_pending or 0
        if 0 < (most := found.max_ack_pending or 0) < wanted:
            yield f"max_ack_pending is {most}, not {wanted}: no more than {most} messages are compacted together"
        subjects = found.filter_subjects or ([found.filter_subject] if found.filter_subject else [])
        if set(subjects) != set(self.subjects):
            yield f"its subjects are {', '.join(subjects) or 'all'}, not {', '.join(self.subjects) or 'all'}"

    async def subscribe(self, client: Connection) -> Subscription:
        """Receive on a connection that is new."""
        self._client, self._inbox = client, client.new_inbox()
        # no message must be too long to be ever sent
        self._max_bytes = max(self._max_bytes, client.max_payload + OVERHEAD)
        # what comes is bounded by what was requested
        return await client.subscribe(self._inbox, cb=self._on_status, pending_msgs_limit=0, pending_bytes_limit=0)

    async def request(self, capacity: int) -> None:
        """Request as many messages as there is capacity for, less those that are requested already."""
        now = asyncio.get_running_loop().time()
        if now >= self._expires:  # not even that the request expired was received
            self._outstanding = 0
        wanted = min(self._prefetch, max(1, capacity))
        if self._outstanding > wanted // 2 or now < self._not_before:
            return
        batch = wanted - self._outstanding
        self._low = wanted // 2
        self._outstanding += batch
        self._idle = True
        self._expires = now + EXPIRES + GRACE
        request = {"batch": batch, "max_bytes": self._max_bytes, "expires": int(EXPIRES * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        await self._client.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    def arrived(self, messages: int) -> None:
        """Count messages that arrived."""
        self._idle = False
        self._outstanding = max(0, self._outstanding - messages)
        if self._outstanding <= self._low:
            self._wake()

    async def _on_status(self, message: Msg) -> None:
        # https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md
        headers: dict[str, Any] = message.headers or {}
        status, description = headers.get("Status"), headers.get("Description", "")
        if status == HEARTBEAT:
            return
        if status not in (TIMEOUT, NOT_FOUND) and not (status == CONFLICT and description in PASSING):
            self._fail(TransientError(f"consumer {self._name} sends no messages: {status} {description}".rstrip()))
            return
        left = headers.get("Nats-Pending-Messages", "")
        self._outstanding = max(0, self._outstanding - int(left)) if left.isdigit() else 0
        if status != TIMEOUT and self._idle:  # not again and again at once
            loop = asyncio.get_running_loop()
            self._not_before = loop.time() + PAUSE
            loop.call_at(self._not_before, self._wake)
        else:
            self._wake()
