"""SVG marbles: parsed as XML, by what is drawn where; how they look was looked at."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from rxcompact import operators as rxo
from rxcompact.observers import Recorder, Recording
from rxcompact.observers import record as record_windows
from rxcompact.render.marble_svg import LEFT, RIGHT, marble_svg
from rxcompact.render.svg import WIDTH
from rxcompact.testing import START, replay

SVG = "{http://www.w3.org/2000/svg}"


def drawn(recording: Any) -> ET.Element:
    return ET.fromstring(marble_svg(recording))


def kinds(picture: ET.Element, name: str, kind: str | None) -> list[ET.Element]:
    """Elements of a name and a class; with None those without."""
    found = picture.iter(SVG + name)
    return [each for each in found if (each.get("class") is None if kind is None else kind in each.get("class", ""))]


def texts(picture: ET.Element, kind: str) -> list[str]:
    return [each.text or "" for each in kinds(picture, "text", kind)]


def events(picture: ET.Element) -> list[ET.Element]:
    """Full circles of the first lane: their size is another in the legend."""
    return [each for each in kinds(picture, "circle", None) if each.get("r") == "10"]


def test_a_circle_for_each_event_each_outcome_and_a_faded_one_for_duplicates(record: Callable[..., Recording]) -> None:
    picture = drawn(record())
    # five distinct events, of which four were published
    assert len(events(picture)) == 5 + 4
    assert len(kinds(picture, "circle", "duplicate")) == 2
    assert "\N{MULTIPLICATION SIGN}2" in texts(picture, "small")
    assert len(kinds(picture, "circle", "ring failed")) == 1
    assert len(kinds(picture, "path", "bracket")) == 3
    assert len(kinds(picture, "path", "retry")) == len(kinds(picture, "circle", "retry")) == 1
    assert {"4 → 2", "3 → 2"} <= set(texts(picture, "middle"))
    assert texts(picture, "title") == ["8 received → 5 distinct → 4 published"]
    assert texts(picture, "name") == ["events", "windows", "retries", "published", "failed", "time"]
    assert texts(picture, "key") == ["db", "web", "bad", "mail"]


def test_things_are_where_their_time_is(record: Callable[..., Recording]) -> None:
    picture = drawn(record())
    second = (RIGHT - LEFT) / 11

    def at(x: str | None) -> float:
        return (float(x or "nan") - LEFT) / second

    assert [at(each.get("cx")) for each in events(picture)[:5]] == pytest.approx([0, 1, 6, 7, 11], abs=0.02)
    assert [at(each.get("cx")) for each in kinds(picture, "circle", "duplicate")] == pytest.approx([3, 8], abs=0.02)
    cross = kinds(picture, "path", "retry")[0].get("d", "")[1:].split(",")[0]
    assert at(cross) * 1.0 == pytest.approx(5, abs=0.1)
    assert at(kinds(picture, "circle", "retry")[0].get("cx")) == pytest.approx(7, abs=0.02)
    brackets = [each.get("d", "").split() for each in kinds(picture, "path", "bracket")]
    starts = [at(d[0][1:].split(",")[0]) for d in brackets]
    assert starts == pytest.approx([0, 5, 10], abs=0.05)
    ticks = [each.text for each in kinds(picture, "text", "quiet middle")]
    assert ticks == ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]


def test_circles_of_one_instant_do_not_overlap(record: Callable[..., Recording]) -> None:
    picture = drawn(record([(1.0, key) for key in "abcd"] + [(1.05, "e"), (9.0, "a")], enricher=None))
    places = [(float(each.get("cx", 0)), float(each.get("cy", 0))) for each in events(picture)]
    first = places[:5]
    apart = [abs(x1 - x2) + abs(y1 - y2) for i, (x1, y1) in enumerate(first) for x2, y2 in first[:i]]
    assert min(apart) >= 20
    assert "+1" in texts(picture, "small middle")  # a fifth on top would make it too tall


def test_a_hundred_thousand_events_make_bars_in_a_picture_of_bounded_size(many: Recording) -> None:
    text = marble_svg(many)
    assert len(text) < 100_000
    picture = ET.fromstring(text)
    assert not events(picture)
    pale, full = kinds(picture, "rect", "faded"), kinds(picture, "rect", "bar")
    assert 0 < len(pale) <= 120
    assert 0 < len(full) <= 120
    # each window of 5 s had 5,000 events, 1,000 of them distinct
    heights = [sum(float(each.get("height", 0)) for each in layer) for layer in (pale, full)]
    assert heights[1] / heights[0] == pytest.approx(0.2, rel=0.1)
    assert texts(picture, "title") == [
        "100,000 received → 20,000 distinct → 20,000 published; the last 1,000 distinct events"
    ]


def test_of_many_windows_there_is_the_number(record: Callable[..., Recording]) -> None:
    picture = drawn(record([(n * 5.0 + 1, n % 9) for n in range(300)], enricher=None))
    assert not kinds(picture, "path", "bracket")
    assert "300" in texts(picture, "small")


def test_history_replayed_at_once_has_an_axis_of_its_own(record: Callable[..., Recording]) -> None:
    stamps = [1_600_000_000.0 + 60 * n for n in range(20)]
    recording = record(
        [(0.001 * n, f"k{n % 3}") for n in range(20)],
        enricher=None,
        timespan=300,
        time_mapper=lambda _: stamps.pop(0),
        lateness=0,
        max_age=1e10,
    )
    picture = drawn(recording)
    assert {"event time", "clock"} <= set(texts(picture, "name"))
    assert "from 2020-09-13 12:25:00 UTC" in texts(picture, "quiet")
    lefts = [float(each.get("cx", 0)) for each in events(picture)[:12]]
    assert max(lefts) - min(lefts) > (RIGHT - LEFT) / 2  # spread over event time, though all came at once


HOSTILE = [
    "</text><script>alert(1)</script>",
    '" onload="alert(1)',
    "&lt;b&gt; & ]]>",
    "\x00\x08\ud800\ufffe",
    "\u202egnp.exe",
    b"\xff\xfe",
    ("nested", ("<svg>", None)),
]


class Rude:
    """A key whose repr is not to be trusted."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __repr__(self) -> str:
        if self.text is None:
            raise ValueError("no repr")
        return self.text


