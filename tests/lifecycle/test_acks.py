"""Acks of a durable source: settled when every event of the message has its outcome, and never before."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from pipelines import simple_pipeline

from rxcompact import Ack, Bounds, Chunk, Compacted, Orchestrator, Window, key_of
from rxcompact.acks import PendingAcks
from rxcompact.errors import PermanentError, TransientError
from rxcompact.testing import START, SimulatedApi, run

KEY = key_of("id", missing="reject")


class Durable:
    """Messages that want to be acknowledged, by number."""

    def __init__(self) -> None:
        self.messages: rx.Subject[Any] = rx.Subject()
        self.settled: list[int] = []
        self.released = 0

    def stream(self, demand: Any) -> Any:
        del demand
        return self.messages

    def send(self, number: int, *events: Any) -> None:
        self.messages.on_next(Chunk(events, Ack(self.settled.extend, number)))

    async def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize("own", [None, Bounds(0.0, 1.0, "time")])
def test_windows_of_a_reducer_may_share_their_bounds_or_have_events_without(own: Bounds | None) -> None:
    bounds = own or Bounds(0.0, 1.0, "time")
    settled: list[str] = []
    pending = PendingAcks()
    windows: list[Window] = []
    for name in ("first", "second"):
        ack = Ack(settled.extend, name, left=2)
        items = [Compacted(key, {}, 1, 0.0, 0.0, own) for key in "ab"]
        windows.append(pending.add(Window(bounds, 2, items, acks={key: [ack] for key in "ab"})))
    assert [compacted.window for window in windows for compacted in window] == [bounds] * 4
    (one, two), (three, four) = windows
    pending.settle([one, three, four])
    assert settled == ["second"]
    pending.settle([two])
    assert settled == ["second", "first"]
    assert not pending._windows  # nothing is kept of what is settled


def test_what_waits_for_a_key_that_a_reducer_dropped_is_released() -> None:
    settled: list[str] = []
    acks = {key: [Ack(settled.extend, key, left=1)] for key in "ab"}
    PendingAcks().add(Window(Bounds(0.0, 1.0, "time"), 2, [Compacted("a", {}, 1)], acks=acks))
    assert settled == ["b"]


def test_the_origin_of_an_event_is_that_of_its_message_where_that_is_known() -> None:
    one, two, twice = {"id": 1}, {"id": 2}, {"id": 3}
    first, second = (Ack(lambda _: None, number, left=2) for number in (1, 2))
    chunk = Chunk([one, two, twice, twice], acks=[first, second, first, second], origin="message {}".format)
    assert [chunk.origin_of(each) for each in (one, two, twice, {"id": 1})] == [
        "message 1",
        "message 2",
        "message 1",
        None,
    ]
    assert Chunk([one], first, origin="message {}".format).origin_of({"id": 1}) == "message 1"
    assert Chunk([one], first, origin="file").origin_of(one) == "file"
    assert Chunk([one], first).origin_of(one) is None
    assert Chunk([one], origin="line {}".format).origin_of(5) == "line 5"


def test_the_events_of_a_window_of_ours_are_passed_on_as_they_are() -> None:
    bounds = Bounds(0.0, 1.0, "time")
    ack = Ack(list, left=1)
    window = Window(bounds, 1, [Compacted("a", {}, 1, 0.0, 0.0, bounds)], acks={"a": [ack]})
    assert PendingAcks().add(window) is window


def event(key: Any, **more: Any) -> dict[str, Any]:
    return {"id": key} | more


def started(**options: Any) -> tuple[Durable, Orchestrator, list[Any]]:
    source, out = Durable(), []
    settings = {
        "key_mapper": KEY,
        "timespan": 10,
        "max_age": 60,
        "batch_timespan": 1,
    } | options
    return source, Orchestrator(simple_pipeline(source=source, **({"sink": out.extend} | settings))), out


async def test_a_message_is_settled_when_its_survivors_are_published_and_its_duplicates_with_them() -> None:
    source, orchestrator, out = started()
    await orchestrator.start()
    source.send(1, event("a"), event("b"), event("a"))
    source.send(2, event("a"))
    await asyncio.sleep(10.5)
    assert source.settled == []  # in publish's open batch
    await asyncio.sleep(1)
    assert sorted(source.settled) == [1, 2]
    assert [(c.key, c.count) for c in out] == [("a", 3), ("b", 1)]
    await orchestrator.stop()
    assert source.released == 1


async def test_a_message_waits_for_the_last_of_its_events_and_for_no_other() -> None:
    api = SimulatedApi(outages=[(START, START + 30)])

    async def enricher(event: Any) -> Any:
        return await api(event) if event["id"] == "slow" else event

    source, orchestrator, _ = started(enricher=enricher)
    await orchestrator.start()
    source.send(1, event("quick"), event("slow"))
    source.send(2, event("quick"))
    source.send(3, event("slow"))
    await asyncio.sleep(12)
    assert source.settled == [2]
    await asyncio.sleep(60)
    assert sorted(source.settled) == [1, 2, 3]
    await orchestrator.stop()


async def test_a_duplicate_in_a_later_window_has_its_own_outcome() -> None:
    down = [True]

    async def sink(batch: Any) -> None:
        if down[0]:
            raise TransientError

    source, orchestrator, _ = started(sink=sink)
    await orchestrator.start()
    source.send(1, event("a"))
    await asyncio.sleep(10)
    source.send(2, event("a"))
    await asyncio.sleep(12)
    assert source.settled == []
    down[0] = False
    await asyncio.sleep(60)
    assert sorted(source.settled) == [1, 2]
    await orchestrator.stop()


async def test_rejected_failed_and_expired_events_settle_their_message_and_abandoned_ones_do_not() -> None:
    async def enricher(event: Any) -> Any:
        if event["id"] == "rejected":
            raise PermanentError("no such thing")
        if event["id"] in {"expired", "abandoned"}:
            raise TransientError
        return event

    source, orchestrator, _ = started(enricher=enricher)
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(letters.append)
    await orchestrator.start()
    source.send(1, {"no": "key"}, event(None))
    assert source.settled == [1]
    source.send(2, event("rejected"))
    source.send(3)
    assert source.settled == [1, 3]
    await asyncio.sleep(11)
    assert source.settled == [1, 3, 2]
    source.send(4, event("expired"))
    await asyncio.sleep(61)
    assert source.settled == [1, 3, 2, 4]
    source.send(5, event("abandoned"), event("fine"))
    source.send(6, event("fine"))
    await orchestrator.stop()
    assert source.settled == [1, 3, 2, 4, 6]
    assert Counter(letter.outcome for letter in letters) == {"rejected": 2, "failed": 1, "expired": 1, "abandoned": 1}


@pytest.mark.parametrize("options", [{"count": 2}, {"time_mapper": "t", "lateness": 0}, {"max_in_flight": 2}])
async def test_a_message_that_falls_into_several_windows_or_out_of_them_waits_for_all(options: Any) -> None:
    source, orchestrator, out = started(**options)
    await orchestrator.start()
    source.send(1, *(event(n, t=START + 10 * n) for n in range(6)))
    source.send(2, event(5, t=START + 50), event("late", t=START - 20))
    await asyncio.sleep(0.5)
    assert source.settled == []
    await orchestrator.stop()
    assert sorted(source.settled) == [1, 2]
    assert orchestrator.account.in_flight == 0


messages = st.lists(st.tuples(st.lists(st.sampled_from("abcdef"), max_size=5), st.floats(0, 15)), max_size=12)


@given(messages, st.integers(0, 10**6), st.lists(st.integers(0, 30), max_size=3), st.floats(0, 5))
def test_every_message_is_settled_once_and_not_before_the_outcomes_of_its_events(
    plan: list[tuple[list[str], float]], seed: int, restarts: list[int], deadline: float
) -> None:
    async def main() -> None:
        api = SimulatedApi(latency=0.5, seed=seed, error_rate=0.4)
        source, orchestrator, _ = started(enricher=api, max_age=20, batch_count=3)
        ends: Counter[str] = Counter()
        orchestrator.outcomes.subscribe(lambda end: ends.update([end.event.key] * end.event.count))
        sent: Counter[str] = Counter()
        await orchestrator.start()
        for number, (keys, pause) in enumerate(plan):
            sent.update(keys)
            source.send(number, *map(event, keys))
            await asyncio.sleep(pause)
            if number in restarts:
                await orchestrator.restart()
            for settled in source.settled:  # as many of each key have an outcome as the settled messages hold
                assert settled < len(plan)
            owed = Counter(key for settled in source.settled for key in plan[settled][0])
            assert owed <= ends
        report = await orchestrator.stop(deadline)
        assert len(source.settled) == len(set(source.settled))
        if not report.account.abandoned:
            assert sorted(source.settled) == list(range(len(plan)))
            assert ends == sent

    run(main)


async def test_a_source_whose_messages_were_abandoned_is_freed() -> None:
    async def stuck(_: Any) -> None:
        await asyncio.sleep(100)

    source, orchestrator, _ = started(sink=stuck)
    await orchestrator.start()
    source.send(1, event("a"))
    await asyncio.sleep(11)
    source.send(2, event("b"))
    await orchestrator.stop(0.0)
    assert (orchestrator.account.abandoned, source.settled) == (2, [])
    left = weakref.ref(source)
    del source, orchestrator
    gc.collect()
    assert left() is None
