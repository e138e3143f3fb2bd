"""compact: tumbling windows of distinct events."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, Disposable, SerialDisposable, SingleAssignmentDisposable

from rxcompact.clock import Clock, Seconds, default_scheduler, seconds
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter, Window
from rxcompact.operators.bucket import FIELDS, Field, Keep
from rxcompact.operators.eventtime import EventTimeWindows
from rxcompact.operators.observing import Probe, as_callback, log_dead_letter
from rxcompact.operators.options import Mapper, Options, Overflow
from rxcompact.operators.tumbling import TumblingWindows
from rxcompact.operators.windows import field_mapper

DAY = 86_400.0


def compact(
    timespan: Seconds,
    *,
    key_mapper: Mapper | str,
    count: int | None = None,
    keep: Keep = "first",
    fields: Collection[Field] = FIELDS,
    time_mapper: Mapper | str | None = None,
    lateness: Seconds | None = None,
    tolerance: Seconds = DAY,
    chunked: bool = False,
    max_keys: int | Callable[[], int] | None = None,
    overflow: Overflow = "error",
    flushes: Observable[Any] | None = None,
    dead_letters: ObserverBase[DeadLetter] | Callable[[DeadLetter], object] | None = None,
    probe: Probe | None = None,
    scheduler: SchedulerBase | None = None,
) -> Callable[[Observable[Any]], Observable[Window]]:
    """Gather events into tumbling windows in which each key occurs once.

    Without ``lateness``, windows of processing time::

        source    --a-b-a-a--|--b-b-----|----------|--c-|
                  compact(10, key_mapper=…)
        windows   -----------[a3 b1]----[b2]------------[c1]|

    which is `buffer_with_time(timespan)` with a `distinct(key_mapper)` on each buffer, less the empty buffers.

    With ``lateness``, buckets of event time, aligned to the epoch. Several may be open. The watermark is the largest
    event time of all earlier events less the lateness; an event whose bucket ends at or before it is late, a dead
    letter. A source that falls idle has its buckets closed by the clock, as if event time had gone on.

    Args:
        timespan: Length of a window, seconds.
        key_mapper: Gives an event's key, hashable; or a field's name, which is faster than a lambda. A mapper that has
            a method ``many(events) -> keys`` is given whole chunks.
        count: Close a window also when it holds this many distinct keys, which bounds it. The next one then starts.
        keep: The event to keep for a key: the ``"first"``, the ``"last"``, or what ``accumulator(acc, event)`` makes
            of all, seeded by the first.
        fields: What to keep besides the event, of ``"count"``, ``"first_seen"`` and ``"last_seen"``. Counting costs
            more than deduplicating; ``first_seen`` alone costs next to nothing.
        time_mapper: Gives an event's time, POSIX seconds; or a field's name. ``first_seen`` and ``last_seen`` are then
            the earliest and latest event time, else arrivals.
        lateness: Use event time, and wait this long for stragglers, seconds, 0 or more.
        tolerance: Reject an event whose time is further ahead of the wall clock than this, seconds; with ``lateness``.
        chunked: Items of the source are lists of events.
        max_keys: Hold at most this many keys; asked for each time where it is a function.
        overflow: What a new key meets when ``max_keys`` are held: ``"drop_oldest"``, ``"drop_newest"``, or ``"error"``.
            A key that is held is always absorbed.
        flushes: On each of its items the open windows close, with the trigger "drain".
        dead_letters: Told of every event set aside; by default they are logged, without the event.
        probe: Called at subscription with an object whose ``held()`` counts the keys inside.
        scheduler: Its clock and timers; by default the subscription's, the running asyncio loop's, or one thread
            shared by all operators.

    Shape:
        `Observable[event]` to `Observable[Window]`; or `Observable[list[event]]` where ``chunked``. Windows in order of
        their ends, keys in order of arrival. Holds the distinct keys of the open windows.

    Cost:
        O(1) an event; a chunk is worked off in C.

    Errors:
        An event whose key or time cannot be had, or whose key is unhashable, becomes a rejected dead letter with the
        reason ``"key"``, ``"time"``, ``"late"`` or ``"future"``; its neighbours go on. When the source fails, what is
        held is emitted before the error. When disposed, what is held becomes dead letters, "abandoned".
        `NoRoomError` where ``overflow="error"``.

    Raises:
        ArgumentError: for an argument out of range.

    Source:
        https://reactivex.io/documentation/operators/window.html, .../distinct.html;
        watermarks: https://research.google/pubs/pub43864/ (the Dataflow model).
    """
    if isinstance(max_keys, int) and max_keys < 1:
        raise ArgumentError("max_keys", max_keys, "at least 1")
    options = Options(
        timespan=seconds("timespan", timespan),
        key_mapper=field_mapper(key_mapper),
        count=count,
        keep=keep,
        fields=frozenset(fields),
        time_mapper=field_mapper(time_mapper) if time_mapper else None,
        lateness=None if lateness is None else seconds("lateness", lateness, zero=True),
        tolerance=seconds("tolerance", tolerance, zero=True),
        room=(lambda: max_keys) if isinstance(max_keys, int) else max_keys,
        overflow=overflow,
    )
    reject = log_dead_letter if dead_letters is None else as_callback(dead_letters)
    kind = TumblingWindows if lateness is None else EventTimeWindows

    def operator(source: Observable[Any]) -> Observable[Window]:
        def subscribe(observer: ObserverBase[Window], scheduler_: SchedulerBase | None = None) -> DisposableBase:
            timers = scheduler or scheduler_ or default_scheduler()
            open_windows = kind(options, Clock(timers), observer, reject)
            if probe is not None:
                probe(open_windows)
            timer = SerialDisposable()
            subscription = CompositeDisposable(timer)

            def arm() -> None:
                if timer.is_disposed:
                    return
                # no longer than a thread's timer can be; a tick that comes early does nothing
                delay = min(max(0.0, open_windows.due() - open_windows.clock.monotonic()), DAY)
                # in its place before it can fire: on another thread its own successor may be armed first
                timer.disposable = armed = SingleAssignmentDisposable()
                armed.disposable = timers.schedule_relative(delay, tick)

            def tick(_: SchedulerBase, __: Any = None) -> None:
                try:
                    open_windows.tick()
                finally:
                    arm()  # whatever an observer raised: the next window must close too

            arm()
            if flushes is not None:
                subscription.add(flushes.subscribe(lambda _: open_windows.flush("drain"), scheduler=scheduler_))
            add = open_windows.add_many if chunked else open_windows.taker()
            subscription.add(source.subscribe(add, open_windows.fail, open_windows.complete, scheduler=scheduler_))
            subscription.add(Disposable(open_windows.abandon))
            return subscription

        return Observable(subscribe)

    return operator
