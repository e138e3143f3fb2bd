"""The seconds of a scheduler or loop: a monotonic clock for intervals, a wall clock for ages."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from heapq import heapify
from math import inf
from operator import index
from typing import Any, TypeAlias, TypeVar

from reactivex.abc import DisposableBase, ScheduledAction, SchedulerBase
from reactivex.disposable import Disposable, SingleAssignmentDisposable
from reactivex.scheduler import (
    EventLoopScheduler,
    ImmediateScheduler,
    NewThreadScheduler,
    ScheduledItem,
    TimeoutScheduler,
    TrampolineScheduler,
)
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.scheduler.scheduler import Scheduler
from reactivex.typing import AbsoluteTime, RelativeTime

from rxcompact.errors import ArgumentError, LoopError
from rxcompact.log import log

T = TypeVar("T")
Seconds: TypeAlias = float | timedelta
"""A duration: seconds, or a timedelta."""
PerSecond: TypeAlias = float
"""How often in a second."""
INFINITY = float("inf")
TICK = 1e-6
"""Timers count in microseconds: what is due in less than one is due."""
STEP = 1.0
"""Seconds by which the system's wall clock differs when it was set."""
SLACK = 1e-3
PAST = 64
"""Steps of the wall clock that are remembered."""
NO_TIMERS = (ImmediateScheduler, NewThreadScheduler, TimeoutScheduler, TrampolineScheduler)


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
    valid = isinstance(number, float | int) and not isinstance(number, bool) and 0 <= number <= inf
    if not valid or (number == 0 and not zero) or (number == inf and not infinite):
        raise ArgumentError(argument, value, "a duration in seconds, 0 or more" if zero else "a duration above 0 s")
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


