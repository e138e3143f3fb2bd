"""Answers of a store, and what happens to the batch: rows K1 to K8."""

from __future__ import annotations

import json

import pytest
from loguru import logger
from publishing import idempotency_key, keys_in, published
from wire import Connection, Turn, answer, closes, errors_logged, peer, refusing, resets, responds, silence, wire_test

from rxcompact import Orchestrator
from rxcompact.observers import LogObserver, Statistics

TAKEN = responds(answer(b""))


def store(poison: int, status: str = "500 Cannot parse input") -> tuple[Turn, list[list[int]]]:
    """A store that rejects a batch with a certain row; the rows that it stored."""
    took: list[list[int]] = []

    async def turn(connection: Connection) -> bool:
        keys = keys_in(connection.request)
        if poison not in keys:
            took.append(keys)
        await connection.send(answer(b"no", status) if poison in keys else answer(b""))
        return True

    return turn, took


@wire_test
async def test_k1_a_row_that_gets_500_is_isolated() -> None:
    turn, took = store(poison=5)
    async with peer(turn) as it:
        came = await published(it.url, count=8, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == {5: ("expired", "too old, HTTP 500")}
    assert sorted(key for keys in took for key in keys) == [0, 1, 2, 3, 4, 6, 7]
    # the others were stored in the first attempt
    assert [keys_in(request) for request in it.requests[:7]] == [
        [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]
    ]  # fmt: skip
    assert all(keys_in(request) == [5] for request in it.requests[7:])


@wire_test
async def test_k2_400_after_a_partial_write_fails_each_event_that_gets_it_alone() -> None:
    # the answer does not name the rows that were written
    partial = answer(b'{"error":"partial write: field type conflict dropped=1"}', "400 Bad Request")
    async with peer(responds(partial)) as it:
        came = await published(it.url)
    assert came.ends == dict.fromkeys(range(3), ("failed", "HTTP 400"))
    assert [keys_in(request) for request in it.requests] == [[0, 1, 2], [0], [1, 2], [1], [2]]


@wire_test
async def test_k3_204_for_bad_data_counts_as_success() -> None:
    async with peer(responds(b"HTTP/1.1 204 No Content\r\n\r\n")) as it:
        came = await published(it.url)
    assert came.account.published == 3
    assert [keys_in(request) for request in it.requests] == [[0, 1, 2]]


@pytest.mark.parametrize("turn", [silence, resets(), closes()], ids=["hangs", "reset", "closed"])
@wire_test
async def test_k4_a_lost_answer_is_retried_with_the_same_idempotency_key(turn: Turn) -> None:
    async with peer(turn, TAKEN) as it:
        came = await published(it.url, batch_timeout=2)
    assert came.account.published == 3
    assert len(it.requests) == 2
    assert len({request.partition(b"\r\n\r\n")[2] for request in it.requests}) == 1
    assert len({idempotency_key(request) for request in it.requests}) == 1


@wire_test
async def test_k5_413_halves_a_batch() -> None:
    async def turn(connection: Connection) -> bool:
        large = len(connection.request.partition(b"\r\n\r\n")[2]) > 300
        await connection.send(answer(b"", "413 Too Large") if large else answer(b""))
        if not large:
            took.extend(keys_in(connection.request))
        return True

    took: list[int] = []
    async with peer(turn) as it:
        came = await published(it.url, count=16)
    assert (sorted(took), came.account.published) == (list(range(16)), 16)
    assert len({idempotency_key(request) for request in it.requests}) == len(it.requests)


@pytest.mark.parametrize("status", [401, 403, 410])
@wire_test
async def test_k6_denied_credentials_are_logged_and_retried(status: int) -> None:
    no = responds(answer(b"no", f"{status} No"))
    async with peer(no, no, TAKEN) as it:
        with errors_logged() as errors:
            came = await published(it.url, http={"headers": {"Authorization": "Bearer secret"}})
    assert came.account.published == 3
    assert errors == [f"{it.url} answers HTTP {status}: are the credentials right?"]  # once a minute
    async with peer(no) as it:
        came = await published(it.url, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == dict.fromkeys(range(3), ("expired", f"too old, HTTP {status}"))
    assert came.causes == {"TransientError"}


class Keep:
    """Keeps the statistics of the run that it is attached to."""

    statistics: Statistics

    def on_attach(self, run: Orchestrator) -> None:
        self.statistics = run.statistics


@wire_test
async def test_k7_events_that_expire_while_a_store_is_down_are_counted_and_logged() -> None:
    warnings: list[str] = []
    kept = Keep()
    sink = logger.add(lambda message: warnings.append(message.record["message"]), level="WARNING")
    try:
        async with refusing() as url:
            came = await published(url, count=5, max_age=2.0, wait=lambda _: 0.2, observers=[kept, LogObserver()])
    finally:
        logger.remove(sink)
    assert came.ends == dict.fromkeys(range(5), ("expired", "too old, ClientConnectorError"))
    assert came.causes == {"ClientConnectorError"}
    assert came.account.expired == sum(kept.statistics.snapshot().dead_letters.values()) == 5
    assert kept.statistics.snapshot().dead_letters["expired", "publish", "too old, ClientConnectorError"] == 5
    assert len(warnings) == 5
    for line in warnings:
        assert line.startswith("dead lettered: outcome expired, stage publish, attempts ")
        assert line.endswith(", reason too old, ClientConnectorError")


def bulk_answer(*statuses: int) -> bytes:
    items = [{"index": {"_id": str(number), "status": status}} for number, status in enumerate(statuses)]
    return json.dumps({"took": 3, "errors": any(status > 299 for status in statuses), "items": items}).encode()


@pytest.mark.parametrize("status", ["200 OK", "207 Multi-Status"])
@wire_test
async def test_k8_only_the_failed_items_of_a_bulk_answer_are_retried(status: str) -> None:
    async with peer(
        responds(answer(bulk_answer(201, 503, 200, 400, 503), status)),
        responds(answer(bulk_answer(503, 201), status)),
        responds(answer(bulk_answer(201), status)),
    ) as it:
        came = await published(it.url, count=5)
    assert [keys_in(request) for request in it.requests] == [[0, 1, 2, 3, 4], [1, 4], [1]]
    assert came.ends == {3: ("failed", "HTTP 400")}
    assert came.account.published == 4


@wire_test
async def test_k8_a_bulk_answer_with_another_number_of_items_is_retried() -> None:
    async with peer(responds(answer(bulk_answer(201, 429))), responds(answer(bulk_answer(201, 201, 201)))) as it:
        came = await published(it.url)
    assert came.account.published == 3
    assert [keys_in(request) for request in it.requests] == [[0, 1, 2]] * 2


@pytest.mark.parametrize("body", [b'{"errors":true}', b'{"errors":1,"items":[]}', b"\xff", b"[" * 9999, b'{"a":1}'])
@wire_test
async def test_k8_any_other_body_of_a_2xx_is_success(body: bytes) -> None:
    async with peer(responds(answer(body))) as it:
        came = await published(it.url)
    assert (came.account.published, len(it.requests)) == (3, 1)
