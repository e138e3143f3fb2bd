"""Tables: well formed, short, and without a word of HTML that is not ours."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest
from pipelines import simple_pipeline

from rxcompact import Bounds, Compacted, DeadLetter, Pipeline, Window
from rxcompact.errors import ExpiredError, TransientError
from rxcompact.render.tables import (
    compacted_html,
    dead_letter_html,
    pipeline_html,
    pipeline_text,
    window_html,
)
from rxcompact.testing import START

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\x00\ud800", {"<b>": "&"}]


def parsed(html: str) -> ET.Element:
    return ET.fromstring(f"<div>{html}</div>")


def cells(html: str) -> list[list[str]]:
    return [
        ["".join(cell.itertext()) for cell in row.iter("td")]
        for row in parsed(html).iter("tr")
        if row.find("td") is not None
    ]


def caption(html: str) -> str:
    return "".join(next(parsed(html).iter("caption")).itertext())


def window(size: int) -> Window:
    return Window(
        Bounds(START, START + 10, "time"),
        size * 2,
        [Compacted(n, {"n": n}, 2, START, START + 9.5) for n in range(size)],
    )


def test_a_window_shows_its_first_events_and_how_many_more_there_are() -> None:
    html = window_html(window(1234))
    assert caption(html) == "Window: 2,468 received, 1,234 distinct 2023-11-14 22:13:20 UTC, 10 s, closed by time"
    rows = cells(html)
    assert len(rows) == 10
    assert rows[3] == ["3", "2", "2023-11-14 22:13:20", "2023-11-14 22:13:29.500", "{'n': 3}"]
    assert "and 1,224 more" in html
    assert "more" not in window_html(window(10))


def test_what_was_not_kept_is_a_dash() -> None:
    assert cells(compacted_html(Compacted("k", b"raw"))) == [["k", "-", "-", "-", "b'raw'"]]


def test_a_dead_letter_shows_its_reason() -> None:
    error = ExpiredError(61.0, 60.0, 4)
    error.__cause__ = TransientError("down")
    html = dead_letter_html(DeadLetter("expired", Compacted("k", 1), "enrich", "too old", error, 4, 61.0))
    assert caption(html).startswith("DeadLetter: expired")
    row = dict(cells(html))
    assert row["key"] == "k"
    assert (row["reason"], row["stage"], row["attempts"], row["age"]) == ("too old", "enrich", "4", "1 min 1 s")
    assert "61.000 s" in row["error"]
    assert row["error"].endswith("after TransientError")
    rejected = dict(cells(dead_letter_html(DeadLetter("rejected", 1, "compact", "key"))))
    assert (rejected["error"], "key" in rejected) == ("-", False)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_text_stays_text(number: int) -> None:
    text: Any = HOSTILE[number]
    items = [Compacted("k", text, 1)]
    for html in (
        window_html(Window(Bounds(0, 1, "time"), 1, items)),
        compacted_html(Compacted(str(text), text)),
        dead_letter_html(DeadLetter("rejected", text, "compact", str(text), ValueError(text))),
    ):
        tree = parsed(html)
        assert {each.tag for each in tree.iter()} <= {
            "div",
            "table",
            "caption",
            "b",
            "span",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        }
        assert {name for each in tree.iter() for name in each.attrib} <= {"style"}
        assert html.encode()


def test_a_large_or_rude_event_is_cut_short() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    for event in ("x" * 10**6, list(range(10**5)), Rude(), {"deep": [[[[[[[[]]]]]]]]}):
        html = compacted_html(Compacted("k", event))
        assert len(html) < 3000
        parsed(html)


def pipeline(**options: Any) -> Pipeline:
    async def lookup(event: Any) -> Any:
        return event

    settings = {"key_mapper": "id", "timespan": 10, "max_age": 60, "enricher": lookup} | options
    return simple_pipeline(source=[], sink=print, **settings)


def test_a_pipeline_that_was_not_run_shows_its_stages() -> None:
    rows = cells(pipeline_html(pipeline()))
    assert rows == [
        ["source", "IterableSource"],
        ["compact", "10 s by id"],
        ["enrich", "lookup, 100 at once"],
        ["publish", "print, by 500 or 1 s"],
    ]
    assert [row[0] for row in cells(pipeline_html(pipeline(enricher=None)))] == ["source", "compact", "publish"]
    assert pipeline_text(pipeline()).startswith("<Pipeline IterableSource → 10 s by id → lookup, 100 at once → ")


@pytest.mark.notebook
def test_a_window_is_a_table_to_pandas() -> None:
    import pandas as pd

    window = Window(
        Bounds(0.0, 10.0, "time"), 3, [Compacted("a", {"n": 1}, 2, 1.0, 3.0), Compacted("b", {"n": 2}, 1, 2.0)]
    )
    table = pd.DataFrame(window)
    assert list(table.columns) == ["key", "event", "count", "first_seen", "last_seen"]
    assert table["count"].sum() == window.received
    assert list(table["event"]) == [{"n": 1}, {"n": 2}]
