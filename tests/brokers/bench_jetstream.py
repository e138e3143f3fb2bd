"""What a worker on JetStream does a second: ``python tests/brokers/bench_jetstream.py``.

A pipeline that consumes, compacts, publishes to a function and acknowledges, beside two consumers by hand: "bare" only
acknowledges; "dict" decodes each line's key and counts it in a dict before, though it neither waits for windows nor
publishes. All with rolling pulls and one callback, on a stream in files. Rounds alternate; medians of events a second
by the wall clock, from the first request until the server has every acknowledgement.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import shutil
import socket
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.js.api import ConsumerConfig

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.brokers.jetstream import JetStreamSource

KEYS, PREFETCH, MAX_BYTES = 10_000, 4_000, 8 << 20
ASK = {"batch": PREFETCH // 2, "max_bytes": MAX_BYTES, "expires": 10 * 10**9}


class Key(msgspec.Struct, gc=False):
    id: str


@contextmanager
def running() -> Iterator[str]:
    binary = shutil.which("nats-server", path=f"{sysconfig.get_path('scripts')}") or "nats-server"
    with tempfile.TemporaryDirectory() as folder, socket.socket() as taken, Path(folder, "log").open("wb") as log:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        server = subprocess.Popen([binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder], stderr=log)
        try:
            while not re.search("Server is ready", Path(folder, "log").read_text()):
                time.sleep(0.02)
            yield f"nats://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


async def fill(url: str, messages: int, each: int) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name="IN", subjects=["in"])
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(KEYS)))
    keys = iter(random.Random(7).choices(range(KEYS), cum_weights=weights, k=messages * each))
    for number in range(messages):
        lines = [json.dumps({"id": f"key-{key}", "n": number}).encode() for key in itertools.islice(keys, each)]
        await stream.publish_async("in", b"\n".join(lines))
    await stream.publish_async_completed()
    await client.close()


def compacting() -> Callable[[bytes], None]:
    """Return what keeps the first line of each key, and counts."""
    decode, window = msgspec.json.Decoder(Key).decode, dict[str, list[Any]]()

    def take(body: bytes) -> None:
        for line in body.split(b"\n"):
            key = decode(line).id
            if (kept := window.get(key)) is None:
                window[key] = [line, 1]
            else:
                kept[1] += 1

    return take


async def bare(url: str, name: str, messages: int, look: Callable[[bytes], None] | None = None) -> float:
    client = await nats.connect(url)
    await client.jetstream().add_consumer("IN", ConsumerConfig(durable_name=name, max_ack_pending=messages))
    inbox, over = client.new_inbox(), asyncio.Event()
    received = left = 0

    async def ask() -> None:
        nonlocal left
        left += ASK["batch"]
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.IN.{name}", json.dumps(ASK).encode(), reply=inbox)

    async def take(message: nats.aio.msg.Msg) -> None:
        nonlocal received, left
        if message.subject == inbox:  # a request ended on its bytes
            left -= int((message.headers or {}).get("Nats-Pending-Messages", 0))
        else:
            if look is not None:
                look(message.data)
            await message.ack()
            received += 1
            left -= 1
        if left <= PREFETCH // 2:
            await ask()
        if received == messages:
            over.set()

    await client.subscribe(inbox, cb=take)
    began = time.perf_counter()
    await ask()
    await ask()
    await over.wait()
    await client.flush()
    took = time.perf_counter() - began
    await check(client, name, messages)
    await client.close()
    return took


async def pipeline(url: str, name: str, messages: int, each: int) -> float:
    source = JetStreamSource(
        url, stream="IN", consumer=name, max_ack_pending=messages, prefetch=PREFETCH, max_bytes=MAX_BYTES
    )
    published = 0

    def sink(batch: object) -> None:
        nonlocal published
        published += sum(compacted.count for compacted in batch)

    orchestrator = Orchestrator(
        Pipeline(source, rxo.compact(1, key_mapper="id"), rxo.publish(sink), max_age=600, max_in_flight=10**6)
    )
    began = time.perf_counter()
    await orchestrator.start()
    while orchestrator.account.received < messages * each:
        await asyncio.sleep(0.005)
    await orchestrator.stop()
    took = time.perf_counter() - began
    assert published == messages * each
    client = await nats.connect(url)
    await check(client, name, messages)
    await client.close()
    return took


async def check(client: nats.NATS, name: str, messages: int) -> None:
    for _ in range(100):
        info = await client.jetstream().consumer_info("IN", name)
        if (info.num_pending, info.num_ack_pending, info.delivered.consumer_seq) == (0, 0, messages):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(info)


async def compare(url: str, messages: int, each: int, rounds: int) -> None:
    await fill(url, messages, each)
    wall: dict[str, list[float]] = {"bare": [], "dict": [], "pipeline": []}
    cpu: dict[str, list[float]] = {"bare": [], "dict": [], "pipeline": []}
    for number in range(rounds):
        runs = {
            "bare": bare(url, f"bare{number}", messages),
            "dict": bare(url, f"dict{number}", messages, compacting()),
            "pipeline": pipeline(url, f"pipeline{number}", messages, each),
        }
        for name, run in runs.items():
            began = time.process_time()
            wall[name].append(await run)
            cpu[name].append(time.process_time() - began)
    took = {name: statistics.median(seconds) for name, seconds in wall.items()}
    costs = {name: statistics.median(seconds) / messages * 1e6 for name, seconds in cpu.items()}
    rates = " | ".join(f"{messages * each / seconds:,.0f}" for seconds in took.values())
    shares = " | ".join(f"{took[name] / took['pipeline']:.0%} of {name}" for name in ("bare", "dict"))
    print(f"| {each} | {rates} | {shares} | {' | '.join(f'{cost:.1f}' for cost in costs.values())} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        "| events a message | events/s: bare | dict | pipeline | share | | CPU µs a message: bare | dict | pipeline |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for each, messages in ((1, arguments.messages), (100, arguments.messages // 5)):
        with running() as url:
            asyncio.run(compare(url, messages, each, arguments.rounds))


if __name__ == "__main__":
    main()
