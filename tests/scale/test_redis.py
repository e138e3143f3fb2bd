"""RedisStreamSource in pipelines that run, against a real server; what is acknowledged is asked of the server."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("redis")

from .conftest import Gate
from .redis_support import GROUP, STREAM

if TYPE_CHECKING:
    from .redis_support import RedisRig

LONG = 60.0


async def until(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# ── acknowledged when published ───────────────────────────────────────────────────────────────────────────────────────


def test_entries_are_acknowledged_when_all_their_events_are_published_or_set_aside(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        gate = Gate(rig.out)
        bodies: list[Any] = [{"id": 1}, [{"id": 1}, {"id": 2}], b'{"id": 2}\n{"id": 3}\n', b'{"id": 1}']
        good = await rig.send(*bodies)
        await rig.send(b"[{oops", b"", b'{"id": [', b"[]")
        good += await rig.send(b'{"id": 4}{"id": 1}')
        (bad,) = await rig.add([{"other": b"\n\xff", "more": "{}"}])
        good += await rig.add([{"other": "x", "data": '{"id": 5}'}])
        await rig.pipeline(sink=gate, source={"together": 1}).start()
        await asyncio.wait_for(gate.asked.wait(), 5)
        await rig.settles(unacknowledged=6)  # what was refused at the door, and what was empty, is done with
        assert sorted(await rig.pending()) == sorted(good)
        assert rig.out == []
        gate.open.set()
        await rig.settles()
        counts: Counter[Any] = Counter()
        for compacted in rig.out:
            counts[compacted.key] += compacted.count
        assert counts == {1: 4, 2: 2, 3: 1, 4: 1, 5: 1}
        assert [(letter.outcome, letter.reason) for letter in rig.letters] == [("rejected", "malformed")] * 4
        assert bad in rig.letters[-1].event

    with_redis(test)


def test_what_expired_is_acknowledged_when_it_is_a_dead_letter(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        async def sink(_: Any) -> None:
            raise ConnectionError

        await rig.pipeline(sink=sink, max_age=1.0).start()
        await rig.send({"id": 1}, {"id": 1}, {"id": 2})
        await until(lambda: rig.letters)
        await rig.settles()
        assert sorted((letter.outcome, letter.event.key) for letter in rig.letters) == [("expired", 1), ("expired", 2)]

    with_redis(test)


def test_a_group_begins_where_it_is_told_and_reads_the_field_it_is_told(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        await rig.add({"body": b'{"id": %d}' % number} for number in range(3))
        orchestrator = rig.pipeline(source={"start": "$", "field": "body"})
        await orchestrator.start()
        await rig.settles()
        await rig.add([{"body": '{"id": 3}'}])
        await until(lambda: rig.out)
        await orchestrator.stop()
        everything = rig.pipeline(source={"group": "others", "field": "body", "prefetch": 2})
        await everything.start()
        await until(lambda: everything.account.published == 4)
        assert rig.ids() == [3, 0, 1, 2, 3]

    with_redis(test)


def test_an_entry_held_longer_than_min_idle_time_is_not_claimed_while_its_worker_lives(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        gate = Gate(rig.out)
        # three events have room: the third entry is held before it is pushed
        holder = rig.pipeline(sink=gate, max_in_flight=3, source={"min_idle_time": 0.6})
        entries = await rig.send([{"id": 0}, {"id": 1}], {"id": 2}, {"id": 3})  # which one read has
        await holder.start()
        await rig.settles(unacknowledged=3)
        other = rig.pipeline(source={"min_idle_time": 0.6, "consumer": "two"})
        await other.start()
        await asyncio.sleep(2)
        assert (rig.out, other.account.received) == ([], 0)
        assert await rig.pending() == dict.fromkeys(entries, ("one", 1))
        gate.open.set()
        await rig.settles()
        assert sorted((compacted.key, compacted.count) for compacted in rig.out) == [(n, 1) for n in range(4)]

    with_redis(test)


# ── stop, restart, other workers ──────────────────────────────────────────────────────────────────────────────────────


def test_stop_returns_what_was_not_settled_and_another_worker_gets_it_at_once(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        gate = Gate(rig.out)
        first = rig.pipeline(sink=gate, max_in_flight=3, source={"min_idle_time": LONG})
        await first.start()
        await rig.send_events(range(50))
        await asyncio.wait_for(gate.asked.wait(), 5)
        report = await first.stop(1.0)
        assert (report.in_time, rig.out) == (False, [])
        assert report.account.abandoned == report.account.received == 3
        assert {letter.outcome for letter in rig.letters} == {"abandoned"}
        left = len(await rig.pending())
        assert left >= 3
        await rig.settles(waiting=50 - left, unacknowledged=left)
        await rig.pipeline(source={"min_idle_time": LONG, "consumer": "two"}).start()
        await rig.settles(seconds=5)  # a twelfth of min_idle_time
        assert sorted(rig.ids()) == list(range(50))

    with_redis(test)


def test_a_worker_that_comes_again_begins_with_what_it_left(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        await rig.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        await rig.send_events(range(25))
        left = await rig.client.xreadgroup(GROUP, "one", {STREAM: ">"}, 20)
        others = await rig.client.xreadgroup(GROUP, "two", {STREAM: ">"}, 2)
        await rig.client.xdel(STREAM, left[0][1][0][0])
        await rig.pipeline(source={"min_idle_time": LONG, "prefetch": 3}).start()
        await rig.settles(unacknowledged=2)
        assert set(await rig.pending()) == {identity for identity, _ in others[0][1]}
        assert rig.ids() == [*range(1, 20), 22, 23, 24]

    with_redis(test)


def test_stop_publishes_what_it_can_and_acknowledges_that(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        await rig.send_events(range(500))
        orchestrator = rig.pipeline(timespan=LONG, max_in_flight=300, source={"prefetch": 200})
        await orchestrator.start()
        await until(lambda: orchestrator.account.received)
        report = await orchestrator.stop()
        assert report.in_time
        taken = report.account.received
        assert sorted(rig.ids()) == list(range(taken))
        # what was on its way was returned
        assert await rig.waiting() + len(await rig.pending()) == 500 - taken
        await orchestrator.start()  # the same source once more
        await until(lambda: orchestrator.account.received >= min(300, 500 - taken))
        await orchestrator.stop()
        await orchestrator.start()
        await until(lambda: len(rig.out) + orchestrator.account.received == 500)
        await orchestrator.stop()
        await rig.settles()
        assert sorted(rig.ids()) == list(range(500))

    with_redis(test)


def test_a_restart_loses_nothing_and_gets_nothing_twice(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        orchestrator = rig.pipeline(timespan=0.5)
        await orchestrator.start()
        for start in range(0, 2000, 100):
            sending = asyncio.ensure_future(rig.send_events(range(start, start + 100)))
            await asyncio.sleep(0)
            await orchestrator.restart()
            await sending
        await orchestrator.restart()
        await orchestrator.restart()
        await until(lambda: orchestrator.account.published == 2000)
        await rig.settles()
        assert sorted(rig.ids()) == list(range(2000))
        assert rig.failures == []

    with_redis(test)


def test_a_worker_that_is_gone_is_replaced_by_the_others_after_min_idle_time(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        from loguru import logger

        await rig.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        await rig.send_events(range(3_000))
        left = await rig.client.xreadgroup(GROUP, "gone", {STREAM: ">"}, 2_500)
        # two of those that it left are removed meanwhile
        removed = [left[0][1][number][0] for number in (0, 1_700)]
        await rig.client.xdel(STREAM, *removed)
        logged: list[str] = []
        handler = logger.add(logged.append, level="WARNING", format="{message}")
        try:
            await rig.pipeline(source={"min_idle_time": 0.4, "prefetch": 100}).start()
            await rig.settles()
        finally:
            logger.remove(handler)
        assert sorted(rig.ids()) == [number for number in range(3_000) if number not in (0, 1_700)]
        assert sum("removed from the stream" in line for line in logged) == len(logged)
        assert {identity.decode() for identity in removed} <= {line.split()[-2].rstrip(",") for line in logged}

    with_redis(test)


def test_what_others_left_is_found_behind_much_that_is_held(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        orchestrator = rig.pipeline(timespan=LONG, source={"min_idle_time": 0.4, "prefetch": 10})
        await orchestrator.start()
        await rig.send_events(range(300))  # the server looks at ten times as many as it is asked for
        await until(lambda: orchestrator.account.received == 300)
        await rig.deliver("gone", *({"id": number} for number in range(300, 320)))
        await until(lambda: orchestrator.account.received == 320)
        await orchestrator.stop()
        await rig.settles()
        assert sorted(rig.ids()) == list(range(320))

    with_redis(test)


# ── backpressure ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_has_no_room_stays_with_the_server(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        gate = Gate(rig.out)
        orchestrator = rig.pipeline(sink=gate, max_in_flight=10, timespan=0.05, batch_timespan=0)
        await orchestrator.start()
        await rig.send_events(range(500))
        await rig.settles(waiting=490, unacknowledged=10)
        assert orchestrator.account.in_flight == 10
        gate.open.set()
        await rig.settles()
        assert sorted(rig.ids()) == list(range(500))
        assert rig.letters == []

    with_redis(test)


def test_no_more_entries_are_held_than_allowed_whatever_their_keys(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        gate = Gate(rig.out)
        await rig.send(*[{"id": 1}] * 500)
        await rig.pipeline(sink=gate, source={"max_pending": 100}).start()
        await asyncio.wait_for(gate.asked.wait(), 5)
        await rig.settles(waiting=400, unacknowledged=100)
        gate.open.set()
        await rig.settles()
        assert sum(compacted.count for compacted in rig.out) == 500
        assert max(compacted.count for compacted in rig.out) == 100

    with_redis(test)


def test_an_entry_of_more_events_than_there_can_be_room_for_is_taken_in_parts(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        orchestrator = rig.pipeline(max_in_flight=10, timespan=0.05, batch_timespan=0)
        await orchestrator.start()
        first, *_ = await rig.send(
            [{"id": number} for number in range(55)], {"id": 55}, [{"id": n} for n in range(56, 100)]
        )
        await until(lambda: rig.out)
        assert first in await rig.pending()
        await rig.settles()
        assert sorted(rig.ids()) == list(range(100))
        assert rig.letters == []

    with_redis(test)
