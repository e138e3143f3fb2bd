"""Observers of any shape, and those that ship."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from typing import Any

import pytest
import reactivex as rx
from pipelines import simple_pipeline
from reactivex import Observer

from rxcompact import DeadLetter, Orchestrator, key_of
from rxcompact.errors import TransientError
from rxcompact.observers import OpenTelemetryObserver, ProgressObserver, PrometheusObserver
from rxcompact.signals import Account, BatchPublished, ObserverFailed, StateChanged, WindowClosed
from rxcompact.testing import START, SimulatedApi

EVENTS = [{"id": key} for key in ("a", "b", "a", "bad", "a")]

KEY = key_of("id", missing="reject")


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

    pipeline = simple_pipeline(
        source=EVENTS, key_mapper="id", timespan=5, enricher=lookup, sink=lambda _: None, max_age=60, batch_timespan=0
    )
    orchestrator = Orchestrator(pipeline)
    for observer in observers:
        orchestrator.attach(observer)
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


# ── extras ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_progress_bar_shows_received_events_and_closes_at_the_end() -> None:
    paper = io.StringIO()
    progress = ProgressObserver(total=len(EVENTS), file=paper, mininterval=0, unit_scale=False)
    await watched(progress)
    last = paper.getvalue().split("\r")[-1]
    assert "100%" in last
    assert "5/5" in last
    assert "distinct=3, published=2, retries=1, dead=1" in last
    assert progress.bar.disable  # tqdm's word for closed


def sums_of_prometheus(observer: PrometheusObserver) -> Counter[str]:
    found: Counter[str] = Counter()
    for family in observer.registry.collect():
        for sample in family.samples:
            found[sample.name.removeprefix("rxcompact_").removesuffix("_total")] += sample.value
    return found


def sums_of_opentelemetry(reader: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
        name = metric.name.removeprefix("rxcompact.").replace(".", "_")
        for point in metric.data.data_points:
            if hasattr(point, "count"):
                found[f"{name}_count"] += point.count
                found[f"{name}_sum"] += point.sum
            else:
                found[name] += point.value
    return found


async def test_sums_of_every_exporter_equal_the_account() -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    prometheus = PrometheusObserver()
    events: rx.Subject[Any] = rx.Subject()
    api = SimulatedApi(latency=0.5, error_rate=0.2, outages=[(START + 20, START + 40)], seed=1)

    async def lookup(event: Any) -> Any:
        if event["id"] == 13:
            raise KeyError("owner")
        return await api(event)

    orchestrator = Orchestrator(
        simple_pipeline(
            source=events,
            key_mapper=KEY,
            timespan=5,
            enricher=lookup,
            sink=lambda _: None,
            max_age=15,
            batch_timespan=1,
        )
    )
    orchestrator.attach(prometheus)
    orchestrator.attach(OpenTelemetryObserver(provider.get_meter("test")))
    seen: list[Account] = []

    def check() -> None:
        account = orchestrator.account
        seen.append(account)
        first, second = sums_of_prometheus(prometheus), sums_of_opentelemetry(reader)
        settled = account.distinct - account.in_flight
        for sums, age in ((first, "event_age_seconds_count"), (second, "event_age_count")):
            assert sums["received_events"] == account.received
            assert sums["rejected_events"] == account.rejected
            assert sums["duplicate_events"] == account.duplicates
            assert sums["events"] == settled == sums[age]
            assert sums["held_events"] == account.in_flight
            assert sums["batch_events_sum"] == account.published
            assert sums["state"] == 1
        assert first["retries"] == second["retries"] == orchestrator.statistics.retries

    check()
    async with orchestrator:
        for _ in range(50):
            for key in range(20):
                events.on_next({"id": key} if key else {"no": "key"})
            await asyncio.sleep(1)
            check()
    check()
    account = orchestrator.account
    assert min(account.rejected, account.duplicates, account.published, account.expired, account.failed) > 0
    assert max(each.in_flight for each in seen) > 0
    provider.shutdown()


async def test_prometheus_names_labels_and_bounds() -> None:
    import prometheus_client

    observer = PrometheusObserver()
    assert prometheus_client.generate_latest(observer.registry) == b""
    await watched(observer)

    def value(name: str, labels: dict[str, str] | None = None) -> float | None:
        return observer.registry.get_sample_value(name, {"pipeline": "default", **(labels or {})})

    assert value("rxcompact_windows_total", {"trigger": "completed"}) == 1
    assert value("rxcompact_retries_total", {"stage": "enrich", "reason": "transient"}) == 1
    labels = {"outcome": "failed", "stage": "enrich", "reason": "KeyError"}
    assert value("rxcompact_events_total", labels) == 1
    assert value("rxcompact_events_total", {"outcome": "published", "stage": "publish", "reason": ""}) == 2
    assert value("rxcompact_event_age_seconds_count", {"outcome": "published"}) == 2
    assert value("rxcompact_event_age_seconds_bucket", {"outcome": "published", "le": "60.0"}) == 2
    assert value("rxcompact_batch_events_bucket", {"stage": "publish", "le": "1.0"}) == 2
    assert value("rxcompact_state", {"state": "stopped"}) == 1
    assert value("rxcompact_state", {"state": "running"}) == 0
    assert value("rxcompact_max_age_seconds", {"stage": "enrich"}) == 60
    with pytest.raises(ValueError, match="Duplicated|already"):
        PrometheusObserver(observer.registry)
    PrometheusObserver()  # as a cell that is run again does


def test_a_scrape_may_come_from_another_thread() -> None:
    def scrapes() -> list[float]:
        return [sums_of_prometheus(observer)["received_events"] for _ in range(20)]

    async def main() -> None:  # virtual time knows one thread
        events: rx.Subject[Any] = rx.Subject()
        pipeline = simple_pipeline(source=events, key_mapper="id", timespan=1, sink=lambda _: None, max_age=60)
        async with Orchestrator(pipeline) as orchestrator:
            orchestrator.attach(observer)
            scraping = asyncio.create_task(asyncio.to_thread(scrapes))
            pushed = 0
            while not scraping.done():
                events.on_next({"id": pushed % 7})
                pushed += 1
                await asyncio.sleep(0)
        assert scraping.result() == sorted(scraping.result())
        assert 0 < scraping.result()[-1] <= pushed

    observer = PrometheusObserver()
    asyncio.run(main())


async def test_opentelemetry_names_attributes_and_units() -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    await watched(OpenTelemetryObserver(provider.get_meter("test")))
    data: Any = reader.get_metrics_data()
    (scope,) = data.resource_metrics[0].scope_metrics
    metrics = {metric.name: metric.data.data_points for metric in scope.metrics}
    units = {metric.name: metric.unit for metric in scope.metrics}
    provider.shutdown()
    assert metrics["rxcompact.received.events"][0].value == 5
    outcomes = {point.attributes["outcome"]: point.value for point in metrics["rxcompact.events"]}
    assert outcomes == {"published": 2, "failed": 1}
    labels = {"pipeline": "default", "stage": "enrich", "reason": "transient"}
    assert dict(metrics["rxcompact.retries"][0].attributes) == labels
    ages = {point.attributes["outcome"]: point.count for point in metrics["rxcompact.event.age"]}
    assert ages == {"published": 2, "failed": 1}
    assert (units["rxcompact.event.age"], units["rxcompact.events"]) == ("s", "{event}")
