"""Intake of a broker that is a list: a source in a few lines, which a pipeline runs in virtual time."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.brokers import BrokerSource, UnackedMessages
from rxcompact.brokers.unacked import ACK, NAK
from rxcompact.errors import TransientError
from rxcompact.testing import START, run


class ListSource(BrokerSource):
    """All of its messages come at once; what there is no room for waits."""

    def __init__(self, bodies: list[bytes], items: str | None = None) -> None:
        super().__init__(UnackedMessages(100, ack_wait=10**6), items)
        self.settled: list[int] = []
        self.returned: list[int] = []
        names = [b"%d" % number for number in range(len(bodies))]
        self._take(names, names, bodies)

    async def _bind(self) -> None: ...

    async def _fetch(self, number: int) -> Any:
        return asyncio.Event().wait()

    async def _send(self, kind: bytes, replies: Any) -> None:
        {ACK: self.settled, NAK: self.returned}[kind].extend(map(int, replies))

    def _describe(self, part: Any, identity: bytes) -> str:
        return identity.decode()

    async def _disconnect(self) -> None: ...

    async def release(self) -> None:
        returned = self.returned.copy()
        await super().release()
        self.returned = returned


def started(source: ListSource, **options: Any) -> tuple[Orchestrator, list[Any]]:
    out: list[Any] = []
    settings = {"sink": out.extend, "key_mapper": "id", "timespan": 10, "max_age": 600, "batch_timespan": 1}
    return Orchestrator(simple_pipeline(source=source, **(settings | options))), out


async def published(source: ListSource) -> tuple[list[Any], list[Any]]:
    """Run for thirty seconds; return what was published, and the dead letters."""
    orchestrator, out = started(source)
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(letters.append)
    await orchestrator.start()
    await asyncio.sleep(30)
    await orchestrator.stop()
    return out, letters


def body(*ids: str) -> bytes:
    return json.dumps([{"id": each} for each in ids]).encode()


async def test_messages_are_pushed_together_and_settled_one_by_one() -> None:
    async def sink(batch: Any) -> dict[int, Exception]:
        return {position: TransientError() for position, it in enumerate(batch) if it.key in stuck}

    stuck = {"b"}
    source = ListSource([body("a"), body("b"), body("c"), body("a"), body("d")])
    orchestrator, _ = started(source, sink=sink)
    await orchestrator.start()
    await asyncio.sleep(12)
    assert sorted(source.settled) == [0, 2, 3, 4]
    stuck.clear()
    await asyncio.sleep(60)
    assert sorted(source.settled) == [0, 1, 2, 3, 4]
    await orchestrator.stop()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fields": ["first_seen"]},
        {"count": 2},
        {"leading": True},
        {"per_key": True},
        {"gap": 3},
        {"time_mapper": "ts", "lateness": 60},
        {"time_mapper": "ts", "lateness": 0},
        {"time_mapper": "ts", "lateness": 60, "gap": 3},
    ],
    ids=str,
)
async def test_of_messages_that_come_together_each_waits_for_its_own_events(options: dict[str, Any]) -> None:
    """Some are stuck in the sink, one has no place in any window, and two dead letters are not delivered."""

    async def sink(batch: Any) -> dict[int, Exception]:
        return {position: TransientError() for position, it in enumerate(batch) if it.key in "bf"}

    async def letters(batch: Any) -> dict[int, Exception]:
        events = [getattr(it.event.event, "event", it.event.event) for it in batch]  # or a compacted one
        return {position: TransientError() for position, event in enumerate(events) if event in (truncated, huge)}

    keys = "abcadebfagc"
    bodies = [json.dumps({"id": key, "ts": START + 10 * (number % 4)}).encode() for number, key in enumerate(keys)]
    truncated, huge = b'{"id": "z', b'{"id": "y", "ts": %d, "x": 1e999}' % (START + 40)  # which cannot be decoded
    source = ListSource([*bodies, truncated, b"{", huge])
    pipeline = simple_pipeline(
        source, sink=sink, key_mapper="id", timespan=10, max_age=600, batch_timespan=1, idle=60, **options
    )
    orchestrator = Orchestrator(pipeline.having(dead_letters=letters))
    await orchestrator.start()
    await asyncio.sleep(300)
    waiting = {number for number, key in enumerate(keys) if key in "bf"} | {11, 13}
    waiting -= {6} if options.get("lateness") == 0 else set()  # which is late
    assert set(range(len(bodies) + 3)) - set(source.settled) == waiting
    await orchestrator.stop(1)


async def test_duplicates_of_what_is_held_need_no_room() -> None:
    source = ListSource([body("a", "b"), body("b", "a"), body("a", "a", "a"), body("b", "c")])
    orchestrator, out = started(source, max_in_flight=2)
    await orchestrator.start()
    await asyncio.sleep(9)
    assert orchestrator.account.received == 8  # all but the last event
    await asyncio.sleep(30)
    assert [(it.key, it.count) for it in out] == [("a", 5), ("b", 3), ("c", 1)]
    assert sorted(source.settled) == [0, 1, 2, 3]
    await orchestrator.stop()


async def test_what_was_not_pushed_is_returned_at_once_and_what_was_in_part_when_it_is_over() -> None:
    source = ListSource([body("a"), body("b", "c", "d", "e"), body("f")])
    orchestrator, out = started(source, max_in_flight=3)
    await orchestrator.start()
    await asyncio.sleep(1)
    await orchestrator.stop()
    assert source.returned == [2]
    assert source.settled == [0]  # the second is neither: its broker delivers it again
    assert [it.key for it in out] == ["a", "b", "c"]


async def test_a_rejected_event_has_the_origin_of_its_message() -> None:
    bodies = [body("a"), b'{"no": ', b'[{"id": "b"}, 1, {"id": "c"}]', body("d"), b'{"id": "e"}\nx\n']
    source = ListSource(bodies)
    out, letters = await published(source)
    assert [letter.origin for letter in letters] == ["1", "2", "4"]
    assert sorted(it.key for it in out) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("line", [b"x", b'{"id":1}'], ids=["bad", "good"])
@pytest.mark.parametrize("sizes", [[1, 9500, 1], [100] * 95, [1200] * 8], ids=["one", "many", "several"])
async def test_h3_the_loop_has_its_turn_before_large_messages_are_pushed(line: bytes, sizes: list[int]) -> None:
    source = ListSource([b"\n".join([line] * size) for size in sizes])
    orchestrator, _ = started(source)
    await orchestrator.start()
    received, largest = 0, 0
    while received < sum(sizes):
        await asyncio.sleep(0)
        largest, received = max(largest, orchestrator.account.received - received), orchestrator.account.received
    assert largest <= 3000
    await orchestrator.stop()
    assert sorted(source.settled) == list(range(len(sizes)))


async def test_i02_i03_items_are_taken_out_of_each_message() -> None:
    bodies = [
        b'{"Records":[{"id":"a"},{"id":"b"}]}',
        b'{"records":[]}',
        b'{"Records":[]}',
        b'{"Records":[{"id":"c"}]}\n{"Records":[["d"],{"id":"a"}]}',
    ]
    source = ListSource(bodies, "Records")
    out, letters = await published(source)
    assert [(str(letter.error), letter.origin) for letter in letters] == [("no list 'Records'", "1")]
    assert {it.key: it.count for it in out} == {"a": 2, "b": 1, "c": 1, None: 1}
    assert [it.event for it in out if it.key is None] == [{"0": "d"}]
    assert sorted(source.settled) == [0, 1, 2, 3]


async def test_a_dead_letter_in_a_message_is_the_event_inside() -> None:
    source = ListSource([b'{"dead_letter":"failed","event":{"id":"a"},"count":3}', b'{"id":"a"}'])
    out, _ = await published(source)
    assert [(it.key, it.count) for it in out] == [("a", 4)]


async def test_a_source_that_is_bound_after_its_end_leaves_nothing_running() -> None:
    source = ListSource([body("a")])
    connected = asyncio.Event()
    source._bind = connected.wait  # type: ignore[method-assign,assignment]
    before = asyncio.all_tasks()
    orchestrator, _ = started(source)
    await orchestrator.start()
    await asyncio.sleep(1)
    await orchestrator.stop(1.0)  # which ends while it connects
    connected.set()
    await asyncio.sleep(60)
    assert asyncio.all_tasks() == before


LARGE = {
    "lines": b'{"id":1}\n' * 100_000,
    "numbers": b"[" + b"1," * 10_000 + b"1]",
    "packed": gzip.compress(b"x\n" * 10_000),
    "wrapper": b'{"r":[' + b'{"s":[{"id":1}]},' * 100_000 + b'{"s":[]}]}',
}


@pytest.mark.bench
@pytest.mark.parametrize("name", LARGE)
async def test_h03_a_large_message_is_read_and_pushed_in_steps(name: str) -> None:
    source = ListSource([LARGE[name], b'{"r":[{"s":[{"id":"last"}]}]}'], "r[].s" if name == "wrapper" else None)
    orchestrator, _ = started(source, max_in_flight=3)
    letters: set[str | None] = set()
    orchestrator.dead_letters.subscribe(lambda letter: letters.add(letter.origin))
    await orchestrator.start()
    turns, largest, before = 0, 0, 0
    while len(source.settled) < 2:
        turns += bool(source._waiting)
        largest, before = max(largest, orchestrator.account.received - before), orchestrator.account.received
        await asyncio.sleep(0 if source._waiting else 60)
    await orchestrator.stop()
    account = orchestrator.account
    number = {"lines": 100_001, "numbers": 10_002, "packed": 10_001, "wrapper": 100_001}[name]
    assert account.received == number
    assert letters == ({"0"} if name in ("numbers", "packed") else set())
    assert turns > 10
    assert largest <= 3000


async def test_h03_a_message_of_too_many_events_is_rejected() -> None:
    source = ListSource([b"[" + b"1," * 1_000_000 + b"1]"])
    orchestrator, _ = started(source)
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(letters.append)
    await orchestrator.start()
    await asyncio.sleep(30)
    await orchestrator.stop()
    assert [str(letter.error) for letter in letters] == ["longer than 1000000 events (max_events)"]
    assert source.settled == [0]


async def test_what_is_read_in_part_is_returned_at_a_stop() -> None:
    source = ListSource([b'{"id":1}', LARGE["lines"], b"{}"])
    orchestrator, _ = started(source)
    await orchestrator.start()
    while not source._chunks:
        await asyncio.sleep(0)
    await orchestrator.stop()
    assert (source.settled, source.returned) == ([0], [1, 2])


bodies = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=7), max_size=15)


@settings(max_examples=100, deadline=None)
@given(bodies, st.integers(1, 9), st.lists(st.floats(0.5, 30), max_size=3))
def test_every_message_is_settled_once_and_nothing_is_dropped_whatever_the_room(
    plan: list[list[str]], room: int, restarts: list[float]
) -> None:
    async def main() -> None:
        source = ListSource([body(*ids) for ids in plan])
        orchestrator, out = started(source, max_in_flight=room)
        await orchestrator.start()
        for pause in restarts:
            await asyncio.sleep(pause)
            await orchestrator.restart()
        await asyncio.sleep(2000)
        assert sorted(source.settled) == list(range(len(plan)))
        assert (orchestrator.account.dropped, orchestrator.account.rejected) == (0, 0)
        counts: Counter[str] = Counter()
        for it in out:
            counts[it.key] += it.count
        assert counts == Counter(each for ids in plan for each in ids)
        await orchestrator.stop()

    run(main)
