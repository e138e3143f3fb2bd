"""A source that dies, completes or is restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import reactivex as rx
import reactivex.operators
from orchestrators import ManualSource, events, orchestrated
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.errors import TransientError
from rxcompact.signals import SourceFailed
from rxcompact.testing import START, SimulatedApi


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


async def test_a_source_that_dies_is_subscribed_to_again_and_what_came_stays(monkeypatch: Any) -> None:
    monkeypatch.setattr("rxcompact.supervisor.backoff", lambda failures: 2 * failures)
    source = Mortal([1, 0, 1, 100, 1])
    pipeline = simple_pipeline(source=source, key_mapper="id", timespan=1000, sink=lambda _: None, max_age=5000)
    orchestrator = Orchestrator(pipeline)
    failures: list[SourceFailed] = []
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, SourceFailed) else None)
    await orchestrator.start()
    await asyncio.sleep(500)
    assert [(each.failures, each.wait) for each in failures] == [(1, 2), (2, 4), (3, 6), (1, 2), (2, 4)]
    assert source.born == [pytest.approx(at, abs=0.01) for at in (0, 3, 7, 14, 116, 121)]
    assert orchestrator.account.in_flight == 4
    assert (await orchestrator.stop()).account.published == 4


async def test_restarts_with_open_windows_waiting_retries_and_unpublished_batches_lose_nothing() -> None:
    loop: Any = asyncio.get_running_loop()
    subject: rx.Subject[Any] = rx.Subject()
    api = SimulatedApi(latency=0.1, outages=[(START + 9, START + 30)])
    downs = [0.0, 33.0]

    async def sink(batch: Any) -> None:
        if downs[0] <= loop.time() < downs[1]:
            raise TransientError
        out.extend(batch)

    orchestrator, out = orchestrated(subject, sink, enricher=api, wait=3)
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


async def test_an_open_window_closes_when_due_though_its_source_is_dead(monkeypatch: Any) -> None:
    monkeypatch.setattr("rxcompact.supervisor.backoff", lambda _: 7)
    source = ManualSource()
    pipeline = simple_pipeline(source=source, key_mapper="id", timespan=10, sink=lambda _: None, max_age=60)
    orchestrator = Orchestrator(pipeline)
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


async def test_stop_does_not_wait_for_a_source_to_be_subscribed_to_again(monkeypatch: Any) -> None:
    monkeypatch.setattr("rxcompact.supervisor.backoff", lambda _: 1000)
    source = ManualSource()
    pipeline = simple_pipeline(source=source, key_mapper="id", timespan=10, sink=lambda _: None, max_age=60)
    orchestrator = Orchestrator(pipeline)
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


async def test_the_waits_of_a_source_that_stays_dead_grow_to_half_a_minute() -> None:
    orchestrator, _ = orchestrated(lambda: iter(rx.throw(OSError()).run, None))
    failures: list[SourceFailed] = []
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, SourceFailed) else None)
    await orchestrator.start()
    with pytest.raises(OSError):  # noqa: PT011 - it has no text
        await orchestrator.wait()
    assert [each.failures for each in failures] == list(range(1, 101))
    waits = [each.wait for each in failures]
    assert waits.pop() is None
    assert all(0 <= wait <= min(30, 2**n / 2) for n, wait in enumerate(waits))
    assert 10 < sum(waits[10:]) / len(waits[10:]) < 20


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


async def test_a_restart_notifies_observers_while_the_source_is_subscribed_to() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = orchestrated(subject)[0]
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

    orchestrator = orchestrated(Source())[0]
    orchestrator.attach(lambda s: happened.append("failed") if isinstance(s, SourceFailed) else None)
    await orchestrator.start()
    await orchestrator.stop()
    assert happened == ["stream", "failed"]


async def test_events_after_the_end_of_the_stream_are_rejected_and_counted() -> None:
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
