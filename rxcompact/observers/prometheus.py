"""Metrics for Prometheus beyond the account, which ``/metrics`` of `HttpSource` tells (extra ``metrics``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from rxcompact.events import Outcome, Published
from rxcompact.signals import (
    BatchPublished,
    DeadLettered,
    ObserverFailed,
    RetryScheduled,
    Signal,
    SourceFailed,
    State,
    WindowClosed,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

AGES = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Bounds of the histogram of ages, seconds."""


class PrometheusObserver:
    """An observer that keeps metrics: windows, batches, retries, dead letters by reason, failures, ages, the state.

    Their names begin with ``rxcompact_``; none is one of the account's.

    Args:
        registry: Where they are registered; by default one of its own, the attribute of that name. Give
            `prometheus_client.REGISTRY` to have them beside those of the process, once.

    Raises:
        ImportError: without the extra.
        ValueError: when the registry has them already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Enum, Histogram  # noqa: PLC0415 - an extra

        self.registry = CollectorRegistry() if registry is None else registry

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"rxcompact_{name}", what, labels, registry=self.registry)

        self._windows = counter("windows", "windows closed", "trigger")
        self._batches = counter("batches", "batches published")
        self._retries = counter("retries", "calls that failed and are made again", "stage")
        self._letters = counter("dead_letters", "events not published", "outcome", "stage", "reason")
        self._failures = counter("failures", "failures of a source or an observer", "part")
        self._ages = Histogram("rxcompact_age_seconds", "age at publication", buckets=AGES, registry=self.registry)
        self._state = Enum("rxcompact_state", "what it is doing", states=list(get_args(State)), registry=self.registry)

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case WindowClosed():
                self._windows.labels(signal.trigger).inc()
            case BatchPublished():
                self._batches.inc()
            case RetryScheduled():
                self._retries.labels(signal.stage).inc()
            case DeadLettered(letter):
                self._letters.labels(letter.outcome, letter.stage, letter.reason).inc()
            case SourceFailed():
                self._failures.labels("source").inc()
            case ObserverFailed():
                self._failures.labels("observer").inc()
            case _:
                pass

    def on_outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Published) and outcome.age is not None:
            self._ages.observe(outcome.age)

    def on_state(self, state: State) -> None:
        self._state.state(state)
