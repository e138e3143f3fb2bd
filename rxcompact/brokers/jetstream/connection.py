"""Connections to NATS. They are not renewed: the owner is notified of the end of one, and makes another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.client import PING_PROTO, Client
from nats.errors import ConnectionClosedError

from rxcompact.errors import ArgumentError, TransientError

OPTIONS: Mapping[str, Any] = {
    "reconnect_time_wait": 0.25,
    # a peer that is gone without closing the connection is noticed in half a minute
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "pending_size": 8 << 20,
}
# each server is tried twice; nats-py would reconnect for ever, and report it nowhere
FIXED: Mapping[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1}
CLOSING = 1.0
"""Seconds that closing a connection may take."""


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


class Servers:
    """Where NATS is, and a connection to it.

    Args:
        urls: One or several; they may hold credentials, which are shown nowhere.
        options: Of `nats.connect`.
        failed: Called when a connection is lost, and with what the server refuses without a reply, such as a
            permission.
    """

    connection: Connection | None = None
    """The latest; it may have been lost."""

    def __init__(
        self,
        urls: str | Sequence[str],
        options: Mapping[str, Any] | None = None,
        failed: Callable[[TransientError], object] = bool,
    ) -> None:
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        self._options = {**OPTIONS, **(options or {}), **FIXED}
        self._failed = failed
        self._connecting = asyncio.Lock()
        if not all(self._urls) or not self._urls:
            raise ArgumentError("servers", str(self), "one URL or more")

    async def connect(self) -> Connection:
        """Return the connection; make one where there is none, or raise TransientError."""
        async with self._connecting:
            if self.connection is not None and self.connection.is_connected:
                return self.connection
            client = Connection()
            errors: list[Exception] = []

            def fail(error: Exception) -> None:
                self._failed(TransientError(f"connection to NATS at {self}: {error}"))

            async def on_error(error: Exception) -> None:
                errors.append(error)
                if client.is_connected:
                    fail(error)

            options: dict[str, Any] = self._options | {"error_cb": on_error}
            try:
                await client.connect(self._urls, **options)
            except Exception as error:  # noqa: BLE001 - nats-py lets through whatever the event loop raises
                await client.close()
                cause = errors[0] if errors else error
                raise TransientError(f"no connection to NATS at {self}: {cause}") from cause
            client.lost = fail
            self.connection = client
            return client

    def __str__(self) -> str:
        hosts = (url.rpartition("@")[2].rpartition("//")[2] for url in self._urls)
        return ",".join(host.partition("/")[0].partition("?")[0] for host in hosts)
