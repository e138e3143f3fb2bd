"""Messages whose events have not met their ends, and what the server is told of them."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import TypeAlias

from nats.aio.client import Client
from nats.errors import Error

ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"
TURN = 256
"""Words that are said in one turn of the loop."""
V1 = 9
"""Parts of a reply subject without a domain."""

Identity: TypeAlias = tuple[str, str]
"""A message's sequence in its stream, and when it was stored: a stream made anew counts anew."""


class Held:
    """Acknowledges messages when they are settled, and has the server wait for those that are not.

    Args:
        remembered: Settled messages that are known when they come again, because the word of it was lost.
    """

    def __init__(self, remembered: int) -> None:
        self.ack_wait = 30.0
        self._remembered = remembered
        # where to answer, and when the server last began to count; in order of that
        self._messages: OrderedDict[Identity, tuple[str, float]] = OrderedDict()
        self._settled: OrderedDict[Identity, None] = OrderedDict()
        self._words: deque[tuple[str, bytes]] = deque()
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        """Return how many messages are not settled."""
        return len(self._messages)

    @property
    def unsaid(self) -> int:
        """How much the server has not been told yet."""
        return len(self._words)

    def take(self, reply: str) -> Identity | None:
        """Take note of a message; return its identity, or None for one that is held already, or was settled."""
        tokens = reply.split(".")
        sequence, _, stored = tokens[5:8] if len(tokens) == V1 else tokens[7:10]
        identity = (sequence, stored)
        # not only where the server says that it delivered it before: one that was killed may not know
        if identity in self._settled:
            self._say(reply, ACK)
            return None
        if identity in self._messages:
            self._touch(identity, reply)
            return None
        self._messages[identity] = (reply, time.monotonic())
        return identity

    def forget(self) -> None:
        """Know no settled message any more: they shall come again."""
        self._settled.clear()

    def settle(self, identities: Iterable[Identity]) -> None:
        """Acknowledge messages."""
        for identity in identities:
            message = self._messages.pop(identity, None)
            if message is not None:  # else it was returned
                self._settled[identity] = None
                self._say(message[0], ACK)
        while len(self._settled) > self._remembered:
            self._settled.popitem(last=False)

    def give_back(self, identities: Iterable[Identity] | None = None) -> None:
        """Have messages, or all, delivered again, to whomever, at once."""
        for identity in list(self._messages if identities is None else identities):
            message = self._messages.pop(identity, None)
            if message is not None:
                self._say(message[0], NAK)

    def _touch(self, identity: Identity, reply: str) -> None:
        self._messages[identity] = (reply, time.monotonic())
        self._messages.move_to_end(identity)

    def _say(self, reply: str, word: bytes) -> None:
        if not self._words:
            self._woken.set()
        self._words.append((reply, word))

    # ── said ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def keep(self, client: Client) -> None:
        """Say what there is to say, as long as the connection is not closed."""
        while not client.is_closed:
            tick = asyncio.get_running_loop().call_later(self.ack_wait / 4, self._woken.set)
            await self._woken.wait()
            tick.cancel()
            self._woken.clear()
            if client.is_connected:
                self._progress()
                await self.tell(client)

    def wake(self) -> None:
        """Have `keep` look again: the connection is up."""
        self._woken.set()

    async def tell(self, client: Client) -> None:
        """Say what there is to say, until the connection breaks."""
        words, publish = self._words, client.publish
        while words and client.is_connected:
            for _ in range(min(TURN, len(words))):
                word = words.popleft()
                try:
                    await publish(*word)
                except BaseException as error:
                    words.appendleft(word)
                    if isinstance(error, Error):  # it is not up; what was not said is said when it is
                        return
                    raise
            await asyncio.sleep(0)

    def _progress(self) -> None:
        half = time.monotonic() - self.ack_wait / 2
        due: list[Identity] = []
        for identity, (_, touched) in self._messages.items():
            if touched > half:
                break
            due.append(identity)
        for identity in due:
            reply, _ = self._messages[identity]
            self._touch(identity, reply)
            self._say(reply, PROGRESS)
