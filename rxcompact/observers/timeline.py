"""How many of something there were and when, in bounded memory, however long it goes on."""

from __future__ import annotations

from collections import defaultdict
from math import floor

from rxcompact.render.marks import Amount

FINEST = 0.01
"""Seconds of a bin at first."""


class Timeline:
    """Counts in bins of equal length, which doubles whenever there are too many of them.

    >>> timeline = Timeline(bins=2)
    >>> for second in range(100):
    ...     timeline.add(second, second)
    >>> [round(amount) for _, _, amount in timeline.amounts()]
    [82, 18]

    Args:
        bins: How many it has at most.
    """

    def __init__(self, bins: int = 480) -> None:
        self._most = bins
        self._length = FINEST
        self._bins: defaultdict[int, float] = defaultdict(float)

    def add(self, start: float, end: float, amount: float = 1) -> None:
        """Count an amount, spread evenly from one instant to another."""
        while (end - start) / self._length > self._most:
            self._widen()
        first, last = floor(start / self._length), floor(end / self._length)
        if last - first <= 1:
            self._bins[first] += amount
        else:
            for index in range(first, last):
                self._bins[index] += amount / (last - first)
        while len(self._bins) > self._most:
            self._widen()

    def _widen(self) -> None:
        self._length *= 2
        bins, self._bins = self._bins, defaultdict(float)
        for index, amount in bins.items():
            self._bins[index // 2] += amount

    def amounts(self) -> tuple[Amount, ...]:
        """Return what was counted, in the order of time."""
        length = self._length
        return tuple((index * length, (index + 1) * length, amount) for index, amount in sorted(self._bins.items()))
