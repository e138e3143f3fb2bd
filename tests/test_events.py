"""The nouns that flow: equality, copies, pickles; and that they load no pictures."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest

from rxcompact import Bounds, Compacted, DeadLetter, Window
from rxcompact.errors import LateError

BOUNDS = Bounds(10.0, 20.0, "count")


def window() -> Window[str, dict[str, int]]:
    items = [Compacted(key, {"n": n}, n + 1, 11.0, 12.0, BOUNDS) for n, key in enumerate("abc")]
    return Window(BOUNDS, 6, items)


def test_an_event_knows_its_window_s_bounds_and_trigger() -> None:
    first = window()[0]
    assert first.window is BOUNDS
    assert (BOUNDS.opened, BOUNDS.closed, BOUNDS.trigger) == (10.0, 20.0, "count")
    assert (window().opened, window().closed, window().trigger) == (10.0, 20.0, "count")
    assert first.replace(count=9) == Compacted("a", {"n": 0}, 9, 11.0, 12.0)
    assert first.replace(count=9).window is BOUNDS
    assert first.having("other") == Compacted("a", "other", 1, 11.0, 12.0)
    assert first.having("other").window is BOUNDS
    assert {BOUNDS: "a file"}[Bounds(10.0, 20.0, "count")] == "a file"


def test_an_event_is_a_sequence_of_five_fields_and_equal_without_its_window() -> None:
    first = window()[0]
    key, event, count, first_seen, last_seen = first
    assert (key, event, count, first_seen, last_seen) == ("a", {"n": 0}, 1, 11.0, 12.0)
    assert (len(first), first[0], first[-1]) == (5, "a", 12.0)
    assert first == Compacted("a", {"n": 0}, 1, 11.0, 12.0)
    assert first != Compacted("a", {"n": 0}, 2, 11.0, 12.0)
    assert first != ("a", {"n": 0}, 1, 11.0, 12.0)
    assert hash(Compacted("a", "e", window=BOUNDS)) == hash(Compacted("a", "e"))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_windows_events_and_dead_letters_are_copied_and_pickled(duplicate: Any) -> None:
    same = duplicate(window())
    assert same == window()
    assert [compacted.window for compacted in same] == [BOUNDS] * 3
    assert same[0].window is same[1].window
    assert duplicate(window()[0]) == window()[0]
    letter = DeadLetter("rejected", {"id": "a"}, "compact", "late", LateError(20.0, 21.0, 3.0), origin="a.log:3")
    assert (duplicate(letter).event, duplicate(letter).origin) == ({"id": "a"}, "a.log:3")
    assert duplicate(letter).error.late_by == 3.0


def test_windows_that_differ_in_bounds_or_events_are_not_equal() -> None:
    assert window() == window()
    assert window() != Window(Bounds(10.0, 20.0, "time"), 6, window()[:])
    assert window() != Window(BOUNDS, 5, window()[:])
    assert window() != Window(BOUNDS, 6, window()[:2])
    assert window().having(window()[:2]) == Window(BOUNDS, 6, window()[:2])


def test_the_events_load_no_pictures() -> None:
    code = "import sys, rxcompact.events; print([name for name in sys.modules if 'rxcompact.render' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
