"""A real Redis server with an append-only file, and a stream in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rxcompact.brokers.redis import RedisStreamSource

from .support import Rig, Server

STREAM, GROUP, CONSUMER = "events", "workers", "one"


class RedisServer(Server):
    scheme, package, binary, ready = "redis", "redis", "redis-server", "Ready to accept connections"
    path = "/0"

    def arguments(self, folder: Path) -> list[str]:
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        return [*place, "--appendonly", "yes", "--appendfsync", "always", "--save", ""]


class SentinelServer(RedisServer):
    """Promotes the replica of a master that is away for half a second."""

    binary, ready = "redis-server", r"\+monitor master"

    def arguments(self, folder: Path) -> list[str]:
        file = folder / f"sentinel-{self.port}.conf"
        return [str(file), "--sentinel", "--port", str(self.port), "--dir", str(folder)]

    def watch(self, master: Server) -> None:
        lines = (
            f"monitor main 127.0.0.1 {master.port} 1",
            "down-after-milliseconds main 500",
            "failover-timeout main 3000",
        )
        Path(self._command[1]).write_text("".join(f"sentinel {line}\n" for line in lines))
        self.start()


class RedisRig(Rig):
    ack_wait, max_pending = "min_idle_time", "max_pending"

    async def connect(self) -> None:
        self.client = Redis.from_url(self.url)

    async def disconnect(self) -> None:
        await self.client.aclose()

    def source(self, **options: Any) -> Any:
        settings = {"stream": STREAM, "group": GROUP, "consumer": CONSUMER, "field": "data"}
        return RedisStreamSource(self.url, **(settings | options))

    async def send_raw(self, *bodies: bytes) -> list[Any]:
        return await self.add({"data": body} for body in bodies)

    async def send_events(self, numbers: Iterable[int]) -> None:
        await self.add({"data": b'{"id": %d}' % number} for number in numbers)

    async def send_numbered(self, bodies: dict[int, bytes]) -> None:
        while True:
            pipeline = self.client.pipeline(transaction=False)
            for number, body in bodies.items():
                pipeline.xadd(STREAM, {"data": body}, id=f"{number + 1}-0")
            try:
                replies = await pipeline.execute(raise_on_error=False)
            except RedisError:
                await asyncio.sleep(0.05)
                continue
            # that it is there already is an error too
            if all(isinstance(reply, bytes) or "equal or smaller" in str(reply) for reply in replies):
                return

    async def delivered_numbers(self) -> set[int]:
        return {int(identity.partition(b"-")[0]) - 1 for identity in await self.delivered()}

    async def add(self, entries: Iterable[dict[Any, Any]]) -> list[bytes]:
        pipeline = self.client.pipeline(transaction=False)
        for fields in entries:
            pipeline.xadd(STREAM, fields)
        return list(await pipeline.execute())

    async def deliver(self, consumer: str, *bodies: bytes) -> list[bytes]:
        """Send an entry each, and read them for a consumer before anybody else can; return their ids."""
        transaction = self.client.pipeline(transaction=True)
        for body in bodies:
            transaction.xadd(STREAM, {"data": body})
        transaction.xreadgroup(GROUP, consumer, {STREAM: ">"}, len(bodies))
        *identities, _ = await transaction.execute()
        return identities

    async def delivered(self) -> dict[bytes, tuple[str, int]]:
        """Return the entries that were delivered and not acknowledged: whose they are, and how often they came."""
        found = await self.client.xpending_range(STREAM, GROUP, "-", "+", 1_000_000)
        return {it["message_id"]: (it["consumer"].decode(), it["times_delivered"]) for it in found}

    async def waiting(self) -> int:
        """Return how many entries were not delivered."""
        (group,) = await self.client.xinfo_groups(STREAM)
        return len(await self.client.xrange(STREAM, f"({group['last-delivered-id'].decode()}"))

    async def pending(self) -> tuple[int, int]:
        return await self.waiting(), len(await self.delivered())

    def origin(self, sent: Any) -> str:
        return f"stream events, entry {sent.decode()}"

    async def redelivered(self) -> int:
        return 0  # the server counts what is pending alone

    async def reconnect(self) -> None:
        await self.client.connection_pool.disconnect()

    def another(self, **options: Any) -> dict[str, Any]:
        return {"consumer": "two", **options}

    async def remove_consumer(self) -> None:
        await self.client.xgroup_destroy(STREAM, GROUP)
