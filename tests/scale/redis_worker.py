"""A worker that may be killed: ``python redis_worker.py URL FOLDER CONSUMER SEED LATENESS``.

Events of a key are merged by bucket of event time; what becomes of each is told by its number ``n``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from rxcompact import DeadLetter, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.brokers import event_id
from rxcompact.brokers.redis import RedisStreamSource
from rxcompact.errors import TransientError
from rxcompact.fields import decode

TIMESPAN, MIN_IDLE_TIME = 0.2, 0.5


def numbers(event: Any) -> list[int]:
    event = decode(event)
    found: list[int] = event["ns"] if "ns" in event else [event["n"]]
    return found


def merge(kept: Any, event: Any) -> Any:
    return {"id": decode(event)["id"], "ns": numbers(kept) + numbers(event)}


def main(url: str, folder: Path, consumer: str, seed: int, lateness: float) -> None:
    pick = random.Random(seed)
    files = {name: os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for name in ("out", "dead")}

    def write(name: str, *rows: Any) -> None:
        os.write(files[name], b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    async def publish(batch: Any) -> None:
        if pick.random() < 0.2:
            raise TransientError
        await asyncio.sleep(pick.uniform(0, 0.05))  # in which it may be killed, before it is published
        identities = [event_id(compacted, timespan=TIMESPAN) for compacted in batch]
        write("out", *([identity, numbers(it.event)] for identity, it in zip(identities, batch, strict=True)))
        await asyncio.sleep(pick.uniform(0, 0.05))  # or after that, before it is acknowledged

    def bury(letter: DeadLetter) -> None:
        if letter.outcome != "abandoned":  # that comes again
            write("dead", [letter.reason, numbers(getattr(letter.event, "event", letter.event))])

    async def run() -> None:
        source = RedisStreamSource(
            url, stream="events", group="workers", consumer=consumer, min_idle_time=MIN_IDLE_TIME, prefetch=500
        )
        pipeline = Pipeline(
            source,
            rxo.compact(TIMESPAN, key_mapper="id", time_mapper="ts", lateness=lateness, keep=merge),
            rxo.publish(publish, wait=lambda _: 0.05, timespan=0.05, count=50),
            max_age=120,
        )
        async with Orchestrator(pipeline) as orchestrator:
            orchestrator.dead_letters.subscribe(bury)
            orchestrator.stop_on()
            await orchestrator.wait()

    asyncio.run(run())


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()  # it begins when it is told
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
