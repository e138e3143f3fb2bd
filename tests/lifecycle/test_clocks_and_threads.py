"""The wall clock, timers, threads and OS signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import reactivex as rx
import tenacity
from loguru import logger
from orchestrators import ManualSource, events, orchestrated
from reactivex import operators as ops

from rxcompact.clock import LoopScheduler
from rxcompact.errors import TransientError
from rxcompact.testing import START, SimulatedApi

ASLEEP = 0.2
"""Seconds after which a loop that has nothing to do sleeps."""


async def test_jumps_of_the_wall_clock_lose_nothing_and_close_no_window() -> None:
    loop: Any = asyncio.get_running_loop()
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject, enricher=SimulatedApi(latency=3), batch_timespan=5)
    windows: list[Any] = []
    orchestrator.windows.subscribe(lambda window: windows.append((loop.time(), window.closed - window.opened)))
    await orchestrator.start()
    for n in range(30):
        subject.on_next({"id": n})
        loop.jump((-1) ** n * 10_000 * n)
        await asyncio.sleep(1)
    assert windows == [(at, pytest.approx(10)) for at in (10, 20, 30)]
    report = await orchestrator.stop()
    assert report.account.published == len(out) == 30


@pytest.mark.parametrize("hours", [-1000, -3, 3, 1000])
async def test_a_wall_clock_that_jumps_by_hours_makes_nothing_older(hours: int) -> None:
    loop: Any = asyncio.get_running_loop()
    source = ManualSource()
    calls: list[float] = []

    async def enrich(event: Any) -> Any:
        calls.append(loop.time())
        if len(calls) < 4:
            raise TransientError
        return event

    orchestrator, out = orchestrated(source, enricher=enrich, wait=tenacity.wait_fixed(4), batch_timespan=3)
    ages: list[Any] = []
    orchestrator.outcomes.subscribe(lambda outcome: ages.append((outcome.event.key, outcome.age)))
    await orchestrator.start()
    source.push(events("a"))
    for _ in range(30):  # in the window, in backoff, in the batch
        await asyncio.sleep(1)
        loop.jump(hours * 3600)
    assert calls == [pytest.approx(at) for at in (10, 14, 18, 22)]
    assert [(key, pytest.approx(25, abs=0.01)) for key in "a"] == ages
    assert [(c.first_seen, c.last_seen) for c in out] == [(START, START)]
    await orchestrator.stop()


@pytest.mark.parametrize("lateness", [None, 0])
@pytest.mark.parametrize("ahead", [3600, 86_400 + 7, 30 * 86_400, -120, -3 * 86_400])
async def test_l9_a_wall_clock_that_is_put_right_is_followed(ahead: float, lateness: float | None) -> None:
    loop: Any = asyncio.get_running_loop()
    loop.jump(ahead)
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject, time_mapper="ts", lateness=lateness)
    warnings: list[str] = []
    handler = logger.add(lambda message: warnings.append(message.record["message"]), level="WARNING")
    await orchestrator.start()
    wrong = orchestrator.account
    for second in range(60):
        if second == 20:
            wrong = orchestrator.account
            loop.jump(-ahead)
        subject.on_next({"id": second, "ts": START + second})
        await asyncio.sleep(1)
    report = await orchestrator.stop()
    logger.remove(handler)
    if abs(ahead) >= 3600:
        assert wrong.published == 0
        assert wrong.expired + wrong.rejected > 0  # an hour old, or days in the future
    assert {c.key for c in out} >= set(range(30, 60))
    assert report.account.published == len(out)
    step = f"the wall clock was set {'back' if ahead > 0 else 'forward'} by {abs(ahead)} s"
    assert [text for text in warnings if "wall clock" in text] == [step]


@pytest.mark.parametrize("steps", [[0.4, 0.4], [-0.9], [3600, -3600], [1.5, 1.5, 1.5], [-7200, 30, 86_400]])
async def test_l9_a_clock_that_is_set_while_events_are_held_ages_none_of_them(steps: list[float]) -> None:
    loop: Any = asyncio.get_running_loop()
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject, batch_timespan=20)
    ages: list[float | None] = []
    orchestrator.outcomes.subscribe(lambda outcome: ages.append(outcome.age))
    await orchestrator.start()
    subject.on_next({"id": 1})
    for step in steps:
        await asyncio.sleep(11)  # a window has closed
        loop.jump(step)
    await asyncio.sleep(60)
    await orchestrator.stop()
    assert [compacted.key for compacted in out] == [1]
    assert ages == [pytest.approx(30, abs=1e-3)]


async def test_an_event_whose_time_is_ahead_expires_after_its_age_all_the_same() -> None:
    def enrich(event: Any) -> Any:
        raise TransientError

    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, _ = orchestrated(subject, enricher=enrich, time_mapper="ts")
    ended: list[tuple[float, str]] = []
    orchestrator.outcomes.subscribe(lambda letter: ended.append((asyncio.get_running_loop().time(), letter.outcome)))
    await orchestrator.start()
    subject.on_next({"id": "a", "ts": START + 80_000})
    await asyncio.sleep(1000)
    assert ended == [(pytest.approx(10 + orchestrator.pipeline.max_age, abs=0.01), "expired")]
    await orchestrator.stop()


async def test_timers_of_a_source_run_on_the_loop() -> None:
    threads = set[str]()
    source = rx.interval(60.0).pipe(ops.take(5), ops.do_action(lambda _: threads.add(threading.current_thread().name)))
    orchestrator = orchestrated(source, key_mapper=str)[0]
    await orchestrator.start()
    report = await orchestrator.wait()
    assert (report.account.received, report.account.published) == (5, 5)
    assert threads == {threading.main_thread().name}


def test_a_source_with_timers_may_be_fed_by_another_thread() -> None:
    async def main() -> set[str]:
        subject: rx.Subject[Any] = rx.Subject()
        threads = set[str]()
        source = subject.pipe(ops.delay(0.05), ops.do_action(lambda _: threads.add(threading.current_thread().name)))
        orchestrator = orchestrated(source, timespan=0.05)[0]
        came: asyncio.Queue[Any] = asyncio.Queue()
        orchestrator.windows.subscribe(lambda window: [came.put_nowait(each.key) for each in window])
        async with orchestrator:
            thread = threading.Timer(ASLEEP, lambda: [subject.on_next({"id": n}) for n in range(3)])
            thread.start()
            # on a busy machine they may come in several windows
            assert {await asyncio.wait_for(came.get(), 30) for _ in range(3)} == {0, 1, 2}
            thread.join()
        return threads

    assert asyncio.run(main()) == {threading.main_thread().name}


def test_the_loop_is_woken_by_a_timer_of_another_thread_and_forgets_one_that_is_disposed_of() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        scheduler = LoopScheduler(loop)
        came: list[str] = []
        done = loop.create_future()

        def schedule() -> None:
            scheduler.schedule_relative(0.05, lambda *_: came.append("never")).dispose()
            scheduler.schedule(lambda *_: came.append("soon"))
            scheduler.schedule_relative(0.1, lambda *_: done.set_result(None))

        threading.Timer(ASLEEP, schedule).start()
        await asyncio.wait_for(done, 30)
        return came

    began = time.monotonic()
    assert asyncio.run(main()) == ["soon"]
    assert time.monotonic() - began < 20


def test_events_from_other_threads_are_all_taken() -> None:
    async def main() -> None:
        subject: rx.Subject[Any] = rx.Subject()
        orchestrator, out = orchestrated(subject, timespan=0.02, batch_timespan=0.01)

        def push(first: int) -> None:
            for n in range(first, first + 500):
                subject.on_next({"id": n})

        async with orchestrator:
            await asyncio.gather(*(asyncio.to_thread(push, first) for first in range(0, 2000, 500)))
        assert sorted(c.key for c in out) == list(range(2000))
        assert orchestrator.account.received == 2000

    asyncio.run(main())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_drains(name: str) -> None:
    program = """
