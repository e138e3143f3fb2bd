"""Rows 2, 3, 4 and 11: compaction in memory, and the peers beside it."""

from __future__ import annotations

from functools import partial
from typing import Any

import ours
import plain
import reactivex as rx
from measuring import Case, Group, Target, chunks_of, expected, expected_leading, zipf
from peers import PEERS, peers

from rxcompact import operators as rxo
from rxcompact.testing import replay

LOOP = "dict loop in C, chunks of {:,}"
FIRST = "compact, chunks of {:,}, first_seen"
CHECKED = "dict loop in C with a look at the keys, chunks of {:,}"
COUNTED = "compact, chunks of 1,000, count and times"
FIRST_SEEN = ("first_seen",)
ALL = ("count", "first_seen", "last_seen")


def chunked(events: int, keys: int) -> Group:
    """Row 2."""
    stream = zipf(events, keys)
    kept, counted = expected(stream), expected(stream, counted=True)
    cases: list[Case] = []
    for size in (1000, 100):
        chunks = chunks_of(stream, size)
        cases += [
            Case(LOOP.format(size), partial(plain.dict_loop, chunks=chunks), events, kept),
            Case(CHECKED.format(size), partial(plain.dict_loop, chunks=chunks, fill=plain.checked), events, kept),
            Case(
                FIRST.format(size),
                partial(ours.compact, items=chunks, chunked=True, fields=FIRST_SEEN),
                events,
                kept,
            ),
        ]
    chunks = chunks_of(stream, 1000)
    counting = {
        "plain, count and times, C passes": plain.counting_in_c,
        "plain, count and times, C passes by chunk": plain.counting_by_chunk,
        "plain, count and times, a record a key": plain.counting_in_a_loop,
    }
    floor = "plain, count and times, a record a key, with a look at the keys"
    cases += [Case(name, partial(run, chunks=chunks), events, counted) for name, run in counting.items()]
    cases.append(Case(floor, partial(plain.checked_counting, chunks=chunks), events, counted))
    cases.append(Case(COUNTED, partial(ours.compact, items=chunks, chunked=True, fields=ALL), events, counted))
    targets = [
        Target("2", FIRST.format(1000), LOOP.format(1000), 1.2),
        Target("2", FIRST.format(100), LOOP.format(100), 1.6),
        Target("2", COUNTED, tuple(counting), 1.15),
        *(
            Target("2 floor", FIRST.format(size), CHECKED.format(size), limit)
            for size, limit in ((1000, 1.15), (100, 1.5))
        ),
        Target("2 floor", COUNTED, floor, 1.15),
    ]
    return Group("compact by chunks", cases, targets)


def windows(events: int, keys: int) -> Group:
    """Windows per key and a leading edge, beside tumbling windows of the same events."""
    stream = zipf(events, keys)
    counted, chunks = expected(stream, counted=True), chunks_of(stream, 1000)
    event_time: dict[str, Any] = {"time_mapper": "n", "lateness": float("inf")}
    kinds: dict[str, dict[str, Any]] = {
        "tumbling": {},
        "per key": {"per_key": True},
        "per key, gap": {"gap": 1e8},
        "leading": {"leading": True},
        "event time, tumbling": event_time,
        "event time, per key": event_time | {"per_key": True},
        "event time, per key, gap": event_time | {"gap": 1e8},
    }
    cases = [
        Case(
            name,
            partial(ours.compact, items=chunks, chunked=True, **options),
            events,
            expected_leading(stream) if "leading" in options else counted,
        )
        for name, options in kinds.items()
    ]
    by_hand = "by hand, a record a key"
    cases += [
        Case(by_hand, partial(plain.counting_in_a_loop, chunks=chunks), events, counted),
        Case("by hand, per key, gap", partial(plain.per_key, chunks=chunks), events, counted),
        Case("by hand, leading", partial(plain.leading, chunks=chunks), events, expected_leading(stream)),
    ]
    # the least code is 1.2 to 1.5 and 1.1 to 1.3 times its own tumbling windows, the more keys the more; with a leading
    # edge most keys make two events, and in event time each event is compared with its key's session
    limits = {"per key": 1.3, "per key, gap": 1.3, "leading": 1.5}
    limits |= {"event time, per key": 1.5, "event time, per key, gap": 1.5}
    targets = [
        Target("windows", name, "event time, tumbling" if "event" in name else "tumbling", limit)
        for name, limit in limits.items()
    ]
    targets += [Target("windows", f"by hand, {name}", by_hand, limits[name]) for name in ("per key, gap", "leading")]
    return Group("windows", cases, targets)


def single(events: int, keys: int) -> Group:
    """Row 3."""
    stream = zipf(events, keys)
    kept = expected(stream)
    inside = "compact, event by event, in a loop"
    outside = "compact, event by event, outside asyncio"
    floor = "gathered behind an observable, with a look at the keys"
    rxpy = "RxPY buffer, a dict a buffer"
    _, run, _ = PEERS[rxpy]
    cases = [
        Case("callback with a key function", partial(plain.callback, events=stream), events, kept),
        Case(floor, partial(plain.gathered, events=stream), events, kept),
        Case(inside, partial(ours.compact_in_loop, events=stream, fields=FIRST_SEEN), events, kept),
        Case(outside, partial(ours.compact, items=stream, chunked=False, fields=FIRST_SEEN), events, kept),
        Case(rxpy, partial(run, events=stream), events, kept),
    ]
    targets = [
        Target("3", name, reference, limit)
        for name in (inside, outside)
        for reference, limit in (("callback with a key function", 1.1), (rxpy, 0.2))
    ]
    targets += [Target("3 floor", name, floor, 1.3) for name in (inside, outside)]
    return Group("compact event by event", cases, targets)


def pipeline(events: int, keys: int) -> Group:
    """Row 4, and what it costs that a pipeline can be observed."""
    stream, of = zipf(events, keys), f", {keys:,} keys"
    kept, counted = expected(stream), expected(stream, counted=True)
    chunks = chunks_of(stream, 1000)
    whole, counting = "pipeline, first_seen", "pipeline, count and times"
    by_hand = "the operators joined by hand, first_seen"
    floor, counting_floor = "batches by hand, first_seen", "batches by hand, count and times"
    mute = "pipeline that cannot be observed, first_seen"

    def first(close):
        return ours.compact(close, chunks, chunked=True, fields=FIRST_SEEN)

    cases = [
        Case(FIRST.format(1000), first, events, kept),
        Case(floor, partial(plain.published, chunks=chunks, counted=False), events, kept),
        Case(counting_floor, partial(plain.published, chunks=chunks, counted=True), events, counted),
        Case(by_hand, lambda close: ours.joined_by_hand(close, chunks, fields=FIRST_SEEN), events, kept),
        Case(
            mute,
            lambda close: ours.pipeline(close, chunks, fields=FIRST_SEEN, runner=ours.Mute),
            events,
            kept,
        ),
        Case(whole, lambda close: ours.pipeline(close, chunks, fields=FIRST_SEEN), events, kept),
        Case(COUNTED, lambda close: ours.compact(close, chunks, chunked=True, fields=ALL), events, counted),
        Case(counting, lambda close: ours.pipeline(close, chunks, fields=ALL), events, counted),
    ]
    targets = [
        Target("4" + of, whole, FIRST.format(1000), 1.4),
        Target("4" + of, counting, COUNTED, 1.4),
        Target("4 floor" + of, whole, floor, 1.3),
        Target("4 floor" + of, counting, counting_floor, 1.3),
        Target("observers" + of, whole, mute, 1.05),
    ]
    return Group("whole pipeline" + of, cases, targets)


def beside(events: int, keys: int) -> Group:
    """The peers."""
    stream = zipf(events, keys)
    kept = expected(stream)
    chunks = chunks_of(stream, 1000)
    ours_ = Case(
        FIRST.format(1000),
        lambda close: ours.compact(close, chunks, chunked=True, fields=FIRST_SEEN),
        events,
        kept,
    )
    cases = [
        Case(LOOP.format(1000), partial(plain.dict_loop, chunks=chunks), events, kept),
        ours_,
        Case("Python, a for loop over a dict", partial(plain.for_loop, events=stream), events, kept),
        *peers(stream),
    ]
    go = "Go, channels and select"
    # ahead of the original that it replaces
    targets = [Target("2", ours_.name, go, 1.0)] if any(case.name == go for case in cases) else []
    return Group("peers", cases, targets)


def replaying(events: int) -> Group:
    """Row 11: a replay in event time, beside the same operator in chunks."""
    stream = [{"ts": 1.7e9 + number * 0.02, "id": number * 7919 % 1000} for number in range(events)]
    chunks = chunks_of(stream, 1000)
    options: dict[str, Any] = {"key_mapper": "id", "time_mapper": "ts", "lateness": 5}

    def chunked(_: Any) -> int:
        windows: list[Any] = []
        rx.from_iterable(chunks).pipe(rxo.compact(60, **options, chunked=True)).subscribe(windows.append)
        return sum(window.received for window in windows)

    def replayed(_: Any) -> int:
        return sum(window.received for window in replay(stream, rxo.compact(60, **options), time_mapper="ts"))

    cases = [Case("event time, chunks of 1,000", chunked, events, events), Case("replay", replayed, events, events)]
    targets = [
        Target("11", "replay", cases[0].name, 0.7, least=True),
        Target("11", "replay", "replay", 1.0, of="ideal cpu"),
    ]
    return Group("replay", cases, targets, ideal=1 / 1.5e6)
