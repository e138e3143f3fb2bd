"""Row S30 of the fault table: slow heads and too many connections, at the server and at the source."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import uvloop
from aiohttp import web
from source_support import HEAD, Service, closed, served, status_of, until

from rxcompact.sources import connections
from rxcompact.sources.connections import Server

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


class Listener:
    """A server, and clients of it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port

    @property
    def accepted(self) -> int:
        return self.server.accepted

    async def connect(self, request: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return reader, writer


@asynccontextmanager
async def listener(max_connections: int, *, header_timeout: float = 60.0) -> AsyncIterator[Listener]:
    async def hello(_: web.BaseRequest) -> web.Response:
        return web.Response(text="hello")

    server = Server(
        {"/": {"GET": hello}}, max_connections=max_connections, header_timeout=header_timeout, retry_after=7
    )
    try:
        yield Listener(server, await server.open("127.0.0.1", 0))
    finally:
        await server.close()


def run(main: object, loop: object) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)


@LOOPS
def test_s30_no_more_than_max_connections_are_accepted_when_all_connect_at_once(loop: object) -> None:
    async def main() -> None:
        async with listener(5) as it:
            connected = await asyncio.gather(*(it.connect(REQUEST) for _ in range(10)))
            statuses = await asyncio.gather(*(status_of(reader) for reader, _ in connected))
            assert sorted(statuses) == [200] * 5 + [503] * 5
            assert it.accepted == 5
            late = await it.connect(REQUEST)  # so many are being rejected that it gets no answer
            await closed(late[0])
            assert it.accepted == 5
            for _, writer in [*connected, late]:
                writer.close()

    run(main(), loop)


@LOOPS
def test_s30_a_rejected_connection_gets_503_with_the_reason_and_retry_after(loop: object) -> None:
    async def main() -> None:
        async with listener(1) as it:
            _, first = await it.connect(REQUEST)
            await until(lambda: it.accepted == 1)
            reader, writer = await it.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
            writer.write(b" " * 100_000)  # it sends before it reads, as clients do
            head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 7" in head
            assert b"\r\nContent-Length: %d" % len(body) in head
            assert json.loads(body) == {"status": 503, "error": "more than 1 connections (max_connections)"}
            writer.close()
            first.close()

    run(main(), loop)


@LOOPS
def test_s30_when_one_closes_another_is_accepted(loop: object) -> None:
    async def main() -> None:
        async with listener(1) as it:
            for _ in range(3):
                reader, writer = await it.connect(REQUEST)
                assert await status_of(reader) == 200
                writer.close()
                await until(lambda: it.accepted == 0)
            _, silent = await it.connect()
            await until(lambda: it.accepted == 1)
            silent.close()
            await until(lambda: it.accepted == 0)
            assert not it.server._idle, "a connection without a request is forgotten too"

    run(main(), loop)


