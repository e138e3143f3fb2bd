"""Draws the dashboard of the README: an outage, an event's age nearly used up, and the first that expire."""

import asyncio
import random
from pathlib import Path

from rxcompact import Orchestrator, Pipeline, PushSource
from rxcompact import operators as rxo
from rxcompact.render.snapshot import snapshot_svg
from rxcompact.testing import START, SimulatedApi, run

MANUAL = Path(__file__).parents[1] / "rxcompact/manual"


async def main() -> None:
    source, api = PushSource(), SimulatedApi(latency=(0.05, 0.4), outages=[(START + 60, START + 110)])
    enrich = rxo.enrich(api, max_concurrent=20)
    pipeline = Pipeline(source, rxo.compact(10, key_mapper="host"), enrich, rxo.publish(list), max_age=45)
    hosts = range(300)
    async with Orchestrator(pipeline, report=False) as orchestrator:
        for _ in range(107):
            chosen = random.choices(hosts, weights=[1 / (host + 1) for host in hosts], k=random.randint(80, 120))
            source.push([{"host": f"db{host}"} for host in chosen])
            await asyncio.sleep(1)
            orchestrator.statistics.snapshot()  # as a dashboard takes them
        (MANUAL / "dashboard.svg").write_text(snapshot_svg(orchestrator.statistics.snapshot()))


run(main)
