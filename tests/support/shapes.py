"""A server on loopback that keeps what it is sent, and answers as a function has it."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from aiohttp import web

import rxcompact
from rxcompact.events import Batch, Compacted

PAGE = (Path(rxcompact.__file__).parent / "manual" / "stores.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Got:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass
class Server:
    url: str = ""
    got: list[Got] = field(default_factory=list)


Answer = tuple[int, Any]
"""A status, and a body: bytes, text, or what is sent as JSON."""


@asynccontextmanager
async def answering(
    answer: Callable[[Got], Answer] | Answer = (200, {}),
    *,
    kind: str = "application/json",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    server = Server()

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        got = Got(request.method, request.raw_path, dict(request.headers), body)
        server.got.append(got)
        status, content = answer(got) if callable(answer) else answer
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        data = content.encode() if isinstance(content, str) else content
        return web.Response(status=status, body=data, content_type=kind)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", r"/{tail:[\s\S]*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def batch(*events: Any) -> Batch:
    """Return these events, each its own key, born at 1,700,000,000 and seen twice, five seconds apart."""
    return Batch(Compacted(number, event, 2, 1.7e9, 1.7e9 + 5) for number, event in enumerate(events))


async def publish(sink: Any, events: Sequence[Compacted]) -> Any:
    """Publish a batch; return the sink's answer, or what it raised."""
    try:
        async with asyncio.timeout(60):
            return await sink.publish(events)
    except Exception as error:
        return error
    finally:
        await sink.aclose()


def real_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine on a loop whose time passes."""

    @wraps(test)
    def run(*args: Any, **options: Any) -> None:
        asyncio.run(test(*args, **options))

    return run


def recipes(**changes: str) -> dict[str, Any]:
    """Return what the page of the manual defines, with other addresses."""
    code = "\n".join(BLOCK.findall(PAGE))
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {"__name__": "recipes"}
    exec(code, names)
    return names
