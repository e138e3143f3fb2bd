"""What compaction costs, beside the bare dict and RxPY composed plainly: ``python tests/benchmarks/compaction.py``.

Everyone does the same work, first event per key in windows of 50,000 events, and must come to the same checksum. Rounds
alternate, so that the machine's moods fall on all; CPU seconds, medians.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import platform
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops
from reactivex.disposable import Disposable
from reactivex.subject import Subject

from rxcompact import operators as rxo

WINDOW = 50_000
Event = dict[str, Any]
key_of = itemgetter("id")


def stream(events: int, keys: int) -> list[Event]:
    """Events with keys as Zipf has them."""
    pick = random.Random(7)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(keys)))
    found = pick.choices([f"key-{n}" for n in range(keys)], cum_weights=weights, k=events)
    return [{"id": key, "n": n} for n, key in enumerate(found)]


def chunks_of(events: list[Event], size: int) -> list[list[Event]]:
    return [events[start : start + size] for start in range(0, len(events), size)]


def pushing(items: list[Any], per_window: int, flushes: Subject[None]) -> Observable[Any]:
    """A source that pushes directly, and says when a window is full."""

    def subscribe(observer: Any, _: Any = None) -> Disposable:
        push = observer.on_next
        for start in range(0, len(items), per_window):
            for item in items[start : start + per_window]:
                push(item)
            flushes.on_next(None)
        observer.on_completed()
        return Disposable()

    return Observable(subscribe)


def dict_loop(chunks: list[list[Event]]) -> int:
    distinct, size = 0, WINDOW // len(chunks[0])
    for start in range(0, len(chunks), size):
        window: dict[str, Event] = {}
        for chunk in chunks[start : start + size]:
            deque(map(window.setdefault, map(key_of, chunk), chunk), maxlen=0)
        distinct += len(window)
    return distinct


def callback(events: list[Event]) -> int:
    window: dict[str, Event] = {}

    def on_next(event: Event) -> None:
        key = key_of(event)
        if key not in window:
            window[key] = event

    distinct = 0
    for start in range(0, len(events), WINDOW):
        for event in events[start : start + WINDOW]:
            on_next(event)
        distinct += len(window)
        window.clear()
    return distinct


def compact(items: list[Any], *, chunked: bool, **options: Any) -> int:
    flushes: Subject[None] = Subject()
    sizes: list[int] = []
    per_window = WINDOW // (len(items[0]) if chunked else 1)
    pushing(items, per_window, flushes).pipe(
        rxo.compact(1e9, key_mapper="id", chunked=chunked, flushes=flushes, **options)
    ).subscribe(lambda window: sizes.append(len(window)))
    return sum(sizes)


def rxpy_buffer_and_dict(events: list[Event]) -> int:
    sizes: list[int] = []
    rx.from_iterable(events).pipe(ops.buffer_with_count(WINDOW)).subscribe(
        lambda buffer: sizes.append(len({key_of(event): event for event in buffer}))
    )
    return sum(sizes)


def measure(events: int, keys: int, rounds: int) -> dict[str, float]:
    """Return nanoseconds of CPU an event, by system; raises when checksums differ."""
    stream_ = stream(events, keys)
    thousands, hundreds = chunks_of(stream_, 1000), chunks_of(stream_, 100)
    systems: dict[str, Callable[[], int]] = {
        "dict loop in C, chunks of 1,000": lambda: dict_loop(thousands),
        "compact, chunks of 1,000, first_seen": lambda: compact(thousands, chunked=True, fields=("first_seen",)),
        "compact, chunks of 1,000, count and times": lambda: compact(thousands, chunked=True),
        "dict loop in C, chunks of 100": lambda: dict_loop(hundreds),
        "compact, chunks of 100, first_seen": lambda: compact(hundreds, chunked=True, fields=("first_seen",)),
        "callback an event": lambda: callback(stream_),
        "compact, event by event, first_seen": lambda: compact(stream_, chunked=False, fields=("first_seen",)),
        "RxPY buffer, a dict a buffer": lambda: rxpy_buffer_and_dict(stream_),
    }
    spent: dict[str, list[float]] = {name: [] for name in systems}
    checksums: set[int] = set()
    for _ in range(rounds):
        for name, system in systems.items():
            gc.collect()
            began = time.process_time()
            checksums.add(system())
            spent[name].append((time.process_time() - began) / events * 1e9)
    if len(checksums) != 1:
        raise AssertionError(f"they disagree: {checksums}")
    return {name: statistics.median(found) for name, found in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = measure(options.events, options.keys, options.rounds)
    print(f"Python {platform.python_version()}, {options.events:,} events, {options.keys:,} keys\n")
    print("| system | ns of CPU an event | × the dict loop |\n|---|---|---|")
    floor = next(iter(found.values()))
    for name, spent in found.items():
        print(f"| {name} | {spent:.0f} | {spent / floor:.1f} |")


if __name__ == "__main__":
    main()
