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
from aiohttp import web
from lines import keys_of
from measuring import Case, Group, Spent, Target
from peers import go_program
from reactivex.subject import Subject

from rxcompact import HttpSource
from rxcompact import operators as rxo
from rxcompact.contracts import UNBOUNDED

CLIENT = Path(__file__).with_name("client.py")
Server = Callable[[], Any]
"""An async context manager that gives the port, and a function that counts the distinct events."""


class Key(msgspec.Struct):
    id: str


of_line = msgspec.json.Decoder(Key)
the_key = attrgetter("id")


@asynccontextmanager
async def http_source():
    flushes: Subject[None] = Subject()
    closed: list[int] = []
    source = HttpSource(port=0)
    subscription = (
        source.stream(UNBOUNDED)
        .pipe(rxo.compact(ours.FOREVER, key_mapper="id", chunked=True, fields=("first_seen",), flushes=flushes))
        .subscribe(lambda window: closed.append(len(window)))
    )
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
async def handler(take: Callable[[dict[str, bytes], bytes], object]):
    """A handler on aiohttp, and nothing more."""
    first: dict[str, bytes] = {}

    async def post(request: web.Request) -> web.Response:
        take(first, await request.read())
        return web.Response(status=202)

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


def many(first: dict[str, bytes], body: bytes) -> None:
    """Decode the key alone, keep the line."""
    keys = map(the_key, of_line.decode_lines(body))
    deque(map(first.setdefault, keys, body.split(b"\n")), maxlen=0)


def one(first: dict[str, bytes], body: bytes) -> None:
    first.setdefault(of_line.decode(body).id, body)


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
        for title, server in ((bare, partial(handler, take)), (mine, http_source)):
            run = partial(in_python, server=server, posts=posts, events=events, fast=fast)
            cases.append(Case(title, run, posts * events))
        targets.append(Target(row, mine, bare, limit, least=least))
    if go_program() is not None:
        go = "Go, net/http and encoding/json"
        cases.append(Case(go, partial(in_go, posts=posts, events=events), posts * events))
        targets += [Target(row, "HttpSource and compact", go, 0.2)] if events > 1 else []
    return Group(name, cases, targets)
