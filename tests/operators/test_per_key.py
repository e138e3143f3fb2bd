"""Windows per key: opened by a key's first event, closed after a gap or a timespan, against definitions written out."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from typing import Any, cast

import pytest
import reactivex as rx
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import simple_pipeline
from reactivex.scheduler import VirtualTimeScheduler

from rxcompact import Ack, Chunk, Orchestrator, merge
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter, Window
from rxcompact.testing import START, replay, virtual_loop

Event = dict[str, Any]
Shown = tuple[str, str, float, float, list[int]]
"""Key, trigger, opened, closed, and the numbers of the events."""


def numbers(kept: Any, event: Any) -> Any:
    """An accumulator that keeps which events it saw, of two sessions too."""
    return kept | {"seen": [*kept.get("seen", [kept["n"]]), *event.get("seen", [event["n"]])]}


def shown(windows: list[Window]) -> list[Shown]:
    found: list[Shown] = []
    for window in windows:
        keys = [compacted.key for compacted in window]
        assert len(set(keys)) == len(keys) > 0
        assert window.received == sum(compacted.count or 0 for compacted in window)
        for c in window:
            assert c.window is not None
            seen = sorted(c.event.get("seen", [c.event["n"]]))
            assert c.count == len(seen)
            assert window.opened <= c.window.opened < c.window.closed <= window.closed or c.window.trigger != "time"
            found.append((c.key, c.window.trigger, c.window.opened, c.window.closed, seen))
    return found


class Bench:
    """A subject of chunks behind compact, in RxPY's virtual time."""

    def __init__(self, timespan: float, **options: Any) -> None:
        self.scheduler = VirtualTimeScheduler(0.0)
        self.chunks: rx.Subject[Any] = rx.Subject()
        self.windows: list[Window] = []
        self.emitted: list[float] = []
        self.letters: list[DeadLetter] = []
        options = {"key_mapper": "id", "per_key": True, "keep": numbers, "dead_letters": self.letters.append} | options
        self.chunks.pipe(rxo.compact(timespan, chunked=True, **options)).subscribe(
            self.on_window, scheduler=self.scheduler
        )

    def on_window(self, window: Window) -> None:
        self.windows.append(window)
        self.emitted.append(self.scheduler.now.timestamp())

    def at(self, instant: float, *events: Event) -> None:
        self.scheduler.advance_to(instant)
        self.chunks.on_next(list(events))


# ── processing time ───────────────────────────────────────────────────────────────────────────────────────────────────


def by_the_clock(stream: list[Event], timespan: float, gap: float, end: float) -> list[Shown]:
    """The definition: a key's window ends a gap after its last event, at the latest a timespan after its first."""
    found: list[Shown] = []
    ranges: dict[str, list[list[Event]]] = {}
    for event in stream:
        rows = ranges.setdefault(event["id"], [])
        if not rows or event["t"] >= min(rows[-1][-1]["t"] + gap, rows[-1][0]["t"] + timespan):
            rows.append([])
        rows[-1].append(event)
    for key, rows in ranges.items():
        for row in rows:
            first, last = row[0]["t"], row[-1]["t"]
            closed = min(last + gap, first + timespan)
            trigger = "completed" if closed > end else "gap" if last + gap < first + timespan else "time"
            found.append((key, trigger, first, min(closed, end), [event["n"] for event in row]))
    return found


streams = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abcd")), max_size=60).map(
    lambda found: [{"t": t, "id": key, "n": n} for n, (t, key) in enumerate(sorted(found))]
)


@given(streams, st.integers(1, 30), st.none() | st.integers(1, 12))
@settings(max_examples=150)
def test_windows_by_the_clock_are_those_of_the_definition(stream: list[Event], timespan: int, gap: int | None) -> None:
    bench = Bench(timespan, gap=gap)
    for event in stream:
        bench.at(event["t"], event)
    bench.scheduler.advance_to(70)
    bench.chunks.on_completed()
    assert sorted(shown(bench.windows)) == sorted(by_the_clock(stream, timespan, gap or 1000, 70))
    for window, at in zip(bench.windows, bench.emitted, strict=True):
        assert {compacted.window.closed for compacted in window if compacted.window} == {at}  # not later, not earlier


