"""The orchestrator: promises 13 to 19, in virtual time where something waits."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import reactivex as rx
import tenacity
from loguru import logger
from pipelines import held, simple_pipeline

from rxcompact import LogObserver, Orchestrator
from rxcompact.errors import NoRoomError, PermanentError, TransientError
from rxcompact.signals import Account, ObserverFailed, SourceFailed, StateChanged
from rxcompact.testing import START, SimulatedApi


def orchestrated(source: Any, sink: Any = None, **options: Any) -> tuple[Orchestrator, list[Any]]:
    out: list[Any] = []
    settings = {"key_mapper": "id", "timespan": 10, "max_age": 60, "batch_timespan": 1} | options
    return Orchestrator(simple_pipeline(source=source, sink=sink or out.extend, **settings)), out


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
        sources[:1], (subject, coroutine, lambda batch: seen.extend(c.key for c in batch))
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
    source = Mortal([1, 0, 1, 100, 1])
    pipeline = simple_pipeline(source=source, key_mapper="id", timespan=1000, sink=lambda _: None, max_age=5000)
    orchestrator = Orchestrator(pipeline, wait=tenacity.wait_incrementing(2, 2), healthy_after=60)
    failures: list[SourceFailed] = []
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, SourceFailed) else None)
    await orchestrator.start()
    await asyncio.sleep(500)
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
            await orchestrator.start()
            subject.on_next({"id": "secret {0}"})
            await orchestrator.stop()
        finally:
            logger.disable("rxcompact")
            logger.remove(sink)
        text = "".join(lines)
        assert "failed at enrich: ValueError" in text
        assert ("secret {0}" in text) == bodies
        assert orchestrator.statistics.snapshot().dead_letters == {("failed", "enrich", "ValueError"): 1}


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
from rxcompact import operators as rxo

async def main():
    subject = rx.Subject()
    sink = lambda batch: print([c.key for c in batch])
    pipeline = Pipeline(subject, rxo.compact(1000, key_mapper="id"), rxo.publish(sink), max_age=60)
    orchestrator = Orchestrator(pipeline)
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
from rxcompact import operators as rxo
from rxcompact.testing import START, SimulatedApi, run

async def main():
    async def source():
        for n in range(300):
            yield {"id": f"k{n * 7919 % 23}", "n": n}
            await asyncio.sleep(0.2)
    api = SimulatedApi(latency=(0.01, 2), error_rate=0.3, outages=[(START + 20, START + 40)], rate=5, seed=3)
    operators = rxo.compact(2, key_mapper="id"), rxo.enrich(api), rxo.publish(lambda batch: None)
    pipeline = Pipeline(source(), *operators, max_age=15)
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


# ── any order, any task ───────────────────────────────────────────────────────────────────────────────────────────


async def test_every_pair_of_calls_may_be_made_at_once_from_several_tasks_in_every_state() -> None:
    async def nothing(_: Any) -> None: ...

    async def run(one: Orchestrator) -> None:
        await one.start()

    async def stopped(one: Orchestrator) -> None:
        await one.start()
        await one.stop()

    async def draining(one: Orchestrator) -> None:
        await one.start()
        drains.append(asyncio.create_task(one.stop(2)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert one.state == "draining"

    async def restarting(one: Orchestrator) -> None:
        await one.start()
        drains.append(asyncio.create_task(one.restart()))

    loop = asyncio.get_running_loop()
    drains: list[asyncio.Task[Any]] = []
    for before in (nothing, run, stopped, draining, restarting):
        for pair in itertools.product(("start", "stop", "restart", "wait"), repeat=2):
            orchestrator, _ = orchestrated(rx.Subject())
            await before(orchestrator)
            tasks = [asyncio.create_task(getattr(orchestrator, call)()) for call in pair for _ in range(3)]
            await asyncio.sleep(1)
            began = loop.time()
            await orchestrator.stop(1)
            assert loop.time() - began <= 1
            assert orchestrator.state in {"stopped", "idle"}
            await asyncio.gather(*tasks, *drains)
            drains.clear()
            assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_starting_twice_is_starting_once() -> None:
    source = Recorded()
    orchestrator, _ = orchestrated(source)
    for _ in range(3):
        await asyncio.gather(orchestrator.start(), orchestrator.start())
    assert source.streams == 1
    await orchestrator.stop()
    assert source.streams == 1


async def test_before_its_first_start_there_is_nothing_to_stop_or_to_wait_for() -> None:
    orchestrator, _ = orchestrated(rx.Subject())
    assert (await orchestrator.stop()).account == (await orchestrator.wait()).account == Account()
    assert (orchestrator.state, held(orchestrator)) == ("idle", {})
    await orchestrator.restart()
    assert orchestrator.state == "running"
    await orchestrator.stop()


async def test_states_come_in_order_and_as_signals_too() -> None:
    orchestrator, _ = orchestrated(rx.Subject())
    states: list[str] = []
    changes: list[tuple[str, str]] = []
    orchestrator.states.subscribe(states.append)
    orchestrator.attach(lambda s: changes.append((s.old, s.new)) if isinstance(s, StateChanged) else None)
    for _ in range(2):
        await orchestrator.start()
        await orchestrator.restart()
        await orchestrator.stop()
    run = ["running", "restarting", "running", "draining", "stopped"]
    assert states == ["idle", *run, *run]
    assert changes == list(itertools.pairwise(states))


async def test_leaving_async_with_drains_also_when_its_body_raises() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject)
    with pytest.raises(ZeroDivisionError):
        async with orchestrator:
            subject.on_next({"id": "a"})
            raise ZeroDivisionError
    assert orchestrator.state == "stopped"
    assert [c.key for c in out] == ["a"]


async def test_wait_gives_every_task_the_same_report() -> None:
    orchestrator, _ = orchestrated(events("a"), enricher=SimulatedApi(latency=3))
    await orchestrator.start()
    reports = await asyncio.gather(*(orchestrator.wait() for _ in range(3)), asyncio.sleep(1, None))
    assert reports[0] is reports[1] is reports[2]
    assert await orchestrator.stop() is reports[0]


@pytest.mark.parametrize("during", ["running", "restarting"])
async def test_a_stop_asked_for_while_it_starts_or_restarts_stops(during: str) -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject)
    stops: list[asyncio.Task[Any]] = []

    def stop(state: str) -> None:
        if state == during and not stops:
            stops.append(asyncio.create_task(orchestrator.stop()))

    if during == "running":
        orchestrator.states.subscribe(stop)
        await orchestrator.start()
        subject.on_next({"id": "a"})
    else:
        await orchestrator.start()
        subject.on_next({"id": "a"})
        orchestrator.states.subscribe(stop)
        await orchestrator.restart()
    report = await stops[0]
    assert orchestrator.state == "stopped"
    assert report.account.published == len(out) == 1
    assert not subject.observers


async def test_a_hot_source_loses_nothing_in_a_restart() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject)
    await orchestrator.start()
    restart = asyncio.create_task(orchestrator.restart())
    for n in range(10):
        subject.on_next({"id": n})
        await asyncio.sleep(0)
    await restart
    await orchestrator.stop()
    assert sorted(c.key for c in out) == list(range(10))


async def test_a_restart_in_the_turn_in_which_the_source_dies_does_not_hide_that() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, _ = orchestrated(rx.merge(subject, rx.never()))
    failures: list[Any] = []
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, SourceFailed) else None)
    await orchestrator.start()
    subject.on_error(OSError("gone"))
    await asyncio.sleep(0)
    await orchestrator.restart()
    await orchestrator.stop()
    assert (str(failures[0].error), failures[0].failures) == ("gone", 1)


async def test_what_comes_after_the_end_of_the_stream_is_refused_and_counted() -> None:
    class Late:
        def stream(self, demand: Any) -> Any:
            self.demand = demand
            return rx.never()

    source = Late()
    orchestrator, out = orchestrated(source)
    await orchestrator.start()
    source.demand.push([{"id": "a"}])
    source.demand.complete()
    assert source.demand.capacity() == 0
    assert not source.demand.accepts([{"id": "b"}])
    source.demand.push([{"id": "b"}])
    account = (await orchestrator.stop()).account
    assert (account.received, account.rejected, account.published) == (2, 1, 1)


# ── stop and its deadline ─────────────────────────────────────────────────────────────────────────────────────────


async def test_stop_during_backoff_makes_one_last_attempt_and_no_more() -> None:
    for mends in (True, False):
        calls: list[float] = []

        async def enrich(event: Any) -> Any:
            calls.append(asyncio.get_running_loop().time() - began)
            if len(calls) == 1 or not mends:
                raise TransientError
            return event

        began = asyncio.get_running_loop().time()
        subject: rx.Subject[Any] = rx.Subject()
        orchestrator, out = orchestrated(subject, enricher=enrich, wait=tenacity.wait_fixed(20))
        letters: list[Any] = []
        orchestrator.dead_letters.subscribe(letters.append)
        await orchestrator.start()
        subject.on_next({"id": "a"})
        await asyncio.sleep(12)
        report = await orchestrator.stop()
        assert calls == [pytest.approx(10), pytest.approx(12)]
        assert (len(out), report.account.published) == ((1, 1) if mends else (0, 0))
        assert [(each.outcome, each.attempts) for each in letters] == ([] if mends else [("abandoned", 2)])
        assert isinstance(letters[0].error.__cause__ if letters else TransientError(), TransientError)


async def test_what_an_enricher_holds_up_does_not_keep_its_neighbours_from_the_sink_when_stopped() -> None:
    subject: rx.Subject[Any] = rx.Subject()

    async def enrich(event: Any) -> Any:
        if event["id"] == "hangs":
            await asyncio.get_running_loop().create_future()
        return event

    orchestrator, out = orchestrated(subject, enricher=enrich, batch_timespan=30, timeout=None)
    await orchestrator.start()
    for event in events("hangs", "good"):
        subject.on_next(event)
    report = await orchestrator.stop(10)
    assert [c.key for c in out] == ["good"]
    assert (report.account.published, report.account.abandoned) == (1, 1)


async def test_a_call_that_swallows_its_cancellation_leaves_no_task_once_it_is_over() -> None:
    release = asyncio.Event()
    for part in ("enricher", "sink"):
        release.clear()

        async def stubborn(event: Any) -> Any:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return event if part == "enricher" else None

        orchestrator, _ = orchestrated(events("a", "b"), **{part: stubborn})
        outcomes: list[Any] = []
        orchestrator.outcomes.subscribe(outcomes.append)
        await orchestrator.start()
        await asyncio.sleep(5)
        report = await orchestrator.stop(3)
        assert held(orchestrator) == dict.fromkeys(held(orchestrator), 0)
        release.set()
        await asyncio.sleep(100)
        assert orchestrator.account == report.account
        assert sorted((each.event.key, each.outcome) for each in outcomes) == [("a", "abandoned"), ("b", "abandoned")]
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stop_returns_by_its_deadline_whatever_closing_does() -> None:
    loop = asyncio.get_running_loop()
    forever = loop.create_future()

    class Hangs:
        def __init__(self) -> None:
            self.began: list[float] = []

        def stream(self, _: Any) -> Any:
            return rx.never()

        async def enrich(self, event: Any) -> Any:
            return event

        async def publish(self, batch: Any) -> None: ...

        async def aclose(self) -> None:
            self.began.append(loop.time())
            while True:
                try:
                    await asyncio.shield(forever)
                except asyncio.CancelledError:
                    if forever.done():
                        return

    for part in ("source", "enricher", "sink"):
        hangs = Hangs()
        orchestrator, _ = orchestrated(**({"source": rx.Subject()} | {part: hangs}))
        await orchestrator.start()
        began = loop.time()
        await orchestrator.stop(4)
        assert loop.time() - began <= 4 + 1e-6, part
        assert hangs.began
    forever.cancel()
    await asyncio.sleep(1)


async def test_of_several_stops_the_earliest_deadline_holds() -> None:
    loop = asyncio.get_running_loop()

    class Hangs(Recorded):
        async def enrich(self, event: Any) -> Any:
            await loop.create_future()

        async def publish(self, batch: Any) -> None: ...

        async def aclose(self) -> None:
            await loop.create_future()

    late: list[str] = []
    for part in ("enricher", "source", "sink"):
        settings: dict[str, Any] = {"source": Recorded()} | {part: Hangs()}
        orchestrator, _ = orchestrated(**settings)
        await orchestrator.start()
        settings["source"].push(events("a"))
        began = loop.time()
        patient = asyncio.create_task(orchestrator.stop(100))
        await asyncio.sleep(1)
        await asyncio.gather(orchestrator.stop(2), patient)
        if loop.time() - began > 3 + 1e-6:
            late.append(f"{part}: {loop.time() - began}")
    assert not late
    source = Hangs()  # whose events are all through, so that it ends by itself
    orchestrator, _ = orchestrated(source)
    await orchestrator.start()
    source.observer.on_completed()
    while orchestrator.state == "running":
        await asyncio.sleep(0.1)
    began = loop.time()
    await orchestrator.stop(1)
    assert loop.time() - began <= 1 + 1e-6


async def test_a_stop_whose_caller_is_cancelled_still_has_its_deadline() -> None:
    loop = asyncio.get_running_loop()

    async def hangs(event: Any) -> Any:
        await loop.create_future()

    source = Recorded()
    orchestrator, _ = orchestrated(source, enricher=hangs, timeout=None, max_age=100_000)
    await orchestrator.start()
    source.push(events("a"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(orchestrator.stop(5), 1)
    await asyncio.sleep(5)
    state = orchestrator.state
    await orchestrator.stop(0)
    assert state == "stopped"


async def test_stop_without_any_time_abandons_what_is_held() -> None:
    source = Recorded()
    orchestrator, out = orchestrated(source, enricher=SimulatedApi(latency=1))
    await orchestrator.start()
    source.push(events("a", "b"))
    report = await orchestrator.stop(0)
    assert (report.account.abandoned, report.in_time, out) == (2, False, [])
    assert report.seconds == pytest.approx(0, abs=1e-3)


async def test_a_new_run_has_an_account_of_its_own_and_the_report_stays_that_of_the_old() -> None:
    source = Recorded()
    orchestrator, out = orchestrated(source)
    reports = []
    for n in range(3):
        await orchestrator.start()
        assert orchestrator.account == Account()
        source.push(events(*range(n + 1)))
        reports.append(await orchestrator.stop())
    assert [report.account.published for report in reports] == [1, 2, 3]
    assert len(out) == 6


async def test_no_timer_is_left_after_stop() -> None:
    loop: Any = asyncio.get_running_loop()
    source = Recorded()
    api = SimulatedApi(outages=[(START, START + 5000)])
    orchestrator, _ = orchestrated(source, enricher=api, max_age=5000, timespan=5, batch_timespan=100)
    await orchestrator.start()
    for n in range(50):
        source.push(events(n))
        await asyncio.sleep(1)
    await orchestrator.stop(20)
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


# ── the source ────────────────────────────────────────────────────────────────────────────────────────────────────


class Recorded:
    """A source that emits what it is told to, while it is subscribed to."""

    def __init__(self) -> None:
        self.streams = 0
        self.observer: Any = None

    def stream(self, _: Any) -> Any:
        def subscribe(observer: Any, _: Any = None) -> Any:
            self.observer = observer
            return rx.disposable.Disposable(lambda: setattr(self, "observer", None))

        self.streams += 1
        return rx.Observable(subscribe)

    def push(self, chunk: Any) -> None:
        self.observer.on_next(chunk)

    def die(self) -> None:
        self.observer.on_error(OSError("died"))


async def test_an_open_window_closes_when_due_though_its_source_is_dead() -> None:
    source = Recorded()
    pipeline = simple_pipeline(source=source, key_mapper="id", timespan=10, sink=lambda _: None, max_age=60)
    orchestrator = Orchestrator(pipeline, wait=tenacity.wait_fixed(7))
    windows: list[Any] = []
    orchestrator.windows.subscribe(windows.append)
    await orchestrator.start()
    source.push(events("a"))
    await asyncio.sleep(5)
    source.die()
    await asyncio.sleep(6)
    assert source.observer is None
    assert [(window.closed - START, window.trigger, len(window)) for window in windows] == [(10, "time", 1)]
    await asyncio.sleep(2)
    source.push(events("a"))
    report = await orchestrator.stop()
    assert report.account.published == 2


async def test_stop_does_not_wait_for_a_source_to_be_subscribed_to_again() -> None:
    source = Recorded()
    pipeline = simple_pipeline(source=source, key_mapper="id", timespan=10, sink=lambda _: None, max_age=60)
    orchestrator = Orchestrator(pipeline, wait=tenacity.wait_fixed(1000))
    await orchestrator.start()
    source.push(events("a"))
    source.die()
    await asyncio.sleep(1)
    report = await orchestrator.stop()
    assert (report.account.published, source.streams) == (1, 1)
    assert report.seconds < 1
    await orchestrator.start()
    source.die()
    await asyncio.sleep(1)
    await orchestrator.restart()  # at once, and so does a restart
    assert source.streams == 3
    await orchestrator.stop()


async def test_a_restart_goes_on_where_an_iterator_was() -> None:
    async def ticking() -> AsyncIterator[Any]:
        for n in range(20):
            await asyncio.sleep(1)
            yield {"id": n}

    for source in (ticking(), iter(events(*range(20)))):
        orchestrator, out = orchestrated(source, max_in_flight=5, timespan=3)
        await orchestrator.start()
        for _ in range(15):
            await asyncio.sleep(0.7)
            await orchestrator.restart()
        report = await orchestrator.wait()
        assert [c.key for c in out] == list(range(20))
        assert (report.account.received, report.account.published) == (20, 20)


async def test_a_restart_when_the_source_has_completed_loses_nothing() -> None:
    api = SimulatedApi(outages=[(START, START + 20)])
    orchestrator, out = orchestrated(events("a", "b"), enricher=api)
    await orchestrator.start()
    await asyncio.sleep(5)
    await orchestrator.restart()
    report = await orchestrator.wait()
    assert sum(c.count for c in out) == report.account.received
    assert report.account.duplicates == sum(c.count for c in out) - len(out)


async def test_a_wait_function_that_raises_is_no_end_of_the_source() -> None:
    source = Recorded()
    pipeline = simple_pipeline(source=source, key_mapper="id", timespan=10, sink=lambda _: None, max_age=60)
    orchestrator = Orchestrator(pipeline, wait=lambda _: 1 / 0)
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    await orchestrator.start()
    source.die()
    await asyncio.sleep(100)
    state, streams = orchestrator.state, source.streams
    await orchestrator.stop()
    del orchestrator
    gc.collect()
    assert (state, streams > 1) in {("running", True), ("failed", False)}


# ── room ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_subject_that_overflows_drops_what_the_policy_says_and_absorbs_every_duplicate(overflow: Any) -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator, out = orchestrated(subject, max_in_flight=10, overflow=overflow)
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(letters.append)
    await orchestrator.start()
    for n in range(15):
        subject.on_next({"id": n})
    for _ in range(3):  # the held keys again: all absorbed
        for n in range(10):
            subject.on_next({"id": n + 5 if overflow == "drop_oldest" else n})
        await asyncio.sleep(0.1)
    now = orchestrator.account
    assert (now.received, now.distinct, now.duplicates, now.dropped, now.in_flight) == (45, 15, 30, 5, 10)
    report = await orchestrator.stop()
    kept = list(range(5, 15)) if overflow == "drop_oldest" else list(range(10))
    assert [(c.key, c.count) for c in out] == [(key, 4) for key in kept]
    assert [each.event.key for each in letters] == [key for key in range(15) if key not in kept]
    assert {(each.outcome, each.stage, each.reason) for each in letters} == {("dropped", "compact", "no room")}
    assert report.account.dropped == 5


async def test_no_room_under_the_policy_error_leaves_an_account_that_balances() -> None:
    source = Recorded()
    orchestrator, out = orchestrated(source, max_in_flight=2, overflow="error")
    outcomes: list[Any] = []
    orchestrator.outcomes.subscribe(outcomes.append)
    await orchestrator.start()
    source.push(events("a", "b", "a", "c", "d", "e"))
    with pytest.raises(NoRoomError):
        await orchestrator.wait()
    account = orchestrator.account
    assert sorted((c.key, c.count) for c in out) == [("a", 2), ("b", 1)]
    assert (account.received, account.published, account.in_flight) == (6, 2, 0)
    assert account.duplicates == 1, "what found no room is not a duplicate"
    assert sum(each.event.count for each in outcomes) == account.received


async def test_after_a_failure_it_may_be_started_again() -> None:
    source = Recorded()
    orchestrator, out = orchestrated(source, max_in_flight=2, overflow="error")
    await orchestrator.start()
    source.push(events("a", "b", "c"))
    with pytest.raises(NoRoomError):
        await orchestrator.wait()
    assert repr(orchestrator).startswith("<Orchestrator failed")
    assert not (await orchestrator.stop()).in_time
    assert orchestrator.state == "failed"
    await orchestrator.start()
    source.push(events("d"))
    assert (await orchestrator.stop()).account.published == 1
    assert [c.key for c in out] == ["a", "b", "d"]


# ── observers ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_observer_that_raises_now_and_then_is_not_detached() -> None:
    source = Recorded()
    orchestrator, _ = orchestrated(source)
    told: list[Any] = []
    failures: list[ObserverFailed] = []

    def moody(window: Any) -> None:
        told.append(window)
        if len(told) % 3:
            raise asyncio.CancelledError

    orchestrator.windows.subscribe(moody)
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, ObserverFailed) else None)
    await orchestrator.start()
    for n in range(9):
        source.push(events(n))
        await asyncio.sleep(10)
    await orchestrator.stop()
    assert len(told) == 9
    assert [(each.failures, each.detached) for each in failures] == [(1, False), (2, False)] * 3


async def test_an_observer_of_signals_that_raises_is_detached_after_three_and_told_of_causes_first() -> None:
    for always in (True, False):
        orchestrator, _ = orchestrated(Recorded())
        told: list[Any] = []
        good: list[Any] = []

        def raises(signal: Any) -> None:
            told.append(signal)
            if always or isinstance(signal, StateChanged):
                raise RuntimeError

        orchestrator.attach(raises)
        orchestrator.attach(good.append)
        for _ in range(5):
            await orchestrator.start()
            await orchestrator.stop()
        changes = [each for each in good if isinstance(each, StateChanged)]
        assert len(changes) == 15, "the others are told of everything"
        failures = [each for each in good if isinstance(each, ObserverFailed)]
        assert [(each.failures, each.detached) for each in failures] == [(1, False), (2, False), (3, True)], always
        assert isinstance(good[0], StateChanged)


async def test_observers_may_come_and_go_while_they_are_told() -> None:
    source = Recorded()
    orchestrator, out = orchestrated(source, timespan=1)
    visits: list[str] = []

    def once(name: str) -> None:
        def observer(_: Any) -> None:
            visits.append(name)
            subscription.dispose()
            once(name + "'")

        subscription = orchestrator.windows.subscribe(observer)

    for name in "ab":
        once(name)
    last: list[Any] = []
    orchestrator.windows.subscribe(last.append)
    await orchestrator.start()
    for n in range(3):
        source.push(events(n))
        await asyncio.sleep(1)
    await orchestrator.stop()
    assert visits == ["a", "b", "a'", "b'", "a''", "b''"]
    assert len(last) == len(out) == 3


async def test_statistics_agree_with_the_account() -> None:
    source = Recorded()
    api = SimulatedApi(latency=(0.1, 2), error_rate=0.4, outages=[(START + 30, START + 60)], seed=1)
    orchestrator, _ = orchestrated(source, enricher=api, max_age=20, timespan=2)
    orchestrator.windows.subscribe(lambda _: 1 / 0)
    await orchestrator.start()
    for n in range(200):
        source.push([{"id": n % 7}, {"id": n % 5}, {}])
        await asyncio.sleep(0.5)
        if n % 50 == 25:
            source.die()
            await asyncio.sleep(0.1)
            await orchestrator.restart()
    account = (await orchestrator.stop()).account
    now = orchestrator.statistics.snapshot()
    assert now.account == account
    assert account.rejected == 200 == now.dead_letters["rejected", "compact", "key"]
    assert now.batches.total == account.published
    assert now.ages["published"].count == account.published
    for name in ("expired", "abandoned", "dropped"):
        assert sum(count for cause, count in now.dead_letters.items() if cause[0] == name) == getattr(account, name)
    too_old = {cause: count for cause, count in now.dead_letters.items() if "too old" in cause[2]}
    assert account.expired == sum(too_old.values()) > 0
    assert now.dead_letters["expired", "enrich", "too old, transient"] > 0  # and what kept them
    assert now.failures == {"source": 4, "observer": 3}
    assert now.retried == now.retries["enrich", "transient"] > 0
    assert now.batches.count > 0


async def test_the_log_says_what_happened_and_nothing_private() -> None:
    async def enrich(event: Any) -> Any:
        if event["id"] == "secret key":
            raise PermanentError("secret no")
        if len(calls) < 2:
            calls.append(event)
            raise TransientError("secret text")
        return event

    for bodies in (False, True):
        calls: list[Any] = []
        source = Recorded()
        pipeline = simple_pipeline(
            source=source, key_mapper="id", timespan=10, sink=lambda _: None, max_age=60, enricher=enrich
        )
        orchestrator = Orchestrator(pipeline, wait=tenacity.wait_fixed(1))
        lines: list[str] = []
        handler = logger.add(lines.append, level="DEBUG", format="{level} {message}")
        logger.enable("rxcompact")
        try:
            orchestrator.attach(LogObserver(bodies=bodies))
            orchestrator.windows.subscribe(lambda _: 1 / 0)
            await orchestrator.start()
            source.push([*events("secret key", "fine"), {"body": "secret body"}])
            source.observer.on_error(OSError("secret place"))
            await asyncio.sleep(15)
            await orchestrator.stop()
        finally:
            logger.disable("rxcompact")
            logger.remove(handler)
        text = "".join(lines)
        for said in ("window closed by time: received 2, distinct 2", "failed at enrich: permanent", "source failed",
                     "rejected at compact: key", "observer ", "ZeroDivisionError"):  # fmt: skip
            assert said in text, (said, text)
        assert ("secret" in text) == bodies, text


async def test_showing_it_works_in_every_state_and_changes_nothing() -> None:
    orchestrator, _ = orchestrated(rx.Subject())
    shown: list[str] = []
    orchestrator.states.subscribe(lambda _: shown.append(repr(orchestrator).split(":")[0]))
    await orchestrator.start()
    await orchestrator.restart()
    before = (orchestrator.account, held(orchestrator), len(asyncio.all_tasks()))
    assert f"{orchestrator}" == repr(orchestrator)
    assert before == (orchestrator.account, held(orchestrator), len(asyncio.all_tasks()))
    await orchestrator.stop()
    states = ("idle", "running", "restarting", "running", "draining", "stopped")
    assert shown == [f"<Orchestrator {state}" for state in states]


# ── clocks, signals, threads ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hours", [-1000, -3, 3, 1000])
async def test_a_wall_clock_that_jumps_by_hours_makes_nothing_older(hours: int) -> None:
    loop: Any = asyncio.get_running_loop()
    source = Recorded()
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


def test_a_second_signal_cuts_the_drain_short() -> None:
    async def main() -> tuple[Any, float]:
        subject: rx.Subject[Any] = rx.Subject()

        async def hangs(event: Any) -> Any:
            await asyncio.get_running_loop().create_future()

        orchestrator, _ = orchestrated(subject, enricher=hangs)
        orchestrator.stop_on(deadline=15)
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
