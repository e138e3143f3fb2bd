"""max_in_flight: backpressure and the overflow policies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import reactivex as rx
from orchestrators import ManualSource, events, orchestrated

from rxcompact import Orchestrator
from rxcompact.errors import ExpiredError, NoRoomError, PermanentError, TransientError


async def test_an_iterable_is_not_pulled_beyond_max_in_flight() -> None:
    pulled = 0
    stuck = asyncio.Event()

    def endless() -> Any:
        nonlocal pulled
        for pulled in range(1, 201):
            yield {"id": pulled}

    async def sink(batch: Any) -> None:
        await stuck.wait()

    orchestrator, _ = orchestrated(endless(), sink, max_in_flight=20, timespan=1, batch_count=5, max_age=1000)
    await orchestrator.start()
    await asyncio.sleep(25)
    assert pulled == orchestrator.account.in_flight == 20
    stuck.set()
    report = await orchestrator.wait()
    assert report.account.published == 200


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_overflow_drops_by_policy_and_absorbs_every_duplicate(overflow: Any) -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject, max_in_flight=10, overflow=overflow)
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(letters.append)
    await orchestrator.start()
    for n in range(15):
        subject.on_next({"id": n})
    for _ in range(3):  # the held keys again: all absorbed
        for n in range(10):
            subject.on_next({"id": n + 5 if overflow == "drop_oldest" else n})
        await asyncio.sleep(0.1)
    now = orchestrator.account
    assert (now.received, now.distinct, now.duplicates, now.dropped, now.in_flight) == (45, 15, 30, 5, 10)
    report = await orchestrator.stop()
    kept = list(range(5, 15)) if overflow == "drop_oldest" else list(range(10))
    assert [(c.key, c.count) for c in out] == [(key, 4) for key in kept]
    assert [each.event.key for each in letters] == [key for key in range(15) if key not in kept]
    assert {(each.outcome, each.stage, each.reason) for each in letters} == {("dropped", "compact", "no room")}
    assert report.account.dropped == 5


@pytest.mark.parametrize("dead_letters", [None, lambda _: None])
async def test_a_source_that_waits_goes_on_when_an_event_has_failed(dead_letters: Any) -> None:
    async def fail(_: Any) -> None:
        raise PermanentError("no such thing")

    source = ManualSource()
    orchestrator, _ = orchestrated(source, enricher=fail, max_in_flight=1)
    async with Orchestrator(orchestrator.pipeline.having(dead_letters=dead_letters)):
        source.push(events("a"))
        async with asyncio.timeout(30):
            assert await source.demand.wait() == 1


async def test_the_last_error_of_a_stage_is_known_while_it_is_retried_and_when_it_has_failed() -> None:
    async def fail(_: Any) -> None:
        raise TransientError("busy")

    source = ManualSource()
    orchestrator, _ = orchestrated(source, enricher=fail, timespan=1)
    await orchestrator.start()
    source.push(events("a"))
    await asyncio.sleep(2)
    assert isinstance(orchestrator.stages["enrich"].error, TransientError)
    await asyncio.sleep(100)
    assert isinstance(orchestrator.stages["enrich"].error, ExpiredError)
    await orchestrator.stop()


async def test_what_arrives_after_overflow_error_while_the_last_events_are_settled_is_rejected() -> None:
    source, gate = ManualSource(), asyncio.Event()

    async def store(_: Any) -> None:
        await gate.wait()

    orchestrator, _ = orchestrated(source, store, max_in_flight=2, overflow="error")
    await orchestrator.start()
    source.push(events("a", "b", "c"))
    source.push(events("a"))
    await asyncio.sleep(1)
    account = orchestrator.account
    assert (account.distinct, account.dropped, account.rejected, account.in_flight) == (3, 1, 1, 2)
    assert not source.demand.accepts(events("a"))
    gate.set()
    with pytest.raises(NoRoomError):
        await orchestrator.wait()
    assert orchestrator.account.published == 2


async def test_overflow_error_fails_the_run_and_loses_nothing_held() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, _ = orchestrated(subject, max_in_flight=2, overflow="error")
    await orchestrator.start()
    for key in "abc":
        subject.on_next({"id": key})
    with pytest.raises(NoRoomError):
        await orchestrator.wait()
    assert orchestrator.state == "failed"
    assert orchestrator.account.published == 2


async def test_overflow_error_leaves_an_account_that_balances() -> None:
    source = ManualSource()
    orchestrator, out = orchestrated(source, max_in_flight=2, overflow="error")
    outcomes: list[Any] = []
    orchestrator.outcomes.subscribe(outcomes.append)
    await orchestrator.start()
    source.push(events("a", "b", "a", "c", "d", "e"))
    with pytest.raises(NoRoomError):
        await orchestrator.wait()
    account = orchestrator.account
    assert sorted((c.key, c.count) for c in out) == [("a", 2), ("b", 1)]
    assert (account.received, account.published, account.in_flight) == (6, 2, 0)
    assert account.duplicates == 1, "what found no room is not a duplicate"
    assert sum(each.event.count for each in outcomes) == account.received
