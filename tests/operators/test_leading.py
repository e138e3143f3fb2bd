"""The leading edge: a key's first event at once, its repeats counted when its window closes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from pipelines import held, simple_pipeline
from reactivex.scheduler import VirtualTimeScheduler

from rxcompact import Ack, Batch, Chunk, Orchestrator
from rxcompact import operators as rxo
from rxcompact.brokers import event_id
from rxcompact.errors import ArgumentError
from rxcompact.events import Compacted, DeadLetter, Window
from rxcompact.testing import replay, run


def event(key: str, ts: float) -> dict[str, Any]:
    return {"id": key, "ts": ts}


HISTORY = [event("a", 0.0), event("a", 1.0), event("b", 2.0), event("a", 3.0), event("a", 12.0), event("b", 13.0)]


def shown(windows: list[Window]) -> list[tuple[Any, ...]]:
    return [
        (w.trigger, w.received, [(c.key, c.event["ts"], c.count, c.first_seen, c.last_seen) for c in w])
        for w in windows
    ]


def test_a_keys_first_event_leaves_at_once_and_its_repeats_at_the_close() -> None:
    windows = replay(HISTORY, rxo.compact(10, key_mapper="id", leading=True), time_mapper="ts")
    assert shown(windows) == [
        ("leading", 1, [("a", 0.0, 1, 0.0, 0.0)]),
        ("leading", 1, [("b", 2.0, 1, 2.0, 2.0)]),
        ("time", 2, [("a", 1.0, 2, 0.0, 3.0)]),  # b was not repeated
        ("leading", 1, [("a", 12.0, 1, 12.0, 12.0)]),
        ("leading", 1, [("b", 13.0, 1, 13.0, 13.0)]),
    ]
    assert [(w.opened, w.closed) for w in windows[:3]] == [(0.0, 0.0), (0.0, 2.0), (0.0, 10.0)]
    lead, repeats = windows[0][0], windows[2][0]
    assert (lead.leading, repeats.leading) == (True, False)
    assert event_id(lead) == event_id(repeats)


def test_the_repeats_of_a_key_that_falls_quiet_are_counted() -> None:
    windows = replay(
        [event("a", n / 10) for n in range(50)], rxo.compact(60, key_mapper="id", leading=True), time_mapper="ts"
    )
    assert [(w.trigger, w.received) for w in windows] == [("leading", 1), ("completed", 49)]


def test_without_the_trailing_edge_repeats_are_left_out() -> None:
    compact = rxo.compact(10, key_mapper="id", leading=True, trailing=False)
    windows = replay(HISTORY, compact, time_mapper="ts")
    assert [(w.trigger, w[0].key, w[0].first_seen) for w in windows] == [
        ("leading", "a", 0.0),
        ("leading", "b", 2.0),
        ("leading", "a", 12.0),
        ("leading", "b", 13.0),
    ]


def test_in_event_time_the_id_is_that_of_the_event_that_left_though_an_earlier_one_comes() -> None:
    history = [event("a", 5.0), event("a", 3.0), event("a", 4.0), event("a", 11.0), event("a", 13.0)]
    compact = rxo.compact(10, key_mapper="id", leading=True, time_mapper="ts", lateness=2)
    windows = replay(history, compact, time_mapper="ts")
    assert shown(windows) == [
        ("leading", 1, [("a", 5.0, 1, 5.0, 5.0)]),
        ("leading", 1, [("a", 11.0, 1, 11.0, 11.0)]),
        ("time", 2, [("a", 3.0, 2, 5.0, 5.0)]),  # closed at 13: the watermark is 11
        ("completed", 1, [("a", 13.0, 1, 11.0, 13.0)]),
    ]
    assert [(w.opened, w.closed) for w in windows] == [(0.0, 10.0), (10.0, 20.0), (0.0, 10.0), (10.0, 20.0)]
    assert event_id(windows[0][0]) == event_id(windows[2][0])


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("first", [0, 1]), ("last", [0, 3]), (lambda acc, each: {"n": acc["n"] + each["n"]}, [0, 6])],
)
def test_the_second_event_is_made_of_the_repeats_alone(keep: Any, kept: list[int]) -> None:
    history = [{"id": "a", "ts": float(n), "n": n} for n in range(4)]
    windows = replay(history, rxo.compact(10, key_mapper="id", leading=True, keep=keep), time_mapper="ts")
    assert [window[0].event["n"] for window in windows] == kept


def test_the_new_keys_of_a_chunk_leave_together() -> None:
    windows: list[Window] = []
    chunks: rx.Subject[Any] = rx.Subject()
    chunks.pipe(rxo.compact(10, key_mapper="id", leading=True, chunked=True)).subscribe(
        windows.append, scheduler=VirtualTimeScheduler(0.0)
    )
    chunks.on_next([{"id": n % 3000} for n in range(6000)])
    leading = windows[:]
    assert len(leading) <= 3
    assert [compacted.key for window in leading for compacted in window] == list(range(3000))
    assert {(window.trigger, window.received - len(window)) for window in leading} == {("leading", 0)}
    assert {compacted.window for compacted in leading[0]} == {leading[0].bounds}
    chunks.on_completed()
    assert [(w.trigger, w.received, len(w)) for w in windows[len(leading) :]] == [("completed", 3000, 3000)]


def bench(*, items: Any, **options: Any) -> tuple[list[Window], list[DeadLetter]]:
    windows: list[Window] = []
    letters: list[DeadLetter] = []
    events: rx.Subject[Any] = rx.Subject()
    events.pipe(
        rxo.compact(10, key_mapper=lambda each: each, leading=True, dead_letters=letters.append, **options)
    ).subscribe(windows.append, scheduler=VirtualTimeScheduler(0.0))
    for item in items:
        events.on_next(item)
    events.on_completed()
    return windows, letters


def test_a_count_is_of_keys_those_without_repeats_too() -> None:
    windows, _ = bench(items="aabcdd", count=3)
    assert [(w.trigger, "".join(c.key for c in w), w.received) for w in windows] == [
        ("leading", "a", 1),
        ("leading", "b", 1),
        ("leading", "c", 1),
        ("count", "a", 1),
        ("leading", "d", 1),
        ("completed", "d", 1),
    ]


def test_of_more_keys_than_are_remembered_the_oldest_is_forgotten_and_its_repeats_are_reported() -> None:
    windows, letters = bench(items="aabcda", max_keys=2, overflow="drop_oldest")
    assert not letters
    assert [(w.trigger, w[0].key, w.received) for w in windows] == [
        ("leading", "a", 1),
        ("leading", "b", 1),
        ("leading", "c", 1),
        ("count", "a", 1),  # for c; then b goes for d, and has nothing to report
        ("leading", "d", 1),
        ("leading", "a", 1),
    ]


def test_a_key_that_is_evicted_has_its_repeats_reported() -> None:
    windows, letters = bench(items="aabbbcc", max_keys=2, overflow="drop_oldest")
    assert not letters
    assert [(w.trigger, [(c.key, c.count) for c in w]) for w in windows] == [
        ("leading", [("a", 1)]),
        ("leading", [("b", 1)]),
        ("count", [("a", 1)]),
        ("leading", [("c", 1)]),
        ("completed", [("b", 2), ("c", 1)]),
    ]


def test_a_sender_that_invents_keys_does_not_fill_the_memory() -> None:
    windows, letters = bench(items=range(1000), max_keys=10, overflow="error")
    assert not letters
    assert len(windows) == 1000


@pytest.mark.parametrize("options", [{"trailing": False}, {"trailing": 0}])
def test_one_edge_is_needed(options: Any) -> None:
    with pytest.raises(ArgumentError, match="trailing"):
        rxo.compact(10, key_mapper="id", **options)


def test_a_repeat_in_the_instant_of_the_first_event_is_another_batch() -> None:
    windows, _ = bench(items="aa")
    first, repeat = (Batch(window) for window in windows)
    assert first[0] == repeat[0]
    assert first.idempotency_key != repeat.idempotency_key


async def test_a_message_waits_for_what_its_own_events_became() -> None:
    settled: list[str] = []
    messages: rx.Subject[Any] = rx.Subject()
    out: list[Compacted] = []

    class Source:
        def stream(self, _: Any) -> Any:
            return messages

    def send(name: str, keys: str) -> None:
        messages.on_next(Chunk([{"id": key} for key in keys], Ack(settled.extend, name)))

    pipeline = simple_pipeline(
        Source(), key_mapper="id", timespan=10, leading=True, max_age=60, sink=out.extend, batch_timespan=1
    )
    async with Orchestrator(pipeline):
        send("new", "ab")
        await asyncio.sleep(0.5)
        assert settled == []
        await asyncio.sleep(1)
        assert settled == ["new"]
        send("repeats", "bc")
        await asyncio.sleep(2)
        assert settled == ["new"]  # b is counted in the open window
        await asyncio.sleep(9)
        assert settled == ["new", "repeats"]
    assert [(c.key, c.count, c.leading) for c in out] == [
        ("a", 1, True), ("b", 1, True), ("c", 1, True), ("b", 1, False),
    ]  # fmt: skip


pushes = st.tuples(st.just("push"), st.lists(st.integers(0, 5), min_size=1, max_size=8))
waits = st.tuples(st.just("wait"), st.integers(1, 50).map(lambda tenths: tenths / 10))
steps = st.lists(
    st.one_of(
        pushes, waits, pushes, st.tuples(st.sampled_from(["up", "down", "restart", "jump"]), st.integers(-99, 99))
    ),
    min_size=3,
    max_size=30,
)
OPTIONS: list[dict[str, Any]] = [
    {"leading": True},
    {"leading": True, "trailing": False},
    {"leading": True, "count": 2},
    {"leading": True, "gap": 1},
    {"per_key": True},
    {"gap": 1, "time_mapper": "ts", "lateness": 1, "leading": True},
    {"gap": 1, "time_mapper": "ts", "lateness": 1},
]


@given(steps, st.sampled_from([1, 3, 50]), st.sampled_from(OPTIONS), st.integers(0, 9))
def test_counts_sum_to_what_was_received_and_the_account_balances_at_every_moment(
    steps: list[tuple[str, Any]], room: int, options: dict[str, Any], seed: int
) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        events: rx.Subject[Any] = rx.Subject()
        is_down = False

        async def sink(_: Any) -> None:
            await asyncio.sleep(0.05)
            if is_down:
                raise OSError("down")

        orchestrator = Orchestrator(
            simple_pipeline(
                events,
                key_mapper="id",
                timespan=2,
                max_age=30,
                sink=sink,
                batch_timespan=0.5,
                max_in_flight=room,
                **options,
            )
        )
        counts: Counter[str] = Counter()

        def count(outcome: Any) -> None:  # what is late is not compacted
            counts["counted"] += (outcome.event.count or 0) if isinstance(outcome.event, Compacted) else 1

        orchestrator.outcomes.subscribe(count)
        await orchestrator.start()
        for what, value in steps:
            match what:
                case "push":
                    for number, key in enumerate(value):  # of event times before and behind the last
                        events.on_next({"id": key, "ts": loop.wall() - number * 0.7 % 2})
                    counts.update(pushed=len(value))
                    await asyncio.sleep(0)
                case "wait":
                    await asyncio.sleep(value)
                case "restart":
                    await orchestrator.restart()
                case "jump":
                    loop.jump(value)
                case _:
                    is_down = what == "down"
            now = orchestrator.account
            settled = now.published + now.expired + now.failed + now.dropped + now.abandoned
            assert now.received == now.duplicates + now.distinct + now.rejected
            assert now.distinct == settled + now.in_flight
            assert now.in_flight == sum(held(orchestrator).values())
            assert 0 <= now.in_flight <= room
            assert now.duplicates >= 0
        is_down = False
        report = await orchestrator.stop()
        assert report.account.in_flight == 0
        if options.get("trailing", True):
            assert counts["counted"] == counts["pushed"]

    run(main, seed=seed)
