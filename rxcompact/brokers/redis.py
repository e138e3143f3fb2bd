"""Redis Streams as a source (extra ``redis``): events of a consumer group, acknowledged when they are settled."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import msgspec
from loguru import logger
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from rxcompact.brokers.source import BrokerSource, RefusedError, Start, start_time
from rxcompact.brokers.unacked import ACK, IN_PROGRESS, UnackedMessages
from rxcompact.clock import Seconds, count, seconds
from rxcompact.errors import ArgumentError, RxCompactError, TransientError
from rxcompact.reader.items import Malformed

BLOCK = 0.2  # seconds for which the server waits for an entry; a stop may have to wait for it too
SCAN = 1.0  # seconds between two searches for entries that others have left, at most
DEAD = 6  # times min_idle_time after which a consumer without entries is removed
FIRST, NEW = b"0-0", b">"
SENTINEL = 26379  # the port of a Sentinel that names none
LAST_IN_MILLISECOND = 2**64 - 1
OPTIONS: Mapping[str, Any] = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
# a read that redis-py repeats leaves entries pending that were never received
FIXED: Mapping[str, Any] = {"retry": Retry(NoBackoff(), 0), "protocol": 2, "decode_responses": False}
# one step for the server: a consumer that has entries again in between would lose them
REMOVE_CONSUMERS = """
for _, found in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local it = {}
  for i = 1, #found, 2 do it[found[i]] = found[i + 1] end
  local dead = it.name ~= ARGV[2] and it.idle >= tonumber(ARGV[3])
  if it.pending == 0 and (dead or it.name == ARGV[2] and ARGV[4] == '1') then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], it.name)
  end
