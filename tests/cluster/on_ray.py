"""What test_ray.py looks at, in a process of its own: ``python on_ray.py shards|nodes FILE``; writes ``FILE.json``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import patience  # noqa: F401 - before Ray starts anything
import ray
from ray.cluster_utils import Cluster

from rxcompact import Pipeline, key_of
from rxcompact import operators as rxo
from rxcompact.cluster.ray import RayRunner

KEYS = 500


def definition(path: str, hangs: bool = False) -> Any:
    def pipeline(source: Any) -> Pipeline:
        import asyncio
        import json
        import os

        async def sink(batch: Any) -> None:
            while hangs:
                await asyncio.sleep(3600)
            with Path(path).open("a") as store:
                store.write("".join(json.dumps([c.key, c.count, os.getpid()]) + "\n" for c in batch))

        compact = rxo.compact(1, key_mapper=key_of("id", missing="reject"))
        return Pipeline(source, compact, rxo.publish(sink, timespan=0.1), max_age=60)

    return pipeline


def events(count: int) -> Any:
    return ({"id": number % KEYS} for number in range(count))


async def whole(path: str) -> dict[str, Any]:
    signals: list[Any] = []
    async with RayRunner(definition(path), shards=2, batch=100) as runner:
        runner.signals.subscribe(lambda signal: signals.append(type(signal).__name__))
        await runner.push([*events(20_000), {"no": "key"}])
        account = await runner.drain(120)
    return {"account": account._asdict(), "acknowledged": runner.acknowledged, "signals": sorted(set(signals))}


async def killed(path: str) -> dict[str, Any]:
    async with RayRunner(definition(path), shards=2, batch=100) as runner:
        await runner.push(events(20_000))
        await asyncio.sleep(0.5)  # in mid-window
        ray.kill(runner._actors[0], no_restart=False)
        await runner.push(events(1000))
        account = await runner.drain(120)
    return {"account": account._asdict(), "acknowledged": runner.acknowledged}


async def stuck(path: str) -> dict[str, Any]:
    runner = RayRunner(definition(path, hangs=True), shards=1, batch=10, max_unacknowledged=5)
    await runner.start()
    pushing = asyncio.create_task(runner.push(events(1000)))
    async with asyncio.timeout(60):  # Ray may start slowly
        while (await runner.account()).received < 5 * 10:
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    waits, account = not pushing.done(), await runner.account()
    pushing.cancel()
    began = time.monotonic()
    drained = await runner.drain(2)
    return {
        "waits": waits,
        "received": account.received,
        "drained": drained._asdict(),
        "took": time.monotonic() - began,
        "acknowledged": runner.acknowledged,
    }


async def node_lost(path: str, cluster: Any, second: Any) -> dict[str, Any]:
    async with RayRunner(definition(path), shards=4, batch=100) as runner:
        await runner.push(events(10_000))
        await asyncio.sleep(0.5)
        cluster.remove_node(second, allow_graceful=False)
        await runner.push(events(1000))
        account = await runner.drain(120)
    return {"account": account._asdict(), "acknowledged": runner.acknowledged}


def main() -> dict[str, Any]:
    scenario, path = sys.argv[1], sys.argv[2]
    if scenario == "shards":
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        found = {}
        for run in (whole, killed, stuck):
            file = f"{path}.{run.__name__}"
            Path(file).touch()
            found[run.__name__] = asyncio.run(run(file)) | {"file": file}
        return found
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=2)
        ray.init(cluster.address, log_to_driver=False)
        Path(path).touch()
        return asyncio.run(node_lost(path, cluster, second)) | {"file": path}
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    found = main()
    Path(f"{sys.argv[2]}.json").write_text(json.dumps(found))  # Ray prints, in the middle of lines of others too
