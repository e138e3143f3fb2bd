"""Connections and the answers on them: rows E5, E8, E9, E18, E21 and E22."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from enriching import enriched
from tenacity import RetryCallState
from wire import Connection, Turn, answer, closes, peer, resets, responds, wire_test

FINE = responds(answer())
ASK = """
import asyncio, sys
from rxcompact import HttpEnricher

async def main():
    for url in sys.argv[1:]:
        enricher = HttpEnricher(url)
        try:
            print(await enricher.enrich({}))
        except Exception as error:
            print(type(error).__name__, error)
        await enricher.aclose()

asyncio.run(main())
"""


async def its_own(connection: Connection) -> bool:
    """Answer with the number of the request."""
    await connection.send(answer(b'{"n":%s}' % connection.request.split(b" ")[1][1:]))
    return True


def sends_unsolicited(unsolicited: bytes) -> tuple[Turn, AsyncIterator[dict[str, int]]]:
    """A turn that sends more bytes on the idle connection; three events, of which two come after that."""
    sent = asyncio.Event()

    async def turn(connection: Connection) -> bool:
        await its_own(connection)
        await asyncio.sleep(0.03)
        await connection.send(unsolicited)
        sent.set()
        return True

    async def events() -> AsyncIterator[dict[str, int]]:
        yield {"id": 0}
        await sent.wait()
        await asyncio.sleep(0.03)
        for n in (1, 2):
            yield {"id": n}

    return turn, events()


def certified(ca: trustme.CA, name: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name, **options).configure_cert(context)
    return context


@wire_test
async def test_e5_a_trusted_authority_still_needs_the_right_name_and_an_unexpired_certificate(tmp_path: Path) -> None:
    # in another process: aiohttp loads the trusted certificates when it is imported
    ca = trustme.CA()
    bundle = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    async with (
        peer(FINE, tls=certified(ca, "127.0.0.1")) as right,
        peer(FINE, tls=certified(ca, "elsewhere.example")) as another,
        peer(FINE, tls=certified(ca, "127.0.0.1", not_after=yesterday)) as expired,
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASK, right.url, another.url, expired.url,
            env=os.environ | {"SSL_CERT_FILE": str(bundle)}, stdout=subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
    taken, misnamed, late = output.decode().splitlines()
    assert taken == "{'enrichment': {}}"
    assert "CertificateError" in misnamed
    assert "IP address mismatch" in misnamed
    assert "CertificateError" in late
    assert "certificate has expired" in late
    assert (len(right.requests), another.requests, expired.requests) == (1, [], [])


@pytest.mark.parametrize("turn", [resets(), closes()], ids=["E8 reset", "E9 closed"])
@pytest.mark.parametrize("before", [0, 1], ids=["new", "kept"])
@pytest.mark.parametrize(("method", "failures"), [("GET", 3), ("POST", 6)])
@wire_test
async def test_e8_e9_aiohttp_repeats_a_cut_get_once_and_a_post_never(
    turn: Turn, before: int, method: str, failures: int
) -> None:
    # aiohttp itself repeats a GET once, on a kept and on a new connection: that is one attempt
    failed: list[int] = []

    def wait(state: RetryCallState) -> float:
        failed.append(state.attempt_number)
        return 0.01

    async with peer(*[FINE] * before, *[turn] * 6, FINE) as api:
        came = await enriched(api.url, count=before + 1, max_concurrent=1, http={"method": method}, wait=wait)
    assert (len(came.out), came.ends) == (before + 1, [])
    assert failed == list(range(1, failures + 1))
    assert len(api.requests) == before + 6 + 1


@wire_test
async def test_e18_e22_an_unsolicited_answer_is_discarded() -> None:
    turn, events = sends_unsolicited(answer(b'{"n":999}'))
    async with peer(turn, its_own) as api:
        came = await enriched(api.url, count=3, source=events, max_concurrent=1)
    assert came.events == [{"id": n, "enrichment": {"n": n}} for n in range(3)]


@wire_test
async def test_e18_garbage_on_an_idle_connection_closes_it_and_loses_no_event() -> None:
    turn, events = sends_unsolicited(b"garbage\r\n\r\n")
    async with peer(turn, its_own) as api:
        came = await enriched(api.url, count=3, source=events, max_concurrent=1)
    assert came.events == [{"id": n, "enrichment": {"n": n}} for n in range(3)]
    assert (len(api.requests), api.connections) == (3, 2)


@wire_test
async def test_e22_a_late_answer_is_not_taken_for_that_of_another_request() -> None:
    async def dawdles(connection: Connection) -> bool:
        await asyncio.sleep(0.2)
        await connection.send(answer(b'{"n":999}'))
        return True

    async with peer(dawdles, its_own) as api:
        came = await enriched(api.url, count=3, timeout=0.1, max_concurrent=1, wait=lambda _: 0.2)
    assert sorted((event["id"], event["enrichment"]["n"]) for event in came.events) == [(n, n) for n in range(3)]
    assert len(api.requests) >= 4


@wire_test
async def test_e21_requests_that_hang_hold_their_slots_until_the_timeout() -> None:
    asking = most = 0

    async def turn(connection: Connection) -> bool:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        try:
            if connection.request.startswith((b"GET /0 ", b"GET /1 ")):
                await connection.reader.read()
                return False
            await asyncio.sleep(0.005)  # so that calls overlap
            return await its_own(connection)
        finally:
            asking -= 1

    async with peer(turn) as api:
        came = await enriched(
            api.url, count=40, max_concurrent=4, timeout=1, max_age=3, wait=lambda _: 0.05
        )  # fmt: skip
    assert sorted(compacted.key for compacted in came.out) == list(range(2, 40))
    assert {letter.event.key: letter.outcome for letter in came.letters} == {0: "expired", 1: "expired"}
    assert all(letter.attempts >= 2 for letter in came.letters)
    assert 4 <= most <= 6  # the peer may not have noticed yet that two connections were closed
