"""The metrics of a run for OpenTelemetry (extra ``opentelemetry``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rxcompact.events import DeadLetter, Delivered
from rxcompact.observers.metrics import HISTOGRAMS, METRICS, PREFIX, Metric
from rxcompact.observers.statistics import Snapshot, Statistics

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation


class OpenTelemetryObserver:
    """An observer that exports the statistics of a run: Prometheus' names with dots, without its suffixes.

    Cost:
        Some microseconds for each distinct event, for the histogram of ages; nothing else between two exports.

    Args:
        meter: Of OpenTelemetry's API; by default that of the global provider.

    Raises:
        ImportError: without the extra.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        from opentelemetry.metrics import get_meter  # noqa: PLC0415 - an extra

        meter = meter or get_meter("rxcompact")
        self._statistics: Statistics | None = None
        self._now = Snapshot()
        self._seen: set[str] | None = None
        for metric in METRICS:
            create: Any = getattr(meter, f"create_observable_{metric.kind}")
            create(_dotted(metric.name), [self._callback(metric)], metric.unit, metric.help)
        self._ages, self._batches = (
            meter.create_histogram(_dotted(metric.name), metric.unit, metric.help) for metric in HISTOGRAMS
        )

    def on_attach(self, run: Any) -> None:
        """Export what this run does from now on."""
        self._statistics = run.statistics

    def on_batch(self, delivered: Delivered) -> None:
        self._batches.record(len(delivered.batch), {"stage": "publish"})
        for compacted in delivered.batch:
            if compacted.first_seen is not None:
                self._ages.record(delivered.at - compacted.first_seen, {"outcome": "published"})

    def on_dead_letter(self, letter: DeadLetter) -> None:
        if letter.age is not None:
            self._ages.record(letter.age, {"outcome": letter.outcome})

    def _callback(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - an extra

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for labels, value in metric.read(self._snapshot(metric.name)):
                yield Observation(value, dict(zip(metric.labels, labels, strict=True)))

        return observe

    def _snapshot(self, name: str) -> Snapshot:
        """Return the same snapshot to all instruments of one export."""
        if self._statistics is not None and (self._seen is None or name in self._seen):
            self._now, self._seen = self._statistics.snapshot(), set()
        if self._seen is not None:
            self._seen.add(name)
        return self._now


def _dotted(name: str) -> str:
    return (PREFIX + name).replace("_", ".")
