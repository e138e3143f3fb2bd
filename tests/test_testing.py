"""rxcompact.testing: virtual time and replay."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
import threading
import time
from operator import itemgetter
from typing import Any, get_args

import pytest
import reactivex as rx
from async_solipsism import SleepForeverError
from hypothesis import given
from hypothesis import strategies as st
from reactivex import operators as ops
from reactivex.testing import ReactiveTest, TestScheduler

from rxcompact import operators as rxo
from rxcompact.clock import Clock, default_scheduler
from rxcompact.contracts import Overflow
from rxcompact.errors import LoopError, NoRoomError
from rxcompact.testing import START, SimulatedApi, replay, run, virtual_loop


def test_two_hours_pass_at_once_for_rxpy_and_asyncio_alike() -> None:
    seen: list[tuple[float, str]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        scheduler = default_scheduler()
        rx.interval(1800.0, scheduler=scheduler).subscribe(lambda _: seen.append((loop.time(), "rx")))
        rx.timer(10.0, scheduler=scheduler).pipe(ops.delay(5.0, scheduler=scheduler)).subscribe(
            lambda _: seen.append((loop.time(), "delay"))
        )
        for _ in range(4):
            await asyncio.sleep(2000)
            seen.append((loop.time(), "asyncio"))

    real = time.monotonic()
    run(main)
    assert time.monotonic() - real < 20
    assert seen == [
        (15, "delay"), (1800, "rx"), (2000, "asyncio"), (3600, "rx"), (4000, "asyncio"),
        (5400, "rx"), (6000, "asyncio"), (7200, "rx"), (8000, "asyncio"),
    ]  # fmt: skip


def test_a_hang_raises() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(SleepForeverError):
        run(main)


def test_a_sleep_of_a_month() -> None:
    async def main() -> float:
        await asyncio.sleep(30 * 86_400)
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(30 * 86_400)


def test_a_sleep_below_the_clocks_tick_ends() -> None:
    async def main() -> float:
        for _ in range(10):
            await asyncio.sleep(1e-9)
        return asyncio.get_running_loop().time()

    assert run(main) <= 1e-4


def test_a_jump_of_the_wall_clock_moves_no_interval_and_no_age() -> None:
    async def main() -> list[Any]:
        loop: Any = asyncio.get_running_loop()
        source: rx.Subject[str] = rx.Subject()
        windows: list[Any] = []
        source.pipe(rxo.compact(10, key_mapper=str)).subscribe(windows.append)
        clock = Clock(default_scheduler())
        assert clock.wall() == START
        await asyncio.sleep(4)
        source.on_next("a")
        loop.jump(3600)
        await asyncio.sleep(5)
        assert windows == []
        assert clock.wall() == START + 9
        loop.jump(-7200)
        await asyncio.sleep(1.1)
        return windows

    (window,) = run(main)
    assert (window.opened, window.closed) == (START, START + 10)
    assert window[0].first_seen == START + 4


HOUR = [{"ts": START + n * 0.36, "id": n * 7919 % 31} for n in range(10_000)]


def test_replay_of_an_hour_is_quick_and_the_same_each_time() -> None:
    def once() -> str:
        return repr([list(w) for w in replay(HOUR, rxo.compact(10, key_mapper="id"), time_mapper="ts")])

    real = time.monotonic()
    first = once()
    assert time.monotonic() - real < 60
    assert first == once()

    async def in_a_notebook() -> str:
        return once()

    assert first == asyncio.run(in_a_notebook())


def test_replay_is_the_same_in_another_process() -> None:
    program = (
        "from rxcompact import operators as rxo; from rxcompact.testing import *;"
        "e = [{'ts': START + n * 3, 'id': f'k{n % 5}'} for n in range(99)];"
        "api = SimulatedApi(latency=(1, 9), error_rate=0.5);"
        "stages = rxo.compact(10, key_mapper='id'), rxo.enrich(api, max_age=60.0);"
        "print(replay(e, *stages, time_mapper='ts'), api.calls)"  # with what jitter gave
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_replay_gives_stock_operators_the_same_time() -> None:
    buffers = replay(HOUR[:1000], ops.buffer_with_time(10.0), time_mapper="ts")
    windows = replay(HOUR[:1000], rxo.compact(10, key_mapper="id"), time_mapper="ts")
    assert [len(buffer) for buffer in buffers if buffer] == [window.received for window in windows]


def test_replay_keeps_disorder_and_pushes_what_has_no_time() -> None:
    events = [
        {"ts": START},
        {"ts": START + 5},
        {"ts": START + 1},
        {},
        {"ts": 1e11},
        {"ts": float("nan")},
        {"ts": START + 400_000},
    ]
    stamped = replay(events, ops.timestamp(), time_mapper="ts")
    assert [round(s.timestamp.timestamp() - START, 3) for s in stamped] == [0, 5, 5, 5, 5, 5, 400_000]


def test_replay_raises_what_the_stream_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        replay(HOUR[:3], ops.map(lambda _: 1 / 0), time_mapper="ts")

    with pytest.raises(StopIteration):  # which neither a future nor a coroutine can carry
        replay(HOUR[:3], ops.map(lambda _: next(iter(()))), time_mapper="ts")


def test_run_takes_a_coroutine_and_cancels_what_is_left() -> None:
    left: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            left.append("cancelled")
            raise

    async def main(answer: int) -> int:
        task = asyncio.create_task(background())
        await asyncio.sleep(1)
        assert not task.done()
        return answer

    assert run(main(42)) == 42
    assert left == ["cancelled"]


def test_virtual_time_is_only_where_it_runs() -> None:
    with pytest.raises(LoopError):
        virtual_loop()

    async def real() -> None:
        virtual_loop()

    with pytest.raises(LoopError):
        asyncio.run(real())


def test_in_a_running_loop_it_sees_the_callers_context() -> None:
    name = contextvars.ContextVar("name", default="nobody")

    async def main() -> str:
        await asyncio.sleep(60)
        return name.get()

    async def cell() -> str:
        name.set("somebody")
        return run(main)

    assert asyncio.run(cell()) == "somebody"


def test_interrupting_the_cell_interrupts_a_replay_without_end() -> None:
    async def cell() -> None:
        replay([{"ts": 0.0}, {"ts": START}], ops.buffer_with_time(1.0), time_mapper="ts")

    # as a notebook's kernel runs a cell: asyncio.run would take the signal for itself
    loop = asyncio.new_event_loop()
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    timer = threading.Timer(0.3, signal.pthread_kill, (main_thread, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell())
    finally:
        timer.join()
        loop.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rxcompact virtual")]


def test_without_the_extra_the_error_names_what_to_install() -> None:
    program = "import sys; sys.modules['async_solipsism'] = None; import rxcompact.testing"
    failed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert 'pip install "rxcompact[testing]"' in failed.stderr


@pytest.mark.parametrize("start", [0.0, START, START + 0.1, 1_600_000_000 + 1 / 3])
def test_an_event_on_a_windows_bound_belongs_to_the_next_window(start: float) -> None:
    events = [{"ts": start + n / 10, "id": n % 3} for n in range(6000)]
    assert {len(buffer) for buffer in replay(events, ops.buffer_with_time(10.0), time_mapper="ts")} == {100}
    assert {w.received for w in replay(events, rxo.compact(10, key_mapper="id"), time_mapper="ts")} == {100}


def test_days_without_events_pass_quickly() -> None:
    events = [{"ts": START, "id": 1}, {"ts": START + 3 * 86_400, "id": 1}]
    real = time.monotonic()
    windows = replay(events, rxo.compact(10, key_mapper="id"), time_mapper="ts")
    assert time.monotonic() - real < 60
    assert [w.opened - START for w in windows] == [0, 3 * 86_400]


def test_times_before_1970_are_times() -> None:
    stamped = replay([{"ts": -1e9}, {"ts": -1e9 + 5}], ops.timestamp(), time_mapper="ts")
    assert [s.timestamp.timestamp() for s in stamped] == [-1e9, -1e9 + 5]


def test_replay_ends_with_the_stream() -> None:
    pushed: list[Any] = []
    assert replay(HOUR, ops.do_action(pushed.append), ops.take(1), time_mapper="ts") == HOUR[:1]
    assert len(pushed) == 1


def test_a_replay_that_can_never_end_raises() -> None:
    with pytest.raises(SleepForeverError):
        replay(HOUR[:3], lambda _: rx.never(), time_mapper="ts")


def test_replay_waits_for_what_is_under_way_and_repeats_it_to_the_byte() -> None:
    def once() -> str:
        api = SimulatedApi(latency=(1, 30), error_rate=0.3, outages=[(START + 60, START + 90)], rate=50)
        enriched = replay(
            HOUR[:1000], rxo.compact(10, key_mapper="id"), rxo.enrich(api, max_age=3600.0), time_mapper="ts"
        )
        assert len(enriched) == sum(
            len({e["id"] for e in HOUR[:1000] if (e["ts"] - START) // 10 == n}) for n in range(36)
        )
        return repr((enriched, api.calls))

    first = once()
    assert first == once()

    async def in_a_notebook() -> str:
        return once()

    assert first == asyncio.run(in_a_notebook())


OVERFLOW = get_args(Overflow)
quarters = st.lists(st.integers(0, 400), max_size=60)
choices = st.fixed_dictionaries(
    {"keep": st.sampled_from(["first", "last"]), "fields": st.sampled_from([["first_seen"], ["count", "last_seen"]])},
    optional={"time_mapper": st.just("ts"), "max_keys": st.integers(1, 5), "overflow": st.sampled_from(OVERFLOW)},
)


@given(quarters, choices, st.sampled_from([None, 0, 3, 1e9]), st.booleans())
def test_d7_a_replay_in_chunks_gives_what_event_by_event_gives(
    found: list[int], options: dict[str, Any], lateness: float | None, sort: bool
) -> None:
    times = [START + at / 4 if at % 13 else None for at in (sorted(found) if sort else found)]
    events = [{"ts": at, "id": number * 7 % 4} for number, at in enumerate(times)]
    if lateness is not None:
        options = options | {"lateness": lateness, "time_mapper": "ts"}

    def windows(*more: Any) -> Any:
        letters: list[Any] = []
        compact = rxo.compact(10, key_mapper="id", dead_letters=letters.append, **options)
        try:
            result: Any = replay(events, compact, *more, time_mapper="ts", start=START)
        except NoRoomError as error:
            result = str(error)
        # those of a chunk are in the order of what is wrong with them
        return result, sorted(str((each.outcome, each.event, each.reason)) for each in letters)

    assert windows() == windows(ops.map(lambda window: window))


halves = st.lists(st.integers(0, 300), min_size=1, max_size=40).map(
    lambda found: [n + 0.5 for n in sorted(found)]
)  # on no bound


@given(halves)
def test_replay_gives_what_rxpys_own_virtual_time_gives(times: list[float]) -> None:
    scheduler = TestScheduler()
    end = times[-1]
    hot = scheduler.create_hot_observable(
        *(ReactiveTest.on_next(200 + t, t) for t in times), ReactiveTest.on_completed(200 + end)
    )
    observer = scheduler.start(lambda: hot.pipe(ops.buffer_with_time(10.0)), disposed=1000)
    expected = [(m.time - 200, m.value.value) for m in observer.messages if m.value.kind == "N"]

    events = [{"ts": START + t, "t": t} for t in times]
    operators = (ops.map(itemgetter("t")), ops.buffer_with_time(10.0), ops.timestamp())
    replayed = replay(events, *operators, time_mapper="ts", start=START)
    assert [(s.timestamp.timestamp() - START, s.value) for s in replayed] == expected
