"""The metrics of a run for Prometheus (extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rxcompact.observers.metrics import HISTOGRAMS, METRICS, PREFIX
from rxcompact.observers.statistics import Snapshot, Statistics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric


class PrometheusObserver:
    """An observer that exports the statistics of a run, as ``/metrics`` of `HttpSource` does.

    ::

        orchestrator.attach(PrometheusObserver(prometheus_client.REGISTRY))
        prometheus_client.start_http_server(9100)

    Args:
        registry: Where the metrics are registered; by default a new one, the attribute of that name. Give
            `prometheus_client.REGISTRY` to have them beside those of the process, once.

    Raises:
        ImportError: without the extra.
        ValueError: when the registry has these metrics already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - an extra

        self._statistics: Statistics | None = None
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(self)

    def on_attach(self, run: Any) -> None:
        """Export what this run does from now on."""
        self._statistics = run.statistics

    def describe(self) -> Iterator[Metric]:
        """Yield what `collect` yields, without values; the registry refuses names that it has already."""
        return families(Snapshot())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; the registry calls this, from any thread."""
        if self._statistics is not None:
            yield from families(self._statistics.snapshot())


def families(now: Snapshot) -> Iterator[Metric]:
    """Yield the metrics of a snapshot as the client library's objects."""
    from prometheus_client.core import (  # noqa: PLC0415 - an extra
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    for metric in METRICS:
        kind: Any = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(_name(metric), metric.help, labels=metric.labels)
        for labels, value in metric.read(now):
            family.add_metric(labels, value)
        yield family
    for each in HISTOGRAMS:
        family = HistogramMetricFamily(_name(each), each.help, labels=each.labels)
        for labels, histogram in each.read(now):
            buckets = [(str(bound), count) for bound, count in histogram.cumulative(each.bounds(now))]
            buckets[-1] = ("+Inf", histogram.count)
            family.add_metric(labels, buckets, histogram.total)
        yield family


def _name(metric: Any) -> str:
    return f"{PREFIX}{metric.name}{'_seconds' if metric.unit == 's' else ''}"


def exposition(now: Snapshot) -> tuple[bytes, str]:
    """Return the metrics of a snapshot in Prometheus' text format, and its content type.

    Raises:
        ImportError: without the extra.
    """
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415 - an extra

    registry: Any = SimpleNamespace(collect=lambda: families(now))
    return generate_latest(registry), CONTENT_TYPE_LATEST
