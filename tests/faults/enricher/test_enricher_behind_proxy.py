"""An API behind HAProxy: rows E1, E2, E6, E10 and E22."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from enriching import ENRICHED, enriched
from proxy import proxy
from wire import Connection, answer, closes, peer, refusing, responds, wire_test

from rxcompact import HttpEnricher

pytestmark = pytest.mark.debian

FINE = responds(answer())
CUT = closes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")


@wire_test
async def test_e1_503_of_a_proxy_without_an_api_is_retried(tmp_path: Path) -> None:
    async with refusing() as down, proxy(down, tmp_path) as url:
        came = await enriched(url, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == [("expired", "enrich", "too old, HTTP 503")]
    assert str(came.error).startswith("HTTP 503: <html>")
    assert came.letters[0].attempts >= 3


@wire_test
async def test_e2_429_of_a_rate_limit_is_waited_for(tmp_path: Path) -> None:
    async with peer(FINE) as api, proxy(api.url, tmp_path) as url:
        start = time.monotonic()
        came = await enriched(url, enricher=HttpEnricher(f"{url}/limited/"))
        took = time.monotonic() - start
    assert (came.events, len(api.requests)) == (ENRICHED, 1)
    assert 1 <= took  # what the proxy asked for


@wire_test
async def test_e6_a_tarpitted_request_times_out_and_is_retried(tmp_path: Path) -> None:
    async with peer(FINE) as api, proxy(api.url, tmp_path) as url:
        came = await enriched(url, enricher=HttpEnricher(f"{url}/tarpit/"), timeout=0.4)
    assert (came.events, len(api.requests)) == (ENRICHED, 1)


@wire_test
async def test_e10_a_body_cut_behind_a_proxy_is_retried(tmp_path: Path) -> None:
    async with peer(CUT, CUT, FINE) as api, proxy(api.url, tmp_path) as url:
        came = await enriched(url)
    assert (came.events, len(api.requests)) == (ENRICHED, 3)


@wire_test
async def test_e22_concurrent_requests_on_kept_connections_get_their_own_answers(tmp_path: Path) -> None:
    async def its_own(connection: Connection) -> bool:
        number = int(connection.request.split(b" ")[1][1:])
        await asyncio.sleep(number % 7 / 500)
        await connection.send(answer(b'{"n":%d}' % number))
        return True

    async with peer(its_own) as api, proxy(api.url, tmp_path) as url:
        came = await enriched(url, count=200, max_concurrent=8)
    assert sorted((event["id"], event["enrichment"]["n"]) for event in came.events) == [(n, n) for n in range(200)]
    assert len(api.requests) == 200
