"""JetStreamSource in pipelines that run, against a real server; what is acknowledged is asked of the server."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("nats")


from .conftest import Gate

if TYPE_CHECKING:
    from .conftest import Rig

LONG = 60.0


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# ── acknowledged when published ───────────────────────────────────────────────────────────────────────────────────────


def test_messages_are_acknowledged_when_all_their_events_are_published_or_set_aside(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        gate = Gate(rig.out)
        orchestrator = rig.pipeline(sink=gate, source={"together": 1})
        await orchestrator.start()
        bodies: list[Any] = [{"id": 1}, [{"id": 1}, {"id": 2}], b'{"id": 2}\n{"id": 3}\n', b'{"id": 1}']
        await rig.send(*bodies, b"[{oops", b"", b'{"id": [', b"[]", b'{"id": 4}{"id": 1}')
        await asyncio.wait_for(gate.asked.wait(), 5)
        await rig.settles(unacknowledged=5)  # what was refused at the door, and what was empty, is done with
        assert rig.out == []
        gate.open.set()
        await rig.settles()
        assert (await rig.info()).ack_floor.stream_seq == 9
        counts: Counter[Any] = Counter()
        for compacted in rig.out:
            counts[compacted.key] += compacted.count
        assert counts == {1: 4, 2: 2, 3: 1, 4: 1}
        assert [letter.reason for letter in rig.letters] == ["malformed"] * 3

    with_rig(test)


def test_what_expired_is_acknowledged_when_it_is_a_dead_letter(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        async def sink(_: Any) -> None:
            raise ConnectionError

        await rig.pipeline(sink=sink, max_age=1.0).start()
        await rig.send({"id": 1}, {"id": 1}, {"id": 2})
        await until(lambda: rig.letters)
        await rig.settles()
        assert sorted((letter.outcome, letter.event.key) for letter in rig.letters) == [("expired", 1), ("expired", 2)]

    with_rig(test)


@pytest.mark.parametrize("stage", ["enrich", "publish"])
def test_a_message_held_longer_than_ack_wait_is_not_delivered_again_while_its_worker_lives(
    stage: str, with_rig: Any
) -> None:
    async def test(rig: Rig) -> None:
        gate = Gate(rig.out)

        async def lookup(event: Any) -> Any:
            await gate.open.wait()
            return event

        held: dict[str, Any] = {"sink": gate} if stage == "publish" else {"enricher": lookup}
        # three of five have room: the others are held before they are pushed
        orchestrator = rig.pipeline(**held, max_in_flight=3, source={"ack_wait": 1.0, "max_ack_pending": 5})
        await orchestrator.start()
        await rig.send(*({"id": number} for number in range(3)), [{"id": 3}, {"id": 4}], {"id": 5})
        await asyncio.sleep(3.5)
        assert rig.out == []
        gate.open.set()
        await rig.settles()
        info = await rig.info()
        assert (info.num_redelivered, info.delivered.consumer_seq) == (0, 5)
        assert sorted((compacted.key, compacted.count) for compacted in rig.out) == [(n, 1) for n in range(6)]

    with_rig(test)


# ── stop, restart ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_stop_returns_what_was_not_settled_and_the_next_worker_gets_it_at_once(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        gate = Gate(rig.out)
        first = rig.pipeline(sink=gate, max_in_flight=3, source={"ack_wait": LONG, "max_ack_pending": 100})
        await first.start()
        await rig.send_events(range(50))
        await asyncio.wait_for(gate.asked.wait(), 5)
        report = await first.stop(1.0)
        assert (report.in_time, rig.out) == (False, [])
        assert report.account.abandoned == report.account.received
        assert {letter.outcome for letter in rig.letters} == {"abandoned"}
        await rig.settles(waiting=50 - report.account.received, unacknowledged=report.account.received)
        gate.open.set()
        await rig.pipeline(source={"ack_wait": LONG}).start()
        await rig.settles(seconds=5)  # a twelfth of ack_wait
        assert sorted(rig.ids()) == list(range(50))

    with_rig(test)


def test_stop_publishes_what_it_can_and_acknowledges_that(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        await rig.send_events(range(500))
        orchestrator = rig.pipeline(timespan=LONG)
        await orchestrator.start()
        await until(lambda: orchestrator.account.received)
        report = await orchestrator.stop()
        assert report.in_time
        taken = report.account.received
        assert sorted(rig.ids()) == list(range(taken))
        await rig.settles(waiting=500 - taken)  # what was on its way was returned
        await orchestrator.start()  # the same source once more
        await until(lambda: taken + orchestrator.account.received == 500)
        await orchestrator.stop()
        await rig.settles()
        assert sorted(rig.ids()) == list(range(500))

    with_rig(test)


def test_a_restart_loses_nothing_and_gets_nothing_twice(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
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
        assert (await rig.info()).delivered.consumer_seq == 2000
        assert rig.failures == []

    with_rig(test)


# ── backpressure ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_has_no_room_stays_with_the_server(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
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

    with_rig(test)


def test_a_message_of_more_events_than_there_can_be_room_for_is_taken_in_parts(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        orchestrator = rig.pipeline(max_in_flight=10, timespan=0.05, batch_timespan=0)
        await orchestrator.start()
        await rig.send([{"id": number} for number in range(55)], {"id": 55}, [{"id": n} for n in range(56, 100)])
        await until(lambda: rig.out)
        assert (await rig.info()).ack_floor.stream_seq == 0
        await rig.settles()
        assert sorted(rig.ids()) == list(range(100))
        assert rig.letters == []

    with_rig(test)


def test_messages_of_many_bytes_come_in_several_requests(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        blank = b" " * 400_000
        await rig.send(*(b'{"id": %d}' % number + blank for number in range(20)))
        await rig.pipeline(source={"max_bytes": 1}).start()  # that is, as few as the longest message has
        await rig.settles(seconds=5)
        assert sorted(rig.ids()) == list(range(20))

    with_rig(test)
