"""The orchestrator: promises 13 to 19, in virtual time where something waits."""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import reactivex as rx
import tenacity
from loguru import logger

from rxcompact import Counters, LogObserver, Orchestrator, Pipeline
from rxcompact.errors import NoRoomError, TransientError
from rxcompact.signals import ObserverFailed, SourceFailed
from rxcompact.testing import START, SimulatedApi


def orchestrated(source: Any, sink: Any = None, **options: Any) -> tuple[Orchestrator, list[Any]]:
    out: list[Any] = []
    settings = {"key_mapper": "id", "timespan": 10, "max_age": 60, "batch_timespan": 1} | options
    return Orchestrator(Pipeline(source=source, sink=sink or out.extend, **settings)), out


def events(*keys: Any) -> list[dict[str, Any]]:
    return [{"id": key} for key in keys]


async def test_a_source_that_completes_ends_it_with_everything_published() -> None:
    orchestrator, out = orchestrated(events("a", "b", "a"), enricher=SimulatedApi())
    states: list[str] = []
    orchestrator.states.subscribe(states.append)
    await orchestrator.start()
    report = await orchestrator.wait()
    assert states == ["idle", "running", "draining", "stopped"]
    assert [(c.key, c.count) for c in out] == [("a", 2), ("b", 1)]
    assert (report.account.received, report.account.published, report.in_time) == (3, 2, True)
    late: list[str] = []
    orchestrator.states.subscribe(late.append)
    assert late == ["stopped"]


async def test_the_restart_that_lost_the_go_services_events_in_flight_loses_none_of_ours() -> None:
    loop: Any = asyncio.get_running_loop()
    subject: rx.Subject[Any] = rx.Subject()
    api = SimulatedApi(latency=0.1, outages=[(START + 9, START + 30)])
    downs = [0.0, 33.0]

    async def sink(batch: Any) -> None:
        if downs[0] <= loop.time() < downs[1]:
            raise TransientError
        out.extend(batch)

    orchestrator, out = orchestrated(subject, sink, enricher=api, wait=tenacity.wait_fixed(3))
    await orchestrator.start()
    for n in range(40):  # windows open, retries waiting, batches unpublished: at each of these a restart
        subject.on_next({"id": n % 7, "n": n})
        await asyncio.sleep(1)
        await orchestrator.restart()
        assert orchestrator.state == "running"
    report = await orchestrator.stop()
    assert report.account.received == 40
    assert report.account.published == report.account.distinct == len(out)
    assert sum(c.count for c in out) == 40


async def test_start_stop_and_restart_may_be_called_at_once_and_again() -> None:
    for calls in itertools.product(("start", "stop", "restart"), repeat=3):
        orchestrator, _ = orchestrated(rx.Subject())
        for running in (False, True):
            if running:
                await orchestrator.start()
            await asyncio.gather(*(getattr(orchestrator, call)() for call in calls))
            await orchestrator.stop()
            assert orchestrator.state == "stopped" or calls == ("stop",) * 3
            assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_sources_and_sinks_may_be_what_their_meaning_is_clear_of() -> None:
    async def generator() -> AsyncIterator[Any]:
        for event in events("a", "b"):
            yield event

    seen: list[Any] = []
    subject: rx.Subject[Any] = rx.Subject()
    subject.subscribe(lambda compacted: seen.append(compacted.key))

    async def coroutine(batch: Any) -> None:
        seen.extend(c.key for c in batch)

    sources = (events("a", "b"), iter(events("a", "b")), generator(), rx.from_iterable(events("a", "b")))
    for source, sink in itertools.product(
        sources[:1], (subject, coroutine, lambda batch: seen.extend(c[0] for c in batch))
    ):
        seen.clear()
        orchestrator, _ = orchestrated(source, sink)
        await orchestrator.start()
        await orchestrator.wait()
        assert seen == ["a", "b"]
    for source in sources[1:]:
        orchestrator, out = orchestrated(source)
        await orchestrator.start()
        await orchestrator.wait()
        assert [c.key for c in out] == ["a", "b"]


async def test_stop_closes_the_open_window_and_cuts_waits_short() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    api = SimulatedApi(latency=0.1, outages=[(START, START + 12)])
    orchestrator, out = orchestrated(subject, enricher=api, wait=tenacity.wait_fixed(25))
    windows: list[Any] = []
    orchestrator.windows.subscribe(windows.append)
    await orchestrator.start()
    subject.on_next({"id": "waits"})
    await asyncio.sleep(13)
    subject.on_next({"id": "open"})
    report, again = await asyncio.gather(orchestrator.stop(), orchestrator.stop(5))
    assert report is again
    assert [window.trigger for window in windows] == ["time", "drain"]
    assert sorted(c.key for c in out) == ["open", "waits"]
    assert asyncio.get_running_loop().time() == pytest.approx(13.1, abs=0.05)
    await orchestrator.start()
    assert orchestrator.account.received == 0
    await orchestrator.stop()


