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
    """A client, the pipeline that it posts to, and what comes out of it."""

    def __init__(self, client: aiohttp.ClientSession, source: HttpSource, **options: Any) -> None:
        self.client = client
        self.source = source
        self.out: list[Compacted] = []
        self.letters: list[DeadLetter] = []
        self.signals: list[Signal] = []
        self.faults: list[Any] = []  # what nobody handled
        options = {"key_mapper": "id", "timespan": 1000, "max_age": 2000, "sink": self.out.extend} | options
        self.orchestrator = Orchestrator(simple_pipeline(source=source, **options), wait=lambda _: 0.05, report=False)
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
        """Whatever happened before, the next one is served, at once."""
        async with asyncio.timeout(5):
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
        """What came out, once all has."""
        await self.orchestrator.stop()
        return [compacted.event["id"] for compacted in self.out]

    def ends(self) -> list[tuple[str, str, str]]:
        """Of the dead letters."""
        return [(letter.outcome, letter.stage, letter.reason) for letter in self.letters]


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of the answer that comes next; its head is read, its body is not."""
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1])


async def closed(reader: asyncio.StreamReader) -> None:
    """Wait until the server closes the connection."""
    async with asyncio.timeout(5):
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:  # it has reset it
            pass


@asynccontextmanager
async def serving(pipeline: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Service]:
    async with aiohttp.ClientSession() as client:
        service = Service(client, HttpSource(**({"port": 0} | options)), **(pipeline or {}))
        await service.orchestrator.start()
        try:
            await asyncio.wait_for(service.source.listening(), 5)
            yield service
        finally:
            await service.orchestrator.stop()
        assert service.faults == []
        account = service.orchestrator.account
        assert account.in_flight == 0
        assert account.published == len(service.out)
        assert account.received == account.duplicates + account.distinct + account.rejected


def served(
    test: Callable[[Service], Coroutine[Any, Any, None]], pipeline: dict[str, Any] | None = None, **options: Any
) -> None:
    """Run a test with a service of its own."""

    async def main() -> None:
        async with serving(pipeline, **options) as service:
            await test(service)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def ndjson(*ids: int) -> bytes:
    return b"\n".join(b'{"id":%d}' % n for n in ids)


async def posting(service: Service, do: Callable[[], Coroutine[Any, Any, object]]) -> tuple[set[int], int]:
    """Post from many connections while something is done; return what was taken, and how often it was not."""
    taken: set[int] = set()
    refused = 0
    numbers = iter(range(1_000_000))
    over = False

    async def sender() -> None:
        nonlocal refused
        while not over:
            ids = [next(numbers) for _ in range(5)]
            try:
                answer = await service.post(ndjson(*ids))
            except aiohttp.ClientError:
                refused += 1
            else:
                if answer.status == 202:
                    taken.update(ids)
                else:
                    assert answer.status == 503
                    assert "Retry-After" in answer.headers
                    refused += 1
            await asyncio.sleep(0.001)

    senders = [asyncio.create_task(sender()) for _ in range(20)]
    await until(lambda: len(taken) > 100)
    await do()
    await asyncio.sleep(0.1)
    over = True
    await asyncio.gather(*senders)
    return taken, refused
