"""What a run has done so far, counted once; metrics, logs, progress and displays read it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple, Self, TypeAlias

from rxcompact.clock import is_running, seconds
from rxcompact.contracts import LaggingSource, NamedSource, ServingSource
from rxcompact.events import DeadLetter, Delivered, Window, shown_by
from rxcompact.format import error_name, short
from rxcompact.observers.histogram import SIZES, TIMES, Histogram, age_bounds
from rxcompact.observers.recorder import OutcomeMark
from rxcompact.operators.retry import reason
from rxcompact.signals import (
    Account,
    ObserverFailed,
    RetryScheduled,
    Signal,
    SourceFailed,
    StageNow,
    State,
    Tick,
)

ENDED: frozenset[State] = frozenset({"idle", "stopped", "failed"})
REASONS = 50  # causes that are counted one by one; those after them are "other"
HORIZON = 5.0  # seconds over which a rate is taken
STEP, SAMPLES = 1.0, 60  # seconds between samples of the account, and how many are kept
LAGS = 15  # ticks of which the most is kept
LETTERS = 50  # dead letters that are remembered
PATIENCE = 5.0  # seconds that another thread waits for the loop
CAPACITY, KEPT = 1000, 100  # keys that are counted at once, and how many of them are kept when there are more
SLICE, SLICES = 10.0, 6  # seconds in which keys are counted together, and how many of these are kept
Cause: TypeAlias = tuple[str, str, str]
"""Outcome, stage and reason of dead letters."""


class Rate(NamedTuple):
    """Events a second, between two moments, in seconds after the start."""

    start: float
    end: float
    received: float
    published: float

    @classmethod
    def between(cls, then: tuple[float, int, int], now: tuple[float, int, int]) -> Self | None:
        """Return that of two samples; None where no time has passed."""
        length = now[0] - then[0]
        if length <= 0:
            return None
        return cls(then[0], now[0], (now[1] - then[1]) / length, (now[2] - then[2]) / length)


@dataclass
class Snapshot:
    """The statistics of a run at one moment, which metrics and displays show; it shows itself, and does not change.

    Times are in seconds. The manual, telemetry, has what the numbers mean.
    """

    windows: Counter[str] = field(default_factory=Counter[str])  # by trigger
    batches: Histogram = field(default_factory=lambda: Histogram(SIZES))
    dead_letters: Counter[Cause] = field(default_factory=Counter[Cause])
    retries: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])  # by stage and reason
    failures: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])  # by part and name
    failure: str = ""  # type of the source's last error
    ages: dict[str, Histogram] = field(default_factory=dict[str, Histogram])  # by outcome
    calls: dict[Cause, Histogram] = field(default_factory=dict[Cause, Histogram])  # by stage, target and outcome
    hottest: float | None = None
    loop_lag: float | None = None  # None where nobody asks for it
    published_at: float | None = None  # POSIX seconds
    letters: tuple[OutcomeMark, ...] = ()
    """The last few dead letters, the latest first, keys and reasons as short texts."""

    name: str = ""
    source: str = ""
    state: State = "idle"
    uptime: float = 0.0
    """Since the start, or from it until the end."""
    restarts: int = 0
    account: Account = field(default_factory=Account)
    received_bytes: int = 0
    null_keys: int = 0
    rate: Rate | None = None
    """Of the last seconds; of the whole run once it has ended; None before a first moment has passed."""
    rates: tuple[Rate, ...] = ()
    """Of the last minute, in steps."""
    max_age: float = inf
    max_ages: Mapping[str, float] = field(default_factory=dict[str, float])  # by stage
    max_in_flight: int = 0
    bytes_held: int = 0
    max_bytes: int = 0
    stages: Mapping[str, StageNow] = field(default_factory=dict[str, StageNow], repr=False)
    """By name, in the order in which events pass them."""
    lag: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])  # by source and partition
    requests: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])  # by source and status

    @property
    def dedup_ratio(self) -> float | None:
        """Events for each distinct one; None before the first."""
        account = self.account
        return (account.distinct + account.duplicates) / account.distinct if account.distinct else None

    @property
    def oldest(self) -> float | None:
        """Seconds since the birth of the oldest event that is held."""
        return max((stage.oldest for stage in self.stages.values() if stage.oldest is not None), default=None)

    @property
    def calling(self) -> Mapping[str, StageNow]:
        """The stages that make calls."""
        return {name: stage for name, stage in self.stages.items() if stage.limit}

    @property
    def waiting(self) -> int:
        """Calls that failed and wait for the next attempt."""
        return sum(stage.waiting for stage in self.stages.values())

    @property
    def retried(self) -> int:
        """Calls that failed and were scheduled again."""
        return self.retries.total()

    __str__ = shown_by("snapshot.snapshot_text")
    _repr_html_ = shown_by("snapshot.snapshot_html")

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}


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


class Statistics:
    """Counts what happens in a run, from its start on, in bounded memory; `snapshot` gives the numbers.

    A new start counts from zero; a restart goes on.

    Cost:
        Some microseconds a window and a batch, a fifth of one for each distinct event; nothing for duplicates.

    Args:
        run: The orchestrator, which has one as its attribute ``statistics``.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self.loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._counts = Snapshot()
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=SAMPLES)  # when, received, published
        self.top = TopKeys()
        self._lags: deque[float] = deque(maxlen=LAGS)

    def on_state(self, old: State, new: State) -> None:
        if new == "running" and old in ENDED:
            self.loop = asyncio.get_running_loop()
            self._reset()
        self._sample(merge=new in ENDED)

    def on_window(self, window: Window) -> None:
        self._counts.windows[window.trigger] += 1
        self.top.on_window(window)
        self._sample()

    def on_batch(self, delivered: Delivered) -> None:
        batch, _, at = delivered
        self._counts.batches.add(len(batch))
        self._counts.published_at = at
        self._ages("published").add_ages([born for each in batch if (born := each.first_seen) is not None], at)
        self._sample()

    def on_dead_letter(self, letter: DeadLetter) -> None:
        counts, outcome, age = self._counts, letter.outcome, letter.age
        count_cause(counts.dead_letters, (outcome, letter.stage, letter.reason))
        if age is not None and outcome != "rejected":
            self._ages(outcome).add(age)
        mark = OutcomeMark.of(letter, self._run.now())
        key = "" if mark.key is None else short(mark.key, 40)
        brief = mark._replace(key=key, reason=short(mark.reason, 40))
        counts.letters = (brief, *counts.letters[: LETTERS - 1])

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case RetryScheduled(stage, _, _, error):
                count_cause(self._counts.retries, (stage, reason(error)))
            case SourceFailed(error):
                self._counts.failures["source", self._source] += 1
                self._counts.failure = error_name(error)
            case ObserverFailed(observer):
                count_cause(self._counts.failures, ("observer", observer))
            case Tick(lag):
                self._lags.append(lag)
            case _:
                pass

    def on_call(self, stage: str, target: str, outcome: str, took: float, trace_id: str) -> None:
        calls, cause = self._counts.calls, (stage, target, outcome)
        if cause not in calls:
            if len(calls) >= REASONS:
                cause = stage, "other", outcome
            calls.setdefault(cause, Histogram(TIMES))
        calls[cause].add(took, trace_id)

    def _ages(self, outcome: str) -> Histogram:
        if outcome not in self._counts.ages:
            self._counts.ages[outcome] = Histogram(age_bounds(self._run.pipeline.max_age))
        return self._counts.ages[outcome]

    def _sample(self, *, merge: bool = False) -> None:
        """Remember what has come and gone, unless it was just done; to merge, in place of a sample that was."""
        samples, now = self._samples, self._run.uptime
        just_done = bool(samples) and now - samples[-1][0] <= STEP
        if just_done and merge and len(samples) > 1:
            samples.pop()
        if merge or not just_done:
            account = self._run.account
            samples.append((now, account.received, account.published))

    @property
    def retries(self) -> int:
        """Calls that failed and were scheduled again."""
        return self._counts.retried

    def snapshot(self) -> Snapshot:
        """Return the statistics as they are now; from another thread, when the loop takes its next turn.

        Cost:
            A millisecond, and another for each ten thousand events in flight.

        Raises:
            TimeoutError: in another thread, when the loop did not take a turn for five seconds.
        """
        loop = self.loop
        if loop is None or not loop.is_running() or is_running(loop):
            return self._snapshot()
        taken: Future[Snapshot] = Future()
        loop.call_soon_threadsafe(lambda: taken.set_result(self._snapshot()))
        return taken.result(PATIENCE)

    def _snapshot(self) -> Snapshot:
        run, pipeline, stages, letters = self._run, self._run.pipeline, self._run.stages, self._counts.letters
        now = deepcopy(self._counts, {id(letters): letters})  # but for what does not change
        self._sample()
        now.state, now.uptime, now.restarts, now.account = run.state, run.uptime, run.restarts, run.account
        now.max_age, now.max_in_flight = pipeline.max_age, pipeline.max_in_flight
        now.bytes_held, now.max_bytes = run.bytes_held, pipeline.max_bytes
        now.stages = {name: stages[name] for name in pipeline.stages if name in stages}
        now.name, now.source, name, source = pipeline.name, self._source, self._source, pipeline.source
        if (counted := run.demand) is not None:
            now.received_bytes, now.null_keys = counted.received_bytes, counted.null_keys
            now.failures.update({("task", name): number for name, number in counted.failures.items()})
        now.hottest = self.top.hottest()
        now.loop_lag = max(self._lags, default=None)
        own = {each.stage: each.max_age for each in pipeline.calls}
        max_ages = {name: own.get(name) or pipeline.max_age for name in pipeline.stages if name != "source"}
        now.max_ages = {name: seconds(name, age, infinite=True) for name, age in max_ages.items()}
        if isinstance(source, LaggingSource):
            now.lag = {(name, partition): lag for partition, lag in source.lag.items()}
        if isinstance(source, ServingSource):
            now.requests = {(name, str(status)): count for status, count in source.requests.items()}
        old = (each for each in reversed(self._samples) if now.uptime - each[0] >= HORIZON)
        then = (0.0, 0, 0) if run.state in ENDED else next(old, self._samples[0])
        pairs = [(then, (now.uptime, now.account.received, now.account.published)), *pairwise(self._samples)]
        now.rate, *rates = (Rate.between(*pair) for pair in pairs)
        now.rates = tuple(rate for rate in rates if rate is not None)
        return now

    @property
    def _source(self) -> str:
        source = self._run.pipeline.source
        return source.name if isinstance(source, NamedSource) else type(source).__name__


def count_cause(causes: Counter[Any], cause: tuple[str, ...]) -> Any:
    """Count a cause, or of too many "other" in place of its last part; return which."""
    if cause not in causes and len(causes) >= REASONS:
        cause = (*cause[:-1], "other")
    causes[cause] += 1
    return cause
