"""Records what happened, in bounded memory: marks, each with its instant."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, Self

from rxcompact.clock import count
from rxcompact.events import Compacted, Outcome, Window, shown_by
from rxcompact.format import error_name
from rxcompact.signals import RetryScheduled, Signal, WindowClosed

KEYS = 100  # of a retried batch that are kept


class EventMark(NamedTuple):
    """A distinct event of a window, and how often it was received."""

    window: WindowClosed
    key: Hashable
    # the field's word, though tuples have a method of that name
    count: int | None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]
    first_seen: float | None
    last_seen: float | None


class RetryMark(NamedTuple):
    """A call failed and will be made again."""

    at: float
    stage: str
    attempt: int
    wait: float
    error: str
    keys: tuple[Hashable, ...] = ()
    """Of the events that the call was for, the first hundred."""


class OutcomeMark(NamedTuple):
    """A distinct event was settled, or an event was rejected at intake; its key is None where it never had one."""

    at: float
    outcome: str
    key: Hashable
    stage: str
    reason: str
    attempts: int
    age: float | None
    error: str = ""

    @classmethod
    def of(cls, outcome: Outcome, at: float) -> Self:
        """Return the mark of an outcome."""
        key = outcome.event.key if isinstance(outcome.event, Compacted) else None
        stage, reason = getattr(outcome, "stage", "publish"), getattr(outcome, "reason", "")
        error = error_name(getattr(outcome, "error", None))
        return cls(at, outcome.outcome, key, stage, reason, outcome.attempts, outcome.age, error)


class Explanation(str):
    """Why an alert was received, or was not: a line for each thing that happened."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True, slots=True, repr=False)
class Recording:
    """What a `Recorder` has recorded so far: a marble diagram, as a picture where there can be one, else as text.

    It holds keys, but no events, and types of errors, but not their messages. Marks are in the order in which they were
    made; the oldest are not kept, but ``totals`` counts them all. They are tuples with names, of which pandas makes a
    table: ``DataFrame(recording.outcomes)``.
    """

    windows: Sequence[WindowClosed] = ()
    """Each ``at`` the time when it was recorded; this may be long after ``closed``, which may be event time."""
    events: Sequence[EventMark] = ()
    retries: Sequence[RetryMark] = ()
    outcomes: Sequence[OutcomeMark] = ()
    totals: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many were "windows", "received", "distinct", "retries", and of each outcome."""

    @property
    def summary(self) -> str:
        """What there was, in numbers."""
        return ", ".join(f"{name} {number:,}" for name, number in self.totals.items() if number) or "nothing yet"

    @property
    def complete(self) -> bool:
        """Whether every distinct event was kept."""
        return len(self.events) == self.totals.get("distinct", 0)

    def latest(self, most: int) -> Recording:
        """Return it with the latest distinct events, at most so many, and with what came since the first of them."""
        events = self.events[-most:]
        if len(events) == self.totals.get("distinct", 0):
            return self
        since, others = events[0].window.at, ("windows", "retries", "outcomes")
        later: dict[str, Any] = {
            name: [mark for mark in getattr(self, name)[-most:] if mark.at >= since] for name in others
        }
        return replace(self, events=events, **later)

    __repr__ = shown_by("marble.marble")
    _repr_html_ = shown_by("marble_svg.marble_html")
    svg = shown_by("marble_svg.marble_svg")
    """Return it as a picture."""
    chart = shown_by("chart.marble_chart")
    """Return it as a picture to touch: hover a circle to follow its key through all lanes, zoom in time."""

    def explain(self, key: Hashable) -> Explanation:
        """Return what was recorded of a key: its events, each failed call, each outcome.

        A key that is missing here may be one of the oldest, which are kept no more.
        """
        return Explanation(shown_by("marble.explanation")(self, key))


class Recorder:
    """An observer that records: ``orchestrator.attach(recorder)``; then ``recorder.recording`` shows itself.

    Args:
        limit: How many it keeps of each: distinct events, windows, retries, outcomes. The oldest go first.

    Cost:
        A few microseconds for each distinct event, nothing for duplicates. Memory O(limit).

    Raises:
        ArgumentError: for a limit below 1.
    """

    def __init__(self, *, limit: int = 10_000) -> None:
        self._limit = count("limit", limit)
        self._marks: defaultdict[str, deque[Any]] = defaultdict(lambda: deque(maxlen=limit))
        self._totals: Counter[str] = Counter()
        self._now: Callable[[], float] = time.time

    @property
    def recording(self) -> Recording:
        """What has been recorded so far; it does not change."""
        kept: dict[str, Any] = {name: tuple(marks) for name, marks in self._marks.items()}
        return Recording(totals=dict(self._totals), **kept).latest(self._limit)

    def on_attach(self, run: Any) -> None:
        """Record by the clock of this run."""
        self._now = lambda: run.now()  # noqa: PLW0108 - each start has a clock of its own

    def on_window(self, window: Window, at: float | None = None) -> None:
        at, distinct = self._now() if at is None else at, len(window)
        mark = WindowClosed(window.opened, window.closed, window.trigger, window.received, distinct, at=at)
        self._marks["windows"].append(mark)
        self._totals += Counter(windows=1, received=window.received, distinct=distinct)
        for key, _, number, first, last in islice(window, max(0, distinct - self._limit), None):
            self._marks["events"].append(EventMark(mark, key, number, first, last))

    def on_outcome(self, outcome: Outcome) -> None:
        self._totals[outcome.outcome] += 1
        self._marks["outcomes"].append(OutcomeMark.of(outcome, self._now()))

    def on_signal(self, signal: Signal) -> None:
        if isinstance(signal, RetryScheduled):
            self._totals["retries"] += 1
            error, keys = error_name(signal.error), signal.keys[:KEYS]
            self._marks["retries"].append(
                RetryMark(self._now(), signal.stage, signal.attempt, signal.wait, error, keys)
            )


def record(windows: Iterable[Window]) -> Recording:
    """Return a recording of windows, as `rxcompact.testing.replay` gives them: each was recorded when it closed."""
    recorder = Recorder(limit=sys.maxsize)
    for window in windows:
        recorder.on_window(window, window.closed)
    return recorder.recording
