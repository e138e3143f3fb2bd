"""rxcompact demo: an alert storm on loopback, with an outage and a restart in the middle of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import Any

import aiohttp
from aiohttp import web

from rxcompact import operators as rxo
from rxcompact.commands.common import run
from rxcompact.commands.live import view
from rxcompact.enrichers.http import HttpEnricher
from rxcompact.orchestrator import Orchestrator, Report
from rxcompact.pipeline import Pipeline
from rxcompact.sinks.http import HttpSink
from rxcompact.sources.http import HttpSource

DESCRIPTION = """\
Show it at work, on this machine alone and in seconds: an alert storm is posted over HTTP, the API that enriches each
distinct alert fails for a while, the service is restarted in the middle, and at the end the account balances.
"""
STORM = 8.0
"""Seconds that it lasts."""
OUTAGE = (2.0, 5.0)
RESTART = 4.0
POST = 500
"""Events a post."""
PAUSE = 0.04
HOSTS = 60
ALERTS = ("DiskFull", "HighLatency", "NodeDown", "CertExpires", "QueueGrows")


def add_parser(commands: Any, description: str) -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser("demo", help=description, description=DESCRIPTION)
    parser.set_defaults(run=lambda _: run(_demo()))
    return parser


class Services:
    """An API to request and a store to publish to, on loopback."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.asked = 0
        self.failed = 0
        self.stored: list[dict[str, Any]] = []
        self._batches: set[str] = set()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/hosts/{host}", self._host)
        app.router.add_post("/store", self._store)
        self._runner = web.AppRunner(app, access_log=None)
        self.url = ""

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    @property
    def down(self) -> bool:
        return OUTAGE[0] <= time.monotonic() - self.began < OUTAGE[1]

    async def _host(self, request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(0.005)
        if self.down:
            self.failed += 1
            return web.Response(status=503)
        host = request.match_info["host"]
        return web.json_response({"owner": f"team-{sum(map(ord, host)) % 7}", "site": host[-1]})

    async def _store(self, request: web.Request) -> web.Response:
        lines = (await request.read()).splitlines()
        if request.headers["Idempotency-Key"] not in self._batches:
            self._batches.add(request.headers["Idempotency-Key"])
            self.stored += map(json.loads, lines)
        return web.Response(status=204)


class Storm:
    """Posts alerts, most of them again and again, and retries what is rejected."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._random = random.Random(7)  # noqa: S311
        self.accepted = 0
        self.retried = 0

    async def run(self) -> None:
        end = time.monotonic() + STORM
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < end:
                await self._post(session, self._body())
                await asyncio.sleep(PAUSE)

    def _body(self) -> bytes:
        now = time.time()
        pick = self._random
        events = (
            {"host": f"host-{int(pick.paretovariate(0.8)) % HOSTS:02}", "alert": pick.choice(ALERTS), "ts": now, "n": n}
            for n in range(POST)
        )
        return b"\n".join(json.dumps(event).encode() for event in events)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> None:
        while True:
            try:
                async with session.post(self._url, data=body) as response:
                    if response.status == 202:  # noqa: PLR2004
                        self.accepted += (await response.json())["accepted"]
                        return
            except aiohttp.ClientError:  # it is being restarted
                pass
            self.retried += 1
            await asyncio.sleep(0.1)


async def _demo() -> int:
    services = Services()
    await services.start()
    source = HttpSource(port=0)
    pipeline = Pipeline(
        source,
        rxo.compact(1.0, key_mapper=("host", "alert")),
        rxo.enrich(HttpEnricher(services.url + "/hosts/{host}")),
        rxo.publish(HttpSink(services.url + "/store", gzip=True), timespan=0.5),
        max_age=15.0,
    )
    orchestrator = Orchestrator(pipeline)
    try:
        async with orchestrator:
            await source.listening()
            storm = Storm(source.url)
            storming = asyncio.create_task(storm.run())
            try:
                await _watch(orchestrator, services, storming)
            finally:
                storming.cancel()
            report = await orchestrator.stop()
    finally:
        await services.stop()
    return _verdict(report, storm, services, orchestrator.statistics.retries)


async def _watch(orchestrator: Orchestrator, services: Services, storming: asyncio.Task[None]) -> None:
    restarted = False
    with view(orchestrator) as show:
        while not storming.done() or orchestrator.account.in_flight:
            elapsed = time.monotonic() - services.began
            if elapsed >= RESTART and not restarted:
                restarted = True
                await orchestrator.restart()
            show(f"{elapsed:4.1f} s  {'API down' if services.down else 'API up  '}")
            await asyncio.sleep(0.25)
    await storming


def _verdict(report: Report, storm: Storm, services: Services, retries: int) -> int:
    account = report.account
    print(f"\nposted     {storm.accepted} events in {STORM:.0f} s; {storm.retried} posts were retried")
    print(f"requested  {services.asked} times; {services.failed} failed, {retries} retried")
    print(f"stored     {len(services.stored)} distinct alerts, each with its owner")
    print(f"account    {account}")
    ended = account.published + account.expired + account.failed + account.dropped + account.abandoned
    checks = {
        "what was accepted was received": account.received == storm.accepted,
        "received = duplicates + distinct": account.received == account.duplicates + account.distinct,
        "distinct = published + dead letters": account.distinct == ended,
        "what was published was stored": account.published == len(services.stored),
        "nothing was lost": account.published == account.distinct,
        "each was enriched": all("owner" in row["event"]["enrichment"] for row in services.stored),
    }
    for check, holds in checks.items():
        print(f"{'✓' if holds else '✗'} {check}")
    return 0 if all(checks.values()) else 1
