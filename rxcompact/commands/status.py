"""What a service shows of itself: that it is ready, probes and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from rxcompact.brokers.source import BrokerSource
from rxcompact.commands.common import address, note
from rxcompact.commands.workers import worker
from rxcompact.contracts import Source
from rxcompact.errors import ArgumentError
from rxcompact.orchestrator import Orchestrator
from rxcompact.sources.connections import Server
from rxcompact.sources.http import HttpSource
from rxcompact.sources.probes import Probes

MAX_CONNECTIONS, TIMEOUT = 100, 75.0


async def ready_text(source: Source) -> str:
    """Return what there is to report when a source is ready."""
    if isinstance(source, HttpSource):
        await source.listening()
        return f"listening on {source.url}"
    if isinstance(source, BrokerSource):
        await source.bound()
    return f"consuming {source!r}"


@asynccontextmanager
async def status(orchestrator: Orchestrator, ready: asyncio.Future[Any], place: str | None) -> AsyncGenerator[None]:
    """Answer probes and metrics meanwhile."""
    if place is None:
        yield
        return

    def state() -> str:
        if orchestrator.state != "running":
            return orchestrator.state
        return "ok" if ready.done() else "starting"

    host, port = address("--status", place)
    app = web.Application()
    app.add_routes(Probes(state, lambda: orchestrator.demand).routes())
    server = Server(app, MAX_CONNECTIONS, TIMEOUT, retry_after=1)
    try:
        port = await server.open(host, port + (worker() if port else 0))
    except OSError as error:
        raise ArgumentError("--status", place, f"free ({error})") from None
    note(f"status on http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        yield
    finally:
        await server.close()
