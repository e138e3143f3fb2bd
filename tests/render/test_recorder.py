"""The recorder: what it keeps, what it lets go, and that it is passive."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import reactivex as rx
from pipelines import simple_pipeline

from rxcompact import Bounds, Compacted, DeadLetter, Orchestrator, Published, Window
from rxcompact.errors import ArgumentError
from rxcompact.observers import Recorder, Recording
from rxcompact.signals import ObserverFailed, RetryScheduled, SourceFailed
from rxcompact.testing import START


def window(at: float, *keys: Any, count: int = 1) -> Window:
    items = [Compacted(key, {"body": "secret"}, count, at, at + 1) for key in keys]
    return Window(Bounds(at, at + 5, "time"), count * len(keys), items)


def test_it_records_what_happened_when(record: Callable[..., Recording]) -> None:
    recording = record()
    assert recording.totals == {
        "windows": 3, "received": 8, "distinct": 5, "retries": 1, "failed": 1, "published": 4,
    }  # fmt: skip
    seen = [(event.key, event.count, event.first_seen, event.last_seen) for event in recording.events]
    assert seen[:2] == [("db", 3, START, START + 3), ("web", 1, START + 1, START + 1)]
    (retry,) = recording.retries
    assert (retry.at, retry.stage, retry.attempt, retry.wait, retry.error) == (
        START + 5,
        "enrich",
        1,
        2.0,
        "TransientError",
    )
    ends = {(mark.outcome, mark.key): mark.at - START for mark in recording.outcomes}
    assert ends["published", "db"] == pytest.approx(5, abs=0.01)
    assert ends["failed", "bad"] == pytest.approx(10, abs=0.01)


def test_its_memory_has_a_bound_and_its_totals_are_right_all_the_same() -> None:
    recorder = Recorder(limit=50)
    sizes: list[int] = []
    tracemalloc.start()
    for n in range(1000):
        recorder.on_window(window(n * 5.0, *range(100)))
        recorder.on_outcome(Published(Compacted(n, None, 1), 1, 1.0))
        recorder.on_signal(RetryScheduled("enrich", 1, 1.0, ValueError()))
        if n % 500 == 499:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    recording = recorder.recording
    assert max(map(len, (recording.windows, recording.events, recording.retries, recording.outcomes))) == 50
    assert recording.totals["received"] == 100_000
    assert max(sizes) < 500_000  # all of it would be a hundred times that


def test_of_a_window_too_large_the_latest_are_kept() -> None:
    recorder = Recorder(limit=3)
    recorder.on_window(window(0, *range(10)))
    assert [event.key for event in recorder.recording.events] == [7, 8, 9]


def test_a_recording_holds_neither_events_nor_messages_of_errors() -> None:
    recorder = Recorder()
    recorder.on_window(window(0, "key"))
    error = ValueError("password")
    letter = DeadLetter("rejected", {"body": "secret"}, "compact", "key", error)
    recorder.on_outcome(letter)
    for signal in (
        RetryScheduled("enrich", 1, 1.0, error),
        SourceFailed(error, 1, 1.0),
        ObserverFailed("x", error, 1, False),
    ):
        recorder.on_signal(signal)
    recording = recorder.recording
    everything = f"{recording!r}{recording.svg()}{recording.outcomes}{recording.events}{recording.retries}"
    assert "ValueError" in everything
    assert "secret" not in everything
    assert "password" not in everything


def test_a_recording_does_not_change_any_more() -> None:
    recorder = Recorder()
    recorder.on_window(window(0, "a"))
    before = recorder.recording
    shown = repr(before)
    recorder.on_window(window(5, "b"))
    assert repr(before) == shown
    assert repr(recorder.recording) != shown


async def test_a_recorder_may_be_attached_late_and_detached_early() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(
        simple_pipeline(source=subject, key_mapper="id", timespan=5, sink=lambda _: None, max_age=60, batch_timespan=0)
    )
    early, late = Recorder(), Recorder()
    attached = orchestrator.attach(early)
    async with orchestrator:
        subject.on_next({"id": 1})
        await orchestrator.restart()
        orchestrator.attach(late)
        attached.dispose()
    assert "windows" not in early.recording.totals
    assert late.recording.totals == {"windows": 1, "received": 1, "distinct": 1, "published": 1}


async def test_showing_subscribes_to_nothing_and_changes_nothing() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(
        simple_pipeline(source=subject, key_mapper="id", timespan=5, sink=lambda _: None, max_age=60, batch_timespan=0)
    )
    recorder = Recorder()
    orchestrator.attach(recorder)
    hubs = [orchestrator.signals, orchestrator.windows, orchestrator.outcomes, orchestrator.states]
    observers = [hub.observers for hub in hubs]

    def look() -> None:
        before = (orchestrator.account, orchestrator.state, recorder.recording)
        for _ in range(2):
            recorder.recording._repr_html_()
            recorder.recording.svg()
            repr(recorder.recording)
        assert before == (orchestrator.account, orchestrator.state, recorder.recording)
        assert [hub.observers for hub in hubs] == observers

    look()
    async with orchestrator:
        subject.on_next({"id": 1})
        look()
    look()
    assert orchestrator.account.published == 1


async def test_a_failed_run_is_shown_too() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(
        simple_pipeline(
            source=subject,
            key_mapper="id",
            timespan=5,
            sink=lambda _: None,
            max_age=60,
            max_in_flight=1,
            overflow="error",
        )
    )
    recorder = Recorder()
    orchestrator.attach(recorder)
    await orchestrator.start()
    for key in range(3):
        subject.on_next({"id": key})
    with pytest.raises(Exception, match="no room"):
        await orchestrator.wait()
    assert "\ndropped    (b,c)-" in repr(recorder.recording)
    assert "dropped" in recorder.recording.svg()


@pytest.mark.notebook
def test_its_marks_are_tables(record: Callable[..., Recording]) -> None:
    import pandas as pd

    recording = record()
    assert pd.DataFrame(recording.events)["count"].sum() == 8
    outcomes = pd.DataFrame(recording.outcomes)
    published = outcomes[outcomes["outcome"] == "published"]
    assert set(published["key"]) == {"db", "web", "mail"}
    assert published["age"].max() == pytest.approx(6, abs=0.01)


def test_a_limit_must_leave_something() -> None:
    with pytest.raises(ArgumentError, match="limit"):
        Recorder(limit=0)
