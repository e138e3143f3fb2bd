"""A consumer group of a Redis stream: its commands, and errors that name the server and nothing secret."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from rxcompact.brokers.source import RefusedError
from rxcompact.errors import ArgumentError, RxCompactError, TransientError

BLOCK = 0.2
"""Seconds for which the server waits for an entry; a stop may have to wait for it too."""
OPTIONS: Mapping[str, Any] = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
# a read that redis-py repeats leaves entries pending that were never received
FIXED: Mapping[str, Any] = {"retry": Retry(NoBackoff(), 0), "protocol": 2, "decode_responses": False}
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
"""One step for the server: a consumer that has entries again in between would lose them."""

Entry: TypeAlias = tuple[bytes | None, list[bytes] | None]
"""An id, and names and values by turns; without them when it is no longer in the stream."""


class Group:
    """The commands of one consumer of a group.

    Args:
        url: Of the server; credentials in it are shown nowhere.
        stream: The key.
        name: Of the group.
        consumer: Of the consumer.
        options: Of `redis.asyncio.Redis`.

    Errors:
        RefusedError: from every command that the server answers with an error.
        TransientError: from every command that fails otherwise, with the address.

    Raises:
        ArgumentError: for a URL that cannot be parsed.
    """

    def __init__(self, url: str, stream: str, name: str, consumer: str, options: Mapping[str, Any] | None) -> None:
        try:
            parsed: dict[str, Any] = {**parse_url(url)}
        except ValueError:  # whose text has a part of it
            raise ArgumentError("url", "***", "redis://HOST:PORT/DB") from None
        self._options = {**OPTIONS, **parsed, **(options or {}), **FIXED}
        self._place = (stream, name, consumer)
        self._client: Redis | None = None
        host, port = self._options.get("host", "localhost"), self._options.get("port", 6379)
        self._address: str = self._options.get("path") or f"{host}:{port}/{self._options.get('db', 0)}"

    def __str__(self) -> str:
        return self._address

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Redis]:
        client = self._client
        if client is None:
            client = self._client = Redis.from_pool(ConnectionPool(**self._options))
            for command in ("XREADGROUP", "XAUTOCLAIM"):
                client.set_response_callback(command, _as_it_is)
        try:
            yield client
        except RxCompactError:
            raise
        except ResponseError as error:
            raise RefusedError(f"Redis at {self}: {error}") from error
        except Exception as error:
            if not isinstance(error, RedisError):  # redis-py may keep a connection that is set up by half
                with suppress(Exception):
                    await self.aclose()
            raise TransientError(f"Redis at {self}: {error or type(error).__name__}") from error

    async def create(self, start: str) -> bool:
        """Create the group, and the stream, if it is missing; return whether it was.

        Args:
            start: The id after which it begins.

        Errors:
            ArgumentError: when the key holds something else.
        """
        stream, name, _ = self._place
        async with self._connected() as client:
            try:
                await client.xgroup_create(stream, name, start, mkstream=True)
            except ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    raise ArgumentError("stream", stream, "the key of a stream") from error
                if not str(error).startswith("BUSYGROUP"):
                    raise
                return False
        return True

    async def read(self, after: bytes, count: int) -> list[Entry]:
        """Return entries that are new (``>``), or after an id of those that this consumer has already."""
        stream, name, consumer = self._place
        async with self._connected() as client:
            reply: Any = await client.xreadgroup(name, consumer, {stream: after}, count, int(BLOCK * 1000))
        return reply[0][1] if reply else []

    async def claim(self, idle: float, cursor: bytes, count: int) -> tuple[bytes, list[Entry]]:
        """Take over entries of the group that are idle for so many seconds; return where to go on."""
        async with self._connected() as client:
            cursor, entries, gone = await client.xautoclaim(*self._place, int(idle * 1000), cursor, count)
        return cursor, entries + [(identity, None) for identity in gone]

    async def acknowledge(self, identities: Sequence[bytes]) -> None:
        """Have entries pending no more."""
        stream, name, _ = self._place
        async with self._connected() as client:
            await client.xack(stream, name, *identities)

    async def keep(self, identities: Sequence[bytes], idle: float) -> None:
        """Have the server count anew how long entries are idle, but not those that another has claimed lately."""
        async with self._connected() as client:
            await client.xclaim(*self._place, int(idle * 1000), list(identities), justid=True)

    async def give_back(self, identities: Sequence[bytes]) -> None:
        """Have entries look idle since 1970: whoever asks next gets them."""
        async with self._connected() as client:
            await client.xclaim(*self._place, 0, list(identities), time=0, justid=True)

    async def remove_consumers(self, idle: float, *, own: bool = False) -> None:
        """Remove consumers that hold nothing and are idle for so many seconds, and this one if it holds nothing."""
        stream, name, consumer = self._place
        async with self._connected() as client:
            arguments = (stream, name, consumer, int(idle * 1000), int(own))
            await client.eval(REMOVE_CONSUMERS, 1, *arguments)

    async def aclose(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _as_it_is(response: Any, **_: object) -> Any:
    """Return a reply as the server sent it, whatever redis-py's settings and version would make of it."""
    return response
