"""Sources that fail, complete and hang, and count what the pipeline took."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import reactivex as rx
from faulty import Dice, OddError
from reactivex.disposable import Disposable

from rxcompact.acks import Ack, Chunk
from rxcompact.sources.python import IterableSource, ObservableSource


class OddKey:
    """A key that raises no Exception when it is hashed."""

    def __hash__(self) -> int:
        raise OddError("of a key")


class Event(dict):  # type: ignore[type-arg]
    """One that weak references may be made to."""

    __slots__ = ("__weakref__",)


class Feed:
    """Makes events, and records which of them were pushed."""

    def __init__(self, dice: Dice, wall: Callable[[], float]) -> None:
        self.dice = dice
        self.wall = wall
        self.given: set[int] = set()
        self.references: list[weakref.ref[Event]] = []
        self.messages: list[list[int]] = []
        self.settled: Counter[int] = Counter()
        self.number = 0
        self.state = "idle"  # of the pipeline
        self.raised: set[str] = set()  # the states of this run in which an iterator raised

    def event(self, key: Any = None) -> dict[str, Any]:
        self.number += 1
        dice = self.dice
        late = 0 if key is not None else dice.choice([0, 0, 0, 1, 5])
        if key is None:
            key = dice.choice([dice.randrange(4), dice.randrange(30), dice.randrange(1000)])
        event = Event({"id": key, "ns": [self.number], "ts": self.wall() - late})
        self.references.append(weakref.ref(event))
        bad = dice.mood("event") if dice.random() < 0.2 else "up"
        if bad == "no key":
            del event["id"]
        elif bad == "unhashable":
            event["id"] = {object()}
        elif bad == "odd key":
            event["id"] = OddKey()
        elif bad == "no time":
            event["ts"] = float("nan")
        return event

    def alive(self) -> list[Event]:
        """The events that something still holds."""
        return [event for reference in self.references if (event := reference()) is not None]

    def give(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.given.update(event["ns"][0] for event in events)
        return events


class Hot:
    """Pushes chunks without waiting. Subscribing, unsubscribing and closing may fail."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.observer: Any = None

    def stream(self, _: Any) -> rx.Observable[list[Any]]:
        if self.feed.dice.mood("source") == "stream raises":
            raise OSError("stream")

        def subscribe(observer: Any, _: Any = None) -> Any:
            if self.feed.dice.mood("source") == "subscribe raises":
                raise OSError("subscribe")
            self.observer = observer

            def unsubscribe() -> None:
                if self.observer is observer:
                    self.observer = None
                if self.feed.dice.mood("source") == "dispose raises":
                    raise OSError("dispose")

            return Disposable(unsubscribe)

        return rx.Observable(subscribe)

    async def aclose(self) -> None:
        match self.feed.dice.mood("source"):
            case "close raises":
                raise OSError("close")
            case "close hangs":
                await asyncio.sleep(500)
            case "close is stubborn":
                for _ in range(20):
                    try:
                        await asyncio.sleep(1)
                    except asyncio.CancelledError:
                        continue

    def push(self, events: list[dict[str, Any]]) -> None:
        if self.observer is not None:
            message = len(self.feed.messages)
            self.feed.messages.append([event["ns"][0] for event in events])
            ack = Ack(self.feed.settled.update, message)
            self.observer.on_next(Chunk(self.feed.give(events), ack))

    def die(self) -> None:
        if self.observer is not None:
            self.observer.on_error(OSError("died"))

    def complete(self) -> None:
        if self.observer is not None:
            self.observer.on_completed()


class Streamed:
    """A Subject, replaced when it has ended; its events are chunked a turn later."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.subject: rx.Subject[Any] = rx.Subject()
        self.source = ObservableSource(rx.defer(lambda _: self.fresh()))

    def fresh(self) -> rx.Subject[Any]:
        if self.subject.is_stopped:
            self.subject = rx.Subject()
        return self.subject

    def push(self, events: list[dict[str, Any]]) -> None:
        if self.subject.observers:
            for event in self.feed.give(events):
                self.subject.on_next(event)

    def die(self) -> None:
        self.subject.on_error(OSError("died"))

    def complete(self) -> None:
        self.subject.on_completed()


class Pulled:
    """An iterator, or an async one, fed with events; it can be made to wait."""

    def __init__(self, feed: Feed, *, sync: bool) -> None:
        self.feed = feed
        self.waiting: list[dict[str, Any]] = []
        self.error = self.ended = False
        self.changed = asyncio.Event()
        self.source = IterableSource(_Again(self.sync) if sync else self)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self.waiting:
            await self.changed.wait()
            self.changed.clear()
            if self.error or self.ended:
                error, self.error, self.ended = self.error, False, False
                raise self.death() if error else StopAsyncIteration
        return self.feed.give([self.waiting.pop(0)])[0]

    def sync(self) -> Any:
        if self.error and self.feed.dice.random() < 0.5:  # in the middle of a chunk
            self.error = False
            raise self.death()
        if not self.waiting:  # an iterator cannot wait: it ends, and the next start continues
            raise StopIteration
        return self.feed.give([self.waiting.pop(0)])[0]

    def death(self) -> OSError:
        self.feed.raised.add(self.feed.state)
        return OSError("died")

    def push(self, events: list[dict[str, Any]]) -> None:
        self.waiting += events
        self.changed.set()

    def die(self) -> None:
        self.error = True
        self.changed.set()

    def complete(self) -> None:
        self.ended = True
        self.changed.set()


class _Again(Iterator[Any]):
    def __init__(self, following: Callable[[], Any]) -> None:
        self.following = following

    def __next__(self) -> Any:
        return self.following()
