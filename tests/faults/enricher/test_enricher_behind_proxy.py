"""An API behind HAProxy: rows E1, E2, E6, E10 and E22, as they are in the field."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from enriching import ENRICHED, enriched
from proxy import proxy
from wire import Connection, answer, closes, deaf, peer, says, wire_test

from rxcompact import HttpEnricher

pytestmark = pytest.mark.debian

FINE = says(answer())
CUT = closes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")
TOO_OLD = [("expired", "enrich", "too old")]


@wire_test
async def test_e1_the_503_of_a_proxy_whose_api_is_down_is_asked_again(tmp_path: Path) -> None:
    async with deaf() as down, proxy(down, tmp_path) as url:
        came = await enriched(url, max_age=0.4, wait=lambda _: 0.05)
    assert came.ends == TOO_OLD
    assert str(came.error) == "HTTP 503"
    assert came.letters[0].attempts >= 3


@wire_test
async def test_e2_the_429_of_a_rate_limit_is_waited_for(tmp_path: Path) -> None:
    async with peer(FINE) as api, proxy(api.url, tmp_path) as url:
        start = time.monotonic()
        came = await enriched(url, enricher=HttpEnricher(f"{url}/limited/"))
        took = time.monotonic() - start
    assert (came.events, len(api.heard)) == (ENRICHED, 1)
    assert 1 <= took < 3


@wire_test
async def test_e6_who_is_tarpitted_leaves_and_asks_anew(tmp_path: Path) -> None:
    async with peer(FINE) as api, proxy(api.url, tmp_path) as url:
        came = await enriched(url, enricher=HttpEnricher(f"{url}/tarpit/"), timeout=0.4)
    assert (came.events, len(api.heard)) == (ENRICHED, 1)


@wire_test
async def test_e10_a_body_that_is_cut_behind_a_proxy_is_asked_for_again(tmp_path: Path) -> None:
    async with peer(CUT, CUT, FINE) as api, proxy(api.url, tmp_path) as url:
        came = await enriched(url)
    assert (came.events, len(api.heard)) == (ENRICHED, 3)


@wire_test
async def test_e22_many_at_once_over_kept_connections_each_have_their_own(tmp_path: Path) -> None:
    async def its_own(connection: Connection) -> bool:
        number = int(connection.request.split(b" ")[1][1:])
        await asyncio.sleep(number % 7 / 500)
        await connection.send(answer(b'{"n":%d}' % number))
        return True

    async with peer(its_own) as api, proxy(api.url, tmp_path) as url:
        came = await enriched(url, count=200, max_concurrent=8)
    assert sorted((event["id"], event["enrichment"]["n"]) for event in came.events) == [(n, n) for n in range(200)]
    assert len(api.heard) == 200
