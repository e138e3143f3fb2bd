"""Rows 5 and 7: events in over HTTP, from a body to the distinct ones; CPU of the server alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import ours
import reactivex as rx
from aiohttp import web
from lines import keys_of
from measuring import Case, Group, Spent, Target
from peers import go_program
from reactivex.abc import DisposableBase
from reactivex.subject import Subject

from rxcompact import HttpSource
from rxcompact import operators as rxo
from rxcompact.acks import Chunk
from rxcompact.contracts import UNBOUNDED

MOST, MOST_BYTES = 1000, 16 << 20
CLIENT = Path(__file__).with_name("client.py")
Server = Callable[[], Any]
"""An async context manager that gives the port, and a function that counts the distinct events."""


class Key(msgspec.Struct):
    id: str


of_line = msgspec.json.Decoder(Key)
the_key = attrgetter("id")


def compacted(source: rx.Observable[Any], flushes: Subject[None], closed: list[int]) -> DisposableBase:
    """Compact what comes until it is flushed; note how many distinct events a window has."""
    compact = rxo.compact(ours.FOREVER, key_mapper="id", chunked=True, fields=("first_seen",), flushes=flushes)
    return source.pipe(compact).subscribe(lambda window: closed.append(len(window)))


@asynccontextmanager
async def http_source():
    flushes: Subject[None] = Subject()
    closed: list[int] = []
    source = HttpSource(port=0)
    subscription = compacted(source.stream(UNBOUNDED), flushes, closed)
    await source.listening()

    async def held() -> int:
        flushes.on_next(None)
        return sum(closed)

    try:
        yield int(source.url.split(":")[2].rstrip("/")), held
    finally:
        subscription.dispose()
        await source.aclose()


@asynccontextmanager
async def with_promises():
    """The least that keeps what `HttpSource` promises of a post, in front of the same compaction.

    Bounds of connections, of a body's time and bytes, of the bytes and the distinct events that are held (503); lines
    that are objects alone; an answer with the counts of what was taken and what compaction rejected.
    """
    flushes: Subject[None] = Subject()
    events: Subject[Any] = Subject()
    closed: list[int] = []
    subscription = compacted(events, flushes, closed)

    def answer(status: int, body: Any) -> web.Response:
        return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")

    async def post(request: web.BaseRequest) -> web.Response:
        if len(server.connections) > MOST:
            return answer(503, {"error": "too many connections"})
        body = request.content.read_nowait()
        if not request.content.is_eof():
            async with asyncio.timeout(30.0):
                while (block := await request.content.readany()) and len(body) <= MOST_BYTES:
                    body += block
        if len(body) > MOST_BYTES:
            return answer(413, {"error": "too large"})
        lines = body.rstrip(b"\n").split(b"\n")
        chunk = Chunk([line for line in lines if line.startswith(b"{")])
        if not UNBOUNDED.hold(2 * len(body)) or not UNBOUNDED.accepts(chunk):
            return answer(503, {"error": "no capacity"})
        try:
            events.on_next(chunk)
        finally:
            UNBOUNDED.hold(-2 * len(body))
        rejected = len(chunk.rejected) + len(lines) - len(chunk)
        return answer(202, {"accepted": len(lines) - rejected, "rejected": rejected})

    async def held() -> int:
        flushes.on_next(None)
        return sum(closed)

    server = web.Server(post, access_log=None)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], held
    finally:
        listener.close()
        await server.shutdown(1)
        subscription.dispose()


@asynccontextmanager
async def handler(take: Callable[[dict[str, bytes], bytes], int]):
    """A handler on aiohttp that answers the same, and nothing more."""
    first: dict[str, bytes] = {}

    async def post(request: web.Request) -> web.Response:
        taken = take(first, await request.read())
        answer = msgspec.json.encode({"accepted": taken, "rejected": 0})
        return web.Response(status=202, body=answer, content_type="application/json")

    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/", post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def held() -> int:
        return len(first)

    try:
        yield runner.addresses[0][1], held
    finally:
        await runner.cleanup()


def many(first: dict[str, bytes], body: bytes) -> int:
    """Decode the key alone, keep the line."""
    found = of_line.decode_lines(body)
    deque(map(first.setdefault, map(the_key, found), body.split(b"\n")), maxlen=0)
    return len(found)


def one(first: dict[str, bytes], body: bytes) -> int:
    first.setdefault(of_line.decode(body).id, body)
    return 1


async def _served(server: Server, posts: int, events: int) -> Spent:
    async with server() as (port, held):
        client = await asyncio.create_subprocess_exec(
            sys.executable, CLIENT, str(port), str(posts), str(events), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdin is not None
        assert client.stdout is not None
        await client.stdout.readline()
        cpu, wall = time.process_time(), time.perf_counter()
        client.stdin.write(b"go\n")
        line = await client.stdout.readline()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        _check(line, await held(), posts, events)
        await client.communicate(b"\n")
        return Spent(cpu, wall)


def _check(line: bytes, held: int, posts: int, events: int) -> None:
    if line != b"done\n":
        raise AssertionError("the client failed")
    if held != (keys := len(set(keys_of(posts * events)))):
        raise AssertionError(f"{held} distinct events, not {keys}")


def in_python(_: Any, server: Server, posts: int, events: int, *, fast: bool) -> Spent:
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if fast:
        import uvloop

        factory = uvloop.new_event_loop
    work: Awaitable[Spent] = _served(server, posts, events)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def in_go(_: Any, posts: int, events: int) -> Spent:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([str(go_program()), "serve"], **pipes) as service:
        port = service.stdout.readline().strip().decode()
        arguments = [sys.executable, str(CLIENT), port, str(posts), str(events)]
        with subprocess.Popen(arguments, **pipes) as client:
            client.stdout.readline()
            before, _ = _asked(service)
            client.stdin.write(b"go\n")
            client.stdin.flush()
            line = client.stdout.readline()
            after, held = _asked(service)
            client.communicate(b"\n")
        service.communicate()
    _check(line, int(held), posts, events)
    return Spent(after - before, 0.0)


def _asked(service: Any) -> tuple[float, float]:
    service.stdin.write(b"\n")
    service.stdin.flush()
    cpu, held = service.stdout.readline().split()
    return float(cpu), float(held)


def intake(posts: int, singles: int) -> list[Group]:
    """Posts of 1,000 events, and of one."""
    return [
        _group("5", "HTTP in, posts of 1,000 events", posts, 1000, many, 1.3, least=False),
        _group("7", "HTTP in, posts of one event", singles, 1, one, 0.85, least=True),
    ]


def _group(row: str, name: str, posts: int, events: int, take: Any, limit: float, *, least: bool) -> Group:
    cases: list[Case] = []
    targets: list[Target] = []
    for fast in (False, *([True] if find_spec("uvloop") else [])):
        suffix = ", uvloop" if fast else ""
        mine, bare = f"HttpSource and compact{suffix}", f"aiohttp handler, key alone{suffix}"
        floor = f"web.Server by hand, with the promises{suffix}"
        for title, server in ((bare, partial(handler, take)), (floor, with_promises), (mine, http_source)):
            run = partial(in_python, server=server, posts=posts, events=events, fast=fast)
            cases.append(Case(title, run, posts * events))
        targets += [Target(row, mine, bare, limit, least=least), Target(row, mine, floor, 1.15)]
    if go_program() is not None:
        go = "Go, net/http and encoding/json"
        cases.append(Case(go, partial(in_go, posts=posts, events=events), posts * events))
        targets += [Target(row, "HttpSource and compact", go, 0.2)] if events > 1 else []
    return Group(name, cases, targets)
