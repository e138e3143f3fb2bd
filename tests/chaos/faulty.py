"""An API, a sink and a cache that fail in every way, each fault drawn from one seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextvars import ContextVar
from typing import Any

from rxcompact.errors import PermanentError, RateLimitedError, TransientError

Ident = tuple[Any, ...]
SEEN: ContextVar[str] = ContextVar("seen", default="nobody's")
"""Set by calls; none may see what another set."""


class OddError(BaseException):
    """No Exception."""


async def fail_oddly(mood: str, released: asyncio.Event) -> None:
    """Fail as caller's code does that knows asyncio too well."""
    match mood:
        case "raises no Exception":
            raise random.choice([OddError("odd"), BaseExceptionGroup("odd", [OddError()]), GeneratorExit("odd")])
        case "task group":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(100))
                group.create_task(_raise(ConnectionResetError("of a child")))
        case "time-outs":
            async with asyncio.timeout(100), asyncio.timeout(0.01):
                await asyncio.sleep(50)
        case "sets context":
            assert SEEN.get() == "nobody's", "another call's context"
            SEEN.set("mine")
        case "cancels":
            raise asyncio.CancelledError
        case "cancels its task":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        case "stubborn":
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue


async def _raise(error: Exception) -> None:
    await asyncio.sleep(0.01)
    raise error


def ident(compacted: Any) -> Ident:
    """The identity of a distinct event from its window to its outcome; enrichment replaces the event."""
    return compacted.key, compacted.count, compacted.first_seen, compacted.last_seen


class Dice(random.Random):
    """Randomness, and a count of the faults that it chose."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.injected: Counter[str] = Counter()
        self.moods: dict[str, str] = {}

    def mood(self, boundary: str) -> str:
        """The current fault of a boundary; one call in five has none."""
        mood = self.moods.get(boundary, "up")
        if mood == "up" or self.random() < 0.2:
            return "up"
        self.injected[f"{boundary} {mood}"] += 1
        return mood


class Api:
    """An enricher that counts the calls under way of each run."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.released = asyncio.Event()
        self.run = 0
        self.under_way: Counter[int] = Counter()
        self.workers: dict[asyncio.Task[Any] | None, None] = {}  # an ordered set, so that a run can be repeated

    def enrich(self, event: Any) -> Any:
        mood = self.dice.mood("api")
        if mood == "raises at once":
            raise ConnectionError("no coroutine even")
        return self._answer(event, mood, self.run)

    async def _answer(self, event: Any, mood: str, run: int) -> Any:
        self.workers[asyncio.current_task()] = None
        self.under_way[run] += 1
        try:
            await asyncio.sleep(self.dice.choice([0, 0.001, 0.1, 0.5]))
            await self._fail(mood)
            return ValueError("returned") if mood == "returns an error" else event | {"enriched": True}
        finally:
            self.under_way[run] -= 1

    async def _fail(self, mood: str) -> None:
        match mood:
            case "down":
                raise TransientError("down")
            case "slow":
                await asyncio.sleep(self.dice.uniform(1, 8))
            case "hangs":
                await asyncio.sleep(1000)
            case "limits":
                raise RateLimitedError(retry_after=self.dice.choice([None, 0, 0.2, 5, 1e6]))
            case "garbage":
                raise self.dice.choice([ValueError, KeyError, RuntimeError, StopAsyncIteration])("garbage")
            case "refuses":
                raise PermanentError("no")
            case _:
                await fail_oddly(mood, self.released)


class Store:
    """A sink; counts what it took, and what it took while it answered with a failure."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.took: Counter[Ident] = Counter()
        self.denied: Counter[Ident] = Counter()
        self.released = asyncio.Event()

    def publish(self, batch: Any) -> Any:
        mood = self.dice.mood("sink")
        if mood == "raises at once":
            raise ConnectionError("no coroutine even")
        return self._publish(batch, mood)

    async def _publish(self, batch: Any, mood: str) -> Any:
        await asyncio.sleep(self.dice.choice([0, 0.01, 0.2]))
        idents = list(map(ident, batch))
        failed: dict[int, Any] = {}
        match mood:
            case "down":
                raise TransientError("down")
            case "slow":
                await asyncio.sleep(self.dice.uniform(1, 8))
            case "hangs":
                await asyncio.sleep(1000)
            case "limits":
                raise RateLimitedError(retry_after=self.dice.choice([None, 0, 5]))
            case "took and raises":
                self.denied.update(idents)
                raise ConnectionResetError
            case "took and hangs":
                self.denied.update(idents)
                await asyncio.sleep(1000)
            case "half":
                failed = {position: TransientError("half") for position in range(0, len(batch), 2)}
            case "picky":
                odd = [PermanentError("picky"), "in words", 500]
                failed = {position: self.dice.choice(odd) for position in range(0, len(batch), 3)}
            case "all":
                failed = dict.fromkeys(range(len(batch)), TransientError("all"))
            case "beyond":  # positions out of range
                failed = {len(batch) + 3: TransientError("beyond"), -1: TransientError("before")}
            case "answers nonsense":
                self.denied.update(idents)
                return self.dice.choice([[], "ok", True, False])
            case _:
                await fail_oddly(mood, self.released)
        self.took.update(each for position, each in enumerate(idents) if position not in failed)
        return failed or self.dice.choice([None, {}, [None] * len(batch)])


class Cache(dict[Any, Any]):
    """A cache of answers that fails to read or to write."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self.dice = dice

    def get(self, key: Any, default: Any = None) -> Any:
        if self.dice.mood("cache") == "unreadable":
            raise OSError("unreadable")
        return super().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.dice.mood("cache") == "unwritable":
            raise ValueError("value too large")
        if len(self) > 20:
            self.clear()
        super().__setitem__(key, value)


ODD = ["raises no Exception", "task group", "time-outs", "sets context"]
MOODS = {
    "event": ["no key", "unhashable", "no time", "odd key"],
    "source": [
        "stream raises", "subscribe raises", "dispose raises", "close raises", "close hangs", "close is stubborn",
    ],
    "api": [
        "down", "down", "slow", "hangs", "limits", "garbage", "refuses", "cancels", "cancels its task", "stubborn",
        "raises at once", "returns an error", *ODD,
    ],
    "sink": [
        "down", "down", "slow", "hangs", "limits", "took and raises", "took and hangs", "half", "picky", "all",
        "beyond", "cancels", "answers nonsense", "raises at once", "cancels its task", "stubborn", *ODD,
    ],
    "cache": ["unreadable", "unwritable"],
    "observer": ["raises", "raises no Exception", "cancels", "stops", "restarts", "pushes"],
    "wait": ["raises", "raises no Exception", "nonsense"],
}  # fmt: skip
