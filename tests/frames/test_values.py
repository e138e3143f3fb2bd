"""Keys, ids and times of numpy's, pandas' and Arrow's values."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reactivex as rx

from rxcompact import Batch, Compacted, key_of, time_of
from rxcompact import operators as rxo
from rxcompact.brokers import event_id
from rxcompact.errors import TimeMapperError
from rxcompact.keys import Json, json_key, plain
from rxcompact.timestamps import posix

NOON = datetime(2026, 11, 28, 12, 0, 0, 123456, tzinfo=UTC)
SECONDS = 1_795_867_200.123456


class Scalar:
    """As a scalar of Arrow."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def as_py(self) -> Any:
        return self.value


def test_d4_scalars_of_arrow_are_pythons() -> None:
    assert key_of("k").many([{"k": Scalar(5)}, {"k": Scalar("a")}, {"k": Scalar(None)}, {}]) == [5, "a", None, None]


# ── numpy ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


SCALARS: list[tuple[Any, Any]] = [
    (np.int64(5), 5), (np.uint8(5), 5), (np.int64(2**62), 2**62), (np.float64(1.5), 1.5), (np.float32(1.5), 1.5),
    (np.bool_(True), True), (np.str_("a"), "a"), (np.float64("nan"), None), (np.datetime64("NaT"), None),
    (np.timedelta64("NaT"), None), (np.array([1, 2]), [1, 2]), (np.array(5), 5),
    (np.datetime64("2026-11-28T12:00:00.123456"), NOON.replace(tzinfo=None)),
    (np.datetime64("2026-11-28T12:00:00.123456000"), NOON.replace(tzinfo=None)),
    (np.datetime64("2026-11-28T12:00:00.123456789"), "2026-11-28T12:00:00.123456789"),
    (np.timedelta64(5, "s"), timedelta(seconds=5)),
]  # fmt: skip


@pytest.mark.parametrize(("scalar", "value"), SCALARS)
def test_d4_scalars_of_numpy_are_keys_as_pythons_are(scalar: Any, value: Any) -> None:
    expected = json_key(value)
    for found in (
        key_of("k")({"k": scalar}),
        key_of("k").many([{"k": scalar}, {"k": 1}])[0],
        key_of(("k", "x"))({"k": scalar})[0],
    ):
        assert found == expected
        assert type(found) is type(expected)
    if not isinstance(value, list):
        assert plain(scalar) == value
        assert key_of(lambda event: event["k"])({"k": scalar}) == value
        assert key_of(lambda event: (event["k"], 1)).many([{"k": scalar}]) == [(value, 1)]
    if not isinstance(value, datetime | timedelta):
        assert json_key([scalar]) == json_key([value])


def test_d2_300_000_rows_of_which_a_third_has_no_number_make_one_null() -> None:
    column = np.arange(3_000) % 7.0
    column[::3] = np.nan
    events = [{"v": value} for value in column] + [{"v": value} for value in column.tolist()]
    assert len(set(key_of("v").many(events))) == 8
    assert len(set(key_of(lambda event: event["v"]).many(events))) == 8


def test_d3_equal_events_have_one_id_whether_numpys_or_pythons() -> None:
    events = [
        {"k": 5, "t": 1.5e9, "b": True},
        {"k": np.int64(5), "t": np.float64(1.5e9), "b": np.bool_(True)},
        {"k": np.uint8(5), "t": np.int64(1_500_000_000), "b": True},
        json.dumps({"k": 5, "t": 1.5e9, "b": True}),
    ]
    mapper: Any
    for mapper in ("k", ("k", "b")):
        compacted = [
            rx.of(event).pipe(rxo.compact(10, key_mapper=mapper, time_mapper="t", lateness=0)).run()[0]
            for event in events
        ]
        assert len({each.key for each in compacted}) == 1
        assert len({each.first_seen for each in compacted}) == 1
        assert len(set(map(event_id, compacted))) == 1
        assert len({Batch([each]).idempotency_key for each in compacted}) == 1
    times = 3, 3.0, np.float64(3), np.int64(3)
    made_by_hand = [Compacted(key, None, 1, at, at) for key in (5, np.int64(5), np.uint8(5)) for at in times]
    assert len(set(map(event_id, made_by_hand))) == 1
    assert len({Batch([each]).idempotency_key for each in made_by_hand}) == 1


# ── pandas ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_d2_d4_stamps_and_missing_values_of_pandas() -> None:
    stamp = pd.Timestamp(NOON)
    assert type(key_of("k")({"k": stamp})) is datetime
    assert key_of("k")({"k": stamp}) == NOON
    finer = pd.Timestamp("2026-11-28T12:00:00.123456789Z")
    assert key_of("k")({"k": finer}) == finer
    assert key_of("k").many([{"k": pd.NaT}, {"k": pd.NA}, {"k": None}, {}, {"k": float("nan")}]) == [None] * 5
    assert key_of(("k", "k")).many([{"k": pd.NA}]) == [(None, None)]
    assert key_of("k").many([{"k": [pd.NA, pd.NaT, 1]}]) == [Json("[null,null,1]")]
    assert key_of("k")({"k": pd.Timedelta(seconds=5)}) == timedelta(seconds=5)
    assert event_id(Compacted(stamp, None)) == event_id(Compacted(NOON, None))


def test_i11_d4_stamps_of_numpy_and_pandas_are_times() -> None:
    stamps = [
        np.datetime64("2026-11-28T12:00:00.123456"), np.datetime64("2026-11-28T12:00:00.123456789"), pd.Timestamp(NOON),
        pd.Timestamp("2026-11-28T12:00:00.123456789Z"), pd.Timestamp("2026-11-28T12:00:00.123456"),
        np.float64(SECONDS), np.int64(1_795_867_200_123_456), np.str_("2026-11-28T12:00:00.123456Z"), Scalar(NOON),
    ]  # fmt: skip
    assert [posix(stamp) for stamp in stamps] == [SECONDS] * len(stamps)
    assert time_of("t").many([{"t": stamp} for stamp in stamps]) == [SECONDS] * len(stamps)
    assert posix(np.datetime64("2026-11-28")) == 1_795_824_000.0
    assert posix(pd.Timestamp("2026-11-28 12:00"), timezone(timedelta(hours=1))) == 1_795_863_600.0
    for nothing in (np.datetime64("NaT"), pd.NaT, pd.NA, np.float64("nan"), np.bool_(True), np.array([1, 2])):
        with pytest.raises(TimeMapperError):
            posix(nothing)


def test_d5_rows_of_a_frame_have_fields() -> None:
    frame = pd.DataFrame({"host": ["a", "b"], "n": [1.5, None], "when": [pd.Timestamp(NOON), pd.NaT]})
    for rows in (frame.to_dict("records"), list(frame.itertuples()), [row for _, row in frame.iterrows()]):
        assert key_of(("host", "n")).many(rows) == [("a", Json("1.5")), ("b", None)]
        assert time_of("when").many(rows)[0] == SECONDS
        assert [str(error) for error in time_of("when").many(rows).errors.values()] == ["not a timestamp: NaT"]
        assert key_of("count").many(rows) == [None, None]
