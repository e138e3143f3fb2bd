"""compact: triggers, drift, room, threads, ends. Virtual time wherever something waits."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
import tracemalloc
import weakref
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import reactivex as rx
from reactivex import Observable
from reactivex.disposable import Disposable
from reactivex.scheduler import EventLoopScheduler, TimeoutScheduler, VirtualTimeScheduler
from reactivex.subject import Subject

from rxcompact import Ack, Chunk
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, NoRoomError
from rxcompact.events import DeadLetter, Window
from rxcompact.operators import windows as windows_module


class Bench:
    """A subject behind compact, in RxPY's virtual time."""

    def __init__(self, timespan: Any = 10, **options: Any) -> None:
        self.scheduler = VirtualTimeScheduler(0.0)
        self.source: Subject[Any] = Subject()
        self.windows: list[Window] = []
        self.letters: list[DeadLetter] = []
        self.ended: list[Exception | None] = []
        self.subscription = self.source.pipe(
            rxo.compact(
                timespan, **({"key_mapper": lambda event: event, "dead_letters": self.letters.append} | options)
            )
        ).subscribe(self.windows.append, self.ended.append, lambda: self.ended.append(None), scheduler=self.scheduler)

    def at(self, instant: float, *events: Any) -> None:
        self.scheduler.advance_to(instant)
        for event in events:
            self.source.on_next(event)

    def keys(self) -> list[list[Any]]:
        return [[compacted.key for compacted in window] for window in self.windows]


def test_a_window_closes_on_time_though_traffic_never_pauses() -> None:
    bench = Bench(10)
    for tenth in range(1, 1000):
        bench.at(tenth / 10, "a")
    assert [(w.opened, w.closed, w.trigger) for w in bench.windows] == [
        (10.0 * n, 10.0 * n + 10, "time") for n in range(9)
    ]


def test_an_idle_source_closes_its_window_and_no_window_is_empty() -> None:
    bench = Bench(timedelta(seconds=10))
    bench.at(1, "a")
    bench.scheduler.advance_to(1000)
    assert [(w.closed, w.trigger) for w in bench.windows] == [(10.0, "time")]
    bench.source.on_completed()
    assert len(bench.windows) == 1
    assert bench.ended == [None]


def test_a_window_closes_on_count_of_distinct_keys_and_the_timespan_starts_anew() -> None:
    bench = Bench(10, count=2)
    bench.at(4, "a", "a", "b")
    bench.at(13, "c")
    bench.at(20)
    assert bench.keys() == [["a", "b"], ["c"]]
    assert [(w.opened, w.closed, w.trigger) for w in bench.windows] == [(0, 4, "count"), (4, 14, "time")]


def test_the_timer_does_not_drift_though_every_tick_comes_late() -> None:
    late = 0.01

    class LateScheduler(VirtualTimeScheduler):
        def schedule_relative(self, duetime: Any, action: Any, state: Any = None) -> Any:
            return super().schedule_relative(self.to_seconds(duetime) + late, action, state)

    scheduler = LateScheduler(0.0)
    windows: list[Window] = []
    source: Subject[str] = Subject()
    source.pipe(rxo.compact(10, key_mapper=lambda e: e)).subscribe(windows.append, scheduler=scheduler)
    for second in range(1, 10_000):
        scheduler.advance_to(float(second))
        source.on_next("a")
    assert len(windows) == 999
    assert windows[-1].closed == pytest.approx(9990 + late)


def test_completion_drain_and_error_emit_what_is_held() -> None:
    flushes: Subject[None] = Subject()
    bench = Bench(10, flushes=flushes)
    bench.at(1, "a")
    flushes.on_next(None)
    bench.at(2, "b")
    bench.source.on_completed()
    assert [(w.trigger, len(w)) for w in bench.windows] == [("drain", 1), ("completed", 1)]

    bench = Bench(10)
    bench.at(1, "a")
    error = RuntimeError("source died")
    bench.source.on_error(error)
    assert bench.keys() == [["a"]]
    assert bench.ended == [error]


@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_kept_is_the_callers_choice(chunked: bool) -> None:
    bench = Bench(10, fields=("first_seen",), chunked=chunked)
    bench.at(1, *([["a", "b"]] if chunked else ["a", "b"]))
    bench.at(2, *([["a", "c"]] if chunked else ["a", "c"]))
    bench.at(10)
    assert [tuple(c) for c in bench.windows[0]] == [
        ("a", "a", None, 1, None),
        ("b", "b", None, 1, None),
        ("c", "c", None, 2, None),
    ]
    assert bench.windows[0].received == 4


