"""A real Prometheus scrapes a pipeline through load, outages, saturation, silence and a drain: a minute is a second."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import rxcompact
from rxcompact import HttpEnricher, HttpSink, HttpSource, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.observers.metrics import exposition
from rxcompact.observers.statistics import Snapshot

RULES = Path(rxcompact.__file__).parent / "telemetry" / "alerts.yml"
MAX_AGE = 40.0
LIMIT = 2000
LOAD = 10  # distinct events a second
PATIENCE = 60.0


def promtool(*arguments: str, text: bytes | None = None) -> None:
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr


class Services:
    """An API and a store, each of which may be down."""

    def __init__(self) -> None:
        self.down: set[str] = set()

    async def _answer(self, request: web.Request) -> web.Response:
        await request.read()
        if request.path.split("/")[1] in self.down:
            return web.Response(status=503)
        return web.json_response({})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()


class Prometheus:
    """Debian's Prometheus, with the rules that are shipped, a minute of them as a second."""

    def __init__(self, path: Path, target: str) -> None:
        self._path = path
        rules = re.sub(r"\b(\d+)m\b", r"\1s", RULES.read_text())
        assert rules.count("s]") >= 4
        (path / "rules.yml").write_text(rules)
        every = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        scrape = [{"job_name": "rxcompact", "static_configs": [{"targets": [target]}]}]
        config = {"global": every, "rule_files": ["rules.yml"], "scrape_configs": scrape}
        (path / "prometheus.yml").write_text(json.dumps(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._url = f"http://127.0.0.1:{free.getsockname()[1]}/api/v1"
        self.fired: set[str] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Prometheus]:
        address = self._url.split("/")[2]
        command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        process = await asyncio.create_subprocess_exec(
            *command, f"--web.listen-address={address}", cwd=self._path, stderr=asyncio.subprocess.DEVNULL
        )
        async with aiohttp.ClientSession() as self._session:
            await self.until(lambda: self._get("targets"))
            yield self
        process.terminate()
        await process.wait()

    async def _get(self, path: str, **parameters: str) -> Any:
        with suppress(aiohttp.ClientError):
            async with self._session.get(f"{self._url}/{path}", params=parameters) as answer:
                return (await answer.json())["data"]

    async def firing(self) -> set[str]:
        """The names of the alerts that fire, each with its stage."""
        alerts = [each for each in (await self._get("alerts"))["alerts"] if each["state"] == "firing"]
        return {" ".join(filter(None, (each["labels"]["alertname"], each["labels"].get("stage")))) for each in alerts}

    async def sums(self, expression: str) -> dict[str, float]:
        """The values of an expression, by the values of its labels."""
        found = (await self._get("query", query=expression))["result"]
        return {" ".join(each["metric"].values()): float(each["value"][1]) for each in found}

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                await asyncio.sleep(0.1)

    async def until_firing(self, *names: str) -> None:
        """Wait until exactly these fire, or these and what they entail."""
        await self.until(lambda: self._are_firing({*names}))

    async def _are_firing(self, names: set[str]) -> bool:
        found = await self.firing()
        return found >= names if names else not found


class Sender:
    """Posts distinct events, so many a second, and counts the answers."""

    def __init__(self, url: str) -> None:
        self._url, self._next = url, 0
        self.answers: Counter[int] = Counter()
        self.active = True

    async def post(self, number: int) -> None:
        body = b"\n".join(b'{"id":%d}' % each for each in range(self._next, self._next + number))
        self._next += number
        async with aiohttp.ClientSession() as session, session.post(self._url, data=body) as answer:
            self.answers[answer.status] += 1

    async def run(self) -> None:
        while self.active:
            await self.post(LOAD // 5)
            await asyncio.sleep(0.2)


@pytest.mark.debian
def test_the_metrics_are_clean() -> None:
    text, _ = exposition(Snapshot(name="alerts", source="http://a/"))
    promtool("check", "metrics", text=text)


@pytest.mark.debian
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    asyncio.run(alerts(tmp_path))  # in real time


async def alerts(tmp_path: Path) -> None:
    services = Services()
    async with services.running() as url:
        source = HttpSource(port=0, linger=5)
        orchestrator = Orchestrator(
            Pipeline(
                source,
                rxo.compact(0.5, key_mapper="id"),
                rxo.enrich(HttpEnricher(url + "/api/{id}")),
                rxo.publish(HttpSink(url + "/store"), timespan=0.1),
                max_age=MAX_AGE,
                max_in_flight=LIMIT,
            ),
            report=False,
        )
        await orchestrator.start()
        await source.listening()
        sender = Sender(source.url)
        async with Prometheus(tmp_path, f"127.0.0.1:{source.port}").running() as prometheus:
            sending = asyncio.create_task(sender.run())
            # load: nothing fires, for longer than the longest of the rules waits
            for _ in range(40):
                await asyncio.sleep(0.5)
                assert not await prometheus.firing()

            services.down.add("api")  # an outage of the API
            await prometheus.until_firing("DependencyDown enrich")
            assert await prometheus.firing() == {"DependencyDown enrich"}
            await prometheus.until_firing("AgeBudget")
            assert orchestrator.account.expired == 0, "the alert comes before the loss"
            await prometheus.until_firing("LosingEvents")
            assert orchestrator.account.expired > 0
            assert await prometheus.firing() == {"DependencyDown enrich", "AgeBudget", "LosingEvents"}
            services.down.clear()
            await prometheus.until_firing()

            services.down.add("store")  # an outage of the sink
            await prometheus.until_firing("DependencyDown publish")
            assert await prometheus.firing() == {"DependencyDown publish"}
            services.down.clear()
            await prometheus.until_firing()

            services.down.add("api")  # saturation: posts get 503
            await sender.post(LIMIT - 200)
            await prometheus.until_firing("Saturated")
            await prometheus.until(lambda: asyncio.sleep(0, sender.answers[503] > 0))
            services.down.clear()
            await prometheus.until(lambda: is_not_firing(prometheus, "Saturated"))

            sender.active = False  # silence
            await sending
            assert "Silent" not in await prometheus.firing()
            await prometheus.until_firing("Silent")

            services.down.add("api")  # a drain: what is lost in it is in the last scrape
            await sender.post(7)
            stopping = asyncio.create_task(orchestrator.stop(20))
            await prometheus.until(lambda: abandoned(prometheus, 7))
            account = (await stopping).account
            assert account.abandoned == 7

            outcomes = await prometheus.sums("last_over_time(sum by (outcome) (rxcompact_events_total)[1m:])")
            expected = {name: getattr(account, name) for name in ("published", "expired", "abandoned")}
            assert outcomes == expected
            received = await prometheus.sums("last_over_time(sum (rxcompact_received_events_total)[1m:])")
            assert received == {"": account.received}
            codes = await prometheus.sums("last_over_time(sum by (code) (rxcompact_source_requests_total)[1m:])")
            assert codes == {str(status): count for status, count in sender.answers.items()}


async def is_not_firing(prometheus: Prometheus, name: str) -> bool:
    return name not in await prometheus.firing()


async def abandoned(prometheus: Prometheus, number: int) -> bool:
    return await prometheus.sums('sum (rxcompact_events_total{outcome="abandoned"})') == {"": number}
