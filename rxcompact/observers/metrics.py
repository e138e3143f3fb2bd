"""The metrics of a run: names, units and meanings in one table, for Prometheus and OpenTelemetry (their extras)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from rxcompact import __version__
from rxcompact.events import DeadLetter, Delivered
from rxcompact.observers.histogram import AGES, SIZES, TIMES, Histogram
from rxcompact.observers.statistics import Snapshot, Statistics
from rxcompact.signals import CallEnded, State, Tick

if TYPE_CHECKING:
    import prometheus_client as prometheus
    from opentelemetry import metrics as opentelemetry

PREFIX, PIPELINE = "rxcompact_", "pipeline"
Labels: TypeAlias = tuple[str, ...]


class Metric(NamedTuple):
    """A metric, and where its numbers are in a snapshot, by the values of its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    """Of UCUM."""
    labels: Labels
    help: str
    read: Callable[[Snapshot], Any]
    """Gives numbers by a label's value or by those of several, or one; of a histogram it and the bounds to export."""

    def values(self, now: Snapshot) -> Iterator[tuple[Labels, Any]]:
        """Yield the values of the labels, and the number; None is left out."""
        found = self.read(now)
        for labels, value in found.items() if isinstance(found, Mapping) else [((), found)]:
            if value is not None:
                yield labels if isinstance(labels, tuple) else (labels,), value


def _rejected(now: Snapshot) -> Mapping[str, int]:
    found = Counter[str]()
    for (outcome, _, reason), count in now.dead_letters.items():
        found[reason] += count * (outcome == "rejected")
    return +found


def _outcomes(now: Snapshot) -> Mapping[Labels, int]:
    lost: dict[Labels, int] = {cause: count for cause, count in now.dead_letters.items() if cause[0] != "rejected"}
    return {("published", "publish", ""): now.account.published} | lost


def _ages(now: Snapshot) -> Mapping[str, Any]:
    bounds = sorted({*AGES, min(now.max_age, AGES[-1])})
    return {outcome: (ages, bounds) for outcome, ages in now.ages.items()}


def _held(now: Snapshot) -> Mapping[Labels, int]:
    calling: dict[Labels, int] = {(name, "calling"): stage.calling for name, stage in now.calling.items()}
    others = {name: stage.held - calling.get((name, "calling"), 0) for name, stage in now.stages.items()}
    others.pop("source", None)
    return calling | {(name, "open" if name == "compact" else "waiting"): held for name, held in others.items()}


def _in_flight(now: Snapshot) -> Mapping[str, float]:
    used = {"events": (now.account.in_flight, now.max_in_flight), "bytes": (now.bytes_held, now.max_bytes)}
    return {unit: held / limit for unit, (held, limit) in used.items() if limit}


