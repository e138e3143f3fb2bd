"""Records what happened, in bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from itertools import islice
from math import floor
from typing import Any

from rxcompact.clock import LoopScheduler
from rxcompact.errors import ArgumentError
from rxcompact.events import Compacted, Outcome, Published, Window
from rxcompact.format import error_name
from rxcompact.observers.recording import (
    Amount,
    EventMark,
    OutcomeMark,
    Recording,
    RetryMark,
    Span,
    StateMark,
    WindowMark,
)
from rxcompact.signals import ObserverFailed, RetryScheduled, Signal, SourceFailed, State

FINEST = 0.01
"""Seconds of a timeline's bin at first."""
STEPS = 8
"""Instants at which the duplicates of a key are counted."""


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
        self._max_bins = bins
        self._length = FINEST
        self._bins: defaultdict[int, float] = defaultdict(float)

    def add(self, start: float, end: float, amount: float = 1) -> None:
        """Count an amount, spread evenly from one instant to another."""
        while (end - start) / self._length > self._max_bins:
            self._double()
        first, last = floor(start / self._length), floor(end / self._length)
        if last - first <= 1:
            self._bins[first] += amount
        else:
            for index in range(first, last):
                self._bins[index] += amount / (last - first)
        while len(self._bins) > self._max_bins:
            self._double()

    def _double(self) -> None:
        self._length *= 2
        bins, self._bins = self._bins, defaultdict(float)
        for index, amount in bins.items():
            self._bins[index // 2] += amount

    def amounts(self) -> tuple[Amount, ...]:
        """Return what was counted, in the order of time."""
        length = self._length
        return tuple((index * length, (index + 1) * length, amount) for index, amount in sorted(self._bins.items()))


class Recorder:
    """An observer that records: ``orchestrator.attach(recorder)``; then ``recorder`` at the end of a cell shows it.

    Args:
        limit: How many it keeps of each: distinct events, windows, retries, outcomes, states. The oldest go first.

    Cost:
        A few microseconds for each distinct event, nothing for duplicates. Memory O(limit).

    Raises:
        ArgumentError: for a limit below 1.
    """

    def __init__(self, *, limit: int = 10_000) -> None:
        if limit < 1:
            raise ArgumentError("limit", limit, "at least 1")
        self._limit = limit
        self._windows: deque[WindowMark] = deque(maxlen=limit)
        self._events: deque[EventMark] = deque(maxlen=limit)
        self._retries: deque[RetryMark] = deque(maxlen=limit)
        self._outcomes: deque[OutcomeMark] = deque(maxlen=limit)
        self._states: deque[StateMark] = deque(maxlen=limit)
        self._totals: Counter[str] = Counter()
        self._rates: defaultdict[str, Timeline] = defaultdict(Timeline)
        self._clock: Span | None = None
        self._opened: Span | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wall = time.time

    @property
    def recording(self) -> Recording:
        """What has been recorded so far; it does not change."""
        return Recording(
            clock=self._clock or (0.0, 0.0),
            opened=self._opened or (0.0, 0.0),
            windows=tuple(self._windows),
            events=tuple(self._events),
            retries=tuple(self._retries),
            outcomes=tuple(self._outcomes),
            states=tuple(self._states),
            totals=dict(self._totals),
            rates={name: timeline.amounts() for name, timeline in self._rates.items()},
        )

    def __repr__(self) -> str:
        return repr(self.recording)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.recording._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]

    def _now(self) -> float:
        try:
            loop = asyncio.get_running_loop()
            if loop is not self._loop:
                self._loop, self._wall = loop, LoopScheduler(loop).wall
        except RuntimeError:
            pass  # outside a loop: by the clock of the last one
        now = self._wall()
        self._clock = _union(self._clock, now, now)
        return now

    def _count(self, name: str, at: float) -> None:
        self._totals[name] += 1
        self._rates[name].add(at, at)

    def on_window(self, window: Window) -> None:
        opened, closed, distinct = window.opened, window.closed, len(window)
        mark = WindowMark(self._now(), opened, closed, window.trigger, window.received, distinct)
        self._opened = _union(self._opened, opened, closed)
        self._windows.append(mark)
        self._totals += Counter(windows=1, received=window.received, distinct=distinct)
        self._count_arrivals(window)
        for event in islice(window, max(0, distinct - self._limit), None):
            self._events.append(EventMark(mark, event.key, event.count, event.first_seen, event.last_seen))

    def _count_arrivals(self, window: Window) -> None:
        """Count events at the time of their key's first event, and duplicates evenly from there to its last."""
        received, distinct = self._rates["received"], self._rates["distinct"]
        if window[0].first_seen is None or window[0].count is None:  # not kept: at any time in the window
            received.add(window.opened, window.closed, window.received)
            distinct.add(window.opened, window.closed, len(window))
            return
        for _, _, count, first, last in window:
            distinct.add(first, first)
            received.add(first, first)
            steps = min(count - 1, STEPS)
            for step in range(1, steps + 1):
                at = first + ((last or first) - first) * step / steps
                received.add(at, at, (count - 1) / steps)

    def on_outcome(self, outcome: Outcome) -> None:
        now, event = self._now(), outcome.event
        self._count(outcome.outcome, now)
        # an event that was rejected at intake has no key
        key = event.key if isinstance(event, Compacted) else None
        stage, reason = ("publish", "") if isinstance(outcome, Published) else (outcome.stage, outcome.reason)
        self._outcomes.append(OutcomeMark(now, outcome.outcome, key, stage, reason, outcome.attempts, outcome.age))

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case RetryScheduled(stage, attempt, wait, error):
                now = self._now()
                self._count("retries", now)
                self._retries.append(RetryMark(now, stage, attempt, wait, error_name(error)))
            case SourceFailed(error):
                self._states.append(StateMark(self._now(), "source failed", error_name(error)))
            case ObserverFailed(observer, error):
                self._states.append(StateMark(self._now(), "observer failed", f"{observer}: {error_name(error)}"))
            case _:
                pass

    def on_state(self, state: State) -> None:
        if state != "idle":  # the first one comes at once: time may not have begun yet
            self._states.append(StateMark(self._now(), state))


def _union(span: Span | None, start: float, end: float) -> Span:
    return (start, end) if span is None else (min(span[0], start), max(span[1], end))
