"""The loop has its turns while many events are handed over, tried again, expire or are abandoned: promise 26."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from operator import sub
from typing import Any

import pytest
from orchestrators import ManualSource, events, orchestrated

from rxcompact import Orchestrator
from rxcompact.errors import TransientError
from rxcompact.events import Compacted
from rxcompact.operators.turns import BYTES, SLICE, Turns, in_parts, step
from rxcompact.operators.waiting import DUE

MANY = 5000


async def down(_: Any) -> Any:
    raise TransientError("down")


async def hangs(_: Any) -> Any:
    await asyncio.Event().wait()


async def most_at_once(
    orchestrator: Orchestrator, number: Callable[[Orchestrator], int], until: Callable[[], bool]
) -> int:
    """Return by how much a number changed at most between two turns of the loop; the account balances at each."""
    most, before = 0, number(orchestrator)
    while not until():
        await asyncio.sleep(0 if number(orchestrator) != before or most else 0.1)
        now = number(orchestrator)
        most, before = max(most, abs(now - before)), now
        account = orchestrator.account
        ends = account.published + account.expired + account.failed + account.dropped + account.abandoned
        assert account.received == account.duplicates + account.distinct + account.rejected
        assert account.distinct == ends + account.in_flight
        assert account.in_flight == sum(stage.held for stage in orchestrator.stages.values())
    return most


def held_by(stage: str) -> Callable[[Orchestrator], int]:
    return lambda orchestrator: orchestrator.stages[stage].held


async def test_a_window_is_handed_over_in_parts_in_order() -> None:
    source = ManualSource()
    orchestrator, out = orchestrated(source, enricher=hangs, max_concurrent=1)
    await orchestrator.start()
    source.push(events(*range(MANY)))
    most = await most_at_once(orchestrator, held_by("compact"), lambda: held_by("enrich")(orchestrator) == MANY)
    assert most == SLICE
    await orchestrator.stop(1)


async def test_the_source_ends_while_a_window_is_handed_over_and_all_is_published_in_order() -> None:
    source = ManualSource()
    orchestrator, out = orchestrated(source)
    await orchestrator.start()
    source.push(events(*range(MANY)))
    source.observer.on_completed()
    assert orchestrator.state == "draining"
    assert (await orchestrator.wait()).account.published == MANY
    assert [each.key for each in out] == list(range(MANY))


async def test_two_windows_follow_each_other_while_the_first_is_handed_over() -> None:
    source = ManualSource()
    orchestrator, out = orchestrated(source, count=MANY)
    await orchestrator.start()
    source.push(events(*range(2 * MANY)))
    await asyncio.sleep(5)
    assert [each.key for each in out] == list(range(2 * MANY))
    await orchestrator.stop()


async def test_batches_of_calls_are_full_where_a_window_is_handed_over_in_parts() -> None:
    sizes: list[int] = []

    async def enrich(some: Any) -> Any:
        sizes.append(len(some))
        return some

    source = ManualSource()
    orchestrator, _ = orchestrated(source, enricher=enrich, batch=300)
    async with orchestrator:
        source.push(events(*range(2000)))
    assert sizes == [300] * 6 + [200]


async def test_what_is_too_old_at_one_instant_in_the_queue_is_settled_in_slices() -> None:
    source = ManualSource()
    orchestrator, _ = orchestrated(source, enricher=hangs, timeout=None)
    await orchestrator.start()
    source.push(events(*range(MANY)))
    number = lambda each: each.account.expired
    most = await most_at_once(orchestrator, number, lambda: number(orchestrator) == MANY)
    assert most == DUE
    await orchestrator.stop()


async def test_what_is_tried_again_at_one_instant_is_called_in_slices() -> None:
    seen: set[int] = set()

    async def every_other_fails_once(event: Any) -> Any:
        if event["id"] % 2 or event["id"] in seen:
            return event
        seen.add(event["id"])
        raise TransientError("once")

    source = ManualSource()
    orchestrator, _ = orchestrated(source, enricher=every_other_fails_once, wait=20.0, max_concurrent=MANY)
    await orchestrator.start()
    source.push(events(*range(MANY)))
    await asyncio.sleep(15)
    waiting = lambda each: each.stages["enrich"].waiting
    assert waiting(orchestrator) == MANY / 2
    assert await most_at_once(orchestrator, waiting, lambda: waiting(orchestrator) == 0) == DUE
    await orchestrator.stop(0)


async def test_what_a_stop_gives_up_of_a_service_that_is_down_is_abandoned_in_slices() -> None:
    source = ManualSource()
    orchestrator, _ = orchestrated(source, enricher=down, wait=50.0)
    await orchestrator.start()
    source.push(events(*range(MANY)))
    await asyncio.sleep(15)
    stopping = asyncio.ensure_future(orchestrator.stop())
    abandoned = [0]
    while not stopping.done():
        await asyncio.sleep(0)
        abandoned.append(orchestrator.account.abandoned)
    assert abandoned[-1] == MANY
    assert max(map(sub, abandoned[1:], abandoned)) <= 2 * DUE


async def test_batches_that_are_too_old_at_one_instant_are_settled_one_by_one() -> None:
    source = ManualSource()
    orchestrator, _ = orchestrated(source, sink=hangs, batch_timeout=None)
    await orchestrator.start()
    source.push(events(*range(2 * MANY)))
    number = lambda each: each.account.expired
    assert await most_at_once(orchestrator, number, lambda: number(orchestrator) == 2 * MANY) == DUE
    await orchestrator.stop()


async def test_what_a_stop_abandons_is_abandoned_in_slices() -> None:
    source = ManualSource()
    orchestrator, _ = orchestrated(source, enricher=hangs)
    await orchestrator.start()
    source.push(events(*range(MANY)))
    await asyncio.sleep(15)
    stopping = asyncio.ensure_future(orchestrator.stop(2))
    most = await most_at_once(orchestrator, lambda each: each.account.abandoned, stopping.done)
    assert most == DUE
    assert stopping.result().account.abandoned == MANY


async def test_a_stop_at_once_while_a_window_is_handed_over_loses_nothing() -> None:
    source = ManualSource()
    orchestrator, out = orchestrated(source, enricher=hangs, count=MANY)
    await orchestrator.start()
    source.push(events(*range(MANY)))
    report = await orchestrator.stop(0)
    assert report.account.abandoned == MANY
    assert report.account.in_flight == 0
    assert not out


def test_turns_go_on_after_what_raises() -> None:

    found: list[str] = []

    def wrong() -> None:
        raise ValueError("wrong")

    async def main() -> None:
        turns = Turns(asyncio.get_running_loop())
        with pytest.raises(ValueError, match="wrong"):
            turns.add(step(wrong))
        turns.add(step(lambda: found.append("next")))
        await turns.wait()

    asyncio.run(main())
    assert found == ["next"]


async def test_many_windows_that_close_in_one_turn_are_handed_over_in_slices() -> None:
    turns, done = Turns(asyncio.get_running_loop()), list[int]()

    def window(number: int) -> Iterator[int]:
        done.append(number)
        yield 1

    for number in range(2 * SLICE):
        turns.add(window(number))
    assert done == list(range(SLICE))
    await turns.wait()
    assert done == list(range(2 * SLICE))


def test_large_events_are_handed_over_a_few_at_a_time_and_held_no_longer() -> None:
    large = SLICE // 3 * BYTES
    some, parts = [Compacted(n, None, size=large) for n in range(7)], list[list[int]]()
    left = [len(some) for _ in in_parts(some, 1, lambda part: parts.append([each.key for each in part]))]
    assert parts == [[0, 1], [2, 3], [4, 5], [6]]
    assert left == [5, 3, 1, 0]
