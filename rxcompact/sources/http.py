"""Events that are posted over HTTP."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import ClientError, web
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.acks import Ack, Chunk
from rxcompact.clock import count, seconds
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import ArgumentError
from rxcompact.reader.items import items_path
from rxcompact.sources import body
from rxcompact.sources.body import CLOSE, Answer, Counts, Part, RequestError, in_slices
from rxcompact.sources.connections import Probes, Server, is_authorized

MIB = 1024 * 1024
SUCCESS = range(200, 300)


@dataclass(kw_only=True, eq=False, repr=False)
class HttpSource:
    """A server that takes events by POST: JSON in every shape, compressed or not.

    The answer is 202 with counts when a body was taken, its bad lines rejected; 400 when no line of it was good; 503
    with Retry-After without capacity. A body of chunks that goes on for more than a second is taken as it comes. PUT is
    taken as POST, and of a form the field ``payload``. Where ``path`` ends in ``/_bulk`` bodies and answers are those
    of Elasticsearch. ``/healthz``, ``/readyz`` and ``/metrics`` are answered until all that it took is settled.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one, which `url` names.
        path: Path of the posts.
        items: The path to the lists of events in each object: ``"alerts"``, ``"streams[].values[]"``. An object without
            such a list is rejected.
        token: Bearer token that senders must send.
        basic: User and password that senders must send.
        max_body: Bytes of the largest body, decompressed.
        max_event: Bytes of the largest event; a larger one is rejected.
        max_events: Events of the largest body.
        body_timeout: Seconds a body may take; of one that is taken as it comes, the silence in it.
        header_timeout: Seconds the head of a request may take, and a connection may be idle before it.
        max_connections: How many at once. For the next one the longest idle is closed; while there is none it gets 503.
            Probes are answered all the same.
        strict: Answer 400 to a body with any bad line, and take none of it.
        retry_after: Seconds after which a rejected sender may retry.
        success_status: Status of a body that was taken; 200 for senders that take 202 for a failure.
        ready_requires: A stage, such as "publish": ``/readyz`` is 503 while what it calls is down. By default it is
            ready then, since to hold events meanwhile is what it is for.
        linger: Seconds for which ``/metrics`` answers after the drain, for a last scrape.

    Raises:
        ArgumentError: for an argument out of range.
    """

    raw = True

    host: str = "127.0.0.1"
    port: int = 8080
    path: str = "/"
    items: str | None = None
    token: str | None = None
    basic: tuple[str, str] | None = None
    max_body: int = 16 * MIB
    max_event: int = 2 * MIB
    max_events: int = 100_000
    body_timeout: float = 30.0
    header_timeout: float = 75.0
    max_connections: int = 1000
    strict: bool = False
    retry_after: int = 1
    success_status: int = 202
    ready_requires: str | None = None
    linger: float = 0.0

    def __post_init__(self) -> None:
        self._bulk = self.path.endswith("/_bulk")
        for name in ("max_body", "max_event", "max_events", "max_connections"):
            count(name, getattr(self, name))
        for name, allowed, expected in (
            ("port", 0 <= self.port < 1 << 16, "from 0 to 65535"),
            ("path", self.path.startswith("/") and not set(self.path) & set("{}?#"), "a path that begins with '/'"),
            ("items", not self._bulk or self.items is None, "left out where the path ends in /_bulk"),
            ("token", self.token != "", "not empty"),
            ("retry_after", self.retry_after >= 0, "at least 0"),
            ("success_status", self.success_status in SUCCESS, "from 200 to 299"),
        ):
            if not allowed:
                raise ArgumentError(name, getattr(self, name), expected)
        self.body_timeout = seconds("body_timeout", self.body_timeout)
        self.header_timeout = seconds("header_timeout", self.header_timeout)
        self.linger = seconds("linger", self.linger, zero=True)
        self._reading: dict[str, Any] = {
            "body_timeout": self.body_timeout,
            "items": () if self.items is None else items_path(self.items),
            "max_body": self.max_body,
            "max_event": self.max_event,
            "max_events": self.max_events * (1 + self._bulk),  # with a line more for each
            "dead_letters": not self._bulk,
        }
        self._credentials = [f"Bearer {self.token}".encode()] if self.token is not None else []
        if self.basic is not None:
            self._credentials.append(b"Basic " + b64encode(":".join(self.basic).encode()))
        self._draining = False
        self._probes = Probes(self._state, lambda: self._demand, self.ready_requires)
        self.requests: Counter[int] = Counter()  # posts that were answered, by status
        self._server: Server | None = None
        self._observer: ObserverBase[list[Any]] | None = None
        self._demand: Demand | None = None
        self._listening = asyncio.Event()
        self._pushing = asyncio.Lock()
        self._changing = asyncio.Lock()  # of the server, in the order of the calls
        self._change: asyncio.Future[None] | None = None

    @property
    def url(self) -> str:
        """URL of the posts; the port is known once it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.path}"

    name = url

    def _state(self) -> str:
        return "draining" if self._draining else "starting" if self._observer is None else "ok"

    async def listening(self) -> None:
        await self._listening.wait()

    def stream(self, demand: Demand) -> Observable[list[Any]]:
        """Return the posted events, a chunk a body.

        Errors:
            OSError: when it cannot listen.
        """

        def subscribe(observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
            self._observer, self._demand, self._draining = observer, demand, False
            self._change = asyncio.ensure_future(self._open(observer))

            def dispose() -> None:
                self._observer = None
                self._listening.clear()
                if not self._draining:  # else `release` closes it
                    self._change = asyncio.ensure_future(self._close())

            return Disposable(dispose)

        return Observable(subscribe)

    async def _open(self, observer: ObserverBase[list[Any]]) -> None:
        async with self._changing:
            if self._server is None:
                routes = {self.path: {"POST": self._post, "PUT": self._post}, **self._probes.routes()}
                server = Server(routes, self.max_connections, self.header_timeout, self.retry_after)
                try:
                    self.port = await server.open(self.host, self.port)
                except Exception as error:  # noqa: BLE001 - whatever it is, the source has failed
                    observer.on_error(error)
                    return
                self._server = server
            self._listening.set()

    async def aclose(self) -> None:
        """Take no more events, but those of the requests under way; probes and metrics are answered until `release`."""
        self._draining = True
        if self._server is not None:
            await self._server.wait_idle()

    async def release(self) -> None:
        """Stop listening; awaited when everything is settled."""
        try:
            await asyncio.sleep(self.linger)
        finally:
            await self._close()

    async def _close(self) -> None:
        async with self._changing:
            server, self._server = self._server, None
            self._listening.clear()
            if server is not None:
                await server.close()

    async def _post(self, request: web.BaseRequest) -> Answer:
        demand, held = self._demand or UNBOUNDED, 0

        def hold(size: int) -> None:
            nonlocal held
            if not demand.hold(size - held):
                if size > demand.used()["max_bytes"][1]:
                    raise RequestError(413, "the body takes more than can be held at all (max_bytes)", CLOSE)
                raise self._no_capacity(demand, "max_bytes", **CLOSE)
            held = size

        try:
            response = await self._take(request, demand, hold)
        except RequestError as error:
            response = error.response()
        finally:
            demand.hold(-held)
        self.requests[response.status] += 1
        return response

    async def _take(self, request: web.BaseRequest, demand: Demand, hold: Callable[[int], None]) -> Answer:
        """Take all of a body, or nothing, but of one that goes on. The loop has its turn between slices."""
        if self._draining or self._server is None:
            raise self._unavailable("stopping")
        if self._credentials and not is_authorized(request, self._credentials):
            raise RequestError(401, "credentials", {"WWW-Authenticate": "Bearer, Basic"})
        counts = Counts()
        span = demand.span(request.headers)
        ack = None if span is None else Ack(lambda _: None, span=span)
        # without a length it may be endless, so far as is known
        is_live = request.content_length is None and not self._bulk and not self.strict
        live = partial(self._push_live, counts=counts, demand=demand, ack=ack) if is_live else None
        try:
            parts = await body.read_parts(request, hold, live, **self._reading)
        except (ConnectionError, ClientError):  # the client is gone: nobody reads this answer, nothing was taken
            raise RequestError(400, "cut off") from None
        if self._bulk:
            counts = bulk = body.BulkCounts()
            parts = await bulk.events_of(parts)
        if self.strict and (malformed := await body.count_malformed(parts)).rejected:
            malformed.accepted = 0
            return malformed.response(400)
        async with self._pushing:  # the capacity that a body finds is its own
            observer = self._observer
            new = sum([len(part.events) for part in parts])
            if new > demand.capacity() and not await _accepted(parts, demand):
                if demand.capacity() == demand.limit:
                    why = f"more distinct events than can be held at all: {demand.limit} (max_in_flight)"
                    raise RequestError(413, why)
                used = demand.used()
                raise self._no_capacity(demand, max(used, key=lambda name: used[name][0] / used[name][1]))
            async for part in in_slices(parts):
                if observer is None or self._observer is not observer:
                    raise self._unavailable("stopping")
                _emit(part, counts, observer, ack)
        is_bad = counts.rejected and not counts.accepted
        return counts.response(counts.status or (400 if is_bad else self.success_status))

    async def _push_live(self, part: Part, counts: Counts, demand: Demand, ack: Ack | None) -> None:
        """Push events of a body that goes on, as there is capacity; nothing more is read meanwhile."""
        events = part.events
        while events:
            capacity = min(await demand.wait(), body.STEP)
            async with self._pushing:
                if self._observer is None:
                    break
                _emit(Part(events[:capacity], part.position), counts, self._observer, ack)
            events = events[capacity:]
        if self._draining or self._observer is None:
            raise self._unavailable("stopping", **CLOSE)

    def _unavailable(self, why: str, **headers: str) -> RequestError:
        return RequestError(503, why, {"Retry-After": str(self.retry_after), **headers})

    def _no_capacity(self, demand: Demand, bound: str, **headers: str) -> RequestError:
        self._probes.full = True
        held, limit = demand.used()[bound]
        return self._unavailable(f"no capacity: {held} of {limit} are held ({bound})", **headers)


def _emit(part: Part, counts: Counts, observer: ObserverBase[list[Any]], ack: Ack | None) -> None:
    chunk = Chunk(part.events, ack)
    observer.on_next(chunk)
    counts.add(part, ((letter.event, letter.error) for letter in chunk.rejected))


async def _accepted(parts: list[Part], demand: Demand) -> bool:
    """Return whether there is capacity for the distinct events of a body."""
    keys: set[Any] = set()
    async for part in in_slices(parts):
        if not demand.accepts(part.events, keys):
            return False
    return True
