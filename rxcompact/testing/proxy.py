"""A TCP proxy on loopback that cuts, resets, slows and swallows what it passes on."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress
from typing import Self


def free_port() -> int:
    """Return a port that no outgoing connection is given meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as taken, suppress(OSError):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            return port


class Proxy:
    """Passes bytes on between clients and the server at a port, `target`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.resets_after: int | None = None  # replies of the server
        self.delay = 0.0  # of each part; then parts are small
        self.is_hole = False
        self.accepted = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        pair = {writer}
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            pair.add(to_server)
            self._writers |= pair
            copies = [self._copy(reader, to_server), self._copy(from_server, writer, self.resets_after)]
            _, rest = await asyncio.wait(map(asyncio.ensure_future, copies), return_when=asyncio.FIRST_COMPLETED)
            for copy in rest:
                copy.cancel()
        for each in pair:
            each.close()
        self._writers -= pair

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None = None) -> None:
        with suppress(OSError, RuntimeError):
            while limit is None or limit > 0:
                if not (data := await reader.read(512 if self.delay else 65536)):
                    return
                await asyncio.sleep(self.delay)
                while self.is_hole:
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
                limit = None if limit is None else limit - 1
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection without a FIN."""
    with suppress(Exception):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
