"""The keys with the most events of the last minute, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from rxcompact.events import Window

CAPACITY, KEPT = 1000, 100  # keys that are counted at once, and how many of them are kept when there are more
SLICE, SLICES = 10.0, 6  # seconds that are counted together, and how many of these are kept


@dataclass(slots=True)
class Slice:
    """Ten seconds."""

    start: float
    received: int = 0
    counts: Counter[Hashable] = field(default_factory=Counter[Hashable])
    least: int = 0
    """What a key that is not kept may have come to."""


class TopKeys:
    """Counts the events of the most frequent keys of the last minute, where events are counted.

    Of a window of more than a hundred keys those that came once are left out.

    Cost:
        A few microseconds a window, and a fifth of one for each distinct event that is counted. Memory O(1).

    Source:
        Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams" (2005): a
        new key begins with the count of the least frequent one that is kept, so that a count may be too high, but no
        frequent key is missed.
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
        counts, least = newest.counts, newest.least
        for each in window if len(window) <= KEPT else [each for each in window if each.count != 1]:
            counts[each.key] = counts.get(each.key, least) + (each.count or 1)
        if len(counts) > CAPACITY:
            kept = counts.most_common(KEPT)
            newest.counts, newest.least = Counter(dict(kept)), kept[-1][1]

    def most(self, number: int = 10) -> list[tuple[Hashable, int]]:
        """Return the most frequent keys, with their events in the minute before the last window closed."""
        return sum((each.counts for each in self._recent()), Counter[Hashable]()).most_common(number)

    def hottest(self) -> float | None:
        """Return the share of the most frequent key in the events of that minute; None where none was counted."""
        received = sum(each.received for each in self._recent())
        return min(1.0, max((count for _, count in self.most(1)), default=1) / received) if received else None

    def _recent(self) -> list[Slice]:
        return [each for each in self._slices if each.start > self._slices[-1].start - SLICES]
