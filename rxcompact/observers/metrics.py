"""The names, units and meanings of all metrics, in one table for every exporter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from rxcompact.observers.histogram import AGES, SIZES, Histogram
from rxcompact.observers.statistics import Snapshot
from rxcompact.signals import State

PREFIX = "rxcompact_"
Labels: TypeAlias = tuple[str, ...]
Numbers: TypeAlias = Iterable[tuple[Labels, float]]


class Metric(NamedTuple):
    """A counter or a gauge, and where its numbers are in a snapshot."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    """Of UCUM."""
    labels: Labels
    help: str
    read: Callable[[Snapshot], Numbers]


class HistogramMetric(NamedTuple):
    """A histogram, and where its counts are in a snapshot."""

    name: str
    unit: str
    labels: Labels
    help: str
    bounds: Callable[[Snapshot], Sequence[float]]
    read: Callable[[Snapshot], Iterable[tuple[Labels, Histogram]]]


def _rejected(now: Snapshot) -> Numbers:
    found: Counter[Labels] = Counter()
    for (outcome, _, reason), count in now.dead_letters.items():
        if outcome == "rejected":
            found[reason,] += count
    return found.items()


def _outcomes(now: Snapshot) -> Numbers:
    yield ("published", "publish", ""), now.account.published
    yield from ((cause, count) for cause, count in now.dead_letters.items() if cause[0] != "rejected")


def _each(numbers: Mapping[str, float]) -> Numbers:
    return (((label,), number) for label, number in numbers.items())


METRICS: Sequence[Metric] = (
    Metric(
        "received_events", "counter", "{event}", (), "Events that the source emitted.",
        lambda now: [((), now.account.received)],
    ),
    Metric(
        "rejected_events", "counter", "{event}", ("reason",),
        "Events that were rejected at intake: malformed, without a key or a time, late, in the future or too large.",
        _rejected,
    ),
    Metric(
        "duplicate_events", "counter", "{event}", (), "Events whose key was in an open window already.",
        lambda now: [((), now.account.duplicates)],
    ),
    Metric(
        "windows", "counter", "{window}", ("trigger",), "Windows that closed, by what closed them.",
        lambda now: _each(now.windows),
    ),
    Metric(
        "events", "counter", "{event}", ("outcome", "stage", "reason"),
        "Distinct events by their outcome, the stage that settled them, and the reason.", _outcomes,
    ),
    Metric(
        "oldest_event_age", "gauge", "s", ("stage",), "Age of the oldest event that a stage holds.",
        lambda now: _each({name: each.oldest for name, each in now.stages.items() if each.oldest is not None}),
    ),
    Metric(
        "max_age", "gauge", "s", (), "Age at which an event expires.", lambda now: [((), now.max_age)],
    ),
    Metric(
        "held_events", "gauge", "{event}", ("stage",), "Distinct events that a stage holds.",
        lambda now: _each({name: each.held for name, each in now.stages.items() if name != "source"}),
    ),
    Metric(
        "in_flight_ratio", "gauge", "1", ("unit",), "Distinct events in flight, of those that can be held.",
        lambda now: _each({"events": now.account.in_flight / now.max_in_flight} if now.max_in_flight else {}),
    ),
    Metric(
        "retries", "counter", "{call}", ("stage", "reason"), "Calls that failed and were scheduled again.",
        lambda now: now.retries.items(),
    ),
    Metric(
        "failures", "counter", "{failure}", ("part",), "Failures of the source, and of observers.",
        lambda now: _each({part: now.failures.get(part, 0) for part in ("source", "observer")}),
    ),
    Metric(
        "state", "gauge", "1", ("state",), "1 for the state of the run, 0 for the others.",
        lambda now: _each({state: state == now.state for state in get_args(State)}),
    ),
    Metric(
        "last_published_timestamp", "gauge", "s", (), "POSIX time at which the sink took the last batch.",
        lambda now: [] if now.published_at is None else [((), now.published_at)],
    ),
)  # fmt: skip

HISTOGRAMS: Sequence[HistogramMetric] = (
    HistogramMetric(
        "event_age", "s", ("outcome",), "Age of distinct events when they were settled.",
        lambda now: sorted({*AGES, min(now.max_age, AGES[-1])}),
        lambda now: [((name,), ages) for name, ages in now.ages.items()],
    ),
    HistogramMetric(
        "batch_events", "{event}", ("stage",), "Events in the batches that were published.",
        lambda _: SIZES, lambda now: [(("publish",), now.batches)],
    ),
)  # fmt: skip
