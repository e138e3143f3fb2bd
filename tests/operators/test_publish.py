"""publish: promise 11, in virtual time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import reactivex as rx
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, PermanentError, RateLimitedError, TransientError
from rxcompact.events import Batch, Compacted, DeadLetter, Delivered, Window
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
            rxo.publish(
                self.sink,
                dead_letters=lambda letter: self.letters.append((self.loop.time(), letter)),
                probe=self.stages.append,
                **options,
            )
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
    bench.source.on_next(Window.of(START, START, "time", 7, [item(n) for n in range(7)]))
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


async def test_a_sink_may_say_which_failed_and_only_they_are_tried_again() -> None:
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
    assert [(each.outcome, each.event.key) for _, each in bench.letters] == [("rejected", "c")]


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


async def test_deliveries_are_one_at_a_time_unless_asked_for() -> None:
    async def slow(_: Batch) -> None:
        await asyncio.sleep(2)

    for concurrent, times in ((1, [0, 2, 4]), (3, [0, 0, 0])):
        bench = Bench(slow, count=1, max_concurrent=concurrent)
        began = bench.loop.time()
        for key in "abc":
            bench.source.on_next(item(key))
        await bench.end()
        assert [at - began for at, _ in bench.given] == times


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
