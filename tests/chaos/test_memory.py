"""Row H4: whatever comes, a service takes no more memory than `max_bytes` and 150 MB. Each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

MIB = 1 << 20
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
ALLOWED = 150_000_000  # besides max_bytes
OPEN = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)  # connections


def in_real_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **options: Any) -> None:
        asyncio.run(test(*args, **options))

    return run


class Served:
    """A service as a process, whose sink takes connections and never answers."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, max_bytes: int) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rsplit(":", 1)[1].strip("/"))
        self.max_bytes = max_bytes

    def peak(self) -> int:
        """Return the most memory that the process ever had, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024

    async def check(self) -> None:
        """Assert that it lives, and what it has ever taken."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}healthz") as response:
            assert response.status == 200
        print(f"peak {self.peak() / 1e6:.0f} MB, max_bytes {self.max_bytes / 1e6:.0f} MB")  # noqa: T201 - for the note
        assert self.peak() <= self.max_bytes + ALLOWED


@asynccontextmanager
async def serve(*options: str, max_bytes: int = 256 * MIB) -> AsyncIterator[Served]:
    held: set[asyncio.StreamWriter] = set()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.add(writer)
        with suppress(asyncio.CancelledError):  # at the end of the loop
            await asyncio.sleep(3600)

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as store:
        place = f"http://127.0.0.1:{store.sockets[0].getsockname()[1]}/"
        given = ["--listen=127.0.0.1:0", "--key=id", "--timespan=1", "--max-age=1h", "--deadline=1"]
        command = [sys.executable, "-m", "rxcompact", "serve", *given, f"--publish={place}", f"--dead-letters={place}"]
        process = await asyncio.create_subprocess_exec(
            *command, f"--max-bytes={max_bytes}", *options, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(60):
                while not (found := re.search(rb"listening on (\S+)", await process.stderr.readline())):
                    pass
            drained = asyncio.create_task(process.stderr.read())
            yield Served(process, found[1].decode(), max_bytes)
        finally:
            process.kill()
            await process.wait()
        await drained
        for writer in held:
            writer.transport.abort()
        await asyncio.sleep(0)


def ndjson(first: int, number: int, **fields: Any) -> bytes:
    return b"\n".join(json.dumps({"id": first + n} | fields).encode() for n in range(number))


async def post_until_full(served: Served, body: Any) -> int:
    """Post bodies until ten in a row got 503; return how many were taken."""
    taken = refused = number = 0
    async with aiohttp.ClientSession() as session:
        while refused < 10:
            async with session.post(served.url, data=body(number)) as response:
                assert response.status in (202, 400, 503), await response.text()
                refused = refused + 1 if response.status == 503 else 0
                taken += response.status != 503
                number += 1
            if refused:
                await asyncio.sleep(0.2)  # windows close
    return taken


async def opened(port: int, request: bytes, body: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
        writer.write(body)
        await writer.drain()
    return writer


@in_real_time
async def test_h4_ten_thousand_connections_take_little_memory() -> None:
    async with serve() as served:
        writers = [await opened(served.port, HEAD + b"X-Slow: ", b"x" * 4000) for _ in range(OPEN)]
        await served.check()
        for writer in writers:
            writer.transport.abort()


@in_real_time
async def test_h4_a_thousand_unfinished_bodies_take_no_more_than_max_bytes() -> None:
    body = b'{"id":"xxxxxxxxxxx"}\n' * (MIB // 20)
    async with serve() as served:
        opening = [opened(served.port, HEAD + b"Content-Length: 15000000\r\n\r\n", body) for _ in range(1000)]
        writers = await asyncio.wait_for(asyncio.gather(*opening), 300)
        await served.check()
        for writer in writers:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (100, {"text": "x" * 10_000}),
        (5000, {"text": "x" * 100}),
        (1000, {f"field{n}": n for n in range(50)}),
    ],
    ids=["texts", "small", "many fields"],
)
@in_real_time
async def test_h4_a_sink_that_hangs_takes_no_more_than_max_bytes(number: int, fields: Any) -> None:
    async with serve() as served:
        assert await post_until_full(served, lambda turn: ndjson(turn * number, number, **fields)) > 0
        await served.check()


@pytest.mark.timeout(300)
@in_real_time
async def test_h4_a_million_bad_lines_take_little_memory() -> None:
    body = b"x" * 30 + b"\n"
    async with serve("--dead-letters=/dev/null") as served:
        async with aiohttp.ClientSession() as session:
            for _ in range(20):  # a body has at most 100,000 events
                async with session.post(served.url, data=BytesIO(body * 50_000)) as response:
                    assert response.status == 400
        await served.check()
