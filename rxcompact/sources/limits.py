"""What an HTTP server does with connections that are too many, and requests that are none."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import cast

from aiohttp import web
from aiohttp.http import HttpProcessingError

LINGER = 1.0
"""Seconds in which who is turned away may read why; closed at once, what it still sends would reset the connection."""


class Door:
    """Listens for a server and lets so many connections in at once; one more is answered 503, and closed.

    Args:
        runner: What serves who is let in, set up.
        max_connections: How many at once.
        retry_after: Seconds after which who is turned away should come again.
    """

    def __init__(self, runner: web.BaseRunner, *, max_connections: int, retry_after: int) -> None:
        self._runner = runner
        self._max = max_connections
        body = json.dumps({"status": 503, "error": f"more than {max_connections} connections (max_connections)"})
        self._answer = (
            f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {retry_after}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self._listener: asyncio.Server | None = None
        self._leaving: dict[asyncio.Transport, asyncio.TimerHandle] = {}

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port.

        Raises:
            OSError: when it cannot.
        """
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Visitor(self), host, port, reuse_address=True)
        return int(self._listener.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Listen no more; who was let in is the server's."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        for transport in list(self._leaving):
            transport.abort()

    def enter(self, transport: asyncio.Transport) -> None:
        """Let a connection in, or turn it away."""
        server = self._runner.server
        if self._listener is None or server is None:  # accepted while it was closed
            transport.abort()
        elif len(server.connections) < self._max:
            handler = server()
            transport.set_protocol(handler)
            handler.connection_made(transport)
        elif len(self._leaving) < self._max:
            self._leaving[transport] = asyncio.get_running_loop().call_later(LINGER, transport.abort)
            transport.write(self._answer)
            transport.write_eof()
        else:
            transport.abort()

    def left(self, transport: asyncio.Transport) -> None:
        """Forget a connection that was turned away."""
        if timer := self._leaving.pop(transport, None):
            timer.cancel()


class _Visitor(asyncio.Protocol):
    """A connection that was accepted and not let in yet; what it sends meanwhile is not looked at."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._door.enter(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._door.left(self._transport)


def _worth_telling(record: logging.LogRecord) -> bool:
    """Tell whether it is of more than a request that is no HTTP: who sent that is told, and a log could be flooded."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


server_log = logging.getLogger("rxcompact.server")
"""The log of an aiohttp server, for its ``logger``."""
server_log.addFilter(_worth_telling)
