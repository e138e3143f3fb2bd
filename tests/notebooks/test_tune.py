"""Tuning on history: every number against plain arithmetic on the same events."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from rxcompact import key_of, time_of
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.testing import SimulatedApi

try:
    from rxcompact.notebook import Tuning, tune
    from rxcompact.notebook.history import History
except ImportError:
    if "CI" in os.environ:
        raise
    pytest.skip("needs the extra notebook", allow_module_level=True)

T0 = 1_700_000_000.0
"""A multiple of ten, not of sixty."""
LINGER = 1.0
"""Seconds that a batch waits for more."""
QUICK = partial(SimulatedApi, latency=0.01)
quiet = partial(tune, progress=False)


def stream(size: int, seed: int, *, disorder: float = 0.0) -> list[dict[str, Any]]:
    """Events in bursts, with two fields; some are older than those before them."""
    chance = random.Random(seed)
    now, events = T0, []
    for _ in range(size):
        now += chance.choice([0.0, 0.001, 0.25, 1.0, 7.5])
        ts = now - chance.uniform(0, disorder)
        events.append({"ts": round(ts, 3), "host": f"h{chance.randrange(5)}", "alert": chance.randrange(4)})
    return events


def arrivals(events: list[dict[str, Any]]) -> list[float]:
    """As in `replay`: each arrives when the clock shows the largest time so far."""
    return [max(event["ts"] for event in events[: number + 1]) for number in range(len(events))]


def each(tuning: Tuning, name: str) -> list[Any]:
    return [getattr(row, name) for row in tuning]


# ── compaction ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("disorder", [0.0, 20.0])
@pytest.mark.parametrize("form", ["dicts", "lines", "lines with their ends"])
def test_ratio_is_that_of_a_dict_for_each_bucket_of_arrivals(disorder: float, form: str) -> None:
    events = stream(400, 1, disorder=disorder)
    given: list[Any] = events
    if form != "dicts":
        given = [json.dumps(event).encode() + b"\r\n" * (form != "lines") for event in events]
    spans = [0.5, 7.0, 60.0]
    tuning = quiet(given, time_mapper="ts", key_mappers=["host", ("host", "alert")], timespans=spans, outages=[])
    expected = []
    for key in (("host",), ("host", "alert")):
        for span in spans:
            distinct = {
                (at // span, *(event[name] for name in key)) for at, event in zip(arrivals(events), events, strict=True)
            }
            expected.append((", ".join(key), span, len(distinct), 1 - len(distinct) / 400))
    assert [(row.key, row.timespan, row.distinct, pytest.approx(row.ratio)) for row in tuning] == expected
    assert set(each(tuning, "received")) == {400}
    assert set(each(tuning, "rejected")) == {0}


def test_windows_close_at_the_end_of_their_bucket() -> None:
    times = [T0 + 3, T0 + 4, T0 + 10, T0 + 29.9, T0 + 5000, T0 + 5001]
    history = History([{"ts": at} for at in times], time_of("ts"))
    closed, _ = history.compacted(key_of(str), 10.0)
    assert [each.at - T0 for each in closed] == pytest.approx([10, 20, 30, 5010])
    assert [sorted(item.first_seen or 0 for item in each.window) for each in closed] == [
        times[:2], times[2:3], times[3:4], times[4:]
    ]  # fmt: skip


def test_events_without_a_key_or_time_are_rejected_and_harm_no_other() -> None:
    events: list[Any] = [
        {"id": 1},
        {"ts": T0, "id": 1},
        {"ts": None, "id": 2},
        {"ts": T0 + 1},
        {"ts": 9e11, "id": 3},
        {"ts": T0 + 2, "id": 1},
    ]
    key = key_of("id", missing="reject")
    (row,) = quiet(events, time_mapper=lambda event: event["ts"], key_mappers=key, timespans=[10], outages=[])
    # of the two without a believable time one has none at all, the other is of a window of its own time's
    assert (row.received, row.rejected, row.distinct) == (6, 3, 2)


def test_a_gap_of_years_costs_nothing() -> None:
    years = [{"ts": T0 - 3e8, "id": 1}, {"ts": T0, "id": 1}]
    (row,) = quiet(years, time_mapper="ts", key_mappers="id", timespans=[1], outages=[60])
    assert (row.distinct, row.expired, row.in_outage) == (2, 0, {60.0: 0})


def test_a_real_set_gives_its_reference_answers(shared: Path) -> None:
    lines = gzip.decompress((shared / "zeek_dns" / "events.ndjson.gz").read_bytes()).splitlines()
    history = History(lines, time_of("_write_ts"))
    checked = 0
    for result in json.loads((shared / "zeek_dns" / "reference.json").read_text())["results"]:
        if result["time_field"] == "_write_ts":
            closed, rejected = history.compacted(key_of(result["key"]), float(result["window_s"]))
            assert (sum(len(each.window) for each in closed), rejected) == (result["distinct"], 0)
            checked += 1
    assert checked >= 6


# ── enrichment ────────────────────────────────────────────────────────────────────────────────────────────────────────


def apart(size: int, step: float = 1.0) -> list[dict[str, Any]]:
    """Events no two of which have one key, half a second off the edges of windows."""
    return [{"ts": T0 + number * step + 0.5, "id": number} for number in range(size)]


def close(event: dict[str, Any], timespan: float) -> float:
    return (event["ts"] // timespan + 1) * timespan


def test_latency_is_the_wait_for_the_window_the_call_and_the_linger() -> None:
    events = apart(200)
    api = partial(SimulatedApi, latency=0.25)
    (row,) = quiet(events, time_mapper="ts", key_mappers="id", timespans=[10], outages=[], api=api)
    expected = sorted(close(event, 10) - event["ts"] + 0.25 + LINGER for event in events)
    ranked = [expected[ceil(percent / 100 * 200) - 1] for percent in (50, 99)]
    assert [row.p50, row.p99] == pytest.approx(ranked, abs=1e-3)


@pytest.mark.parametrize("pool", [1, 3, 10])
def test_with_fewer_calls_at_once_events_wait_for_their_turn(pool: int) -> None:
    events = apart(100, step=2.0)
    api = partial(SimulatedApi, latency=1.5)
    (row,) = quiet(
        events, time_mapper="ts", key_mappers="id", timespans=[20], outages=[], api=api, max_concurrents=[pool]
    )
    # ten in each window: the first go at once, the others when one before them is done
    expected = sorted(
        close(event, 20) - event["ts"] + 1.5 * (1 + number % 10 // pool) + LINGER for number, event in enumerate(events)
    )
    assert [row.p50, row.p99] == pytest.approx([expected[49], expected[98]], abs=1e-3)
    assert (row.calls, row.saved, row.expired) == (100, 0, 0)


class Stubborn:
    """Fails the first call for each event, and takes none of one kind."""

    def __init__(self, outages: object) -> None:
        self.seen: set[int] = set()

    async def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
        if event["id"] == 7:
            raise PermanentError("not seven")
        if event["id"] not in self.seen:
            self.seen.add(event["id"])
            raise TransientError("not yet")
        return event


@pytest.mark.parametrize("raw", [False, True])
def test_calls_count_with_those_tried_again_and_any_enricher_will_do(raw: bool) -> None:
    events = [event | {"id": number % 10} for number, event in enumerate(apart(50, step=0.1))]
    given = [json.dumps(event).encode() for event in events] if raw else events
    (row,) = quiet(given, time_mapper="ts", key_mappers="id", timespans=[60], outages=[], api=Stubborn)
    assert (row.distinct, row.calls, row.saved, row.expired) == (10, 9 * 2 + 1, 50 - 19, 0)


# ── outages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def busiest(events: list[dict[str, Any]], length: float) -> float:
    """The first event's time of the first of the stretches with the most."""
    starts = [event["ts"] for event in events]
    return max(starts, key=lambda start: (sum(start <= at < start + length for at in starts), -start))


