"""Messages whose events have not met their ends, and what the server is told of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat, takewhile
from typing import TypeAlias

from nats.errors import Error

from rxcompact.brokers.jetstream.connection import Connection

WORDS = ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"
TURN = 256
"""Words that are said in one turn of the loop."""
V1 = 9
"""Parts of a reply subject without a domain."""

Identity: TypeAlias = bytes
"""A message's sequence in its stream, and when it was stored: a stream made anew counts anew."""


class Held:
    """Acknowledges messages when they are settled, and has the server wait for those that are not.

    Args:
        remembered: Settled messages, at least, that are known when they come again, because the word of it was lost.
    """

    def __init__(self, remembered: int) -> None:
        self.ack_wait = 30.0
        self._remembered = remembered
        # where to answer for a message, and when the server last began to count, in order of that; nothing of a message
        # is in a container of its own, which the garbage collector would go through again and again
        self._replies: dict[Identity, bytes] = {}
        self._since: dict[Identity, float] = {}
        # two generations: to forget one is cheaper than to forget messages one by one
        self._settled: set[Identity] = set()
        self._settled_before: set[Identity] = set()
        self._words: dict[bytes, deque[bytes]] = {word: deque() for word in WORDS}  # and the replies it goes to
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        """Return how many messages are not settled."""
        return len(self._replies)

    @property
    def unsaid(self) -> bool:
        """Whether there is something that the server has not been told yet."""
        return any(self._words.values())

    def take(self, replies: Sequence[bytes], bodies: Sequence[bytes]) -> tuple[Sequence[Identity], Sequence[bytes]]:
        """Take note of messages; return the identities and bodies of those that are not held already, nor settled."""
        identities = list(map(_identity, replies))
        # not only where the server says that it delivered it before: one that was killed may not know
        known = (self._replies.keys(), self._settled, self._settled_before)
        if len(set(identities)) == len(identities) and all(some.isdisjoint(identities) for some in known):
            self._hold(identities, replies)
            return identities, bodies
        new: dict[Identity, bytes] = {}
        for identity, reply, body in zip(identities, replies, bodies, strict=True):
            if identity in self._settled or identity in self._settled_before:
                self._say([reply], ACK)
                continue
            if self._since.pop(identity, None) is None:  # else it shall come last
                new[identity] = body
            self._hold([identity], [reply])
        return list(new), list(new.values())

    def forget(self) -> None:
        """Know no settled message any more: they shall come again."""
        self._settled.clear()
        self._settled_before.clear()

    def settle(self, identities: Iterable[Identity]) -> None:
        """Acknowledge messages."""
        self._release(identities, ACK)
        self._settled.update(identities)
        if len(self._settled) >= self._remembered:
            self._settled_before, self._settled = self._settled, set()

    def give_back(self, identities: Iterable[Identity] | None = None) -> None:
        """Have messages, or all, delivered again, to whomever, at once."""
        self._release(list(self._replies) if identities is None else identities, NAK)

    def _hold(self, identities: Sequence[Identity], replies: Sequence[bytes]) -> None:
        self._replies.update(zip(identities, replies, strict=True))
        self._since.update(zip(identities, repeat(time.monotonic())))

    def _release(self, identities: Iterable[Identity], word: bytes) -> None:
        self._say([reply for identity in identities if (reply := self._replies.pop(identity, None))], word)
        for identity in identities:
            self._since.pop(identity, None)

    def _say(self, replies: Sequence[bytes], word: bytes) -> None:
        if replies:
            self._words[word].extend(replies)
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
        for word, replies in self._words.items():
            while replies and client.is_connected:
                told = [replies.popleft() for _ in range(min(TURN, len(replies)))]
                try:
                    await client.publish_many(told, word)
                except BaseException as error:
                    replies.extendleft(reversed(told))
                    if isinstance(error, Error):  # it is not up; what was not said is said when it is
                        return
                    raise
                await asyncio.sleep(0)

    def _progress(self) -> None:
        limit = time.monotonic() - self.ack_wait / 2
        due = [identity for identity, _ in takewhile(lambda held: held[1] <= limit, self._since.items())]
        for identity in due:
            del self._since[identity]  # to come last
        replies = [self._replies[identity] for identity in due]
        self._hold(due, replies)
        self._say(replies, PROGRESS)


def _identity(reply: bytes) -> Identity:
    tokens = reply.split(b".")
    return b".".join(tokens[5:8:2] if len(tokens) == V1 else tokens[7:10:2])