# ── event time ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_source_that_falls_idle_has_its_buckets_closed_by_the_clock() -> None:
    bench = Bench(10, key_mapper="id", time_mapper="ts", lateness=2)
    bench.at(3, {"id": "a", "ts": 3.0})
    bench.at(11.9)
    assert bench.windows == []
    bench.at(12)
    assert [(w.opened, w.closed, w.trigger) for w in bench.windows] == [(0, 10, "time")]
    bench.at(12.5, {"id": "a", "ts": 9.0}, {"id": "a", "ts": 10.0})
    assert [(letter.reason, letter.event["ts"]) for letter in bench.letters] == [("late", 9.0)]


def test_i8_a_pause_shorter_than_idle_makes_no_event_late_and_a_longer_one_closes_windows() -> None:
    bench = Bench(10, key_mapper="id", time_mapper="ts", lateness=0, idle=5)
    bench.at(1000, {"id": "a", "ts": 8.0})
    bench.at(1004, {"id": "a", "ts": 9.0})  # the clock alone would have closed the window at 1002
    bench.at(1008.9, {"id": "b", "ts": 3.0})
    bench.at(1013.8)
    assert (bench.windows, bench.letters) == ([], [])
    bench.at(1013.9)
    assert [(w.opened, w.closed, w.trigger, w.received) for w in bench.windows] == [(0, 10, "time", 3)]


@pytest.mark.parametrize("options", [{"lateness": 0, "idle": float("inf")}, {"lateness": float("inf")}])
def test_windows_that_no_clock_closes_are_closed_at_the_end(options: Any) -> None:
    bench = Bench(10, key_mapper="id", time_mapper="ts", **options)
    bench.at(1000, {"id": "a", "ts": 8.0})
    bench.at(50_000, {"id": "a", "ts": 9.0})
    assert (bench.windows, bench.letters) == ([], [])
    bench.source.on_completed()
    assert [window.received for window in bench.windows] == [2]


def test_events_of_long_ago_are_given_the_same_time_by_the_clock() -> None:
    bench = Bench(10, key_mapper="id", time_mapper="ts", lateness=0)
    bench.at(100_003.0, {"id": "a", "ts": 57.0})
    bench.at(100_005.0)
    assert bench.windows == []
    bench.at(100_010.0)
    assert [(w.opened, w.closed) for w in bench.windows] == [(50, 60)]


def test_a_time_too_far_ahead_is_rejected_and_moves_nothing() -> None:
    bench = Bench(10, key_mapper="id", time_mapper="ts", lateness=0)
    bench.at(5, {"id": "far", "ts": 253_370_764_800.0}, {"id": "a", "ts": 5.0}, {"id": "a", "ts": 6.0})
    bench.source.on_completed()
    assert [letter.reason for letter in bench.letters] == ["future"]
    assert bench.windows[0].received == 2


def test_a_time_too_far_ahead_is_rejected_in_windows_of_processing_time_too() -> None:
    bench = Bench(10, key_mapper="id", time_mapper="ts", tolerance=60, chunked=True)
    bench.at(5, [{"id": "a", "ts": 5.0}, {"id": "b", "ts": 65.1}, {"id": "c", "ts": 65.0}, {"id": "b"}])
    bench.at(10)
    assert bench.keys() == [["a", "c"]]
    assert [(letter.event["id"], letter.reason) for letter in bench.letters] == [("b", "future"), ("b", "time")]


def test_a_chunk_over_many_windows_is_as_its_events_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_module, "SLICE", 64)
    choice = random.Random(5)
    events = [{"id": choice.choice("abcdef"), "ts": n / 20 + choice.uniform(-3, 3)} for n in range(2000)]
    results: list[Any] = []
    for size in (1, 2000):
        bench = Bench(2.5, key_mapper="id", time_mapper="ts", lateness=1, chunked=True)
        bench.at(100, *(events[start : start + size] for start in range(0, 2000, size)))
        bench.source.on_completed()
        windows = [(w.opened, w.closed, w.received, list(map(tuple, w))) for w in bench.windows]
        results.append((windows, [(letter.event, letter.error.late_by) for letter in bench.letters]))
    assert results[0] == results[1]
    assert len(results[0][0]) > 30
    assert len(results[0][1]) > 100


