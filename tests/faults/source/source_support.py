"""A pipeline behind an HttpSource, over real sockets on loopback, and a client that posts to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from pipelines import simple_pipeline

from rxcompact import HttpSource, Orchestrator
from rxcompact.events import Compacted, DeadLetter
from rxcompact.signals import Signal

GZIP = {"Content-Encoding": "gzip"}
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


class Answer(NamedTuple):
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.text)
        return body

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.status, self.json["accepted"], self.json["rejected"]

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(error["line"], error["reason"]) for error in self.json["errors"]]


class Service:
    """A client, the pipeline that it posts to, and the output."""

    def __init__(self, client: aiohttp.ClientSession, source: HttpSource, **options: Any) -> None:
        self.client = client
        self.source = source
        self.out: list[Compacted] = []
        self.letters: list[DeadLetter] = []
        self.signals: list[Signal] = []
        self.faults: list[Any] = []  # unhandled exceptions of the loop
        options = {"key_mapper": "id", "timespan": 1000, "max_age": 2000, "sink": self.out.extend} | options
        self.orchestrator = Orchestrator(simple_pipeline(source=source, **options), report=False)
        self.orchestrator.dead_letters.subscribe(self.letters.append)
        self.orchestrator.signals.subscribe(self.signals.append)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))

    @property
    def port(self) -> int:
        return int(self.source.url.split(":")[2].partition("/")[0])

    @property
    def received(self) -> int:
        return self.orchestrator.account.received

    async def ask(self, method: str, path: str = "", **options: Any) -> Answer:
        async with self.client.request(method, self.source.url + path, **options) as response:
            return Answer(response.status, response.headers, await response.text())

    async def post(self, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return await self.ask("POST", data=body, headers=headers)

    async def still_serves(self) -> None:
        """Assert that the next post is served at once."""
        async with asyncio.timeout(60):
            assert (await self.post(b'{"id":"next"}')).status == 202

    @asynccontextmanager
    async def raw(self, request: bytes = b"") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            await writer.drain()
            yield reader, writer
        finally:
            writer.transport.abort()

    async def ids(self) -> list[Any]:
        """Stop; return the ids that were published."""
        await self.orchestrator.stop()
        return [compacted.event["id"] for compacted in self.out]

    def ends(self) -> list[tuple[str, str, str]]:
        """Outcome, stage and reason of each dead letter."""
        return [(letter.outcome, letter.stage, letter.reason) for letter in self.letters]


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of the next answer; only its head is read."""
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1])


async def closed(reader: asyncio.StreamReader) -> None:
    """Wait until the server closes the connection."""
    async with asyncio.timeout(60):
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:  # the server reset it
            pass


@asynccontextmanager
async def serving(pipeline: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Service]:
    async with aiohttp.ClientSession() as client:
        service = Service(client, HttpSource(**({"port": 0} | options)), **(pipeline or {}))
        await service.orchestrator.start()
        try:
            await asyncio.wait_for(service.source.listening(), 60)
            yield service
        finally:
            await service.orchestrator.stop()
        assert service.faults == []
        account = service.orchestrator.account
        assert account.in_flight == 0
        if "sink" not in (pipeline or {}):
            assert account.published == len(service.out)
        assert account.received == account.duplicates + account.distinct + account.rejected


def served(
    test: Callable[[Service], Coroutine[Any, Any, None]], pipeline: dict[str, Any] | None = None, **options: Any
) -> None:
    """Run a test with a new service."""

    async def main() -> None:
        async with serving(pipeline, **options) as service:
            await test(service)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def ndjson(*ids: int) -> bytes:
    return b"\n".join(b'{"id":%d}' % n for n in ids)


async def posting(service: Service, do: Callable[[], Coroutine[Any, Any, object]]) -> tuple[set[int], int]:
    """Post from many connections while ``do`` runs; return the accepted ids, and the number of rejected posts."""
    taken: set[int] = set()
    rejected_posts = 0
    numbers = iter(range(1_000_000))
    over = False

    async def sender() -> None:
        nonlocal rejected_posts
        while not over:
            ids = [next(numbers) for _ in range(5)]
            try:
                answer = await service.post(ndjson(*ids))
            except aiohttp.ClientError:
                rejected_posts += 1
            else:
                if answer.status == 202:
                    taken.update(ids)
                else:
                    assert answer.status == 503
                    assert "Retry-After" in answer.headers
                    rejected_posts += 1
            await asyncio.sleep(0.001)

    senders = [asyncio.create_task(sender()) for _ in range(20)]
    await until(lambda: len(taken) > 100)
    await do()
    await asyncio.sleep(0.1)
    over = True
    await asyncio.gather(*senders)
    return taken, rejected_posts
