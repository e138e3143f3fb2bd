"""max_bytes: what is held of raw JSON is counted in bytes, from the open window to the sink and the dead letters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx
from orchestrators import ManualSource, events, orchestrated
from pipelines import simple_pipeline
from reactivex import operators as ops

from rxcompact import Ack, Bounds, Chunk, Compacted, NdjsonSource, Orchestrator, Pipeline, Window
from rxcompact import operators as rxo
from rxcompact.errors import PermanentError
from rxcompact.sources import ndjson


class RawSource(ManualSource):
    raw = True


def line(key: Any, size: int) -> bytes:
    """Return an event of so many bytes."""
    event = b'{"id":%d,"x":""}' % key
    return event[:-2] + b"x" * (size - len(event)) + event[-2:]


class Stuck:
    """A sink that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def publish(self, _: Any) -> None:
        await self.let_go.wait()


async def started(source: Any, sink: Any = None, **options: Any) -> Orchestrator:
    orchestrator, _ = orchestrated(source, sink, **options)
    await orchestrator.start()
    return orchestrator


async def test_h4_bytes_are_held_from_the_open_window_until_the_sink_took_them() -> None:
    source, sink = RawSource(), Stuck()
    orchestrator = await started(source, sink)
    source.push([line(1, 100), line(2, 250), line(1, 999)])
    assert orchestrator.bytes_held == 350  # a duplicate costs nothing
    source.push([line(2, 999)])
    assert orchestrator.bytes_held == 350
    await asyncio.sleep(15)
    assert orchestrator.stages["publish"].held == 2
    assert orchestrator.bytes_held == orchestrator.statistics.snapshot().bytes_held == 350
    assert "350 of 268,435,456 bytes" in str(orchestrator.statistics.snapshot())
    sink.let_go.set()
    await asyncio.sleep(1)
    assert orchestrator.bytes_held == 0
    await orchestrator.stop()


async def test_h4_bytes_are_held_of_what_other_operators_pass_on_too() -> None:
    def windows(chunks: rx.Observable[list[bytes]]) -> rx.Observable[Window]:
        return chunks.pipe(
            ops.map(lambda chunk: tuple(Compacted(n, each, 1) for n, each in enumerate(chunk))),
            ops.map(lambda items: Window(Bounds(0.0, 1.0, "time"), len(items), items)),
        )

    source, sink = RawSource(), Stuck()
    orchestrator = Orchestrator(Pipeline(source, windows, rxo.publish(sink, timespan=0), max_age=60))
    await orchestrator.start()
    source.push([line(1, 100), line(2, 250)])
    await asyncio.sleep(1)
    assert orchestrator.bytes_held == 350
    sink.let_go.set()
    await asyncio.sleep(1)
    assert orchestrator.bytes_held == 0
    await orchestrator.stop()


def longer(acc: bytes, event: bytes) -> bytes:
    return max(acc, event, key=len)


@pytest.mark.parametrize("fields", [("first_seen",), ("count", "first_seen", "last_seen")])
@pytest.mark.parametrize(("keep", "held"), [("first", 100 + 250), ("last", 40 + 250), (longer, 300 + 250)])
async def test_h4_what_replaces_an_event_is_counted_in_its_place(keep: Any, held: int, fields: Any) -> None:
    source = RawSource()
    orchestrator = await started(source, keep=keep, fields=fields)
    source.push([line(1, 100), line(2, 250), line(1, 200)])
    source.push([b"[]", line(1, 300), line(1, 40)])
    assert orchestrator.account.rejected == 1
    assert orchestrator.bytes_held == held
    await orchestrator.stop()
    assert orchestrator.bytes_held == 0


async def test_h4_event_time_windows_count_bytes_too_and_closing_one_keeps_the_count() -> None:
    source, sink = RawSource(), Stuck()
    orchestrator = await started(source, sink, time_mapper="id", lateness=0, max_age=1e12)
    source.push([line(1, 100), line(1, 101), line(40, 150)])
    assert orchestrator.bytes_held == 250
    await asyncio.sleep(2)
    assert (orchestrator.stages["compact"].held, orchestrator.stages["publish"].held) == (1, 1)
    assert orchestrator.bytes_held == 250
    sink.let_go.set()
    await orchestrator.stop()
    assert orchestrator.bytes_held == 0


@pytest.mark.parametrize("keep", ["first", "last"])
async def test_h4_what_is_dropped_is_subtracted(keep: Any) -> None:
    source = RawSource()
    orchestrator = await started(source, keep=keep, max_in_flight=2)
    source.push([line(1, 100), line(2, 250), line(3, 30)])
    assert (orchestrator.account.dropped, orchestrator.bytes_held) == (1, 280)
    await orchestrator.stop()


