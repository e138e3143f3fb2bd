"""The seconds of a scheduler or loop: a monotonic clock for intervals, a wall clock for ages."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeAlias

from reactivex.abc import DisposableBase, ScheduledAction, SchedulerBase
from reactivex.disposable import Disposable
from reactivex.scheduler import EventLoopScheduler
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.scheduler.scheduler import Scheduler

from rxcompact.errors import ArgumentError

Seconds: TypeAlias = float | timedelta
"""A duration: seconds, or a timedelta."""


def seconds(argument: str, value: Seconds, *, zero: bool = False) -> float:
    """Return a duration in seconds.

    Raises:
        ArgumentError: when it is negative, not finite, or zero and ``zero`` is not allowed.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if not (0 <= number < float("inf")) or (number == 0 and not zero):
        raise ArgumentError(argument, value, "a duration in seconds, 0 or more" if zero else "a duration above 0 s")
    return float(number)


class LoopScheduler(AsyncIOScheduler):
    """RxPY's asyncio scheduler with clocks of its own: intervals by the loop, ages by ``wall``.

    `AsyncIOScheduler.now` is the system's clock even where the loop's time is virtual.

    Args:
        loop: Runs the timers; its ``time()`` is the monotonic clock.
        wall: Gives POSIX seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wall: Callable[[], float] = time.time) -> None:
        super().__init__(loop)
        self.loop = loop
        self.wall = wall

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)


class Clock:
    """The two clocks of a scheduler.

    Attributes:
        wall: POSIX seconds, for ages; may jump.
        monotonic: Seconds of no particular epoch, for intervals; never goes back.
    """

    __slots__ = ("monotonic", "wall")

    def __init__(self, scheduler: SchedulerBase) -> None:
        self.wall: Callable[[], float]
        self.monotonic: Callable[[], float]
        if isinstance(scheduler, LoopScheduler):
            self.wall, self.monotonic = scheduler.wall, scheduler.loop.time
        elif isinstance(scheduler, AsyncIOScheduler):
            self.wall, self.monotonic = time.time, scheduler._loop.time  # pyright: ignore[reportPrivateUsage]
        elif isinstance(scheduler, TimerThread) or type(scheduler).now is Scheduler.now:
            self.wall, self.monotonic = time.time, time.monotonic
        else:  # virtual time: one clock is both

            def now() -> float:
                return scheduler.now.timestamp()

            self.wall = self.monotonic = now


class TimerThread(EventLoopScheduler):
    """One thread for the timers of all operators that run outside asyncio.

    Its `now` does not follow jumps of the wall clock, and an action that raises ends no other's timers.
    """

    def __init__(self) -> None:
        super().__init__(lambda target: threading.Thread(target=target, name="rxcompact timers", daemon=True))
        self._epoch = time.time() - time.monotonic()

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._epoch + time.monotonic(), UTC)

    def invoke_action(self, action: ScheduledAction[Any], state: Any = None) -> DisposableBase:
        try:
            return super().invoke_action(action, state)
        except Exception as error:  # noqa: BLE001 - whatever an observer raises
            sys.excepthook(type(error), error, error.__traceback__)
            return Disposable()


_timer_thread = cache(TimerThread)


def default_scheduler() -> SchedulerBase:
    """Return the running asyncio loop's scheduler, else the one timer thread."""
    try:
        return LoopScheduler(asyncio.get_running_loop())
    except RuntimeError:
        return _timer_thread()
