"""What tuning shows of what it found, what it answers, and how it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from rxcompact import Pipeline, key_of
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError
from rxcompact.testing import SimulatedApi

try:
    from rxcompact.notebook import Row, Tuning, explore, tune
except ImportError:
    if "CI" in os.environ:
        raise
    pytest.skip("needs the extra notebook", allow_module_level=True)

T0 = 1_700_000_000.0
quiet = partial(tune, progress=False)


def apart(size: int) -> list[dict[str, Any]]:
    """Events no two of which have one key."""
    return [{"ts": T0 + number + 0.5, "id": number} for number in range(size)]


# ── the table, the picture, the answer ────────────────────────────────────────────────────────────────────────────────


def row(**values: Any) -> Row:
    usual: dict[str, Any] = {
        "key": "id", "timespan": 10.0, "max_age": 60.0, "max_concurrent": 100, "received": 1000, "rejected": 0,
        "distinct": 100, "p50": 5.0, "p99": 10.0, "calls": 100, "expired": 0,
        "in_outage": {60.0: 0, 300.0: 80}, "held": 40,
    }  # fmt: skip
    return Row(**usual | values)


ROWS = [
    row(timespan=1.0, p99=1.5, distinct=300, calls=300),
    row(),
    row(max_concurrent=10, p99=11.0),
    row(max_age=600.0, in_outage={60.0: 0, 300.0: 0}, held=90),
    row(timespan=60.0, p99=61.0, distinct=50, calls=50),
    row(key="none", timespan=60.0, p50=None, p99=None, calls=0, distinct=0),
]


@pytest.mark.parametrize(("asked", "answer"), [
    ({"max_latency": 100}, 4),
    ({"max_latency": 15}, 3),
    ({"max_latency": 10.5}, 3),
    ({"max_latency": 100, "outage": 300}, 3),
    ({"max_latency": 100, "outage": 60}, 4),
    ({"max_latency": 1}, None),
])  # fmt: skip
def test_the_recommendation_has_the_fewest_distinct_events_of_rows_that_meet_the_conditions(
    asked: dict[str, Any], answer: int | None
) -> None:
    assert Tuning(ROWS).recommend(**asked) is (None if answer is None else ROWS[answer])


def test_ties_are_resolved_by_losses_then_events_held_then_concurrent_calls() -> None:
    few = [
        row(held=30, max_concurrent=100),
        row(held=30, max_concurrent=7),
        row(held=31),
        row(in_outage={60.0: 0, 300.0: 0}),
    ]
    for last in (1, 3):
        assert Tuning(few[: last + 1]).recommend(max_latency=60) is few[last]
    with pytest.raises(KeyError, match="5 s"):
        Tuning(few).recommend(max_latency=60, outage=5)


def test_what_loses_events_is_recommended_only_when_it_is_asked_for() -> None:
    rows = [row(), row(timespan=60.0, p99=30.0, distinct=50, expired=7, in_outage={60.0: 7, 300.0: 90})]
    tuning = Tuning(rows)
    assert tuning.recommend(max_latency=35) is rows[0]
    assert tuning.recommend(max_latency=35, max_expired=6) is rows[0]
    assert tuning.recommend(max_latency=35, max_expired=7) is rows[1]
    assert Tuning(rows[1:]).recommend(max_latency=35) is None


def test_percentiles_count_what_expired() -> None:
    # events are born 0.5 to 9.5 s before their window of 10 s closes; those older than 2 s then are lost
    (found,) = quiet(apart(1000), time_mapper="ts", key_mappers="id", timespans=[10], max_ages=[2], outages=[])
    assert found.expired == 800
    assert (found.p50, found.p99) == (None, None)
    assert (
        quiet(apart(1000), time_mapper="ts", key_mappers="id", timespans=[10], max_ages=[2], outages=[]).recommend(
            max_latency=60, max_expired=1000
        )
        is None
    )  # 99 of 100 were not published


def test_the_table_shows_itself_as_text_and_html() -> None:
    tuning = Tuning([row(key="<b>", received=10_000, calls=1_234), ROWS[-1]])
    head, first, last = repr(tuning).splitlines()
    assert head.endswith("expired  down 1 min  down 5 min  held")
    assert "rejected" not in head
    assert "rejected" in repr(Tuning([row(rejected=3)]))
    assert first.split() == [
        "<b>", "10", "s", "1", "min", "100", "100", "99.0%", "5", "s", "10", "s", "1,234", "8,766",
        "0", "0", "80", "40",
    ]  # fmt: skip
    assert last.split()[7:10] == ["100.0%", "-", "-"]
    html = tuning._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>:" not in html
    assert "8,766" in html
    assert len(tuning) == 2
    assert tuning[0].saved == 8766


def values(chart: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chart.spec["data"]["values"]
    return found


def test_the_picture_shows_the_rows() -> None:
    rows = [row(key=key, timespan=span, p50=span, p99=2 * span, max_age=age, distinct=round(500 / span))
            for key in ("a", "b") for span in (1.0, 10.0) for age in (60.0, 600.0)]  # fmt: skip
    chart = Tuning(rows).plot()
    usual = [each for each in values(chart) if each["outage"] == 0 and each["age"] == 1]
    assert [(each["key"], each["window"], each["p50"], each["p99"], each["ratio"]) for each in usual] == [
        (key, index, span, 2 * span, ratio)
        for key in "ab"
        for index, (span, ratio) in enumerate([(1, 0.5), (10, 0.95)])
    ]
    # without an outage none expires, in that of a minute none, in that of five 80
    for key in "ab":
        lost = [each["lost"] for each in values(chart) if each["key"] == key and each["age"] == each["window"] == 0]
        assert lost == [0, 0, 80]
    bundle = chart._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.vegalite.v5+json", "image/svg+xml", "text/plain"}
    json.dumps(chart.spec, allow_nan=False)
    picture = ET.fromstring(chart.svg)
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a", "b", "1 s", "10 s"} <= set(texts)
    assert chart.svg == Tuning(rows).plot().svg


def test_there_is_a_slider_for_each_choice_that_there_is() -> None:
    rows = [row(timespan=span, max_age=age) for span in (1.0, 60.0) for age in (60.0, 600.0)]
    sliders = {each["name"]: each.get("bind") for each in Tuning(rows).plot().spec["params"]}
    assert sliders["calls"] is None
    assert {name: bind["name"] for name, bind in sliders.items() if bind} == {
        "window": "window (1 s to 1 min) ", "age": "age (1 min to 10 min) ", "outage": "outage (none to 5 min) ",
        "latency": "latency (5 s to 10 s) ",
    }  # fmt: skip


def test_a_point_has_the_text_of_its_pipeline() -> None:
    events = [{"ts": T0 + number / 10, "host": number % 7, "alert": number % 3} for number in range(600)]
    tuning = quiet(
        events, time_mapper="ts", key_mappers=[("host", "alert"), "host", repr], timespans=[10], max_ages=[60],
        max_concurrents=[5], outages=[20],
    )  # fmt: skip
    assert [each["pipeline"] for each in values(tuning.plot())][::2] == [each.pipeline for each in tuning]
    names = {"Pipeline": Pipeline, "rxo": rxo, "source": [], "enricher": print, "sink": print}
    for found, key in zip(tuning, ["host, alert", "host", "repr"], strict=True):
        made: Pipeline = eval(found.pipeline, names)
        compact, (enrich,), publish = made.reducer, made.enrichments, made.publication
        assert (compact.timespan, str(compact.key_mapper), str(compact.time_mapper)) == (10, key, "ts")
        assert (enrich.max_concurrent, publish.linger, made.max_age) == (5, 1, 60)
        assert made.max_in_flight == 2 * found.held


def test_n6_labels_are_shares_from_0_to_1_and_whole_numbers() -> None:
    rows = [row(key=key, distinct=distinct, in_outage={60.0: 0, 300.0: 1}) for key, distinct in (("a", 990), ("b", 5))]
    chart = Tuning(rows).plot()
    frontier, losses = chart.spec["hconcat"]
    share = frontier["encoding"]["y"]
    assert share["scale"]["domain"] == [0, 1.05]
    assert share["axis"] == {"values": [0, 0.2, 0.4, 0.6, 0.8, 1], "format": ".0%"}
    assert losses["encoding"]["y"]["scale"] == {"domain": [0, 5]}  # some versions label fractions of less as 0 0 1 1
    assert losses["encoding"]["y"]["axis"] == {"tickMinStep": 1, "format": ",d"}
    texts = [each.text for each in ET.fromstring(chart.svg).iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1:7] == ["0%", "20%", "40%", "60%", "80%", "100%"]


def test_kinds_of_windows_have_a_slider_and_are_not_drawn_over_each_other() -> None:
    rows = [row(timespan=span, windows=kind, pipeline=kind) for kind in ("tumbling", "leading") for span in (1.0, 60.0)]
    chart = Tuning(rows).plot()
    (slider,) = [each["bind"]["name"] for each in chart.spec["params"] if each["name"] == "kind"]
    assert slider == "kind (tumbling to leading) "
    assert [(each["kind"], each["pipeline"]) for each in values(chart)][::6] == [(0, "tumbling"), (1, "leading")]
    assert "datum.kind == kind" in chart.spec["transform"][0]["filter"]
    circles = list(ET.fromstring(chart.svg).iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 2 + 1  # of one kind, and of the legend


def test_explore_is_the_picture_of_a_tuning() -> None:
    options: dict[str, Any] = {"time_mapper": "ts", "key_mappers": "id", "progress": False}
    chart = explore(apart(60), timespans=[1, 10], **options)
    tuning = tune(apart(60), timespans=[1, 10], max_ages=[60, 300], outages=[60], **options)
    assert chart.spec == tuning.plot().spec
    assert repr(chart) == repr(tuning)


@pytest.mark.parametrize("rows", [ROWS, ROWS[-1:], [row(expired=0, in_outage={60.0: 0, 300.0: 0})]])
@pytest.mark.parametrize("outages", [2, 0])
def test_there_is_a_picture_of_whatever_was_found(rows: list[Row], outages: int) -> None:
    chart = Tuning(rows if outages else [replace(row, in_outage={}) for row in rows]).plot()
    assert len(values(chart)) == len(rows) * (1 + outages)
    ET.fromstring(chart.svg)


# ── how it is called ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_combination_has_a_row_in_order_and_the_same_again() -> None:
    def tuned() -> Tuning:
        return quiet(
            (event for event in apart(60)), time_mapper="ts", key_mappers=[("id", "ts"), repr],
            timespans=[10, 1], max_ages=[60, 5], max_concurrents=[4, 2], outages=[5],
            api=partial(SimulatedApi, latency=(0.1, 2.0), error_rate=0.3),
        )  # fmt: skip

    choices = [(row.key, row.timespan, row.max_age, row.max_concurrent) for row in tuned()]
    assert choices == [
        (key, span, age, pool) for key in ("id, ts", "repr") for span in (1, 10) for age in (5, 60) for pool in (2, 4)
    ]
    assert tuned()[:] == tuned()[:]


async def test_it_works_where_a_loop_is_running() -> None:
    (row,) = quiet(apart(20), time_mapper="ts", key_mappers="id", timespans=[10], outages=[])
    assert row.distinct == 20


def test_a_bar_is_shown_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    call: Callable[..., Tuning] = partial(tune, apart(5), time_mapper="ts", key_mappers="id", timespans=[10])
    call(progress=False)
    assert capsys.readouterr() == ("", "")
    call()
    out, err = capsys.readouterr()
    assert "1/1" in err or "0/1" in err
    assert out == ""


@pytest.mark.parametrize(("name", "value"), [
    ("timespans", []), ("timespans", [0]), ("max_ages", []), ("max_ages", [-1]), ("outages", [0]),
    ("max_concurrents", []), ("max_concurrents", [0]),
    ("key_mappers", []), ("key_mappers", ["id", "id"]), ("key_mappers", {}), ("time_mapper", "nothing"),
])  # fmt: skip
def test_choices_out_of_range_are_refused(name: str, value: Any) -> None:
    options: dict[str, Any] = {"time_mapper": "ts", "key_mappers": "id"} | {name: value}
    with pytest.raises(ArgumentError, match=name):
        quiet(apart(3), **options)


def test_without_windows_there_is_nothing_to_simulate() -> None:
    key = key_of("absent", missing="reject")
    (row,) = quiet(apart(3), time_mapper="ts", key_mappers=key, timespans=[10], outages=[60])
    assert (row.rejected, row.distinct, row.p50, row.calls, row.in_outage) == (3, 0, None, 0, {60.0: 0})


def test_table_picture_and_answer_need_neither_pandas_nor_matplotlib() -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('pandas', 'matplotlib')))\n"  # None: importing it raises
        "from rxcompact.notebook import tune\n"
        "events = [{'ts': 1e9 + n, 'id': n % 3} for n in range(60)]\n"
        "tuning = tune(events, time_mapper='ts', key_mappers='id', timespans=[10])\n"
        "assert '70.0%' in repr(tuning) and '70.0%' in tuning._repr_html_()\n"
        "assert tuning.recommend(max_latency=60) is tuning[0]\n"
        "assert tuning.plot().spec['data']['values']\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