class WallClock:
    """A wall clock that runs by a monotonic one, so that it jumps only when it is set by the system's."""

    def __init__(self, system: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._system, self._monotonic = system, monotonic
        self._since = monotonic()
        self.offset = system() - self._since
        """What makes POSIX seconds of monotonic ones."""
        self.past: deque[tuple[float, float, float]] = deque(maxlen=PAST)
        """Offsets that it had before it was set: from when, until when, how much."""

    def __call__(self) -> float:
        return self.offset + self._monotonic()

    def follow(self) -> float:
        """Read the system's clock; return by how much this one was set, seconds; 0 where it was right within one."""
        now = self._monotonic()
        offset = self._system() - now
        step = offset - self.offset
        if abs(step) < STEP:
            return 0.0
        self.past.append((self._since, now, self.offset))
        self._since, self.offset = now, offset
        log("WARNING", "the wall clock was set {} by {:.0f} s", "forward" if step > 0 else "back", abs(step))
        return step

    def instant(self, wall: float) -> float:
        """Return the monotonic instant at which this clock showed a POSIX time, or would have; at most now.

        What it showed before it was set is remembered: nothing grows older, or younger, by that. Where it showed a time
        more than once this is the last.
        """
        now = self._monotonic()
        spans = [*self.past, (-inf, now, self.offset)]
        shown = [wall - offset for began, ended, offset in spans if began - SLACK <= wall - offset <= ended + SLACK]
        return min(now, max(shown, default=now))


class LoopScheduler(AsyncIOScheduler):
    """RxPY's asyncio scheduler with the loop's clocks, usable from any thread.

    A loop in virtual time has a method ``wall`` that returns its POSIX seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.loop = loop
        self.wall = WallClock(getattr(loop, "wall", time.time), loop.time)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)

    def schedule(self, action: ScheduledAction[T], state: T | None = None) -> DisposableBase:
        return self._on_loop(partial(super().schedule, action, state))

    def schedule_relative(
        self, duetime: RelativeTime, action: ScheduledAction[T], state: T | None = None
    ) -> DisposableBase:
        return self._on_loop(partial(super().schedule_relative, duetime, action, state))

    def _on_loop(self, schedule: Callable[[], DisposableBase]) -> DisposableBase:
        if is_running(self.loop):
            return schedule()
        timer = SingleAssignmentDisposable()

        def arm() -> None:
            timer.disposable = schedule()

        def dispose() -> None:
            with suppress(RuntimeError):  # a closed loop runs no timers
                call_soon(self.loop, timer.dispose)

        self.loop.call_soon_threadsafe(arm)  # a loop that sleeps would not notice another thread's timer
        return Disposable(dispose)


class Clock:
    """The two clocks of a scheduler: ``monotonic`` for intervals, ``wall`` (POSIX seconds) for ages."""

    def __init__(self, scheduler: SchedulerBase) -> None:
        self.call_soon: Callable[[Callable[[], None]], object] | None = None
        """Calls a function in the scheduler's next turn, from any thread; None where it has no turns."""
        self.monotonic: Callable[[], float] = time.monotonic
        system = time.time
        if isinstance(scheduler, AsyncIOScheduler):
            loop = scheduler._loop  # pyright: ignore[reportPrivateUsage]
            self.call_soon, self.monotonic = partial(call_soon, loop), loop.time
        elif isinstance(scheduler, TimerThread):
            self.call_soon = lambda action: scheduler.schedule(lambda *_: action())
        elif type(scheduler).now is not Scheduler.now:  # virtual time: one clock is both
            self.monotonic = system = lambda: scheduler.now.timestamp()  # noqa: PLW0108 - `now` is another each time
        own: WallClock | None = getattr(scheduler, "wall", None)
        self.wall = own or WallClock(system, self.monotonic)


def is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether this is a loop's own thread, while it runs."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def running_loop(message: str) -> asyncio.AbstractEventLoop:
    """Return the running loop; raise LoopError with this message where none runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise LoopError(message) from None


def call_soon(loop: asyncio.AbstractEventLoop, action: Callable[[], object]) -> None:
    """Call a function in a loop's next turn, from any thread."""
    (loop.call_soon if is_running(loop) else loop.call_soon_threadsafe)(action)


class _Timer(ScheduledItem):
    def invoke(self) -> None:
        try:
            super().invoke()
        finally:
            self.clear()

    def clear(self) -> None:
        """Hold nothing, though the thread may hold this: the last that fired, and what is queued until it is due."""
        self.state, self.action = None, lambda *_: None


class TimerThread(EventLoopScheduler):
    """One thread for the timers of all operators that run outside asyncio, and one in each forked child.

    Its timers do not depend on the system's wall clock, and an action that raises ends no other's.
    """

    def __init__(self) -> None:
        super().__init__(lambda target: threading.Thread(target=target, name="rxcompact timers", daemon=True))
        self.wall = WallClock(time.time, time.monotonic)
        self._epoch = time.time() - time.monotonic()  # never set: what is queued is due when it was
        self._disposed = 0  # timers, since the last look through the queue
        os.register_at_fork(after_in_child=self._restart)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._epoch + time.monotonic(), UTC)

    def schedule_absolute(
        self, duetime: AbsoluteTime, action: ScheduledAction[T], state: T | None = None
    ) -> DisposableBase:
        item = _Timer(self, state, action, self.to_datetime(duetime))
        with self._condition:
            self._queue.enqueue(item)
            self._condition.notify()
            self._ensure_thread()
        return Disposable(partial(self._cancel, item))

    def _cancel(self, item: _Timer) -> None:
        item.cancel()
        item.clear()
        with self._condition:
            self._disposed += 1
            if 2 * self._disposed > len(self._queue):
                self._queue.items = [entry for entry in self._queue.items if not entry[0].is_cancelled()]
                heapify(self._queue.items)
                self._disposed = 0

    def _restart(self) -> None:
        """Start the thread anew in a forked child, which has none of its parent's."""
        self._condition = threading.Condition(threading.Lock())
        self._thread = None
        if self._queue:
            self._ensure_thread()

    def invoke_action(self, action: ScheduledAction[Any], state: Any = None) -> DisposableBase:
        try:
            return super().invoke_action(action, state)
        except BaseException as error:  # noqa: BLE001 - whatever an observer raises
            sys.excepthook(type(error), error, error.__traceback__)
            return Disposable()


_timer_thread = cache(TimerThread)


def default_scheduler(given: SchedulerBase | None = None) -> SchedulerBase:
    """Return the scheduler of an operator's timers.

    That is the one given, but for those of RxPY that start a thread for each timer, or sleep; by default that of the
    running asyncio loop, else the one timer thread. `Observable.run` gives one that starts threads.
    """
    if given is not None:
        return _timer_thread() if isinstance(given, NO_TIMERS) else given
    try:
        return LoopScheduler(asyncio.get_running_loop())
    except RuntimeError:
        return _timer_thread()
