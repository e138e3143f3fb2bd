"""rxcompact.testing: virtual time and replay."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import pytest
import reactivex as rx
from async_solipsism import SleepForeverError
from reactivex import operators as ops

from rxcompact import operators as rxo
from rxcompact.clock import Clock, default_scheduler
from rxcompact.testing import START, replay, run


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
    assert time.monotonic() - real < 1
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
    assert time.monotonic() - real < 5
    assert first == once()

    async def in_a_notebook() -> str:
        return once()

    assert first == asyncio.run(in_a_notebook())


def test_replay_is_the_same_in_another_process() -> None:
    program = (
        "from rxcompact import operators as rxo; from rxcompact.testing import *;"
        "e = [{'ts': START + n * 3, 'id': f'k{n % 5}'} for n in range(99)];"
        "print([list(w) for w in replay(e, rxo.compact(10, key_mapper='id'), time_mapper='ts')])"
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
