"""An aiohttp application on a port: opened, and closed so that nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from aiohttp import web

from rxcompact.sources.limits import Door, server_log

GRACE = 2.0
"""Seconds in which requests that are on their way may end when the server closes."""


class Server:
    """Serves an application until it is closed.

    Args:
        app: What answers.
        max_connections: How many at once; one more is answered 503.
        header_timeout: Seconds until the head of a request has come, counted from the answer before it.
        retry_after: Seconds after which who is turned away should come again.
    """

    def __init__(self, app: web.Application, *, max_connections: int, header_timeout: float, retry_after: int) -> None:
        self._runner = web.AppRunner(
            app,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=header_timeout,  # which is the time that a head may take, too
            shutdown_timeout=GRACE,
            logger=server_log,
        )
        self._door = Door(self._runner, max_connections=max_connections, retry_after=retry_after)
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port.

        Raises:
            OSError: when it cannot.
        """
        await self._runner.setup()
        try:
            return await self._door.open(host, port)
        except OSError:
            await self._runner.cleanup()
            raise

    @contextmanager
    def answering(self) -> Generator[None]:
        """Have the closing wait, while this lasts."""
        self._answering += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    async def close(self) -> None:
        """Listen no more, let what is being answered end, and close what is left."""
        self._door.close()
        try:
            # aiohttp takes in no more of a body once it is told to close
            await asyncio.wait({asyncio.ensure_future(self._idle.wait())}, timeout=GRACE)
            await self._runner.cleanup()
        finally:
            for handler in self._runner.server.connections if self._runner.server is not None else ():
                handler.force_close()
