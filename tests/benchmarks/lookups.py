"""Row 6 over real HTTP: what `HttpEnricher` takes beside an aiohttp client by hand; CPU of the caller alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import reactivex as rx
from calls import AT_ONCE, completed, tasks, window_of, workers
from measuring import Case, Close, Group, Spent, Target, clocked
from yarl import URL

from rxcompact import HttpEnricher
from rxcompact import operators as rxo
from rxcompact.events import Window

API = Path(__file__).with_name("api.py")
Done = Callable[[Any], object]


async def by_hand(url: str, calls: int, done: Done) -> None:
    """Workers, a session, the answer decoded; no limit of any kind, no second try."""
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def look(n: int) -> Any:
            async with session.get(f"{url}/hosts/web{n}") as response:
                return {"host": f"web{n}", "enrichment": msgspec.json.decode(await response.read())}

        await workers(calls, look, done)


def hosts(calls: int) -> Window:
    return window_of([{"host": f"web{n}"} for n in range(calls)])


async def with_promises(url: str, calls: int, done: Done) -> None:
    """The least that keeps the promises: see `calls.tasks`; statuses are errors, an answer is bounded."""
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def look(event: dict[str, str]) -> Any:
            host = quote(event["host"], safe="")
            async with session.get(URL(f"{url}/hosts/{host}", encoded=True), allow_redirects=False) as response:
                if response.status != 200:
                    raise ConnectionError(f"HTTP {response.status}")
                answer = bytearray()
                while block := await response.content.readany():
                    answer += block
                    if len(answer) > 1 << 20:
                        raise ConnectionError("the answer is too long")
                return {**event, "enrichment": msgspec.json.decode(answer)}

        await tasks(hosts(calls), look, lambda compacted: done(compacted.event))


async def enriched(url: str, calls: int, done: Done) -> None:
    enricher = HttpEnricher(url + "/hosts/{host}", max_concurrent=AT_ONCE)
    await completed(
        rx.just(hosts(calls)).pipe(
            rxo.enrich(enricher.lookup, merge=enricher.merge, max_age=600.0, max_concurrent=AT_ONCE)
        ),
        lambda compacted: done(compacted.event),
    )
    await enricher.aclose()


def run(_: Close, how: Callable[[str, int, Done], Awaitable[None]], calls: int) -> Spent:
    results: list[Any] = []
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, API], **pipes) as api:
        url = f"http://127.0.0.1:{int(api.stdout.readline())}"
        spent = clocked(lambda: asyncio.run(how(url, calls, results.append)))
        api.communicate()
    right = [{"host": f"web{n}", "enrichment": {"owner": f"team of web{n}", "tier": 1}} for n in range(calls)]
    if sorted(results, key=lambda event: int(event["host"][3:])) != right:
        raise AssertionError(f"{how}: {len(results)} results, wrong ones")
    return spent


def lookups(calls: int) -> Group:
    ours, hand = "enrich with HttpEnricher, retry armed", "aiohttp client by hand, workers"
    cases = [Case(hand, partial(run, how=by_hand, calls=calls), calls)]
    least = "a session by hand, with the promises"
    cases.append(Case(least, partial(run, how=with_promises, calls=calls), calls))
    cases.append(Case(ours, partial(run, how=enriched, calls=calls), calls))
    return Group("enrich over HTTP", cases, [Target("6", ours, hand, 1.15), Target("6", ours, least, 1.15)])
