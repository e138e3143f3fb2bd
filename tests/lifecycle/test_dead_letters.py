"""Dead letters that are routed to a sink: what it is given, when, and what is acknowledged for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx
from loguru import logger
from orchestrators import ManualSource
from reactivex import operators as ops

from rxcompact import Ack, Chunk, DeadLetter, NdjsonSink, NdjsonSource, Orchestrator, Pipeline, key_of
from rxcompact import operators as rxo
from rxcompact.errors import PermanentError, TransientError


def routed(
    source: Any, letters: Any, *, enrich: Any = dict, max_age: float = 60.0, sink: Any = lambda _: None
) -> Orchestrator:
    operators = rxo.compact(1, key_mapper=lambda event: event["id"]), rxo.enrich(enrich), rxo.publish(sink, timespan=0)
    return Orchestrator(Pipeline(source, *operators, max_age=max_age, dead_letters=letters))


def fail_bad(event: Any) -> Any:
    if event["id"] == "bad":
        raise PermanentError("no such host")
    return event


async def test_the_sink_is_given_each_dead_letter_with_key_count_and_event() -> None:
    out: list[Any] = []
    events = [{"id": "good"}, {"id": "bad"}, {"id": "bad"}, {"no": "id"}]
    async with routed(events, out.extend, enrich=fail_bad) as orchestrator:
        await orchestrator.wait()
    assert all(isinstance(each.event, DeadLetter) for each in out)
    assert sorted((each.event.outcome, each.event.stage, each.key, each.count) for each in out) == [
        ("failed", "enrich", "bad", 2),
        ("rejected", "compact", None, 1),
    ]
    account = orchestrator.account
    assert (account.rejected, account.failed, account.published) == (1, 1, 1)


async def test_they_are_written_as_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "dead.ndjson"
    async with routed([{"id": "bad"}], NdjsonSink(path), enrich=fail_bad) as orchestrator:
        await orchestrator.wait()
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    assert (found["dead_letter"], found["key"], found["event"]) == ("failed", "bad", {"id": "bad"})
    assert found["errors"] == ["PermanentError: no such host"]


async def test_a_sink_of_dead_letters_that_is_down_is_tried_again() -> None:
    out: list[Any] = []
    loop = asyncio.get_running_loop()

    async def store(batch: Any) -> None:
        if loop.time() < 30:
            raise TransientError("down")
        out.extend(batch)

    subject: rx.Subject[Any] = rx.Subject()
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING", format="{message}", filter="rxcompact.operators.retry")
    async with routed(subject, store, enrich=fail_bad):
        subject.on_next({"id": "bad"})
        await asyncio.sleep(100)
        assert [each.key for each in out] == ["bad"]
    logger.remove(handler)
    text = "dead letters cannot be delivered, and are tried again: 1 wait; TransientError: down\n"
    assert [str(line) for line in lines] == [text]


async def test_dead_letters_that_wait_take_capacity() -> None:
    async def never(_: Any) -> None:
        await asyncio.sleep(1e6)

    source = ManualSource()
    operators = rxo.compact(1, key_mapper=key_of("id", missing="reject")), rxo.publish(lambda _: None)
    orchestrator = Orchestrator(Pipeline(source, *operators, max_age=60, max_in_flight=3, dead_letters=never))
    await orchestrator.start()
    demand = source.demand
    assert demand.capacity() == 3
    source.push([{"no": "id"}] * 2)
    assert demand.capacity() == 1
    source.push([{"id": 1}, {"id": 2}])  # one of which has no room
    assert (orchestrator.account.dropped, demand.capacity()) == (1, 0)
    source.push([{"no": "id"}] * 5)
    assert (demand.capacity(), demand.accepts([{"id": 3}])) == (0, False)
    await orchestrator.stop(1)


async def test_b9_a_message_is_acknowledged_when_its_dead_letters_were_delivered() -> None:
    acknowledged: list[str] = []
    gate = asyncio.Event()
    out: list[Any] = []

    async def store(batch: Any) -> None:
        await gate.wait()
        out.extend(batch)

    source = ManualSource()
    orchestrator = routed(source, store, enrich=fail_bad)
    await orchestrator.start()
    for name, events in (
        ("good", [{"id": "good"}]),
        ("failed", [{"id": "bad"}, {"id": "good"}]),
        ("rejected", [{"no": 1}]),
    ):
        source.push(Chunk(events, Ack(acknowledged.extend, name)))
    await asyncio.sleep(20)
    assert acknowledged == ["good"]
    gate.set()
    await asyncio.sleep(20)
    assert sorted(acknowledged) == ["failed", "good", "rejected"]
    assert len(out) == 2
    await orchestrator.stop()


@pytest.mark.parametrize("per_key", [False, True])
@pytest.mark.parametrize(("overflow", "dropped"), [("drop_oldest", ["first", "again"]), ("drop_newest", ["second"])])
async def test_a_message_whose_event_was_dropped_is_acknowledged_when_its_dead_letter_was_delivered(
    overflow: Any, dropped: list[str], per_key: bool
) -> None:
    acknowledged: list[str] = []
    gate = asyncio.Event()

    async def store(_: object) -> None:
        await gate.wait()

    source = ManualSource()
    compact = rxo.compact(1000, key_mapper="id", per_key=per_key)
    publish = rxo.publish(lambda _: None, timespan=0)
    pipeline = Pipeline(source, compact, publish, max_age=5000, max_in_flight=1, overflow=overflow, dead_letters=store)
    orchestrator = Orchestrator(pipeline)
    await orchestrator.start()
    for name, key in (("first", 1), ("again", 1), ("second", 2)):
        source.push(Chunk([{"id": key}], Ack(acknowledged.extend, name)))
    await asyncio.sleep(100)
    assert orchestrator.account.dropped == 1
    assert not acknowledged
    gate.set()
    await asyncio.sleep(100)
    assert acknowledged == dropped
    await orchestrator.stop()
    assert sorted(acknowledged) == ["again", "first", "second"]


async def test_what_is_abandoned_at_the_deadline_is_written_and_not_acknowledged() -> None:
    async def never(_: Any) -> None:
        await asyncio.sleep(1e6)

    acknowledged: list[str] = []
    out: list[Any] = []
    source = ManualSource()
    orchestrator = routed(source, out.extend, sink=never, max_age=1e5)
    await orchestrator.start()
    source.push(Chunk([{"id": "a"}], Ack(acknowledged.extend, "a")))
    await asyncio.sleep(5)
    report = await orchestrator.stop(5)
    assert report.account.abandoned == 1
    assert [(each.event.outcome, each.key) for each in out] == [("abandoned", "a")]
    assert acknowledged == []


async def test_a_stop_does_not_wait_for_a_sink_of_dead_letters_that_hangs() -> None:
    async def never(_: Any) -> None:
        await asyncio.sleep(1e6)

    loop = asyncio.get_running_loop()
    orchestrator = routed([{"no": "id"}], never)
    await orchestrator.start()
    await asyncio.sleep(5)
    began = loop.time()
    await orchestrator.stop(5)
    assert loop.time() - began <= 5


async def test_the_origin_of_a_rejected_event_is_its_line_and_of_any_other_its_file(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"id":"good"}\n{"no":"id"}\n\n{"id":"bad"}\n{oops\n')
    letters: list[DeadLetter] = []
    compact = rxo.compact(1, key_mapper=key_of("id", missing="reject"))
    operators = compact, rxo.enrich(fail_bad), rxo.publish(lambda _: None)
    orchestrator = Orchestrator(Pipeline(NdjsonSource(path), *operators, max_age=60))
    orchestrator.dead_letters.subscribe(letters.append)
    async with orchestrator:
        await orchestrator.wait()
    assert [(letter.reason, letter.origin) for letter in letters] == [
        ("key", f"{path}:2"),
        ("malformed", f"{path}:5"),
        ("permanent", str(path)),
    ]


async def test_an_origin_that_raises_is_reported_and_counted_and_the_event_rejected_all_the_same() -> None:
    def raising(_: Any) -> str:
        raise OSError("no origin")

    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    source = ManualSource()
    async with routed(source, lambda _: None) as orchestrator:
        source.push(Chunk([{"no": "id"}], origin=raising))
        assert orchestrator.account.rejected == 1
        assert reported == ["the origin of an event raised"]
        assert orchestrator.statistics.snapshot().failures["task", "the origin of an event raised"] == 1


async def test_what_a_reducer_rejects_later_is_no_rejection_of_the_body_that_came_last() -> None:
    class Reducer:
        def reduce(self, chunks: rx.Observable[Any], context: Any) -> rx.Observable[Any]:
            letter = DeadLetter("rejected", {"id": 1}, "compact", "odd")
            later = asyncio.get_running_loop().call_later
            return chunks.pipe(ops.do_action(lambda _: later(1, context.dead_letters, letter)), ops.ignore_elements())

    body = Chunk([{"id": 1}], origin="post 1")
    source, letters = ManualSource(), []
    pipeline = Pipeline(source, Reducer(), rxo.publish(lambda _: None), max_age=60)
    async with Orchestrator(pipeline) as orchestrator:
        orchestrator.dead_letters.subscribe(letters.append)
        source.push(body)
        await asyncio.sleep(5)
    assert [(letter.reason, letter.origin) for letter in letters] == [("odd", None)]
    assert body.rejected == []