def test_constant_traffic_does_not_hold_a_window_open_and_silence_closes_it() -> None:
    bench = Bench(60, gap=5)
    for second in range(100):
        bench.at(second, {"id": "a", "n": second})
    bench.scheduler.advance_to(200)
    assert [(t, o, c, len(seen)) for _, t, o, c, seen in shown(bench.windows)] == [
        ("time", 0, 60, 60),
        ("gap", 60, 104, 40),
    ]
    assert bench.emitted == [60, 104]


def test_what_is_due_together_leaves_in_one_window() -> None:
    bench = Bench(60, gap=5, keep="first", key_mapper=lambda event: event)
    bench.at(1, *range(3000))
    bench.at(2, *range(1000))
    bench.scheduler.advance_to(20)
    assert [(w.opened, w.closed, w.received, len(w)) for w in bench.windows] == [(1, 6, 2000, 2000), (1, 7, 2000, 1000)]


def test_a_count_closes_the_windows_of_all_keys() -> None:
    bench = Bench(60, gap=5, count=2)
    bench.at(1, *({"id": key, "n": n} for n, key in enumerate("aab")), {"id": "c", "n": 3})
    bench.scheduler.advance_to(20)
    assert [(key, trigger, seen) for key, trigger, _, _, seen in shown(bench.windows)] == [
        ("a", "count", [0, 1]),
        ("b", "count", [2]),
        ("c", "gap", [3]),
    ]


def test_of_too_many_keys_the_one_that_is_due_first_leaves_before_its_time() -> None:
    bench = Bench(60, gap=5, max_keys=2, overflow="drop_oldest")
    bench.at(1, {"id": "a", "n": 0})
    bench.at(2, {"id": "b", "n": 1}, {"id": "a", "n": 2})
    bench.at(3, {"id": "c", "n": 3})
    bench.chunks.on_completed()
    assert not bench.letters
    assert [(key, trigger, closed, seen) for key, trigger, _, closed, seen in shown(bench.windows)] == [
        ("a", "count", 3, [0, 2]),
        ("b", "completed", 3, [1]),
        ("c", "completed", 3, [3]),
    ]


def test_evicted_keys_that_come_again_leave_nothing_behind() -> None:
    bench = Bench(60, gap=5, max_keys=2, overflow="drop_oldest")
    counts: Counter[str] = Counter()
    for n in range(300):
        bench.at(n / 100, {"id": "abc"[n % 3], "n": n})
    bench.scheduler.advance_to(100)
    for window in bench.windows:
        counts.update({compacted.key: compacted.count or 0 for compacted in window})
    assert counts == {"a": 100, "b": 100, "c": 100}


@pytest.mark.parametrize("options", [{}, {"keep": "last"}, {"leading": True}, {"time_mapper": "ts", "lateness": 20}])
def test_the_bytes_of_the_events_held_are_those_of_the_lines(options: dict[str, Any]) -> None:
    scheduler = VirtualTimeScheduler(0.0)
    chunks: rx.Subject[Any] = rx.Subject()
    stages: list[Any] = []
    compact = cast(Any, rxo.compact(60, key_mapper="id", gap=5, chunked=True, **options)).having(
        raw=True, register=stages.append
    )
    chunks.pipe(compact).subscribe(lambda _: None, scheduler=scheduler)
    lines = [b'{"id": "a", "ts": 0}', b'{"id": "a", "ts": 8.25}', b'{"id": "b", "ts": 1.5}', b'{"id": "a", "ts": 4}']
    chunks.on_next(lines)
    kept = {"last": lines[2:], "first": [lines[0], lines[2]]}[options.get("keep", "first")]
    if "leading" in options:
        kept = [lines[1]]
    assert stages[0].size == sum(map(len, kept))  # in event time the last line has joined two sessions
    chunks.on_completed()
    assert stages[0].size == 0


