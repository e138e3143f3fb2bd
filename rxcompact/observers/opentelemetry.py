"""Metrics for OpenTelemetry (extra ``opentelemetry``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rxcompact.events import Outcome, Published
from rxcompact.signals import BatchPublished, ObserverFailed, RetryScheduled, Signal, SourceFailed, WindowClosed

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter


class OpenTelemetryObserver:
    """An observer that tells a meter: received, distinct, windows, batches, retries, outcomes, failures, ages.

    Args:
        meter: Of OpenTelemetry's API; by default that of the global provider.

    Raises:
        ImportError: without the extra.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        from opentelemetry.metrics import get_meter  # noqa: PLC0415 - an extra

        meter = meter or get_meter("rxcompact")
        self._received = meter.create_counter("rxcompact.received", "{event}", "events in closed windows")
        self._distinct = meter.create_counter("rxcompact.distinct", "{event}", "distinct events in closed windows")
        self._windows = meter.create_counter("rxcompact.windows", "{window}", "windows closed")
        self._batches = meter.create_counter("rxcompact.batches", "{batch}", "batches published")
        self._retries = meter.create_counter("rxcompact.retries", "{call}", "calls that are made again")
        self._outcomes = meter.create_counter("rxcompact.outcomes", "{event}", "how events ended")
        self._failures = meter.create_counter("rxcompact.failures", "{failure}", "of a source or an observer")
        self._ages = meter.create_histogram("rxcompact.age", "s", "age at publication")

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case WindowClosed():
                self._received.add(signal.received)
                self._distinct.add(signal.distinct)
                self._windows.add(1, {"trigger": signal.trigger})
            case BatchPublished():
                self._batches.add(1)
            case RetryScheduled():
                self._retries.add(1, {"stage": signal.stage, "error.type": type(signal.error).__qualname__})
            case SourceFailed():
                self._failures.add(1, {"part": "source"})
            case ObserverFailed():
                self._failures.add(1, {"part": "observer"})
            case _:
                pass

    def on_outcome(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Published):
            attributes = {"outcome": outcome.outcome, "stage": outcome.stage, "reason": outcome.reason}
            self._outcomes.add(1, attributes)
            return
        self._outcomes.add(1, {"outcome": "published"})
        if outcome.age is not None:
            self._ages.record(outcome.age)
