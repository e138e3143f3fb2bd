"""Bodies of answers: rows E10, E11, E15, E16, E18 and E20."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc

import pytest
from enriching import ENRICHED, enriched
from wire import Connection, Turn, answer, closes, peer, responds, wire_test

FINE = responds(answer())
PACKED = "Content-Encoding: gzip\r\n"
MIB = 1 << 20
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def corrupted(packed: bytes) -> bytes:
    """With one bit of its checksum flipped."""
    return packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]


@pytest.mark.parametrize(
    "turn",
    [
        closes(CHUNKED + b"zz\r\n{}\r\n"),
        closes(CHUNKED + b"2\r\n{}{}\r\n0\r\n\r\n"),
        closes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"),
        closes(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}"),
        responds(answer(b"garbage", headers=PACKED)),
        responds(answer(corrupted(gzip.compress(b'{"a":1}')), headers=PACKED)),
        responds(answer(b"garbage", headers="Content-Encoding: br\r\n")),
    ],
    ids=[
        "E18 chunk size", "E18 chunk too long", "E18 two lengths", "E18 negative length", "E11 no gzip",
        "E11 gzip checksum", "E11 brotli",
    ],
)  # fmt: skip
@wire_test
async def test_e11_e18_a_body_that_cannot_be_decoded_is_retried(turn: Turn) -> None:
    async with peer(turn, turn, FINE) as api:
        came = await enriched(api.url)
    assert (came.events, came.ends, len(api.requests)) == (ENRICHED, [], 3)


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(b"1234567890", compresslevel=0)[:-12], gzip.compress(b'{"a":1}')[:-8]],
    ids=["within a number", "before the checksum"],
)
@wire_test
async def test_e11_truncated_gzip_is_retried_though_the_part_is_json(packed: bytes) -> None:
    async with peer(responds(answer(packed, headers=PACKED)), FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == (ENRICHED, 2)


@wire_test
async def test_e15_an_endless_chunked_answer_is_not_read() -> None:
    sent = 0

    async def turn(connection: Connection) -> bool:
        nonlocal sent
        await connection.send(CHUNKED)
        while True:
            await connection.send(b"%x\r\n%b\r\n" % (MIB, b" " * MIB))
            sent += MIB

    async with peer(turn) as api:
        tracemalloc.start()
        came = await enriched(api.url, http={"max_answer": MIB})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (came.ends, len(api.requests)) == ([("failed", "enrich", "permanent")], 1)
    assert sent < 20 * MIB
    assert peak < 12 * MIB


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy", "401 No", "429 Slow down"])
@wire_test
async def test_e1_e15_a_failure_with_a_long_body_is_retried(status: str) -> None:
    async with peer(responds(answer(b"x" * 2000, status)), FINE) as api:
        came = await enriched(api.url, http={"max_answer": 1000})
    assert (came.events, came.ends, len(api.requests)) == (ENRICHED, [], 2)


@wire_test
async def test_e3_e15_404_with_a_long_body_is_404() -> None:
    async with peer(responds(answer(b"x" * 2000, "404 Not Found"))) as api:
        came = await enriched(api.url, http={"max_answer": 1000})
    assert (came.events, came.ends, len(api.requests)) == ([{"id": 0}], [], 1)


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000 + b"]" * 100_000, b'{"a":"\\ud800"}', b'{"a":' + b"1" * 5000 + b"}", b'{"a":1} x'],
    ids=["deep", "surrogate", "5,000 digits", "more"],
)
@wire_test
async def test_e16_malformed_json_is_retried(body: bytes) -> None:
    async with peer(responds(answer(body)), FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == (ENRICHED, 2)


@pytest.mark.parametrize("body", [b"", b'{"a":NaN}'], ids=["E13", "E16"])
@wire_test
async def test_e13_e16_malformed_json_is_retried_until_too_old(body: bytes) -> None:
    async def turn(connection: Connection) -> bool:
        await connection.send(answer(body if b"GET /0 " in connection.request else b"{}"))
        return True

    async with peer(turn) as api:
        came = await enriched(api.url, count=5, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == [("expired", "enrich", "too old, transient")]
    assert "answer is no JSON" in str(came.error)
    sent = len(api.requests) - 4
    assert sent >= 3
    assert came.letters[0].attempts - sent in (0, 1)  # the last may have been cancelled before it was sent
    assert sorted(event["id"] for event in came.events) == [1, 2, 3, 4]


@wire_test
async def test_e20_null_adds_nothing() -> None:
    async with peer(responds(answer(b"null"))) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == ([{"id": 0}], 1)


@wire_test
async def test_e10_a_body_that_is_always_cut_affects_no_other_event() -> None:
    async def turn(connection: Connection) -> bool:
        cut = b"GET /0 " in connection.request
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}" if cut else answer())
        await asyncio.sleep(0)
        return not cut

    async with peer(turn) as api:
        came = await enriched(api.url, count=5, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == [("expired", "enrich", "too old, ClientPayloadError")]
    sent = len(api.requests) - 4
    assert sent >= 3
    assert came.letters[0].attempts - sent in (0, 1)  # the last may have been cancelled before it was sent
    assert sorted(event["id"] for event in came.events) == [1, 2, 3, 4]
