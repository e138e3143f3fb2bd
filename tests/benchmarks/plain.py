"""The same work in plain Python: the floor that ours is measured against."""

from __future__ import annotations

import time
from collections import Counter, deque
from itertools import repeat
from typing import Any

from measuring import WINDOW, Close, Event, key_of


def dict_loop(close: Close, chunks: list[list[Event]], window: int = WINDOW) -> int:
    """A chunk at a time, in C."""
    closed, size = 0, max(1, window // len(chunks[0]))
    for start in range(0, len(chunks), size):
        first: dict[str, Event] = {}
        for chunk in chunks[start : start + size]:
            deque(map(first.setdefault, map(key_of, chunk), chunk), maxlen=0)
        closed += close(first.values())
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
