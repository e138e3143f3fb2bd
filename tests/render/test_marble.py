"""Text marbles: RxPY itself parses them to what happened, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex.observable.marbles import parse

from rxcompact.observers import Recorder, Recording
from rxcompact.render.marble import COLUMNS, Axis, Element, line, marble


def lanes(recording: Recording) -> dict[str, str]:
    """Lines by name."""
    return {text[:11].strip(): text[11:] for text in marble(recording).splitlines()}


def parsed(text: str) -> list[tuple[float, Any]]:
    """A line parsed by RxPY: columns and values."""
    messages = parse(text, timespan=1.0, raise_stopped=True)
    return [(float(at), note.value if note.kind == "N" else None) for at, note in messages]


def test_lines_have_every_event_window_retry_and_outcome_at_its_time(record: Callable[..., Recording]) -> None:
    shown = lanes(record())
    column = 11.0 / COLUMNS  # from the first event to the last publication, which is at once
    events = parsed(shown["events"])
    letters = {"a": "db", "b": "web", "c": "bad", "d": "mail"}
    expected = [(0, "a"), (1, "b"), (3, "2a"), (6, "b"), (7, "c"), (8, "b"), (11, "d")]
    assert [value for _, value in events] == [value for _, value in expected]
    for (at, _), (second, _) in zip(events, expected, strict=True):
        assert at * column == pytest.approx(second, abs=column)
    windows = [value for _, value in parsed(shown["windows"])]
    assert windows == ["[ab]", "[bc]", "[d]"]
    assert [value for _, value in parsed(shown["retries"])] == ["e1"]
    # web waits two seconds; the rest of its window does not wait for it
    assert [value for _, value in parsed(shown["published"])] == ["a", "b", "b", "d"]
    assert [value for _, value in parsed(shown["failed"])] == ["c"]
    assert shown["keys"] == ", ".join(f"{letter} = {key}" for letter, key in letters.items())
    assert "received 8, distinct 5" in shown["in all"]


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["a", "2b", "[abc]", "e1"])), max_size=300))
def test_rxpy_parses_every_line_and_no_element_is_lost(marks: list[tuple[float, str]]) -> None:
    text = line(Axis(0, 100), [Element(at, name) for at, name in marks])
    assert len(text) < COLUMNS + 30
    messages = parsed(text)
    listed: Counter[str] = Counter()
    lumped = 0
    for _, value in messages:
        if str(value).endswith("x"):
            lumped += int(value[:-1])
        else:
            listed[value] += 1
    names = Counter(name for _, name in marks)
    assert listed.total() + lumped == len(marks)
    assert not listed - names
    columns = [at for at, _ in messages]
    assert columns == sorted(columns)
    if marks:
        first = min(at for at, _ in marks)
        assert columns[0] == pytest.approx(first * COLUMNS / 100, abs=1)


def test_many_events_are_numbers_that_sum_up(many: Recording) -> None:
    shown = lanes(many)
    assert shown["in all"].endswith("; the latest are shown")
    counts = [int(value[:-1]) for _, value in parsed(shown["events"]) if value]
    # of the last window, of a thousand keys
    assert sum(counts) == 5_000
    assert max(map(len, marble(many).splitlines())) < COLUMNS + 60


def test_keys_cannot_break_out_of_a_line(record: Callable[..., Recording]) -> None:
    class Rude:
        def __repr__(self) -> str:
            return "\x1b[2J\nevents"

    hostile = ["a\nevents -(x)-|", "--|#", "(,)", "\x1b[31m", "x" * 500, Rude()]
    text = marble(record([(n * 2.0, key) for n, key in enumerate(hostile)], enricher=None))
    assert len(text.splitlines()) == len(marble(record(enricher=None)).splitlines())
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) < 300
    parsed(text.splitlines()[0][11:])


def test_nothing_recorded_is_shown_too() -> None:
    assert "nothing yet" in repr(Recorder().recording)
    assert [value for _, value in parsed(lanes(Recording())["events"])] == []
