"""A real NATS server with file storage, of which nothing is left behind."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.events import DeadLetter
from rxcompact.signals import SourceFailed

STREAM, CONSUMER = "IN", "workers"


def missing(name: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing")
    pytest.skip(f"{name} is not here")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Server:
    """A broker; may be killed and started again. It is up when its log says so."""

    def __init__(self, command: list[str], log: Path, ready: str) -> None:
        self._command = command
        self._log = log
        self._ready = ready
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        before = self._starts()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while self._starts() == before:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)

    def _starts(self) -> int:
        return len(re.findall(self._ready, self._log.read_text())) if self._log.exists() else 0

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class NatsServer(Server):
    """nats-server on a port of its own, with its store in a folder."""

    def __init__(self, binary: str, folder: Path, *flags: str) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        place = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(folder / "store")]
        super().__init__([binary, *place, *flags], folder / "nats.log", "Server is ready")


class Gate:
    """A sink that may be shut; it says whether it is being asked."""

    def __init__(self, out: list[Any]) -> None:
        self.out = out
        self.open = asyncio.Event()
        self.asked = asyncio.Event()

    async def __call__(self, batch: Any) -> None:
        self.asked.set()
        await self.open.wait()
        self.out.extend(batch)


class Pipelines:
    """Pipelines that take from a broker, and what becomes of what they take."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.out: list[Any] = []
        self.letters: list[DeadLetter] = []
        self.failures: list[SourceFailed] = []
        self.faults: list[Any] = []  # what nobody handled
        self.sources: list[Any] = []
        self.orchestrators: list[Orchestrator] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))

    def source(self, **options: Any) -> Any:
        raise NotImplementedError

    def pipeline(self, *, source: dict[str, Any] | None = None, **options: Any) -> Orchestrator:
        self.sources.append(self.source(**(source or {})))
        settings = {"key_mapper": "id", "timespan": 0.2, "max_age": 60, "batch_timespan": 0.05, "sink": self.out.extend}
        orchestrator = Orchestrator(
            simple_pipeline(source=self.sources[-1], **(settings | options)), wait=lambda _: 0.1
        )
        orchestrator.dead_letters.subscribe(self.letters.append)
        orchestrator.signals.subscribe(lambda it: self.failures.append(it) if isinstance(it, SourceFailed) else None)
        self.orchestrators.append(orchestrator)
        return orchestrator

    def ids(self) -> list[Any]:
        return [compacted.event["id"] for compacted in self.out]


class Rig(Pipelines):
    """A stream to take from."""

    def __init__(self, client: Any, url: str) -> None:
        super().__init__(url)
        self.stream = client.jetstream()

    def source(self, **options: Any) -> Any:
        from rxcompact.brokers.jetstream import JetStreamSource

        return JetStreamSource(self.url, stream=STREAM, consumer=CONSUMER, **options)

    async def send(self, *bodies: Any) -> None:
        for body in bodies:
            await self.stream.publish("in.a", body if isinstance(body, bytes) else json.dumps(body).encode())

    async def send_events(self, numbers: range) -> None:
        """Send a message each, again and again until the server has it."""
        left = set(numbers)
        while left:
            sent = {
                number: await self.stream.publish_async(
                    "in.a", b'{"id": %d}' % number, headers={"Nats-Msg-Id": str(number)}
                )
                for number in left
            }
            done, _ = await asyncio.wait(sent.values(), timeout=1)
            left = {number for number, future in sent.items() if future not in done or future.exception()}

    async def info(self) -> Any:
        return await self.stream.consumer_info(STREAM, CONSUMER)

    async def pending(self) -> tuple[int, int]:
        """Return how many messages wait for delivery, and how many for an acknowledgement."""
        info = await self.info()
        return info.num_pending, info.num_ack_pending

    async def settles(self, *, waiting: int = 0, unacknowledged: int = 0, seconds: float = 10) -> None:
        """Wait until the consumer has come to so many; and that it stays there for a moment."""
        from nats.errors import Error

        found = None
        async with asyncio.timeout(seconds):
            same = 0
            while same < 3:
                try:
                    found = await self.pending()
                except Error:  # not there yet, or the server is not
                    found = None
                same = same + 1 if found == (waiting, unacknowledged) else 0
                await asyncio.sleep(0.03)


@asynccontextmanager
async def rigged(url: str) -> AsyncIterator[Rig]:
    import nats

    client = await nats.connect(url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=_ignored)
    rig = Rig(client, url)
    try:
        await rig.stream.add_stream(name=STREAM, subjects=["in.>"])
        yield rig
        for orchestrator in rig.orchestrators:
            await orchestrator.stop()
            assert orchestrator.account.in_flight == 0
    finally:
        for orchestrator in rig.orchestrators:
            await orchestrator.stop(0.5)
        await client.close()
    assert rig.faults == []


async def _ignored(_: Exception) -> None: ...


@pytest.fixture
def nats_binary() -> str:
    if importlib.util.find_spec("nats") is None:
        missing("nats-py")
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    return shutil.which("nats-server", path=path) or missing("nats-server")


@pytest.fixture
def make_server(nats_binary: str, tmp_path: Path) -> Iterator[Any]:
    servers: list[NatsServer] = []

    def make(*flags: str) -> NatsServer:
        servers.append(NatsServer(nats_binary, tmp_path, *flags))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def server(make_server: Any) -> NatsServer:
    started: NatsServer = make_server()
    started.start()
    return started


@pytest.fixture
def with_rig(server: NatsServer) -> Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]:
    def run(test: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with rigged(server.url) as rig:
                await test(rig)

        asyncio.run(main())

    return run


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[Any]:
    if importlib.util.find_spec("redis") is None:
        missing("redis")
    from .redis_support import RedisServer

    binary = shutil.which("redis-server") or missing("redis-server")
    servers: list[RedisServer] = []

    def make(*flags: str) -> RedisServer:
        servers.append(RedisServer(binary, tmp_path, *flags))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def redis_server(make_redis: Any) -> Any:
    started = make_redis()
    started.start()
    return started


@pytest.fixture
def with_redis(redis_server: Any) -> Callable[[Callable[[Any], Coroutine[Any, Any, None]]], None]:
    from .redis_support import rigged

    def run(test: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with rigged(redis_server.url) as rig:
                await test(rig)

        asyncio.run(main())

    return run