async def test_windows_follow_the_monotonic_clock_when_the_wall_clock_is_set() -> None:
    windows: list[Window] = []
    events: rx.Subject[Any] = rx.Subject()
    events.pipe(rxo.compact(60, key_mapper="id", gap=5)).subscribe(windows.append)
    events.on_next({"id": "a"})
    await asyncio.sleep(3)
    virtual_loop().jump(1000)
    events.on_next({"id": "a"})
    await asyncio.sleep(4.9)
    assert not windows
    await asyncio.sleep(0.2)
    assert [(w.opened, w.closed, w.trigger, w.received) for w in windows] == [(START + 1000, START + 1008, "gap", 2)]


async def test_a_restart_keeps_the_windows_open() -> None:
    events: rx.Subject[Any] = rx.Subject()
    out: list[Any] = []
    pipeline = simple_pipeline(events, key_mapper="id", timespan=20, gap=5, max_age=60, sink=out.extend)
    async with Orchestrator(pipeline) as orchestrator:
        events.on_next({"id": "a"})
        await asyncio.sleep(2)
        await orchestrator.restart()
        events.on_next({"id": "a"})
        await asyncio.sleep(7)
        assert [(c.key, c.count, c.window.trigger) for c in out] == [("a", 2, "gap")]
        events.on_next({"id": "b"})
    assert [(c.key, c.count, c.window.trigger) for c in out[1:]] == [("b", 1, "drain")]


@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("times", [{}, {"time_mapper": "ts", "lateness": 0}])
async def test_a_message_is_acknowledged_when_the_windows_of_all_its_keys_are_published(
    leading: bool, times: Any
) -> None:
    settled: list[int] = []
    messages: rx.Subject[Any] = rx.Subject()
    out: list[Any] = []

    class Source:
        def stream(self, _: Any) -> Any:
            return messages

    def send(number: int, keys: str) -> None:
        now = virtual_loop().wall()
        messages.on_next(Chunk([{"id": key, "ts": now} for key in keys], Ack(settled.extend, number)))

    pipeline = simple_pipeline(
        Source(),
        key_mapper="id",
        timespan=30,
        gap=5,
        leading=leading,
        max_age=60,
        sink=out.extend,
        batch_timespan=0,
        **times,
    )
    async with Orchestrator(pipeline):
        send(1, "aabb")
        await asyncio.sleep(3)
        send(2, "ca")
        await asyncio.sleep(3)
        assert [c.key for c in out if not c.leading] == ["b"]
        assert settled == []  # a waits on
        await asyncio.sleep(3)
        assert sorted(settled) == [1, 2]
    received = 4 if leading else 6
    assert sum(c.count for c in out if not c.leading) == received - leading


# ── event time ────────────────────────────────────────────────────────────────────────────────────────────────────────


def by_event_time(
    stream: list[Event], timespan: float, gap: float, lateness: float
) -> tuple[list[tuple[str, float, float, list[int]]], list[int]]:
    """The definition: an event joins the open sessions of its key that it touches, in their order, if they stay short.

    Returns key, begin, end and events of each session, and the late events.
    """
    sessions: list[dict[str, Any]] = []
    late: list[int] = []
    latest = float("-inf")

    def end(session: dict[str, Any]) -> float:
        return min(session["last"] + gap, session["first"] + timespan)

    for event in stream:
        time, watermark = event["ts"], latest - lateness
        latest = max(latest, time)
        own = {"key": event["id"], "first": time, "last": time, "seen": [event["n"]]}
        joined = False
        for other in sorted(sessions, key=lambda session: session["first"]):
            if other["key"] != event["id"] or end(other) <= watermark:
                continue
            if not other["first"] - gap <= time <= other["last"] + gap:
                continue
            first, last = min(own["first"], other["first"]), max(own["last"], other["last"])
            if last - first < timespan:
                sessions.remove(other)
                own |= {"first": first, "last": last, "seen": sorted(own["seen"] + other["seen"])}
                joined = True
        if joined or end(own) > watermark:
            sessions.append(own)
        else:
            late.append(event["n"])
    return [(session["key"], session["first"], end(session), session["seen"]) for session in sessions], late


disordered = st.lists(st.tuples(st.integers(0, 80), st.sampled_from("ab")), max_size=50).map(
    lambda found: [{"ts": ts, "id": key, "n": n} for n, (ts, key) in enumerate(found)]
)


