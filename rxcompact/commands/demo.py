"""rxcompact demo: an alert storm on loopback, with an outage and a restart in the middle of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web

from rxcompact import operators as rxo
from rxcompact.commands.common import run_loop
from rxcompact.commands.service import live
from rxcompact.enrichers.http import HttpEnricher
from rxcompact.orchestrator import Orchestrator
from rxcompact.pipeline import Pipeline
from rxcompact.signals import Report
from rxcompact.sinks.http import HttpSink
from rxcompact.sources.http import HttpSource

DESCRIPTION = """\
Show it at work, on this machine alone and in seconds: an alert storm is posted over HTTP, the API that enriches each
distinct alert fails for a while, the service is restarted in the middle, and at the end the account balances.
"""
EPILOG = ""
STORM, OUTAGE, RESTART = 8.0, (2.0, 5.0), 4.0  # seconds that it lasts, and when in it
POST, PAUSE = 500, 0.04  # events a post, and seconds after it
HOSTS = 60
ALERTS = ("DiskFull", "HighLatency", "NodeDown", "CertExpires", "QueueGrows")


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add the options of the command: none."""


def run(_: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    return run_loop(_demo())


class World:
    """An API to request, a store to publish to, and a storm of alerts that are posted again where they are rejected."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.accepted = self.retried = self.asked = self.failed = 0
        self.batches: dict[str, list[dict[str, Any]]] = {}

    async def until(self, second: float, event: str) -> None:
        """Wait for a second of the storm, and print what happens in it."""
        await asyncio.sleep(second - (time.monotonic() - self._began))
        print(f"--- {second:.0f} s: {event}", flush=True)

    async def host(self, request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(0.005)
        if OUTAGE[0] <= time.monotonic() - self._began < OUTAGE[1]:
            self.failed += 1
            raise web.HTTPServiceUnavailable
        host = request.match_info["host"]
        return web.json_response({"owner": f"team-{sum(map(ord, host)) % 7}", "site": host[-1]})

    async def store(self, request: web.Request) -> web.Response:
        rows = list(map(json.loads, (await request.read()).splitlines()))
        self.batches[request.headers["Idempotency-Key"]] = rows
        return web.Response(status=204)

    async def storm(self, url: str) -> None:
        alerts: list[dict[str, Any]] = []
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            while time.monotonic() - self._began < STORM:
                hosts = (f"host-{int(random.paretovariate(0.8)) % HOSTS:02}" for _ in range(POST))
                self.retried += bool(alerts)  # that were rejected: there was no capacity, or it was being restarted
                alerts = alerts or [{"host": host, "alert": random.choice(ALERTS), "ts": time.time()} for host in hosts]  # noqa: S311
                with suppress(aiohttp.ClientError):
                    async with session.post(url, json=alerts) as response:
                        self.accepted += (await response.json())["accepted"]
                        alerts = []
                await asyncio.sleep(PAUSE)


async def _demo() -> int:
    world = World()
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.get("/hosts/{host}", world.host), web.post("/store", world.store)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    source = HttpSource(port=0)
    pipeline = Pipeline(
        source,
        rxo.compact(1.0, key_mapper=("host", "alert")),
        rxo.enrich(HttpEnricher(base + "/hosts/{host}")),
        rxo.publish(HttpSink(base + "/store", gzip=True), timespan=0.5),
        max_age=15.0,
    )
    try:
        async with Orchestrator(pipeline) as orchestrator, asyncio.TaskGroup() as tasks:
            await source.listening()
            tasks.create_task(live(orchestrator))
            storm = tasks.create_task(world.storm(source.url))
            await world.until(OUTAGE[0], "the API goes down: calls fail, and wait for their next attempt")
            await world.until(RESTART, "the service restarts: what it holds survives")
            await orchestrator.restart()
            await world.until(OUTAGE[1], "the API is back")
            await storm
            await world.until(STORM, "the storm is over, the service stops: it publishes what it holds")
            report = await orchestrator.stop()
    except ExceptionGroup as group:  # `except*` of Python 3.11.2 would raise a group again
        if group.split(BrokenPipeError)[1] is not None:
            raise
        raise BrokenPipeError from None
    finally:
        await runner.cleanup()
    return _verdict(report, world, orchestrator.statistics.retries)


def _verdict(report: Report, world: World, retries: int) -> int:
    account = report.account
    stored = [row for rows in world.batches.values() for row in rows]
    print(f"\nposted     {world.accepted} events in {STORM:.0f} s; {world.retried} posts were retried")
    print(f"requested  {world.asked} times; {world.failed} failed, {retries} retried")
    print(f"stored     {len(stored)} distinct alerts, each with its owner")
    print(f"account    {account}")
    ended = account.published + account.expired + account.failed + account.dropped + account.abandoned
    checks = {
        # of a post that the restart rejected some events were received; it was posted again
        "what was accepted was received": account.received >= world.accepted,
        "received = duplicates + distinct": account.received == account.duplicates + account.distinct,
        "distinct = published + dead letters": account.distinct == ended,
        "what was published was stored": account.published == len(stored),
        "nothing was lost": account.published == account.distinct,
        "each was enriched": all("owner" in row["event"]["enrichment"] for row in stored),
    }
    for check, holds in checks.items():
        print(f"{'✓' if holds else '✗'} {check}")
    return 0 if all(checks.values()) else 1