async def test_h4_three_quarters_are_for_new_keys_and_duplicates_are_accepted_beyond() -> None:
    source, sink = RawSource(), Stuck()
    orchestrator = await started(source, sink, max_bytes=800)
    demand = source.demand
    source.push([line(1, 599)])
    assert demand.capacity() == 99_999
    source.push([line(2, 30)])
    assert demand.capacity() == 0
    assert not demand.accepts([line(3, 20)])
    assert demand.accepts([line(1, 20), line(2, 20)])
    assert demand.used() == {"max_in_flight": (2, 100_000), "max_bytes": (629, 800)}
    waiting = asyncio.ensure_future(demand.wait())
    await asyncio.sleep(20)
    assert not waiting.done()
    sink.let_go.set()
    assert await waiting == 100_000
    await orchestrator.stop()


async def test_h4_new_keys_may_come_while_less_than_three_quarters_are_held() -> None:
    source = RawSource()
    orchestrator = await started(source, max_bytes=800)
    source.push([line(1, 600)])
    assert source.demand.capacity() == 0
    await orchestrator.stop()


async def test_h4_bodies_that_are_being_received_are_counted_up_to_max_bytes() -> None:
    source = RawSource()
    orchestrator = await started(source, max_bytes=800)
    demand = source.demand
    source.push([line(1, 100)])
    assert (demand.hold(0), demand.hold(300), demand.hold(401), demand.hold(400)) == (True, True, False, True)
    assert demand.used()["max_bytes"] == (800, 800)
    source.push([line(1, 20), line(2, 50)])
    assert demand.used()["max_bytes"] == (850, 800)
    assert (demand.hold(1), demand.hold(0), demand.hold(-300)) == (False, True, True)
    assert demand.used()["max_bytes"] == (550, 800)
    demand.hold(-400)
    await orchestrator.stop()


async def test_h4_what_a_source_pushes_beyond_max_bytes_all_the_same_is_rejected() -> None:
    source = RawSource()
    orchestrator = await started(source, max_bytes=800)
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(letters.append)
    source.push([line(1, 801)])
    source.push([line(2, 30), line(3, 30)])
    assert [(each.outcome, each.reason, str(each.error)) for each in letters] == [
        ("rejected", "no room", "no room for a new key: 800 bytes are held")
    ] * 2
    settled: list[int] = []
    source.push(Chunk([line(4, 30)], Ack(settled.extend, 4)))
    assert settled == [4]
    letters.clear()
    assert orchestrator.bytes_held == 801
    account = orchestrator.account
    assert (account.received, account.distinct, account.rejected) == (4, 1, 3)
    await orchestrator.stop()


async def test_h4_dead_letters_hold_bytes_until_they_are_delivered_or_lost() -> None:
    async def failing(batch: Any) -> None:
        raise PermanentError("no")

    for delivered in (True, False):
        source, letters = RawSource(), Stuck()
        pipeline = simple_pipeline(source, sink=failing, key_mapper="id", timespan=10, max_age=60)
        orchestrator = Orchestrator(pipeline.having(dead_letters=letters))
        await orchestrator.start()
        source.push([line(1, 100), b"[" * 50, b'{"id":2,' + b"x" * 42])  # one is malformed where no key is read
        held = 100 + 50 + 50
        assert orchestrator.bytes_held == held
        await asyncio.sleep(30)
        assert orchestrator.account.in_flight == 0
        assert orchestrator.bytes_held == held
        if delivered:
            letters.let_go.set()
            await asyncio.sleep(1)
        else:
            await orchestrator.stop(0.1)
        assert orchestrator.bytes_held == 0
        await orchestrator.stop()


async def test_h4_a_file_is_not_read_beyond_max_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "BLOCK", 20_000)
    sink, out, most = Stuck(), 0, 0
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(line(key, 10_000) for key in range(100)))

    async def publish(batch: Any) -> None:
        nonlocal out, most
        await sink.let_go.wait()
        most = max(most, orchestrator.bytes_held)
        out += len(batch)

    source = NdjsonSource(path)
    orchestrator = await started(source, publish, max_bytes=200_000)
    await asyncio.sleep(20)
    # it stops at 150,000, and what was read of two blocks is pushed before
    assert 150_000 <= orchestrator.bytes_held < 200_000
    sink.let_go.set()
    await orchestrator.wait()
    assert (out, orchestrator.bytes_held) == (100, 0)
    assert most < 200_000


async def test_h4_objects_count_nothing() -> None:
    source = ManualSource()
    orchestrator = await started(source, max_bytes=1)
    source.push(events(1, 2, 3))
    assert orchestrator.bytes_held == 0
    await orchestrator.stop()
    assert orchestrator.account.published == 3