@LOOPS
def test_s30_a_rejected_connection_that_keeps_sending_is_aborted(loop: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER", 0.1)

    async def main() -> None:
        async with listener(1) as it:
            _, first = await it.connect()
            await until(lambda: it.accepted == 1)
            reader, writer = await it.connect(REQUEST)
            assert await status_of(reader) == 503
            async with asyncio.timeout(60):  # it goes on sending
                with pytest.raises((ConnectionError, RuntimeError)):  # of uvloop, where it is known to be closed
                    while True:
                        writer.write(b" " * 1000)
                        await writer.drain()
                        await asyncio.sleep(0.01)
            first.close()

    run(main(), loop)


@LOOPS
def test_s30_a_connection_that_comes_while_the_server_closes_is_aborted_and_nothing_raises(loop: object) -> None:
    async def main() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with listener(1) as it:
            await it.server.close()
            ours, theirs = socket.socketpair()
            with theirs:
                await asyncio.get_running_loop().connect_accepted_socket(it.server, ours)
                await until(lambda: not it.server.connections)
                assert not theirs.recv(1)
        gc.collect()  # an error of a task is reported when it is forgotten
        assert not reported

    run(main(), loop)


@LOOPS
def test_s30_a_server_that_stops_listening_leaves_no_connection(loop: object) -> None:
    async def main() -> None:
        async with listener(1) as it:
            accepted, first = await it.connect(REQUEST)
            await until(lambda: it.accepted == 1)
            rejected, second = await it.connect(REQUEST)
            assert await status_of(rejected) == 503
            closing = asyncio.ensure_future(it.server.close())
            await closed(rejected)  # long before it would be aborted
            assert await status_of(accepted) == 200  # that one is the server's
            with pytest.raises(ConnectionRefusedError):
                await it.connect()
            await closing
            first.close()
            second.close()

    run(main(), loop)


@LOOPS
def test_h5_for_a_newcomer_the_connection_is_closed_that_was_idle_the_longest(
    loop: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE", 0.0)

    async def main() -> None:
        async with listener(3) as it:
            first, second, third = [await it.connect(REQUEST) for _ in range(3)]
            for reader, writer in (first, second, third, first, third):
                assert await status_of(reader) == 200
                await reader.readexactly(5)
                writer.write(REQUEST)
            for reader, _ in (first, second, third):
                assert await status_of(reader) == 200
                await reader.readexactly(5)
            newcomer = await it.connect(REQUEST)
            assert await status_of(newcomer[0]) == 200
            await closed(second[0])
            for reader, writer in (first, third):
                writer.write(REQUEST)
                assert await status_of(reader) == 200
            for _, writer in (first, second, third, newcomer):
                writer.close()

    run(main(), loop)


def test_h5_a_connection_with_a_request_under_way_is_not_closed_and_a_fresh_one_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(service: Service) -> None:
        body = HEAD + b"Content-Length: 8\r\n\r\n"
        async with service.raw(body) as (reader, writer), service.raw():
            await asyncio.sleep(0.1)
            assert (await service.post(b"{}")).status == 503  # both are there for less than a second
            monkeypatch.setattr(connections, "IDLE", 0.0)
            assert (await service.post(b'{"id":2}')).status == 202
            writer.write(b'{"id":1}')
            assert await status_of(reader) == 202

    served(test, max_connections=2)


@LOOPS
def test_s30_a_slow_head_is_closed_after_header_timeout(loop: object) -> None:
    """Also behind a request that was answered; and a connection that sends nothing at all."""

    async def main() -> None:
        async with listener(100, header_timeout=0.3) as it:
            for before in (b"", REQUEST):
                for slow in (b"", b"GET / HTTP/1.1\r\nX-Slow: "):
                    reader, writer = await it.connect(before + slow)
                    began = time.monotonic()
                    reading = asyncio.ensure_future(closed(reader))
                    while not reading.done():
                        if slow:
                            writer.write(b"x")
                        await asyncio.sleep(0.02)
                    assert 0.25 < time.monotonic() - began < 20
                    writer.close()

    run(main(), loop)


def test_s30_errors_are_logged_but_requests_that_are_not_http_are_not(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listener(100) as it:
            for request in (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", HEAD + b"Content-Length: x\r\n\r\n"):
                reader, writer = await it.connect(request)
                assert await status_of(reader) == 400
                writer.close()
            connections.server_log.error("something else", exc_info=ValueError("of ours"))

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    assert [record.message for record in caplog.records if record.name == connections.server_log.name] == [
        "something else"
    ]


# ── the source ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_s30_300_slow_heads_are_closed_and_other_clients_are_served_meanwhile() -> None:
    async def test(service: Service) -> None:
        async with AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(service.raw(HEAD + b"X-Slow: ")) for _ in range(300)]
            async with asyncio.timeout(10):
                # kept alive, it might be closed just when it is used again
                assert (await service.post(b'{"id":1}', {"Connection": "close"})).status == 202
            await asyncio.gather(*(closed(reader) for reader, _ in slow))
        await service.still_serves()

    served(test, header_timeout=1.0)


def test_s30_a_connection_beyond_max_connections_gets_503_and_is_served_when_another_closes() -> None:
    async def test(service: Service) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(20):  # with a request each: without one it may be closed for another, once it is idle
                await stack.enter_async_context(service.raw(HEAD + b"Content-Length: 9\r\n\r\n"))
            answer = await service.post(b'{"id":1}')
            assert (answer.status, answer.headers.get("Retry-After")) == (503, "7")
            assert "max_connections" in answer.json["error"]
            assert service.received == 0

        async def served_again() -> None:
            while (await service.post(b'{"id":1}')).status == 503:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(served_again(), 60)

    served(test, max_connections=20, retry_after=7)


async def probe(service: Service, path: str) -> int:
    async with service.raw(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()) as (reader, _):
        return await status_of(reader)


def test_h5_probes_are_answered_when_all_connections_are_busy_and_more_are_silent() -> None:
    async def test(service: Service) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(20):
                await stack.enter_async_context(service.raw(HEAD + b"Content-Length: 9\r\n\r\n{"))
            for _ in range(100):
                await stack.enter_async_context(service.raw())
            for _ in range(30):  # they close a silent one each
                for path in ("healthz", "readyz", "metrics"):
                    assert await probe(service, path) == 200
            answer = await service.post(b'{"id":1}')
            assert (answer.status, answer.headers["Connection"]) == (503, "close")

    served(test, max_connections=20)


def test_h5_beside_a_thousand_idle_connections_posts_and_probes_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE", 0.05)

    async def test(service: Service) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(1000):
                await stack.enter_async_context(service.raw())
            await asyncio.sleep(0.1)
            async with asyncio.timeout(30):
                assert await probe(service, "healthz") == 200
                for n in range(10):
                    assert (await service.post(b'{"id":%d}' % n, {"Connection": "close"})).status == 202
            assert service.source._server is not None
            assert service.source._server.accepted <= 1000

    served(test)
