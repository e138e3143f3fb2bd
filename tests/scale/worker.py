"""A worker that may be killed: ``python worker.py URL FOLDER [MOMENT]``; at that moment it kills itself.

Events of a key are merged by bucket of event time; what becomes of each is told by its number ``n``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rxcompact import DeadLetter, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.brokers import event_id
from rxcompact.brokers.jetstream import JetStreamSink, JetStreamSource
from rxcompact.errors import TransientError
from rxcompact.fields import decode

TIMESPAN, ACK_WAIT, LATENESS = 0.5, 0.5, 2.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def numbers(event: Any) -> list[int]:
    event = decode(event)
    found: list[int] = event["ns"] if "ns" in event else [event["n"]]
    return found


def main(url: str, folder: Path, moment: str = "") -> None:
    merged = 0

    def merge(kept: Any, event: Any) -> Any:
        nonlocal merged
        merged += 1
        if moment == "window" and merged == 100:
            die()
        return {"id": decode(event)["id"], "ns": numbers(kept) + numbers(event)}

    class Sink(JetStreamSink):
        async def publish(self, batch: Any) -> Any:
            if moment == "retry" or random.random() < 0.3:
                if moment == "retry":
                    asyncio.get_running_loop().call_later(0.05, die)  # while it waits
                raise TransientError
            taken = await super().publish(batch)
            if moment == "publish":
                die()  # and acknowledge nothing
            await asyncio.sleep(random.uniform(0, 0.1))  # in which it may be killed
            return taken

    dead = os.open(folder / "dead.ndjson", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def bury(letter: DeadLetter) -> None:
        if letter.outcome != "abandoned":  # that comes again
            event = getattr(letter.event, "event", letter.event)
            os.write(dead, json.dumps({"reason": letter.reason, "ns": numbers(event)}).encode() + b"\n")

    async def run() -> None:
        pipeline = Pipeline(
            JetStreamSource(url, stream="IN", consumer="workers", ack_wait=ACK_WAIT, prefetch=200),
            rxo.compact(TIMESPAN, key_mapper="id", time_mapper="ts", lateness=LATENESS, keep=merge),
            rxo.publish(
                Sink(url, subject="out", identity=partial(event_id, timespan=TIMESPAN)),
                wait=lambda _: 0.1,
                timespan=0.1,
                count=50,
            ),
            max_age=120,
        )
        async with Orchestrator(pipeline) as orchestrator:
            orchestrator.dead_letters.subscribe(bury)
            orchestrator.stop_on()
            print("running", flush=True)
            await orchestrator.wait()

    asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
