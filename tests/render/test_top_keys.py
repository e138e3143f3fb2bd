"""The most frequent keys of the last minute."""

from __future__ import annotations

import random
from collections import Counter

from rxcompact import Bounds, Compacted, Window
from rxcompact.observers.statistics import CAPACITY, TopKeys


def window(at: float, counts: dict[str, int]) -> Window[str, None]:
    items = [Compacted(key, None, count) for key, count in counts.items()]
    return Window(Bounds(at - 5, at, "time"), sum(counts.values()), items)


def test_counts_of_a_minute_are_added_and_older_ones_are_not() -> None:
    top = TopKeys()
    top.on_window(window(105, {"old": 1000, "a": 1}))
    for at in range(160, 220, 5):
        top.on_window(window(at, {"a": 2, "b": 3}))
    assert top.most() == [("b", 36), ("a", 24)]
    assert TopKeys().most() == []


def test_memory_is_bounded_and_frequent_keys_are_found() -> None:
    chance, top, right = random.Random(1), TopKeys(), Counter[str]()
    for at in range(100, 130):
        counts = Counter(f"k{int(chance.paretovariate(0.8))}" for _ in range(3000))
        right += counts
        top.on_window(window(float(at), counts))
    assert max(len(each.counts) for each in top._slices) <= CAPACITY
    found = dict(top.most(5))
    assert set(found) == {key for key, _ in right.most_common(5)}
    for key, count in found.items():
        assert right[key] <= count <= 1.1 * right[key]
