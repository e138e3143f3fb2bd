"""The marble diagram to touch: its rows against the run that is known; test_browser.py looks at it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import reactivex as rx
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact import operators as rxo
from rxcompact.observers import Recorder, Recording, record
from rxcompact.render.chart import MOST
from rxcompact.testing import START, replay


def points(recording: Recording) -> list[dict[str, Any]]:
    return [row for view in recording.chart().spec["vconcat"] for row in view["data"]["values"]]


def lanes(recording: Recording) -> dict[str, list[tuple[float, str]]]:
    """Instants after the start and keys of what is drawn, by what it is."""
    found: dict[str, list[tuple[float, str]]] = {}
    for row in points(recording):
        about = row["about"]
        kind = next(name for name in ("event", "failed", "outcome", "count") if name in about)
        found.setdefault(about["outcome"] if kind == "outcome" else kind, []).append(
            (round(row["at"] / 1000 - START, 1), about["key"])
        )
    return {kind: sorted(marks) for kind, marks in found.items()}


def test_each_point_is_at_its_true_time(record: Callable[..., Recording]) -> None:
    found = lanes(record())
    assert found["event"] == [
        (0, "db"), (1, "web"), (3, "db"), (6, "web"), (7, "bad"), (8, "web"), (11, "mail"),
    ]  # fmt: skip
    assert found["count"] == [(5, "db"), (5, "web"), (10, "bad"), (10, "web"), (11, "mail")]
    assert (5, "web") in found["failed"]
    assert [key for _, key in found["published"]] == ["db", "web", "web", "mail"]


def test_a_key_has_one_number_in_all_lanes_and_a_trail_for_each_window(record: Callable[..., Recording]) -> None:
    rows = points(record())
    web = [row for row in rows if row["about"]["key"] == "web"]
    assert len({row["key"] for row in web}) == 1
    assert len({row["key"] for row in rows}) == 4
    trails = Counter(row["trail"] for row in web)
    # first: an event, its window, a retry, its outcome; then: two events, their window, its outcome
    assert trails == {0: 4, 1: 4}


def test_a_retry_shows_its_error_and_the_wait(record: Callable[..., Recording]) -> None:
    (retry,) = [row["about"] for row in points(record()) if row["lane"] == "retries"]
    assert (retry["key"], retry["failed"], retry["error"], retry["retried"]) == (
        "web", "enrich, attempt 1", "TransientError", "after 2 s",
    )  # fmt: skip


def test_it_shows_itself_as_chart_picture_and_text_and_not_as_html(record: Callable[..., Recording]) -> None:
    recording = record()
    bundle = recording.chart()._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.vegalite.v5+json", "image/svg+xml", "text/plain"}
    assert bundle["image/svg+xml"] == recording.svg()
    assert bundle["text/plain"] == repr(recording) == repr(recording.chart())
    json.dumps(bundle["application/vnd.vegalite.v5+json"], allow_nan=False)


def test_only_the_latest_of_very_many_are_drawn(many: Recording) -> None:
    spec = many.chart().spec
    rows = points(many)
    assert spec["title"]["text"].endswith("; the last 1,000 distinct events")
    assert sum(row["about"].get("event", "").startswith("the first") for row in rows) == 1000 <= MOST
    assert len(json.dumps(spec)) < 2_000_000


def test_history_replayed_at_once_has_two_axes_that_zoom_apart(record: Callable[..., Recording]) -> None:
    stamps = [1_600_000_000.0 + 60 * n for n in range(20)]
    recording = record(
        [(0.001 * n, f"k{n % 3}") for n in range(20)],
        enricher=None, timespan=300, time_mapper=lambda _: stamps.pop(0), lateness=0, max_age=1e10,
    )  # fmt: skip
    views = recording.chart().spec["vconcat"]
    assert [view["layer"][0]["params"][0]["name"] for view in views] == ["zoom0", "zoom1"]
    assert recording.chart().spec["params"][0]["views"] == ["marks0", "marks1"]


def test_windows_of_a_replay_are_recorded() -> None:
    history = [{"ts": START + second, "id": "abcab"[second % 5]} for second in range(30)]
    recording = record(replay(history, rxo.compact(10, key_mapper="id"), time_mapper="ts"))
    assert recording.totals == {"windows": 3, "received": 30, "distinct": 9}
    assert [window.at - window.closed for window in recording.windows] == [0, 0, 0]
    assert len(recording.chart().spec["vconcat"]) == 1


def test_why_an_alert_was_received_or_not(record: Callable[..., Recording]) -> None:
    recording = record()
    assert (
        repr(recording.explain("web"))
        == """\
web: 3 events in 2 windows
  2023-11-14 22:13:21  event the first of 1
  2023-11-14 22:13:25  count 1, window 5 s, closed by time
  2023-11-14 22:13:25  failed enrich, attempt 1, error TransientError, retried after 2 s
  2023-11-14 22:13:26  event the first of 2
  2023-11-14 22:13:27  outcome published, stage publish, attempts 1, age 6 s
  2023-11-14 22:13:28  event the last of 2
  2023-11-14 22:13:30  count 2, window 5 s, closed by time
  2023-11-14 22:13:30  outcome published, stage publish, attempts 1, age 4 s"""
    )
    assert "outcome failed, stage enrich, attempts 1, reason permanent, age 3 s" in repr(recording.explain("bad"))
    assert repr(recording.explain("nothing")) == "nothing: no events in 0 windows"


def test_of_a_key_that_is_kept_no_more_it_is_not_claimed_that_there_were_none(many: Recording) -> None:
    assert "the oldest are not" in repr(many.explain("absent"))


async def test_while_it_runs_the_last_keys_are_explained_from_bounded_memory() -> None:
    events: rx.Subject[Any] = rx.Subject()
    recorder = Recorder(limit=10)
    async with Orchestrator(
        simple_pipeline(source=events, key_mapper="id", timespan=1, max_age=60, sink=lambda _: None, batch_timespan=0)
    ) as orchestrator:
        orchestrator.attach(recorder)
        for number in range(100):
            events.on_next({"id": number})
            await asyncio.sleep(1.5)
        recording = recorder.recording
        assert orchestrator.state == "running"
        assert len(recording.events) == len(recording.outcomes) == 10
        assert "outcome published, stage publish, attempts 1" in repr(recording.explain(98))
        assert "no events in 0 windows, of those that are kept: the oldest are not" in repr(recording.explain(5))


@pytest.mark.parametrize("recording", [Recorder().recording, record([])])
def test_of_nothing_there_is_a_chart_too(recording: Recording) -> None:
    assert recording.chart().spec["vconcat"]