def test_late_by_is_the_lateness_that_keeps_the_event() -> None:
    events = [{"id": "a", "ts": ts} for ts in (95.0, 42.0, 57.5)]
    bench = Bench(10, key_mapper="id", time_mapper="ts", lateness=5)
    bench.at(100, *events)
    assert [letter.error.late_by for letter in bench.letters] == [53.0, 37.5]
    bench = Bench(10, key_mapper="id", time_mapper="ts", lateness=53)
    bench.at(100, *events)
    assert bench.letters == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), "soon", None, 10**400])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_time_that_is_none_is_a_dead_letter(wrong: Any, chunked: bool) -> None:
    bench = Bench(10, key_mapper="id", time_mapper="ts", lateness=0, chunked=chunked)
    events = [{"id": "a", "ts": 1.0}, {"id": "b", "ts": wrong}, {"id": "c", "ts": 2.0}, {"id": "d"}]
    bench.at(5, *([events] if chunked else events))
    bench.source.on_completed()
    assert bench.keys() == [["a", "c"]]
    assert [letter.event["id"] for letter in bench.letters] == ["b", "d"]
    assert {letter.reason for letter in bench.letters} <= {"time", "future"}


def test_buckets_of_fractions_of_a_second_keep_their_bounds() -> None:
    bench = Bench(0.1, key_mapper="id", time_mapper="ts", lateness=0)
    bench.at(1, *({"id": n, "ts": n / 10} for n in range(1, 8)))
    bench.source.on_completed()
    assert [w.opened for w in bench.windows] == [n / 10 for n in range(1, 8)]


# ── room ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("overflow", "kept", "dropped"), [("drop_newest", "abc", "dede"), ("drop_oldest", "cde", "ab")]
)
def test_a_full_house_drops_by_the_policy_and_absorbs_what_it_holds(
    overflow: Any, kept: str, dropped: str, chunked: bool
) -> None:
    bench = Bench(10, max_keys=3, overflow=overflow, chunked=chunked)
    bench.at(1, *(["abc"] if chunked else "abc"))
    bench.at(2, *(["abccba"] if chunked else "abccba"))
    bench.at(3, *(["dede"] if chunked else "dede"))
    bench.at(10)
    assert bench.keys() == [list(kept)]
    assert "".join(letter.event.key for letter in bench.letters) == dropped
    assert {(letter.outcome, letter.reason) for letter in bench.letters} == {("dropped", "no room")}
    received = sum(c.count or 0 for c in bench.windows[0]) + sum(letter.event.count for letter in bench.letters)
    assert received == 13
    assert [c.first_seen for c in bench.windows[0]] == [3.0 if c.key in "de" else 1.0 for c in bench.windows[0]]


def test_what_is_dropped_as_the_oldest_has_its_times() -> None:
    bench = Bench(1000, max_keys=2, overflow="drop_oldest")
    for second, key in enumerate("abacbad", 1):
        bench.at(second, key)
    dropped = [letter.event for letter in bench.letters]
    assert [(c.key, c.count, c.first_seen, c.last_seen) for c in dropped] == [
        ("a", 2, 1.0, 3.0),
        ("b", 2, 2.0, 5.0),
        ("c", 1, 4.0, 4.0),
    ]


def test_a_full_house_may_be_an_error_that_loses_nothing_held() -> None:
    bench = Bench(10, max_keys=2, overflow="error")
    bench.at(1, "a", "b", "a", "c")
    assert bench.keys() == [["a", "b"]]
    assert isinstance(bench.ended[0], NoRoomError)


