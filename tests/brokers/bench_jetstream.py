"""What a worker on JetStream does a second: ``python tests/brokers/bench_jetstream.py``.

A pipeline that consumes, compacts, publishes to a function and acknowledges, beside three consumers by hand: "bare"
only acknowledges; "dict" keeps a row of each key in a dict before, though it neither waits for windows nor publishes;
"contract" acknowledges, once the rows are published, what went into them. All with rolling pulls and one callback, on a
stream in files. Rounds alternate; medians of events a second by the wall clock, from the first request until the server
has every acknowledgement.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import nats
from bench import ByHand, bodies, compacting, compare, consume, main, server
from nats.js.api import ConsumerConfig

from rxcompact.brokers.jetstream import JetStreamSource

PREFETCH, MAX_BYTES = 4_000, 8 << 20
ASK = {"batch": PREFETCH // 2, "max_bytes": MAX_BYTES, "expires": 10 * 10**9}


@contextmanager
def running() -> Iterator[str]:
    binary = shutil.which("nats-server", path=f"{sysconfig.get_path('scripts')}") or "nats-server"
    with server(lambda port, folder: [binary, "-a", "127.0.0.1", "-p", port, "-js", "-sd", folder], "ready") as port:
        yield f"nats://127.0.0.1:{port}"


async def bare(
    url: str, name: str, messages: int, look: Callable[[bytes], None] | None = None, held: ByHand | None = None
) -> float:
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
            if held is None:
                await message.ack()
            else:
                held.take([(message.reply, message.data)])
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
    for reply in () if held is None else held.publish():
        await client.publish(reply, b"+ACK")
    await client.flush()
    took = time.perf_counter() - began
    await check(client, name, messages)
    await client.close()
    return took


async def pipeline(url: str, name: str, messages: int, each: int) -> float:
    source = JetStreamSource(url, stream="IN", consumer=name, max_ack_pending=messages, prefetch=PREFETCH)
    took = await consume(source, messages * each)
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


async def row(url: str, messages: int, each: int, rounds: int) -> str:
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name="IN", subjects=["in"])
    for body in bodies(messages, each):
        await stream.publish_async("in", body)
    await stream.publish_async_completed()
    await client.close()
    return await compare(
        lambda number: {
            "bare": bare(url, f"bare{number}", messages),
            "dict": bare(url, f"dict{number}", messages, compacting()),
            "contract": bare(url, f"contract{number}", messages, held=ByHand()),
            "pipeline": pipeline(url, f"pipeline{number}", messages, each),
        },
        messages,
        each,
        rounds,
    )


if __name__ == "__main__":
    main(__doc__, ["bare", "dict", "contract", "pipeline"], 300_000, running, row)