end
"""

Entry: TypeAlias = tuple[bytes, list[bytes] | None]
"""An id, and names and values by turns; without them when it is no longer in the stream."""


class RedisStreamSource(BrokerSource):
    """Entries of a stream, read in a consumer group: the fields of each are an event.

    An entry is acknowledged when every event of it is published or a dead letter. One that is held for longer than half
    of ``min_idle_time`` is claimed anew, so that nobody else does. When the pipeline is full no more are read. After
    ``stop`` what was not settled may be claimed by others at once.

    Several workers may share a group: each entry goes to one of them. To have a group deliver again what it has
    delivered (``XGROUP SETID``), stop its workers: they know what they have settled. What is trimmed (``MAXLEN``)
    before it was delivered is never seen; what is trimmed later is logged as lost.

    Args:
        url: Of the server, as redis-py has it; credentials in it are shown nowhere.
        sentinel: The name of the master, where the URL has the addresses of Sentinels, such as ``redis://a:26379,b/0``;
            the credentials are the master's.
        stream: The key; made where it is missing.
        group: The consumer group; made where it is missing, one that is there is taken as it is.
        consumer: A name that no two workers at work have; one that starts again under its name has at once what it
            left, the others after ``min_idle_time``. By default of the host and the process. Consumers that hold
            nothing are removed: its own at a stop, others when they have been idle for six times ``min_idle_time``.
        field: The field of an entry that holds an event as JSON, an array or lines of them; an entry without it is
            rejected. By default the fields are the event, and their values texts (a byte that is not UTF-8 becomes an
            escape).
        start: Where a group that is made begins, see `Start`.
        min_idle_time: Seconds after a crash until others claim what was left; the same for all of a group.
        max_pending: Entries that are held at most, and recognised when they are delivered again; no fewer than come in
            a window and in a delivery of the sink.
        prefetch: Entries read at once; the server counts no bytes.
        items: As of `BrokerSource`.
        options: Of `redis.asyncio.Redis`, such as ``ssl_ca_certs``; ``socket_timeout``, 2 seconds, has to be above 0.2.

    Raises:
        ArgumentError: for an argument out of range, or a URL that cannot be parsed.

    Cost: an XREADGROUP for as many entries as there is capacity for, an XACK for all that settles meanwhile; a look
        through what is pending in the group (XAUTOCLAIM) once a second.

    Source: https://redis.io/docs/latest/develop/data-types/streams/ (Redis 7 or later: XAUTOCLAIM names what is gone)
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str,
        group: str,
        sentinel: str | None = None,
        consumer: str | None = None,
        field: str | None = None,
        start: Start = "all",
        min_idle_time: Seconds = 10.0,
        max_pending: int = 100_000,
        prefetch: int = 1_000,
        items: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        hosts = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        try:
            several: list[dict[str, Any]] = [{**parse_url(url.replace(hosts, host, 1))} for host in hosts.split(",")]
        except ValueError:  # whose text has a part of it
            raise ArgumentError("url", "***", "redis://HOST:PORT/DB") from None
        if len(several) > 1 and sentinel is None:
            raise ArgumentError("sentinel", sentinel, "the name of the master, where the URL has several addresses")
        self._options = {**OPTIONS, **several[0], **(options or {}), **FIXED}
        self._sentinel, self._sentinels = sentinel, [(it.get("host"), it.get("port", SENTINEL)) for it in several]
        host, port = self._options.get("host", "localhost"), self._options.get("port", 6379)
        self._address: str = self._options.get("path") or f"{host}:{port}/{self._options.get('db', 0)}"
        if sentinel is not None:
            self._address = f"{sentinel} of {hosts}"
        self._stream, self._group, self.name = stream, group, f"stream {stream}"
        self._place = stream, group, consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._field = None if field is None else field.encode()
        since = start_time(start)  # the group begins after an id
        after = f"{int((since or 0) * 1000) - 1}-{LAST_IN_MILLISECOND}"
        self._start = {"all": "0", "new": "$"}.get(str(start), after)
        self._min_idle_time = seconds("min_idle_time", min_idle_time)
        self._client: Redis | None = None
        self._after = FIRST  # of what is pending for this consumer, or new
        self._cursor = FIRST  # of what is pending for any
        self._next_scan = self._next_removal = 0.0
        self._max_pending, self._prefetch = count("max_pending", max_pending), count("prefetch", prefetch)
        super().__init__(UnackedMessages(max_pending, self._min_idle_time), items)

    def __repr__(self) -> str:
        stream, group, consumer = self._place
        return f"RedisStreamSource({self._address!r}, stream={stream!r}, group={group!r}, consumer={consumer!r})"

    def _pool(self) -> ConnectionPool:
        if self._sentinel is None:
            return ConnectionPool(**self._options)
        options = {name: it for name, it in self._options.items() if name not in ("host", "port", "connection_class")}
        options["ssl"] = self._options.get("connection_class") is SSLConnection
        own = options.pop("sentinel_kwargs", OPTIONS)
        self._manager: Any = Sentinel(self._sentinels, sentinel_kwargs=own)  # type: ignore[no-untyped-call]
        return SentinelConnectionPool(self._sentinel, self._manager, **options)  # type: ignore[no-untyped-call]

    # ── connection ────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Redis]:
        """Yield the client; an error names the address, and is a RefusedError where the server answered with one."""
        if self._client is None:
            self._client = Redis.from_pool(self._pool())
            for command in ("XREADGROUP", "XAUTOCLAIM"):  # whatever redis-py's settings and version would make of it
                self._client.set_response_callback(command, lambda response, **_: response)
        try:
            yield self._client
        except RxCompactError:
            raise
        except ResponseError as error:
            raise RefusedError(f"Redis at {self._address}: {error}") from error
        except Exception as error:
            if not isinstance(error, RedisError):  # redis-py may keep a connection that is set up by half
                with suppress(Exception):
                    await self._client.connection_pool.disconnect()
            raise TransientError(f"Redis at {self._address}: {error or type(error).__name__}") from error

    async def _bind(self) -> None:
        self._after = FIRST  # a reply may have been lost
        async with self._connected() as client:
            try:
                await client.xgroup_create(self._stream, self._group, self._start, mkstream=True)
            except ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    raise ArgumentError("stream", self._stream, "the key of a stream") from error
                if not str(error).startswith("BUSYGROUP"):
                    raise
                return
        self._unacked.forget()  # whoever removed the group wants all of it anew

    async def _measure(self) -> Mapping[str, int]:
        async with self._connected() as client:
            groups: list[dict[str, Any]] = await client.xinfo_groups(self._stream)
        lags = {str(it["name"], "utf-8", "replace"): it.get("lag") for it in groups}  # which the server may not know
        return {group: lag for group, lag in lags.items() if group == self._group and lag is not None}

    async def _disconnect(self) -> None:
        with suppress(TransientError):
            await self._remove_consumers(own=True)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
            for sentinel in self._manager.sentinels if self._sentinel is not None else ():
                await sentinel.aclose()

    async def _remove_consumers(self, *, own: bool) -> None:
        """Remove consumers that hold nothing and are idle for long, and this one if it holds nothing."""
        async with self._connected() as client:
            await client.eval(REMOVE_CONSUMERS, 1, *self._place, int(DEAD * self._min_idle_time * 1000), int(own))

    # ── fetching ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _fetch(self, number: int) -> None:
        is_due = self._after == NEW and time.monotonic() >= self._next_scan
        entries = await (self._claim(number) if is_due else self._read_entries(number))
        bodies = {identity: self._body(fields) for identity, fields in entries if fields is not None}
        self._take(list(bodies), list(bodies), list(bodies.values()))
        lost = self._unacked.drop(identity for identity, fields in entries if fields is None)
        if lost:
            logger.warning("{} lost {} entries, removed from the stream: {}, …", self, len(lost), lost[0].decode())

    async def _read_entries(self, number: int) -> list[Entry]:
        """Return what this consumer has pending from before, then what is new."""
        stream, group, consumer = self._place
        async with self._connected() as client:
            reply: Any = await client.xreadgroup(group, consumer, {stream: self._after}, number, int(BLOCK * 1000))
        entries = reply[0][1] if reply else []
        if self._after != NEW:
            self._after = entries[-1][0] if entries else NEW
        return entries

    async def _claim(self, number: int) -> list[Entry]:
        """Return what others have left; after all of it remove those that are gone."""
        async with self._connected() as client:
            idle = int(self._min_idle_time * 1000)
            self._cursor, entries, gone = await client.xautoclaim(*self._place, idle, self._cursor, number)
        if self._cursor == FIRST:
            now = time.monotonic()
            self._next_scan = now + min(SCAN, self._min_idle_time / 4)
            if now >= self._next_removal:
                self._next_removal = now + DEAD * self._min_idle_time
                try:
                    await self._remove_consumers(own=False)
                except RefusedError as error:
                    logger.warning("{} removes no consumers: {}", self, error)
                    self._next_removal = float("inf")
        return [*entries, *((identity, None) for identity in gone)]

    def _body(self, fields: list[bytes]) -> bytes:
        names = fields[::2]
        if self._field in names:
            return fields[2 * names.index(self._field) + 1]
        texts = [text.decode(errors="backslashreplace") for text in fields]
        event = msgspec.json.encode(dict(zip(texts[::2], texts[1::2], strict=True)))
        if self._field is None:
            return event
        return Malformed(event, f"no field {self._field.decode()!r}")

    # ── replying ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send(self, kind: bytes, replies: Sequence[bytes]) -> None:
        async with self._connected() as client:
            if kind == ACK:
                await client.xack(self._stream, self._group, *replies)
            elif kind == IN_PROGRESS:  # but not of those that another has claimed lately
                idle = int(self._min_idle_time / 4 * 1000)
                await client.xclaim(*self._place, idle, list(replies), justid=True)
            else:  # idle since 1970: whoever asks next gets them
                await client.xclaim(*self._place, 0, list(replies), time=0, justid=True)

    def _describe(self, _: Any, identity: bytes) -> str:
        return f"{self.name}, entry {identity.decode()}"