async def test_stop_returns_by_its_deadline_whatever_a_users_coroutine_does() -> None:
    release = asyncio.Event()

    async def stubborn(event: Any) -> Any:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return event

    loop = asyncio.get_running_loop()
    for part in ("enricher", "sink"):
        release.clear()
        orchestrator, _ = orchestrated(events("a", "b"), **{part: stubborn})
        await orchestrator.start()
        await asyncio.sleep(5)
        began = loop.time()
        report = await orchestrator.stop(3)
        assert loop.time() - began <= 3
        assert not report.in_time
        assert (report.account.abandoned, report.account.in_flight) == (2, 0)
        release.set()
        await asyncio.sleep(1)


class Mortal:
    """A source that dies after each event, or at once."""

    def __init__(self, lives: list[float]) -> None:
        self.lives = lives
        self.born: list[float] = []

    def stream(self, _: Any) -> Any:
        self.born.append(asyncio.get_running_loop().time())
        life = self.lives.pop(0) if self.lives else None
        if life is None:
            return rx.never()
        if life == 0:
            raise OSError("cannot start")
        return rx.of([{"id": len(self.born)}]).pipe(
            rx.operators.concat(rx.timer(life).pipe(rx.operators.flat_map(rx.throw(OSError("died")))))
        )


async def test_a_source_that_dies_is_subscribed_to_again_and_what_came_stays() -> None:
    from rxcompact.clock import LoopScheduler

    timer = rx.timer
    scheduler = LoopScheduler(asyncio.get_running_loop())
    rx.timer = lambda life: timer(life, scheduler=scheduler)  # type: ignore[assignment]
    try:
        source = Mortal([1, 0, 1, 100, 1])
        pipeline = Pipeline(source=source, key_mapper="id", timespan=1000, sink=lambda _: None, max_age=5000)
        orchestrator = Orchestrator(pipeline, wait=tenacity.wait_incrementing(2, 2), healthy_after=60)
        failures: list[SourceFailed] = []
        orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, SourceFailed) else None)
        await orchestrator.start()
        await asyncio.sleep(500)
    finally:
        rx.timer = timer
    assert [(each.failures, each.wait) for each in failures] == [(1, 2), (2, 4), (3, 6), (1, 2), (2, 4)]
    assert source.born == [pytest.approx(at, abs=0.01) for at in (0, 3, 7, 14, 116, 121)]
    assert orchestrator.account.in_flight == 4
    assert (await orchestrator.stop()).account.published == 4


async def test_no_room_under_the_policy_error_is_said_and_loses_nothing_held() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, _ = orchestrated(subject, max_in_flight=2, overflow="error")
    await orchestrator.start()
    for key in "abc":
        subject.on_next({"id": key})
    with pytest.raises(NoRoomError):
        await orchestrator.wait()
    assert orchestrator.state == "failed"
    assert orchestrator.account.published == 2


async def test_an_iterable_is_not_pulled_beyond_what_there_is_room_for() -> None:
    pulled = 0
    stuck = asyncio.Event()

    def endless() -> Any:
        nonlocal pulled
        for pulled in range(1, 201):
            yield {"id": pulled}

    async def sink(batch: Any) -> None:
        await stuck.wait()

    orchestrator, _ = orchestrated(endless(), sink, max_in_flight=20, timespan=1, batch_count=5, max_age=1000)
    await orchestrator.start()
    await asyncio.sleep(25)
    assert pulled == orchestrator.account.in_flight == 20
    stuck.set()
    report = await orchestrator.wait()
    assert report.account.published == 200


async def test_a_bad_observer_is_reported_and_detached_and_nobody_else_notices() -> None:
    async def source() -> AsyncIterator[Any]:
        for n in range(6):
            yield {"id": n}
            await asyncio.sleep(20)

    orchestrator, out = orchestrated(source())
    good: list[Any] = []
    failures: list[ObserverFailed] = []
    calls: list[str] = []

    def raises(_: Any) -> None:
        calls.append("raises")
        raise RuntimeError("observer")

    def cancels(_: Any) -> None:
        calls.append("cancels")
        raise asyncio.CancelledError

    for observer in (raises, cancels, good.append):
        orchestrator.windows.subscribe(observer)
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, ObserverFailed) else None)
    await orchestrator.start()
    await asyncio.sleep(25)
    visitor: list[Any] = []
    visit = orchestrator.windows.subscribe(visitor.append)
    await asyncio.sleep(20)
    visit.dispose()
    await orchestrator.wait()
    assert len(good) == len(out) == 6
    assert len(visitor) == 1
    assert calls == ["raises", "cancels"] * 3
    assert [(each.failures, each.detached) for each in failures] == [(n, n == 3) for n in (1, 1, 2, 2, 3, 3)]
    assert "raises" in failures[0].observer


