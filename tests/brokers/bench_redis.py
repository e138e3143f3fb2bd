"""What a worker on a Redis stream does a second: ``python tests/brokers/bench_redis.py``.

A pipeline that consumes, compacts, publishes to a function and acknowledges, beside a consumer that only acknowledges;
both ask for 1,000 entries at once. Rounds alternate; medians of events a second by the wall clock, from the first
request until the server has every acknowledgement.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis.asyncio import Redis

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.brokers.redis import RedisStreamSource

KEYS, PREFETCH, STREAM = 10_000, 1_000, "events"


@contextmanager
def running() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as taken, Path(folder, "log").open("wb") as log:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        place = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        server = subprocess.Popen(["redis-server", *place, "--appendonly", "yes", "--save", ""], stdout=log)
        try:
            while "Ready to accept connections" not in Path(folder, "log").read_text():
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()
            server.wait()


async def fill(client: Redis, entries: int, each: int) -> None:
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(KEYS)))
    keys = iter(random.Random(7).choices(range(KEYS), cum_weights=weights, k=entries * each))
    for start in range(0, entries, PREFETCH):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(entries, start + PREFETCH)):
            lines = [json.dumps({"id": f"key-{key}", "n": number}).encode() for key in itertools.islice(keys, each)]
            pipeline.xadd(STREAM, {"data": b"\n".join(lines)})
        await pipeline.execute()


async def bare(url: str, name: str, entries: int) -> float:
    received = 0
    async with Redis.from_url(url, protocol=2) as client:
        await client.xgroup_create(STREAM, name, "0")
        began = time.perf_counter()
        while received < entries:
            reply = await client.xreadgroup(name, "one", {STREAM: ">"}, PREFETCH, 200)
            identities = [identity for identity, _ in reply[0][1]]
            received += await client.xack(STREAM, name, *identities)
        return time.perf_counter() - began


async def pipeline(url: str, name: str, entries: int, each: int) -> float:
    source = RedisStreamSource(url, stream=STREAM, group=name, field="data", max_pending=entries, prefetch=PREFETCH)
    published = 0

    def sink(batch: object) -> None:
        nonlocal published
        published += sum(compacted.count for compacted in batch)

    orchestrator = Orchestrator(
        Pipeline(source, rxo.compact(1, key_mapper="id"), rxo.publish(sink), max_age=600, max_in_flight=10**6)
    )
    began = time.perf_counter()
    await orchestrator.start()
    while orchestrator.account.received < entries * each:
        await asyncio.sleep(0.005)
    await orchestrator.stop()
    took = time.perf_counter() - began
    assert published == entries * each
    async with Redis.from_url(url) as client:
        assert (await client.xpending(STREAM, name))["pending"] == 0
    return took


async def compare(url: str, entries: int, each: int, rounds: int) -> None:
    async with Redis.from_url(url) as client:
        await fill(client, entries, each)
    wall: dict[str, list[float]] = {"bare": [], "pipeline": []}
    cpu: dict[str, list[float]] = {"bare": [], "pipeline": []}
    for number in range(rounds):
        runs = {"bare": bare(url, f"bare{number}", entries)}
        runs["pipeline"] = pipeline(url, f"pipeline{number}", entries, each)
        for name, run in runs.items():
            began = time.process_time()
            wall[name].append(await run)
            cpu[name].append(time.process_time() - began)
    rates = {name: entries * each / statistics.median(seconds) for name, seconds in wall.items()}
    costs = {name: statistics.median(seconds) / entries * 1e6 for name, seconds in cpu.items()}
    print(
        f"| {each} | {rates['bare']:,.0f} | {rates['pipeline']:,.0f} | {rates['pipeline'] / rates['bare']:.0%} "
        f"| {costs['bare']:.1f} | {costs['pipeline']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("| events an entry | bare, events/s | pipeline, events/s | share | CPU µs an entry: bare | pipeline |")
    print("|---|---|---|---|---|---|")
    for each, entries in ((1, arguments.entries), (100, arguments.entries // 5)):
        with running() as url:
            asyncio.run(compare(url, entries, each, arguments.rounds))


if __name__ == "__main__":
    main()
