"""A store behind HAProxy: rows K9 and K10, and answers of the proxy itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pipelines import simple_pipeline
from proxy import proxy
from publishing import idempotency_key, keys_in, published
from tenacity import RetryCallState
from wire import CLOSE, Connection, answer, closes, peer, refusing, responds, silence, wire_test

from rxcompact import HttpSink, HttpSource, Orchestrator, Pipeline
from rxcompact import operators as rxo

pytestmark = pytest.mark.debian

TAKEN = responds(answer(b""))


@wire_test
async def test_429_waits_for_retry_after_and_counts_as_no_failure(tmp_path: Path) -> None:
    attempts: list[int] = []

    def wait(state: RetryCallState) -> float:
        attempts.append(state.attempt_number)
        return 0.01

    async with peer(responds(answer(b"", "503 Busy")), TAKEN) as store, proxy(store.url, tmp_path) as url:
        began = asyncio.get_running_loop().time()
        came = await published(url + "/limited", wait=wait)
    assert came.account.published == 3
    assert store.times[0] - began >= 0.99
    assert attempts == [1, 1]  # at 429, and at 503 still the first


@wire_test
async def test_a_tarpit_times_out_and_is_retried(tmp_path: Path) -> None:
    async with peer(TAKEN) as store, proxy(store.url, tmp_path) as url:
        came = await published(url + "/tarpit", batch_timeout=0.2)
    assert (came.account.published, len(store.requests)) == (3, 1)


@wire_test
async def test_504_is_retried_with_the_same_idempotency_key(tmp_path: Path) -> None:
    async with (
        peer(silence, silence, TAKEN) as store,
        proxy(store.url, tmp_path, patience="150ms") as url,
    ):
        came = await published(url)
    assert (came.account.published, len(store.requests)) == (3, 3)
    assert len({idempotency_key(request) for request in store.requests}) == 1


@wire_test
async def test_503_of_a_proxy_without_a_store_is_retried_until_too_old(tmp_path: Path) -> None:
    async with refusing() as nobody, proxy(nobody, tmp_path) as url:
        came = await published(url, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == dict.fromkeys(range(3), ("expired", "too old, HTTP 503"))
    assert all(str(letter.error.__cause__).startswith("HTTP 503: <html>") for letter in came.letters)


@wire_test
async def test_k9_a_slow_sink_leads_to_503_in_bounded_memory(tmp_path: Path) -> None:
    room, events = 20, 200

    async def slow(connection: Connection) -> bool:
        await asyncio.sleep(0.02)
        took.extend(keys_in(connection.request))
        await connection.send(answer(b""))
        return True

    took: list[int] = []
    refused, most = 0, 0
    async with peer(slow) as store, proxy(store.url, tmp_path) as url, aiohttp.ClientSession() as client:
        source = HttpSource(port=0, retry_after=0)
        options: dict[str, Any] = {"batch_count": 10, "batch_timespan": 0.01, "max_in_flight": room, "max_age": 30}
        pipeline = simple_pipeline(source=source, key_mapper="id", timespan=0.01, sink=HttpSink(url + "/"), **options)
        async with asyncio.timeout(60), Orchestrator(pipeline) as orchestrator:
            await source.listening()
            for number in range(events):
                while True:
                    async with client.post(source.url, data=b'{"id":%d}' % number) as response:
                        most = max(most, orchestrator.account.in_flight)
                        if response.status == 202:
                            break
                        assert (response.status, response.headers["Retry-After"]) == (503, "0")
                        refused += 1
                    await asyncio.sleep(0.01)
            account = (await orchestrator.stop()).account
    assert sorted(took) == list(range(events))
    assert account.published == events
    assert refused > 0
    assert 0 < most <= room


@pytest.mark.parametrize("where", ["proxy", "store"])
@wire_test
async def test_k10_a_closed_idle_connection_is_reopened_without_loss_or_duplicates(where: str, tmp_path: Path) -> None:
    async def source() -> Any:
        yield {"id": 0}
        await asyncio.sleep(0.4)
        yield {"id": 1}

    # the store closes the connection without a header that announces it
    turn = TAKEN if where == "proxy" else closes(answer(b""))
    assert CLOSE.encode() not in answer(b"")
    async with peer(turn) as store, proxy(store.url, tmp_path, idle="100ms") as url:
        came = await published(url if where == "proxy" else store.url, count=2, source=source())
    assert came.account.published == 2
    assert [keys_in(request) for request in store.requests] == [[0], [1]]


@wire_test
async def test_w2_one_of_three_stores_that_never_answers_expires_nothing_with_the_defaults(tmp_path: Path) -> None:
    async def source() -> Any:
        for number in range(1200):  # 200 a second
            if number % 10 == 0:
                await asyncio.sleep(0.05)
            yield {"id": number}

    async with (
        peer(TAKEN) as one,
        peer(silence) as hole,
        peer(TAKEN) as other,
        proxy(one.url, tmp_path, hole.url, other.url, patience="60s") as url,
    ):
        sink = HttpSink(url + "/")
        compact = rxo.compact(0.2, key_mapper="id")
        # the defaults for an age of 20 s, a third of that in the field: a time limit of 2 s
        pipeline = Pipeline(source(), compact, rxo.publish(sink), max_age=20)
        async with asyncio.timeout(60), Orchestrator(pipeline, report=False) as orchestrator:
            account = (await orchestrator.wait()).account
    assert (account.published, account.expired) == (1200, 0)
    assert len(hole.requests) > 1
    stored = [key for store in (one, other) for request in store.requests for key in keys_in(request)]
    assert sorted(stored) == list(range(1200))