import asyncio, os, signal, sys
import reactivex as rx
from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo

async def main():
    subject = rx.Subject()
    sink = lambda batch: print([c.key for c in batch])
    pipeline = Pipeline(subject, rxo.compact(1000, key_mapper="id"), rxo.publish(sink), max_age=2000)
    orchestrator = Orchestrator(pipeline)
    await orchestrator.start()
    subject.on_next({"id": "held"})
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    orchestrator.stop_on()
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    print((await orchestrator.wait()).account.published)
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("['held']\n1\n", "")


def test_a_second_signal_cuts_the_drain_short() -> None:
    async def main() -> tuple[Any, float]:
        subject: rx.Subject[Any] = rx.Subject()

        async def hangs(event: Any) -> Any:
            await asyncio.get_running_loop().create_future()

        orchestrator, _ = orchestrated(subject, enricher=hangs)
        orchestrator.stop_on()
        await orchestrator.start()
        subject.on_next({"id": "held"})
        began = asyncio.get_running_loop().time()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            while orchestrator.state == "running":
                await asyncio.sleep(0)
        report = await orchestrator.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)
        return report, asyncio.get_running_loop().time() - began

    report, took = asyncio.run(main())
    assert (report.account.abandoned, report.in_time) == (1, False)
    assert took < 5


def test_a_signal_stops_all_orchestrators_and_its_handlers_are_removed_after() -> None:
    before = signal.getsignal(signal.SIGINT)

    async def main() -> None:
        both = [orchestrated(rx.Subject())[0] for _ in range(2)]
        for orchestrator in both:
            orchestrator.stop_on(signal.SIGTERM, signal.SIGINT)
            await orchestrator.start()
        os.kill(os.getpid(), signal.SIGTERM)
        for orchestrator in both:
            assert (await orchestrator.wait()).in_time
        for number in (signal.SIGTERM, signal.SIGINT):
            assert not asyncio.get_running_loop().remove_signal_handler(number), "the handler is still there"

    asyncio.run(main())
    assert signal.getsignal(signal.SIGINT) is before
