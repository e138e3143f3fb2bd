"""A worker on Kafka in which some events are stuck: ``python stuck_worker.py URL FILE NUMBER…``.

The numbers of the others go to the file.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.brokers.kafka import KafkaSource


async def work(url: str, out: Path, stuck: set[int]) -> None:
    async def lookup(event: Any) -> Any:
        if event["n"] in stuck:
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        return event

    def publish(batch: Any) -> None:
        with out.open("a") as file:
            file.writelines(f"{it.event['n']}\n" for it in batch)

    source = KafkaSource(url, topic="events", group="workers", options={"session_timeout_ms": 4_000})
    enrich = rxo.enrich(lookup, max_concurrent=20)
    pipeline = Pipeline(source, rxo.compact(0.1, key_mapper="n"), enrich, rxo.publish(publish), max_age=6000)
    async with Orchestrator(pipeline) as orchestrator:
        await orchestrator.wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], Path(sys.argv[2]), {*map(int, sys.argv[3:])}))
