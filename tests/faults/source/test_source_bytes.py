"""Row H4: what a listener holds is bounded in bytes, unfinished bodies included."""

from __future__ import annotations

import asyncio
import gzip
import re
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlencode

import pytest
from source_support import GZIP, HEAD, Service, served, status_of, until

from rxcompact.sources.body import COPIES, OVERHEAD, READ

KIB = 1024


def event(key: int, size: int) -> bytes:
    return b'{"id":%d,"x":"%s"}' % (key, b"x" * (size - len(b'{"id":%d,"x":""}' % key)))


def test_h4_a_post_beyond_max_bytes_is_503_and_names_the_bound_and_duplicates_are_taken() -> None:
    async def test(service: Service) -> None:
        for key in range(60):
            assert (await service.post(event(key, 20 * KIB))).status == 202
        assert service.orchestrator.bytes_held == 1200 * KIB  # three quarters
        answer = await service.post(event(100, 100))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        held = 1200 * KIB + 2 * READ + 362
        assert answer.json["error"] == f"no capacity: {held} of {1600 * KIB} are held (max_bytes)"
        assert (await service.post(event(1, KIB))).status == 202
        assert (await service.ask("GET", "readyz")).text == "full\n"
        metrics = (await service.ask("GET", "metrics")).text
        assert 'rxcompact_in_flight_ratio{pipeline="default",unit="bytes"} 0.75' in metrics
        for code, count in (("202", 61), ("503", 1)):  # what senders were answered is counted
            assert re.search(
                rf'rxcompact_source_requests_total{{code="{code}",pipeline="default",source="http://.*"}} {count}\.0',
                metrics,
            )

    served(test, {"max_bytes": 1600 * KIB})


def test_h4_a_listener_full_of_bytes_is_ready_again_when_they_are_published() -> None:
    release = asyncio.Event()

    async def sink(_: Any) -> None:
        await release.wait()

    async def test(service: Service) -> None:
        for key in range(61):
            answer = await service.post(event(key, 20 * KIB))
        assert answer.status == 503
        assert (await service.ask("GET", "readyz")).text == "full\n"
        release.set()
        await until(lambda: service.orchestrator.account.in_flight == 0)
        assert (await service.ask("GET", "readyz")).text == "ready\n"
        assert (await service.post(event(60, 20 * KIB))).status == 202

    served(test, {"max_bytes": 1600 * KIB, "sink": sink, "timespan": 0.05, "batch_timespan": 0.01})


@pytest.mark.parametrize("kind", ["plain", "gzip", "form"])
def test_h4_unfinished_bodies_are_counted_until_they_end(kind: str) -> None:
    """Of each the events and their text are held."""
    block = b"\n".join(event(key, KIB) for key in range(256))

    async def test(service: Service) -> None:
        body, head = block, HEAD
        if kind == "gzip":
            body, head = gzip.compress(block), HEAD + b"Content-Encoding: gzip\r\n"
        if kind == "form":
            body = urlencode({"payload": block}).encode()
            head = HEAD + b"Content-Type: application/x-www-form-urlencoded\r\n"
        head += b"Content-Length: 9999999\r\n\r\n"
        async with AsyncExitStack() as stack:
            before = 0
            for _ in range(3):
                await stack.enter_async_context(service.raw(head + body))
                await until(lambda: service.orchestrator.bytes_held >= before + 256 * KIB)  # noqa: B023
                before = service.orchestrator.bytes_held
            assert before < 3 * 900 * KIB
            assert service.received == 0
        await until(lambda: service.orchestrator.bytes_held == 0)
        answer = await service.post(body, GZIP if kind == "gzip" else None)
        assert service.orchestrator.bytes_held == (256 * KIB if answer.status == 202 else 0)

    served(test, max_event=2 * KIB)


def test_h4_a_body_is_cut_off_with_503_when_there_is_no_capacity_for_more_of_it() -> None:
    async def test(service: Service) -> None:
        block = b"\n".join(event(key, KIB) for key in range(256)) + b"\n"
        head = HEAD + b"Content-Length: 9999999\r\n\r\n"
        async with service.raw(head + block):
            all_of_it = 2 * READ + int(COPIES * (len(block) - 1)) + 255 * OVERHEAD  # the last one may go on
            await until(lambda: service.orchestrator.bytes_held >= all_of_it)
            held = service.orchestrator.bytes_held
            async with service.raw(head + 2 * block) as (reader, _):
                assert await status_of(reader) == 503
            await until(lambda: service.orchestrator.bytes_held == held)
        await until(lambda: service.orchestrator.bytes_held == 0)
        await service.still_serves()

    served(test, {"max_bytes": 1024 * KIB})


def test_h4_a_body_that_never_fits_is_413_and_names_the_bound() -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b"\n".join(event(key, KIB) for key in range(1000)))
        assert answer.status == 413
        assert "max_bytes" in answer.json["error"]
        assert service.orchestrator.bytes_held == 0
        await service.still_serves()

    served(test, {"max_bytes": 640 * KIB})


def test_h4_posts_of_many_slices_fill_max_bytes_and_none_is_taken_in_part() -> None:
    """The slices of a body find the capacity that it was accepted with."""

    async def test(service: Service) -> None:
        taken = 0
        for start in range(0, 1_000_000, 1000):
            answer = await service.post(b"\n".join(event(key, 200) for key in range(start, start + 1000)))
            if answer.status != 202:
                break
            assert answer.counts == (202, 1000, 0)
            taken += 1000
        assert answer.status == 503
        assert service.received == taken
        assert service.orchestrator.bytes_held == 200 * taken
        assert 3 / 4 * 8192 * KIB <= 200 * taken <= 8192 * KIB

    served(test, {"max_bytes": 8192 * KIB})
