"""Signals of calls and ticks, and the metrics that come of calls, keys and the loop, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
import reactivex as rx
import tenacity
from pipelines import simple_pipeline

from rxcompact import CallEnded, Orchestrator, Pipeline, Signal, Tick, key_of
from rxcompact import operators as rxo
from rxcompact.errors import PermanentError, RateLimitedError, TransientError
from rxcompact.observers import PrometheusObserver
from rxcompact.observers.metrics import exposition
from rxcompact.observers.statistics import REASONS
from rxcompact.testing import START


class Calls:
    """An observer that keeps what it is notified of."""

    def __init__(self) -> None:
        self.calls: list[CallEnded] = []
        self.ticks: list[Tick] = []
        self.signals: list[Signal] = []

    def on_call(self, ended: CallEnded) -> None:
        self.calls.append(ended)

    def on_tick(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def on_signal(self, signal: Signal) -> None:
        self.signals.append(signal)


class Api:
    """An enricher of two services, that fails in each way."""

    def target(self, event: Any) -> str:
        return f"{event['host']}:80"

    async def enrich(self, event: Any) -> Any:
        await asyncio.sleep(event["takes"])
        if event["fails"] is not None:
            raise event["fails"]
        return event


EVENTS = [
    {"id": 1, "host": "a", "takes": 0.02, "fails": None},
    {"id": 2, "host": "a", "takes": 0.3, "fails": PermanentError("no")},
    {"id": 3, "host": "b", "takes": 0.04, "fails": TransientError("no")},
    {"id": 4, "host": "b", "takes": 0.04, "fails": RateLimitedError(retry_after=1)},
    {"id": 5, "host": "b", "takes": 9.0, "fails": None},
]
EXPECTED = {
    ("a:80", "ok", 0.02),
    ("a:80", "permanent", 0.3),
    ("b:80", "transient", 0.04),
    ("b:80", "rate_limited", 0.04),
    ("b:80", "timeout", 1.0),
}


async def test_each_call_ends_with_its_outcome_and_they_are_counted_by_target() -> None:
    pipeline = Pipeline(
        EVENTS,
        rxo.compact(1, key_mapper="id"),
        rxo.enrich(Api(), timeout=1, wait=tenacity.wait_fixed(1.5)),
        rxo.publish(lambda _: None, timespan=0),
        max_age=3,
        name="alerts",
    )
    orchestrator, observer = Orchestrator(pipeline), Calls()
    orchestrator.attach(observer)
    async with orchestrator:
        await orchestrator.wait()
    calls = [each for each in observer.calls if each.stage == "enrich"]
    found = {(each.target, each.outcome, round(each.duration, 2)) for each in calls}
    assert found >= EXPECTED
    assert {outcome for _, outcome, _ in found - EXPECTED} <= {"cancelled", "timeout"}  # the event expired meanwhile
    assert {each.size for each in calls} == {1}
    assert [each.attempt for each in calls if each.outcome == "ok"] == [1]
    assert {type(each.error) for each in calls if each.outcome == "timeout"} == {TimeoutError}
    now = orchestrator.statistics.snapshot()
    counted = {cause: sum(times.counts) for cause, times in now.calls.items()}
    assert counted == Counter((each.stage, each.target, each.outcome) for each in observer.calls)
    assert now.calls["enrich", "a:80", "permanent"].total == pytest.approx(0.3)
    every = [*observer.calls, *observer.signals]
    assert {each.pipeline for each in every} == {"alerts"}
    assert all(START <= each.at <= START + 5 for each in every)


async def test_ticks_come_each_second_of_a_run_while_somebody_listens() -> None:
    source: rx.Subject[Any] = rx.Subject()
    orchestrator, observer = (
        Orchestrator(simple_pipeline(source=source, key_mapper="id", timespan=1, sink=lambda _: None, max_age=60)),
        Calls(),
    )
    attached = orchestrator.attach(observer)
    await orchestrator.start()
    await asyncio.sleep(3.5)
    assert [round(tick.at - START) for tick in observer.ticks] == [1, 2, 3]
    asyncio.get_running_loop().call_later(0.4, time.sleep, 0.01)  # virtual time stands still meanwhile
    attached.dispose()
    await asyncio.sleep(10)
    assert len(observer.ticks) == 3
    assert orchestrator._ticker is None
    orchestrator.attach(observer)  # in the middle of a run
    await asyncio.sleep(2.5)
    assert len(observer.ticks) == 5
    await orchestrator.stop()
    await asyncio.sleep(10)
    assert len(observer.ticks) == 5


def test_the_lag_of_the_loop_is_the_most_of_the_last_ticks() -> None:
    async def main() -> None:
        orchestrator = Orchestrator(
            simple_pipeline(source=rx.Subject(), key_mapper="id", timespan=1, sink=lambda _: None, max_age=60)
        )
        assert orchestrator.statistics.snapshot().loop_lag is None
        orchestrator.attach(PrometheusObserver())
        async with orchestrator:
            await asyncio.sleep(0.5)
            time.sleep(0.8)  # past the first tick
            while orchestrator.statistics.snapshot().loop_lag is None:
                await asyncio.sleep(0.01)
            assert 0.2 < orchestrator.statistics.snapshot().loop_lag < 60

    asyncio.run(main())


async def test_slots_lookups_states_keys_and_exemplars() -> None:
    release, cache = asyncio.Event(), {"known": {"id": "known"}}

    async def lookup(event: Any) -> Any:
        await release.wait()
        return event

    source: rx.Subject[Any] = rx.Subject()
    pipeline = Pipeline(
        source,
        rxo.compact(1, key_mapper=key_of("id")),
        rxo.enrich(lookup, max_concurrent=2, cache=cache, timeout=None, merge=lambda event, _: event),
        rxo.publish(lambda _: None, timespan=0),
        max_age=60,
    )
    observer = PrometheusObserver()
    orchestrator = Orchestrator(pipeline)
    orchestrator.attach(observer)

    def value(name: str, **labels: str) -> float | None:
        return observer.registry.get_sample_value(f"rxcompact_{name}", {"pipeline": "default", **labels})

    async with orchestrator:
        for each in ("a", "a", "a", "b", "c", "known", None):
            source.on_next({"id": each} if each else {})
        await asyncio.sleep(1.5)
        source.on_next({"id": "a"})  # shares the call for the first
        await asyncio.sleep(1)
        source.on_next({"id": "d"})
        await asyncio.sleep(0.01)
        assert value("held_events", stage="compact", state="open") == 1
        assert value("held_events", stage="enrich", state="calling") == 2
        assert value("held_events", stage="enrich", state="waiting") == 3
        assert value("call_slots", stage="enrich", state="busy") == 2
        assert value("call_slots", stage="enrich", state="free") == 0
        assert value("lookups_total", stage="enrich", result="call") == 4
        assert value("lookups_total", stage="enrich", result="cache") == 1
        assert value("lookups_total", stage="enrich", result="shared") == 1
        assert value("null_key_events_total") == 1
        assert value("hottest_key_ratio") == pytest.approx((3 + 1) / (7 + 1))
        assert value("max_age_seconds", stage="compact") == 60
        assert value("event_loop_lag_seconds") is not None
        release.set()
    statistics = orchestrator.statistics
    statistics.on_call("enrich", "", "ok", 0.7, "a" * 32)
    text, kind = exposition(statistics.snapshot(), "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    exemplar = f'# {{trace_id="{"a" * 32}"}} 0.7'.encode()
    assert [line for line in text.splitlines() if exemplar in line][0].startswith(
        b"rxcompact_call_duration_seconds_bucket"
    )
    assert text.endswith(b"# EOF\n")
    plain, kind = exposition(statistics.snapshot(), "text/plain")
    assert kind.startswith("text/plain") and b"trace_id" not in plain
    assert b"rxcompact_events_created" not in plain


async def test_targets_beyond_the_first_fifty_are_other() -> None:
    class Many(Api):
        def target(self, event: Any) -> str:
            return f"{event['id']}:80"

    events = [{"id": number, "takes": 0, "fails": None} for number in range(80)]
    orchestrator = Orchestrator(
        simple_pipeline(source=events, key_mapper="id", enricher=Many(), timespan=1, sink=lambda _: None, max_age=60)
    )
    await orchestrator.start()
    await orchestrator.wait()
    calls = orchestrator.statistics.snapshot().calls
    assert len(calls) <= REASONS + 2
    assert sum(calls["enrich", "other", "ok"].counts) == 80 - REASONS
