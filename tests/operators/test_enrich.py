"""enrich: promises 6 to 10, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import cachetools
import pytest
import reactivex as rx
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, LoopError, PermanentError, RateLimitedError, TransientError
from rxcompact.events import Compacted, DeadLetter
from rxcompact.operators.enrich import Enrich
from rxcompact.testing import START, SimulatedApi, run


def item(key: Any, born: float = START) -> Compacted:
    return Compacted(key, {"id": key}, 1, born, born)


class Bench:
    """A subject behind enrich."""

    def __init__(self, mapper: Callable[[Any], Any], **options: Any) -> None:
        self.loop: Any = asyncio.get_running_loop()
        self.source: rx.Subject[Any] = rx.Subject()
        self.enriched: list[tuple[float, Compacted]] = []
        self.letters: list[tuple[float, DeadLetter]] = []
        self.ended = asyncio.Event()
        self.stages: list[Any] = []
        self.errors: list[Exception] = []
        options = {"max_age": 60, "wait": tenacity.wait_fixed(1)} | options

        def fail(error: Exception) -> None:
            self.errors.append(error)
            self.ended.set()

        self.subscription = self.source.pipe(
            Enrich(
                mapper, dead_letters=lambda letter: self.letters.append((self.loop.time(), letter)), **options
            ).having(register=self.stages.append)
        ).subscribe(lambda c: self.enriched.append((self.loop.time(), c)), fail, self.ended.set)

    async def feed(self, *items: Any) -> None:
        for each in items:
            self.source.on_next(each)
        self.source.on_completed()
        await self.ended.wait()

    def keys(self) -> list[Any]:
        return [c.key for _, c in self.enriched]


async def test_events_are_replaced_and_nothing_else() -> None:
    bench = Bench(SimulatedApi())
    await bench.feed(item("a"))
    assert bench.enriched[0][1] == item("a").replace(event={"enriched": {"id": "a"}})


async def test_functions_and_observables_are_mappers_too() -> None:
    for mapper in (lambda event: event["id"], lambda event: rx.just(event["id"])):
        bench = Bench(mapper)
        await bench.feed(item("a"))
        assert bench.enriched[0][1].event == "a"


async def test_at_most_max_concurrent_calls_and_none_for_who_waits() -> None:
    running, most = 0, 0

    async def mapper(event: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(1)
            if event["id"] < 10 and not event.get("again"):
                event["again"] = True
                raise TransientError
            return event
        finally:
            running -= 1

    bench = Bench(mapper, max_concurrent=10, wait=tenacity.wait_fixed(30), max_age=600)
    await bench.feed(*map(item, range(100)))
    assert most == 10
    # 90 need 9 rounds more; the ten that wait hold none of them up
    assert max(at for at, c in bench.enriched if c.key >= 10) == 10
    assert [at for at, c in bench.enriched if c.key < 10] == [32] * 10


async def test_one_events_failure_is_its_own() -> None:
    async def mapper(event: Any) -> Any:
        match event["id"]:
            case "bug":
                raise KeyError("bug")
            case "no":
                raise PermanentError("no")
            case "down":
                raise TransientError("down")
            case "cancelled":
                raise asyncio.CancelledError
            case "hangs":
                await asyncio.get_running_loop().create_future()
        return event

    bench = Bench(mapper, timeout=None)
    await bench.feed(*map(item, ("a", "bug", "no", "down", "cancelled", "hangs", "b")))
    assert bench.keys() == ["a", "b"]
    assert {(at, each.event.key, each.outcome, each.reason) for at, each in bench.letters} == {
        (0, "bug", "failed", "KeyError"),
        (0, "no", "failed", "permanent"),
        (60, "down", "expired", "too old, transient"),
        (60, "cancelled", "expired", "too old, CancelledError"),
        (60, "hangs", "expired", "too old, TimeoutError"),
    }
    down = next(each for _, each in bench.letters if each.event.key == "down")
    assert down.age == pytest.approx(60)
    assert down.attempts > 30
    assert isinstance(down.error.__cause__ if down.error else None, TransientError)


async def test_too_old_on_arrival_makes_no_call() -> None:
    api = SimulatedApi()
    bench = Bench(api)
    await bench.feed(item("old", START - 60), item("young", START - 59))
    assert [event["id"] for _, event in api.calls] == ["young"]
    assert [(each.outcome, each.attempts) for _, each in bench.letters] == [("expired", 0)]


async def test_a_call_that_takes_too_long_is_tried_again() -> None:
    calls: list[float] = []

    async def mapper(event: Any) -> Any:
        calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(100 if len(calls) == 1 else 1)
        return event

    bench = Bench(mapper, timeout=5)
    await bench.feed(item("a"))
    assert calls == [0, 6]
    assert bench.keys() == ["a"]


async def test_rate_limits_are_waited_for() -> None:
    calls: list[float] = []

    async def mapper(event: Any) -> Any:
        calls.append(asyncio.get_running_loop().time())
        if len(calls) < 3:
            raise RateLimitedError(retry_after=7)
        return event

    bench = Bench(mapper)
    await bench.feed(item("a"))
    assert calls == [0, 7, 14]


async def test_an_outage_longer_than_max_age_expires_just_what_was_too_old() -> None:
    api = SimulatedApi(latency=0.0, outages=[(START, START + 100)])
    bench = Bench(api, wait=tenacity.wait_random_exponential(multiplier=0.5, max=30))
    births = [START - 50 + 3 * n for n in range(60)]

    async def arrive() -> None:
        for n, born in enumerate(births):
            await asyncio.sleep(max(0, born - bench.loop.wall()))
            bench.source.on_next(item(n, born))
        bench.source.on_completed()

    await asyncio.gather(arrive(), bench.ended.wait())
    expired = {each.event.key: at for at, each in bench.letters}
    # of what is too old within 6 s of the recovery, the last attempt may have been before it
    assert {n for n, born in enumerate(births) if born + 60 <= START + 100} <= set(expired)
    assert set(expired) <= {n for n, born in enumerate(births) if born + 60 < START + 106}
    for n, at in expired.items():
        assert at == pytest.approx(births[n] + 60 - START, abs=1e-4)
    assert sorted(bench.keys()) == sorted(set(range(60)) - set(expired))
    assert all(at <= event_born(births, event) + 60 + 1e-4 for at, event in api.calls)


def event_born(births: list[float], event: Any) -> float:
    return births[event["id"]]


async def test_calls_for_a_key_in_flight_are_made_once() -> None:
    api = SimulatedApi(latency=5)
    bench = Bench(api)
    bench.source.on_next(item("a"))
    await asyncio.sleep(1)
    await bench.feed(item("a"), item("b"), item("a"))
    assert Counter(event["id"] for _, event in api.calls) == {"a": 1, "b": 1}
    assert sorted(bench.keys()) == ["a", "a", "a", "b"]


async def test_an_answer_under_way_for_a_key_replaces_no_other_content() -> None:
    async def lookup(event: Any) -> Any:
        calls.append(event["state"])
        await asyncio.sleep(1)
        return event | {"owner": "team"}

    calls: list[str] = []
    states = [item("a").replace(event={"id": "a", "state": state}) for state in ("firing", "resolved", "firing")]
    bench = Bench(lookup)
    await bench.feed(*states)
    assert [c.event["state"] for _, c in bench.enriched] == ["firing", "firing", "resolved"]
    assert sorted(calls) == ["firing", "resolved"]  # an equal event has the same answer


async def test_with_merge_one_answer_serves_every_content_of_a_key() -> None:
    async def lookup(event: Any) -> Any:
        calls.append(event)
        await asyncio.sleep(1)
        return "team"

    def merge(event: Any, owner: Any) -> Any:
        return event | {"owner": owner} if event["n"] != 1 else 1 / 0

    calls: list[Any] = []
    cache: dict[Any, Any] = {}
    events = [item("a").replace(event={"id": "a", "n": n}) for n in range(3)]
    bench = Bench(lookup, merge=merge, cache=cache)
    await bench.feed(*events)
    assert [c.event for _, c in bench.enriched] == [{"id": "a", "n": n, "owner": "team"} for n in (0, 2)]
    assert [(letter.event.event["n"], letter.reason) for _, letter in bench.letters] == [(1, "ZeroDivisionError")]
    assert (len(calls), cache) == (1, {"a": "team"})
    again = Bench(lookup, merge=merge, cache=cache)
    await again.feed(events[2])
    assert [c.event["n"] for _, c in again.enriched] == [2]
    assert len(calls) == 1


async def test_when_the_first_of_a_key_expires_the_next_goes_on() -> None:
    bench = Bench(SimulatedApi(latency=0.0, outages=[(START, START + 70)]))
    bench.source.on_next(item("a"))
    await asyncio.sleep(30)
    await bench.feed(item("a", START + 30))
    assert [(at, each.outcome) for at, each in bench.letters] == [(pytest.approx(60), "expired")]
    assert bench.keys() == ["a"]


async def test_a_cache_spares_calls() -> None:
    api = SimulatedApi()
    bench = Bench(api, cache=cachetools.LRUCache(10))
    bench.source.on_next(item("a"))
    await asyncio.sleep(1)
    await bench.feed(item("a"))
    assert len(api.calls) == 1
    assert [c.event for _, c in bench.enriched] == [{"enriched": {"id": "a"}}] * 2


async def test_a_cache_that_fails_costs_a_call_and_no_event() -> None:
    too_small = cachetools.LRUCache(maxsize=1, getsizeof=lambda _: 2)  # refuses with a ValueError

    class Broken(dict[Any, Any]):
        def get(self, *_: Any) -> Any:
            raise ConnectionError("the cache is down")

    for cache in (too_small, Broken()):
        api = SimulatedApi()
        bench = Bench(api, cache=cache)
        await bench.feed(item("a"), item("b"))
        assert sorted(bench.keys()) == ["a", "b"]
        assert bench.letters == []


@pytest.mark.parametrize("argument", ["wait", "retry", "before_sleep"])
async def test_a_function_of_the_caller_that_raises_rejects_its_own_event(argument: str) -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError("broken")

    async def mapper(event: Any) -> Any:
        if event["id"] == "a":
            raise TransientError("down")
        return event

    bench = Bench(mapper, **{argument: broken})
    await bench.feed(item("a"), item("b"))
    assert bench.keys() == ["b"]
    [(_, letter)] = bench.letters
    assert (letter.outcome, letter.reason) == ("failed", "ZeroDivisionError")
    assert isinstance(letter.error.__cause__, TransientError)


async def test_in_order_on_request() -> None:
    async def mapper(event: Any) -> Any:
        if event["id"] == 3:
            raise PermanentError
        await asyncio.sleep((10 - event["id"]) / 2)
        return event

    bench = Bench(mapper)
    await bench.feed(*map(item, range(8)))
    assert bench.keys() == [7, 6, 5, 4, 2, 1, 0]
    bench = Bench(mapper, ordered=True)
    await bench.feed(*map(item, range(8)))
    assert bench.keys() == [0, 1, 2, 4, 5, 6, 7]


async def test_a_mapper_of_batches() -> None:
    sizes: list[int] = []

    async def mapper(events: list[Any]) -> list[Any]:
        sizes.append(len(events))
        await asyncio.sleep(1)
        return [PermanentError("no") if event["id"] == 4 else event["id"] for event in events]

    bench = Bench(mapper, batch=3)
    await bench.feed(rx_window(*map(item, range(8))))
    assert sizes == [3, 3, 2]
    assert sorted(bench.keys()) == [0, 1, 2, 3, 5, 6, 7]
    assert [each.event.key for _, each in bench.letters] == [4]


async def test_a_mapper_of_batches_that_forgets_one_is_a_bug_of_theirs() -> None:
    bench = Bench(lambda events: events[1:], batch=3)
    await bench.feed(rx_window(*map(item, range(3))))
    assert {each.outcome for _, each in bench.letters} == {"failed"}


def rx_window(*items: Compacted) -> list[Compacted]:
    return list(items)


async def test_a_flush_gives_each_one_last_attempt() -> None:
    flushes: rx.Subject[None] = rx.Subject()
    api = SimulatedApi(latency=0.0, outages=[(START, START + 10)])
    bench = Bench(api, wait=tenacity.wait_fixed(25), flushes=flushes)
    bench.source.on_next(item("late"))
    await asyncio.sleep(9)
    bench.source.on_next(item("later"))
    await asyncio.sleep(3)
    flushes.on_next(None)
    bench.source.on_completed()
    await bench.ended.wait()
    assert bench.loop.time() == 12
    assert sorted(bench.keys()) == ["late", "later"]


async def test_disposal_abandons_and_leaves_no_task() -> None:
    bench = Bench(SimulatedApi(latency=100), max_concurrent=2)
    for n in range(5):
        bench.source.on_next(item(n))
    await asyncio.sleep(1)
    assert bench.stages[0].held() == 5
    bench.subscription.dispose()
    await asyncio.sleep(0.001)
    assert sorted(each.event.key for _, each in bench.letters) == [0, 1, 2, 3, 4]
    assert {each.outcome for _, each in bench.letters} == {"abandoned"}
    assert bench.stages[0].held() == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_pool_keeps_nothing_of_what_was_called_for() -> None:
    bench = Bench(SimulatedApi(latency=0.01), max_concurrent=1, max_age=100_000)
    pool = bench.stages[0]
    for n in range(2000):  # always some that wait, for a day's worth of age
        bench.source.on_next(item(n, bench.loop.wall()))
        if n > 5:
            await asyncio.sleep(0.01)
        assert len(pool._queue) < 100
        assert len(pool._jobs) < 100
        assert len(bench.loop._scheduled) < 300
    bench.source.on_completed()
    await bench.ended.wait()
    assert (len(pool._queue), len(pool._jobs)) == (0, 0)


async def test_an_observer_that_raises_ends_no_worker() -> None:
    loop = asyncio.get_running_loop()
    reported: list[Any] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    source: rx.Subject[Any] = rx.Subject()
    ended = asyncio.Event()

    def observe(_: Any) -> None:
        raise RuntimeError("observer")

    source.pipe(rxo.enrich(SimulatedApi(), max_age=60)).subscribe(observe, on_completed=ended.set)
    for n in range(300):
        source.on_next(item(n))
    source.on_completed()
    await ended.wait()
    assert len(reported) == 300


async def test_a_source_that_fails_fails_when_all_have_met_their_end() -> None:
    bench = Bench(SimulatedApi(latency=5))
    bench.source.on_next(item("a"))
    error = RuntimeError("dead")
    bench.source.on_error(error)
    await bench.ended.wait()
    assert bench.keys() == ["a"]
    assert bench.errors == [error]


def test_events_may_come_from_other_threads() -> None:
    async def main() -> list[Any]:
        source: rx.Subject[Any] = rx.Subject()
        keys: list[Any] = []
        ended = asyncio.Event()

        async def mapper(event: Any) -> Any:
            await asyncio.sleep(0)
            return event

        source.pipe(rxo.enrich(mapper, max_age=1e12)).subscribe(lambda c: keys.append(c.key), on_completed=ended.set)

        def produce() -> None:
            for n in range(1000):
                source.on_next(item(n))
            source.on_completed()

        await asyncio.to_thread(produce)
        await asyncio.wait_for(ended.wait(), 30)
        return keys

    assert sorted(asyncio.run(main())) == list(range(1000))


def test_without_a_running_loop_it_is_a_loop_error() -> None:
    errors: list[Exception] = []
    rx.of(item("a")).pipe(rxo.enrich(lambda e: e, max_age=1)).subscribe(on_error=errors.append)
    assert isinstance(errors[0], LoopError)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50_000).map(lambda ms: ms / 1000)), max_size=40),
    st.integers(1, 6),
    st.floats(0, 0.9),
    st.lists(st.tuples(st.floats(0, 60), st.floats(0, 80)), max_size=2),
    st.booleans(),
    st.none() | st.integers(1, 4),
    st.integers(0, 99),
)
def test_every_event_meets_one_end_in_time(
    arrivals: list[tuple[int, float]],
    concurrent: int,
    error_rate: float,
    outages: Any,
    ordered: bool,
    rate: Any,
    seed: int,
) -> None:
    async def main() -> None:
        api = SimulatedApi(
            latency=(0.0, 3.0), error_rate=error_rate, rate=rate, seed=seed,
            outages=[(START + at, START + at + span) for at, span in outages],
        )  # fmt: skip
        bench = Bench(api, max_concurrent=concurrent, ordered=ordered, max_age=20)
        arrived = []
        for n, (key, at) in enumerate(sorted(arrivals, key=lambda pair: pair[1])):
            await asyncio.sleep(max(0, at - bench.loop.time()))
            arrived.append(Compacted(key, {"n": n}, n, bench.loop.wall(), None))
            bench.source.on_next(arrived[-1])
            ends = len(bench.enriched) + len(bench.letters)
            assert bench.stages[0].held() == len(arrived) - ends
        bench.source.on_completed()
        await bench.ended.wait()
        ends_ = [c.count for _, c in bench.enriched] + [each.event.count for _, each in bench.letters]
        assert sorted(ends_) == list(range(len(arrived)))
        assert {each.outcome for _, each in bench.letters} <= {"expired"}
        for at, each in bench.letters:
            assert at == pytest.approx(each.event.first_seen + 20 - START, abs=1e-4)
        born = {c.event["n"]: c.first_seen for c in arrived}
        assert all(at < born[event["n"]] + 20 for at, event in api.calls)
        if ordered:
            order = [c.count for _, c in bench.enriched]
            assert order == sorted(order)

    run(main, seed=seed)


@pytest.mark.parametrize("options", [{"max_age": 0}, {"max_concurrent": 0}, {"batch": 0}, {"timeout": 0}])
def test_arguments_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        rxo.enrich(lambda e: e, **({"max_age": 1} | options))
