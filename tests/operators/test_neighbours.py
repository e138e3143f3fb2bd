"""compact: a bad event, or an observer that unsubscribes, affects no other event."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import pytest
import reactivex as rx
from pipelines import simple_pipeline
from reactivex import operators as ops
from reactivex.testing import TestScheduler

from rxcompact import Orchestrator
from rxcompact import operators as rxo
from rxcompact.acks import Ack, Chunk
from rxcompact.events import DeadLetter, Window
from rxcompact.mappers import key_of
from rxcompact.testing import START


class Odd:
    def __hash__(self) -> int:
        raise AttributeError("no hash today")


async def ran(events: list[Any], **options: Any) -> tuple[Any, list[tuple[str, str]]]:
    settings: dict[str, Any] = {"key_mapper": "id", "timespan": 10, "max_age": 1e6, "sink": lambda _: None} | options
    orchestrator = Orchestrator(simple_pipeline(source=events, **settings))
    dead: list[tuple[str, str]] = []
    orchestrator.dead_letters.subscribe(lambda letter: dead.append((letter.outcome, letter.reason)))
    async with orchestrator, asyncio.timeout(600):
        return (await orchestrator.wait()).account, dead


async def test_a_key_whose_hash_raises_is_rejected_alone() -> None:
    account, dead = await ran([{"id": key} for key in ("a", "b", Odd(), "c", "a")])
    assert dead == [("rejected", "key")]
    assert (account.received, account.duplicates, account.rejected, account.published) == (5, 1, 1, 3)


class Unequal(Odd):
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        raise AttributeError("equal to nothing")


@pytest.mark.parametrize("key", [[], Odd(), ("a", Odd()), Unequal()], ids=["list", "hash", "in a tuple", "equality"])
@pytest.mark.parametrize("options", [{}, {"fields": ["first_seen"]}, {"leading": True}, {"gap": 3}], ids=str)
async def test_a_functions_key_that_cannot_be_one_is_rejected_alone(options: dict[str, Any], key: Any) -> None:
    events = [{"id": key} for key in ("a", key, "c", "a")]
    account, dead = await ran(events, key_mapper=lambda event: event["id"], **options)
    assert dead == [("rejected", "key")]
    assert (account.received, account.rejected) == (4, 1)


async def test_a_key_that_ends_the_program_does() -> None:
    class Ending(Odd):
        def __hash__(self) -> int:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        key_of(lambda event: event).many(["a", Ending()])


@pytest.mark.parametrize("lateness", [None, 0])
@pytest.mark.parametrize("time", [Fraction(1_700_000_001), 10**5000, "soon"], ids=["Fraction", "huge", "text"])
async def test_a_time_that_is_no_number_is_rejected_alone(lateness: float | None, time: Any) -> None:
    events = [{"id": "a", "ts": START}, {"id": "b", "ts": time}, {"id": "c", "ts": START + 1}]
    account, dead = await ran(events, time_mapper="ts", lateness=lateness)
    assert dead == [("rejected", "time")]
    assert (account.received, account.rejected, account.published) == (3, 1, 2)
    account, dead = await ran(events[1:2] * 2, time_mapper="ts", lateness=lateness)
    assert dead == [("rejected", "time")] * 2


def test_windows_queued_for_an_observer_that_unsubscribes_are_dead_letters() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    windows: list[Window] = []
    dead: list[DeadLetter] = []
    options: dict[str, Any] = {"count": 2, "chunked": True, "dead_letters": dead.append, "scheduler": TestScheduler()}
    subject.pipe(rxo.compact(10, key_mapper=int, **options), ops.take(1)).subscribe(windows.append)
    subject.on_next(list(range(9)))
    assert [compacted.key for window in windows for compacted in window] == [0, 1]
    assert [(letter.outcome, letter.event.key) for letter in dead] == [("abandoned", key) for key in range(2, 9)]


def test_an_observer_of_dead_letters_that_raises_once_gets_the_others() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    keys: list[str] = []

    def observer(letter: DeadLetter) -> None:
        keys.append(letter.event.key)
        if len(keys) == 1:
            raise ValueError("an observer's fault")

    subscription = subject.pipe(
        rxo.compact(10, key_mapper=str, dead_letters=observer, scheduler=TestScheduler())
    ).subscribe()
    for key in "abcde":
        subject.on_next(key)
    with pytest.raises(ValueError, match="an observer's fault"):
        subscription.dispose()
    assert keys == list("abcde")


async def test_the_ack_of_a_bucket_whose_events_were_all_dropped_is_settled() -> None:
    settled: list[str] = []

    def chunk(name: str, *events: Any) -> Chunk:
        return Chunk(events, Ack(settled.extend, name))

    class Source:
        def stream(self, demand: Any) -> rx.Observable[Any]:
            return rx.of(
                chunk("first", {"id": 1, "ts": START}, {"id": 2, "ts": START}),
                chunk("second", {"id": 3, "ts": START + 10}, {"id": 4, "ts": START + 10}),
            ).pipe(ops.concat(rx.never()))

    pipeline = simple_pipeline(
        source=Source(), key_mapper="id", time_mapper="ts", lateness=30, timespan=10, max_age=1e6, max_in_flight=2,
        overflow="drop_oldest", sink=lambda _: None,
    )  # fmt: skip
    async with Orchestrator(pipeline):
        await asyncio.sleep(600)
        assert settled == ["first", "second"]


def test_a_timespan_longer_than_a_thread_can_wait_for_leaves_the_timers_of_others_alone() -> None:
    scheduler = TestScheduler()
    delays: list[float] = []
    schedule = scheduler.schedule_relative

    def relative(duetime: Any, action: Any, state: Any = None) -> Any:
        delays.append(float(duetime))
        return schedule(duetime, action, state)

    scheduler.schedule_relative = relative  # type: ignore[method-assign]
    rx.never().pipe(rxo.compact(1e12, key_mapper=str, scheduler=scheduler)).subscribe().dispose()
    assert delays == [86_400]
