"""An HTTP server that limits its connections and closes without leaving any behind; probes and metrics of a run."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web
from aiohttp.http import HttpProcessingError

from rxcompact.contracts import Demand
from rxcompact.sources.body import CLOSE, READ, RequestError

Routes: TypeAlias = Mapping[str, Mapping[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]]]
"""What answers a path and a method."""
LINGER = 1.0  # seconds for which one is kept beyond the limit; closing at once would reset it while its client sends
IDLE = 1.0  # seconds without a request after which a connection may be closed for a new one
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
RECOVERED = 0.2  # share of the capacity that is free when it is ready again after it was full
GRACE = 2.0  # seconds that requests under way may take when the server closes


server_log = logging.getLogger("rxcompact.server")
# the client of a request that is not HTTP got 400, and could flood the log
server_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


def is_authorized(request: web.BaseRequest, credentials: Iterable[bytes]) -> bool:
    """Return whether a request has one of the credentials, in constant time."""
    sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    return any([hmac.compare_digest(sent, each) for each in credentials])  # noqa: C419 - looks at all of them


class Server(web.Server):
    """Serves routes on a limited number of connections.

    For the next one the connection is closed that has been idle the longest, for a second at least. If there is none,
    it gets an answer from a probe, and 503 from all else, and is closed. The head of a request has to be complete
    ``header_timeout`` seconds after the answer before it.
    """

    def __init__(self, routes: Routes, max_connections: int, header_timeout: float, retry_after: int) -> None:
        super().__init__(
            self._track,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=header_timeout,  # which limits the head of a request too
            read_bufsize=READ // 4,
            logger=server_log,
        )
        self._routes, self._max = routes, max_connections
        why = f"more than {max_connections} connections (max_connections)"
        self._rejection = RequestError(503, why, {"Retry-After": str(retry_after), **CLOSE})
        self._listener: asyncio.Server | None = None
        self._idle: dict[web.RequestHandler, float] = {}  # since when, the longest first
        self._extra: dict[web.RequestHandler, asyncio.Transport] = {}  # beyond the limit
        self._requests = 0  # that are not answered yet
        self._answered = asyncio.Event()  # all of them
        self._answered.set()

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port; raise OSError when the address cannot be listened on."""
        self._listener = await self._loop.create_server(self, host, port, reuse_address=True)
        for each in self._listener.sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ)
        return int(self._listener.sockets[0].getsockname()[1])

    @property
    def accepted(self) -> int:
        """How many connections are open, without those beyond the limit."""
        return len([each for each in self._connections if each not in self._extra])

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        now = self._loop.time()
        if self._listener is None:  # accepted while it was closed
            self._loop.call_soon(transport.abort)  # aiohttp does not know a connection that is lost before it has begun
        elif self.accepted < self._max or self._close_idle(now):
            self._idle[handler] = now
        else:
            if len(self._extra) >= self._max:
                self._abort(next(iter(self._extra)))
            self._extra[handler] = transport
            self._loop.call_later(LINGER, self._abort, handler)
        super().connection_made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._idle.pop(handler, None)
        super().connection_lost(handler, exc)

    def _abort(self, handler: web.RequestHandler) -> None:
        if (transport := self._extra.pop(handler, None)) is not None:
            transport.abort()

    def _close_idle(self, now: float) -> bool:
        """Close the connection that has been idle the longest; return whether there was one."""
        handler, since = next(iter(self._idle.items()), (None, now))
        if handler is None or now - since < IDLE:
            return False
        del self._idle[handler]
        handler.force_close()
        return True

    async def _track(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        if connection in self._extra:
            response = await self._answer(request) if request.path in PROBES else self._rejection.response()
            response.force_close()
            return response
        self._idle.pop(connection, None)
        self._requests += 1
        self._answered.clear()
        try:
            return await self._answer(request)
        finally:
            self._requests -= 1
            if not self._requests:
                self._answered.set()
            if connection.transport is not None:
                self._idle[connection] = self._loop.time()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        handlers = self._routes.get(request.path)
        if handlers is None:
            raise web.HTTPNotFound
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise web.HTTPMethodNotAllowed(request.method, handlers)
        if (expected := request.headers.get("Expect")) is not None:
            if expected.lower() != "100-continue":
                raise web.HTTPExpectationFailed
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer has not begun
        return await handler(request)

    async def wait_idle(self) -> None:
        """Wait a moment for the requests under way."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), GRACE)

    async def close(self) -> None:
        """Accept nothing more, and close what is beyond the limit; then the others, when they are answered."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        for handler in list(self._extra):
            self._abort(handler)
        try:
            await self.wait_idle()  # aiohttp reads no more of a body once it closes
            self.pre_shutdown()
            await self.shutdown(GRACE)
        finally:
            for handler in self.connections:
                handler.force_close()


@dataclass
class Probes:
    """Answers ``GET /healthz``, ``/readyz`` and ``/metrics``.

    ``state`` returns "ok", or why no events are taken. It is not ready while what the stage it ``requires`` calls is
    down, nor while it is ``full``: something was rejected for want of capacity, and little of it is free since.
    """

    state: Callable[[], str]
    demand: Callable[[], Demand | None]
    requires: str | None = None
    full: bool = False

    def routes(self) -> Routes:
        handlers = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}
        return {path: {"GET": handler} for path, handler in handlers.items()}

    async def _healthz(self, _: web.BaseRequest) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.BaseRequest) -> web.Response:
        demand = self.demand()
        used = {} if demand is None else demand.used()
        if demand is None or not demand.capacity():
            self.full = True
        elif all(held <= (1 - RECOVERED) * limit for held, limit in used.values()):
            self.full = False
        parts = {"source": self.state(), "capacity": "full" if self.full else "ok"}
        problems = [state for state in parts.values() if state != "ok"]
        for stage, down in (demand.failing() if demand is not None else {}).items():
            parts[stage] = f"down: {', '.join(down)}".rstrip(": ") if down else "ok"
            problems += [f"{stage} is {parts[stage]}"] if down and stage == self.requires else []
        text = problems[0] if problems else "ready"
        if "verbose" in request.query:
            parts["capacity"] += "".join(f", {held} of {limit} held ({name})" for name, (held, limit) in used.items())
            text = "\n".join([*(f"{part}: {state}" for part, state in parts.items()), text])
        return web.Response(text=f"{text}\n", status=503 if problems else 200)

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        if (demand := self.demand()) is None:
            return web.Response(status=503)
        try:
            text, content_type = demand.metrics(request.headers.get("Accept", ""))
        except ImportError:
            return web.Response(status=501, text='metrics need an extra: pip install "rxcompact[metrics]"\n')
        return web.Response(body=text, headers={"Content-Type": content_type})
