"""Messages that are not acknowledged yet, and the replies that are queued for the broker."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, TypeAlias

ACK, IN_PROGRESS, NAK = b"+ACK", b"+WPI", b"-NAK"
AT_ONCE = 1_000
"""Replies of a kind that are sent at once."""

Identity: TypeAlias = Any
"""What a message is called, however often it is delivered; it can be hashed."""


class UnackedMessages:
    """Acknowledges messages when they are settled, and keeps the others from being delivered again meanwhile.

    Nothing of a message is in a container of its own: the garbage collector would traverse it again and again.

    Args:
        remembered: Settled messages, at least, that are recognised when their acknowledgement was lost and they are
            delivered again.
        ack_wait: Seconds after which the broker delivers a message again.
    """

    def __init__(self, remembered: int, ack_wait: float) -> None:
        self.ack_wait = ack_wait
        self._remembered = remembered
        self._replies: dict[Identity, bytes] = {}  # where the reply to a message goes
        # when the broker began to count, of messages that came together and may be settled; the oldest first
        self._since: deque[tuple[float, Sequence[Identity]]] = deque()
        self._settled: dict[Identity, None] = {}
        # sent in this order: what was given back must not be claimed again by an older IN_PROGRESS
        self._queues: dict[bytes, dict[bytes, None]] = {ACK: {}, IN_PROGRESS: {}, NAK: {}}
        self._queued = asyncio.Event()
        self._fewer = asyncio.Event()

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def pending_replies(self) -> bool:
        """Whether there are replies that were not sent."""
        return any(self._queues.values())

    def take(
        self, identities: Sequence[Identity], replies: Sequence[bytes], bodies: Sequence[bytes]
    ) -> tuple[Sequence[Identity], Sequence[bytes]]:
        """Add messages; return those that are neither held already nor settled."""
        # not only where the broker marks a message as redelivered: one that was killed may not know
        known = (self._replies.keys(), self._settled.keys())
        if len(set(identities)) < len(identities) or not all(some.isdisjoint(identities) for some in known):
            latest = dict(zip(identities, zip(replies, bodies, strict=True), strict=True))
            self._queue(ACK, [reply for identity, (reply, _) in latest.items() if identity in self._settled])
            held = {identity: it for identity, it in latest.items() if identity not in self._settled}
            new = {identity: body for identity, (_, body) in held.items() if identity not in self._replies}
            self._hold(list(held), [reply for reply, _ in held.values()])
            return list(new), list(new.values())
        self._hold(identities, replies)
        return identities, bodies

    def forget(self) -> None:
        """Take settled messages again: the consumer was made anew."""
        self._settled.clear()
        for queue in self._queues.values():
            queue.clear()

    def settle(self, identities: Sequence[Identity]) -> None:
        """Acknowledge messages."""
        self._release(identities, ACK)
        self._settled.update(dict.fromkeys(identities))
        if len(self._settled) >= 2 * self._remembered:  # forgetting them one by one would cost more
            self._settled = dict.fromkeys(islice(self._settled, self._remembered, None))
        self._fewer.set()

    def give_back(self, identities: Sequence[Identity] | None = None) -> None:
        """Have messages, by default all, delivered again at once, to any worker."""
        self._release(list(self._replies) if identities is None else identities, NAK)

    def drop(self, identities: Iterable[Identity]) -> list[Identity]:
        """Acknowledge messages that the broker removed, unless they are held; return those that were never taken."""
        gone = [identity for identity in identities if identity not in self._replies]
        self._queue(ACK, gone)
        return [identity for identity in gone if identity not in self._settled]

    async def fewer(self, limit: int) -> None:
        """Wait until fewer messages than this are not settled."""
        while len(self) >= limit:
            self._fewer.clear()
            await self._fewer.wait()

    def _hold(self, identities: Sequence[Identity], replies: Sequence[bytes]) -> None:
        self._replies.update(zip(identities, replies, strict=True))
        self._since.append((time.monotonic(), identities))
        if given_back := self._queues[NAK]:
            for reply in replies:
                given_back.pop(reply, None)

    def _release(self, identities: Iterable[Identity], kind: bytes) -> None:
        self._queue(kind, [reply for identity in identities if (reply := self._replies.pop(identity, None))])

    def _queue(self, kind: bytes, replies: Sequence[bytes]) -> None:
        self._queues[kind].update(dict.fromkeys(replies))
        self._queued.set()

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """Have `wait` return."""
        self._queued.set()

    async def wait(self) -> None:
        """Wait until replies are queued; queue one for each message that is held for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.ack_wait / 4):
                await self._queued.wait()
        self._queued.clear()
        due: list[Sequence[Identity]] = []
        while self._since and self._since[0][0] <= time.monotonic() - self.ack_wait / 2:
            due.append(self._since.popleft()[1])
        if held := [identity for identity in chain.from_iterable(due) if identity in self._replies]:
            replies = [self._replies[identity] for identity in held]
            self._hold(held, replies)
            self._queues[IN_PROGRESS].update(dict.fromkeys(replies))

    async def flush(self, send: Callable[[bytes, Sequence[bytes]], Awaitable[object]]) -> None:
        """Send the replies that are queued; those for which ``send`` raises stay."""
        for kind, queue in self._queues.items():
            while replies := list(islice(queue, AT_ONCE)):
                await send(kind, replies)
                for reply in replies:
                    queue.pop(reply, None)
                await asyncio.sleep(0)
