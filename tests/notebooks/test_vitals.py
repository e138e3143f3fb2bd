"""Vitals: every number of a run that is known beforehand."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import math
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import tenacity
from rich.console import Console

from rxcompact import Orchestrator, Pipeline
from rxcompact.commands.live import table
from rxcompact.errors import PermanentError, TransientError
from rxcompact.observers import Vitals
from rxcompact.observers.vitals import AGES, LETTERS, SAMPLES
from rxcompact.render.panel import panel
from rxcompact.render.vitals import ages_text, vitals_title


async def ticks(seconds: int, each: int = 10) -> AsyncIterator[Any]:
    """Ten events a second, of two keys."""
    for _ in range(seconds):
        for number in range(each):
            yield {"id": number % 2}
        await asyncio.sleep(1)


def run_of(source: Any, **options: Any) -> Orchestrator:
    settings: dict[str, Any] = {"timespan": 1, "max_age": 16, "batch_timespan": 0, "sink": lambda _: None}
    return Orchestrator(Pipeline(source=source, key_mapper="id", **(settings | options)))


async def test_rates_and_ratio() -> None:
    orchestrator = run_of(ticks(100))
    vitals = Vitals.of(orchestrator)
    await orchestrator.start()
    await asyncio.sleep(30.5)
    now = vitals.snapshot()
    assert now.rate.received == pytest.approx(10, rel=0.2)
    assert now.rate.published == pytest.approx(2, rel=0.2)
    assert now.dedup_ratio == 5
    assert now.rates[-1].end > 29
    await orchestrator.wait()
    await asyncio.sleep(500)
    over = vitals.snapshot()
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
    vitals = Vitals.of(orchestrator)
    async with orchestrator:
        await asyncio.sleep(55)
        # nobody looked, nothing happened: two events in 55 seconds, of which the last five saw one at most
        assert vitals.snapshot().rate.received <= 1 / 5
        assert max(rate.received for rate in vitals.snapshot().rates) <= 1


async def test_ages_against_their_limit() -> None:
    async def late(event: Any) -> Any:
        await asyncio.sleep(event["id"])
        return event

    ages = (0.6, 3.0, 7.0)  # of enrichment alone: windows close at once
    orchestrator = run_of([{"id": age} for age in ages], enricher=late)
    vitals = Vitals.of(orchestrator)
    await orchestrator.start()
    await orchestrator.wait()
    now = vitals.snapshot()
    found = [bound for bound, count in now.histogram.items() for _ in range(count)]
    # bounds are 16 s, and √2 times less each: the least above each age
    assert found == pytest.approx([0.5 * math.sqrt(2), 4.0, 8.0])
    assert now.ages.most == pytest.approx(7.0, abs=0.01)
    assert now.ages.p50 == pytest.approx(3.0, rel=0.05)
    assert len(now.histogram) == AGES + 1
    assert max(now.histogram) == math.inf


async def test_calls_that_wait_to_be_made_again() -> None:
    async def fails(event: Any) -> Any:
        raise TransientError

    orchestrator = run_of([{"id": key} for key in range(3)], enricher=fails, wait=tenacity.wait_fixed(5))
    vitals = Vitals.of(orchestrator)
    await orchestrator.start()
    await asyncio.sleep(2)
    now = vitals.snapshot()
    assert (now.waiting, now.retries) == (3, 3)
    assert now.oldest == pytest.approx(2, abs=0.1)
    await asyncio.sleep(5)
    assert vitals.snapshot().retries == 6
    await orchestrator.wait()
    end = vitals.snapshot()
    assert (end.waiting, end.account.expired) == (0, 3)
    assert end.letters[0].outcome == "expired"


async def test_a_call_that_a_drain_makes_again_at_once_waits_no_more() -> None:
    async def hangs_when_called_again(event: Any) -> Any:
        if next(calls):
            await asyncio.sleep(5)
        raise TransientError

    calls = itertools.count()
    orchestrator = run_of([{"id": 1}], enricher=hangs_when_called_again, wait=tenacity.wait_fixed(6))
    vitals = Vitals.of(orchestrator)
    await orchestrator.start()
    await asyncio.sleep(1)
    assert vitals.snapshot().waiting == 1
    stopping = asyncio.create_task(orchestrator.stop())
    await asyncio.sleep(1)
    now = vitals.snapshot()
    assert (now.state, now.account.in_flight, now.waiting) == ("draining", 1, 0)
    await stopping


async def test_dead_letters_in_short_without_what_may_be_secret() -> None:
    async def refuses(event: Any) -> Any:
        raise PermanentError(f"no {event['secret']}")

    events = [{"id": key, "secret": "hunter2"} for key in range(LETTERS + 3)]
    orchestrator = run_of(events, enricher=refuses)
    vitals = Vitals.of(orchestrator)
    await orchestrator.start()
    await orchestrator.wait()
    now = vitals.snapshot()
    assert len(now.letters) == LETTERS
    assert all(letter[:5] == ("rejected", "enrich", "permanent", "PermanentError", 1) for letter in now.letters)
    bundle = now._repr_mimebundle_()
    assert "PermanentError" in bundle["text/html"] and "PermanentError" in bundle["text/plain"]
    assert "hunter2" not in str(bundle) + str(now) + repr(now)


async def test_whoever_asks_gets_the_same_and_it_is_attached_once() -> None:
    orchestrator = run_of([{"id": 1}, {"id": 1}])
    vitals = Vitals.of(orchestrator)
    assert Vitals.of(orchestrator) is vitals
    await orchestrator.start()
    await orchestrator.wait()
    assert sum(vitals.snapshot().histogram.values()) == 1  # told twice it would be two
    assert Vitals.of(run_of([])) is not vitals


async def test_a_new_start_begins_anew_and_a_restart_goes_on() -> None:
    orchestrator = run_of(ticks(50))
    vitals = Vitals.of(orchestrator)
    await orchestrator.start()
    await asyncio.sleep(10)
    before = sum(vitals.snapshot().histogram.values())
    assert before > 0
    await orchestrator.restart()
    now = vitals.snapshot()
    assert (sum(now.histogram.values()), now.restarts) == (before, 1)
    await orchestrator.stop()
    assert sum(vitals.snapshot().histogram.values()) >= before
    await orchestrator.start()
    fresh = vitals.snapshot()
    assert (sum(fresh.histogram.values()), fresh.restarts, fresh.account.received, fresh.rates) == (0, 0, 0, ())
    await orchestrator.stop()


async def test_memory_is_bounded() -> None:
    orchestrator = run_of(ticks(2000, each=2))
    vitals = Vitals.of(orchestrator)
    await orchestrator.start()
    await orchestrator.wait()
    assert len(vitals.snapshot().rates) == SAMPLES - 1


async def test_it_goes_with_its_orchestrator() -> None:
    from weakref import ref

    found = ref(Vitals.of(run_of([])))
    gc.collect()
    assert found() is None


def texts(svg: str) -> str:
    return " | ".join(each.text or "" for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


async def test_it_can_be_shown_in_every_state() -> None:
    async def breaks(_: Any) -> Any:
        raise PermanentError("<b>&")

    orchestrator = run_of(ticks(5), enricher=breaks)
    vitals = Vitals.of(orchestrator)

    def shown() -> tuple[str, str, str]:
        now = vitals.snapshot()
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(table(now))
        return texts(panel(now, vitals_title(now), ages_text(now.ages))), str(now), console.export_text()

    assert all("idle" in text for text in shown())
    await orchestrator.start()
    await asyncio.sleep(2.5)
    picture, text, terminal = shown()
    assert all("running, 2.5 s" in each for each in (picture, text, terminal))
    assert "rejected 4" in picture and "rejected 4" in text and "rejected 4" in terminal
    assert "PermanentError" in picture
    await orchestrator.wait()
    assert all("stopped" in each for each in shown())
