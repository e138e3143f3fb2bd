"""The account in Prometheus' text format (extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rxcompact.contracts import Demand

if TYPE_CHECKING:
    from prometheus_client import Metric

NOW = ("in_flight",)


def exposition(demand: Demand) -> tuple[bytes, str]:
    """Return the metrics, and their content type.

    Raises:
        ImportError: without the extra.
    """
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - an extra
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415

    class Collector:
        def collect(self) -> Iterator[Metric]:
            for name, number in demand.account()._asdict().items():
                family = GaugeMetricFamily if name in NOW else CounterMetricFamily
                yield family(f"rxcompact_{name}", f"events: {name.replace('_', ' ')}", value=number)

    registry = CollectorRegistry()
    registry.register(Collector())  # pyright: ignore[reportArgumentType]
    return generate_latest(registry), CONTENT_TYPE_LATEST
