"""How old events are when they are published: percentiles, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import ceil, exp2, log2

from rxcompact.errors import ArgumentError
from rxcompact.events import Outcome, Published

LEAST = 1e-3
"""Seconds; a smaller age counts as this."""
STEPS = 16
"""Buckets for each doubling: a percentile is right within 4.5 %."""


class Latency:
    """An observer of outcomes that keeps the distribution of ages at publication.

    Ages are counted in buckets whose bounds grow by 1/16 of a doubling, as in an HDR histogram. Memory O(log of the
    oldest age), a few hundred numbers; half a microsecond an event.

    >>> latency = Latency()
    >>> for milliseconds in range(1, 1001):
    ...     latency.add(milliseconds / 1000)
    >>> [round(latency.percentile(share), 1) for share in (50, 90, 99)]
    [0.5, 0.9, 1.0]
    """

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        """Sum of ages, seconds."""
        self.most = 0.0
        """The oldest, seconds."""

    def on_outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Published) and outcome.age is not None:
            self.add(outcome.age)

    def add(self, age: float, times: int = 1) -> None:
        """Count an age, seconds."""
        self._buckets[ceil(STEPS * log2(age / LEAST)) if age > LEAST else 0] += times
        self.count += times
        self.total += age * times
        self.most = max(self.most, age)

    def percentile(self, share: float) -> float:
        """Return the age, seconds, that so many percent of events did not exceed; 0 where there are none.

        Raises:
            ArgumentError: for a share below 0 or above 100.
        """
        if not 0 <= share <= 100:  # noqa: PLR2004 - percent
            raise ArgumentError("share", share, "0 to 100")
        left = max(1, ceil(self.count * share / 100))
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(self.most, _bound(bucket))
        return 0.0

    def histogram(self) -> Mapping[float, int]:
        """Return how many there were up to each bound, seconds, that none of the smaller bounds has."""
        return {_bound(bucket): self._buckets[bucket] for bucket in sorted(self._buckets)}

    def __repr__(self) -> str:
        shares = ", ".join(f"p{share} {self.percentile(share):.3g} s" for share in (50, 90, 99))
        return f"<Latency of {self.count}: {shares}, max {self.most:.3g} s>"


def _bound(bucket: int) -> float:
    return LEAST * exp2(bucket / STEPS)
