"""The keys with the most events of the last minute, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from heapq import nlargest
from operator import attrgetter

from rxcompact.events import Window

CAPACITY = 100  # keys that are counted at once
SLICE, SLICES = 10.0, 6  # seconds that are counted together, and how many of these are kept


class TopKeys:
    """An observer that counts the events of the most frequent keys of the last minute.

    Cost:
        Some microseconds a window, and less than one for each distinct event. Memory O(1).

    Source:
        Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams" (2005):
        where there is no room, a new key takes the place and the count of the least frequent one, so that a count may
        be too high, but no frequent key is missed.
    """

    def __init__(self) -> None:
        self._slices: deque[tuple[float, Counter[Hashable]]] = deque(maxlen=SLICES)

    def on_window(self, window: Window) -> None:
        start = window.closed // SLICE
        if not self._slices or self._slices[-1][0] < start:
            self._slices.append((start, Counter()))
        counts = self._slices[-1][1]
        most = window if len(window) <= CAPACITY else nlargest(CAPACITY, window, key=lambda each: each.count or 1)
        for key, many in map(attrgetter("key", "count"), most):
            least = 0
            if key not in counts and len(counts) >= CAPACITY:
                least = counts.pop(min(counts, key=counts.__getitem__))
            counts[key] += least + (many or 1)

    def most(self, number: int = 10) -> list[tuple[Hashable, int]]:
        """Return the most frequent keys, with their events in the minute before the last window closed."""
        since = self._slices[-1][0] - SLICES if self._slices else 0.0
        recent = (counts for start, counts in self._slices if start > since)
        return sum(recent, Counter[Hashable]()).most_common(number)
