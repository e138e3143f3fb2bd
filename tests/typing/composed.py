"""What the type checkers make of a user's code; they read it, nothing runs it."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, assert_type

import reactivex as rx
from reactivex import Observable

from rxcompact import operators as rxo
from rxcompact.events import Compacted, DeadLetter, Window
from rxcompact.sources.iterable import IterableSource

Event = dict[str, Any]


def operators_keep_the_types_in_a_pipe(events: Observable[Event]) -> None:
    windows = events.pipe(rxo.compact(10.0, key_mapper=itemgetter("id")))
    assert_type(windows, Observable[Window])
    assert_type(windows.run(), Window)
    assert_type(windows.run()[0], Compacted)
    assert_type(windows.run()[1:], tuple[Compacted, ...])
    assert_type(rx.of(1, 2).pipe(rxo.distinct()), Observable[int])
    assert_type(events.pipe(rxo.distinct("id")), Observable[Event])


def dead_letters_go_to_a_function(events: Observable[Event], letters: list[DeadLetter]) -> None:
    events.pipe(rxo.compact(10, key_mapper="id", time_mapper="ts", lateness=5, dead_letters=letters.append))


def a_source_gives_chunks() -> None:
    chunks = IterableSource([{"id": 1}]).stream()
    assert_type(chunks.pipe(rxo.compact(10, key_mapper="id", chunked=True)), Observable[Window])
