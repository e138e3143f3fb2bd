"""Requests for messages: always some ahead, so that none is waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from nats.aio.client import Client

from rxcompact.errors import TransientError

EXPIRES = 10.0
"""Seconds for which the server remembers a request."""
GRACE = 0.5
PAUSE = 1.0
"""Seconds before the next request, when the server refused one."""
OVERHEAD = 64 * 1024
"""Bytes of a message beside its body."""
HEARTBEAT, TIMEOUT, NOT_FOUND, CONFLICT = "100", "408", "404", "409"
PASSING = {"Message Size Exceeds MaxBytes", "Batch Completed", "Leadership Change", "Server Shutdown"}
"""Conflicts that end a request, and nothing else."""


class Pulls:
    """What the server was asked for and has not sent yet.

    Args:
        stream: The stream.
        consumer: The consumer.
        prefetch: Messages asked for at once.
        max_bytes: Bytes asked for at once.
    """

    def __init__(self, stream: str, consumer: str, prefetch: int, max_bytes: int) -> None:
        self.inbox = ""
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._prefetch = prefetch
        self._max_bytes = max_bytes
        self._outstanding = 0
        self._low = 0  # with no more than so many outstanding more are asked for
        self._idle = False  # nothing came since the last request
        self._error: Exception | None = None
        self._woken = asyncio.Event()

    def begin(self, client: Client) -> None:
        """Use a connection that is new."""
        self.inbox = client.new_inbox()
        # no message must be too long to be ever sent
        self._max_bytes = max(self._max_bytes, client.max_payload + OVERHEAD)

    def wake(self) -> None:
        """Have `wait` return."""
        self._woken.set()

    def forget(self) -> None:
        """Ask anew: the server has forgotten what it was asked for."""
        self._outstanding = 0
        self._error = None
        self._woken.set()

    def fail(self, error: Exception) -> None:
        """Have `wait` raise it."""
        self._error = error
        self._woken.set()

    async def ask(self, client: Client, room: int) -> None:
        """Ask for as many messages as there is room for, less what was asked for."""
        wanted = min(self._prefetch, max(1, room))
        if self._outstanding > wanted // 2 or not client.is_connected:
            return
        batch = wanted - self._outstanding
        self._low = wanted // 2
        self._outstanding += batch
        self._idle = True
        request = {"batch": batch, "max_bytes": self._max_bytes, "expires": int(EXPIRES * 1e9)}
        await client.publish(self._subject, json.dumps(request).encode(), reply=self.inbox)

    async def wait(self) -> None:
        """Wait until it may be time to ask for more.

        Raises:
            Exception: what `fail` was told.
        """
        try:
            async with asyncio.timeout(EXPIRES + GRACE):
                await self._woken.wait()
        except TimeoutError:  # not even that the request expired was heard
            self._outstanding = 0
        self._woken.clear()
        if self._error is not None:
            raise self._error

    def arrived(self, messages: int) -> None:
        """Take note of messages."""
        self._idle = False
        self._outstanding = max(0, self._outstanding - messages)
        if self._outstanding <= self._low:
            self._woken.set()

    def status(self, headers: Mapping[str, str]) -> None:
        """Take note of what the server says of a request.

        Source: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md
        """
        status, description = headers.get("Status"), headers.get("Description", "")
        if status == HEARTBEAT:
            return
        if status not in (TIMEOUT, NOT_FOUND) and not (status == CONFLICT and description in PASSING):
            self.fail(TransientError(f"the server sends no messages: {status} {description}".rstrip()))
            return
        left = headers.get("Nats-Pending-Messages", "")
        self._outstanding = max(0, self._outstanding - int(left)) if left.isdigit() else 0
        if status != TIMEOUT and self._idle:  # not again and again at once
            asyncio.get_running_loop().call_later(PAUSE, self._woken.set)
        else:
            self._woken.set()
