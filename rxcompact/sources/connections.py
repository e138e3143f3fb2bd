"""An HTTP server that limits its connections, and closes without leaving any behind."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

from aiohttp import web
from aiohttp.http import HttpProcessingError

LINGER = 1.0
"""Seconds a rejected client has to read the answer; closing at once would reset the connection while it still sends."""
GRACE = 2.0  # seconds that requests under way may take when the server closes


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for a request that is not HTTP: its client got 400, and could flood the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


server_log = logging.getLogger("rxcompact.server")
server_log.addFilter(_is_worth_logging)


class Server:
    """Serves an application on a limited number of connections; the next one gets 503 and is closed.

    Args:
        app: The application.
        max_connections: How many at once.
        header_timeout: Seconds until the head of a request is complete, counted from the answer before it.
        retry_after: Seconds after which a rejected client may retry.
    """

    def __init__(self, app: web.Application, max_connections: int, header_timeout: float, retry_after: int) -> None:
        self._runner = web.AppRunner(
            app,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=header_timeout,  # which limits the head of a request too
            shutdown_timeout=GRACE,
            logger=server_log,
        )
        self._max = max_connections
        body = json.dumps({"status": 503, "error": f"more than {max_connections} connections (max_connections)"})
        self._rejection = (
            f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {retry_after}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self._listener: asyncio.Server | None = None
        self.rejected: set[asyncio.Transport] = set()
        self._requests: set[asyncio.Future[None]] = set()  # done when they are answered

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port; raise OSError when the address cannot be listened on."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(lambda: _Pending(self), host, port, reuse_address=True)
        except OSError:
            await self._runner.cleanup()
            raise
        return int(self._listener.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many were accepted and are open."""
        return len(self._runner.server.connections) if self._runner.server is not None else 0

    def accept(self, transport: asyncio.Transport) -> None:
        """Pass a new connection to the application, or reject it."""
        if self._listener is None or self._runner.server is None:  # accepted while it was closed
            transport.abort()
        elif self.connections < self._max:
            handler = self._runner.server()
            transport.set_protocol(handler)
            handler.connection_made(transport)
        elif len(self.rejected) < self._max:
            self.rejected.add(transport)
            asyncio.get_running_loop().call_later(LINGER, transport.abort)
            transport.write(self._rejection)
            transport.write_eof()
        else:
            transport.abort()

    @contextmanager
    def busy(self) -> Generator[None]:
        """Have `wait_idle` and `close` wait while a request is handled."""
        answered = asyncio.get_running_loop().create_future()
        self._requests.add(answered)
        try:
            yield
        finally:
            self._requests.remove(answered)
            answered.set_result(None)

    async def wait_idle(self) -> None:
        """Wait a moment for the requests under way."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=GRACE)

    def stop_listening(self) -> None:
        """Accept nothing more; what was rejected is closed at once."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        for transport in list(self.rejected):
            transport.abort()

    async def close(self) -> None:
        """Stop listening, wait for the requests under way, and close the connections."""
        self.stop_listening()
        try:
            await self.wait_idle()  # aiohttp reads no more of a body once it closes
            await self._runner.cleanup()
        finally:
            for handler in self._runner.server.connections if self._runner.server is not None else ():
                handler.force_close()


class _Pending(asyncio.Protocol):
    """A connection that is not accepted yet; what it sends is ignored."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.accept(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.rejected.discard(self._transport)