@pytest.mark.bench
def test_dropping_the_oldest_is_linear() -> None:
    def cost(keys: int) -> float:
        bench = Bench(10, max_keys=keys // 2, overflow="drop_oldest", chunked=True, dead_letters=lambda _: None)
        start = time.process_time()
        for key in range(0, keys, 1000):
            bench.source.on_next(list(range(key, key + 1000)))
        return time.process_time() - start

    cost(1000)
    assert cost(200_000) < 50 * min(cost(10_000) for _ in range(3))


def test_what_is_dropped_in_event_time_has_its_times() -> None:
    bench = Bench(10, key_mapper="id", time_mapper="ts", lateness=10, max_keys=2, overflow="drop_oldest")
    events = [("a", 12.0), ("b", 5.0), ("a", 11.0), ("b", 7.0), ("b", 4.0), ("c", 13.0)]
    bench.at(20, *({"id": key, "ts": time} for key, time in events))
    [letter] = bench.letters
    assert letter.event[2:] == (3, 4.0, 7.0)  # b: of the earliest window
    bench.source.on_completed()
    assert [[c[0::2] + c[3:4] for c in map(tuple, window)] for window in bench.windows] == [
        [("a", 2, 12.0, 11.0), ("c", 1, 13.0, 13.0)]
    ]


def test_last_seen_is_the_latest_event_time_where_windows_close_on_a_count() -> None:
    bench = Bench(100, key_mapper="id", time_mapper="ts", lateness=0, count=2)
    bench.at(20, *({"id": key, "ts": time} for key, time in [("a", 3.0), ("a", 9.0), ("a", 5.0), ("b", 6.0)]))
    assert [tuple(c)[2:] for c in bench.windows[0]] == [(3, 3.0, 9.0), (1, 6.0, 6.0)]


# ── what it holds ─────────────────────────────────────────────────────────────────────────────────────────────────────


def windows_of(operator: Any, source: Subject[Any], scheduler: Any = None) -> Any:
    held: list[Any] = []
    source.pipe(operator.having(register=held.append)).subscribe(scheduler=scheduler)
    return held[0]


def test_held_and_oldest_are_of_the_open_window() -> None:
    scheduler, source = VirtualTimeScheduler(0.0), Subject[Any]()
    windows = windows_of(rxo.compact(10, key_mapper=str), source, scheduler)
    assert (windows.held(), windows.oldest(), windows.distinct) == (0, None, 0)
    scheduler.advance_to(2.0)
    source.on_next("a")
    scheduler.advance_to(5.0)
    source.on_next("b")
    assert (windows.held(), windows.oldest(), windows.distinct) == (2, 3.0, 2)
    scheduler.advance_to(10.0)
    source.on_next("c")
    assert (windows.held(), windows.oldest(), windows.distinct) == (1, 0.0, 3)


def test_held_and_oldest_are_of_all_open_windows_of_event_time() -> None:
    scheduler, source = VirtualTimeScheduler(0.0), Subject[Any]()
    operator = rxo.compact(10, key_mapper="id", time_mapper="ts", lateness=20)
    windows = windows_of(operator, source, scheduler)
    scheduler.advance_to(30.0)
    for key, ts in [("a", 25.0), ("a", 14.0), ("b", 12.0)]:
        source.on_next({"id": key, "ts": ts})
    assert (windows.held(), windows.oldest(), windows.distinct) == (3, 18.0, 3)


async def test_looking_at_what_is_held_changes_nothing() -> None:
    source: Subject[str] = Subject()
    windows = windows_of(rxo.compact(10, key_mapper=str), source)
    source.on_next("a")
    assert (windows.held(), windows.distinct, windows.oldest()) == (0, 0, None)  # gathered for the loop's next turn
    await asyncio.sleep(0)
    assert (windows.held(), windows.distinct, windows.oldest()) == (1, 1, 0.0)


# ── observers, threads, ends ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_observer_that_raises_stops_no_later_window() -> None:
    scheduler = VirtualTimeScheduler(0.0)
    source: Subject[str] = Subject()
    seen: list[Window] = []

    def observe(window: Window) -> None:
        seen.append(window)
        raise RuntimeError("observer")

    source.pipe(rxo.compact(10, key_mapper=lambda e: e)).subscribe(observe, scheduler=scheduler)
    for n in range(3):
        source.on_next("a")
        with pytest.raises(RuntimeError, match="observer"):
            scheduler.advance_to(10.0 * (n + 1))
        scheduler.stop()
    assert [w.closed for w in seen] == [10, 20, 30]


def test_an_observer_may_push_into_the_source() -> None:
    bench = Bench(10, count=1)
    echoed: list[str] = []

    def echo(window: Window) -> None:
        if window[0].key == "a":
            bench.source.on_next("b")
        echoed.append(window[0].key)

    bench.source.pipe(rxo.compact(10, key_mapper=lambda e: e, count=1)).subscribe(echo, scheduler=bench.scheduler)
    bench.at(1, "a")
    assert echoed == ["a", "b"]


@pytest.mark.parametrize("make", [TimeoutScheduler, EventLoopScheduler, lambda: None])
def test_no_event_is_lost_between_a_timer_thread_and_a_producer(make: Any) -> None:
    scheduler = make()
    windows: list[Window] = []
    done = threading.Event()
    total = 200_000

    def produce(observer: Any, _: Any = None) -> Any:
        for n in range(total):
            observer.on_next(n % 97)
        observer.on_completed()
        return Disposable()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        Observable(produce).pipe(rxo.compact(0.001, key_mapper=lambda e: e)).subscribe(
            windows.append, on_completed=done.set, scheduler=scheduler
        )
        assert done.wait(60)
    finally:
        sys.setswitchinterval(interval)
    assert len(windows) > 5
    assert sum(window.received for window in windows) == total
    counts: Counter[Any] = Counter()
    for window in windows:
        keys = [compacted.key for compacted in window]
        assert len(keys) == len(set(keys))
        counts.update({c.key: c.count for c in window})
    assert counts == Counter(n % 97 for n in range(total))


def test_a_slow_observer_on_the_timer_thread_does_not_stall_the_producer() -> None:
    scheduler = EventLoopScheduler()
    entered, leave = threading.Event(), threading.Event()
    windows: list[Window] = []

    def slow(window: Window) -> None:
        windows.append(window)
        entered.set()
        assert leave.wait(30)

    source: Subject[int] = Subject()
    subscription = source.pipe(rxo.compact(0.01, key_mapper=lambda e: e)).subscribe(slow, scheduler=scheduler)
    source.on_next(0)
    assert entered.wait(30)
    for n in range(1000):  # would hang here if emission held a lock
        source.on_next(n)
    source.on_completed()
    leave.set()
    deadline = time.monotonic() + 30
    while sum(w.received for w in windows) < 1001 and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    subscription.dispose()
    scheduler.dispose()
    assert sum(w.received for w in windows) == 1001


def test_windows_share_threads() -> None:
    sources: list[Subject[int]] = [Subject() for _ in range(50)]
    before = threading.active_count()
    subscriptions = [s.pipe(rxo.compact(0.001, key_mapper=lambda e: e)).subscribe() for s in sources]
    for _ in range(20):
        for s in sources:
            s.on_next(1)
        threading.Event().wait(0.001)
    assert threading.active_count() <= before + 1
    for subscription in subscriptions:
        subscription.dispose()


class Thing:
    pass


@pytest.mark.parametrize("end", ["complete", "error", "dispose"])
def test_nothing_is_held_after_the_end(end: str) -> None:
    bench = Bench(10, key_mapper=id)
    thing = Thing()
    held = weakref.ref(thing)
    bench.at(1, thing)
    if end == "complete":
        bench.source.on_completed()
    elif end == "error":
        bench.source.on_error(RuntimeError())
    else:
        bench.subscription.dispose()
    assert [letter.outcome for letter in bench.letters] == (["abandoned"] if end == "dispose" else [])
    bench.windows.clear()
    bench.letters.clear()
    bench.scheduler.advance_to(100)
    del thing
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("options", [{}, {"keep": "last"}, {"fields": ()}, {"time_mapper": lambda e: 1.0}])
def test_memory_is_of_the_keys_and_not_of_the_events(options: dict[str, Any]) -> None:
    def peak(events: int) -> int:
        bench = Bench(10, chunked=True, **options)
        tracemalloc.start()
        try:
            for n in range(0, events, 1000):
                bench.source.on_next([(n + i) % 500 for i in range(1000)])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # the least of three: what other tests left in threads is counted too
    assert min(peak(100_000) for _ in range(3)) < 1.2 * min(peak(5_000) for _ in range(3))


@pytest.mark.bench
def test_cost_is_linear_in_events_and_keys() -> None:
    def cost(events: int, keys: int) -> float:
        bench = Bench(10)
        stream = [n % keys for n in range(events)]
        push = bench.source.on_next
        start = time.process_time()
        for event in stream:
            push(event)
        return time.process_time() - start

    cost(1000, 10)
    assert min(cost(20_000, 20_000) for _ in range(3)) < 8 * min(cost(5_000, 5_000) for _ in range(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timespan": 0}, "timespan must be a duration above 0 s, got 0"),
        ({"timespan": -1.5}, "timespan .* got -1.5"),
        ({"timespan": float("nan")}, "timespan .* got nan"),
        ({"count": 0}, "count must be a whole number, at least 1, got 0"),
        ({"max_keys": 0}, "max_keys must be a whole number, at least 1, got 0"),
        ({"keep": "newest"}, "keep must be .* got 'newest'"),
        ({"fields": ("age",)}, "fields must be of .* got {'age'}"),
        ({"lateness": 1}, "time_mapper must be given where lateness is, got None"),
        ({"lateness": -1, "time_mapper": "ts"}, "lateness must be a duration in seconds, 0 or more, got -1"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name_and_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        rxo.compact(**({"timespan": 10, "key_mapper": "id"} | options))


def test_a_mapper_for_many_is_given_whole_chunks() -> None:
    class Keys:
        calls = 0

        def __call__(self, event: str) -> str:
            raise AssertionError("not one by one")

        def many(self, events: list[str]) -> list[str]:
            self.calls += 1
            return [event.lower() for event in events]

    keys = Keys()
    bench = Bench(10, key_mapper=keys, chunked=True)
    bench.at(1, ["a", "A", "b"])
    bench.at(10)
    assert bench.keys() == [["a", "b"]]
    assert keys.calls == 1


@pytest.mark.parametrize("mapper", ["key_mapper", "time_mapper"])
def test_a_mapper_for_many_that_returns_too_few_rejects_the_chunk_and_names_both_lengths(mapper: str) -> None:
    class Short:
        def __call__(self, event: int) -> int:
            return event

        def many(self, events: list[int]) -> list[int]:
            return events[:-1]

    bench = Bench(10, **{mapper: Short()}, chunked=True)
    bench.at(1, [1, 2, 3])
    bench.at(10)
    assert bench.windows == []
    assert [letter.event for letter in bench.letters] == [1, 2, 3]
    assert all("returned 2 values for 3 events" in str(letter.error) for letter in bench.letters)


def test_the_subscriptions_own_scheduler_is_used_by_rxpy_operators_around() -> None:
    scheduler = VirtualTimeScheduler(0.0)
    windows: list[Window] = []
    rx.interval(1.0).pipe(rxo.compact(5.0, key_mapper=lambda n: n % 2)).subscribe(windows.append, scheduler=scheduler)
    scheduler.advance_to(21.0)
    assert [w.received for w in windows] == [4, 5, 5, 5]


@pytest.mark.parametrize(
    ("lateness", "idle"), [(float("inf"), 0), (float("inf"), 5), (0, float("inf")), (5, float("inf")), (3600, 0)]
)
def test_an_idle_source_sets_a_bounded_number_of_timers_whatever_the_lateness(lateness: float, idle: float) -> None:
    scheduler, source = VirtualTimeScheduler(1_000_000_003.0), Subject[Any]()
    windows: list[Window] = []
    delays: list[float] = []
    schedule = scheduler.schedule_relative

    def relative(duetime: Any, action: Any, state: Any = None) -> Any:
        delays.append(scheduler.to_seconds(duetime))
        assert len(delays) < 5000, "a timer in a loop"
        return schedule(duetime, action, state)

    scheduler.schedule_relative = relative  # type: ignore[method-assign]
    compact = rxo.compact(60, key_mapper="id", time_mapper="ts", lateness=lateness, idle=idle)
    source.pipe(compact).subscribe(windows.append, scheduler=scheduler)
    source.on_next({"id": "a", "ts": 1_000_000_003.0})
    scheduler.advance_to(1_000_000_003.0 + 2 * 86_400)
    assert all(0 < delay <= 86_400 for delay in delays)
    assert len(delays) <= 2 * 86_400 / 60 + 2
    assert len(windows) == (0 if float("inf") in (lateness, idle) else 1)
    source.on_completed()
    assert len(windows) == 1


@pytest.mark.parametrize("options", [{}, {"per_key": True}, {"time_mapper": "ts", "lateness": 0}])
def test_a_chunk_is_not_held_when_it_was_added(options: Any) -> None:
    bench = Bench(10, key_mapper="id", chunked=True, **options)
    chunk = Chunk([{"id": "a", "ts": 1.0}], Ack(lambda _: None))
    added = weakref.ref(chunk)
    bench.at(1, chunk)
    del chunk
    gc.collect()
    assert added() is None


def test_a_bucket_that_closed_on_its_count_is_not_due_again_and_again() -> None:
    scheduler, ticks = VirtualTimeScheduler(0.0), 0
    schedule = scheduler.schedule_relative

    def relative(duetime: Any, action: Any, state: Any = None) -> Any:
        nonlocal ticks
        ticks += 1
        assert ticks < 10
        return schedule(duetime, action, state)

    scheduler.schedule_relative = relative  # type: ignore[method-assign]
    events: rx.Subject[Any] = rx.Subject()
    windows: list[Window] = []
    compact = rxo.compact(10, key_mapper="id", time_mapper="ts", lateness=0, count=2)
    events.pipe(compact).subscribe(windows.append, scheduler=scheduler)
    for key in "ab":
        events.on_next({"id": key, "ts": 1.0})
    scheduler.advance_to(100)
    assert [(window.trigger, len(window)) for window in windows] == [("count", 2)]
