"""Virtual time: one clock that drives RxPY's timers and asyncio alike, for your tests and ours."""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import accumulate, chain, islice
from math import inf
from operator import le
from typing import TYPE_CHECKING, Any, TypeVar

from reactivex import Observable
from reactivex.subject import Subject

from rxcompact.clock import LoopScheduler
from rxcompact.errors import LoopError, RateLimitedError, TransientError
from rxcompact.frames import rows
from rxcompact.mappers import Column, Known, Mapper, TimeSpec, time_of
from rxcompact.operators.compact import Compact

if TYPE_CHECKING:
    Solipsistic = asyncio.SelectorEventLoop
else:
    try:
        from async_solipsism import EventLoop as Solipsistic
    except ImportError as error:
        raise ImportError('virtual time needs an extra: pip install "rxcompact[testing]"') from error

T = TypeVar("T")

DAY = 86_400.0
TICK = 1e-6
TOGETHER = 1_000  # events of a replay whose times are looked up at once
START = 1_700_000_000.0
YEAR_ONE = -62_135_596_800.0
"""Before the first instant that a datetime can show, in every timezone; and the time that Go calls zero."""


class VirtualLoop(Solipsistic):
    """An asyncio loop in virtual time: when nothing is ready, its clock goes to the next timer.

    Without a next timer it raises: a hang.

    Args:
        start: The wall clock at the beginning, POSIX seconds.
    """

    def __init__(self, start: float = START) -> None:
        super().__init__()
        self._wall = start
        self.interrupted = False
        """Set from another thread, it makes the loop raise KeyboardInterrupt, once."""
        selector: Any = self._selector  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        select: Callable[[float | None], list[Any]] = selector.select

        def select_or_advance(timeout: float | None = None) -> list[Any]:
            if self.interrupted:
                self.interrupted = False
                raise KeyboardInterrupt
            # asyncio selects for at most a day; async-solipsism takes that for a sleep without end
            if timeout is None or timeout < DAY:
                # and its clock does not advance by less than a tick
                return select(max(timeout, TICK) if timeout else timeout)
            ready = select(0)
            if not ready:
                selector.clock.advance(timeout)
            return ready

        selector.select = select_or_advance

    def wall(self) -> float:
        """Return the wall clock, POSIX seconds."""
        return self._wall + self.time()

    def next_timer(self) -> float:
        """Return what the wall clock shows when the next timer is due; infinity where there is none."""
        timers: list[asyncio.TimerHandle] = vars(self)["_scheduled"]
        return self._wall + min((timer.when() for timer in timers[:1]), default=inf)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back; intervals are not affected."""
        self._wall += seconds


def virtual_loop() -> VirtualLoop:
    """Return the running loop.

    Raises:
        LoopError: when time is real, or no loop runs.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if not isinstance(loop, VirtualLoop):
        raise LoopError("this needs virtual time: call it in rxcompact.testing.run")
    return loop


def run(
    main: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T], *, start: float = START, seed: int = 0
) -> T:
    """Run a coroutine, or a function that makes one, in virtual time, as `asyncio.run` does in real time.

    Operators and `asyncio.sleep` inside it take the loop's time by themselves. Where a loop is running already, as in a
    notebook, it runs on another thread and returns when that is done: asyncio does not nest. Interrupting the cell
    interrupts it.

    Args:
        main: A function is called without arguments.
        start: The wall clock at the beginning, POSIX seconds.
        seed: Of the `random` module, which jitter is taken from; its state is put back.

    Raises:
        async_solipsism.SleepForeverError: when everything waits and nothing is scheduled: a hang.
    """
    loop = VirtualLoop(start)

    def runner() -> T:
        state = random.getstate()
        random.seed(seed)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as virtual:
                return virtual.run(main if isinstance(main, Coroutine) else main())
        finally:
            random.setstate(state)

    try:
        nested = asyncio.get_running_loop()
    except RuntimeError:
        nested = None
    if nested is None:  # not in the clause above, which would be in each traceback
        return runner()
    with ThreadPoolExecutor(1, "rxcompact virtual time") as thread:
        running = thread.submit(copy_context().run, runner)
        try:
            return running.result()
        except KeyboardInterrupt:
            loop.interrupted = True  # or leaving would wait for the thread
            raise


