"""Rows S16, S17, S31, S44 of the fault table: bodies and keys that are too long, too slow, or too many."""

from __future__ import annotations

import asyncio
import gzip
import io
import resource
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from source_support import GZIP, HEAD, Service, ndjson, served, status_of


def resident() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


def test_s16_a_body_longer_than_max_body_is_413() -> None:
    async def test(service: Service) -> None:
        fits = b'{"id":1}'.ljust(1000)
        for body, status in ((fits, 202), (fits + b" ", 413)):
            assert (await service.post(body)).status == status
            assert (await service.post(chunked(body))).status == status
            assert (await service.post(gzip.compress(body), GZIP)).status == status
        assert service.received == 3

    served(test, max_body=1000)


def test_s16_the_answer_names_the_limit() -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b" " * 1001)
        assert answer.json["status"] == 413
        assert "1000" in answer.json["error"]
        assert "max_body" in answer.json["error"]

    served(test, max_body=1000)


def test_h3_a_body_of_more_events_than_max_events_is_413() -> None:
    async def test(service: Service) -> None:
        for number, status in ((3, 202), (4, 413)):
            assert (await service.post(ndjson(*range(number)))).status == status
            assert (await service.post(chunked(ndjson(*range(number))))).status == status
        assert service.received == 6

    served(test, max_events=3)


def test_s16_a_content_length_beyond_max_body_is_413_at_once() -> None:
    """No more of the body is read than is there."""

    async def test(service: Service) -> None:
        async with service.raw(HEAD + b"Content-Length: 1000000000\r\n\r\n" + b" " * 1001) as (reader, _):
            assert await status_of(reader) == 413
        await service.still_serves()

    served(test, max_body=1000)


def test_s17_an_endless_chunked_body_is_413_in_constant_memory() -> None:
    async def test(service: Service) -> None:
        block = b"ffff\r\n" + b" " * 0xFFFF + b"\r\n"
        async with service.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as (reader, writer):
            tracemalloc.start()
            try:
                answer = asyncio.ensure_future(status_of(reader))
                sent = 0
                while not answer.done():
                    writer.write(block)
                    await writer.drain()
                    sent += len(block)
                    await asyncio.sleep(0)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert await answer == 413
            assert sent > 1_000_000
            assert peak < 8_000_000
        await service.still_serves()

    served(test, max_body=1_000_000)


def test_s31_300_slow_bodies_are_408_and_other_clients_are_served_meanwhile() -> None:
    async def test(service: Service) -> None:
        async with AsyncExitStack() as stack:
            slow = [
                await stack.enter_async_context(service.raw(HEAD + b"Content-Length: 9\r\n\r\n{")) for _ in range(300)
            ]
            async with asyncio.timeout(30):
                for n in range(20):
                    assert (await service.post(ndjson(n))).status == 202
            assert await asyncio.gather(*(status_of(reader) for reader, _ in slow)) == [408] * 300
        assert service.received == 20
        await service.still_serves()

    served(test, body_timeout=1.0)


def test_s31_a_body_that_trickles_is_408() -> None:
    async def test(service: Service) -> None:
        async def trickle() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" "
                await asyncio.sleep(0.02)

        try:
            assert (await service.post(trickle())).status == 408
        except aiohttp.ClientError:  # the server closed while the body was being sent
            pass
        assert service.received == 0

    served(test, body_timeout=0.1)


def test_s44_a_key_of_a_mebibyte_is_rejected_with_its_length() -> None:
    async def test(service: Service) -> None:
        long = b'{"id":"' + b"x" * (1 << 20) + b'"}'
        body = b"\n".join([b'{"id":1}', long, b'{"id":2,"x":"' + b"y" * (1 << 20) + b'"}'])
        answer = await service.post(io.BytesIO(body))  # aiohttp warns of bytes that are long
        assert answer.counts == (202, 2, 1)
        [(line, reason)] = answer.reasons
        assert line == 2
        assert str(1 << 20) in reason
        assert len(reason) < 200
        assert await service.ids() == [1, 2]
        assert service.ends() == [("rejected", "compact", "key")]

    served(test)


@pytest.mark.slow
def test_s44_a_million_distinct_keys_hold_no_more_than_max_in_flight() -> None:
    """Further bodies get 503, and memory is that of the held keys."""
    step, most = 5000, 10_000

    async def test(service: Service) -> None:
        bodies = (ndjson(*range(start, start + step)) for start in range(0, 1_000_000, step))
        taken = [next(bodies), next(bodies)]
        for body in taken:
            assert (await service.post(body)).status == 202
        before = resident()
        for body in bodies:
            answer = await service.post(body)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert resident() - before < 20_000_000  # a million keys are ten times that
        for body in taken:  # keys that are held need no capacity
            assert (await service.post(body)).status == 202
        assert len(await service.ids()) == most
        assert service.orchestrator.account.dropped == 0

    served(test, {"max_in_flight": most})