async def test_the_log_has_no_bodies_unless_asked_for() -> None:
    subject: rx.Subject[Any] = rx.Subject()

    async def refuse(event: Any) -> Any:
        raise ValueError(f"secret {event}")

    for bodies in (False, True):
        lines: list[str] = []
        sink = logger.add(lines.append, level="DEBUG")
        logger.enable("rxcompact")
        try:
            orchestrator, _ = orchestrated(subject, enricher=refuse)
            orchestrator.attach(LogObserver(bodies=bodies))
            counters = Counters()
            orchestrator.attach(counters)
            await orchestrator.start()
            subject.on_next({"id": "secret {0}"})
            await orchestrator.stop()
        finally:
            logger.disable("rxcompact")
            logger.remove(sink)
        text = "".join(lines)
        assert "rejected at enrich: ValueError" in text
        assert ("secret {0}" in text) == bodies
        assert counters.counts["rejected"] == 1


async def test_showing_it_changes_nothing_in_any_state() -> None:
    orchestrator, _ = orchestrated(rx.Subject())
    assert repr(orchestrator).startswith("<Orchestrator idle: received 0")
    await orchestrator.start()
    assert repr(orchestrator).startswith("<Orchestrator running")
    await orchestrator.stop()
    assert repr(orchestrator).startswith("<Orchestrator stopped")


async def test_jumps_of_the_wall_clock_lose_nothing_and_close_no_window() -> None:
    loop: Any = asyncio.get_running_loop()
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject, enricher=SimulatedApi(latency=3), batch_timespan=5)
    windows: list[Any] = []
    orchestrator.windows.subscribe(windows.append)
    await orchestrator.start()
    for n in range(30):
        subject.on_next({"id": n})
        loop.jump((-1) ** n * 10_000 * n)
        await asyncio.sleep(1)
    assert [window.closed - START for window in windows] == [10, 20, 30]
    report = await orchestrator.stop()
    assert report.account.published == len(out) == 30


def test_nothing_is_left_running() -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        async with orchestrated(events(*range(1000)), enricher=lambda event: event, timespan=0.05)[0] as orchestrator:
            await asyncio.sleep(0.2)
            assert orchestrator.account.received == 1000
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert set(threading.enumerate()) == before


def test_one_that_is_forgotten_while_it_runs_warns() -> None:
    async def main() -> None:
        orchestrator, _ = orchestrated(rx.Subject())
        await orchestrator.start()

    with pytest.warns(ResourceWarning, match="was never stopped"):
        asyncio.run(main())
        gc.collect()


def test_a_signal_drains_it() -> None:
    program = """
import asyncio, os, signal
import reactivex as rx
from rxcompact import Orchestrator, Pipeline

async def main():
    subject = rx.Subject()
    sink = lambda batch: print([c.key for c in batch])
    orchestrator = Orchestrator(Pipeline(source=subject, key_mapper="id", timespan=1000, sink=sink, max_age=60))
    orchestrator.stop_on()
    await orchestrator.start()
    subject.on_next({"id": "held"})
    os.kill(os.getpid(), signal.SIGTERM)
    print((await orchestrator.wait()).account.published)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("['held']\n1\n", "")


REPLAYED = """
import asyncio, random
from rxcompact import Orchestrator, Pipeline
from rxcompact.testing import START, SimulatedApi, run

async def main():
    async def source():
        for n in range(300):
            yield {"id": f"k{n * 7919 % 23}", "n": n}
            await asyncio.sleep(0.2)
    api = SimulatedApi(latency=(0.01, 2), error_rate=0.3, outages=[(START + 20, START + 40)], rate=5, seed=3)
    pipeline = Pipeline(source=source(), key_mapper="id", timespan=2, sink=lambda batch: None, enricher=api, max_age=15)
    orchestrator = Orchestrator(pipeline)
    orchestrator.signals.subscribe(print)
    orchestrator.outcomes.subscribe(print)
    await orchestrator.start()
    print(await orchestrator.wait())

run(main)
"""


def test_a_whole_pipeline_replays_to_the_byte() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", REPLAYED], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, timeout=60
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"Published(") > 50
    assert b"outcome='expired'" in outputs[0]
    assert b"RetryScheduled(" in outputs[0]
