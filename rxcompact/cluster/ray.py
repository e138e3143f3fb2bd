"""Shards of a pipeline as actors of a Ray cluster (extra ``ray``).

For sources that push and have no broker behind them. Where there is one, no event need cross the engine: run a worker
for each of the broker's partitions instead, under whatever places processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Self, TypeAlias
from zlib import crc32

import ray
import ray.exceptions
from reactivex import Observable
from reactivex.subject import Subject

from rxcompact.acks import Ack, Chunk
from rxcompact.clock import count
from rxcompact.contracts import Demand, Source
from rxcompact.errors import AbandonedError, ArgumentError
from rxcompact.keys import stable
from rxcompact.observers import Hub
from rxcompact.observers.statistics import ENDED
from rxcompact.operators.compact import Compact
from rxcompact.orchestrator import DEADLINE, Orchestrator
from rxcompact.pipeline import Pipeline
from rxcompact.signals import Account, Signal
from rxcompact.sources.python import PushSource

Definition: TypeAlias = Callable[[Source], Pipeline]
"""Makes the pipeline, given its source; the same in one process, in a worker of a broker, and here."""
SPARE = 8
"""Calls of an actor at once, besides those that push."""


class Shard:
    """What an actor is: one orchestrator, as in a process of its own, and its source."""

    def __init__(self, definition: Definition) -> None:
        self._chunks: Subject[list[Any]] = Subject()
        self._unsettled: set[asyncio.Future[None]] = set()
        self._orchestrator = Orchestrator(definition(self))
        self._signals: asyncio.Queue[Signal] = asyncio.Queue()
        self._orchestrator.attach(self._signals.put_nowait)
        self._before = Account()  # of runs that have ended

    def stream(self, _: Demand) -> Observable[list[Any]]:
        """Return the chunks; whoever pushes them bounds what is unacknowledged."""
        return self._chunks

    async def push(self, events: list[Any]) -> None:
        """Take events; return when all are settled. Raise AbandonedError when some are not, at a stop's deadline."""
        await self._orchestrator.start()
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unsettled.add(settled)
        settled.add_done_callback(self._unsettled.discard)

        def settle(_: object) -> None:
            if not settled.done():
                settled.set_result(None)

        self._chunks.on_next(Chunk(events, Ack(settle)))
        await settled

    async def release(self) -> None:
        """Have the pushes fail that are not settled."""
        for settled in self._unsettled:
            if not settled.done():
                settled.set_exception(AbandonedError("stopped before all of its events were settled"))

    async def signals(self) -> list[Signal]:
        """Return what happened since the last call; wait until something has."""
        found = [await self._signals.get()]
        while not self._signals.empty():
            found.append(self._signals.get_nowait())
        return found

    async def account(self) -> Account:
        """Return what came in and what became of it, since the actor was started."""
        running = self._orchestrator.state not in ENDED
        return merged(self._before, self._orchestrator.account) if running else self._before

    async def drain(self, deadline: float) -> Account:
        """Stop; return the account."""
        if self._orchestrator.state not in ENDED:
            self._before = merged(self._before, (await self._orchestrator.stop(deadline)).account)
        return self._before


class RayRunner:
    """Runs a pipeline as shards: each key's events go to one actor, by a stable hash of the key.

    Batches cross processes, not events; one is acknowledged when all of its events are settled. An actor that died is
    started again by Ray, and what it had not acknowledged is sent again: at least once. Its account begins anew.
    `ray.init` is up to the caller.

    Args:
        definition: Makes the pipeline of a shard, given its source.
        shards: How many.
        batch: Events sent at once.
        max_unacknowledged: Batches of a shard that may be on their way, or `push` waits. A window's worth has to fit.

    Attributes:
        acknowledged: Events whose batches were.
        signals: What happens in all shards, an observable.
    """

    def __init__(
        self, definition: Definition, *, shards: int, batch: int = 1000, max_unacknowledged: int = 256
    ) -> None:
        count("shards", shards)
        reducer = definition(PushSource()).reducer
        if not isinstance(reducer, Compact):
            raise ArgumentError("definition", reducer, "a pipeline with a key_mapper")
        self._definition = definition
        self._batch = batch
        self._max = max_unacknowledged
        self._key_of = reducer.key_mapper
        self._shard_of: Callable[[Hashable], int] = lru_cache(1 << 16)(lambda key: crc32(stable(key).encode()) % shards)
        self._open: list[list[Any]] = [[] for _ in range(shards)]
        self._actors: list[Any] = []
        self._room = [asyncio.Semaphore(max_unacknowledged) for _ in range(shards)]
        self._deliveries: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Task[None]] = []
        self.signals: Hub[Signal] = Hub(lambda failed: self.signals.notify(failed))  # noqa: PLW0108 - it is being made
        self.acknowledged = 0

    async def start(self) -> None:
        """Start the actors."""
        options = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": self._max + SPARE}
        actor: Any = ray.remote(Shard).options(**options)
        self._actors = [actor.remote(self._definition) for _ in self._open]
        self._listeners = [asyncio.create_task(self._listen(actor)) for actor in self._actors]

    async def _listen(self, actor: Any) -> None:
        while True:
            for signal in await actor.signals.remote():
                self.signals.notify(signal)

    async def push(self, events: Iterable[Any]) -> None:
        """Route events; wait where a shard has too much unacknowledged. An event without a key goes to any."""
        for event in events:
            try:
                shard = self._shard_of(self._key_of(event))
            except Exception:  # noqa: BLE001 - the shard rejects it, with the reason
                shard = 0
            self._open[shard].append(event)
            if len(self._open[shard]) >= self._batch:
                await self._send(shard)

    async def flush(self) -> None:
        """Send what waits for its batch to fill up."""
        for shard, batch in enumerate(self._open):
            if batch:
                await self._send(shard)

    async def _send(self, shard: int) -> None:
        batch, self._open[shard] = self._open[shard], []
        await self._room[shard].acquire()
        delivery = asyncio.create_task(self._deliver(shard, batch))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    async def _deliver(self, shard: int, batch: list[Any]) -> None:
        try:
            with suppress(ray.exceptions.RayError):  # the shard's account has what was abandoned
                await self._actors[shard].push.remote(batch)
                self.acknowledged += len(batch)
        finally:
            self._room[shard].release()

    async def account(self) -> Account:
        """Return the account of all shards."""
        return merged(*await asyncio.gather(*(actor.account.remote() for actor in self._actors)))

    async def drain(self, deadline: float = DEADLINE) -> Account:
        """Stop; return the account of all shards. What is not acknowledged by the deadline is abandoned."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline
        await self.flush()
        while True:  # again where an actor died meanwhile, and was sent its batches anew
            left = max(0.1, until - loop.time())
            account = merged(*await asyncio.gather(*(actor.drain.remote(left) for actor in self._actors)))
            if not self._deliveries or loop.time() >= until:
                break
            await asyncio.wait(self._deliveries, timeout=0.1)
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        for task in self._listeners:
            task.cancel()
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()
        return account

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._actors:
            await self.drain()


def merged(*accounts: Account) -> Account:
    """Return the sum of accounts."""
    return Account(*map(sum, zip(*accounts, strict=True)))
