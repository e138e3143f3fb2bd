"""The keys with the most events of the last minute, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import nlargest
from operator import attrgetter

from rxcompact.events import Window

CAPACITY = 100  # keys that are counted at once
SLICE, SLICES = 10.0, 6  # seconds that are counted together, and how many of these are kept
_count = attrgetter("count")


@dataclass(slots=True)
class Slice:
    """Ten seconds."""

    start: float
    received: int = 0
    counts: Counter[Hashable] = field(default_factory=Counter[Hashable])


class TopKeys:
    """Counts the events of the most frequent keys of the last minute, where events are counted.

    Of a window of more than a hundred keys those that came once are left out.

    Cost:
        Some microseconds a window, and a tenth of one for each distinct event. Memory O(1).

    Source:
        Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams" (2005):
        where there is no room, a new key takes the place and the count of the least frequent one, so that a count may
        be too high, but no frequent key is missed.
    """

    def __init__(self) -> None:
        self._slices: deque[Slice] = deque(maxlen=SLICES)

    def on_window(self, window: Window) -> None:
        if not len(window) or window[0].count is None:
            return
        start = window.closed // SLICE
        if not self._slices or self._slices[-1].start < start:
            self._slices.append(Slice(start))
        newest = self._slices[-1]
        newest.received += window.received
        counts = newest.counts
        most = window if len(window) <= CAPACITY else [each for each in window if each.count != 1]
        for each in most if len(most) <= CAPACITY else nlargest(CAPACITY, most, key=_count):
            key, least = each.key, 0
            if key not in counts and len(counts) >= CAPACITY:
                least = counts.pop(min(counts, key=counts.__getitem__))
            counts[key] += least + (each.count or 1)

    def most(self, number: int = 10) -> list[tuple[Hashable, int]]:
        """Return the most frequent keys, with their events in the minute before the last window closed."""
        return sum((each.counts for each in self._recent()), Counter[Hashable]()).most_common(number)

    def hottest(self) -> float | None:
        """Return the share of the most frequent key in the events of that minute; None where none was counted."""
        received = sum(each.received for each in self._recent())
        return min(1.0, max((count for _, count in self.most(1)), default=1) / received) if received else None

    def _recent(self) -> list[Slice]:
        return [each for each in self._slices if each.start > self._slices[-1].start - SLICES]
