"""Observers of an orchestrator: isolated, detached when they fail, and what statistics and log report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import reactivex as rx
from loguru import logger
from orchestrators import ManualSource, events, orchestrated
from pipelines import simple_pipeline

from rxcompact import LogObserver, Orchestrator, Pipeline, key_of
from rxcompact import operators as rxo
from rxcompact.errors import PermanentError, TransientError
from rxcompact.observers import observables
from rxcompact.signals import ObserverFailed, StateChanged
from rxcompact.testing import START, SimulatedApi

KEY = key_of("id", missing="reject")


async def test_an_observer_that_raises_is_reported_detached_and_isolated() -> None:
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
    visiting: list[Any] = []
    visit = orchestrator.windows.subscribe(visiting.append)
    await asyncio.sleep(20)
    visit.dispose()
    await orchestrator.wait()
    assert len(good) == len(out) == 6
    assert len(visiting) == 1
    assert calls == ["raises", "cancels"] * 3
    assert [(each.failures, each.detached) for each in failures] == [(n, n == 3) for n in (1, 1, 2, 2, 3, 3)]
    assert "raises" in failures[0].observer


async def test_an_observer_that_raises_now_and_then_is_not_detached() -> None:
    source = ManualSource()
    orchestrator, _ = orchestrated(source)
    seen: list[Any] = []
    failures: list[ObserverFailed] = []

    def moody(window: Any) -> None:
        seen.append(window)
        if len(seen) % 3:
            raise asyncio.CancelledError

    orchestrator.windows.subscribe(moody)
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, ObserverFailed) else None)
    await orchestrator.start()
    for n in range(9):
        source.push(events(n))
        await asyncio.sleep(10)
    await orchestrator.stop()
    assert len(seen) == 9
    assert [(each.failures, each.detached) for each in failures] == [(1, False), (2, False)] * 3


async def test_an_observer_of_signals_that_raises_is_detached_after_three_failures_in_a_row() -> None:
    for always in (True, False):
        orchestrator, _ = orchestrated(ManualSource())
        seen: list[Any] = []
        good: list[Any] = []

        def raises(signal: Any) -> None:
            seen.append(signal)
            if always or isinstance(signal, StateChanged):
                raise RuntimeError

        orchestrator.attach(raises)
        orchestrator.attach(good.append)
        for _ in range(5):
            await orchestrator.start()
            await orchestrator.stop()
        changes = [each for each in good if isinstance(each, StateChanged)]
        assert len(changes) == 15, "the others see everything"
        failures = [each for each in good if isinstance(each, ObserverFailed)]
        assert [(each.failures, each.detached) for each in failures] == [(1, False), (2, False), (3, True)], always
        assert isinstance(good[0], StateChanged)


async def test_an_observer_that_was_detached_for_failing_may_be_attached_again() -> None:
    class Observer:
        def __init__(self) -> None:
            self.broken = True
            self.seen = 0

        def on_signal(self, signal: Any) -> None:
            if self.broken:
                raise RuntimeError
            self.seen += 1

    observer = Observer()
    detached: list[Any] = []
    orchestrator = orchestrated(rx.Subject())[0]
    orchestrator.attach(lambda s: detached.append(s.detached) if isinstance(s, ObserverFailed) else None)
    orchestrator.attach(observer.on_signal)
    await orchestrator.start()
    await orchestrator.restart()
    assert detached[-1]
    observer.broken = False
    for _ in range(2):
        orchestrator.attach(observer.on_signal)
    before = observer.seen
    await orchestrator.restart()
    assert observer.seen - before == 2  # restarting, running: each once
    await orchestrator.stop()


async def test_observers_may_subscribe_and_dispose_while_they_are_notified() -> None:
    source = ManualSource()
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
    source = ManualSource()
    api = SimulatedApi(latency=(0.1, 2), error_rate=0.4, outages=[(START + 30, START + 60)], seed=1)
    orchestrator, _ = orchestrated(source, key_mapper=KEY, enricher=api, max_age=20, timespan=2)
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
    assert sum(now.ages["published"].counts) == account.published
    for name in ("expired", "abandoned", "dropped"):
        assert sum(count for cause, count in now.dead_letters.items() if cause[0] == name) == getattr(account, name)
    too_old = {cause: count for cause, count in now.dead_letters.items() if "too old" in cause[2]}
    assert account.expired == sum(too_old.values()) > 0
    assert now.dead_letters["expired", "enrich", "too old, transient"] > 0  # and what kept them
    assert sum(many for (part, _), many in now.failures.items() if part == "source") == 4
    assert sum(number for (part, _), number in now.failures.items() if part == "observer") == 3
    assert now.retried == now.retries["enrich", "transient"] > 0
    assert sum(now.batches.counts) > 0


async def test_the_log_has_what_happened_and_nothing_private(monkeypatch: Any) -> None:
    monkeypatch.setattr("rxcompact.supervisor.backoff", lambda _: 1.0)

    async def enrich(event: Any) -> Any:
        if event["id"] == "secret key":
            raise PermanentError("secret no")
        if len(calls) < 2:
            calls.append(event)
            raise TransientError("secret text")
        return event

    calls: list[Any] = []
    source = ManualSource()
    pipeline = simple_pipeline(
        source=source,
        key_mapper=KEY,
        timespan=10,
        sink=lambda _: None,
        max_age=60,
        enricher=enrich,
    )
    orchestrator = Orchestrator(pipeline, report=False)
    lines: list[str] = []
    handler = logger.add(lines.append, level="DEBUG", format="{level} {message}", filter="rxcompact.observers.log")
    try:
        orchestrator.attach(LogObserver())
        orchestrator.windows.subscribe(lambda _: 1 / 0)
        await orchestrator.start()
        source.push([*events("secret key", "fine"), {"body": "secret body"}])
        source.observer.on_error(OSError("secret place"))
        await asyncio.sleep(15)
        await orchestrator.stop()
    finally:
        logger.remove(handler)
    text = "".join(lines)
    for message in (
        "window closed: trigger time, received 2, distinct 2",
        "dead lettered: outcome failed, stage enrich, attempts 1, age 10",
        "reason permanent",
        "retry scheduled: stage enrich, attempt 1, wait ",
        "source failed: failures 1, wait 1.0, reason OSError",
        "dead lettered: outcome rejected, stage compact",
        "observer failed: observer ",
        "reason ZeroDivisionError",
        "state changed: old running, new draining",
    ):
        assert message in text, (message, text)
    assert "secret" not in text


@pytest.mark.parametrize("raw", [False, True], ids=["objects", "JSON lines"])
@pytest.mark.parametrize("enrichers", [0, 1, 2])
async def test_l29_stages_are_keyed_by_name_and_looking_changes_nothing(enrichers: int, raw: bool) -> None:
    source = ManualSource()
    if raw:
        source.raw = True  # type: ignore[attr-defined]
    away = asyncio.Event()

    async def enrich(event: Any) -> Any:
        await away.wait()
        return event

    pipeline = Pipeline(
        source,
        rxo.compact(10, key_mapper="id"),
        *(rxo.enrich(enrich, timeout=None) for _ in range(enrichers)),
        rxo.publish(lambda _: None, count=10, timespan=5),
        max_age=60,
    )
    orchestrator = Orchestrator(pipeline)
    names = ["source", "compact", *["decode"] * raw, *["enrich", "enrich-2"][:enrichers], "publish"]
    assert (orchestrator.stages, list(pipeline.stages)) == ({}, names)
    windows: list[Any] = []
    orchestrator.windows.subscribe(windows.append)
    async with orchestrator:
        source.push([b'{"id":1}', b'{"id":1}'] if raw else [{"id": 1}, {"id": 1}])
        for at, stage in ((1, "compact"), (11, "enrich" if enrichers else "publish")):
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            looks = [(orchestrator.stages, orchestrator.account, repr(orchestrator)) for _ in range(5)]
            assert looks == looks[:1] * 5
            assert list(orchestrator.stages) == names
            assert {name: now.held for name, now in orchestrator.stages.items() if now.held} == {stage: 1}
            assert orchestrator.stages[stage].oldest == pytest.approx(at)
        assert len(windows) == 1
        away.set()
    assert not any(now.held for now in orchestrator.stages.values())


def pipeline(source: Any, sink: Any) -> Pipeline:
    return Pipeline(source, rxo.compact(10, key_mapper="id"), rxo.publish(sink), max_age=60)


async def ids(number: int, every: float = 20) -> AsyncIterator[Any]:
    """A window each."""
    for n in range(number):
        yield {"id": n}
        await asyncio.sleep(every)


async def test_coroutine_functions_are_awaited_in_order_beside_the_stream() -> None:
    class Slow:
        def __init__(self) -> None:
            self.windows: list[Any] = []
            self.states: list[str] = []
            self.ended = -1.0

        async def on_window(self, window: Any) -> None:
            await asyncio.sleep(30)
            self.windows.append(window[0].key)

        def on_state(self, state: str) -> None:
            self.states.append(state)

        async def on_end(self) -> None:
            await asyncio.sleep(1)
            self.ended = len(self.windows)

    slow, signals = Slow(), list[Any]()

    async def observe(signal: Any) -> None:
        await asyncio.sleep(0)
        signals.append(type(signal).__name__)

    out: list[Any] = []
    orchestrator = Orchestrator(pipeline(ids(3), out.extend), deadline=1000)
    orchestrator.attach(slow)
    orchestrator.attach(observe)
    await orchestrator.start()
    await asyncio.sleep(45)
    assert (len(out), slow.windows) == (2, [0])
    await orchestrator.wait()
    assert slow.windows == [0, 1, 2]
    assert slow.ended == 3
    assert slow.states[-1] == "stopped"
    assert signals[0] == signals[-1] == "StateChanged"
    assert signals.count("WindowClosed") == 3


async def test_a_stop_waits_for_coroutine_functions_no_longer_than_its_deadline() -> None:
    class Hangs:
        async def on_window(self, _: Any) -> None:
            await asyncio.get_running_loop().create_future()

        async def on_end(self) -> None:
            raise AssertionError

    orchestrator, out = orchestrated(ids(1))
    orchestrator.attach(Hangs())
    await orchestrator.start()
    await asyncio.sleep(15)
    began = asyncio.get_running_loop().time()
    report = await orchestrator.stop(5)
    assert asyncio.get_running_loop().time() - began == pytest.approx(5)
    assert report.account.published == len(out) == 1


async def test_a_coroutine_function_that_raises_is_reported_and_detached() -> None:
    failures: list[ObserverFailed] = []

    async def raises(_: Any) -> None:
        raise RuntimeError("observer")

    class Ends:
        def on_state(self, _: str) -> None: ...

        def on_end(self) -> None:
            raise RuntimeError("end")

    orchestrator, out = orchestrated(ids(6))
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, ObserverFailed) else None)
    orchestrator.windows.subscribe(lambda _: None)
    orchestrator.attach(Ends())

    class Raises:
        on_window = staticmethod(raises)

    orchestrator.attach(Raises())
    await orchestrator.start()
    await orchestrator.wait()
    assert len(out) == 6
    assert [(str(each.error), each.failures, each.detached) for each in failures] == [
        ("observer", 1, False), ("observer", 2, False), ("observer", 3, True), ("end", 1, False),
    ]  # fmt: skip
    assert "raises" in failures[0].observer


async def test_what_a_slow_coroutine_function_cannot_take_is_dropped_and_reported() -> None:
    failures: list[ObserverFailed] = []
    taken: list[int] = []

    class Slow:
        async def on_outcome(self, outcome: Any) -> None:
            await asyncio.sleep(1000)
            taken.append(outcome.event.key)

    out: list[Any] = []
    orchestrator = Orchestrator(pipeline([{"id": n} for n in range(50)], out.extend), deadline=1e6)
    orchestrator.attach(Slow(), queue=5)
    orchestrator.attach(lambda signal: failures.append(signal) if isinstance(signal, ObserverFailed) else None)
    async with orchestrator:
        await orchestrator.wait()
    assert len(out) == 50
    assert taken == [0, 1, 2, 3, 4]
    assert [str(each.error) for each in failures] == [f"{n} items were dropped: 5 wait already" for n in (1, 10)]
    assert not any(each.detached for each in failures)


@pytest.mark.parametrize(("took", "logged"), [
    ([2, 2, 2, 2], ["2"]),  # three in a row
    ([2, 2, 0.1, 2, 2], []),  # one or two may be the machine's
    ([0.9] * 9, []),
    ([0.1, 60, 60], ["60"]),  # one is enough, and it is logged once a minute
])  # fmt: skip
async def test_an_observer_whose_calls_take_above_a_millisecond_is_logged(
    took: list[float], logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, calls = 0.0, iter(took)

    class Slow:
        def on_window(self, _: Any) -> None:
            nonlocal seconds
            seconds += next(calls) / 1000

    monkeypatch.setattr(observables, "perf_counter", lambda: seconds)
    monkeypatch.setattr(observables, "_log_slow", type(observables._log_slow)("WARNING", "{} took {text}"))
    lines: list[Any] = []
    handler = logger.add(lines.append, level="WARNING", format="{message}", filter="rxcompact.operators.retry")
    orchestrator, _ = orchestrated(ids(len(took)))
    orchestrator.attach(Slow())
    await orchestrator.start()
    await orchestrator.wait()
    logger.remove(handler)
    name = f"{test_an_observer_whose_calls_take_above_a_millisecond_is_logged.__name__}.<locals>.Slow.on_window"
    assert [str(line).strip() for line in lines] == [f"{name} took {text}" for text in logged]
