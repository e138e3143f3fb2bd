"""Observers of any shape, and those that ship."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import Observer

from rxcompact import Compacted, DeadLetter, Orchestrator, Pipeline, Published
from rxcompact.errors import ArgumentError, TransientError
from rxcompact.observers import (
    Latency,
    OpenTelemetryObserver,
    ProgressObserver,
    PrometheusObserver,
    attach,
)
from rxcompact.signals import Account, BatchPublished, ObserverFailed, StateChanged, WindowClosed

EVENTS = [{"id": key} for key in ("a", "b", "a", "bad", "a")]


async def watched(*observers: Any) -> Account:
    """Run five events of three keys, of which one is rejected and one needs a second attempt."""
    failed: set[str] = set()

    async def lookup(event: Any) -> Any:
        if event["id"] == "bad":
            raise KeyError("owner")
        if event["id"] not in failed:
            failed.add(event["id"])
            if event["id"] == "b":
                raise TransientError
        return event

    pipeline = Pipeline(
        source=EVENTS, key_mapper="id", timespan=5, enricher=lookup, sink=lambda _: None, max_age=60, batch_timespan=0
    )
    orchestrator = Orchestrator(pipeline)
    for observer in observers:
        attach(orchestrator, observer)
    await orchestrator.start()
    return (await orchestrator.wait()).account


class Some:
    """An observer with some of the methods."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_window(self, window: Any) -> None:
        self.seen.append(("window", len(window)))

    def on_dead_letter(self, letter: DeadLetter) -> None:
        self.seen.append(("letter", letter.event.key))

    def on_state(self, state: str) -> None:
        self.seen.append(("state", state))


async def test_an_observer_is_a_function_or_an_observer_or_has_some_of_the_methods() -> None:
    called: list[Any] = []
    nexts: list[Any] = []
    some = Some()
    await watched(called.append, Observer(nexts.append), some)
    assert called == nexts
    assert {type(signal) for signal in called} >= {WindowClosed, BatchPublished, StateChanged}
    assert some.seen == [
        ("state", "idle"), ("state", "running"), ("state", "draining"),
        ("window", 3), ("letter", "bad"), ("state", "stopped"),
    ]  # fmt: skip


async def test_what_is_no_observer_is_refused() -> None:
    with pytest.raises(TypeError, match="on_signal"):
        await watched(object())


async def test_a_method_that_raises_is_reported_and_the_others_go_on() -> None:
    class Bad(Some):
        def on_window(self, window: Any) -> None:
            raise ValueError("bad")

    bad = Bad()
    failures: list[ObserverFailed] = []
    account = await watched(bad, lambda signal: failures.append(signal) if isinstance(signal, ObserverFailed) else None)
    assert [str(failure.error) for failure in failures] == ["bad"]
    assert "Bad.on_window" in failures[0].observer
    assert ("letter", "bad") in bad.seen
    assert account.published == 2


# ── latency ───────────────────────────────────────────────────────────────────────────────────────────────────────


def true_percentile(ages: Sequence[float], share: float) -> float:
    return sorted(ages)[max(1, -(-len(ages) * share // 100).__int__()) - 1]


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=200), st.sampled_from([0, 1, 50, 90, 99, 100]))
def test_percentiles_are_right_within_a_bucket(ages: list[float], share: int) -> None:
    latency = Latency()
    for age in ages:
        latency.add(age)
    truth = true_percentile(ages, share)
    assert truth * (1 - 1e-9) <= latency.percentile(share) <= truth * 1.045
    assert latency.count == len(ages)
    assert latency.total == pytest.approx(sum(ages))
    assert latency.most == max(ages)
    assert sum(latency.histogram().values()) == len(ages)


def test_its_memory_does_not_grow_with_events() -> None:
    latency = Latency()
    rng = random.Random(1)
    for _ in range(50_000):
        latency.add(rng.uniform(0, 86_400))
    latency.add(-5.0)  # a clock that was set back
    assert len(latency.histogram()) < 16 * 30


async def test_it_hears_of_ages_at_publication_alone() -> None:
    latency = Latency()
    await watched(latency)
    assert latency.count == 2
    assert latency.percentile(0) <= latency.percentile(100) == latency.most < 6
    latency.on_outcome(Published(Compacted("a", 1), 1, None))
    latency.on_outcome(DeadLetter("expired", Compacted("a", 1), "enrich", "too old", None, 1, 99.0))
    assert latency.count == 2
    assert "of 2" in repr(latency)


def test_a_percentile_is_of_a_hundred() -> None:
    assert Latency().percentile(50) == 0
    with pytest.raises(ArgumentError, match="101"):
        Latency().percentile(101)


# ── extras ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bar_shows_what_came_and_closes_at_the_end() -> None:
    paper = io.StringIO()
    progress = ProgressObserver(total=len(EVENTS), file=paper, mininterval=0, unit_scale=False)
    await watched(progress)
    last = paper.getvalue().split("\r")[-1]
    assert "100%" in last
    assert "5/5" in last
    assert "distinct=3, published=2, retries=1, dead=1" in last
    assert progress.bar.disable  # tqdm's word for closed


async def test_prometheus_is_told_what_the_account_does_not_say() -> None:
    import prometheus_client

    observer = PrometheusObserver()
    await watched(observer)
    value: Callable[..., float | None] = observer.registry.get_sample_value
    assert value("rxcompact_windows_total", {"trigger": "completed"}) == 1
    assert value("rxcompact_retries_total", {"stage": "enrich"}) == 1
    labels = {"outcome": "rejected", "stage": "enrich", "reason": "KeyError"}
    assert value("rxcompact_dead_letters_total", labels) == 1
    assert value("rxcompact_age_seconds_count") == 2
    assert value("rxcompact_age_seconds_bucket", {"le": "60.0"}) == 2
    assert value("rxcompact_state", {"rxcompact_state": "stopped"}) == 1
    names = {family.name for family in observer.registry.collect()}
    assert names.isdisjoint(f"rxcompact_{field}" for field in Account._fields)
    assert b"rxcompact_batches_total 2.0" in prometheus_client.generate_latest(observer.registry)
    PrometheusObserver()  # as a cell that is run again does


async def test_opentelemetry_is_told() -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    await watched(OpenTelemetryObserver(provider.get_meter("test")))
    data: Any = reader.get_metrics_data()
    (scope,) = data.resource_metrics[0].scope_metrics
    metrics = {metric.name: metric.data.data_points for metric in scope.metrics}
    provider.shutdown()
    assert metrics["rxcompact.received"][0].value == 5
    assert metrics["rxcompact.distinct"][0].value == 3
    outcomes = {point.attributes["outcome"]: point.value for point in metrics["rxcompact.outcomes"]}
    assert outcomes == {"published": 2, "rejected": 1}
    assert dict(metrics["rxcompact.retries"][0].attributes) == {"stage": "enrich", "error.type": "TransientError"}
    assert metrics["rxcompact.age"][0].count == 2
    await asyncio.sleep(0)
