"""Connections to NATS: made in a few tries, then kept up; nothing secret is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from loguru import logger
from nats.aio.client import PING_PROTO, Client
from nats.errors import ConnectionClosedError, Error

from rxcompact.errors import ArgumentError, TransientError

OPTIONS: Mapping[str, Any] = {
    "reconnect_time_wait": 0.25,
    # a peer that is gone without a word is noticed in half a minute
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "pending_size": 8 << 20,
}
ONCE: Mapping[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1}
LASTING: Mapping[str, Any] = {"allow_reconnect": True, "max_reconnect_attempts": -1}
DELIVERED = b"$JS.ACK."
"""What the replies to messages of a consumer begin with."""

Callback = Callable[[], Awaitable[None]]


class Connection(Client):
    """A client that takes and publishes many short messages at the cost of a few; there is no public way to do it.

    Attributes:
        deliver: Called with the reply and the body of what a pull consumer sends, instead of a subscription's callback.
    """

    deliver: Callable[[bytes, bytes], object]

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # without what the queue and the task of a subscription cost, which is more than all that is done with a message
        if reply.startswith(DELIVERED):
            self.deliver(reply, data)
        else:
            await super()._process_msg(sid, subject, reply, data, headers)

    async def publish_many(self, subjects: Sequence[bytes], body: bytes) -> None:
        """Publish the same to each of many subjects that are valid.

        Raises:
            ConnectionClosedError: when it is not connected; then nothing was sent.
        """
        if not self.is_connected:
            raise ConnectionClosedError
        rest = b" %d\r\n%b\r\n" % (len(body), body)
        # what `publish` does in three coroutines a message
        await self._send_command(b"PUB " + (rest + b"PUB ").join(subjects) + rest)
        await self._flush_pending()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py's is ahead of what waits to be sent, and its answer, which `flush` waits for, word of nothing: what
        # the server has not read when the connection is closed may be lost
        self._pongs.append(future or asyncio.Future())
        await self._send_command(PING_PROTO)
        await self._flush_pending()


class Servers:
    """Where NATS is, and how to log in.

    Args:
        urls: One or several; they may hold credentials, which are shown nowhere.
        options: Of `nats.connect`, such as ``user_credentials``, ``token`` or ``tls``.

    Raises:
        ArgumentError: without any URL.
    """

    def __init__(self, urls: str | Sequence[str], options: Mapping[str, Any] | None) -> None:
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        self._options = {**OPTIONS, **(options or {})}
        if not all(self._urls) or not self._urls:
            raise ArgumentError("servers", str(self), "one URL or more")

    async def connect(self, *, reconnected: Callback | None = None, closed: Callback | None = None) -> Connection:
        """Return a connection that is renewed by itself.

        Args:
            reconnected: Called when it was.
            closed: Called when it will not be any more.

        Raises:
            TransientError: when there is none.
        """
        errors: list[Exception] = []

        async def failed(error: Exception) -> None:
            errors[:] = [error]
            logger.debug("NATS at {}: {!r}", self, error)

        client = Connection()
        callbacks: dict[str, Any] = {"error_cb": failed, "reconnected_cb": reconnected, "closed_cb": closed}
        try:
            # twice to each, and whoever subscribes is told; cut short from without it might go on: nats-py swallows
            # cancellations
            await client.connect(self._urls, **{**callbacks, **self._options, **ONCE})
        except (OSError, Error) as error:
            await client.close()
            cause = errors[0] if errors else error
            raise TransientError(f"no connection to NATS at {self}: {cause}") from cause
        client.options.update({**LASTING, **self._options})
        return client

    def __str__(self) -> str:
        return ",".join(_shown(url) for url in self._urls)


def _shown(url: str) -> str:
    """Return the host and port of a URL."""
    return url.rpartition("@")[2].rpartition("//")[2].partition("/")[0].partition("?")[0]
