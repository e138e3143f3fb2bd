"""Events from a consumer group of a Redis stream, acknowledged when they are settled."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from loguru import logger

from rxcompact.brokers.redis.group import Entry, Group
from rxcompact.brokers.source import BrokerSource, RefusedError, Start, start_time
from rxcompact.brokers.unacked import ACK, IN_PROGRESS, UnackedMessages
from rxcompact.clock import Seconds, seconds
from rxcompact.contracts import Demand
from rxcompact.errors import ArgumentError, TransientError
from rxcompact.reader.position import Malformed

SCAN = 1.0
"""Seconds between two searches for entries that others have left, at most."""
DEAD = 6
"""``min_idle_time`` after which a consumer without entries is removed."""
FIRST, NEW = b"0-0", b">"
LAST_IN_MILLISECOND = 2**64 - 1


class RedisStreamSource(BrokerSource):
    """Entries of a stream, read in a consumer group: the fields of each are an event.

    An entry is acknowledged when every event of it is published or a dead letter. One that is held for longer than half
    of ``min_idle_time`` is claimed anew, so that nobody else does. When the pipeline is full no more are read. After
    ``stop`` what was not settled may be claimed by others at once.

    Several workers may share a group: each entry goes to one of them. To have a group deliver again what it has
    delivered (``XGROUP SETID``), stop its workers: they know what they have settled.

    Args:
        url: Of one server, as redis-py has it; credentials in it are shown nowhere.
        stream: The key; made where it is missing.
        group: The consumer group; made where it is missing, one that is there is taken as it is.
        consumer: A name that no two workers at work have; one that starts again under its name has at once what it
            left, the others after ``min_idle_time``. By default of the host and the process. Consumers that hold
            nothing are removed: its own at a stop, others when they have been idle for six times ``min_idle_time``.
        field: The field of an entry that holds an event as JSON, an array or lines of them; an entry without it is
            rejected. By default the fields are the event, and their values texts (a byte that is
            not UTF-8 becomes an escape).
        start: Where a group that is made begins: with all that is in the stream, with what is new, or with what was
            added since an instant, POSIX seconds or a datetime.
        min_idle_time: Seconds after a crash until others claim what was left; the same for all of a group.
        max_pending: Entries that are held at most, and recognised when they are delivered again; no fewer than come in
            a window and in a delivery of the sink.
        prefetch: Entries read at once; the server counts no bytes.
        together: Entries, of those that came at once, that are acknowledged together at most. An event that waits for
            long keeps the others of these from it.
        options: Of `redis.asyncio.Redis`, such as ``ssl_ca_certs``; ``socket_timeout``, 2 seconds, has to be above 0.2.

    Raises:
        ArgumentError: for an argument out of range.

    Cost: an XREADGROUP for as many entries as there is capacity for, an XACK for all that settles meanwhile; a look
        through what is pending in the group (XAUTOCLAIM) once a second.

    What is trimmed (``MAXLEN``) before it was delivered is never seen; what is trimmed later is logged as lost.

    Source: https://redis.io/docs/latest/develop/data-types/streams/ (Redis 7 or later: XAUTOCLAIM names what is gone)
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str,
        group: str,
        consumer: str | None = None,
        field: str | None = None,
        start: Start = "all",
        min_idle_time: Seconds = 10.0,
        max_pending: int = 100_000,
        prefetch: int = 1_000,
        together: int = 32,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        for argument, value in (("max_pending", max_pending), ("prefetch", prefetch)):
            if value < 1:
                raise ArgumentError(argument, value, "at least 1")
        consumer = consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._stream = stream
        self._name = f"stream={stream!r}, group={group!r}, consumer={consumer!r}"
        self._field = None if field is None else field.encode()
        since = start_time(start)
        # the group begins after this id
        self._start = {"all": "0", "new": "$"}.get(
            str(start)
        ) or f"{int((since or 0) * 1000) - 1}-{LAST_IN_MILLISECOND}"
        self._min_idle_time = seconds("min_idle_time", min_idle_time)
        self._max_pending = max_pending
        self._prefetch = prefetch
        self._group = Group(url, stream, group, consumer, options)
        self._after = FIRST  # of what is pending for this consumer, or new
        self._cursor = FIRST  # of what is pending for any
        self._next_scan = self._next_removal = 0.0
        super().__init__(UnackedMessages(max_pending, self._min_idle_time), together)

    def __repr__(self) -> str:
        return f"RedisStreamSource({str(self._group)!r}, {self._name})"

    async def _bind(self) -> None:
        if await self._group.create(self._start):  # whoever removed it wants all of it anew
            self._unacked.forget()
        self._after = FIRST  # a reply may have been lost

    async def _fetch(self, demand: Demand) -> None:
        self._intake.push()
        capacity, left = demand.capacity(), self._max_pending - len(self._unacked)
        if not capacity or left <= 0:
            await self._wait_for(self._unacked.fewer(self._max_pending) if capacity else demand.wait())
            return
        count = max(1, int(capacity / self._intake.events_each))
        self._take(await self._next(min(count, left, self._prefetch)))

    async def _next(self, count: int) -> list[Entry]:
        """Return what this consumer has pending from before, then what others have left, then what is new."""
        if self._after != NEW:
            entries = await self._group.read(self._after, count)
            self._after = (entries[-1][0] if entries else None) or NEW
            return entries
        if time.monotonic() < self._next_scan:
            return await self._group.read(NEW, count)
        self._cursor, entries = await self._group.claim(self._min_idle_time, self._cursor, count)
        if self._cursor == FIRST:
            self._next_scan = time.monotonic() + min(SCAN, self._min_idle_time / 4)
            await self._remove_dead_consumers()
        return entries

    async def _remove_dead_consumers(self) -> None:
        now = time.monotonic()
        if now < self._next_removal:
            return
        self._next_removal = now + DEAD * self._min_idle_time
        try:
            await self._group.remove_consumers(DEAD * self._min_idle_time)
        except RefusedError as error:
            logger.warning("{} removes no consumers: {}", self, error)
            self._next_removal = float("inf")

    def _take(self, entries: list[Entry]) -> None:
        bodies = {key: self._body(fields) for key, fields in entries if key is not None and fields is not None}
        identities = list(bodies)
        self._intake.take(*self._unacked.take(identities, identities, list(bodies.values())))
        gone = [identity for identity, fields in entries if identity is not None and fields is None]
        if gone and (lost := self._unacked.drop(gone)):
            logger.warning("{} lost {} entries, removed from the stream: {}, …", self, len(lost), lost[0].decode())

    def _body(self, fields: list[bytes]) -> bytes:
        names = fields[::2]
        if self._field in names:
            return fields[2 * names.index(self._field) + 1]
        texts = [text.decode(errors="backslashreplace") for text in fields]
        event = msgspec.json.encode(dict(zip(texts[::2], texts[1::2], strict=True)))
        if self._field is None:
            return event
        return Malformed(event, f"no field {self._field.decode()!r}")

    async def _send(self, kind: bytes, replies: Sequence[bytes]) -> None:
        if kind == ACK:
            await self._group.acknowledge(replies)
        elif kind == IN_PROGRESS:
            await self._group.keep(replies, self._min_idle_time / 4)
        else:
            await self._group.give_back(replies)

    def _describe(self, identity: bytes) -> str:
        return f"stream {self._stream}, entry {identity.decode()}"

    async def _disconnect(self) -> None:
        with suppress(TransientError):
            await self._group.remove_consumers(DEAD * self._min_idle_time, own=True)
        await self._group.aclose()
