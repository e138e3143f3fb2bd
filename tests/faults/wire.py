"""A scripted peer: raw sockets on loopback that answer, cut, reset, trickle or stay silent."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from loguru import logger

CLOSE = "Connection: close\r\n"
_length = re.compile(rb"(?i)content-length: *(\d+)")


@dataclass
class Connection:
    """An accepted connection; each turn answers one of its requests."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: bytes = b""
    """The request to answer, head and body."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close it without a FIN."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Turn = Callable[[Connection], Awaitable[bool]]
"""Answers a request; returns whether the connection is kept."""


def responds(data: bytes, *, keeps: bool = True) -> Turn:
    async def turn(connection: Connection) -> bool:
        await connection.send(data)
        return keeps

    return turn


def closes(data: bytes = b"") -> Turn:
    return responds(data, keeps=False)


def resets(data: bytes = b"") -> Turn:
    async def turn(connection: Connection) -> bool:
        if data:
            await connection.send(data)
            await asyncio.sleep(0.02)  # a reset overtakes data in flight
        connection.reset()
        return False

    return turn


def trickles(head: bytes, *, every: float) -> Turn:
    """Send a head, then a byte of a body now and then, for ever."""

    async def turn(connection: Connection) -> bool:
        await connection.send(head)
        while True:
            await connection.send(b" ")
            await asyncio.sleep(every)

    return turn


def pours(head: bytes, block: bytes, blocks: int) -> tuple[Turn, list[int]]:
    """Send a head and many blocks; return the turn, and the number of bytes sent so far."""
    sent = [0]

    async def turn(connection: Connection) -> bool:
        await connection.send(head)
        for _ in range(blocks):
            await connection.send(block)
            sent[0] += len(block)
        return False

    return turn, sent


async def silence(connection: Connection) -> bool:
    await connection.reader.read()  # until the client closes
    return False


def answer(body: bytes | str = b"{}", status: str = "200 OK", headers: str = "") -> bytes:
    """Return a whole answer."""
    body = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Peer:
    """A peer, and the requests that it received."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    """Each request, head and body."""
    times: list[float] = field(default_factory=list)
    """When each came, in the loop's seconds."""
    connections: int = 0


@asynccontextmanager
async def peer(*turns: Turn, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """Listen; the first request gets the first turn, and so on, and every further one the last."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve_connection(connection: Connection) -> None:
        keeps = True
        try:
            while keeps:
                head = await connection.reader.readuntil(b"\r\n\r\n")
                length = _length.search(head)
                body = await connection.reader.readexactly(int(length[1]) if length else 0)
                connection.request = head + body
                it.requests.append(connection.request)
                it.times.append(asyncio.get_running_loop().time())
                keeps = await turns[min(len(it.requests), len(turns)) - 1](connection)
            connection.writer.close()
            await connection.writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            connection.writer.transport.abort()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        it.connections += 1
        task = asyncio.create_task(serve_connection(Connection(reader, writer)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    it = Peer(f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield it
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """A port that accepts no connection: its queue is full, and further attempts are dropped."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(listening.getsockname())
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


@asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    """A port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def wire_test(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine in real time, on a loop on which nothing may be left unhandled."""

    @wraps(test)
    def run(**arguments: Any) -> None:
        faults: list[Any] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
            await test(**arguments)

        asyncio.run(main())
        assert faults == []

    return run


@contextmanager
def errors_logged() -> Iterator[list[str]]:
    """Yield a list of the errors that the library logs."""
    errors: list[str] = []
    sink = logger.add(lambda message: errors.append(message.record["message"]), level="ERROR")
    try:
        yield errors
    finally:
        logger.remove(sink)
