"""Start, stop and restart: in any order, from any task; states, reports and what is left over."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from typing import Any

import pytest
import reactivex as rx
from orchestrators import ManualSource, events, orchestrated
from pipelines import held

from rxcompact import Orchestrator
from rxcompact.errors import NoRoomError
from rxcompact.signals import Account, StateChanged
from rxcompact.testing import SimulatedApi


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
    source = ManualSource()
    orchestrator, _ = orchestrated(source)
    for _ in range(3):
        await asyncio.gather(orchestrator.start(), orchestrator.start())
    assert source.streams == 1
    await orchestrator.stop()
    assert source.streams == 1


async def test_stop_and_wait_before_the_first_start_return_an_empty_report() -> None:
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


async def test_waiting_for_a_run_does_not_end_the_next() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = orchestrated(subject)[0]
    await orchestrator.start()
    await orchestrator.stop()
    waiting = asyncio.ensure_future(orchestrator.wait())
    await asyncio.sleep(0)
    await orchestrator.start()
    assert (await waiting).account.received == 0
    await asyncio.sleep(20)
    assert orchestrator.state == "running"
    await orchestrator.stop()


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


async def test_a_new_run_has_a_new_account_and_the_old_report_stays() -> None:
    source = ManualSource()
    orchestrator, out = orchestrated(source)
    reports = []
    for n in range(3):
        await orchestrator.start()
        assert orchestrator.account == Account()
        source.push(events(*range(n + 1)))
        reports.append(await orchestrator.stop())
    assert [report.account.published for report in reports] == [1, 2, 3]
    assert len(out) == 6


async def test_after_a_failure_it_may_be_started_again() -> None:
    source = ManualSource()
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


def test_an_orchestrator_may_be_started_in_another_loop_once_it_has_ended() -> None:
    orchestrator = orchestrated([{"id": 1}])[0]

    async def main() -> int:
        await orchestrator.start()
        return (await orchestrator.wait()).account.published

    assert [asyncio.run(main()) for _ in range(2)] == [1, 1]


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


def test_nothing_is_left_running() -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        async with orchestrated(events(*range(1000)), enricher=lambda event: event, timespan=0.05)[0] as orchestrator:
            await asyncio.sleep(0.2)
            assert orchestrator.account.received == 1000
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert set(threading.enumerate()) == before


def test_an_orchestrator_that_is_deleted_while_it_runs_warns() -> None:
    async def main() -> None:
        orchestrator, _ = orchestrated(rx.Subject())
        await orchestrator.start()

    with pytest.warns(ResourceWarning, match="was never stopped"):
        asyncio.run(main())
        gc.collect()
