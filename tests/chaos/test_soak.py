"""Runs with faults at every boundary, in virtual time; RXCOMPACT_SOAK_LIVES is their number.

What the soak found has a short test of its kind, too.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import pytest
import reactivex as rx
import reactivex.operators
from pipelines import simple_pipeline
from soak import soak

from rxcompact import Orchestrator, key_of
from rxcompact.acks import Ack, Chunk
from rxcompact.sources.python import IterableSource

LIVES = int(os.environ.get("RXCOMPACT_SOAK_LIVES", "30"))


@pytest.mark.timeout(60 + 10 * LIVES)  # a life takes a second, alone on a core
def test_each_event_has_one_outcome_whatever_fails() -> None:
    injected: Counter[str] = Counter()
    events = 0
    for seed in range(LIVES):
        life = soak(seed)
        injected.update(life.dice.injected)
        events += len(life.feed.given)
    assert events > 500 * LIVES
    assert injected.total() > 200 * LIVES, "too little went wrong"
    assert {each.partition(" ")[0] for each in injected} >= {"source", "api", "sink", "observer", "cache", "clock"}


def test_a_run_can_be_repeated() -> None:
    first, again = soak(12), soak(12)
    assert first.witness.turns == again.witness.turns
    assert first.witness.runs == again.witness.runs


def orchestrated(**options: Any) -> Orchestrator:
    settings = {"key_mapper": "id", "timespan": 1, "max_age": 60, "sink": lambda _: None, "batch_timespan": 0.1}
    return Orchestrator(simple_pipeline(**settings | options))


async def test_events_in_a_queue_at_the_deadline_are_abandoned() -> None:
    async def mapper(event: Any) -> Any:
        await asyncio.sleep(500 if event["id"] == 0 else 0)
        return event

    orchestrator = orchestrated(source=rx.from_iterable({"id": n} for n in range(3)), enricher=mapper, ordered=True)
    outcomes: list[Any] = []
    orchestrator.outcomes.subscribe(outcomes.append)
    await orchestrator.start()
    await asyncio.sleep(2)
    report = await orchestrator.stop(1)
    assert (report.account.abandoned, report.account.in_flight) == (3, 0)
    assert sorted((outcome.event.key, outcome.outcome) for outcome in outcomes) == [(n, "abandoned") for n in range(3)]


async def test_events_after_overflow_error_are_rejected_not_duplicates() -> None:
    events: rx.Subject[Any] = rx.Subject()

    async def slow(_: Any) -> None:
        await asyncio.sleep(5)

    orchestrator = orchestrated(source=events, sink=slow, max_in_flight=2, overflow="error")
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(lambda letter: letters.append((letter.outcome, letter.reason)))
    await orchestrator.start()
    for n in range(3):
        events.on_next({"id": n})
    await asyncio.sleep(0.5)  # the stream has failed; what is held is still being published
    events.on_next({"id": 3})
    await asyncio.sleep(0.5)
    account = (await orchestrator.stop()).account
    assert (account.received, account.duplicates, account.distinct, account.rejected) == (4, 0, 3, 1)
    assert letters == [("dropped", "no room"), ("rejected", "stopped")]


@pytest.mark.parametrize("last", [True, False], ids=["the last event", "with others queued"])
async def test_a_call_that_cancels_its_own_task_delays_no_other(last: bool) -> None:
    async def mapper(event: Any) -> Any:
        if event["id"] == (2 if last else 0):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return event

    orchestrator = orchestrated(source=[{"id": n} for n in range(3)], enricher=mapper, max_concurrent=1)
    async with orchestrator:
        report = await asyncio.wait_for(orchestrator.wait(), 65)  # it is called again until it is too old
    assert report.account.in_flight == 0
    assert report.account.published >= 2


async def test_events_of_an_iterable_before_it_raises_are_taken() -> None:
    def events() -> Any:
        yield {"id": 1}
        yield {"id": 2}
        raise OSError("torn")

    orchestrator = orchestrated(source=IterableSource(events()))
    async with orchestrator:
        with pytest.raises(OSError, match="torn"):
            await orchestrator.wait()
    assert orchestrator.account.received == orchestrator.account.published == 2


async def test_a_message_of_only_bad_events_is_settled() -> None:
    settled: list[str] = []

    class Source:
        def stream(self, _: Any) -> Any:
            return rx.of(Chunk([{}, {}], Ack(settled.extend, "bad"))).pipe(rx.operators.concat(rx.never()))

    async with orchestrated(source=Source(), key_mapper=key_of("id", missing="reject")) as orchestrator:
        await asyncio.sleep(5)
        assert orchestrator.account.rejected == 2
        assert settled == ["bad"]


async def test_a_window_does_not_count_dropped_events() -> None:
    events: rx.Subject[Any] = rx.Subject()
    orchestrator = orchestrated(source=events, max_in_flight=2)
    windows: list[Any] = []
    orchestrator.windows.subscribe(windows.append)
    async with orchestrator:
        for n in (0, 0, 1, 2):
            events.on_next({"id": n})
        await asyncio.sleep(2)
    assert [(window.received, sum(compacted.count for compacted in window)) for window in windows] == [(2, 2)]
