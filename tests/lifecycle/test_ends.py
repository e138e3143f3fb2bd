"""How a run ends and another begins: who waits, who is closed, what a source and the signals do meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest
import reactivex as rx
from pipelines import simple_pipeline
from reactivex import operators as ops

from rxcompact import Orchestrator
from rxcompact.clock import LoopScheduler
from rxcompact.errors import ArgumentError
from rxcompact.signals import ObserverFailed, SourceFailed

ASLEEP = 0.2
"""Seconds after which a loop that has nothing to do sleeps."""


def orchestrated(source: Any, **options: Any) -> Orchestrator:
    settings: dict[str, Any] = {"key_mapper": "id", "timespan": 10, "max_age": 60, "batch_timespan": 0}
    return Orchestrator(simple_pipeline(source=source, **{"sink": lambda batch: None} | settings | options))


async def test_a_part_that_cannot_be_closed_does_not_cut_short_the_closing_of_the_others() -> None:
    class Enricher:
        async def enrich(self, event: Any) -> Any:
            return event

        async def aclose(self) -> None:
            raise ConnectionResetError("gone")

    class Sink:
        def __init__(self) -> None:
            self.held: list[Any] = []
            self.flushed: list[Any] = []

        async def publish(self, batch: Any) -> None:
            self.held += batch

        async def aclose(self) -> None:
            await asyncio.sleep(1)
            self.flushed = self.held

    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(str(context["exception"])))
    sink = Sink()
    async with orchestrated([{"id": n} for n in range(5)], enricher=Enricher(), sink=sink) as orchestrator:
        await orchestrator.wait()
    assert [compacted.key for compacted in sink.flushed] == [0, 1, 2, 3, 4]
    assert said == ["gone"]


async def test_what_a_sinks_method_belongs_to_is_closed_as_an_enrichers_is() -> None:
    class Store:
        closed = 0

        async def put(self, batch: Any) -> None:
            pass

        async def owner(self, event: Any) -> Any:
            return event

        async def aclose(self) -> None:
            self.closed += 1

    sink, enricher = Store(), Store()
    async with orchestrated([{"id": 1}], sink=sink.put, enricher=enricher.owner) as orchestrator:
        await orchestrator.wait()
    assert (sink.closed, enricher.closed) == (1, 1)


async def test_who_waits_for_a_run_does_not_end_the_next() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = orchestrated(subject)
    await orchestrator.start()
    await orchestrator.stop()
    waiting = asyncio.ensure_future(orchestrator.wait())
    await asyncio.sleep(0)
    await orchestrator.start()
    assert (await waiting).account.received == 0
    await asyncio.sleep(20)
    assert orchestrator.state == "running"
    await orchestrator.stop()


async def test_who_waits_does_not_shorten_the_deadline_that_a_stop_was_given() -> None:
    closed: list[str] = []

    class Sink:
        async def publish(self, batch: Any) -> None:
            pass

        async def aclose(self) -> None:
            await asyncio.sleep(20)
            closed.append("whole")

    orchestrator = orchestrated(rx.Subject(), sink=Sink())
    await orchestrator.start()
    waiting = asyncio.ensure_future(orchestrator.wait())
    report = await orchestrator.stop(60)
    assert closed == ["whole"]
    assert report.seconds == pytest.approx(20, abs=0.01)
    assert await waiting == report


async def test_timers_of_a_source_are_the_loops() -> None:
    threads = set[str]()
    source = rx.interval(60.0).pipe(ops.take(5), ops.do_action(lambda _: threads.add(threading.current_thread().name)))
    orchestrator = orchestrated(source, key_mapper=str)
    await orchestrator.start()
    report = await orchestrator.wait()
    assert (report.account.received, report.account.published) == (5, 5)
    assert threads == {threading.main_thread().name}


async def test_a_restart_tells_observers_while_the_source_is_subscribed_to() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = orchestrated(subject)
    await orchestrator.start()
    subscribed: list[bool] = []
    orchestrator.states.subscribe(lambda _: subscribed.append(bool(subject.observers)))
    await orchestrator.restart()
    assert subscribed == [True, True, True]
    await orchestrator.stop()


async def test_a_source_that_is_being_closed_is_not_subscribed_to_again() -> None:
    happened: list[str] = []

    class Source:
        def stream(self, demand: Any) -> rx.Observable[Any]:
            happened.append("stream")
            self.subject: rx.Subject[Any] = rx.Subject()
            return self.subject

        async def aclose(self) -> None:
            self.subject.on_error(OSError("closed in the middle"))
            await asyncio.sleep(3)

    orchestrator = orchestrated(Source())
    orchestrator.attach(lambda s: happened.append("failed") if isinstance(s, SourceFailed) else None)
    await orchestrator.start()
    await orchestrator.stop()
    assert happened == ["stream", "failed"]


def test_a_signal_stops_all_who_listen_for_it_and_is_left_alone_after() -> None:
    before = signal.getsignal(signal.SIGINT)

    async def main() -> None:
        both = [orchestrated(rx.Subject()) for _ in range(2)]
        for orchestrator in both:
            orchestrator.stop_on(signal.SIGTERM, signal.SIGINT)
            await orchestrator.start()
        os.kill(os.getpid(), signal.SIGTERM)
        for orchestrator in both:
            assert (await orchestrator.wait()).in_time
        for number in (signal.SIGTERM, signal.SIGINT):
            assert not asyncio.get_running_loop().remove_signal_handler(number), "it is heard still"

    asyncio.run(main())
    assert signal.getsignal(signal.SIGINT) is before


async def test_an_observer_that_was_detached_for_failing_may_be_attached_again() -> None:
    class Observer:
        def __init__(self) -> None:
            self.broken = True
            self.told = 0

        def see(self, signal: Any) -> None:
            if self.broken:
                raise RuntimeError
            self.told += 1

    observer = Observer()
    detached: list[Any] = []
    orchestrator = orchestrated(rx.Subject())
    orchestrator.attach(lambda s: detached.append(s.detached) if isinstance(s, ObserverFailed) else None)
    orchestrator.attach(observer.see)
    await orchestrator.start()
    await orchestrator.restart()
    assert detached[-1]
    observer.broken = False
    for _ in range(2):
        orchestrator.attach(observer.see)
    before = observer.told
    await orchestrator.restart()
    assert observer.told - before == 2  # restarting, running: each once
    await orchestrator.stop()


def test_an_orchestrator_may_be_started_in_another_loop_once_it_has_ended() -> None:
    orchestrator = orchestrated([{"id": 1}])

    async def main() -> int:
        await orchestrator.start()
        return (await orchestrator.wait()).account.published

    assert [asyncio.run(main()) for _ in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sink", None),
        ("sink", "http://store"),
        ("enricher", 5),
        ("overflow", "bogus"),
        ("timespan", -1),
        ("count", 0),
        ("lateness", 5),
        ("keep", "lst"),
        ("max_concurrent", 0),
        ("timeout", -1),
        ("batch_count", 0),
        ("batch_timespan", -2),
    ],
)
def test_a_pipeline_refuses_what_is_out_of_range_when_it_is_made(argument: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match="must be") as raised:
        orchestrated([], **{"enricher": dict, argument: value})
    assert repr(value) in str(raised.value) or argument == "lateness"


def test_a_source_with_timers_of_its_own_may_be_fed_by_another_thread() -> None:
    async def main() -> tuple[float, set[str]]:
        subject: rx.Subject[Any] = rx.Subject()
        threads = set[str]()
        source = subject.pipe(ops.delay(0.05), ops.do_action(lambda _: threads.add(threading.current_thread().name)))
        orchestrator = orchestrated(source, timespan=0.05)
        came: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        orchestrator.windows.subscribe(lambda window: came.done() or came.set_result(len(window)))
        await orchestrator.start()
        began = asyncio.get_running_loop().time()
        thread = threading.Timer(ASLEEP, lambda: [subject.on_next({"id": n}) for n in range(3)])
        thread.start()
        assert await asyncio.wait_for(came, 30) == 3
        took = asyncio.get_running_loop().time() - began
        thread.join()
        await orchestrator.stop()
        return took, threads

    took, threads = asyncio.run(main())
    assert threads == {threading.main_thread().name}
    assert took < 5


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
    assert time.monotonic() - began < 5
