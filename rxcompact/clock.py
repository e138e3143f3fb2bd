"""The seconds of a scheduler or loop: a monotonic clock for intervals, a wall clock for ages."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from operator import index
from typing import Any, TypeAlias, TypeVar

from reactivex.abc import DisposableBase, ScheduledAction, SchedulerBase
from reactivex.disposable import Disposable, SingleAssignmentDisposable
from reactivex.scheduler import EventLoopScheduler
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.scheduler.scheduler import Scheduler
from reactivex.typing import RelativeTime

from rxcompact.errors import ArgumentError

T = TypeVar("T")
Seconds: TypeAlias = float | timedelta
"""A duration: seconds, or a timedelta."""


def seconds(argument: str, value: Seconds, *, zero: bool = False, infinite: bool = False) -> float:
    """Return a duration in seconds; NumPy's numbers and ``timedelta64`` are taken too.

    Raises:
        ArgumentError: when it is none, negative, zero without ``zero``, or infinite without ``infinite``.
    """
    number: Any = value
    if hasattr(number, "item"):  # NumPy's: a timedelta64 of less than a microsecond gives nanoseconds
        number = number.astype("timedelta64[us]").item() if "timedelta" in str(number.dtype) else number.item()
    if isinstance(number, timedelta):
        number = number.total_seconds()
    expected = "a duration in seconds, 0 or more" if zero else "a duration above 0 s"
    if isinstance(number, bool) or not isinstance(number, float | int):
        raise ArgumentError(argument, value, expected)
    if not (0 <= number < float("inf") or (infinite and number == float("inf"))) or (number == 0 and not zero):
        raise ArgumentError(argument, value, expected)
    return float(number)


def count(argument: str, value: int, *, minimum: int = 1) -> int:
    """Return a whole number; NumPy's are taken too.

    Raises:
        ArgumentError: when it is none, or less than ``minimum``.
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or number < minimum:
        raise ArgumentError(argument, value, f"a whole number, at least {minimum}")
    return number


def monotonic_wall_clock(wall: Callable[[], float], monotonic: Callable[[], float]) -> Callable[[], float]:
    """Return a wall clock that is read once and then runs by the monotonic one.

    When someone sets the system's clock, no event becomes older or younger by it.
    """
    epoch = wall() - monotonic()
    return lambda: epoch + monotonic()


class LoopScheduler(AsyncIOScheduler):
    """RxPY's asyncio scheduler with clocks of its own; `AsyncIOScheduler.now` is the system's even on a virtual loop.

    It may be used from any thread: its timers are the loop's all the same.

    Args:
        loop: Runs the timers; its ``time()`` is the monotonic clock. A loop in virtual time says by an attribute
            ``wall`` how to get its POSIX seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.loop = loop
        self.wall = monotonic_wall_clock(getattr(loop, "wall", time.time), loop.time)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)

    def schedule(self, action: ScheduledAction[T], state: T | None = None) -> DisposableBase:
        if is_running(self.loop):
            return super().schedule(action, state)
        return self._from_elsewhere(partial(super().schedule, action, state))

    def schedule_relative(
        self, duetime: RelativeTime, action: ScheduledAction[T], state: T | None = None
    ) -> DisposableBase:
        if is_running(self.loop):
            return super().schedule_relative(duetime, action, state)
        return self._from_elsewhere(partial(super().schedule_relative, duetime, action, state))

    def _from_elsewhere(self, schedule: Callable[[], DisposableBase]) -> DisposableBase:
        timer = SingleAssignmentDisposable()

        def arm() -> None:
            timer.disposable = schedule()

        def dispose() -> None:
            call_soon_threadsafe_or_now(self.loop)(timer.dispose)

        self.loop.call_soon_threadsafe(arm)  # a loop that sleeps would not notice another thread's timer
        return Disposable(dispose)


class Clock:
    """The two clocks of a scheduler.

    Attributes:
        wall: POSIX seconds, for ages; set when this was made, it does not jump when the system's clock does.
        monotonic: Seconds of no particular epoch, for intervals; never goes back.
        soon: Calls a function in the next turn of the scheduler's loop, from whatever thread; None where it has none.
    """

    __slots__ = ("monotonic", "soon", "wall")

    def __init__(self, scheduler: SchedulerBase) -> None:
        self.wall: Callable[[], float]
        self.monotonic: Callable[[], float]
        self.soon: Callable[[Callable[[], None]], object] | None = None
        if isinstance(scheduler, AsyncIOScheduler):
            self.soon = call_soon_threadsafe_or_now(scheduler._loop)  # pyright: ignore[reportPrivateUsage]
        elif isinstance(scheduler, TimerThread):
            self.soon = lambda action: scheduler.schedule(lambda *_: action())
        if isinstance(scheduler, LoopScheduler):
            self.wall, self.monotonic = scheduler.wall, scheduler.loop.time
        elif isinstance(scheduler, AsyncIOScheduler):
            self.monotonic = scheduler._loop.time  # pyright: ignore[reportPrivateUsage]
            self.wall = monotonic_wall_clock(time.time, self.monotonic)
        elif isinstance(scheduler, TimerThread) or type(scheduler).now is Scheduler.now:
            self.monotonic = time.monotonic
            self.wall = monotonic_wall_clock(time.time, self.monotonic)
        else:  # virtual time: one clock is both

            def now() -> float:
                return scheduler.now.timestamp()

            self.wall = self.monotonic = now


def is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether this is a loop's own thread, while it runs."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def call_soon_threadsafe_or_now(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], None]], object]:
    """Return what calls a function in a loop's next turn, from whatever thread."""

    def soon(action: Callable[[], None]) -> None:
        (loop.call_soon if is_running(loop) else loop.call_soon_threadsafe)(action)

    return soon


class TimerThread(EventLoopScheduler):
    """One thread for the timers of all operators that run outside asyncio.

    Its `now` does not follow jumps of the wall clock, and an action that raises ends no other's timers.
    """

    def __init__(self) -> None:
        super().__init__(lambda target: threading.Thread(target=target, name="rxcompact timers", daemon=True))
        self._wall = monotonic_wall_clock(time.time, time.monotonic)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

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
