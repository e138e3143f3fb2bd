"""What the type checkers make of a user's code; they read it, nothing runs it."""

from __future__ import annotations

from typing import Any, TypedDict, assert_type

import reactivex as rx
from reactivex import Observable

from rxcompact import HttpEnricher
from rxcompact import operators as rxo
from rxcompact.events import Compacted, DeadLetter, Delivered, Window
from rxcompact.sources.python import IterableSource


class Event(TypedDict):
    host: str
    count: int


def key(event: Event) -> str:
    return event["host"]


async def lookup(event: Event) -> int:
    return event["count"]


def double(count: int) -> float:
    return 2.0 * count


def operators_keep_the_types_in_a_pipe(events: Observable[Event]) -> None:
    windows = events.pipe(rxo.compact(10.0, key_mapper=key))
    assert_type(windows, Observable[Window[str, Event]])
    assert_type(windows.run()[0], Compacted[str, Event])
    assert_type(windows.run()[1:], tuple[Compacted[str, Event], ...])
    assert_type(windows.run()[0].event["host"], str)
    windows.run()[0].event["hots"]  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues, reportTypedDictNotRequiredAccess]
    assert_type(events.pipe(rxo.compact(10, key_mapper="host")), Observable[Window[Any, Event]])
    assert_type(rx.of(1, 2).pipe(rxo.distinct()), Observable[int])
    assert_type(events.pipe(rxo.distinct("host")), Observable[Event])


def enrichment_gives_what_the_enricher_gives(events: Observable[Event]) -> None:
    assert_type(
        events.pipe(rxo.compact(10, key_mapper=key), rxo.enrich(lookup, max_age=60)), Observable[Compacted[str, int]]
    )
    chain = events.pipe(rxo.compact(10, key_mapper=key), rxo.enrich(lookup), rxo.enrich(double))
    assert_type(chain, Observable[Compacted[str, float]])
    assert_type(chain.pipe(rxo.publish(print, max_age=60)), Observable[Delivered])
    assert_type(events.pipe(rxo.compact(10, key_mapper=key), rxo.enrich(HttpEnricher("http://cmdb/{host}"))),
                Observable[Compacted[str, Any]])  # fmt: skip


def a_decorated_coroutine_function_stays_one(event: Event) -> None:
    import asyncio

    task = asyncio.create_task(rxo.retry_until_age(30)(lookup)(event))
    assert_type(task, asyncio.Task[int])


def dead_letters_go_to_a_function(events: Observable[Event], letters: list[DeadLetter]) -> None:
    events.pipe(rxo.compact(10, key_mapper="host", time_mapper="ts", lateness=5, dead_letters=letters.append))


def a_source_gives_chunks() -> None:
    chunks = IterableSource([{"id": 1}]).stream()
    chunks.pipe(rxo.compact(10, key_mapper="id", chunked=True))