METRICS: Sequence[Metric] = (
    Metric("received_events", "counter", "{event}", ("source",), "Events that the source emitted.",
           lambda now: {now.source: now.account.received}),
    Metric("received_bytes", "counter", "By", ("source",), "Bytes of the JSON lines that the source emitted.",
           lambda now: {now.source: now.received_bytes}),
    Metric("rejected_events", "counter", "{event}", ("reason",),
           "Events that were rejected at intake: malformed, without a key or a time, late, in the future or too large.",
           _rejected),
    Metric("null_key_events", "counter", "{event}", (), "Events that lacked a field of the key, and were taken.",
           lambda now: now.null_keys),
    Metric("duplicate_events", "counter", "{event}", (), "Events whose key was in an open window already.",
           lambda now: now.account.duplicates),
    Metric("windows", "counter", "{window}", ("trigger",), "Windows that closed, by what closed them.",
           lambda now: now.windows),
    Metric("hottest_key_ratio", "gauge", "1", (), "Share of the most frequent key in the events of the last minute.",
           lambda now: now.hottest),
    Metric("events", "counter", "{event}", ("outcome", "stage", "reason"),
           "Distinct events by their outcome, the stage that settled them, and the reason.", _outcomes),
    Metric("event_age", "histogram", "s", ("outcome",), "Age of distinct events when they were settled.", _ages),
    Metric("oldest_event_age", "gauge", "s", ("stage",), "Age of the oldest event that a stage holds.",
           lambda now: {name: each.oldest for name, each in now.stages.items()}),
    Metric("max_age", "gauge", "s", ("stage",), "Age at which an event expires.", lambda now: now.max_ages),
    Metric("held_events", "gauge", "{event}", ("stage", "state"),
           "Distinct events that a stage holds: in open windows, waiting, or in a call under way.", _held),
    Metric("in_flight_ratio", "gauge", "1", ("unit",), "Events in flight, and bytes, of those that can be held.",
           _in_flight),
    Metric("call_duration", "histogram", "s", ("stage", "target", "outcome"), "How long calls took, by how they ended.",
           lambda now: {cause: (times, TIMES) for cause, times in now.calls.items()}),
    Metric("call_slots", "gauge", "{call}", ("stage", "state"), "Calls that may be under way at once: busy, and free.",
           lambda now: {(name, "busy"): stage.busy for name, stage in now.calling.items()}
           | {(name, "free"): stage.limit - stage.busy for name, stage in now.calling.items()}),
    Metric("circuit_open", "gauge", "1", ("stage", "target"), "1 for a service that is down.",
           lambda now: {(stage, target): 0 for stage, target, _ in now.calls}
           | {(name, target): 1 for name, stage in now.stages.items() for target in stage.failing}),
    Metric("retries", "counter", "{call}", ("stage", "reason"), "Calls that failed and were scheduled again.",
           lambda now: now.retries),
    Metric("lookups", "counter", "{event}", ("stage", "result"),
           "Events by what answered them: a call of their own, one that they shared, the cache.",
           lambda now: {(name, how): many for name, each in now.calling.items() for how, many in each.lookups.items()}),
    Metric("batch_events", "histogram", "{event}", ("stage",), "Events in the batches that were published.",
           lambda now: {"publish": (now.batches, SIZES)}),
    Metric("source_requests", "counter", "{request}", ("source", "code"), "Requests that the source answered.",
           lambda now: now.requests),
    Metric("source_lag_events", "gauge", "{event}", ("source", "partition"),
           "Messages that the broker did not deliver yet, as of the last seconds.", lambda now: now.lag),
    Metric("failures", "counter", "{failure}", ("part", "name"),
           "Failures of the source, of observers, and of other functions of the caller.",
           lambda now: {("source", now.source): 0} | now.failures),
    Metric("state", "gauge", "1", ("state",), "1 for the state of the run, 0 for the others.",
           lambda now: {state: state == now.state for state in get_args(State)}),
    Metric("last_published_timestamp", "gauge", "s", (), "POSIX time at which the sink took the last batch.",
           lambda now: now.published_at),
    Metric("event_loop_lag", "gauge", "s", (), "Time by which the event loop was late at most, in the last 15 seconds.",
           lambda now: now.loop_lag),
    Metric("build_info", "gauge", "1", ("version",), "1, and the version that runs.", lambda _: {__version__: 1}),
)  # fmt: skip


def families(now: Snapshot) -> Iterator[prometheus.Metric]:
    """Yield the metrics of a snapshot as the objects of Prometheus' client library."""
    from prometheus_client import core  # noqa: PLC0415 - an extra

    for metric in METRICS:
        name = f"{PREFIX}{metric.name}{'_seconds' if metric.unit == 's' else ''}"
        new: Any = getattr(core, f"{metric.kind.capitalize()}MetricFamily")
        family = new(name, metric.help, labels=(PIPELINE, *metric.labels))
        for labels, value in metric.values(now):
            if metric.kind == "histogram":
                family.add_metric((now.name, *labels), list(_buckets(*value)), value[0].total)
            else:
                family.add_metric((now.name, *labels), value)
        yield family


def _buckets(histogram: Histogram, bounds: Sequence[float]) -> Iterator[tuple[Any, ...]]:
    from prometheus_client.samples import Exemplar  # noqa: PLC0415 - an extra

    exemplars = sorted(((value, trace) for trace, value in histogram.exemplars.values()), reverse=True)
    for bound, count in histogram.cumulative((*bounds, inf)):
        exemplar: tuple[Exemplar, ...] = ()
        while exemplars and exemplars[-1][0] <= bound:  # the largest of those up to a bound
            value, trace_id = exemplars.pop()
            exemplar = (Exemplar({"trace_id": trace_id}, value),)
        yield (str(bound) if bound < inf else "+Inf", count, *exemplar)


