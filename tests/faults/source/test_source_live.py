"""Bodies without an end, as of ``kubectl logs -f | curl -T -``: row W7."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from source_support import HEAD, Service, served, status_of, until

from rxcompact.sources import body

CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LIVE", 0.05)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def line(number: int) -> bytes:
    return b'{"id":%d}\n' % number


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_w7_lines_are_taken_as_they_come_and_counted_at_the_end(method: str) -> None:
    async def test(service: Service) -> None:
        async def lines() -> AsyncIterator[bytes]:
            for number in range(20):
                yield line(number)[:5]
                await asyncio.sleep(0.02)
                yield line(number)[5:]
                if number >= 10:  # each is there before the next one comes
                    await until(lambda number=number: service.received == number + 1)  # type: ignore[misc]
            yield b"broken\n"
            yield b'{"id":"last"}'  # without an end

        answer = await service.ask(method, data=lines())
        assert answer.counts == (202, 21, 1)
        assert await service.ids() == [*range(20), "last"]

    served(test)


def test_w7_a_body_of_chunks_that_ends_soon_is_taken_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LIVE", 60)

    async def test(service: Service) -> None:
        async with service.raw(CHUNKED + chunk(line(1))):
            await asyncio.sleep(0.2)
            assert service.received == 0

        async def lines() -> AsyncIterator[bytes]:
            yield line(1)
            await asyncio.sleep(0.1)
            assert service.received == 0
            yield line(2)

        assert (await service.post(lines())).counts == (202, 2, 0)

    served(test)


def test_w7_body_timeout_counts_silence() -> None:
    async def test(service: Service) -> None:
        async with service.raw(CHUNKED) as (reader, writer):
            for number in range(12):  # three times the time limit in all
                writer.write(chunk(line(number)))
                await asyncio.sleep(0.1)
            assert await status_of(reader) == 408
        assert await service.ids() == list(range(12))

    served(test, body_timeout=0.4)


def test_w7_lines_without_an_end_are_no_life() -> None:
    async def test(service: Service) -> None:
        async with service.raw(CHUNKED + chunk(line(0))) as (reader, writer):
            answer = asyncio.ensure_future(status_of(reader))
            while not answer.done():
                writer.write(chunk(b" "))
                await asyncio.sleep(0.02)
            assert await answer == 408
        assert await service.ids() == [0]

    served(test, body_timeout=0.4)


def test_w7_without_capacity_nothing_is_read_and_nothing_rejected() -> None:
    gate = asyncio.Event()
    out: list[int] = []

    async def sink(batch: Any) -> None:
        await gate.wait()
        out.extend(c.event["id"] for c in batch)

    async def test(service: Service) -> None:
        sent = 0

        async def lines() -> AsyncIterator[bytes]:
            nonlocal sent
            yield line(0)
            await asyncio.sleep(0.2)
            for number in range(1, 4_000, 100):
                yield b"".join(b'{"id":%d,"pad":"%b"}\n' % (n, b"x" * 5000) for n in range(number, number + 100))
                sent += 100

        posting = asyncio.ensure_future(service.post(lines()))
        await until(lambda: service.received >= 50)
        await asyncio.sleep(1)  # longer than the time limit
        assert sent < 3_900
        assert service.received <= 50
        assert not posting.done()
        gate.set()
        assert (await posting).counts == (202, 4_001, 0)
        await service.orchestrator.stop()
        assert sorted(out) == list(range(4_001))

    served(test, {"max_in_flight": 50, "timespan": 0.01, "batch_timespan": 0.01, "sink": sink}, body_timeout=0.5)


@pytest.mark.parametrize("seed", range(5))
def test_w7_of_a_stream_that_is_cut_each_complete_line_is_taken_once(seed: int) -> None:
    dice = random.Random(seed)

    async def test(service: Service) -> None:
        complete: list[int] = []
        for start in range(0, 300, 100):  # the client connects again
            text = b"".join(map(line, range(start, start + 100)))
            text = text[: dice.randrange(200, len(text))]
            complete += [json.loads(each)["id"] for each in text.split(b"\n")[:-1]]
            async with service.raw(CHUNKED) as (_, writer):
                at = 0
                while at < len(text):
                    end = at + dice.randrange(1, 120)
                    writer.write(chunk(text[at:end]))
                    await asyncio.sleep(0.01)
                    at = end
                await until(lambda: service.received == len(complete))
        assert await service.ids() == complete

    served(test)


def test_w7_a_stream_ends_with_503_when_the_source_drains() -> None:
    async def test(service: Service) -> None:
        async with service.raw(CHUNKED + chunk(line(1))) as (reader, writer):
            await until(lambda: service.received == 1)
            writer.write(chunk(line(2)))
            await until(lambda: service.received == 2)
            stopping = asyncio.ensure_future(service.orchestrator.stop())
            assert await status_of(reader) == 503
            await stopping
        assert [c.event["id"] for c in service.out] == [1, 2]

    served(test)


def test_w7_a_gzip_bomb_in_a_stream_is_held_in_bounds() -> None:
    import tracemalloc
    import zlib

    async def test(service: Service) -> None:
        packer = zlib.compressobj(wbits=31)
        async with service.raw(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")) as (reader, writer):
            writer.write(chunk(packer.compress(line(1)) + packer.flush(zlib.Z_SYNC_FLUSH)))
            await until(lambda: service.received == 1)
            bomb = packer.compress(b" " * 100_000_000) + packer.flush()
            tracemalloc.start()
            try:
                writer.write(chunk(bomb) + b"0\r\n\r\n")
                assert await status_of(reader) in (202, 413)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 60_000_000
        await service.still_serves()

    served(test)


@pytest.mark.debian
def test_w7_curl_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LIVE", 1.0)
    curl = shutil.which("curl") or pytest.skip("curl is not here")

    async def test(service: Service) -> None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            curl, "-sS", "-T", "-", service.source.url, stdin=pipe, stdout=pipe
        )
        assert process.stdin is not None
        for number in range(8):
            process.stdin.write(line(number))
            await asyncio.sleep(0.3)
        await until(lambda: service.received == 8)
        process.stdin.close()
        output, _ = await process.communicate()
        assert json.loads(output) == {"accepted": 8, "rejected": 0}

    served(test, body_timeout=1.5)


def test_w7_strict_bodies_and_those_with_a_length_are_taken_as_a_whole() -> None:
    async def test(service: Service) -> None:
        async def lines() -> AsyncIterator[bytes]:
            yield line(1)
            await asyncio.sleep(0.3)
            yield b"broken\n"

        assert (await service.post(lines())).status == 400
        data = line(1) + line(2)
        async with service.raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + line(1)) as (reader, writer):
            await asyncio.sleep(0.3)
            assert service.received == 0
            writer.write(line(2))
            assert await status_of(reader) == 202

    served(test, strict=True)
