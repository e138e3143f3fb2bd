"""Events from a consumer group of a Redis stream, acknowledged when they have met their ends."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from loguru import logger

from rxcompact.brokers.intake import Intake
from rxcompact.brokers.redis.group import Entry, Group
from rxcompact.brokers.redis.held import Held
from rxcompact.brokers.subscription import BrokerSource
from rxcompact.clock import Seconds, seconds
from rxcompact.contracts import Demand
from rxcompact.errors import ArgumentError

SCAN = 1.0
"""Seconds between two looks for entries that others have left, at most."""
FIRST, NEW = b"0-0", b">"


class RedisStreamSource(BrokerSource):
    """Entries of a stream, read in a consumer group: in a field of each an event as JSON, an array or lines of them.

    An entry is acknowledged when every event of it has been published or set aside. One that is held for longer than
    half of ``min_idle_time`` is claimed anew, so that nobody else does. When the pipeline is full no more are asked
    for. After ``stop`` what was not settled may be claimed by others at once.

    Several workers may share a group: each entry goes to one of them. To have a group deliver again what it has
    delivered (``XGROUP SETID``), stop its workers: they know what they have settled.

    Args:
        url: Of one server, as redis-py has it; credentials in it are shown nowhere.
        stream: The key; made where it is missing.
        group: The consumer group; made where it is missing, one that is there is taken as it is.
        consumer: A name that no two workers at work have; one that comes again under its name has at once what it
            left, the others after ``min_idle_time``. By default of the host and the process.
        field: The field of an entry that holds the events. An entry without it is refused.
        start: The id after which a group that is made begins; ``$`` is the end of the stream.
        min_idle_time: Seconds after a crash until others claim what was left; the same for all of a group.
        max_pending: Entries that are held at most, and known when they come again; no fewer than come in a window and
            in a delivery of the sink.
        prefetch: Entries asked for at once; the server counts no bytes.
        together: Entries, of those that came at once, that are acknowledged together at most. An event that waits for
            long keeps the others of these from it.
        options: Of `redis.asyncio.Redis`, such as ``ssl_ca_certs``; ``socket_timeout``, 2 seconds, has to be above 0.2.

    Raises:
        ArgumentError: for an argument out of range.

    Cost: an XREADGROUP for as many entries as there is room for, an XACK for all that settles meanwhile; a look through
        what is pending in the group (XAUTOCLAIM) once a second.

    What is trimmed (``MAXLEN``) before it was delivered is never seen; what is trimmed later is logged as lost.

    Source: https://redis.io/docs/latest/develop/data-types/streams/ (Redis 7 or later: XAUTOCLAIM tells what is gone)
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str,
        group: str,
        consumer: str | None = None,
        field: str = "data",
        start: str = "0",
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
        self._name = f"stream={stream!r}, group={group!r}, consumer={consumer!r}"
        self._field = field.encode()
        self._start = start
        self._min_idle_time = seconds("min_idle_time", min_idle_time)
        self._max_pending = max_pending
        self._prefetch = prefetch
        self._group = Group(url, stream, group, consumer, options)
        self._held = Held(self._group, self._min_idle_time, max_pending)
        self._keeper: asyncio.Future[None] | None = None
        self._after = FIRST  # of what is pending for this consumer, or new
        self._cursor = FIRST  # of what is pending for any
        self._next_scan = 0.0
        super().__init__(Intake(self._held.settle, together=together))

    def __repr__(self) -> str:
        return f"RedisStreamSource({str(self._group)!r}, {self._name})"

    # ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _bind(self) -> None:
        if self._keeper is None:
            self._keeper = asyncio.ensure_future(self._held.keep())
        if await self._group.create(self._start):  # whoever removed it wants all of it anew
            self._held.forget()
        self._after = FIRST  # a reply may have been lost

    async def aclose(self) -> None:
        """Ask for no more; what was not pushed is returned."""
        try:
            await self._ended()
        finally:
            self._held.give_back(self._intake.leave())

    async def release(self) -> None:
        """Say what there is to say of what was settled, return what was not, and disconnect."""
        try:
            await self._ended()
            self._held.give_back()
            keeper, self._keeper = self._keeper, None
            if keeper is not None:
                self._held.end()
                await keeper
            await self._held.tell_all()
        finally:
            await self._group.aclose()

    # ── entries ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _pull(self, demand: Demand) -> None:
        self._intake.push()
        room, left = demand.capacity(), self._max_pending - len(self._held)
        if not room or left <= 0:
            self._waiting = asyncio.ensure_future(self._held.fewer(self._max_pending) if room else demand.wait())
            await asyncio.wait({self._waiting})
            return
        count = max(1, int(room / self._intake.events_each))
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
        return entries

    def _take(self, entries: list[Entry]) -> None:
        gone: list[bytes] = []
        for identity, fields in entries:
            if identity is None or fields is None:
                gone += [identity] if identity else []
            elif self._held.take(identity):
                self._intake.take([identity], [self._body(identity, fields)])
        if gone and (lost := self._held.drop(gone)):
            logger.warning("{} lost {} entries, removed from the stream: {}, …", self, len(lost), lost[0].decode())

    def _body(self, identity: bytes, fields: list[bytes]) -> bytes:
        names = fields[::2]
        if self._field in names:
            return fields[2 * names.index(self._field) + 1]
        # no JSON, whatever the names are
        return f"entry {identity.decode()} has no field {self._field!r}, only {names}".encode()
