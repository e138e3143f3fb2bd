"""Connections to NATS: made in a few tries, then kept up; nothing secret is told of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from loguru import logger
from nats.aio.client import Client
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

Callback = Callable[[], Awaitable[None]]


class Connection(Client):
    """A client that publishes many short messages at the cost of a few."""

    async def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish messages, which are pairs of a subject that is valid and a body.

        Raises:
            ConnectionClosedError: when it is not connected; then none of them was sent.
        """
        if not self.is_connected:
            raise ConnectionClosedError
        # what `publish` does in three coroutines a message; there is no public way to do it for many
        block = b"".join([b"PUB %b %d\r\n%b\r\n" % (to.encode(), len(body), body) for to, body in messages])
        await self._send_command(block)
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
