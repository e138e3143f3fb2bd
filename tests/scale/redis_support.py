"""A real Redis server with an append-only file, and what the tests ask of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rxcompact.brokers.redis import RedisStreamSource

from .conftest import Pipelines, Server, free_port

STREAM, GROUP, CONSUMER = "events", "workers", "one"


class RedisServer(Server):
    """redis-server on a port of its own, with its file in a folder."""

    def __init__(self, binary: str, folder: Path, *flags: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        command = [binary, *place, "--appendonly", "yes", "--save", "", *flags]
        super().__init__(command, folder / "redis.log", "Ready to accept connections")


class RedisRig(Pipelines):
    """A stream to take from."""

    def __init__(self, client: Redis, url: str) -> None:
        super().__init__(url)
        self.client = client

    def source(self, **options: Any) -> Any:
        return RedisStreamSource(self.url, **({"stream": STREAM, "group": GROUP, "consumer": CONSUMER} | options))

    async def send(self, *bodies: Any) -> list[bytes]:
        """Send an entry each; return their ids."""
        encoded = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
        return await self.add({"data": body} for body in encoded)

    async def send_events(self, numbers: Iterable[int]) -> None:
        await self.send(*({"id": number} for number in numbers))

    async def add(self, entries: Iterable[dict[Any, Any]]) -> list[bytes]:
        pipeline = self.client.pipeline(transaction=False)
        for fields in entries:
            pipeline.xadd(STREAM, fields)
        return list(await pipeline.execute())

    async def deliver(self, consumer: str, *bodies: Any) -> list[bytes]:
        """Send an entry each, and read them for a consumer before anybody else can; return their ids."""
        transaction = self.client.pipeline(transaction=True)
        for body in bodies:
            transaction.xadd(STREAM, {"data": json.dumps(body)})
        transaction.xreadgroup(GROUP, consumer, {STREAM: ">"}, len(bodies))
        *identities, _ = await transaction.execute()
        return identities

    async def pending(self) -> dict[bytes, tuple[str, int]]:
        """Return the entries that were delivered and not acknowledged: whose they are, and how often they came."""
        found = await self.client.xpending_range(STREAM, GROUP, "-", "+", 1_000_000)
        return {it["message_id"]: (it["consumer"].decode(), it["times_delivered"]) for it in found}

    async def waiting(self) -> int:
        """Return how many entries were not delivered."""
        (group,) = await self.client.xinfo_groups(STREAM)
        return len(await self.client.xrange(STREAM, f"({group['last-delivered-id'].decode()}"))

    async def settles(self, *, waiting: int = 0, unacknowledged: int = 0, seconds: float = 10) -> None:
        """Wait until the group has come to so many; and that it stays there for a moment."""
        found = None
        try:
            async with asyncio.timeout(seconds):
                same = 0
                while same < 3:
                    try:
                        found = (await self.waiting(), len(await self.pending()))
                    except (RedisError, OSError, ValueError):  # not there yet, or the server is not
                        found = None
                    same = same + 1 if found == (waiting, unacknowledged) else 0
                    await asyncio.sleep(0.03)
        except TimeoutError:
            raise AssertionError(f"(waiting, unacknowledged) is {found}") from None


@asynccontextmanager
async def rigged(url: str) -> AsyncIterator[RedisRig]:
    async with Redis.from_url(url) as client:
        rig = RedisRig(client, url)
        try:
            yield rig
            for orchestrator in rig.orchestrators:
                await orchestrator.stop()
                assert orchestrator.account.in_flight == 0
        finally:
            for orchestrator in rig.orchestrators:
                await orchestrator.stop(0.5)
    assert rig.faults == []
