"""Row 10: what the time of an event costs, beside the least that reads it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from typing import Any

from measuring import Case, Event, Group, Target, chunks_of

from rxcompact.mappers import time_of

Read = Callable[[list[Event]], Any]


def _iso(chunk: list[Event]) -> list[float]:
    return [datetime.fromisoformat(event["ts"]).timestamp() for event in chunk]


def _epoch(chunk: list[Event]) -> list[float]:
    return list(map(float, map(itemgetter("ts"), chunk)))


def _run(_: Any, read: Read, chunks: list[list[Event]]) -> int:
    return sum(round(sum(read(chunk))) for chunk in chunks)


def times(events: int) -> list[Group]:
    """ISO 8601 and epochs, of dicts in chunks of 1,000."""
    groups: list[Group] = []
    texts: dict[str, tuple[Read, Callable[[int], Any]]] = {
        "datetime.fromisoformat": (_iso, lambda second: datetime.fromtimestamp(second, UTC).isoformat()),
        "float": (_epoch, float),
    }
    for name, (by_hand, written) in texts.items():
        seconds = range(1_700_000_000, 1_700_000_000 + events)
        chunks = chunks_of([{"ts": written(second)} for second in seconds], 1000)
        ours = f"time_of, for {name}"
        cases = [
            Case(title, partial(_run, read=read, chunks=chunks), events, sum(seconds))
            for title, read in ((name, by_hand), (ours, time_of("ts").many))
        ]
        groups.append(Group(f"times, {name}", cases, [Target("10", ours, name, 1.3)]))
    return groups
