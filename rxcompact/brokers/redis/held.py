"""Entries whose events have not met their ends, and what the server is told of them."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice, takewhile

from loguru import logger
from redis.exceptions import ResponseError

from rxcompact.brokers.redis.group import Group
from rxcompact.errors import TransientError

TURN = 1_000
"""Ids in a command."""
PAUSE = 0.25
"""Seconds until what could not be said is said again."""


class Held:
    """Acknowledges entries when they are settled, and keeps those that are not from being claimed by others.

    Args:
        group: Told of it.
        min_idle_time: Seconds after which others claim what was not kept.
        limit: Settled entries that are known when they come again, because the word of it was lost.
    """

    def __init__(self, group: Group, min_idle_time: float, limit: int) -> None:
        self._group = group
        self._min_idle_time = min_idle_time
        self._limit = limit
        # since when the server counts, at the earliest; in order of that
        self._entries: OrderedDict[bytes, float] = OrderedDict()
        self._settled: OrderedDict[bytes, None] = OrderedDict()
        self._done: dict[bytes, None] = {}
        self._returned: dict[bytes, None] = {}
        self._woken = asyncio.Event()
        self._fewer = asyncio.Event()
        self._ending = False

    def __len__(self) -> int:
        """Return how many entries are not settled."""
        return len(self._entries)

    def take(self, identity: bytes) -> bool:
        """Take note of an entry; tell whether it is neither held already nor settled."""
        if identity in self._settled or identity in self._done:
            self._say(self._done, identity)
            return False
        self._returned.pop(identity, None)
        new = identity not in self._entries
        self._touch(identity, time.monotonic())
        return new

    def forget(self) -> None:
        """Know no settled entry any more: they shall come again."""
        self._settled.clear()
        self._done.clear()

    def settle(self, identities: Iterable[bytes]) -> None:
        """Acknowledge entries."""
        for identity in identities:
            if self._entries.pop(identity, None) is not None:  # else it was returned
                self._settled[identity] = None
                self._say(self._done, identity)
        while len(self._settled) > self._limit:
            self._settled.popitem(last=False)
        self._fewer.set()

    def drop(self, identities: Iterable[bytes]) -> list[bytes]:
        """Acknowledge entries that are in the stream no more; return those that were never seen."""
        gone = [identity for identity in identities if identity not in self._entries]
        for identity in gone:
            self._say(self._done, identity)
        return [identity for identity in gone if identity not in self._settled]

    def give_back(self, identities: Iterable[bytes] | None = None) -> None:
        """Have entries, or all, delivered again, to whomever, at once."""
        for identity in list(self._entries if identities is None else identities):
            if self._entries.pop(identity, None) is not None:
                self._say(self._returned, identity)

    async def fewer(self, limit: int) -> None:
        """Wait until less than so many are held."""
        while len(self._entries) >= limit:
            self._fewer.clear()
            await self._fewer.wait()

    def _touch(self, identity: bytes, since: float) -> None:
        self._entries[identity] = since
        self._entries.move_to_end(identity)

    def _say(self, words: dict[bytes, None], identity: bytes) -> None:
        words[identity] = None
        self._woken.set()

    # ── said ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def keep(self) -> None:
        """Say what there is to say, until `end`."""
        self._ending = False
        while not self._ending:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._min_idle_time / 4):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._tell()
                await self._progress()
            except TransientError as error:
                refused = isinstance(error.__cause__, ResponseError)
                logger.log("WARNING" if refused else "DEBUG", "not acknowledged, tried again: {}", error)
                self._woken.set()
                await asyncio.sleep(PAUSE)

    def end(self) -> None:
        """Have `keep` end."""
        self._ending = True
        self._woken.set()

    async def tell_all(self) -> None:
        """Say what there is to say, however long there is no connection.

        Errors:
            TransientError: when the server refuses to hear it.
        """
        while self._done or self._returned:
            try:
                await self._tell()
            except TransientError as error:
                if isinstance(error.__cause__, ResponseError):
                    raise
                await asyncio.sleep(PAUSE)

    async def _tell(self) -> None:
        # what is not heard stays, to be said again
        for words, say in ((self._done, self._group.acknowledge), (self._returned, self._group.give_back)):
            while identities := list(islice(words, TURN)):
                await say(identities)
                for identity in identities:
                    words.pop(identity, None)

    async def _progress(self) -> None:
        now = time.monotonic()
        for identities in self._due(now - self._min_idle_time / 2):
            await self._group.keep(identities, self._min_idle_time / 4)
            for identity in identities:
                if identity in self._entries:
                    self._touch(identity, now)

    def _due(self, before: float) -> Iterator[list[bytes]]:
        due = [identity for identity, _ in takewhile(lambda entry: entry[1] <= before, self._entries.items())]
        for start in range(0, len(due), TURN):
            yield due[start : start + TURN]
