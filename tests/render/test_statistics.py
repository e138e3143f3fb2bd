"""Statistics: every number of a run that is known beforehand."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import math
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from pipelines import simple_pipeline
from rich.console import Console

from rxcompact import Orchestrator
from rxcompact.commands.service import coloured
from rxcompact.errors import PermanentError, TransientError
from rxcompact.observers.histogram import AGES, Histogram, age_bounds
from rxcompact.observers.statistics import LETTERS, SAMPLES, Statistics
from rxcompact.render.snapshot import BINS, _age_bins, snapshot_svg


async def ticks(seconds: int, each: int = 10) -> AsyncIterator[Any]:
    """Ten events a second, of two keys."""
    for _ in range(seconds):
        for number in range(each):
            yield {"id": number % 2}
        await asyncio.sleep(1)


def run_of(source: Any, **options: Any) -> Orchestrator:
    settings: dict[str, Any] = {"timespan": 1, "max_age": 16, "batch_timespan": 0, "sink": lambda _: None}
    return Orchestrator(simple_pipeline(source=source, key_mapper="id", **(settings | options)))


async def test_rates_and_ratio() -> None:
    orchestrator = run_of(ticks(100))
    statistics = orchestrator.statistics
    await orchestrator.start()
    await asyncio.sleep(30.5)
    now = statistics.snapshot()
    assert now.rate.received == pytest.approx(10, rel=0.2)
    assert now.rate.published == pytest.approx(2, rel=0.2)
    assert now.dedup_ratio == 5
    assert now.rates[-1].end > 29
    await orchestrator.wait()
    await asyncio.sleep(500)
    over = statistics.snapshot()
    # the average of the whole run, which took as long as its events
    assert over.uptime == pytest.approx(100, abs=1.5)
    assert over.rate.received == pytest.approx(1000 / over.uptime)
    assert over.waiting == 0 and over.oldest is None


async def test_a_pause_is_an_average_and_no_peak() -> None:
    async def source() -> AsyncIterator[Any]:
        yield {"id": 1}
        await asyncio.sleep(50)
        yield {"id": 2}
        await asyncio.sleep(10)

    orchestrator = run_of(source())
    statistics = orchestrator.statistics
    async with orchestrator:
        await asyncio.sleep(55)
        # nobody looked, nothing happened: two events in 55 seconds, of which the last five saw one at most
        assert statistics.snapshot().rate.received <= 1 / 5
        assert max(rate.received for rate in statistics.snapshot().rates) <= 1


async def test_what_is_not_known_yet_is_a_dash_and_a_stop_makes_no_peak() -> None:
    orchestrator = run_of(ticks(100))
    idle = orchestrator.statistics.snapshot()
    assert (idle.rate, idle.oldest, idle.ages) == (None, None, {})
    assert "in               –, 0 received" in str(idle) and "age              –" in str(idle)  # noqa: RUF001
    await orchestrator.start()
    await asyncio.sleep(30.001)
    orchestrator.statistics.snapshot()
    await orchestrator.stop()
    rates = orchestrator.statistics.snapshot().rates
    assert max(rate.received for rate in rates) <= 20  # ten a second, and at most two seconds' in one
    assert rates[-1].end - rates[-1].start > 1


async def test_ages_against_their_limit() -> None:
    async def late(event: Any) -> Any:
        await asyncio.sleep(event["id"])
        return event

    ages = (0.6, 3.0, 7.0)  # of enrichment alone: windows close at once
    orchestrator = run_of([{"id": age} for age in ages], enricher=late)
    statistics = orchestrator.statistics
    await orchestrator.start()
    await orchestrator.wait()
    now = statistics.snapshot()
    found = [bound for bound, count in _age_bins(now) for _ in range(count)]
    # bounds are 16 s, and √2 times less each: the least above each age
    assert found == pytest.approx([0.5 * math.sqrt(2), 4.0, 8.0])
    assert now.ages["published"].most == pytest.approx(7.0, abs=0.01)
    assert now.ages["published"].percentile(50) == pytest.approx(3.0, rel=0.05)
    assert len(_age_bins(now)) == BINS + 1
    assert _age_bins(now)[-1][0] == math.inf


async def test_calls_that_wait_to_be_made_again() -> None:
    async def fails(event: Any) -> Any:
        raise TransientError

    orchestrator = run_of([{"id": key} for key in range(3)], enricher=fails, wait=tenacity.wait_fixed(5))
    statistics = orchestrator.statistics
    await orchestrator.start()
    await asyncio.sleep(2)
    now = statistics.snapshot()
    assert (now.waiting, now.retried) == (3, 3)
    assert now.oldest == pytest.approx(2, abs=0.1)
    await asyncio.sleep(5)
    assert statistics.snapshot().retried == 6
    await orchestrator.wait()
    end = statistics.snapshot()
    assert (end.waiting, end.account.expired) == (0, 3)
    assert end.letters[0].outcome == "expired"


async def test_a_call_that_a_drain_makes_again_at_once_waits_no_more() -> None:
    async def hangs_when_called_again(event: Any) -> Any:
        if next(calls):
            await asyncio.sleep(5)
        raise TransientError

    calls = itertools.count()
    orchestrator = run_of([{"id": 1}], enricher=hangs_when_called_again, wait=tenacity.wait_fixed(6))
    statistics = orchestrator.statistics
    await orchestrator.start()
    await asyncio.sleep(1)
    assert statistics.snapshot().waiting == 1
    stopping = asyncio.create_task(orchestrator.stop())
    await asyncio.sleep(1)
    now = statistics.snapshot()
    assert (now.state, now.account.in_flight, now.waiting) == ("draining", 1, 0)
    await stopping


async def test_dead_letters_in_short_without_what_may_be_secret() -> None:
    async def refuses(event: Any) -> Any:
        raise PermanentError(f"no {event['secret']}")

    events = [{"id": key, "secret": "hunter2"} for key in range(LETTERS + 3)]
    orchestrator = run_of(events, enricher=refuses)
    statistics = orchestrator.statistics
    await orchestrator.start()
    await orchestrator.wait()
    now = statistics.snapshot()
    assert len(now.letters) == LETTERS
    assert [(each.outcome, each.stage, each.key, each.reason, each.error, each.attempts) for each in now.letters] == [
        ("failed", "enrich", str(key), "permanent", "PermanentError", 1) for key in reversed(range(3, LETTERS + 3))
    ]
    bundle = now._repr_mimebundle_()
    assert "PermanentError" in bundle["text/html"] and "PermanentError" in bundle["text/plain"]
    assert "hunter2" not in str(bundle) + str(now) + repr(now)


def published(statistics: Statistics) -> int:
    ages = statistics.snapshot().ages.get("published")
    return sum(ages.counts) if ages else 0


async def test_a_new_start_begins_anew_and_a_restart_goes_on() -> None:
    orchestrator = run_of(ticks(50))
    statistics = orchestrator.statistics
    await orchestrator.start()
    await asyncio.sleep(10)
    before = published(statistics)
    assert before > 0
    await orchestrator.restart()
    now = statistics.snapshot()
    assert (published(statistics), now.restarts) == (before, 1)
    await orchestrator.stop()
    assert published(statistics) >= before
    await orchestrator.start()
    fresh = statistics.snapshot()
    assert (published(statistics), fresh.restarts, fresh.account.received, fresh.rates) == (0, 0, 0, ())
    await orchestrator.stop()


async def test_memory_is_bounded() -> None:
    orchestrator = run_of(ticks(2000, each=2))
    statistics = orchestrator.statistics
    await orchestrator.start()
    await orchestrator.wait()
    assert len(statistics.snapshot().rates) == SAMPLES - 1


async def test_it_goes_with_its_orchestrator() -> None:
    from weakref import ref

    found = ref(run_of([]).statistics)
    gc.collect()
    assert found() is None


# ── histograms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def true_percentile(ages: Sequence[float], share: int) -> float:
    return sorted(ages)[max(1, -(-len(ages) * share // 100)) - 1]


@given(
    st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=200),
    st.sampled_from([0, 1, 50, 90, 99, 100]),
    st.sampled_from([0.5, 60.0, 86_400.0, math.inf]),
)
def test_percentiles_are_right_within_a_bucket(ages: list[float], percent: int, max_age: float) -> None:
    histogram = Histogram(age_bounds(max_age))
    for age in ages:
        histogram.add(age)
    truth = true_percentile(ages, percent)
    assert truth * (1 - 1e-9) <= (histogram.percentile(percent) or 0) <= truth * 1.045
    assert sum(histogram.counts) == len(ages)
    assert histogram.total == pytest.approx(sum(ages))
    assert histogram.most == max(ages)
    for bound, count in histogram.cumulative([*AGES, min(max_age, 1e9)]):
        assert count == sum(age <= bound for age in ages) or bound == 1e9


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=200))
def test_ages_counted_from_births_are_those_counted_as_ages(ages: list[float]) -> None:
    by_age, by_birth = Histogram(age_bounds(60.0)), Histogram(age_bounds(60.0))
    for age in ages:
        by_age.add(age)
    by_birth.add_ages([1.7e9 - age for age in ages], 1.7e9)
    assert by_birth.counts == by_age.counts
    assert by_birth.total == pytest.approx(by_age.total, abs=1e-2)  # instants have a resolution
    assert by_birth.most == pytest.approx(by_age.most, abs=1e-6)
    for percent in (0, 50, 100):
        assert by_birth.percentile(percent) == pytest.approx(by_age.percentile(percent), rel=0.045, abs=1e-6)


def test_memory_of_a_histogram_does_not_grow_with_values() -> None:
    histogram = Histogram(age_bounds(300.0))
    rng = random.Random(1)
    for _ in range(50_000):
        histogram.add(rng.uniform(0, 86_400))
    histogram.add(-5.0)  # a clock that was set back
    assert len(histogram.counts) < 16 * 32
    assert sum(histogram.counts) == 50_001


def test_a_percentile_of_nothing_is_none() -> None:
    assert Histogram([1.0]).percentile(50) is None


async def test_causes_beyond_the_first_fifty_are_other() -> None:
    async def fails(event: Any) -> Any:
        raise type(f"Error{event['id']}", (PermanentError,), {"reason": f"reason {event['id']}"})

    orchestrator = run_of([{"id": key} for key in range(80)], enricher=fails)
    await orchestrator.start()
    await orchestrator.wait()
    causes = orchestrator.statistics.snapshot().dead_letters
    assert sum(causes.values()) == 80
    assert causes["failed", "enrich", "other"] == 30
    assert len(causes) == 51


# ── displays ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def texts(svg: str) -> str:
    return " | ".join(each.text or "" for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


async def test_it_can_be_shown_in_every_state() -> None:
    async def breaks(_: Any) -> Any:
        raise PermanentError("<b>&")

    orchestrator = run_of(ticks(5), enricher=breaks)
    statistics = orchestrator.statistics

    def shown() -> tuple[str, str, str]:
        now = statistics.snapshot()
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(coloured(now))
        return texts(snapshot_svg(now)), str(now), console.export_text()

    assert all("idle" in text for text in shown())
    await orchestrator.start()
    await asyncio.sleep(2.5)
    picture, text, terminal = shown()
    assert all("running, 2.5 s" in each for each in (picture, text, terminal))
    assert "failed 4" in picture and "failed 4" in text and "failed 4" in terminal
    assert "PermanentError" in picture
    await orchestrator.wait()
    assert all("stopped" in each for each in shown())