@pytest.mark.parametrize("number", range(len(HOSTILE) + 3))
def test_a_hostile_key_stays_text(record: Callable[..., Recording], number: int) -> None:
    key = [*HOSTILE, Rude(None), Rude("\x00<script>\ud800\n"), Rude("y" * 100_000)][number]
    recording = record([(0.0, "plain"), (1.0, key), (2.0, key)], enricher=None)
    picture = drawn(recording)
    plain = drawn(record([(0.0, "plain"), (1.0, "x"), (2.0, "x")], enricher=None))
    assert [each.tag for each in picture.iter()] == [each.tag for each in plain.iter()]
    assert all(not name.startswith("on") for each in picture.iter() for name in each.attrib)
    shown = texts(picture, "key")[1]
    assert shown.isprintable()
    assert len(shown) <= 26
    assert recording.svg().encode("utf-8")


def test_windows_that_no_run_published_have_no_lane_for_it_and_what_was_rejected_was_received() -> None:
    history = [{"ts": START + second, "id": "abcab"[second % 5]} for second in range(30)]
    picture = drawn(record_windows(replay(history, rxo.compact(10, key_mapper="id"), time_mapper="ts")))
    assert texts(picture, "title") == ["30 received → 9 distinct"]
    assert texts(picture, "name") == ["events", "windows", "time"]
    recording = Recording(totals={"published": 1, "rejected": 1, "received": 1})
    assert texts(drawn(recording), "title") == ["2 received → 0 distinct → 1 published"]


def test_arrivals_are_drawn_when_they_were(record: Callable[..., Recording]) -> None:
    # 2,000 events of 200 keys at 2 s, then one at 9 s; a window is of ten seconds
    recording = record([*((2.0, number % 200) for number in range(2000)), (9.0, "last")], enricher=None, timespan=10)
    second = (RIGHT - LEFT) / 9
    bars = [
        ((float(each.get("x", 0)) - LEFT) / second, float(each.get("height", 0)))
        for each in kinds(drawn(recording), "rect", "faded")
    ]
    assert bars == [(pytest.approx(2, abs=0.1), 46.0), (pytest.approx(9, abs=0.1), 1.0)]
    assert any("/s" in text for text in texts(drawn(recording), "quiet"))
    assert "2000x" in repr(recording).splitlines()[0]


def test_it_is_an_image_in_a_notebook_that_is_not_trusted(record: Callable[..., Recording]) -> None:
    recording = record()
    image = ET.fromstring(recording._repr_html_().replace('100%">', '100%"/>'))
    assert image.tag == "img"
    assert image.attrib["alt"].startswith("marble diagram: windows 3, received 8, distinct 5, ")
    head, data = image.attrib["src"].split(",")
    assert head == "data:image/svg+xml;base64"
    assert b64decode(data).decode() == recording.svg()


def test_one_instant_and_none_are_drawn_too(record: Callable[..., Recording]) -> None:
    assert len(events(drawn(record([(0.0, "a")], enricher=None)))) == 2
    nothing = drawn(Recorder().recording)
    assert texts(nothing, "title") == ["0 received → 0 distinct"]


def test_nothing_is_drawn_off_the_paper(record: Callable[..., Recording], many: Recording) -> None:
    for recording in (record(), many, Recorder().recording):
        picture = drawn(recording)
        tall = float(picture.get("height", 0))
        for each in picture.iter():
            assert 0 <= float(each.get("x", each.get("cx", each.get("x1", 0)))) <= WIDTH
            assert 0 <= float(each.get("y", each.get("cy", each.get("y1", 0)))) <= tall
    tops = [float(each.get("y", 0)) for each in kinds(drawn(record()), "text", "name")]
    assert all(below - above >= 12 for above, below in pairwise(tops))