def replay(
    events: Iterable[Any],
    *operators: Callable[[Observable[Any]], Observable[Any]],
    time_mapper: TimeSpec,
    start: float | None = None,
) -> list[Any]:
    """Run operators over history in virtual time: an hour in milliseconds.

    Events are pushed in their order, each when the clock shows the largest event time so far, so that what was in
    disorder still is. One without a time, or of a time more than a day in the real future, is pushed in its place.
    Same input, same output.

    Time passes from timer to timer, so a gap costs what the operators' timers in it cost; where the first event may be
    ages too early (such as a time of 0), give ``start``.

    Args:
        events: What happened; a frame's rows.
        operators: As in `.pipe()`.
        time_mapper: A field's name, or a function of the event that returns its time, see `time_of`.
        start: When to begin, POSIX seconds; by default at the first event.

    Returns:
        What the operators emitted, until they completed.

    Raises:
        Exception: what the stream ended with, if it did.
        async_solipsism.SleepForeverError: when the stream can never end: a hang.
    """
    history = events if isinstance(events, list) else list(events if (frame := rows(events)) is None else frame)
    mapper = time_of(time_mapper)
    # no longer than they are needed: the garbage collector would look through them again and again
    parts = (history[at : at + TOGETHER] for at in range(0, len(history), TOGETHER))
    stretches = ((part, mapper.many(part)) for part in parts)
    read = list[tuple[list[Any], Column]]()
    for part, times in stretches if start is None else ():
        read.append((part, times))
        if clock := arrivals(times):
            start = clock[0]
            break
    latest = START if start is None else start
    known = Known(Column(()))
    in_chunks = _in_chunks(operators, mapper, known)
    by_arrival = getattr(operators[0], "time_mapper", None) is None if in_chunks else False

    emitted: list[Any] = []
    failures: list[Exception] = []

    async def main() -> None:
        loop = virtual_loop()
        source: Subject[Any] = Subject()
        ended = asyncio.Event()

        def fail(error: Exception) -> None:
            failures.append(error)
            ended.set()

        source.pipe(*(in_chunks or operators)).subscribe(
            emitted.append,
            fail,
            ended.set,
            scheduler=LoopScheduler(loop),  # for stock operators, which would take a thread and real time
        )
        clock: Sequence[float] = (latest,)
        for part, times in chain(read, stretches):
            clock = arrivals(times, clock[-1])
            known.go_on(Column(clock) if by_arrival else times)
            at = 0
            while at < len(part) and not ended.is_set():  # by `take`, or an error
                # until the next timer all that may happen is that events come
                end = max(at + 1, bisect_left(clock, loop.next_timer())) if in_chunks else at + 1
                delay = clock[end - 1] - loop.wall()
                if delay > 0:
                    await asyncio.sleep(delay)
                source.on_next(part[at:end] if in_chunks else part[at])
                at = end
            if ended.is_set():
                break
        source.on_completed()
        await ended.wait()

    run(main, start=latest)
    if failures:
        raise failures[0]  # here, since no coroutine may raise StopIteration
    return emitted


def arrivals(times: Column, start: float | None = None) -> Sequence[float]:
    """Return what the clock shows as each event arrives: the largest time so far; nothing where none has a time.

    One without a time, or of a time more than a day in the real future, arrives with the one before it.
    """
    latest = time.time() + DAY
    least = YEAR_ONE if start is None else start
    in_order = times and not times.errors and all(map(le, times, islice(times, 1, None)))
    if in_order and least < times[0] and times[-1] <= latest:  # as most are
        return times
    known = [at if at is not None and YEAR_ONE < at <= latest else -inf for at in times]
    first = next((at for at in known if at > -inf), None) if start is None else start
    return [] if first is None else list(accumulate(known, max, initial=first))[1:]


def _in_chunks(operators: Sequence[Any], mapper: Mapper, known: Mapper) -> Sequence[Any]:
    """Return the operators such that they take chunks, where that gives the same: `compact` alone, closed by time."""
    if len(operators) != 1 or not isinstance(operators[0], Compact) or operators[0].chunked:
        return ()
    (compact,) = operators
    if compact.max_keys is not None or compact.count is not None or compact.leading or compact.per_key:
        return ()
    own = compact.time_mapper  # they need not be looked up again
    return (compact.having(chunked=True, time_mapper=known if own is None or own is mapper else own),)


@dataclass(kw_only=True, eq=False, repr=False)
class SimulatedApi:
    """A service in virtual time: an enricher that is slow, fails, limits, and is down now and then.

    Args:
        latency: Seconds a call takes; with two numbers, somewhere between.
        error_rate: Share of calls that fail, 0 to 1.
        outages: Spans of the wall clock, POSIX seconds, in which all calls fail.
        rate: Calls a second it takes; one too many gets a Retry-After.
        seed: Of what is random in it.
    """

    latency: float | tuple[float, float] = 0.005
    error_rate: float = 0.0
    outages: Sequence[tuple[float, float]] = ()
    rate: float | None = None
    seed: int = 0
    calls: list[tuple[float, Any]] = field(default_factory=list, init=False)
    """When it was called, POSIX seconds, and with which event."""

    def __post_init__(self) -> None:
        self._free = 0.0
        self._random = random.Random(self.seed)

    async def __call__(self, event: Any) -> Any:
        loop = virtual_loop()
        now = loop.wall()
        self.calls.append((now, event))
        if self.rate is not None:
            if now < self._free - 1.0:
                raise RateLimitedError(retry_after=self._free - now)
            self._free = max(now, self._free) + 1 / self.rate
        least, most = self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)
        await asyncio.sleep(self._random.uniform(least, most))
        if any(start <= now < end for start, end in self.outages):
            raise TransientError("down")
        if self._random.random() < self.error_rate:
            raise TransientError("failed")
        return {"enriched": event}
