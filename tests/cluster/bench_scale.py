"""What more processes bring: ``python tests/cluster/bench_scale.py``; partitioned workers on JetStream, shards on Ray.

Wall clock, medians of rounds that alternate. Every process wants a core, and so does the broker: on a machine with
fewer cores than that the share of each is less; the table has their number.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo

sys.path.append(str(Path(__file__).parents[1] / "brokers"))

from bench_jetstream import running  # noqa: E402

KEYS, PARTITIONS = 10_000, 4
Event = dict[str, Any]


def keys(count: int) -> list[int]:
    """Keys as Zipf has them."""
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(KEYS)))
    return random.Random(7).choices(range(KEYS), cum_weights=weights, k=count)


def pipeline(source: Any) -> Pipeline:
    return Pipeline(
            source, rxo.compact(1, key_mapper="id"), rxo.publish(lambda _: None), max_age=600, max_in_flight=10**6
        )  # fmt: skip


# ── partitions of a stream ────────────────────────────────────────────────────────────────────────────────────────────


async def fill(url: str, events: int, each: int) -> list[int]:
    """Publish messages of so many events of a partition; return how many events each partition has."""
    import nats

    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name="IN", subjects=["in.>"])
    found: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for number, key in enumerate(keys(events)):
        found[key % PARTITIONS].append(b'{"id":"key-%d","n":%d}' % (key, number))
    for partition, lines in enumerate(found):
        for start in range(0, len(lines), each):
            await stream.publish_async(f"in.{partition}.x", b"\n".join(lines[start : start + each]))
    await stream.publish_async_completed()
    await client.close()
    return list(map(len, found))


async def work(url: str, consumer: str, partitions: list[int], expected: int) -> None:
    """Be a worker: start at a word, end when all has come."""
    from rxcompact.brokers.jetstream import JetStreamSource

    subjects = [f"in.{partition}.>" for partition in partitions]
    source = JetStreamSource(url, stream="IN", consumer=consumer, subjects=subjects, max_ack_pending=10**6)
    orchestrator = Orchestrator(pipeline(source))
    print("ready", flush=True)
    sys.stdin.readline()
    await orchestrator.start()
    while orchestrator.account.received < expected:
        await asyncio.sleep(0.005)
    account = (await orchestrator.stop()).account
    assert account.published == account.distinct


async def by_workers(url: str, workers: int, found: list[int], name: str) -> float:
    """Return how long so many workers took, seconds."""
    import nats

    processes = []
    for worker in range(workers):
        partitions = list(range(worker, PARTITIONS, workers))
        expected = sum(found[partition] for partition in partitions)
        arguments = [url, f"{name}-{worker}", json.dumps(partitions), str(expected)]
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        processes.append(await asyncio.create_subprocess_exec(sys.executable, __file__, "--work", *arguments, **pipes))
    for process in processes:
        assert await process.stdout.readline() == b"ready\n"
    began = time.perf_counter()
    await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    took = time.perf_counter() - began
    assert all(process.returncode == 0 for process in processes)
    client = await nats.connect(url)
    for worker in range(workers):
        info = await client.jetstream().consumer_info("IN", f"{name}-{worker}")
        assert (info.num_pending, info.num_ack_pending) == (0, 0)
    await client.close()
    return took


async def partitioned(events: int, each: int, rounds: int) -> dict[str, float]:
    took: dict[str, list[float]] = {}
    with running() as url:
        found = await fill(url, events, each)
        for number in range(rounds):
            for workers in (1, 2, 4):
                seconds = await by_workers(url, workers, found, f"r{number}w{workers}")
                took.setdefault(f"{workers} worker{'s' * (workers > 1)}", []).append(seconds)
    return {f"JetStream, {each} a message: {name}": events / statistics.median(each_) for name, each_ in took.items()}


# ── shards on Ray ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def alone(events: list[Event], batch: int) -> float:
    from rxcompact import IterableSource
    from rxcompact.sources import python

    python.CHUNK = batch
    began = time.perf_counter()
    async with Orchestrator(pipeline(IterableSource(events))) as orchestrator:
        account = (await orchestrator.wait()).account
    assert account.received == len(events)
    return time.perf_counter() - began


async def sharded(events: list[Event], batch: int) -> float:
    from rxcompact.cluster.ray import RayRunner

    async with RayRunner(pipeline, shards=2, batch=batch) as runner:
        await runner.push([{"id": f"warm-{n}"} for n in range(100)])
        await runner.flush()
        while runner.acknowledged < 100:
            await asyncio.sleep(0.01)
        began = time.perf_counter()
        await runner.push(events)
        account = await runner.drain(300)
        took = time.perf_counter() - began
    assert account.received == len(events) + 100
    assert runner.acknowledged == len(events) + 100
    return took


async def on_ray(count: int, rounds: int) -> dict[str, float]:
    import patience  # noqa: F401
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    events = [{"id": f"key-{key}", "n": number} for number, key in enumerate(keys(count))]
    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "one process, chunks of 1,000": lambda: alone(events, 1000),
        "one process, chunks of 10,000": lambda: alone(events, 10_000),
        "Ray, 2 shards, batches of 1,000": lambda: sharded(events, 1000),
        "Ray, 2 shards, batches of 10,000": lambda: sharded(events, 10_000),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            took[name].append(await way())
    ray.shutdown()
    return {name: count / statistics.median(seconds) for name, seconds in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        url, consumer, partitions, expected = options.work
        asyncio.run(work(url, consumer, json.loads(partitions), int(expected)))
        return
    rates = {
        **asyncio.run(partitioned(options.events // 10, 1, options.rounds)),
        **asyncio.run(partitioned(options.events, 100, options.rounds)),
        **asyncio.run(on_ray(options.events, options.rounds)),
    }
    print(f"{os.cpu_count()} cores; {options.events:,} events, {KEYS:,} keys, medians of {options.rounds} rounds\n")
    print("| | events/s | × one |")
    print("|---|---|---|")
    one = 1.0
    for name, rate in rates.items():
        if ": 1 " in name or name.startswith("one process, chunks of 1,000"):
            one = rate
        print(f"| {name} | {rate:,.0f} | {rate / one:.2f} |")


if __name__ == "__main__":
    main()
