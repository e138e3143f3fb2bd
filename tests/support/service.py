"""The service as a process, and a store and an API on loopback with faults."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from rxcompact.signals import Account

ACCOUNT = re.compile(r"(\w+(?: \w+)?) (\d+)(?:, |$)")


class World:
    """An API and a store that remember. ``faults`` is the share of requests that fail, at random."""

    def __init__(self, seed: int = 0) -> None:
        self.dice = random.Random(seed)
        self.down = False
        self.failed = 0  # calls of the API while it was down
        self.faults = 0.0
        self.only = ""  # which of them
        self.gate = asyncio.Event()  # while it is closed, nothing is answered
        self.gate.set()
        self.injected: Counter[str] = Counter()
        self.keys: list[str] = []  # idempotency keys as they came
        self.batches: dict[str, list[Any]] = {}  # by idempotency key
        self.url = ""

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Self]:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_get("/api/{tail:.*}", self._api)
        app.router.add_post("/store", self._store)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def _fault(self, who: str, *faults: str) -> str:
        if self.dice.random() >= self.faults:
            return ""
        fault = self.only or self.dice.choice(faults)
        self.injected[f"{who} {fault}"] += 1
        return fault

    async def _api(self, request: web.Request) -> web.Response:
        if self.down:
            self.failed += 1
            return web.Response(status=503)
        match self._fault("API", "503", "429", "400", "404", "reset", "slow", "garbage", "cut"):
            case "429":
                return web.Response(status=429, headers={"Retry-After": "1"})
            case "503" | "400" | "404" as status:
                return web.Response(status=int(status))
            case "reset":
                _reset(request)
            case "slow":
                await asyncio.sleep(2)
            case "garbage":
                return web.Response(text="<html>")
            case "cut":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b'{"a":')
                _reset(request)
        return web.json_response({"asked": request.path})

    async def _store(self, request: web.Request) -> web.Response:
        rows = [json.loads(line) for line in (await request.read()).splitlines()]
        await self.gate.wait()
        fault = self._fault("store", "503", "429", "413", "reset before", "reset after", "slow", "500 after")
        if fault == "429":
            return web.Response(status=429, headers={"Retry-After": "1"})
        if fault in ("503", "413"):
            return web.Response(status=int(fault))
        if fault == "reset before":
            _reset(request)
            return web.Response()
        if fault == "slow":
            await asyncio.sleep(1)
        key = request.headers["Idempotency-Key"]
        self.keys.append(key)
        self.batches[key] = rows
        if fault == "reset after":
            _reset(request)
        return web.Response(status=500 if fault == "500 after" else 200)

    def stored(self) -> list[Any]:
        return [row for rows in self.batches.values() for row in rows]


def _reset(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()  # type: ignore[attr-defined]


@asynccontextmanager
async def serve(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rxcompact", "serve", "--listen=127.0.0.1:0", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    try:
        line = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
        assert line.startswith("listening on "), line
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(process: asyncio.subprocess.Process) -> Account:
    """The account in the last line, which balances."""
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert b"Traceback" not in errors, errors.decode()
    assert b"never retrieved" not in errors, errors.decode()
    last = errors.decode().splitlines()[-1]
    account = Account(**{name.replace(" ", "_"): int(number) for name, number in ACCOUNT.findall(last)})
    assert balances(account)
    return account


def balances(account: Account) -> bool:
    """Whether every event has its outcome, once."""
    ends = account.published + account.expired + account.failed + account.dropped + account.abandoned
    return (
        account.received == account.duplicates + account.distinct + account.rejected
        and account.distinct == ends
        and account.in_flight == 0
    )


def resident(process: asyncio.subprocess.Process) -> int:
    """Bytes of memory that a process has."""
    (line,) = (
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return int(line.split()[1]) * 1024
