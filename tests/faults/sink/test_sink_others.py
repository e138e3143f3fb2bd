"""More of rows K1, K2, K4 and K8, and a queue at a proxy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from proxy import proxy
from publishing import idempotency_key, keys_in, published
from tenacity import RetryCallState
from wire import Connection, Turn, answer, closes, peer, resets, responds, silence, wire_test

TAKEN = responds(answer(b""))
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
LONG = b" " * (1024 * 1024 + 1)


@pytest.mark.parametrize(
    ("status", "end"),
    [("500 Cannot parse input", ("expired", "too old, HTTP 500")), ("400 Bad Request", ("failed", "HTTP 400"))],
    ids=["k1", "k2"],
)
@wire_test
async def test_k1_k2_a_failing_batch_does_not_delay_others(status: str, end: tuple[str, str]) -> None:
    async def turn(connection: Connection) -> bool:
        bad = 0 in keys_in(connection.request)
        await connection.send(answer(b"no", status) if bad else answer(b""))
        return True

    async with peer(turn) as it:
        came = await published(it.url, count=6, batch_count=2, batch_ordered=True, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == {0: end}
    # the first is halved, and retried after the others
    assert [keys_in(request) for request in it.requests[:5]] == [[0, 1], [0], [1], [2, 3], [4, 5]]
    assert all(keys_in(request) == [0] for request in it.requests[5:])


@pytest.mark.parametrize("turn", [closes(CUT), resets(CUT)], ids=["closed", "reset"])
@wire_test
async def test_k4_a_truncated_answer_is_retried(turn: Turn) -> None:
    async with peer(turn, TAKEN) as it:
        came = await published(it.url)
    assert (came.account.published, len(it.requests)) == (3, 2)
    assert len({idempotency_key(request) for request in it.requests}) == 1


@pytest.mark.slow  # it depends on real time: 1.5 s are left to an event, so that a busy machine has enough
@wire_test
async def test_k4_the_rest_of_a_batch_has_another_idempotency_key() -> None:
    # the store may have both: the key of the batch does not identify the second
    now = time.time()
    events = [{"id": 0, "ts": now - 10}, {"id": 1, "ts": now + 100}]
    async with peer(silence, silence, TAKEN) as it:
        came = await published(
            it.url, source=events, count=2, time_mapper="ts", max_age=20, batch_timeout=2.0, wait=lambda _: 8.75
        )
    assert came.ends == {0: ("expired", "too old, TimeoutError")}
    assert [keys_in(request) for request in it.requests] == [
        [0, 1],
        [0],
        [1],
    ]  # a last attempt, before the wait of the second is over
    assert len({idempotency_key(request) for request in it.requests}) == 3


@pytest.mark.parametrize(
    "items",
    [
        [{"index": {"status": 429, "error": {"reason": "\ud800"}}}] * 3,
        [{"index": {"status": 429}}, {"index": {"status": "201"}}, {"index": {"status": 201}}],
        [{"index": {"_id": "1"}}] * 3,
    ],
    ids=["surrogate", "string", "none"],
)
@wire_test
async def test_k8_errors_of_an_unknown_form_are_no_success(items: list[object]) -> None:
    body = json.dumps({"errors": True, "items": items})
    async with peer(responds(answer(body)), TAKEN) as it:
        came = await published(it.url)
    assert (came.account.published, len(it.requests)) == (3, 2)


@pytest.mark.parametrize("status", [429, 503])
@wire_test
async def test_a_failure_with_a_long_body_has_its_status(status: int) -> None:
    async with peer(responds(answer(LONG, f"{status} Busy")), TAKEN) as it:
        came = await published(it.url)
    assert (came.account.published, came.ends) == (3, {})


@wire_test
async def test_k8_a_long_bulk_answer_is_read() -> None:
    count = 6000
    item = {
        "_index": "alerts", "_id": "0" * 20, "_version": 1, "result": "created", "_seq_no": 1, "_primary_term": 1,
        "_shards": {"total": 2, "successful": 1, "failed": 0}, "status": 201,
    }  # fmt: skip
    body = json.dumps({"took": 9, "errors": False, "items": [{"index": item}] * count})
    async with peer(responds(answer(body))) as it:
        came = await published(it.url, count=count, timespan=0.5, batch_count=count)
    assert came.account.published == count  # in one batch, or two on a busy machine


@wire_test
async def test_503_of_a_proxy_with_a_full_queue_is_retried(tmp_path: Path) -> None:
    async def slow(connection: Connection) -> bool:
        await asyncio.wait_for(rejected.wait(), 60)  # the first holds the one connection until then
        await connection.send(answer(b""))
        return True

    def wait(state: RetryCallState) -> float:
        errors.append(str(state.outcome and state.outcome.exception())[:8])
        rejected.set()
        return 0.05

    errors: list[str] = []
    rejected = asyncio.Event()
    async with (
        peer(slow, TAKEN) as store,
        proxy(store.url, tmp_path, connections=1) as url,
        aiohttp.ClientSession() as other,
    ):
        first = asyncio.create_task(other.post(url, data=b""))
        while not store.requests:
            await asyncio.sleep(0.005)
        came = await published(url, wait=wait)
        (await first).release()
    assert came.account.published == 3
    assert [keys_in(request) for request in store.requests[1:]] == [[0, 1, 2]]  # none that it rejected
    assert {error[:8] for error in errors} == {"HTTP 503"}


@wire_test
async def test_an_unsolicited_answer_is_not_taken_for_that_of_the_next_batch() -> None:
    async def sends_two_answers(connection: Connection) -> bool:
        await connection.send(answer(b""))
        await asyncio.sleep(0.03)
        await connection.send(answer(b""))
        sent.set()
        return True

    async def events() -> AsyncIterator[dict[str, int]]:
        yield {"id": 0}
        await sent.wait()
        await asyncio.sleep(0.03)
        yield {"id": 1}

    sent = asyncio.Event()
    async with peer(sends_two_answers, responds(answer(b"no", "422 No"))) as store:
        came = await published(store.url, count=2, source=events())
    assert came.ends == {1: ("failed", "HTTP 422")}
    assert [keys_in(request) for request in store.requests] == [[0], [1]]