@pytest.mark.parametrize("max_age", [8.0, 30.0, 45.0])
def test_in_an_outage_those_expire_that_are_due_in_it_and_too_old_at_its_end(max_age: float) -> None:
    burst = [{"ts": T0 + 300 + number * 0.5 + 0.25, "id": -number} for number in range(1, 60)]
    events = sorted([*apart(600), *burst], key=lambda event: event["ts"])
    lengths = [20.0, 40.0, 95.0]
    (row,) = quiet(
        events, time_mapper="ts", key_mappers="id", timespans=[10], max_ages=[max_age], outages=lengths, api=QUICK
    )
    too_old = {event["id"] for event in events if close(event, 10) - event["ts"] >= max_age}
    assert row.expired == len(too_old)
    for length in lengths:
        start = busiest(events, length)
        due = {event["id"]: event["ts"] + max_age for event in events if close(event, 10) >= start}
        expected = too_old | {key for key, at in due.items() if at <= start + length}
        # the last attempt is at a random instant of the last tenth of an event's age: before the end, or after
        chance = {key for key, at in due.items() if start + length < at <= start + length + max_age / 10} - expected
        assert len(expected) <= row.in_outage[length] <= len(expected | chance), length
    assert list(row.in_outage) == lengths


def test_outages_are_put_where_most_events_came() -> None:
    events = stream(300, 5)
    lengths = [5.0, 60.0, 1e6]
    places = list[tuple[float, float]]()

    def api(outages: Sequence[tuple[float, float]]) -> SimulatedApi:
        places.extend(outages)
        return SimulatedApi(outages=outages)

    quiet(events, time_mapper="ts", key_mappers="host", timespans=[60], outages=lengths, api=api)
    assert places == [(busiest(events, length), busiest(events, length) + length) for length in lengths]


