"""A connection to NATS. It is not renewed: the owner is notified of its end, and makes another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.client import PING_PROTO, Client
from nats.errors import ConnectionClosedError

OPTIONS: Mapping[str, Any] = {
    "reconnect_time_wait": 0.25,
    # a peer that is gone without closing the connection is noticed in half a minute
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "pending_size": 8 << 20,
}
# each server is tried twice; nats-py would reconnect for ever, and report it nowhere
FIXED: Mapping[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1}
CLOSING = 1.0  # seconds that closing a connection may take


class Connection(Client):
    """A client that receives and publishes many short messages at the cost of a few; nats-py has no public way to."""

    lost: Callable[[Exception], object] | None = None
    """Called once, when it is closed by anything but `close`."""

    def __init__(self) -> None:
        super().__init__()
        # by subscription, what is called with reply, body and headers of messages that have a reply, not its callback
        self.deliver: dict[int, Callable[[bytes, bytes, bytes], object]] = {}

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # without the queue and the task of a subscription, which cost more than all that is done with a message
        if reply and sid in self.deliver:
            self.deliver[sid](reply, data, headers)
        else:
            await super()._process_msg(sid, subject, reply, data, headers)

    async def publish_many(self, subjects: Sequence[bytes], body: bytes) -> None:
        """Publish the same to each of many subjects that are valid; `publish` costs three coroutines a message."""
        if not self.is_connected:
            raise ConnectionClosedError
        rest = b" %d\r\n%b\r\n" % (len(body), body)
        await self._send_command(b"PUB " + (rest + b"PUB ").join(subjects) + rest)
        await self._flush_pending()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py's overtakes what waits to be sent, so that its answer, which `flush` waits for, confirms nothing
        self._pongs.append(future or asyncio.Future())
        await self._send_command(PING_PROTO)
        await self._flush_pending()

    async def _read_loop(self) -> None:
        await self._or_close(super()._read_loop())

    async def _flusher(self) -> None:
        await self._or_close(super()._flusher())

    async def _or_close(self, running: Coroutine[Any, Any, None]) -> None:
        """Close, when a task of nats-py ended on an error that it does not handle."""
        await running
        task = asyncio.current_task()
        if self.is_connected and task is not None and not task.cancelling():
            await self._process_op_err(ConnectionResetError("connection lost"))

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # what could not be sent would raise once more; whoever closes has flushed
        self._pending, self._pending_data_size = [], 0
        lost, self.lost = self.lost, None
        if lost is not None:  # before it is closed, which may take its time
            lost(self._err or ConnectionResetError("closed"))
        await super()._close(status, do_cbs)

    async def close(self) -> None:
        """Close it, in a second at most: after a failed TLS handshake nats-py waits for ever."""
        self.lost = None
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await super().close()
