"""Probes while the source starts, is full, drains and has ended; methods, statuses and forms that senders need."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from source_support import Service, ndjson, served, until

from rxcompact import HttpSource
from rxcompact.contracts import Demand
from rxcompact.errors import ArgumentError

READY = """\
source: ok
capacity: ok, 3 of 10 held (max_in_flight), 24 of 268435456 held (max_bytes)
publish: ok
ready
"""
FULL = """\
source: ok
capacity: full, 10 of 10 held (max_in_flight), 80 of 268435456 held (max_bytes)
publish: ok
full
"""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# ── readiness ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def probe(service: Service, path: str = "readyz") -> tuple[int, str]:
    answer = await service.ask("GET", path)
    return answer.status, answer.text


def test_readyz_is_503_without_capacity_and_200_again_below_80_percent() -> None:
    release = asyncio.Event()

    async def sink(_: Any) -> None:
        await release.wait()

    async def test(service: Service) -> None:
        assert await probe(service) == (200, "ready\n")
        assert (await service.post(ndjson(*range(9)))).status == 202
        assert await probe(service) == (200, "ready\n")  # 90 % is no reason yet
        assert (await service.post(ndjson(10, 11))).status == 503
        assert await probe(service) == (503, "full\n")
        release.set()
        await until(lambda: service.orchestrator.account.in_flight == 0)
        assert await probe(service) == (200, "ready\n")

    served(test, {"max_in_flight": 10, "sink": sink, "timespan": 0.05, "batch_timespan": 0.01})


def test_readyz_stays_503_until_a_fifth_of_the_capacity_is_free() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(ndjson(*range(10)))).status == 202
        assert await probe(service) == (503, "full\n")
        demand = service.source._demand
        capacity = [1]

        class Half(Demand):
            def capacity(self) -> int:
                return capacity[0]

            def used(self) -> dict[str, tuple[int, int]]:
                return {"max_in_flight": (10 - capacity[0], 10)}

        service.source._demand = Half()
        assert await probe(service) == (503, "full\n")
        capacity[0] = 2
        assert await probe(service) == (200, "ready\n")
        capacity[0] = 1  # 90 % held, and nothing was rejected since
        assert await probe(service) == (200, "ready\n")
        service.source._demand = demand

    served(test, {"max_in_flight": 10})


def test_readyz_verbose_has_a_line_for_each_part() -> None:
    async def test(service: Service) -> None:
        await service.post(ndjson(1, 2, 3))
        assert await probe(service, "readyz?verbose") == (200, READY)
        await service.post(ndjson(*range(10)))
        assert await probe(service, "readyz?verbose") == (503, FULL)

    served(test, {"max_in_flight": 10})


@pytest.mark.parametrize("requires", [None, "publish", "enrich"])
def test_readyz_is_503_while_a_stage_that_it_requires_is_down(requires: str | None) -> None:
    class Down(Demand):
        def failing(self) -> dict[str, tuple[str, ...]]:
            return {"enrich": (), "publish": ("store:9200",)}

    async def test(service: Service) -> None:
        service.source._demand, service.source._probes.requires = Down(), requires
        status, text = await probe(service, "readyz?verbose")
        lines = ["source: ok", "capacity: ok", "enrich: ok", "publish: down: store:9200"]
        last = "publish is down: store:9200" if requires == "publish" else "ready"
        assert (status, text.splitlines()) == (503 if requires == "publish" else 200, [*lines, last])

    served(test)


def test_the_listener_outlives_the_drain_with_posts_and_readyz_503_and_metrics() -> None:
    async def sink(_: Any) -> None:
        await release.wait()

    release = asyncio.Event()

    async def test(service: Service) -> None:
        await service.post(ndjson(1))
        stop = asyncio.create_task(service.orchestrator.stop(10))
        await until(lambda: service.orchestrator.state == "draining")
        await until(lambda: service.source._draining)
        assert await probe(service) == (503, "draining\n")
        answer = await service.post(ndjson(2))
        assert (answer.status, answer.json["error"], answer.headers["Retry-After"]) == (503, "stopping", "1")
        assert (await probe(service, "healthz"))[0] == 200
        assert re.search(r"rxcompact_received_events_total\{.*\} 1\.0\n", (await probe(service, "metrics"))[1])
        release.set()
        report = await stop
        assert report.account.published == report.account.received == 1
        with pytest.raises(aiohttp.ClientConnectorError):
            await service.post(ndjson(3))

    served(test, {"sink": sink})


def test_linger_answers_metrics_after_the_drain() -> None:
    async def test(service: Service) -> None:
        await service.post(ndjson(1))
        stop = asyncio.create_task(service.orchestrator.stop(10))
        await until(lambda: service.orchestrator.account.published == 1)
        text = (await probe(service, "metrics"))[1]
        assert re.search(r'rxcompact_events_total\{outcome="published"[^}]*\} 1\.0', text)
        report = await stop
        assert 2 < report.seconds < 9

    served(test, linger=2.0)


# ── methods, statuses, forms ──────────────────────────────────────────────────────────────────────────────────────────


def test_put_is_taken_as_post() -> None:
    async def test(service: Service) -> None:
        answer = await service.ask("PUT", data=ndjson(1, 2))
        assert answer.counts == (202, 2, 0)
        assert await service.ids() == [1, 2]

    served(test)


def test_i19_success_status_is_an_option() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(ndjson(1))).counts == (200, 1, 0)
        assert (await service.post(b"bad")).status == 400

    served(test, success_status=200)


@pytest.mark.parametrize(
    "body",
    [
        urlencode({"payload": '{"id":1}\n{"id":2}'}).encode(),
        urlencode({"channel": "#x", "payload": '[{"id":1},{"id":2}]'}).encode(),
        b'{"id":1}{"id":2}',  # curl -d calls it a form
        b'[{"id":1},{"id":2}]',
    ],
    ids=["payload", "payload among others", "objects", "array"],
)
def test_i13_the_payload_of_a_form_is_taken(body: bytes) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(body, FORM)).counts == (202, 2, 0)
        assert await service.ids() == [1, 2]

    served(test)


@pytest.mark.parametrize(
    ("body", "headers", "named"),
    [
        (b"name=disk&level=ERROR", FORM, "Content-Type: application/json"),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, "--data-binary"),
    ],
    ids=["form", "multipart"],
)
def test_i13_any_other_form_is_415_with_the_way_out(body: bytes, headers: dict[str, str], named: str) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(body, headers)
        assert answer.status == 415
        assert named in answer.json["error"]
        assert service.received == 0

    served(test)


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("path", "events", "path must be a path that begins with '/', got 'events'"),
        ("path", "/{name}", "path must be a path that begins with '/', got '/{name}'"),
        ("port", 99999, "port must be from 0 to 65535, got 99999"),
        ("port", -1, "port must be from 0 to 65535, got -1"),
        ("token", "", "token must be not empty, got ''"),
        ("max_body", 0, "max_body must be a whole number, at least 1, got 0"),
        ("max_connections", 0, "max_connections must be a whole number, at least 1, got 0"),
        ("retry_after", -1, "retry_after must be at least 0, got -1"),
        ("success_status", 404, "success_status must be from 200 to 299, got 404"),
        ("body_timeout", 0, "body_timeout must be a duration above 0 s, got 0"),
    ],
)
def test_h6_arguments_that_cannot_work_raise(argument: str, value: Any, expected: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        HttpSource(**{argument: value})
    assert str(caught.value) == expected
