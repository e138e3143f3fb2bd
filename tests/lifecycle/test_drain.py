"""Stop: the steps of a drain and its deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import reactivex as rx
import reactivex.operators
import tenacity
from orchestrators import ManualSource, events, orchestrated
from pipelines import held

from rxcompact import Orchestrator, Pipeline, key_of
from rxcompact import operators as rxo
from rxcompact.errors import TransientError
from rxcompact.testing import START, SimulatedApi


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


async def test_a_call_that_hangs_does_not_keep_its_neighbours_from_the_sink_in_a_drain() -> None:
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

    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
    sink = Sink()
    async with orchestrated([{"id": n} for n in range(5)], enricher=Enricher(), sink=sink)[0] as orchestrator:
        await orchestrator.wait()
    assert [compacted.key for compacted in sink.flushed] == [0, 1, 2, 3, 4]
    assert reported == ["gone"]


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
    async with orchestrated([{"id": 1}], sink=sink.put, enricher=enricher.owner)[0] as orchestrator:
        await orchestrator.wait()
    assert (sink.closed, enricher.closed) == (1, 1)


async def test_of_several_stops_the_earliest_deadline_holds() -> None:
    loop = asyncio.get_running_loop()

    class Hangs(ManualSource):
        async def enrich(self, event: Any) -> Any:
            await loop.create_future()

        async def publish(self, batch: Any) -> None: ...

        async def aclose(self) -> None:
            await loop.create_future()

    late: list[str] = []
    for part in ("enricher", "source", "sink"):
        settings: dict[str, Any] = {"source": ManualSource()} | {part: Hangs()}
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


async def test_waiting_does_not_shorten_the_deadline_of_a_stop() -> None:
    closed: list[str] = []

    class Sink:
        async def publish(self, batch: Any) -> None:
            pass

        async def aclose(self) -> None:
            await asyncio.sleep(20)
            closed.append("whole")

    orchestrator = orchestrated(rx.Subject(), sink=Sink())[0]
    await orchestrator.start()
    waiting = asyncio.ensure_future(orchestrator.wait())
    report = await orchestrator.stop(60)
    assert closed == ["whole"]
    assert report.seconds == pytest.approx(20, abs=0.01)
    assert await waiting == report


async def test_a_stop_whose_caller_is_cancelled_still_has_its_deadline() -> None:
    loop = asyncio.get_running_loop()

    async def hangs(event: Any) -> Any:
        await loop.create_future()

    source = ManualSource()
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
    source = ManualSource()
    orchestrator, out = orchestrated(source, enricher=SimulatedApi(latency=1))
    await orchestrator.start()
    source.push(events("a", "b"))
    report = await orchestrator.stop(0)
    assert (report.account.abandoned, report.in_time, out) == (2, False, [])
    assert report.seconds == pytest.approx(0, abs=1e-3)


async def test_no_timer_is_left_after_stop() -> None:
    loop: Any = asyncio.get_running_loop()
    source = ManualSource()
    api = SimulatedApi(outages=[(START, START + 5000)])
    orchestrator, _ = orchestrated(source, enricher=api, max_age=5000, timespan=5, batch_timespan=100)
    await orchestrator.start()
    for n in range(50):
        source.push(events(n))
        await asyncio.sleep(1)
    await orchestrator.stop(20)
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


METHODS = (
    "source.aclose", "source.release", "enricher.enrich", "enricher.aclose",
    "sink.publish", "sink.aclose", "letters.publish", "letters.aclose",
)  # fmt: skip


@pytest.mark.parametrize("deadline", [0, 0.5, 3])
@pytest.mark.parametrize("how", ["hangs", "swallows its cancellation", "raises when cancelled", "cancels itself"])
@pytest.mark.parametrize("where", METHODS)
async def test_stop_returns_by_its_deadline_whichever_part_does_what(where: str, how: str, deadline: float) -> None:
    loop: Any = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    released = asyncio.Event()

    async def misbehave() -> None:
        if how == "cancels itself":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                if how != "swallows its cancellation":
                    raise (ValueError("late") if how == "raises when cancelled" else asyncio.CancelledError) from None

    def method(name: str) -> Any:
        async def call(_: Any, *given: Any) -> Any:
            if name == where:
                await misbehave()
            return given[0] if name == "enricher.enrich" else None

        return call

    def part(name: str, *methods: str, **more: Any) -> Any:
        return type(name, (), {each: method(f"{name}.{each}") for each in methods} | more)()

    emitted = rx.of([{"id": 1}, {}]).pipe(rx.operators.concat(rx.never()))
    pipeline = Pipeline(
        part("source", "aclose", "release", stream=lambda *_: emitted),
        rxo.compact(1, key_mapper=key_of("id", missing="reject")),
        rxo.enrich(part("enricher", "enrich", "aclose"), timeout=None),
        rxo.publish(part("sink", "publish", "aclose"), timespan=0, timeout=None),
        max_age=1e4,
        dead_letters=part("letters", "publish", "aclose"),
    )
    orchestrator = Orchestrator(pipeline)
    await orchestrator.start()
    await asyncio.sleep(5)
    began = loop.time()
    report = await orchestrator.stop(deadline)
    assert loop.time() - began <= deadline + 1e-9
    assert (report.account.in_flight, orchestrator.state) == (0, "stopped")
    released.set()
    await asyncio.sleep(10)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []
