"""DESIGN.md §3, promises 1 to 5: laws of compact on generated streams, in RxPY's own virtual time."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from itertools import count, groupby
from operator import itemgetter
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import from_iterable
from reactivex import operators as ops
from reactivex.testing import ReactiveTest, TestScheduler

from rxcompact import key_of, time_of
from rxcompact import operators as rxo
from rxcompact.events import DeadLetter, Window
from rxcompact.fields import Field
from rxcompact.keys import Json

Event = dict[str, Any]
TIMESPAN = 10

events = st.lists(
    st.tuples(st.integers(1, 200), st.sampled_from("abcdef")).map(lambda pair: {"t": pair[0], "id": pair[1]}),
    max_size=60,
).map(lambda found: [event | {"n": n} for n, event in enumerate(sorted(found, key=itemgetter("t")))])


def run(stream: list[Event], operator: Any, *, chunked: bool = False, end: int = 205) -> list[Any]:
    """Return (virtual seconds, item) of what the operator makes of events at their times ``t``."""
    scheduler = TestScheduler()
    if chunked:
        items = [(t, list(group)) for t, group in groupby(stream, itemgetter("t"))]
    else:
        items = [(event["t"], event) for event in stream]
    hot = scheduler.create_hot_observable(
        *(ReactiveTest.on_next(200 + t, item) for t, item in items), ReactiveTest.on_completed(200 + end)
    )
    observer = scheduler.start(lambda: hot.pipe(operator), disposed=1000)
    return [(message.time - 200, message.value.value) for message in observer.messages if message.value.kind == "N"]


def first_per_key(buffer: list[Event]) -> list[Event]:
    kept: list[Event] = []
    rx_distinct = ops.distinct(itemgetter("id"))
    from_iterable(buffer).pipe(rx_distinct).subscribe(kept.append)
    return kept


@given(events, st.booleans())
def test_compact_equals_rxpys_buffers_with_a_distinct_on_each(stream: list[Event], chunked: bool) -> None:
    oracle = [(t, first_per_key(buffer)) for t, buffer in run(stream, ops.buffer_with_time(float(TIMESPAN))) if buffer]
    windows = run(stream, rxo.compact(TIMESPAN, key_mapper="id", chunked=chunked), chunked=chunked)

    assert [(t, [compacted.event for compacted in window]) for t, window in windows] == oracle


@given(events, st.booleans(), st.none() | st.integers(1, 4), st.sampled_from(["first", "last"]))
def test_each_key_once_and_counts_sum_to_what_was_received(
    stream: list[Event], chunked: bool, count: int | None, keep: Any
) -> None:
    windows: list[Window] = [
        window
        for _, window in run(
            stream, rxo.compact(TIMESPAN, key_mapper="id", count=count, keep=keep, chunked=chunked), chunked=chunked
        )
    ]
    at = iter(stream)
    for window in windows:
        received = [next(at) for _ in range(window.received)]
        by_key: dict[str, list[Event]] = {}
        for event in received:
            by_key.setdefault(event["id"], []).append(event)
        assert [c.key for c in window] == list(by_key)
        assert [c.event for c in window] == [found[0 if keep == "first" else -1] for found in by_key.values()]
        assert [c.count for c in window] == [len(found) for found in by_key.values()]
        assert [c.first_seen for c in window] == [200 + found[0]["t"] for found in by_key.values()]
        assert [c.last_seen for c in window] == [200 + found[-1]["t"] for found in by_key.values()]
        assert 0 < len(window) <= (count or len(by_key))
        assert window.trigger != "count" or len(window) == count
    assert next(at, None) is None


@given(events, st.booleans())
def test_an_accumulator_sees_all_events_of_a_key_in_order(stream: list[Event], chunked: bool) -> None:
    def join(acc: Any, event: Event) -> Event:
        return {"ns": [*acc.get("ns", [acc.get("n")]), event["n"]]}

    by_last = run(stream, rxo.compact(TIMESPAN, key_mapper="id", keep=join, chunked=chunked), chunked=chunked)
    seen = [n for _, window in by_last for c in window for n in c.event.get("ns", [c.event.get("n")])]
    assert Counter(seen) == Counter(event["n"] for event in stream)
    for _, window in by_last:
        for compacted in window:
            ns = compacted.event.get("ns", [compacted.event.get("n")])
            assert ns == sorted(ns)
            assert len(ns) == compacted.count


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


UNHASHABLE = Unhashable()
bad = st.lists(
    st.tuples(st.integers(1, 60), st.sampled_from(["a", "b", UNHASHABLE, None])).map(
        lambda pair: {"t": pair[0]} | ({"id": pair[1]} if pair[1] is not None else {})
    ),
    max_size=40,
).map(lambda found: [event | {"n": n} for n, event in enumerate(sorted(found, key=itemgetter("t")))])


@given(bad, st.booleans(), st.sampled_from(["first", "last", lambda _, event: event]), st.none() | st.integers(1, 3))
def test_a_key_that_cannot_be_had_is_a_dead_letter_and_its_neighbours_go_on(
    stream: list[Event], chunked: bool, keep: Any, count: int | None
) -> None:
    letters: list[DeadLetter] = []
    compact = rxo.compact(
        TIMESPAN,
        key_mapper=key_of("id", missing="reject"),
        keep=keep,
        count=count,
        chunked=chunked,
        dead_letters=letters.append,
    )
    windows = [window for _, window in run(stream, compact, chunked=chunked)]

    wrong = [event for event in stream if not isinstance(event.get("id"), str)]
    assert sorted(letter.event["n"] for letter in letters) == [event["n"] for event in wrong]
    assert {(letter.outcome, letter.stage, letter.reason) for letter in letters} <= {("rejected", "compact", "key")}
    good = [event for event in stream if event not in wrong]
    assert sum(window.received for window in windows) == len(good)
    assert Counter(e["id"] for e in good) == sum(
        (Counter({c.key: c.count}) for window in windows for c in window), Counter()
    )


class Raising(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise ValueError("no hash")


class Odd:
    def __init__(self, text: str = "") -> None:
        self.text = text

    def __hash__(self) -> int:
        if self.text:
            return hash(self.text)
        raise GeneratorExit

    def __eq__(self, other: object) -> bool:
        raise GeneratorExit


class Name(str):
    __slots__ = ()


class Color(StrEnum):
    RED = "a"


class Row(NamedTuple):
    id: str
    n: int


ABSENT = object()
LONGEST = 65_536
KEYS: list[tuple[Any, Any]] = [  # what an event has as its key, and what it is apart by; ABSENT where it is rejected
    *[(text, text) for text in ("a", "b", "1", "x" * LONGEST)],
    *[(Color.RED, "a"), (Name("b"), "b"), (Name("only"), "only")],
    *[(None, None), (ABSENT, None), (0, 0), (1, 1), (1.0, ("float", 1)), (True, ("bool", 1)), ([1], ("list", 1))],
    *[(Row("a", 0), "a"), (Row("of a row", 0), "of a row")],  # the event itself, which is no dict
    *[
        ("x" * (LONGEST + 1), ABSENT),
        (UNHASHABLE, ABSENT),
        (Raising("raises"), "raises"),
        (Odd(), ABSENT),
        (Odd("a"), ABSENT),
    ],
]


kept = pytest.mark.parametrize("keep", ["first", "last"])
counted = pytest.mark.parametrize("fields", [("first_seen",), ("count", "last_seen")])


@kept
@counted
@given(chunks=st.lists(st.lists(st.sampled_from(range(len(KEYS))), min_size=1, max_size=6), max_size=6))
def test_keys_of_all_kinds_are_apart_in_chunks_of_mappings(chunks: list[list[int]], keep: Any, fields: Any) -> None:
    are_apart(chunks, keep, fields)


@kept
@counted
@pytest.mark.parametrize("at", range(len(KEYS)))
def test_a_key_of_each_kind_is_apart_from_texts(at: int, keep: Any, fields: Any) -> None:
    are_apart([[0, at, 1]], keep, fields)


def are_apart(chunks: list[list[int]], keep: Any, fields: Any) -> None:
    texts = [(text, text) for text in "abca"]
    expected: dict[Any, list[int]] = {}
    stream: list[list[Any]] = []
    number, numbers = Field("n"), count()
    for chunk in (texts, *([KEYS[at] for at in chunk] for chunk in chunks), texts):
        stream.append([])
        for value, key in chunk:
            n = next(numbers)
            expected.setdefault(key, []).append(n)
            if isinstance(value, Row):
                stream[-1].append(value._replace(n=n))
            else:
                stream[-1].append({"n": n} if value is ABSENT else {"id": value, "n": n})
    wrong = expected.pop(ABSENT, [])
    letters: list[DeadLetter] = []
    windows: list[Window] = []
    reduced = rxo.compact(
        TIMESPAN, key_mapper="id", keep=keep, fields=fields, chunked=True, dead_letters=letters.append
    )
    from_iterable(stream).pipe(reduced).subscribe(windows.append)
    [window] = windows
    place = 0 if keep == "first" else -1
    assert [number(c.event) for c in window] == [found[place] for found in expected.values()]
    assert [c.count for c in window] == [len(found) if "count" in fields else None for found in expected.values()]
    assert {type(c.key) for c in window} <= {str, int, type(None), Json}
    assert window.received == sum(map(len, expected.values()))
    assert [letter.event["n"] for letter in letters] == wrong


def test_a_mapper_of_times_as_that_of_keys_gives_the_times_of_texts() -> None:
    windows: list[Window] = []
    chunks = [[{"ts": "1970-01-01T00:00:10Z"}, {"ts": "1970-01-01T01:00:10+01:00"}]] * 2
    from_iterable(chunks).pipe(rxo.compact(TIMESPAN, key_mapper=time_of("ts"), chunked=True)).subscribe(windows.append)
    assert [(c.key, c.count) for c in windows[0]] == [(10.0, 4)]


# ── event time ────────────────────────────────────────────────────────────────────────────────────────────────────────

disordered = st.lists(
    st.tuples(st.integers(0, 120), st.sampled_from("abc")).map(lambda pair: {"ts": pair[0], "id": pair[1]}), max_size=60
)


@given(disordered, st.integers(0, 40), st.integers(1, 25), st.integers(1, 60))
def test_event_time_buckets_are_those_of_the_definition(
    stream: list[Event], lateness: int, timespan: int, chunk: int
) -> None:
    expected: dict[int, list[Event]] = {}
    late: list[Event] = []
    latest = float("-inf")
    for event in stream:
        start = event["ts"] // timespan * timespan
        if start + timespan <= latest - lateness:
            late.append(event)
        else:
            expected.setdefault(start, []).append(event)
        latest = max(latest, event["ts"])

    def compacted(chunked: bool) -> tuple[list[Window], list[Event]]:
        letters: list[DeadLetter] = []
        operator = rxo.compact(
            timespan, key_mapper="id", time_mapper="ts", lateness=lateness, chunked=chunked, dead_letters=letters.append
        )
        scheduler = TestScheduler()  # stands still at 0; 120 s ahead is within the tolerance
        windows: list[Window] = []
        chunks = [stream[i : i + chunk] for i in range(0, len(stream), chunk)]
        source: Any = from_iterable(chunks if chunked else stream)
        source.pipe(operator).subscribe(windows.append, scheduler=scheduler)
        scheduler.start()
        assert {letter.reason for letter in letters} <= {"late"}
        return windows, [letter.event for letter in letters]

    for windows, refused in (compacted(chunked=False), compacted(chunked=True)):
        assert refused == late
        assert [window.opened for window in windows] == sorted(expected)
        for window in windows:
            assert window.closed == window.opened + timespan
            found = expected[int(window.opened)]
            assert window.received == len(found)
            assert {c.key: c.count for c in window} == Counter(event["id"] for event in found)
            for c in window:
                times = [event["ts"] for event in found if event["id"] == c.key]
                assert (c.first_seen, c.last_seen) == (min(times), max(times))
                assert c.event is next(event for event in found if event["id"] == c.key)