@given(disordered, st.integers(1, 40), st.none() | st.integers(1, 12), st.integers(0, 40), st.integers(1, 60))
@settings(max_examples=300)
def test_sessions_of_event_time_are_those_of_the_definition(
    stream: list[Event], timespan: int, gap: int | None, lateness: int, size: int
) -> None:
    bench = Bench(timespan, gap=gap, time_mapper="ts", lateness=lateness)
    for start in range(0, len(stream), size):
        bench.chunks.on_next(stream[start : start + size])
    bench.chunks.on_completed()
    expected, late = by_event_time(stream, timespan, gap or 1000, lateness)
    assert sorted((key, first, last, seen) for key, _, first, last, seen in shown(bench.windows)) == sorted(expected)
    assert [letter.event["n"] for letter in bench.letters] == late
    assert {letter.reason for letter in bench.letters} <= {"late"}


@given(disordered, st.integers(1, 40), st.none() | st.integers(1, 12), st.integers(0, 40), st.booleans())
@settings(max_examples=150)
def test_leading_and_trailing_sum_to_what_was_received(
    stream: list[Event], timespan: int, gap: int | None, lateness: int, event_time: bool
) -> None:
    times: dict[str, Any] = {"time_mapper": "ts", "lateness": lateness} if event_time else {}
    bench = Bench(timespan, gap=gap, leading=True, keep="first", **times)
    if not event_time:
        stream.sort(key=lambda event: event["ts"])
    for event in stream:
        bench.at(0 if event_time else event["ts"], event)
    bench.chunks.on_completed()
    led = {(c.key, c.first_seen) for window in bench.windows if window.trigger == "leading" for c in window}
    repeats = [(c.key, c.first_seen) for window in bench.windows if window.trigger != "leading" for c in window]
    assert set(repeats) <= led  # each bears the id of one that has left before
    assert len(set(repeats)) == len(repeats)
    assert sum(window.received for window in bench.windows) + len(bench.letters) == len(stream)


def test_an_event_that_comes_late_joins_two_sessions() -> None:
    history = [
        {"id": "a", "ts": float(ts), "n": 1, "host": host} for ts, host in ((0, "x"), (8, "y"), (4, "z"), (30, "x"))
    ]
    keep = merge(n="sum", host="distinct")
    compact = rxo.compact(60, key_mapper="id", gap=5, time_mapper="ts", lateness=10, keep=keep)
    first, last = replay(history, compact, time_mapper="ts")
    assert tuple(first[0]) == ("a", {"id": "a", "ts": 0.0, "n": 3, "host": ["x", "y", "z"]}, 3, 0.0, 8.0)
    assert (first.opened, first.closed, first.trigger) == (0.0, 13.0, "gap")
    assert (last.opened, last.closed, last[0].count) == (30.0, 35.0, 1)


