"""Objects show themselves: idle, running and failed, and by being shown nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import reactivex as rx
from pipelines import held, simple_pipeline

from rxcompact import Bounds, Compacted, DeadLetter, Orchestrator, Pipeline, Window
from rxcompact.errors import NoRoomError, TransientError
from rxcompact.observers import Recorder
from rxcompact.signals import StageNow, WindowClosed


def rows(thing: Any) -> dict[str, list[str]]:
    tree = ET.fromstring(f"<div>{thing._repr_html_()}</div>")
    lines = [["".join(cell.itertext()) for cell in row.iter("td")] for row in tree.iter("tr")]
    return {line[0]: line[1:] for line in lines if line}


def pipeline(source: Any, **options: Any) -> Pipeline:
    settings = {"key_mapper": "id", "timespan": 10, "max_age": 60, "batch_timespan": 5} | options
    return simple_pipeline(source=source, sink=lambda _: None, **settings)


def look(orchestrator: Orchestrator) -> Mapping[str, StageNow]:
    """Show it and its pipeline twice; nothing may change by it. Return what its stages hold."""
    hubs = ("signals", "windows", "outcomes", "dead_letters", "states")

    def state() -> tuple[Any, ...]:
        observers = tuple(getattr(orchestrator, hub).observers for hub in hubs)
        return orchestrator.account, orchestrator.state, held(orchestrator), observers

    before = state()
    shown, stages = orchestrator._repr_mimebundle_(), orchestrator.stages
    assert (orchestrator._repr_mimebundle_(), orchestrator.stages) == (shown, stages)
    assert shown["text/plain"].startswith(orchestrator.state)
    assert rows(orchestrator.pipeline)
    assert repr(orchestrator.pipeline).startswith("<Pipeline ")
    assert state() == before
    return stages


async def test_a_pipeline_shows_what_each_stage_holds_and_how_old_it_is() -> None:
    subject: rx.Subject[Any] = rx.Subject()

    async def lookup(event: Any) -> Any:
        if event["id"] == "bad":
            raise TransientError
        return event

    orchestrator = Orchestrator(pipeline(subject, enricher=lookup, wait=lambda _: 25))
    assert look(orchestrator) == {}
    async with orchestrator:
        for key in ("a", "bad", "a"):
            subject.on_next({"id": key})
        await asyncio.sleep(4)
        shown = look(orchestrator)
        assert shown["compact"][:3] == (2, pytest.approx(4, abs=0.01), 0)
        await asyncio.sleep(7)  # the window is closed; a waits for its batch, bad for its next attempt
        shown = look(orchestrator)
        assert shown["compact"][:3] == (0, None, 0)
        assert shown["enrich"][:3] == (1, pytest.approx(11, abs=0.01), 0)
        assert isinstance(shown["enrich"].error, TransientError)
        assert shown["publish"][:3] == (1, pytest.approx(11, abs=0.01), 0)
        await orchestrator.restart()
        assert (orchestrator.uptime, orchestrator.restarts) == (pytest.approx(11, abs=0.1), 1)
        assert "1 restart" in orchestrator._repr_mimebundle_()["text/html"]
    await asyncio.sleep(1000)
    assert orchestrator.uptime < 30
    assert look(orchestrator)["publish"].held == 0


async def test_event_time_windows_show_their_oldest() -> None:
    loop: Any = asyncio.get_running_loop()
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(pipeline(subject, time_mapper="ts", lateness=100, max_age=1000))
    async with orchestrator:
        for key, ago in (("a", 3), ("b", 7), ("c", 1)):
            subject.on_next({"id": key, "ts": loop.wall() - ago})
        await asyncio.sleep(1)
        assert look(orchestrator)["compact"][:2] == (3, pytest.approx(8, abs=0.01))


async def test_a_failed_run_shows_its_error() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(pipeline(subject, max_in_flight=1, overflow="error"))
    await orchestrator.start()
    for key in range(3):
        subject.on_next({"id": key})
    with pytest.raises(NoRoomError):
        await orchestrator.wait()
    assert orchestrator.state == "failed"
    assert isinstance(look(orchestrator)["compact"].error, NoRoomError)
    assert "NoRoomError" in orchestrator._repr_mimebundle_()["text/plain"]


async def test_the_error_of_a_source_that_died_is_shown() -> None:
    orchestrator = Orchestrator(pipeline(rx.throw(OSError("gone"))))
    async with orchestrator:
        await asyncio.sleep(1)
        assert isinstance(look(orchestrator)["source"].error, OSError)
        assert ": OSError" in orchestrator._repr_mimebundle_()["text/plain"]


async def test_a_pipeline_does_not_know_what_runs_it() -> None:
    description = pipeline(rx.Subject())
    async with Orchestrator(description):
        assert rows(description)["compact"] == ["10 s by id"]


def test_events_windows_and_dead_letters_show_themselves() -> None:
    compacted = Compacted("k", {"id": 1}, 2)
    assert rows(compacted) == {"k": ["2", "-", "-", "{'id': 1}"]}
    assert rows(Window(Bounds(0, 10, "time"), 2, [compacted])) == rows(compacted)
    assert rows(DeadLetter("expired", compacted, "enrich", "too old"))["reason"] == ["too old"]


async def test_a_cell_that_is_run_again_does_not_attach_again() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(pipeline(subject))
    windows, recorder = list[Any](), Recorder()

    def observe(signal: Any) -> None:
        if isinstance(signal, WindowClosed):
            windows.append(signal)

    for _ in range(3):
        attached = [orchestrator.attach(observe), orchestrator.attach(recorder)]
    async with orchestrator:
        subject.on_next({"id": 1})
    assert len(windows) == recorder.recording.totals["received"] == 1
    for subscription in attached:
        subscription.dispose()
        subscription.dispose()
    again = orchestrator.attach(observe)
    async with orchestrator:
        subject.on_next({"id": 1})
    again.dispose()
    assert len(windows) == 2
    assert recorder.recording.totals["received"] == 1
