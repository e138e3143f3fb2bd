"""Row 9, time: cost against events and against keys, ours and theirs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ours
import peers
import plain
from measuring import Event, chunks_of, clocked, uniform, zipf

COMPACT, SINGLE = "compact, chunks of 1,000", "compact, event by event"
LOOP = "dict loop in C, chunks of 1,000"
BASE = 1_000_000
"""Events that are made; longer streams go through them again."""
LEAST = 400_000
"""Events that a measurement takes at least, so that it takes long enough."""


@dataclass(frozen=True, slots=True)
class Series:
    """A system, and the most events that it is given: the slow ones get fewer."""

    run: Callable[[list[Any], int], Any]
    chunked: bool
    most: int
    against: str = "events keys"


def _single(events: list[Event], window: int) -> int:
    return ours.compact(len, events, chunked=False, fields=("first_seen",), window=window)


def _compact(chunks: list[list[Event]], window: int) -> int:
    return ours.compact(len, chunks, chunked=True, fields=("first_seen",), window=window)


SERIES: dict[str, Series] = {
    LOOP: Series(partial(plain.dict_loop, len), True, 10_000_000),
    COMPACT: Series(_compact, True, 10_000_000),
    SINGLE: Series(_single, False, 10_000_000),
    "callback with a key function": Series(partial(plain.callback, len), False, 10_000_000),
    "streamable group": Series(partial(peers.streamable, len), False, 2_000_000),
    "asyncio queue": Series(partial(peers.asyncio_queue, len), False, 1_000_000),
    "RxPY buffer, a dict a buffer": Series(partial(peers.rxpy_buffer_and_dict, len), False, 1_000_000),
    "aiostream chunks": Series(lambda events, _: peers.aiostream(len, events), False, 200_000, "events"),
    "csp, an event at a time": Series(partial(peers.csp_events, len), False, 400_000),
    "streamz partition": Series(partial(peers.streamz, len), False, 200_000),
    "RxPY windows and distinct": Series(partial(peers.rxpy_windows_and_distinct, len), False, 20_000, "keys"),
    "Go, a loop over a map": Series(lambda events, window: peers.go(len, events, "map", window), False, 2_000_000),
    "Go, channels and select": Series(lambda events, window: peers.go(len, events, "select", window), False, 2_000_000),
    "DuckDB, a table of Arrow a window": Series(partial(peers.duckdb, len), False, 2_000_000),
}
NEEDS = {"streamable": "streamable", "csp,": "csp", "aiostream": "aiostream", "streamz": "streamz", "DuckDB": "duckdb"}


@dataclass(slots=True)
class Curves:
    """Seconds of CPU an event, by system, at each size."""

    events: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    keys: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def doubling(self, name: str) -> float:
        """What doubling the events does to the CPU, by the line through all sizes."""
        points = [(math.log(n), math.log(n * cost)) for n, cost in self.events[name]]
        return 2 ** statistics.linear_regression(*zip(*points, strict=True)).slope

    def growth(self, name: str) -> float:
        """How much dearer an event is with the most keys than with the fewest."""
        points = self.keys[name]
        return points[-1][1] / points[0][1]

    def relative_growth(self) -> float:
        """The worst of our growth from the fewest keys to more, over the plain dict's."""
        mine, plain_ = self.keys[COMPACT], self.keys[LOOP]
        return max(
            (cost / mine[0][1]) / (floor / plain_[0][1])
            for (_, cost), (_, floor) in zip(mine[1:], plain_[1:], strict=True)
        )


def there() -> dict[str, Series]:
    """Those that can be run here."""
    missing = [start for start, module in NEEDS.items() if not peers.find_spec(module)]
    if peers.go_program() is None:
        missing.append("Go,")
    return {name: series for name, series in SERIES.items() if not name.startswith(tuple(missing) or "-")}


def curves(event_counts: list[int], key_counts: list[int], *, rounds: int, events: int, least: int = LEAST) -> Curves:
    """Measure everyone at each size, in turns.

    Args:
        event_counts: Events of the streams with 10,000 Zipf keys and windows of 50,000 events.
        key_counts: Keys of the streams of ``events`` events, held in one window.
    """
    found = Curves()
    base = zipf(min(BASE, max(event_counts)), 10_000)
    in_chunks = chunks_of(base, 1000)
    for count in event_counts:
        chunks = (in_chunks * math.ceil(count / len(base)))[: count // 1000]
        flat = (base * math.ceil(count / len(base)))[:count]
        _at(found.events, count, "events", chunks, flat, peers.WINDOW, rounds, least)
    for keys in key_counts:
        flat = uniform(events, keys)
        _at(found.keys, keys, "keys", chunks_of(flat, 1000), flat, events, rounds, least)
    return found


def _at(
    into: dict[str, list[tuple[int, float]]],
    size: int,
    against: str,
    chunks: list[list[Event]],
    flat: list[Event],
    window: int,
    rounds: int,
    least: int,
) -> None:
    costs: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, series in there().items():
            if against not in series.against or (against == "events" and len(flat) > series.most):
                continue
            if against == "keys" and size > min(series.most, len(flat)) // 2:
                continue  # most keys would occur but once
            part = chunks if series.chunked else flat[: series.most]
            events = len(part) * (1000 if series.chunked else 1)
            times = max(1, min(least, series.most) // events)
            work = partial(series.run, part, window if events == len(flat) else events)

            spent = (
                clocked(work) if times == 1 else clocked(lambda work=work, times=times: [work() for _ in range(times)])
            )
            cpu = spent.cpu
            if isinstance(spent.result, list) and not isinstance(spent.result[0], int):
                cpu = sum(each.cpu for each in spent.result)  # measured in another process
            costs.setdefault(name, []).append(cpu / (times * events))
    for name, cost in costs.items():
        into.setdefault(name, []).append((size, statistics.median(cost)))
