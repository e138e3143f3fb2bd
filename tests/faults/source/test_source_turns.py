"""No body holds the loop: rows H1, H3, H4 of the field."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from source_support import Service, ndjson, served

from rxcompact.mappers import key_of

PRIME = (1 << 61) - 1
"""Python hashes integers modulo this."""


async def largest_step(number: Callable[[], int], work: Any) -> int:
    """Do some work; return by how much a number grew at most between two turns of the loop."""
    largest, before = 0, number()
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0)
        largest, before = max(largest, number() - before), number()
    await task
    return largest


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        (b"x\n" * 5000, (400, 0, 5000)),
        (b"[" + b",".join([b"1"] * 5000) + b"]", (400, 0, 5000)),
        (ndjson(*range(5000)), (202, 5000, 0)),
        (ndjson(*range(2000)) + b"\nx" * 3000, (202, 2000, 3000)),
    ],
    ids=["bad lines", "an array of numbers", "good lines", "good, then bad lines"],
)
def test_h3_the_loop_has_its_turn_after_256_events_of_a_body(body: bytes, counts: tuple[int, int, int]) -> None:
    async def test(service: Service) -> None:
        post = asyncio.ensure_future(service.post(body))
        assert 0 < await largest_step(lambda: service.received, post) <= 256
        assert post.result().counts == counts

    served(test)


@pytest.mark.bench
def test_h3_i13_a_form_is_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def unquote(piece: bytes) -> bytes:
        sizes.append(len(piece))
        return unquote_to_bytes(piece)

    monkeypatch.setattr("rxcompact.sources.body.unquote_to_bytes", unquote)
    body = b"x=1&payload=" + quote(ndjson(*range(90_000)) + b"\n").encode().replace(b"5", b"%35") + b"&y=2"

    async def test(service: Service) -> None:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await service.post(BytesIO(body), headers)).counts == (202, 90_000, 0)
        form = b"payload=" + b"%7b" * 1_500_000
        assert (await service.post(BytesIO(form), headers)).status == 400
        assert max(sizes) <= 128 << 10
        assert sum(sizes) > 4_500_000
        assert (await service.post(BytesIO(b"payloads=%7B%7D&" + b"a=1&" * 1_000_000), headers)).status == 415

    served(test)


@pytest.mark.parametrize(("held", "status"), [(0, 413), (5, 503)])
def test_h3_the_loop_has_its_turn_while_the_capacity_for_a_body_is_checked(held: int, status: int) -> None:
    calls = 0

    def key(event: Any) -> Any:
        nonlocal calls
        calls += 1
        return json.loads(event)["id"]

    async def test(service: Service) -> None:
        if held:
            assert (await service.post(ndjson(*range(held)))).status == 202
        post = asyncio.ensure_future(service.post(ndjson(*[*range(5)] * 1000, *range(100, 110))))
        assert 0 < await largest_step(lambda: calls, post) <= 256
        assert post.result().status == status
        assert (await service.post(ndjson(*[*range(5)] * 1000))).status == 202  # it has 5 keys
        assert service.orchestrator.account.distinct == 5

    served(test, {"key_mapper": key, "max_in_flight": 12})


def test_h3_errors_of_bad_lines_are_no_garbage() -> None:
    mapper = key_of("id")
    gc.collect()
    gc.disable()
    try:
        before = Counter(type(each).__name__ for each in gc.get_objects())
        for _ in range(10):
            assert len(mapper.many([b"x", b'{"id":', b"[1]"] * 10).errors) == 30
        after = Counter(type(each).__name__ for each in gc.get_objects())
    finally:
        gc.enable()
    assert after["traceback"] - before["traceback"] < 10


def test_h4_an_event_longer_than_max_event_is_rejected() -> None:
    async def test(service: Service) -> None:
        answer = await service.post(ndjson(1) + b'\n{"id":2,"x":"%s"}\n' % (b"y" * 100) + ndjson(3))
        assert answer.counts == (202, 2, 1)
        assert answer.reasons == [(2, "longer than 100 bytes")]
        assert await service.ids() == [1, 3]

    served(test, max_event=100)


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=100) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
@pytest.mark.bench
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\n".join(b'{"id":%d}' % (k * PRIME + 1) for k in range(30_000)), 202),
        (b'{"id":1,"ts":"%s."}' % (b"0" * 40_000), 202),
        (b"x\n" * 100_000, 400),
        (b"x\n" * 1_000_000, 413),
        (b"[" + b",".join([b"1"] * 100_000) + b"]", 400),
        (b'{"id":1}\n' * 1_900_000, 413),
        (b'{"id":1,"x":"%s"}' % (b"y" * (15 << 20)), 400),
        (b"\n" * (15 << 20) + b'{"id":1}', 202),
    ],
    ids=[
        "equal hashes",
        "a long time",
        "bad lines",
        "many bad lines",
        "numbers",
        "many lines",
        "one large event",
        "blank lines",
    ],
)
def test_h1_to_h4_a_watchdog_finds_the_loop_free(body: bytes, status: int) -> None:
    async def test(service: Service) -> None:
        gc.collect()
        gc.freeze()  # the objects of the tests
        longest, at = 0.0, time.thread_time()
        posting = asyncio.ensure_future(
            asyncio.to_thread(post, service.source.url, gzip.compress(body, 1), {"Content-Encoding": "gzip"})
        )
        while not posting.done():
            await asyncio.sleep(0.001)
            longest, at = max(longest, time.thread_time() - at), time.thread_time()
        assert posting.result() == status
        assert longest < 0.15  # of CPU, measured 10 to 60 ms; some were seconds

    served(test)
