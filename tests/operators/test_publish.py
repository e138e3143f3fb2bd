"""publish: promise 11, in virtual time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import reactivex as rx
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, ExpiredError, PermanentError, RateLimitedError, TransientError
from rxcompact.events import Batch, Bounds, Compacted, DeadLetter, Delivered, Window
from rxcompact.operators.publish import Publish
from rxcompact.operators.retry import full_jitter
from rxcompact.testing import START, run


def item(key: Any, born: float = START) -> Compacted:
    return Compacted(key, {"id": key}, 1, born, born)


class Bench:
    """A subject before publish, and a sink that remembers."""

    def __init__(self, answer: Callable[[Batch], Any] = lambda _: None, **options: Any) -> None:
        self.loop: Any = asyncio.get_running_loop()
        self.answer = answer
        self.source: rx.Subject[Any] = rx.Subject()
        self.given: list[tuple[float, list[Any]]] = []
        self.keys: list[str] = []
        self.delivered: list[Delivered] = []
        self.letters: list[tuple[float, DeadLetter]] = []
        self.ended = asyncio.Event()
        self.stages: list[Any] = []
        options = {"max_age": 60, "count": 3, "timespan": 5, "wait": tenacity.wait_fixed(1)} | options
        self.subscription = self.source.pipe(
            Publish(
                self.sink, dead_letters=lambda letter: self.letters.append((self.loop.time(), letter)), **options
            ).having(register=self.stages.append)
        ).subscribe(self.delivered.append, on_completed=self.ended.set)

    def sink(self, batch: Batch) -> Any:
        self.given.append((self.loop.time(), [c.key for c in batch]))
        self.keys.append(batch.idempotency_key)
        return self.answer(batch)

    async def end(self) -> None:
        self.source.on_completed()
        await self.ended.wait()


async def test_batches_close_by_count_by_linger_and_at_the_end() -> None:
    bench = Bench()
    await asyncio.sleep(1)
    for key in "abcd":
        bench.source.on_next(item(key))
        await asyncio.sleep(1)
    await asyncio.sleep(10)
    bench.source.on_next(item("e"))
    await bench.end()
    assert bench.given == [(3, ["a", "b", "c"]), (9, ["d"]), (15, ["e"])]
    assert [len(delivered.batch) for delivered in bench.delivered] == [3, 1, 1]
    assert [published.age for published in bench.delivered[1].outcomes()] == [9]


async def test_windows_are_cut_into_batches() -> None:
    bench = Bench()
    bench.source.on_next(Window(Bounds(START, START, "time"), 7, [item(n) for n in range(7)]))
    await asyncio.sleep(5)
    assert bench.given == [(0, [0, 1, 2]), (0, [3, 4, 5]), (5, [6])]


async def test_a_batch_that_fails_is_tried_again_without_what_expired_and_holds_no_other_back() -> None:
    def down_for_a(batch: Batch) -> None:
        if any(c.key in "ab" for c in batch) and asyncio.get_running_loop().time() < 30:
            raise TransientError("down")

    bench = Bench(down_for_a, count=2, wait=tenacity.wait_fixed(8))
    for each in (item("a", START - 40), item("b"), item("c"), item("d")):
        bench.source.on_next(each)
    await bench.end()
    assert (0, ["c", "d"]) in bench.given
    assert [keys for _, keys in bench.given if "b" in keys] == [["a", "b"], ["a", "b"], ["a", "b"], ["b"], ["b"]]
    assert [(at, each.outcome, each.event.key) for at, each in bench.letters] == [
        (pytest.approx(20, abs=1e-3), "expired", "a")
    ]
    assert [[c.key for c in delivered.batch] for delivered in bench.delivered] == [["c", "d"], ["b"]]


async def test_a_sink_may_return_which_failed_and_only_those_are_retried() -> None:
    def partly(batch: Batch) -> dict[int, BaseException]:
        if len(batch) == 3:
            return {0: TransientError(), 2: PermanentError("no")}
        return {}

    bench = Bench(partly)
    for key in "abc":
        bench.source.on_next(item(key))
    await bench.end()
    assert bench.given == [(0, ["a", "b", "c"]), (1, ["a"])]
    assert [[c.key for c in delivered.batch] for delivered in bench.delivered] == [["b"], ["a"]]
    assert [(each.outcome, each.event.key) for _, each in bench.letters] == [("failed", "c")]


async def test_the_same_content_has_the_same_idempotency_key() -> None:
    calls = iter(range(99))

    async def slow_to_start(_: Batch) -> None:
        await asyncio.sleep(0.1)
        if next(calls) < 2:
            raise RateLimitedError(retry_after=3)

    bench = Bench(slow_to_start)
    for key in "abcdef":
        bench.source.on_next(item(key))
    await bench.end()
    assert len(bench.keys) == 4
    assert len(set(bench.keys)) == 2


def test_the_idempotency_key_is_the_same_in_another_process() -> None:
    program = (
        "from rxcompact import Batch, Compacted\n"
        "print(Batch([Compacted(('k', 1), {'x': {1, 2}}, 3, 1.5, 2.5), Compacted('é', None)]).idempotency_key)"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, [0] * 10 + [2, 2]),  # ten at once
        ({"ordered": True}, list(range(0, 24, 2))),
        ({"ordered": True, "max_concurrent": 5}, list(range(0, 24, 2))),
        ({"max_concurrent": 1}, list(range(0, 24, 2))),
        ({"max_concurrent": 3}, [0, 0, 0, 2, 2, 2, 4, 4, 4, 6, 6, 6]),
    ],
)
async def test_w2_deliveries_are_several_at_once_unless_ordered(options: dict[str, Any], times: list[int]) -> None:
    async def slow(_: Batch) -> None:
        await asyncio.sleep(2)

    bench = Bench(slow, count=1, **options)
    for key in "abcdefghijkl":
        bench.source.on_next(item(key))
    await bench.end()
    assert bench.given == [(at, [key]) for at, key in zip(times, "abcdefghijkl", strict=True)]


@pytest.mark.parametrize(
    ("max_age", "timeout", "limit"),
    [(60, None, 6), (3600, None, 30), (300, None, 30), (5, None, 1), (0.5, None, None), (60, 45, 45)],
)
async def test_w2_the_time_limit_fits_the_age(max_age: float, timeout: float | None, limit: float | None) -> None:
    async def hangs_once(_: Batch) -> None:
        await asyncio.sleep(1e6 if len(bench.given) == 1 else 0)

    bench = Bench(hangs_once, count=1, wait=1, max_age=max_age, timeout=timeout)
    bench.source.on_next(item("a"))
    await bench.end()
    assert [at for at, _ in bench.given] == [0] + ([] if limit is None else [pytest.approx(limit + 1)])


async def test_w2_one_of_three_backends_that_hangs_expires_nothing_with_the_defaults() -> None:
    async def balanced(_: Batch) -> None:
        await asyncio.sleep(1e6 if len(bench.given) % 3 == 0 else 0.05)

    bench = Bench(balanced, count=500, timespan=1.0, wait=full_jitter)
    for number in range(300):  # 200 events a second for a minute, in windows of a fifth of a second
        born = bench.loop.wall()
        bench.source.on_next(Window(Bounds(born, born, "time"), 40, [item((number, n), born) for n in range(40)]))
        await asyncio.sleep(0.2)
    await bench.end()
    assert bench.letters == []
    assert sum(len(delivered.batch) for delivered in bench.delivered) == 12_000


async def test_w6_a_sink_with_a_largest_batch_is_given_none_that_is_larger() -> None:
    class One:
        max_batch = 2

        def __init__(self) -> None:
            self.sizes: list[int] = []

        async def publish(self, batch: Batch) -> None:
            self.sizes.append(len(batch))

    one, source, ended = One(), rx.Subject(), asyncio.Event()
    rxo.publish(one, max_age=60, count=500)(source).subscribe(on_completed=ended.set)
    source.on_next(Window(Bounds(START, START, "time"), 5, [item(n) for n in range(5)]))
    source.on_completed()
    await ended.wait()
    assert one.sizes == [2, 2, 1]


async def test_a_flush_delivers_what_is_open_and_gives_one_last_attempt() -> None:
    flushes: rx.Subject[None] = rx.Subject()

    def down(_: Batch) -> None:
        raise TransientError

    bench = Bench(down, flushes=flushes, wait=tenacity.wait_fixed(20))
    for key in "abcd":
        bench.source.on_next(item(key))
    await asyncio.sleep(1)
    flushes.on_next(None)
    await bench.end()
    assert sorted(bench.given) == [(0, ["a", "b", "c"]), (1, ["a", "b", "c"]), (1, ["d"])]
    assert {each.outcome for _, each in bench.letters} == {"abandoned"}
    assert len(bench.letters) == 4


async def test_disposal_abandons_what_is_open_and_what_is_on_its_way() -> None:
    async def hang(_: Batch) -> None:
        await asyncio.sleep(1000)

    bench = Bench(hang)
    for key in "abcd":
        bench.source.on_next(item(key))
    await asyncio.sleep(1)
    assert bench.stages[0].held() == 4
    bench.subscription.dispose()
    await asyncio.sleep(0.01)
    assert sorted(each.event.key for _, each in bench.letters) == ["a", "b", "c", "d"]
    assert bench.stages[0].held() == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), max_size=30),
    st.lists(st.sampled_from(["take", "fail", "half", "refuse", "hang"]), max_size=40),
    st.integers(1, 5),
)
def test_every_event_meets_one_end(arrivals: list[tuple[int, int]], moods: list[str], count: int) -> None:
    async def main() -> None:
        mood = iter(moods)

        async def sink(batch: Batch) -> Any:
            await asyncio.sleep(0.1)
            match next(mood, "take"):
                case "fail":
                    raise TransientError
                case "half":
                    return {n: TransientError() for n in range(0, len(batch), 2)}
                case "refuse":
                    return {0: PermanentError()}
                case "hang":
                    await asyncio.sleep(1000)
            return None

        bench = Bench(sink, count=count, timeout=4)
        for n, (_, at) in enumerate(sorted(arrivals, key=lambda pair: pair[1])):
            await asyncio.sleep(max(0, at - bench.loop.time()))
            bench.source.on_next(Compacted(n, n, 1, bench.loop.wall(), None))
        await bench.end()
        ends = [c.key for delivered in bench.delivered for c in delivered.batch]
        ends += [each.event.key for _, each in bench.letters]
        assert sorted(ends) == list(range(len(arrivals)))
        assert bench.stages[0].held() == 0

    run(main)


@pytest.mark.parametrize("options", [{"max_age": 0}, {"count": 0}, {"timespan": -1}, {"max_concurrent": 0}])
def test_arguments_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        rxo.publish(print, **({"max_age": 1} | options))


# ── more of each ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_linger_counts_from_the_first_event_of_each_batch() -> None:
    bench = Bench(count=2, timespan=5)
    for at, key in ((1, "a"), (4, "b"), (5, "c"), (9, "d"), (9.5, "e"), (14, "f"), (15, "g")):
        await asyncio.sleep(at - bench.loop.time())
        bench.source.on_next(item(key))
    await asyncio.sleep(100)
    assert bench.given == [(4, ["a", "b"]), (9, ["c", "d"]), (14, ["e", "f"]), (20, ["g"])]


async def test_windows_and_events_share_a_batch_and_no_linger_is_no_wait() -> None:
    bench = Bench(timespan=timedelta(seconds=2))
    bench.source.on_next(item("a"))
    await asyncio.sleep(1)
    bench.source.on_next(Window(Bounds(START, START, "time"), 0, []))
    bench.source.on_next(Window(Bounds(START, START, "time"), 1, [item("b")]))
    await asyncio.sleep(5)
    assert bench.given == [(2, ["a", "b"])]
    bench = Bench(timespan=0)
    bench.source.on_next(item("a"))
    await asyncio.sleep(0.001)
    assert bench.given == [(6, ["a"])]


async def test_nothing_is_delivered_of_nothing() -> None:
    bench = Bench()
    bench.source.on_next(Window(Bounds(START, START, "time"), 0, []))
    await asyncio.sleep(10)
    await bench.end()
    assert bench.given == []
    assert bench.loop.time() == 10


async def test_each_expires_at_its_own_deadline_while_the_batch_waits() -> None:
    def down(_: Batch) -> None:
        raise TransientError("down")

    bench = Bench(down, count=5, wait=tenacity.wait_fixed(1000))
    births = {"a": START - 50, "b": START - 45.5, "c": START, "d": START - 20}
    for key, born in births.items():
        bench.source.on_next(item(key, born))
    bench.source.on_next(item("old", START - 60))
    await bench.end()
    assert {each.event.key: at for at, each in bench.letters} == {
        key: pytest.approx(born + 60 - START, abs=1e-4) for key, born in (births | {"old": START - 60}).items()
    }
    assert {(each.event.key == "old", each.reason) for _, each in bench.letters} == {
        (True, "too old"),
        (False, "too old, transient"),
    }
    assert all(isinstance(each.error, ExpiredError) for _, each in bench.letters)
    assert all("old" not in keys for _, keys in bench.given)
    assert all(births[key] + 60 - START > at for at, keys in bench.given for key in keys)


async def test_a_batch_that_waits_holds_no_other_back_nor_one_that_is_refused() -> None:
    def moody(batch: Batch) -> None:
        match batch[0].key:
            case "down":
                raise TransientError
            case "no":
                raise PermanentError("no")

    bench = Bench(moody, count=1, wait=tenacity.wait_fixed(7))
    for key in ("down", "no", "a", "b"):
        bench.source.on_next(item(key))
    await bench.end()
    assert [(delivered.batch[0].key, delivered.at - START) for delivered in bench.delivered] == [("a", 0), ("b", 0)]
    assert [(at, each.event.key, each.outcome, each.attempts) for at, each in bench.letters] == [
        (0, "no", "failed", 1),
        (pytest.approx(60, abs=1e-3), "down", "expired", sum(keys == ["down"] for _, keys in bench.given)),
    ]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_sink_may_be_a_function_or_a_coroutine_function(is_async: bool) -> None:
    answers: Any = iter([TransientError("first"), {1: TransientError("second")}, None])

    def act() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def act_later() -> Any:
        await asyncio.sleep(0.5)
        return act()

    bench = Bench(lambda _: act_later() if is_async else act(), count=2)
    bench.source.on_next(item("a"))
    bench.source.on_next(item("b"))
    await bench.end()
    assert [keys for _, keys in bench.given] == [["a", "b"], ["a", "b"], ["b"]]
    assert [([c.key for c in delivered.batch], delivered.attempts) for delivered in bench.delivered] == [
        (["a"], 2),
        (["b"], 3),
    ]


async def test_a_sinks_retry_after_is_waited_for() -> None:
    waits = iter([20.0, 9.0, None])

    def limited(batch: Batch) -> None:
        if batch[0].key == "a" and (wait := next(waits, 0.0)) != 0.0:
            raise RateLimitedError(retry_after=wait)

    bench = Bench(limited, count=1)
    bench.source.on_next(item("a"))
    bench.source.on_next(item("b"))
    await bench.end()
    assert bench.given == [(0, ["a"]), (0, ["b"]), (20, ["a"]), (29, ["a"]), (30, ["a"])]


async def test_a_limit_that_outlives_an_event_expires_it_on_time() -> None:
    def limited(_: Batch) -> None:
        raise RateLimitedError(retry_after=3600)

    bench = Bench(limited, count=1)
    bench.source.on_next(item("a"))
    await bench.end()
    assert [at for at, _ in bench.given] == [0]
    assert [at for at, _ in bench.letters] == [60]


async def test_a_delivery_that_takes_too_long_is_tried_again_with_the_same_key() -> None:
    async def slow_at_first(_: Batch) -> None:
        await asyncio.sleep(100 if len(bench.given) == 1 else 1)

    bench = Bench(slow_at_first, count=1, timeout=5)
    bench.source.on_next(item("a"))
    await bench.end()
    assert [at for at, _ in bench.given] == [0, 6]
    assert len(set(bench.keys)) == 1


async def test_a_flush_is_a_last_chance_that_may_be_taken() -> None:
    flushes: rx.Subject[None] = rx.Subject()

    def down_at_first(batch: Batch) -> None:
        if len(bench.given) == 1:
            raise TransientError

    bench = Bench(down_at_first, count=2, flushes=flushes, wait=tenacity.wait_fixed(25))
    for key in "abc":
        bench.source.on_next(item(key))
    await asyncio.sleep(3)
    flushes.on_next(None)
    await bench.end()
    assert bench.loop.time() == 3
    assert sorted(c.key for delivered in bench.delivered for c in delivered.batch) == ["a", "b", "c"]
    assert bench.letters == []


@given(st.lists(st.tuples(st.text(), st.integers(1, 3), st.floats(0, 9)), min_size=1, max_size=5), st.data())
def test_another_content_has_another_idempotency_key(rows: list[tuple[str, int, float]], data: st.DataObject) -> None:
    batch = Batch(Compacted(key, {"any": key}, count, at, at) for key, count, at in rows)
    key = batch.idempotency_key
    assert Batch(batch).idempotency_key == key
    assert Batch(batch[1:]).idempotency_key != key
    assert Batch((*batch, item("more"))).idempotency_key != key
    position = data.draw(st.integers(0, len(rows) - 1))
    change = data.draw(st.sampled_from([{"key": "other" * 9}, {"count": 9}, {"first_seen": -1.0}, {"last_seen": 99.0}]))
    changed = [c.replace(**change) if n == position else c for n, c in enumerate(batch)]
    assert Batch(changed).idempotency_key != key


def test_keys_that_python_takes_for_one_have_several_idempotency_keys() -> None:
    keys = [1, "1", True, 1.0, None, "None", (1,), ("1",), b"1"]
    assert len({Batch([Compacted(key, None, 1, 0.0, 0.0)]).idempotency_key for key in keys}) == len(keys)


async def test_an_event_that_comes_after_a_batch_that_was_too_old_is_published() -> None:
    bench = Bench(timespan=5)
    bench.source.on_next(item("old", START - 60))
    await asyncio.sleep(1)
    bench.source.on_next(item("young"))
    await asyncio.sleep(10)
    assert (bench.given, [letter.event.key for _, letter in bench.letters]) == ([(6, ["young"])], ["old"])


async def test_a_batch_that_gathers_is_held_and_no_call_that_waits_to_be_made_again() -> None:
    def down(_: Batch) -> None:
        raise TransientError

    bench = Bench(down, timespan=5)
    bench.source.on_next(item("a", START - 10))
    await asyncio.sleep(4)
    [stage] = bench.stages
    assert (stage.held(), stage.waiting(), stage.oldest()) == (1, 0, 14)
    await asyncio.sleep(1.5)
    assert (stage.held(), stage.waiting(), stage.oldest()) == (1, 1, 15.5)


# ── known defects ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_idempotency_key_of_a_set_is_the_same_in_another_process() -> None:
    program = (
        "from rxcompact import Batch, Compacted\n"
        "print(Batch([Compacted(frozenset('abcdef'), 1, 1, 1.0, 1.0)]).idempotency_key)"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": str(seed)}, capture_output=True, check=True
        ).stdout
        for seed in range(4)
    }
    assert len(keys) == 1


async def test_a_partial_failure_is_one_failed_attempt() -> None:
    attempts: list[int] = []

    def partly(batch: Batch) -> Any:
        return {n: TransientError() for n in range(len(batch))} if len(bench.given) < 3 else None

    bench = Bench(partly, wait=tenacity.wait_exponential(), before_sleep=lambda s: attempts.append(s.attempt_number))
    for key in "abc":
        bench.source.on_next(item(key))
    await bench.end()
    assert [at for at, _ in bench.given] == [0, 1, 3]
    assert attempts == [1, 2]


async def test_an_event_that_is_young_enough_when_it_comes_is_tried_at_least_once() -> None:
    bench = Bench(timespan=5)
    bench.source.on_next(item("a", START - 58))
    await asyncio.sleep(10)
    await bench.end()
    assert [keys for _, keys in bench.given] == [["a"]]


async def test_a_position_that_failed_for_no_exception_is_not_published() -> None:
    bench = Bench(lambda _: {0: "refused"}, count=1)
    bench.source.on_next(item("a"))
    await bench.end()
    assert bench.delivered == []
