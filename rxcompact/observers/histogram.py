"""A histogram in bounded memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil, floor, isfinite, log2

AGES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Bounds of the ages that metrics export, seconds."""
TIMES = (0.005, 0.01, 0.025, 0.05, *AGES[:7], 30.0)
"""Bounds of how long calls take, seconds."""
SIZES = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 5000.0)  # bounds of the batch sizes that metrics export
STEPS = 16  # bounds for each doubling of an age: a percentile is right within 4.5 %


class Histogram:
    """A count of values between bounds: O(1) memory and, per value, time O(log bounds).

    Args:
        bounds: In ascending order; each is the largest value of its count.

    Attributes:
        total: Sum of the values.
        most: The largest value.
        exemplars: The last trace and value, by the place of their count.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = array("d", bounds)  # arrays are copied at once, number by number a snapshot would take longer
        self.counts = array("q", [0]) * (len(bounds) + 1)
        self.total = self.most = 0.0
        self.exemplars: dict[int, tuple[str, float]] = {}

    def add(self, value: float, exemplar: str = "") -> None:
        """Count a value; ``exemplar`` is the id of a trace in which it was measured."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.total += value
        self.most = max(self.most, value)
        if exemplar:
            self.exemplars[index] = exemplar, value

    def add_ages(self, births: list[float], at: float) -> None:
        """Count ages at an instant; the births are sorted in place, which is quick where they were nearly."""
        if not births:
            return
        births.sort()
        bounds, counts, oldest, end = self.bounds, self.counts, at - births[0], len(births)
        self.total += end * at - sum(births)
        self.most = max(self.most, oldest)
        index, last = bisect_left(bounds, at - births[-1]), bisect_left(bounds, oldest)
        # a look-up for each bound that lies among the ages: of a batch there are fewer than ages
        while index < last:
            start = bisect_left(births, at - bounds[index], 0, end)
            counts[index] += end - start
            index, end = index + 1, start
        counts[last] += end

    def percentile(self, percent: float) -> float | None:
        """Return the bound, or the largest value, that so many percent of the values do not exceed; None of none."""
        totals = list(accumulate(self.counts))
        index = bisect_left(totals, max(1, ceil(totals[-1] * percent / 100)))
        return min([self.most, *self.bounds[index : index + 1]]) if totals[-1] else None

    def cumulative(self, bounds: Iterable[float]) -> list[tuple[float, int]]:
        """Return how many values do not exceed each of these bounds; exact for bounds of its own."""
        totals = list(accumulate(self.counts))
        return [(bound, totals[bisect_left(self.bounds, bound)]) for bound in bounds]


def age_bounds(max_age: float) -> Sequence[float]:
    """Return bounds from a millisecond to a week, 16 for each doubling, `AGES` and ``max_age`` among them."""
    limit = max_age if isfinite(max_age) else AGES[-1]
    first, last = floor(STEPS * log2(1e-3 / limit)), ceil(STEPS * log2(max(6e5, 2 * limit) / limit))
    return tuple(sorted({*AGES, *(limit * 2 ** (step / STEPS) for step in range(first, last + 1))}))
