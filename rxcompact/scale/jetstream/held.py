"""Messages whose events have not met their ends, and what the server is told of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from itertools import repeat
from typing import TypeAlias

from nats.aio.msg import Msg
from nats.errors import Error

from rxcompact.scale.jetstream.connection import Connection

ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"
TURN = 256
"""Words that are said in one turn of the loop."""
V1 = 9
"""Parts of a reply subject without a domain."""

Identity: TypeAlias = str
"""A message's sequence in its stream, and when it was stored: a stream made anew counts anew."""


class Held:
    """Acknowledges messages when they are settled, and has the server wait for those that are not.

    Args:
        remembered: Settled messages, at least, that are known when they come again, because the word of it was lost.
    """

    def __init__(self, remembered: int) -> None:
        self.ack_wait = 30.0
        self._remembered = remembered
        # where to answer, and when the server last began to count; in order of that
        self._messages: dict[Identity, tuple[str, float]] = {}
        # two generations: to forget one is cheaper than to forget messages one by one
        self._settled: set[Identity] = set()
        self._settled_before: set[Identity] = set()
        self._words: deque[tuple[str, bytes]] = deque()
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        """Return how many messages are not settled."""
        return len(self._messages)

    @property
    def unsaid(self) -> int:
        """How much the server has not been told yet."""
        return len(self._words)

    def take(self, messages: Iterable[Msg]) -> list[tuple[Identity, bytes]]:
        """Take note of messages; return the identities and bodies of those that are not held already, nor settled."""
        now = time.monotonic()
        new: list[tuple[Identity, bytes]] = []
        for message in messages:
            reply = message.reply
            tokens = reply.split(".")
            identity = f"{tokens[5]}.{tokens[7]}" if len(tokens) == V1 else f"{tokens[7]}.{tokens[9]}"
            # not only where the server says that it delivered it before: one that was killed may not know
            if identity in self._settled or identity in self._settled_before:
                self._say([reply], ACK)
                continue
            if identity in self._messages:
                self._touch(identity, reply, now)
                continue
            self._messages[identity] = (reply, now)
            new.append((identity, message.data))
        return new

    def forget(self) -> None:
        """Know no settled message any more: they shall come again."""
        self._settled.clear()
        self._settled_before.clear()

    def settle(self, identities: Iterable[Identity]) -> None:
        """Acknowledge messages."""
        messages = self._messages
        settled = [identity for identity in identities if identity in messages]  # the others were returned
        self._say([messages.pop(identity)[0] for identity in settled], ACK)
        self._settled.update(settled)
        if len(self._settled) >= self._remembered:
            self._settled_before, self._settled = self._settled, set()

    def give_back(self, identities: Iterable[Identity] | None = None) -> None:
        """Have messages, or all, delivered again, to whomever, at once."""
        for identity in list(self._messages if identities is None else identities):
            message = self._messages.pop(identity, None)
            if message is not None:
                self._say([message[0]], NAK)

    def _touch(self, identity: Identity, reply: str, now: float) -> None:
        del self._messages[identity]  # to come last
        self._messages[identity] = (reply, now)

    def _say(self, replies: Iterable[str], word: bytes) -> None:
        nothing = not self._words
        self._words.extend(zip(replies, repeat(word)))
        if nothing and self._words:
            self._woken.set()

    # ── said ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def keep(self, client: Connection) -> None:
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

    async def tell(self, client: Connection) -> None:
        """Say what there is to say, until the connection breaks."""
        words = self._words
        while words and client.is_connected:
            said = [words.popleft() for _ in range(min(TURN, len(words)))]
            try:
                await client.publish_many(said)
            except BaseException as error:
                words.extendleft(reversed(said))
                if isinstance(error, Error):  # it is not up; what was not said is said when it is
                    return
                raise
            await asyncio.sleep(0)

    def _progress(self) -> None:
        now = time.monotonic()
        due: list[tuple[Identity, str]] = []
        for identity, (reply, touched) in self._messages.items():
            if touched > now - self.ack_wait / 2:
                break
            due.append((identity, reply))
        for identity, reply in due:
            self._touch(identity, reply, now)
        self._say([reply for _, reply in due], PROGRESS)
