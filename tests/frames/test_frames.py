"""numpy and pandas: their values in events, keys and arguments; frames as sources, windows as frames."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reactivex as rx
import reactivex.operators

from rxcompact import Orchestrator, Pipeline, time_of
from rxcompact import operators as rxo
from rxcompact.events import Batch, Compacted
from rxcompact.frames import columns
from rxcompact.notebook.frame import compact_frame
from rxcompact.notebook.history import History
from rxcompact.sinks.ndjson import NdjsonSink
from rxcompact.testing import replay


def written(path: Path, key: Any, event: Any) -> dict[str, Any]:
    """Publish an event to a file; return its line."""

    async def run() -> None:
        sink = NdjsonSink(path)
        assert not await sink.publish(Batch([Compacted(key, event, 1, 1.0, 2.0)]))
        await sink.aclose()

    asyncio.run(run())
    line: dict[str, Any] = json.loads(path.read_bytes())
    return line


def pipeline(source: Any, sink: Any, **options: Any) -> Pipeline:
    compact = rxo.compact(1, key_mapper="id")
    return Pipeline(source, compact, rxo.publish(sink, timespan=0), max_age=60, **options)


VALUES = {
    "numpy int": (np.int64(1), 1),
    "numpy float": (np.float64(1.5), 1.5),
    "numpy float32": (np.float32(0.5), 0.5),
    "numpy nan": (np.float64("nan"), None),
    "numpy bool": (np.bool_(True), True),
    "numpy str": (np.str_("a"), "a"),
    "numpy array": (np.arange(2000), list(range(2000))),
    "numpy matrix": (np.array([[1.5, np.nan]]), [[1.5, None]]),
    "numpy objects": (np.array([None, 1, "x"], object), [None, 1, "x"]),
    "numpy datetime": (np.datetime64("2026-11-28T07:00:05"), "2026-11-28T07:00:05"),
    "numpy datetimes": (np.array(["2026-11-28", "NaT"], "M8[D]"), ["2026-11-28", None]),
    "numpy NaT": (np.datetime64("NaT"), None),
    "numpy timedelta": (np.timedelta64(5, "s"), "PT5S"),
    "pandas timestamp": (pd.Timestamp("2026-11-28T07:00:05Z"), "2026-11-28T07:00:05+00:00"),
    "pandas NaT": (pd.NaT, None),
    "pandas NA": (pd.NA, None),
    "pandas timedelta": (pd.Timedelta("5s"), "P0DT0H0M5S"),
    "pandas series": (pd.Series([1.5, None]), [1.5, None]),
    "pandas nullable": (pd.array([1, None], dtype="Int64"), [1, None]),
    "names": ({np.int64(7): 1, None: 2, True: 3}, {"7": 1, "null": 2, "true": 3}),
    "nested": ({"a": [np.int64(1), {"b": pd.NA}]}, {"a": [1, {"b": None}]}),
}


@pytest.mark.parametrize("name", VALUES)
def test_d1_values_of_numpy_and_pandas_are_json(tmp_path: Path, name: str) -> None:
    value, expected = VALUES[name]
    assert written(tmp_path / "out", "k", {"x": value})["event"] == {"x": expected}


@pytest.mark.parametrize(("key", "expected"), [(np.int64(1), 1), ((np.int64(1), pd.NA), [1, None])])
def test_d1_a_key_of_numpy_is_a_number(tmp_path: Path, key: Any, expected: Any) -> None:
    assert written(tmp_path / "out", key, {})["key"] == expected


def test_d4_numbers_and_durations_of_numpy_and_pandas_are_taken() -> None:
    for five in (
        np.int64(5),
        np.float32(5),
        np.timedelta64(5, "s"),
        np.timedelta64(5_000_000_000, "ns"),
        pd.Timedelta(seconds=5),
    ):
        assert rxo.compact(five, key_mapper="id").timespan == 5.0  # type: ignore[attr-defined,arg-type]
    assert pipeline([], len, max_in_flight=np.int64(7)).max_in_flight == 7


def test_d5_the_rows_of_a_frame_are_events() -> None:
    async def main() -> list[Any]:
        out: list[Any] = []
        frame = pd.DataFrame({"id": ["a", "b", "a"], "n": [1, 2, 3]})
        async with Orchestrator(pipeline(frame, out.extend)) as orchestrator:
            await orchestrator.wait()
        return [(each.key, each.count, each.event) for each in out]

    assert asyncio.run(main()) == [("a", 2, {"id": "a", "n": 1}), ("b", 1, {"id": "b", "n": 2})]


def test_d5_the_rows_of_a_frame_are_replayed_and_tuned() -> None:
    frame = pd.DataFrame({"id": ["a", "b", "a"], "ts": [1.0, 2.0, 30.0]})
    first, second = replay(frame, rxo.compact(10, key_mapper="id"), time_mapper="ts")
    assert [(each.key, each.event) for each in first] == [("a", {"id": "a", "ts": 1.0}), ("b", {"id": "b", "ts": 2.0})]
    assert [each.key for each in second] == ["a"]
    assert len(History(frame, time_of("ts")).events) == 3


def test_d6_windows_are_columns_that_a_frame_takes() -> None:
    windows = rx.from_iterable([{"id": "a", "n": 1}, {"id": "b"}, {"id": "a"}]).pipe(
        rxo.compact(10, key_mapper=lambda event: (event["id"], len(event)))
    )
    frame = pd.DataFrame(columns(windows.pipe(rx.operators.to_list()).run()))
    assert list(frame.columns)[2:] == ["key_0", "key_1", "count", "first_seen", "last_seen", "id", "n"]
    assert frame[["key_0", "key_1", "count"]].to_numpy().tolist() == [["a", 2, 1], ["b", 1, 1], ["a", 1, 1]]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Vienna"])
def test_d9_a_frame_is_compacted_as_its_rows_are(zone: str | None) -> None:
    rng = np.random.default_rng(7)
    seconds = 1_700_000_000 + np.sort(rng.integers(0, 3600, 2000)) + 0.25
    stamps = pd.Series(pd.to_datetime(seconds, unit="s", utc=True))
    frame = pd.DataFrame(
        {
            "ts": stamps if zone == "UTC" else stamps.dt.tz_convert(zone),
            "host": rng.choice(["a", "b", None], 2000),
            "n": rng.integers(0, 3, 2000),
        }
    ).set_index(np.arange(5000, 7000))
    found = compact_frame(frame, 60, key_mapper=("host", "n"), time_mapper="ts")
    expected: dict[tuple[float, Any, int], list[Any]] = {}
    for label, host, n, at in zip(frame.index, frame["host"], frame["n"], seconds, strict=True):
        row = expected.setdefault((at // 60 * 60, host, n), [label, 0, at, at])
        row[1] += 1
        row[3] = at
    windows = sorted((opened, *rest) for (opened, *_), rest in expected.items())
    columns = (found[name] for name in ("count", "first_seen", "last_seen"))
    assert list(zip(found["opened"], found.index, *columns, strict=True)) == windows
    assert list(found["host"]) == list(frame.loc[found.index, "host"])
    assert (found["closed"] - found["opened"] == 60).all()


def test_d9_rows_without_a_time_are_rejected_and_an_empty_frame_is_one() -> None:
    frame = pd.DataFrame({"ts": pd.to_datetime([None, "2026-11-28T00:00:05Z"], utc=True), "id": ["a", "b"]})
    found = compact_frame(frame, 10, key_mapper="id", time_mapper="ts")
    assert found[["id", "count"]].to_dict("records") == [{"id": "b", "count": 1}]
    assert len(compact_frame(frame.head(0), 10, key_mapper="id", time_mapper="ts")) == 0
