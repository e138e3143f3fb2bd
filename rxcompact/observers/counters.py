"""Counts what happened."""

from __future__ import annotations

from collections import Counter

from rxcompact.operators.retry import why
from rxcompact.signals import (
    BatchPublished,
    DeadLettered,
    ObserverFailed,
    RetryScheduled,
    Signal,
    SourceFailed,
    WindowClosed,
)


class Counters:
    """An observer of signals that counts them; ``await``-free, a few microseconds a window.

    >>> counters = Counters()
    >>> counters(WindowClosed(0.0, 10.0, "time", received=7, distinct=2))
    >>> counters.counts["windows"], counters.counts["received"], counters.counts["distinct"]
    (1, 7, 2)
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, signal: Signal) -> None:
        counts = self.counts
        match signal:
            case WindowClosed():
                counts["windows"] += 1
                counts["received"] += signal.received
                counts["distinct"] += signal.distinct
            case BatchPublished():
                counts["batches"] += 1
                counts["published"] += signal.size
            case DeadLettered(letter):
                counts[letter.outcome] += 1
                counts[f"{letter.stage} {why(letter)}"] += 1
            case RetryScheduled():
                counts["retries"] += 1
            case SourceFailed():
                counts["source failures"] += 1
            case ObserverFailed():
                counts["observer failures"] += 1
            case _:
                pass
