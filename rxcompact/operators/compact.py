"""compact: tumbling windows of distinct events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from reactivex import Observable
from reactivex.abc import ObserverBase, SchedulerBase
from typing_extensions import TypeVar

from rxcompact.acks import PendingAcks
from rxcompact.clock import Seconds, default_scheduler, seconds
from rxcompact.clock import count as whole
from rxcompact.contracts import Overflow, StageContext
from rxcompact.errors import ArgumentError
from rxcompact.events import Window
from rxcompact.mappers import Mapper, TimeSpec, key_of, time_of
from rxcompact.operators.bucket import FIELDS, Field, Keep
from rxcompact.operators.kinds import EventTimeWindows, KeyedWindows, SessionWindows, TumblingWindows
from rxcompact.operators.operator import DeadLetters, Operator
from rxcompact.operators.windows import Windows

K = TypeVar("K", default=Any)
E = TypeVar("E", default=Any)


def compact(
    timespan: Seconds,
    *,
    key_mapper: Callable[[Any], K] | str | Sequence[str],
    per_key: bool = False,
    gap: Seconds | None = None,
    leading: bool = False,
    trailing: bool = True,
    count: int | None = None,
    keep: Keep = "first",
    fields: Collection[Field] = FIELDS,
    time_mapper: TimeSpec | None = None,
    lateness: Seconds | None = None,
    tolerance: Seconds = 86_400.0,
    idle: Seconds = 0,
    chunked: bool = False,
    max_keys: int | Callable[[], int] | None = None,
    overflow: Overflow = "error",
    flushes: Observable[Any] | None = None,
    dead_letters: DeadLetters | None = None,
    scheduler: SchedulerBase | None = None,
) -> Callable[[Observable[E]], Observable[Window[K, E]]]:
    """Gather events into tumbling windows in which each key occurs once.

    Without ``lateness``, windows of processing time::

        source    --a-b-a-a--|--b-b-----|----------|--c-|
                  compact(10, key_mapper=…)
        windows   -----------[a3 b1]----[b2]------------[c1]|

    which is `buffer_with_time(timespan)` with a `distinct(key_mapper)` on each buffer, less the empty buffers. With
    ``lateness``, buckets of event time, aligned to the epoch; several may be open. The watermark is the largest event
    time of all earlier events less the lateness; an event whose bucket ends at or before it is late. A source that
    falls idle has its buckets closed by the clock, as if event time had gone on.

    With ``leading``, a key's first event leaves at once, and its repeats, if there are any, when the window closes::

        source    --a-b-a-a--|--b-b-----|----------|--c-|
                  compact(10, key_mapper=…, leading=True)
        windows   --a1b1-----[a2]-b1----[b1]----------c1|

    With ``gap``, or ``per_key``, each key has windows of its own; those that are due together leave as one, in which
    each `Compacted` has its own bounds::

        source    --a-b-a-a--|--b-b-----|----------|--c-|
                  compact(10, key_mapper=…, gap=3)
        windows   -------[b1]-[a3]-[b2]---------------c1|

    Args:
        timespan: Length of a window, seconds; at most, where there is a ``gap``.
        key_mapper: A field's name, a tuple of names, or a function of the event, see `key_of`. A name is faster.
        per_key: Open a window for each key with its first event.
        gap: Close a key's window also after so long without an event of it, seconds; implies ``per_key``. With
            ``lateness`` these are session windows: an event joins the sessions of its key that it touches, two that it
            is between too, if what they make is shorter than the timespan.
        leading: Emit a key's first event at once, in a window with the trigger "leading". When its window closes the
            repeats follow, counted, as an event of the same first time: both have one `event_id`.
        trailing: Emit the repeats. Without, this throttles: a key's first event in each window, and no counts.
        count: Close a window also when it holds this many distinct keys, which bounds it. The next one then starts.
        keep: The event to keep for a key: the ``"first"``, the ``"last"``, or what ``accumulator(acc, event)`` makes
            of all, seeded by the first; `merge` makes one. With ``leading`` this is about the repeats alone.
        fields: What to keep besides the event. Counting costs more than deduplicating; ``first_seen`` alone does not.
        time_mapper: A field's name, or a function of the event that returns its time, see `time_of`. ``first_seen`` and
            ``last_seen`` are then the earliest and latest event time, else arrivals.
        lateness: Use event time, and wait this long for stragglers, seconds, 0 or more; infinite for a finite source.
        tolerance: Reject an event whose time is further ahead of the wall clock than this, seconds.
        idle: The clock closes a window when the source was silent for this long, seconds; with ``lateness``. A shorter
            pause makes no event late.
        chunked: Items of the source are lists of events.
        max_keys: Hold at most this many keys; asked for each time where it is a function. With ``leading``, keys
            without repeats are forgotten first; one with repeats that is evicted is emitted, trigger "count".
        overflow: What a new key meets when they are held. A key that is held is always absorbed.
        flushes: On each of its items the open windows close, with the trigger "drain".
        dead_letters: An observer, or a function, of the events that were not taken; by default they are logged.
        scheduler: Its clock and timers; by default the subscription's, the running loop's, or one thread for all.

    Shape:
        `Observable[event]` to `Observable[Window]`; or `Observable[list[event]]` where ``chunked``. Windows in order of
        their ends, keys in order of arrival. Holds the distinct keys of the open windows.

    Cost:
        O(1) an event; a chunk is worked off in C.

    Errors:
        An event whose key or time cannot be had, or whose key is unhashable, is a dead letter, "rejected", with the
        reason "key", "time", "late" or "future". When the source fails, what is held is emitted before the error.
        When disposed, what is held is dead letters, "abandoned". `NoRoomError` where ``overflow="error"``.

    Raises:
        ArgumentError: for an argument out of range.

    Source:
        https://reactivex.io/documentation/operators/window.html, .../distinct.html; watermarks:
        https://research.google/pubs/pub43864/
    """
    return Compact(**locals())


@dataclass(kw_only=True, eq=False)
class Compact(Operator):
    """The operator that `compact` returns; in a pipeline it is the `Reducer`."""

    stage: str = field(init=False, default="compact")
    timespan: float
    key_mapper: Mapper
    per_key: bool
    gap: float | None
    leading: bool
    trailing: bool
    count: int | None
    keep: Keep
    fields: Collection[Field]
    time_mapper: Mapper | None
    lateness: float | None
    tolerance: float
    idle: float
    chunked: bool
    max_keys: Callable[[], int] | None
    max_quiet: Callable[[], int] | None = field(init=False)
    """Gives how many keys are known at most, those counted whose only event has left."""
    overflow: Overflow
    raw: bool = field(init=False, default=False)
    acks: PendingAcks | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.timespan = seconds("timespan", self.timespan)
        self.key_mapper = key_of(self.key_mapper)
        self.per_key = self.per_key or self.gap is not None
        self.gap = None if self.gap is None else seconds("gap", self.gap)
        self.count = None if self.count is None else whole("count", self.count)
        self.time_mapper = None if self.time_mapper is None else time_of(self.time_mapper)
        if self.lateness is not None:
            self.lateness = seconds("lateness", self.lateness, zero=True, infinite=True)
        self.tolerance = seconds("tolerance", self.tolerance, zero=True)
        self.idle = seconds("idle", self.idle, zero=True, infinite=True)
        if self.max_keys is not None and not callable(self.max_keys):
            limit = whole("max_keys", self.max_keys)
            self.max_keys = lambda: limit
        self.max_quiet = self.max_keys
        if isinstance(self.keep, str) and self.keep not in ("first", "last"):
            raise ArgumentError("keep", self.keep, '"first", "last" or a function')
        if not (self.trailing or self.leading):
            raise ArgumentError("trailing", self.trailing, "true where leading is false")
        if self.lateness is not None and self.time_mapper is None:
            raise ArgumentError("time_mapper", self.time_mapper, "given where lateness is")
        if unknown := set(self.fields) - set(FIELDS):
            raise ArgumentError("fields", unknown, f"of {FIELDS}")
        if self.overflow not in get_args(Overflow):
            raise ArgumentError("overflow", self.overflow, f"of {get_args(Overflow)}")

    def check(self, *own: str) -> None:
        if "first_seen" not in self.fields:
            raise ArgumentError("fields", self.fields, 'with "first_seen", from which an age is counted')
        super().check("max_keys", *own)

    def bind(self, context: StageContext) -> Compact:
        return super().bind(context).having(chunked=True, overflow=context.overflow, raw=context.raw)

    def reduce(self, chunks: Observable[list[Any]], context: StageContext, /) -> Observable[Window]:
        return self.bind(context)(chunks)

    def _stage(self, observer: ObserverBase[Window], scheduler: SchedulerBase | None) -> Windows:
        kinds = (KeyedWindows, SessionWindows) if self.per_key else (TumblingWindows, EventTimeWindows)
        return kinds[self.lateness is not None](self, default_scheduler(scheduler), observer)