def exposition(now: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics of a snapshot, and of the process, as text, and its content type.

    Args:
        now: The snapshot.
        accept: The header of a request; OpenMetrics, which has exemplars, where it accepts that.

    Raises:
        ImportError: without the extra.
    """
    from prometheus_client import GC_COLLECTOR, PROCESS_COLLECTOR, exposition  # noqa: PLC0415 - an extra

    process = PROCESS_COLLECTOR.collect(), GC_COLLECTOR.collect()
    registry: Any = SimpleNamespace(collect=lambda: chain(families(now), *process))
    encode, content_type = exposition.choose_encoder(accept)
    return encode(registry), content_type


class _Exporter:
    _statistics: Statistics | None = None
    _pipeline = ""

    def on_attach(self, run: Any) -> None:
        """Export what this run does from now on."""
        self._statistics, self._pipeline = run.statistics, run.name

    def on_tick(self, _: Tick) -> None:
        """Have the lag of the loop measured."""


class PrometheusObserver(_Exporter):
    """An observer that exports the statistics of a run, as ``/metrics`` of `HttpSource` does (extra ``metrics``).

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

    def __init__(self, registry: prometheus.CollectorRegistry | None = None) -> None:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - an extra

        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(self)

    def describe(self) -> Iterator[prometheus.Metric]:
        """Yield what `collect` yields, without values; the registry refuses names that it has already."""
        return families(Snapshot())

    def collect(self) -> Iterator[prometheus.Metric]:
        """Yield the metrics; the registry calls this, from any thread."""
        if self._statistics is not None:
            yield from families(self._statistics.snapshot())


class OpenTelemetryObserver(_Exporter):
    """An observer that exports the statistics of a run: Prometheus' names with dots, without its suffixes.

    Cost:
        7 µs for each distinct event (SDK 1.45), for the histogram of ages: the API takes values one by one. Nothing
        else between two exports.

    Args:
        meter: Of OpenTelemetry's API (extra ``opentelemetry``); by default that of the global provider.

    Raises:
        ImportError: without the extra.
    """

    def __init__(self, meter: opentelemetry.Meter | None = None) -> None:
        from opentelemetry.metrics import get_meter  # noqa: PLC0415 - an extra

        meter = meter or get_meter("rxcompact")
        self._now = Snapshot()
        self._seen = {metric.name for metric in METRICS}  # in the present export
        self._histograms: dict[str, opentelemetry.Histogram] = {}
        for metric in METRICS:
            name = (PREFIX + metric.name).replace("_", ".")
            if metric.kind == "histogram":
                self._histograms[metric.name] = meter.create_histogram(name, metric.unit, metric.help)
            else:
                create: Any = getattr(meter, f"create_observable_{metric.kind}")
                create(name, [partial(self._observe, metric)], metric.unit, metric.help)

    def on_call(self, ended: CallEnded) -> None:
        self._record("call_duration", ended.duration, stage=ended.stage, target=ended.target, outcome=ended.outcome)

    def on_batch(self, delivered: Delivered) -> None:
        self._record("batch_events", len(delivered.batch), stage="publish")
        record, labels = self._histograms["event_age"].record, {PIPELINE: self._pipeline, "outcome": "published"}
        for compacted in delivered.batch:
            if compacted.first_seen is not None:
                record(delivered.at - compacted.first_seen, labels)

    def on_dead_letter(self, letter: DeadLetter) -> None:
        if letter.age is not None:
            self._record("event_age", letter.age, outcome=letter.outcome)

    def _record(self, name: str, value: float, **labels: str) -> None:
        self._histograms[name].record(value, {PIPELINE: self._pipeline} | labels)

    def _observe(self, metric: Metric, _: opentelemetry.CallbackOptions) -> Iterator[opentelemetry.Observation]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - an extra

        if metric.name in self._seen and self._statistics is not None:  # the next export has begun
            self._now, self._seen = self._statistics.snapshot(), set()
        self._seen.add(metric.name)
        for labels, value in metric.values(self._now):
            yield Observation(value, {PIPELINE: self._pipeline} | dict(zip(metric.labels, labels, strict=True)))