def test_held_is_the_backlog_of_an_outage() -> None:
    events = apart(300)
    (usual,) = quiet(events, time_mapper="ts", key_mappers="id", timespans=[10], outages=[], api=QUICK)
    assert usual.held == 10
    (row,) = quiet(
        events, time_mapper="ts", key_mappers="id", timespans=[10], outages=[100], max_ages=[1000], api=QUICK
    )
    # down from the first event, at 0.5 s, to 100.5 s: ten windows close in it, of ten events each
    assert (row.held, row.in_outage) == (100, {100.0: 0})


def test_a_row_each_for_tumbling_windows_a_leading_edge_and_windows_per_key() -> None:
    history = [{"ts": T0 + ts, "id": key} for ts, key in ((0, "a"), (1, "a"), (4, "b"), (12, "a"), (13, "c"))]
    tuning = tune(
        history, time_mapper="ts", key_mappers="id", timespans=[10], windows=["tumbling", "leading", "per key"],
        outages=[], api=partial(SimulatedApi, latency=0.0), progress=False,
    )  # fmt: skip
    # a and b, then a and c; their first events and a's repeat; a until 10, b until 14, then a and c
    assert [(row.windows, row.distinct, row.calls) for row in tuning] == [
        ("tumbling", 4, 4),
        ("leading", 5, 5),
        ("per key", 4, 4),
    ]
    # half of them within: b waits 6 s and c 7 s for the window's end; all but the repeat leave at once; all wait 10 s
    assert [row.p50 - LINGER for row in tuning if row.p50] == pytest.approx([7.0, 0.0, 10.0], abs=1e-3)
    assert "per key" in repr(tuning)
    assert ", per_key=True), " in tuning[2].pipeline
    for wrong in (["session"], [-1], []):
        with pytest.raises(ArgumentError, match="windows"):
            tune(history, time_mapper="ts", key_mappers="id", windows=wrong)


def test_gaps_between_events_at_any_fraction_of_a_second_are_replayed() -> None:
    chance, at, history = random.Random(9), T0, []
    for number in range(500):
        at += chance.expovariate(0.2)
        history.append({"ts": at, "id": number})
    tuning = quiet(
        history, time_mapper="ts", key_mappers="id", timespans=[1], windows=["tumbling", "leading", "per key", 0.5],
        outages=[], api=QUICK,
    )  # fmt: skip
    assert each(tuning, "distinct") == [500] * 4


def test_a_gap_closes_the_windows_of_a_key_that_is_quiet() -> None:
    history = [{"ts": T0 + ts, "id": key} for ts, key in ((0, "a"), (1, "a"), (4, "b"), (5, "a"), (12, "a"), (13, "c"))]
    tuning = quiet(
        history, time_mapper="ts", key_mappers="id", timespans=[10], windows=[3, 6], outages=[],
        api=partial(SimulatedApi, latency=0.0),
    )  # fmt: skip
    # three seconds: a from 0 to 4, b from 4 to 7, a from 5 to 8, a from 12 to 15, c; six: a from 0 to 10, not to 11
    assert [(row.windows, row.distinct) for row in tuning] == [("gap of 3 s", 5), ("gap of 6 s", 4)]
    # of three seconds: b, a and a and c wait for 3 s, the first a for 4; of six, the first a for the timespan of 10
    assert [(row.p50 - LINGER, row.p99 - LINGER) for row in tuning if row.p50 and row.p99] == [
        (pytest.approx(3.0, abs=1e-3), pytest.approx(4.0, abs=1e-3)),
        (pytest.approx(6.0, abs=1e-3), pytest.approx(10.0, abs=1e-3)),
    ]
    assert ", gap=3.0), " in tuning[0].pipeline
