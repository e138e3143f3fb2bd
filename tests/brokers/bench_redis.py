"""What a worker on a Redis stream does a second: ``python tests/brokers/bench_redis.py``.

A pipeline that consumes, compacts, publishes to a function and acknowledges, beside three consumers by hand: "bare"
only acknowledges; "dict" keeps a row of each key in a dict before; "contract" acknowledges, once the rows are
published, what went into them. All ask for 1,000 entries at once. Rounds alternate; medians of events a second by the
wall clock, from the first request until the server has every acknowledgement; shares by CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench import ByHand, bodies, compacting, compare, consume, main, server
from redis.asyncio import Redis

from rxcompact.brokers.redis import RedisStreamSource

PREFETCH, STREAM = 1_000, "events"


@contextmanager
def running() -> Iterator[str]:
    def command(port: str, folder: str) -> list[str]:
        place = ["--bind", "127.0.0.1", "--port", port, "--dir", folder]
        return ["redis-server", *place, "--appendonly", "yes", "--save", ""]

    with server(command, "Ready to accept connections") as port:
        yield f"redis://127.0.0.1:{port}/0"


async def bare(url: str, name: str, entries: int, look: Callable[[bytes], None] | None = None) -> float:
    received = 0
    async with Redis.from_url(url, protocol=2) as client:
        await client.xgroup_create(STREAM, name, "0")
        began = time.perf_counter()
        while received < entries:
            reply = await client.xreadgroup(name, "one", {STREAM: ">"}, PREFETCH, 200)
            for _, fields in reply[0][1] if look is not None else ():
                look(fields[b"data"])
            identities = [identity for identity, _ in reply[0][1]]
            received += await client.xack(STREAM, name, *identities)
        return time.perf_counter() - began


async def contract(url: str, name: str, entries: int) -> float:
    received, by_hand = 0, ByHand()
    async with Redis.from_url(url, protocol=2) as client:
        await client.xgroup_create(STREAM, name, "0")
        began = time.perf_counter()
        while received < entries:
            reply = await client.xreadgroup(name, "one", {STREAM: ">"}, PREFETCH, 200)
            by_hand.take((identity, fields[b"data"]) for identity, fields in reply[0][1])
            received += len(reply[0][1])
        settled = by_hand.publish()
        for start in range(0, entries, PREFETCH):
            received -= await client.xack(STREAM, name, *settled[start : start + PREFETCH])
        assert received == 0
        return time.perf_counter() - began


async def pipeline(url: str, name: str, entries: int, each: int) -> float:
    source = RedisStreamSource(url, stream=STREAM, group=name, field="data", max_pending=entries, prefetch=PREFETCH)
    took = await consume(source, entries * each)
    async with Redis.from_url(url) as client:
        assert (await client.xpending(STREAM, name))["pending"] == 0
    return took


async def row(url: str, entries: int, each: int, rounds: int) -> str:
    async with Redis.from_url(url) as client:
        left = list(bodies(entries, each))
        for start in range(0, entries, PREFETCH):
            pipe = client.pipeline(transaction=False)
            for body in left[start : start + PREFETCH]:
                pipe.xadd(STREAM, {"data": body})
            await pipe.execute()
    return await compare(
        lambda number: {
            "bare": bare(url, f"bare{number}", entries),
            "dict": bare(url, f"dict{number}", entries, compacting()),
            "contract": contract(url, f"contract{number}", entries),
            "pipeline": pipeline(url, f"pipeline{number}", entries, each),
        },
        entries,
        each,
        rounds,
    )


if __name__ == "__main__":
    main(__doc__, ["bare", "dict", "contract", "pipeline"], 100_000, running, row)
