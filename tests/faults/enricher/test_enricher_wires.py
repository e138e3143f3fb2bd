"""Faults of connections: rows E4 to E11, E15 and E18; and E21 and E22, with many events at once."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import tracemalloc
from typing import Any

import aiohttp
import pytest
import trustme
from enriching import ENRICHED, enriched
from wire import (
    Connection,
    Turn,
    answer,
    black_hole,
    closes,
    errors_logged,
    peer,
    pours,
    refusing,
    resets,
    responds,
    silence,
    trickles,
    wire_test,
)

from rxcompact.operators.verdict import is_transient

FINE = responds(answer())
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"
CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
PACKED = "Content-Encoding: gzip\r\n"


@wire_test
async def test_e4_connection_refused_is_retried_until_the_event_is_too_old() -> None:
    async with refusing() as url:
        came = await enriched(url, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == [("expired", "enrich", "too old, ClientConnectorError")]
    assert isinstance(came.error, aiohttp.ClientConnectorError)
    assert came.letters[0].attempts >= 5


@wire_test
async def test_e4_connection_refused_is_retried_until_the_server_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]

    async def late() -> asyncio.Server:
        await asyncio.sleep(0.15)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer())
            await reader.read()
            writer.close()

        return await asyncio.start_server(connected, "127.0.0.1", port)

    came, server = await asyncio.gather(enriched(f"http://127.0.0.1:{port}"), late())
    server.close()
    assert came.events == ENRICHED


@wire_test
async def test_e4_a_dns_failure_is_retried() -> None:
    came = await enriched("http://rxcompact.invalid", max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == [("expired", "enrich", "too old, ClientConnectorDNSError")]
    assert isinstance(came.error, aiohttp.ClientConnectorDNSError | TimeoutError)


@wire_test
async def test_e5_a_certificate_of_an_unknown_authority_is_logged_and_never_accepted() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with peer(FINE, tls=context) as api:
        with errors_logged() as errors:
            came = await enriched(api.url, retry=lambda state: state.attempt_number < 3)
    assert [(letter.outcome, letter.attempts) for letter in came.letters] == [("failed", 3)]
    assert isinstance(came.error, aiohttp.ClientConnectorCertificateError)
    assert is_transient(came.error)
    assert api.requests == []
    assert api.url in errors[0]
    assert "certificate" in errors[0]


@wire_test
async def test_e6_a_connect_timeout_is_an_error() -> None:
    async with black_hole() as url:
        came = await enriched(url, timeout=0.1, max_age=3)
    assert came.ends == [("expired", "enrich", "too old, TimeoutError")]
    assert isinstance(came.error, TimeoutError)
    assert came.letters[0].attempts >= 3


@pytest.mark.parametrize(
    "turn", [silence, trickles(b"", every=60), trickles(HALF, every=60)], ids=["half-open", "no answer", "half a body"]
)
@wire_test
async def test_e6_an_answer_that_never_comes_times_out_and_is_retried(turn: Turn) -> None:
    async with peer(turn, FINE) as api:
        came = await enriched(api.url, timeout=1)
    assert (came.events, len(api.requests), api.connections) == (ENRICHED, 2, 2)


@wire_test
async def test_e7_a_body_that_trickles_is_cut_by_the_total_timeout() -> None:
    async with peer(trickles(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", every=0.02), FINE) as api:
        came = await enriched(api.url, timeout=1)
    assert came.events == ENRICHED
    assert api.times[1] - api.times[0] < 10


@pytest.mark.parametrize("turn", [resets(), closes()], ids=["E8 reset", "E9 closed"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@wire_test
async def test_e8_e9_a_connection_cut_before_the_answer_is_retried(turn: Turn, method: str) -> None:
    async with peer(turn, turn, turn, FINE) as api:
        came = await enriched(api.url, http={"method": method})
    # each is a request, repeated by us or by aiohttp
    assert (came.events, len(api.requests), api.connections) == (ENRICHED, 4, 4)


@pytest.mark.parametrize(
    "turn",
    [resets(HALF), closes(HALF), resets(CHUNK), closes(CHUNK)],
    ids=["reset", "closed", "chunk, reset", "chunk, closed"],
)
@wire_test
async def test_e10_reading_the_body_is_inside_the_retry(turn: Turn) -> None:
    async with peer(turn, turn, FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == (ENRICHED, 3)


@pytest.mark.parametrize(
    "whole",
    [answer(b'{"a":'), answer(gzip.compress(b'{"a":[' + b"1," * 5000 + b"1]}")[:-12], headers=PACKED)],
    ids=["JSON", "gzip"],
)
@wire_test
async def test_e11_truncated_json_of_the_right_length_is_retried_until_too_old(whole: bytes) -> None:
    async with peer(responds(whole), FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == (ENRICHED, 2)
    async with peer(responds(whole)) as api:
        came = await enriched(api.url, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == [("expired", "enrich", "too old, transient")]


@pytest.mark.parametrize("packed", [False, True])
@wire_test
async def test_e15_an_endless_answer_is_not_read(packed: bool) -> None:
    mib = 1 << 20
    # 200 MB as they are; or 100 MiB in 100 KiB
    blocks = 200 if not packed else 1
    block = b" " * mib if not packed else gzip.compress(b" " * 100 * mib)
    head = f"HTTP/1.1 200 OK\r\n{PACKED if packed else ''}Content-Length: {blocks * len(block)}\r\n\r\n"
    turn, sent = pours(head.encode(), block, blocks)
    async with peer(turn) as api:
        tracemalloc.start()
        came = await enriched(api.url, http={"max_answer": mib})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert [letter.outcome for letter in came.letters] == ["failed"]
    assert str(came.error) == f"answer is longer than {mib} bytes"
    assert len(api.requests) == 1
    assert sent[0] < 20 * mib
    assert peak < 12 * mib


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 OK what\r\n\r\n",
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    ],
    ids=["status line", "garbage", "TLS", "long header"],
)
@wire_test
async def test_e18_an_answer_that_is_not_http_is_retried_though_aiohttp_calls_it_400(raw: bytes) -> None:
    async with peer(closes(raw), FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == (ENRICHED, 2)


@wire_test
async def test_e18_bytes_after_the_body_are_ignored() -> None:
    async with peer(responds(answer() + b"and more"), FINE) as api:
        came = await enriched(api.url, count=3, max_concurrent=1)
    assert (len(came.out), came.ends) == (3, [])
    assert {str(event["enrichment"]) for event in came.events} == {"{}"}


@pytest.mark.parametrize("at_once", [1, 4])
@wire_test
async def test_e21_a_key_that_always_fails_delays_no_other(at_once: int) -> None:
    asked: list[bytes] = []

    async def turn(connection: Connection) -> bool:
        poison = b"GET /0 " in connection.request
        asked.append(connection.request.split(b" ")[1])
        await connection.send(answer(b"no", "500 Oops") if poison else answer())
        return True

    async with peer(turn) as api:
        came = await enriched(api.url, count=30, max_concurrent=at_once, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == [("expired", "enrich", "too old, HTTP 500")]
    assert came.letters[0].event.key == 0
    assert sorted(compacted.key for compacted in came.out) == list(range(1, 30))
    # all others were answered before its third attempt
    third = [position for position, path in enumerate(asked) if path == b"/0"][2]
    assert len({path for path in asked[:third] if path != b"/0"}) == 29


@wire_test
async def test_e22_answers_out_of_order_go_to_their_events() -> None:
    async def turn(connection: Connection) -> bool:
        number = int(connection.request.split(b" ")[1][1:])
        await asyncio.sleep((20 - number) / 100)
        await connection.send(answer(b'{"n":%d}' % number))
        return True

    async with peer(turn) as api:
        came = await enriched(api.url, count=20)
    found: list[Any] = [(event["id"], event["enrichment"]["n"]) for event in came.events]
    assert sorted(found) == [(n, n) for n in range(20)]
    assert found != sorted(found)
