"""What changes beyond one process: windows, ages, ids, order, partitions. Each worker is a pipeline in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import pytest
import reactivex as rx
from pipelines import simple_pipeline

from rxcompact import Ack, Chunk, Orchestrator
from rxcompact.brokers import event_id
from rxcompact.errors import TransientError
from rxcompact.events import Compacted, DeadLetter
from rxcompact.testing import START

BORN = {"time_mapper": "t"}
ALIGNED = BORN | {"lateness": 2}


def event(key: str, at: float) -> dict[str, Any]:
    return {"id": key, "t": START + at}


class Worker:
    """A pipeline whose source is durable. Stopped without time for anything, it dies: what is not settled stays so."""

    def __init__(self, **options: Any) -> None:
        self._loop: Any = asyncio.get_running_loop()
        self._messages: rx.Subject[Any] = rx.Subject()
        self.settled: list[int] = []
        self.published: list[tuple[float, Compacted]] = []
        self.letters: list[tuple[float, DeadLetter]] = []
        self.windows: list[Any] = []
        settings: dict[str, Any] = {"key_mapper": "id", "timespan": 10, "max_age": 1000, "batch_timespan": 0.5}
        self.orchestrator = Orchestrator(simple_pipeline(source=self, **(settings | {"sink": self.take} | options)))
        self.orchestrator.windows.subscribe(self.windows.append)
        self.orchestrator.dead_letters.subscribe(lambda letter: self.letters.append((self.now(), letter)))

    def stream(self, _: Any) -> Any:
        return self._messages

    def now(self) -> float:
        return self._loop.wall() - START

    def take(self, batch: Sequence[Compacted]) -> None:
        self.published.extend((self.now(), compacted) for compacted in batch)

    def send(self, number: int, *events: Any) -> None:
        self._messages.on_next(Chunk(events, Ack(self.settled.extend, number)))

    async def follow(self, events: Sequence[Any], delay: float = 0.0) -> None:
        """Take events a while after they happen."""
        for number, each in enumerate(events):
            await asyncio.sleep(max(0.0, each["t"] + delay - self._loop.wall()))
            self.send(number, each)

    def rows(self) -> list[Compacted]:
        return [compacted for _, compacted in self.published]

    def edges(self) -> set[tuple[float, float]]:
        return {(window.opened - START, window.closed - START) for window in self.windows}

    async def __aenter__(self) -> Self:
        await self.orchestrator.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.orchestrator.stop()


class Stuck:
    """A sink that takes what it is given, and never returns."""

    def __init__(self) -> None:
        self.taken: list[Compacted] = []

    async def __call__(self, batch: Sequence[Compacted]) -> None:
        self.taken.extend(batch)
        await asyncio.Event().wait()


# ── windows ───────────────────────────────────────────────────────────────────────────────────────────────────────────

STREAM = [event(f"host{second % 7}", second) for second in range(40)]


async def both(**options: Any) -> tuple[Worker, Worker]:
    """Two workers of half the stream each: one starts later, and what comes to it is delayed."""
    async with Worker(**options) as first:
        following = asyncio.create_task(first.follow(STREAM[::2], delay=0.1))
        await asyncio.sleep(3.7)
        async with Worker(**options) as second:
            await second.follow(STREAM[1::2], delay=1.6)
            await following
            await asyncio.sleep(20)
    return first, second


async def test_windows_of_event_time_are_aligned_to_the_epoch_in_every_worker() -> None:
    first, second = await both(**ALIGNED)
    assert first.edges() == second.edges() == {(0, 10), (10, 20), (20, 30), (30, 40)}
    assert {window.trigger for window in (*first.windows, *second.windows)} == {"time"}
    assert first.letters == second.letters == []
    counts: Counter[Any] = Counter()
    for window in (*first.windows, *second.windows):
        for compacted in window:
            counts[window.opened - START, compacted.key] += compacted.count
    assert counts == Counter((float(second // 10 * 10), f"host{second % 7}") for second in range(40))


async def test_windows_of_processing_time_begin_when_their_worker_did() -> None:
    first, second = await both(**BORN)
    for worker, began in (first, 0.0), (second, 3.7):
        opened = [edge[0] for edge in sorted(worker.edges())]
        assert opened == pytest.approx([began + 10 * n for n in range(4)])


# ── age ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def down(_: Any) -> None:
    raise TransientError("down")


@pytest.mark.parametrize(("options", "expires"), [(BORN, 40), (ALIGNED, 40), ({}, 65)])
async def test_what_is_delivered_again_has_its_age_from_the_event_where_births_are_in_it(
    options: Any, expires: float
) -> None:
    async with Worker(sink=down, max_age=40, **options) as first:
        first.send(1, event("a", 0))
        await asyncio.sleep(15)
        await first.orchestrator.stop(0)
    assert first.settled == []
    await asyncio.sleep(25 - first.now())
    async with Worker(sink=down, max_age=40, **options) as second:
        second.send(1, event("a", 0))
        await asyncio.sleep(60)
        [(at, letter)] = second.letters
        assert letter.outcome == "expired"
        assert (at, letter.age) == pytest.approx((expires, 40), abs=0.01)
        assert second.settled == [1]
        # by processing time the window is a later one; by event time it is the event's own
        [(opened, _)] = second.edges()
        assert opened == pytest.approx(0 if options is ALIGNED else 25, abs=0.01)


async def test_what_is_too_old_when_it_is_delivered_again_expires_without_a_call() -> None:
    calls: list[Any] = []
    async with Worker(enricher=calls.append, max_age=40, **ALIGNED) as worker:
        await asyncio.sleep(50)
        worker.send(1, event("a", 0), event("b", 45))
        await asyncio.sleep(20)
        [(_, letter)] = worker.letters
        assert (letter.outcome, letter.event.key, letter.attempts) == ("expired", "a", 0)
        assert [each["id"] for each in calls] == ["b"]
        assert worker.settled == [1]


async def test_what_is_delivered_again_to_a_worker_that_is_further_is_late_and_settled() -> None:
    for options, outcomes in (ALIGNED, ["late"]), (BORN, []):
        async with Worker(**options) as worker:
            worker.send(2, event("b", 60))
            worker.send(1, event("a", 0))
            await asyncio.sleep(30)
            assert [letter.reason for _, letter in worker.letters] == outcomes
            assert sorted(worker.settled) == [1, 2]


# ── ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

EVENTS = [event("a", 1), event("b", 2), event("a", 3), event("c", 14), event("a", 15)]


async def published_twice(**options: Any) -> tuple[list[Compacted], list[Compacted]]:
    """Kill a worker whose sink took what it was given; return that, and what the next one publishes."""
    stuck = Stuck()
    async with Worker(sink=stuck, timeout=None, **options) as first:
        await first.follow(EVENTS)
        await asyncio.sleep(30)
        await first.orchestrator.stop(0)
    assert first.settled == []
    async with Worker(**options) as second:
        for number, each in enumerate(EVENTS):
            second.send(number, each)
        await asyncio.sleep(30)
    assert sorted(second.settled) == [0, 1, 2, 3, 4]
    return stuck.taken, second.rows()


async def test_what_a_crash_publishes_twice_has_the_id_it_had_where_births_are_in_events() -> None:
    taken, again = await published_twice(**ALIGNED)
    stored = {event_id(each): each.key for each in again}
    assert sorted(stored.values()) == ["a", "a", "b", "c"]  # as often as without a crash
    assert taken
    assert {event_id(each) for each in taken} <= stored.keys()


async def test_births_by_arrival_give_another_id_with_every_delivery() -> None:
    taken, again = await published_twice()
    assert taken
    assert not {event_id(each) for each in taken} & {event_id(each) for each in again}


async def test_a_part_of_a_window_delivered_again_has_its_id_by_the_windows_bucket_alone() -> None:
    async with Worker(**ALIGNED) as first:
        first.send(1, event("a", 1))
        first.send(2, event("a", 3))
        await asyncio.sleep(20)
    async with Worker(**ALIGNED) as second:  # the acknowledgement of the first was received, of the second not
        second.send(2, event("a", 3))
        await asyncio.sleep(20)
    [whole], [part] = first.rows(), second.rows()
    assert (whole.count, part.count) == (2, 1)
    assert event_id(whole) != event_id(part)
    assert event_id(whole, 10) == event_id(part, 10)
    assert event_id(whole, 10) != event_id(part.replace(first_seen=START + 10), 10)


# ── partitions ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_that_moves_in_mid_window_is_in_that_window_twice_and_in_no_other() -> None:
    events = [event("a", second) for second in range(30)]
    async with Worker(**ALIGNED) as before, Worker(**ALIGNED) as after:
        await before.follow(events[:14])
        await after.follow(events[14:])
        await asyncio.sleep(20)
    rows = before.rows() + after.rows()
    windows = Counter((row.first_seen - START) // 10 for row in rows)
    assert windows == {0: 1, 1: 2, 2: 1}
    assert sum(row.count for row in rows) == 30
    halves = [row for row in rows if (row.first_seen - START) // 10 == 1]
    assert [row.count for row in halves] == [4, 6]
    # a sink that knows rows by key and birth keeps both; by their bucket it keeps one, and the count of that one alone
    assert len({event_id(row) for row in halves}) == 2
    assert len({event_id(row, 10) for row in halves}) == 1


# ── order, and who waits for whom ─────────────────────────────────────────────────────────────────────────────────────


async def enriched(*, alike: bool = False, **options: Any) -> list[tuple[str, int]]:
    """Return what is published of two keys in three windows, where the first call for "a" takes 25 s."""
    calls: Counter[str] = Counter()

    async def enricher(each: Any) -> Any:
        calls[each["id"]] += 1
        await asyncio.sleep(25 if each["id"] == "a" and calls["a"] == 1 else 0.01)
        return each

    async with Worker(enricher=enricher, timeout=None, **options) as worker:
        for at in (1, 11, 21):
            await asyncio.sleep(at - worker.now())
            worker.send(at, *({"id": key} if alike else event(key, at) for key in "ab"))
        await asyncio.sleep(40)
        return [(row.key, round(row.first_seen - START)) for row in worker.rows()]


@pytest.mark.parametrize(("alike", "order"), [(True, [1, 11, 21]), (False, [11, 21, 1])])
async def test_a_keys_events_are_enriched_in_order_where_they_are_equal(alike: bool, order: list[int]) -> None:
    rows = await enriched(alike=alike)
    assert [at for key, at in rows if key == "a"] == order  # those that are equal wait for the answer to the first
    assert rows.index(("b", 21)) < rows.index(("a", 1))


async def test_ordered_keeps_the_order_of_a_worker() -> None:
    assert await enriched(ordered=True) == [(key, at) for at in (1, 11, 21) for key in "ab"]


async def test_a_batch_that_fails_is_overtaken_though_ordered() -> None:
    taken: list[float] = []
    failures = [TransientError("once")]

    async def sink(batch: Sequence[Compacted]) -> None:
        if failures:
            raise failures.pop()
        taken.extend(row.first_seen - START for row in batch)

    async with Worker(sink=sink, ordered=True, wait=lambda _: 15.0, **ALIGNED) as worker:
        await worker.follow([event("a", 1), event("a", 11), event("a", 21)])
        await asyncio.sleep(40)
    assert sorted(taken) == [1, 11, 21]
    assert taken[0] == 11


async def test_a_shard_whose_sink_hangs_holds_up_no_other() -> None:
    stuck = Stuck()
    async with Worker(sink=stuck, timeout=None, **ALIGNED) as slow, Worker(**ALIGNED) as other:
        events = [event("a", at) for at in range(30)]
        await asyncio.gather(slow.follow(events), other.follow(events))
        await asyncio.sleep(20)
        # a window closes when the watermark passes its end, the last one by the clock: 2 s after; then the batch, 0.5 s
        assert [at for at, _ in other.published] == pytest.approx([12.5, 22.5, 32.5], abs=0.01)
        assert slow.settled == []
        assert slow.letters == []
        await slow.orchestrator.stop(0)