def test_an_accumulator_that_cannot_join_two_sessions_leaves_them_two() -> None:
    def brittle(kept: Any, event: Any) -> Any:
        return kept | {"n": kept["n"] + 10 // event["n"]}

    history = [{"id": "a", "ts": float(ts), "n": n} for ts, n in ((0, 1), (8, 0), (4, 5))]
    compact = rxo.compact(60, key_mapper="id", gap=5, time_mapper="ts", lateness=10, keep=brittle)
    windows = replay(history, compact, time_mapper="ts")
    assert [(c.first_seen, c.last_seen, c.count, c.event["n"]) for window in windows for c in window] == [
        (0.0, 4.0, 2, 3),
        (8.0, 8.0, 1, 0),
    ]


async def test_sessions_of_a_source_that_falls_idle_are_closed_by_the_clock() -> None:
    windows: list[Window] = []
    events: rx.Subject[Any] = rx.Subject()
    compact = rxo.compact(60, key_mapper="id", gap=5, time_mapper="ts", lateness=2)
    events.pipe(compact).subscribe(windows.append)
    events.on_next({"id": "a", "ts": START})
    await asyncio.sleep(6.9)
    assert not windows
    await asyncio.sleep(0.2)
    assert [(w.opened, w.closed, w.trigger) for w in windows] == [(START, START + 5, "gap")]


@pytest.mark.parametrize("gap", [None, 4])
def test_the_clock_closes_a_session_that_begins_before_others_when_it_ends(gap: float | None) -> None:
    bench = Bench(10, gap=gap, time_mapper="ts", lateness=0 if gap is None else 7)
    bench.at(1, {"id": "a", "ts": 24, "n": 0}, {"id": "b", "ts": 15, "n": 1})
    bench.scheduler.advance_to(50)
    assert [(key, opened, closed) for key, _, opened, closed, _ in shown(bench.windows)] == [
        ("b", 15, 25 if gap is None else 19),
        ("a", 24, 34 if gap is None else 28),
    ]
    assert bench.emitted == ([2, 11] if gap is None else [3, 12])


def test_many_sessions_of_one_key_take_linear_time() -> None:
    calls = 0

    def counted(event: Event) -> str:
        nonlocal calls
        calls += 1
        return str(event["id"])

    stream = [{"id": "a", "ts": 10.0 * n, "n": n} for n in range(20_000)]
    bench = Bench(60, gap=5, time_mapper="ts", lateness=float("inf"), key_mapper=counted, keep="first", tolerance=1e9)
    bench.chunks.on_next(stream)
    bench.chunks.on_completed()
    assert len(bench.windows) == len(stream) == calls  # a key is in a window once


@pytest.mark.parametrize("kind", ["each before the last", "each joins two"])
@pytest.mark.parametrize("gap", [None, 5])
def test_the_memory_of_sessions_is_that_of_their_keys(kind: str, gap: float | None) -> None:
    events = 10_000
    times = [float(events - n) for n in range(events)]
    if kind == "each joins two":
        times = [4.0 * (n + (n % 2 or -1)) for n in range(events)]  # -4, 8, 4, 16, 12, …
    bench = Bench(1e9, gap=gap, time_mapper="ts", lateness=1e8, keep="first", tolerance=1e9)
    stream = [{"id": "a", "ts": ts} for ts in times]
    tracemalloc.start()
    for start in range(0, events, 100):
        bench.chunks.on_next(stream[start : start + 100])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1_000_000  # else 3 MB
    bench.chunks.on_completed()
    assert sum(window.received for window in bench.windows) == events


@pytest.mark.parametrize("gap", [0, -1, "5", float("nan"), True])
def test_a_gap_that_is_none_is_refused(gap: Any) -> None:
    with pytest.raises(ArgumentError, match="gap"):
        rxo.compact(10, key_mapper="id", gap=gap)


def test_a_session_that_an_earlier_event_begins_anew_ends_earlier() -> None:
    bench = Bench(10, gap=100, time_mapper="ts", lateness=10)
    for ts in (50, 45, 66):
        bench.at(0, {"id": "a", "ts": ts, "n": ts})
    assert shown(bench.windows) == [("a", "time", 45, 55, [45, 50])]  # the watermark is 56


def test_an_event_that_comes_before_a_late_timer_opens_a_new_window() -> None:
    bench = Bench(60, gap=5)
    bench.at(1, {"id": "a", "n": 0})
    bench.scheduler.sleep(7)  # no timer fires
    bench.chunks.on_next([{"id": "a", "n": 1}])
    bench.chunks.on_completed()
    assert [(trigger, opened, closed, seen) for _, trigger, opened, closed, seen in shown(bench.windows)] == [
        ("gap", 1, 6, [0]),
        ("completed", 8, 8, [1]),
    ]


async def test_the_messages_of_two_sessions_that_join_wait_for_what_they_become() -> None:
    settled: list[int] = []
    messages: rx.Subject[Any] = rx.Subject()
    out: list[Any] = []

    class Source:
        def stream(self, _: Any) -> Any:
            return messages

    now = virtual_loop().wall()
    pipeline = simple_pipeline(
        Source(), key_mapper="id", timespan=30, gap=5, max_age=90, sink=out.extend, time_mapper="ts", lateness=20
    )
    async with Orchestrator(pipeline):
        for number, ts in enumerate((0, 8, 4)):
            messages.on_next(Chunk([{"id": "a", "ts": now + ts}], Ack(settled.extend, number)))
        await asyncio.sleep(5)
        assert settled == []
    assert [c.count for c in out] == [3]
    assert sorted(settled) == [0, 1, 2]
