"""The same work in plain Python: the floor that ours is measured against."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice, repeat
from typing import Any

from measuring import WINDOW, Close, Event, key_of
from reactivex import Observable
from reactivex.disposable import Disposable

from rxcompact.events import Bounds, Compacted
from rxcompact.observers.histogram import Histogram, age_bounds

MAX_LENGTH = 65_536  # characters of a key


def unchecked(first: dict[str, Event], chunk: list[Event]) -> None:
    deque(map(first.setdefault, map(key_of, chunk), chunk), maxlen=0)


def checked(first: dict[str, Event], chunk: list[Event]) -> None:
    """Each new key is to be a text, and not too long: of 1, 1.0 and True a dict makes one."""
    before = len(first)
    deque(map(first.setdefault, map(dict.get, chunk, repeat("id")), chunk), maxlen=0)
    new = list(islice(reversed(first), len(first) - before))
    if list(map(type, new)).count(str) != len(new) or len("".join(new)) > MAX_LENGTH:
        raise ValueError("they are to be looked at one by one")


def dict_loop(
    close: Close,
    chunks: list[list[Event]],
    window: int = WINDOW,
    fill: Callable[[dict[str, Event], list[Event]], None] = unchecked,
) -> int:
    """A chunk at a time, in C; with `checked` the least that keeps apart what JSON does."""
    closed, size = 0, max(1, window // len(chunks[0]))
    for start in range(0, len(chunks), size):
        first: dict[str, Event] = {}
        for chunk in chunks[start : start + size]:
            fill(first, chunk)
        closed += close(first.values())
    return closed


def checked_counting(close: Close, chunks: list[list[Event]]) -> int:
    """A record a key, with a look at the keys."""
    closed, size = 0, WINDOW // len(chunks[0])
    for start in range(0, len(chunks), size):
        records: dict[str, list[Any]] = {}
        for chunk in chunks[start : start + size]:
            _count(records, chunk, time.monotonic())
        closed += close(records.values())
    return closed


def _count(records: dict[str, list[Any]], chunk: list[Event], now: float) -> None:
    for key, event in zip(map(dict.get, chunk, repeat("id")), chunk, strict=True):
        record = records.get(key)
        if record is None:
            if type(key) is not str or len(key) > MAX_LENGTH:
                raise ValueError("they are to be looked at one by one")
            records[key] = [event, 1, now, now]
        else:
            record[1] += 1
            record[3] = now


def published(close: Close, chunks: list[list[Event]], *, counted: bool, max_age: float = 1e9) -> int:
    """What a pipeline does in the least code: makes the events of a window, and awaits a sink for each 500.

    Each has a deadline, for what is too old is not to be published; each batch the time that is left to its oldest
    event; and ages are observed.
    """
    closed, outcomes, ages = 0, 0, Histogram(age_bounds(60.0))

    async def sink(batch: list[Compacted]) -> None:
        nonlocal closed
        closed += close(batch)

    async def publish(entries: list[tuple[float, Compacted]]) -> None:
        nonlocal outcomes
        deadlines, batch = zip(*entries, strict=True)
        left = min(deadlines) - time.time()
        async with asyncio.timeout(min(30, left)):
            await asyncio.create_task(sink(batch))
        outcomes += len(batch)
        ages.add_ages([each.first_seen for each in batch], time.time())

    async def main() -> None:
        size = WINDOW // len(chunks[0])
        for start in range(0, len(chunks), size):
            began, table = time.time(), dict[str, Any]()
            arrived: list[float] = []
            for chunk in chunks[start : start + size]:
                if counted:
                    _count(table, chunk, time.time())
                else:
                    checked(table, chunk)
                    arrived += [time.time()] * (len(table) - len(arrived))
                await asyncio.sleep(0)
            bounds = Bounds(began, time.time(), "time")
            if counted:
                events = [Compacted(key, *row, bounds) for key, row in table.items()]
            else:
                nothing = repeat(None)
                events = list(map(Compacted, table, table.values(), nothing, arrived, nothing, repeat(bounds)))
            entries = [(each.first_seen + max_age, each) for each in events]
            for at in range(0, len(entries), 500):
                await publish(entries[at : at + 500])

    asyncio.run(main())
    return closed if outcomes else 0


def gathered(close: Close, events: list[Event], window: int = WINDOW) -> int:
    """A push an event through an observable of RxPY that does nothing but gather them for the look at their keys."""
    first: dict[str, Event] = {}
    chunk: list[Event] = []
    pushes: list[Callable[[Event], None]] = []

    def subscribe(observer: Any, _: Any = None) -> Disposable:
        pushes.append(observer.on_next)
        return Disposable()

    def add(event: Event) -> None:
        chunk.append(event)
        if len(chunk) >= 1000:
            work()

    def work() -> None:
        checked(first, chunk)
        chunk.clear()

    Observable(subscribe).subscribe(add)
    push, closed = pushes[0], 0
    for start in range(0, len(events), window):
        for event in events[start : start + window]:
            push(event)
        work()
        closed += close(first.values())
        first.clear()
    return closed


def for_loop(close: Close, events: list[Event]) -> int:
    closed = 0
    for start in range(0, len(events), WINDOW):
        first: dict[str, Event] = {}
        for event in events[start : start + WINDOW]:
            key = event["id"]
            if key not in first:
                first[key] = event
        closed += close(first.values())
    return closed


def callback(close: Close, events: list[Event], window: int = WINDOW) -> int:
    """A push an event, with a key function: the lower bound for what takes single events."""
    first: dict[str, Event] = {}

    def on_next(event: Event) -> None:
        key = key_of(event)
        if key not in first:
            first[key] = event

    closed = 0
    for start in range(0, len(events), window):
        for event in events[start : start + window]:
            on_next(event)
        closed += close(first.values())
        first.clear()
    return closed


def counting_in_c(close: Close, chunks: list[list[Event]]) -> int:
    """First event, count, first_seen and last_seen of each key: a pass for each, in C."""
    closed, size = 0, WINDOW // len(chunks[0])
    for start in range(0, len(chunks), size):
        first: dict[str, Event] = {}
        counts: Counter[str] = Counter()
        last: dict[str, float] = {}
        marks: list[tuple[int, float]] = []  # from which key on the first was seen then
        for chunk in chunks[start : start + size]:
            now = time.monotonic()
            keys = list(map(key_of, chunk))
            marks.append((len(first), now))
            deque(map(first.setdefault, keys, chunk), maxlen=0)
            counts.update(keys)
            last.update(zip(keys, repeat(now)))
        closed += _counted(close, first, counts)
    return closed


def counting_by_chunk(close: Close, chunks: list[list[Event]]) -> int:
    """The same, with what can be done a distinct key of the chunk done so."""
    closed, size = 0, WINDOW // len(chunks[0])
    for start in range(0, len(chunks), size):
        first: dict[str, Event] = {}
        counts: Counter[str] = Counter()
        last: dict[str, float] = {}
        marks: list[tuple[int, float]] = []
        for chunk in chunks[start : start + size]:
            now = time.monotonic()
            keys = list(map(key_of, chunk))
            marks.append((len(first), now))
            deque(map(first.setdefault, keys, chunk), maxlen=0)
            counts.update(keys)
            last.update(dict.fromkeys(keys, now))
        closed += _counted(close, first, counts)
    return closed


def counting_in_a_loop(close: Close, chunks: list[list[Event]]) -> int:
    """The same, a record a key."""
    closed, size = 0, WINDOW // len(chunks[0])
    for start in range(0, len(chunks), size):
        records: dict[str, list[Any]] = {}
        for chunk in chunks[start : start + size]:
            now = time.monotonic()
            for event in chunk:
                key = event["id"]
                record = records.get(key)
                if record is None:
                    records[key] = [event, 1, now, now]
                else:
                    record[1] += 1
                    record[3] = now
        closed += close(records.values())
    return closed


def per_key(close: Close, chunks: list[list[Event]]) -> int:
    """Windows per key in the least code: those that opened together are looked at together."""
    closed, size = 0, WINDOW // len(chunks[0])
    for start in range(0, len(chunks), size):
        records: dict[str, list[Any]] = {}
        opened: list[list[list[Any]]] = []
        for chunk in chunks[start : start + size]:
            now, fresh = time.monotonic(), []
            for event in chunk:
                key = event["id"]
                record = records.get(key)
                if record is None:
                    record = records[key] = [event, 1, now, now, key]
                    fresh.append(record)
                else:
                    record[1] += 1
                    record[3] = now
            opened.append(fresh)
        closed += close([record for fresh in opened for record in fresh if records.pop(record[4]) is record])
    return closed


def leading(close: Close, chunks: list[list[Event]]) -> int:
    """A leading edge in the least code: first events after each chunk, repeats at the end."""
    closed, size = 0, WINDOW // len(chunks[0])
    for start in range(0, len(chunks), size):
        records: dict[str, list[Any]] = {}
        for chunk in chunks[start : start + size]:
            now, leads = time.monotonic(), []
            for event in chunk:
                key = event["id"]
                record = records.get(key)
                if record is None:
                    records[key] = [None, 0, now, now]
                    leads.append([event, 1, now, now])
                else:
                    if not record[1]:
                        record[0] = event
                    record[1] += 1
                    record[3] = now
            closed += close(leads)
        closed += close([record for record in records.values() if record[1]])
    return closed


def _counted(close: Close, first: dict[str, Event], counts: Counter[str]) -> int:
    return close(first) if close is len else close([[event, counts[key]] for key, event in first.items()])
