"""Open windows: what all kinds have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, compress, repeat
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from reactivex.abc import ObserverBase, SchedulerBase
from reactivex.disposable import SerialDisposable, SingleAssignmentDisposable

from rxcompact.acks import Ack, Chunk, release, retain
from rxcompact.clock import INFINITY, TICK, Clock
from rxcompact.errors import AbandonedError, FutureError, NoRoomError, RxCompactError
from rxcompact.events import Bounds, Compacted, DeadLetter, Trigger, Window
from rxcompact.mappers import ChunkMapper
from rxcompact.operators.bucket import Bucket, EventBucket, Field, Keep, Reject, Row, RowBucket, Seen
from rxcompact.operators.keyed import NO_ACKS, KeyedBucket
from rxcompact.operators.turns import SerializedEmitter

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact

SLICE = 1024
"""Events that are worked on at a time: of more, each pass over them fetches them from memory again."""
LONGEST = 86_400.0
"""Seconds, of a timer: a thread's can be no longer. A tick that comes early does nothing."""
FAR = 1e12
"""POSIX seconds beyond any date: not a time."""
Outcome: TypeAlias = Literal["rejected", "dropped", "abandoned"]


class Windows(SerializedEmitter, ABC):
    """Open buckets, by number. Events and closings may come from any thread."""

    stage = "compact"
    _keyed_class: type[KeyedBucket] = KeyedBucket  # of windows per key, or with a leading edge

    def __init__(self, options: Compact, scheduler: SchedulerBase, observer: ObserverBase[Window]) -> None:
        super().__init__()
        self.clock = clock = Clock(scheduler)
        self._scheduler = scheduler
        self._timer = SerialDisposable()
        self._armed = INFINITY  # when it is due
        self._options = options
        self._observer = observer
        self._dead_letters = options.reject()
        self._abandoned = False
        self._full: NoRoomError | None = None
        self._chunk: Chunk | None = None  # that is being added, if it has acks
        self._handed_on = False  # whether these wait for keys now
        self._buckets: dict[int, Bucket] = {}
        self._first = INFINITY  # no bucket before is open
        self.left = 0  # keys that were in a bucket and no longer are
        self._held = 0  # keys in the open buckets; counted, for there may be thousands of buckets
        self._quiet = 0  # keys whose only event has left
        self.size = 0  # bytes of the events in the open buckets
        self.mapper = ChunkMapper(options.key_mapper, options.time_mapper)
        self._future_limit = min(clock.wall() + options.tolerance, FAR)  # event times beyond are rejected
        first_alone = options.keep in ("first", "last") and set(options.fields) <= {"first_seen"}
        self._new_bucket: Callable[[Reject, Keep, Collection[Field]], Bucket] = RowBucket
        if options.leading or options.per_key:
            self._new_bucket = partial(self._keyed_class, options)
        elif first_alone and options.time_mapper is None:
            self._new_bucket = EventBucket
        self.on_next = self.add_many if options.chunked else self._event_handler()

    def _event_handler(self) -> Callable[[Any], None]:
        return lambda event: self.add_many((event,))

    def add_many(self, chunk: Sequence[Any]) -> None:
        self.run(partial(self._add, chunk))
        if self._full is not None:
            self.on_error(self._full)

    def _add(self, chunk: Sequence[Any]) -> None:
        self._chunk = acked = chunk if isinstance(chunk, Chunk) and chunk.acks else None
        self._handed_on = False
        for start in range(0, len(chunk), SLICE):
            self._add_part(chunk if len(chunk) <= SLICE else chunk[start : start + SLICE])
        self._chunk = None  # which would hold its events until the next one comes
        if self._abandoned and chunk:
            self._close_all("drain")
        self._arm()
        if acked is not None and not self._handed_on:
            self.pending.append(partial(release, acked.acks))  # after the rejections

    def _add_part(self, chunk: Sequence[Any]) -> None:
        self._absorb(*self._map(chunk))

    def flush(self, trigger: Trigger, then: Callable[[], object] | None = None) -> None:
        self.run(partial(self._close_all, trigger), then)

    def expedite(self) -> None:
        self.flush("drain")

    def on_completed(self) -> None:
        self.flush("completed", self._observer.on_completed)

    def on_error(self, error: Exception) -> None:
        self.flush("completed", partial(self._observer.on_error, error))

    def dispose(self) -> None:
        """Make dead letters of what is held."""
        self._timer.dispose()
        self._abandoned = True
        self.flush("drain")

    def _arm(self) -> None:
        if (due := self.due()) < self._armed - TICK:
            self._armed = due
            self.pending.appendleft(self._set_timer)  # whatever an observer raises: the next window must close too

    def _set_timer(self) -> None:
        delay = min(max(0.0, self._armed - self.clock.monotonic()), LONGEST)
        # in its place before it can fire: on another thread its own successor may be set first
        self._timer.disposable = timer = SingleAssignmentDisposable()
        timer.disposable = self._scheduler.schedule_relative(delay, lambda *_: self.run(self._tick))

    def _tick(self) -> None:
        self._armed = INFINITY
        self.close_due()
        self._arm()

    def held(self) -> int:
        return self._held

    def oldest(self) -> float | None:
        index = self._oldest()
        born = None if index is None else self._buckets[index].oldest()
        return None if born is None else self.clock.monotonic() - self.clock.wall.instant(born)

    @property
    def distinct(self) -> int:
        """How many keys the buckets have held so far, the open ones included."""
        return self.left + self._held

    def new_keys(self, chunk: Sequence[Any], before: set[Any]) -> int:
        """Add the keys of a chunk that need capacity to those before; return how many there are at most."""
        before.update(map(id, chunk))
        return len(before)

    def _map(self, chunk: Sequence[Any]) -> tuple[Sequence[Hashable], Sequence[Any], Sequence[float]]:
        """Return keys, events and times of a chunk, without the events that it rejects."""
        keys, times, errors = self.mapper.map(chunk)
        if max(filter(None, times), default=0.0) > self._future_limit:
            self._follow_wall_clock()
            now = self.clock.wall()
            for position, time in enumerate(times):
                if time is not None and time > self._future_limit:
                    errors.setdefault(position, FutureError(time, now, self._options.tolerance))
        if not errors:
            return keys, chunk, times
        for position in sorted(errors):
            self._reject(chunk[position], errors[position])
        good = [position not in errors for position in range(len(chunk))]
        return list(compress(keys, good)), list(compress(chunk, good)), list(compress(times, good))

    def _follow_wall_clock(self) -> None:
        self.clock.wall.follow()
        self._future_limit = min(self.clock.wall() + self._options.tolerance, FAR)

    @abstractmethod
    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        """Put events where they belong; ``times`` is empty without a time mapper."""

    def _bucket(self, index: int) -> Bucket:
        if index not in self._buckets:
            self._buckets[index] = self._new_bucket(self._reject, self._options.keep, self._options.fields)
            self._first = min(self._first, index)
        return self._buckets[index]

    def _oldest(self) -> int | None:
        return min((index for index, bucket in self._buckets.items() if bucket), default=None)

    def _put(self, index: int, keys: Sequence[Hashable], events: Sequence[Any], seen: Seen) -> None:
        """Add to a bucket; ``seen`` is the instant of arrival of all, or the event time of each."""
        bucket = self._bucket(index)
        count = self._options.count
        if (count is None or len(bucket.table) + len(keys) < count) and self._fits(len(keys)):
            self._add_to(index, bucket, keys, events, seen)
            return
        each: Iterable[Any] = ((time,) for time in seen) if isinstance(seen, Sequence) else repeat(seen)
        for key, event, at in zip(keys, events, each, strict=False):
            if self._has_capacity(index, key, event, at):
                self._add_to(index, self._bucket(index), (key,), (event,), at)
            if count is not None and len(self._bucket(index).table) >= count:
                self._close(index, "count")

    def _fits(self, new: int) -> bool:
        max_keys = self._options.max_keys
        return max_keys is None or self._held + new <= max_keys()

    def _add_to(self, index: int, bucket: Bucket, keys: Sequence[Hashable], events: Sequence[Any], seen: Seen) -> None:
        add: Callable[..., object] = bucket.add
        if self._options.raw:
            add = partial(bucket.add_sized, replacing=self._options.keep != "first")
        if isinstance(bucket, KeyedBucket):
            bucket.incoming = NO_ACKS if self._chunk is None else map(self._chunk.acks_of, events)
            with self._counting(bucket):
                add(keys, events, seen)
            bucket.incoming = NO_ACKS  # which would hold the chunk
            if bucket.leads:
                self._emit(bucket.take_leads(self._bounds(index, "leading")))
            self._forget_quiet()
            return
        held, size = len(bucket.table), bucket.size
        add(keys, events, seen)
        self._held += len(bucket.table) - held
        self.size += bucket.size - size
        if self._chunk is not None:
            self._handed_on = len(keys) == len(self._chunk)
            acks = self._chunk.acks
            if not self._handed_on:
                some = list(map(self._chunk.acks_of, events))
                keys = list(chain.from_iterable(map(repeat, keys, map(len, some))))
                acks = list(chain.from_iterable(some))
                retain(acks)
            bucket.wait(keys, acks)

    def _forget_quiet(self) -> None:
        limit = None if self._options.max_quiet is None else self._options.max_quiet()
        while limit is not None and self._quiet > 0 and self._quiet + self._held > limit:
            index = min(index for index, bucket in self._buckets.items() if bucket.known())
            self._evict(index, NoRoomError(limit), held=False)

    @contextmanager
    def _counting(self, bucket: Bucket) -> Generator[None]:
        held, known, size = len(bucket), bucket.known(), bucket.size
        yield
        self._held += len(bucket) - held
        self._quiet += bucket.known() - len(bucket) - known + held
        self.size += bucket.size - size

    def _has_capacity(self, index: int, key: Hashable, event: Any, seen: Seen) -> bool:
        max_keys, overflow = self._options.max_keys, self._options.overflow
        time = seen[0] if isinstance(seen, Sequence) else INFINITY
        if self._bucket(index).absorbs(key, time) or max_keys is None or (limit := max_keys()) > self._held:
            return True
        error = NoRoomError(limit)
        if overflow == "error":
            self._full = self._full or error  # which ends the stream after this chunk
        if overflow == "drop_oldest" and (oldest := self._oldest()) is not None:
            self._evict(oldest, error)
            return True
        acks = () if self._chunk is None else self._chunk.acks_of(event)
        retain(acks)
        self._drop(Compacted(key, event, 1), error, acks)
        return False

    def _evict(self, index: int, error: NoRoomError, *, held: bool = True) -> None:
        """Drop the oldest key, or close its window before its time, where that can be done and makes room."""
        bucket, options = self._buckets[index], self._options
        if not isinstance(bucket, KeyedBucket):
            with self._counting(bucket):
                dropped, acks = bucket.evict()
        else:
            with self._counting(bucket):
                row = bucket.forget(held=held)
            if not held or options.max_quiet is options.max_keys:  # else it is held elsewhere then, and makes no room
                self._emit_rows(index, bucket, [row], "count")
                return
            dropped, acks = bucket.dropped(row)
        self._drop(dropped, error, acks)

    def _drop(self, dropped: Compacted, error: NoRoomError, acks: Sequence[Ack]) -> None:
        """Make a dead letter of an event, which is acknowledged when that is settled."""
        if acks and self._options.acks is not None:
            now = self.clock.wall()
            (dropped,) = self._options.acks.add(
                Window(Bounds(now, now, "count"), dropped.count or 1, (dropped,), acks={dropped.key: list(acks)})
            )
        self.left += 1
        self._reject(dropped, error, "dropped")

    def _emit_rows(self, index: int, bucket: KeyedBucket, rows: list[Row], trigger: Trigger) -> None:
        """Emit rows that were removed from a bucket."""
        self._emit(bucket.window(rows, self._bounds(index, trigger)))

    def _emit(self, window: Window) -> None:
        if window:
            self.left += len(window)
            self.pending.append(partial(self._on_window, window))

    @abstractmethod
    def due(self) -> float:
        """Return when to `close_due` next, in monotonic seconds; infinity for never."""

    @abstractmethod
    def close_due(self) -> None:
        """Close what is due by the clock; to be `run`."""

    @abstractmethod
    def _bounds(self, index: int, trigger: Trigger) -> Bounds:
        """Return when a bucket that closes now was open."""

    def _close_all(self, trigger: Trigger) -> None:
        for index in sorted(self._buckets):
            self._close(index, trigger)
        self._first = INFINITY

    def _close(self, index: int, trigger: Trigger) -> None:
        bucket = self._buckets[index] if self._options.per_key else self._buckets.pop(index)
        if isinstance(bucket, KeyedBucket):
            with self._counting(bucket):
                rows = bucket.pop_all()
            self._emit_rows(index, bucket, rows, trigger)
            return
        self._held -= len(bucket)
        self.size -= bucket.size
        window = bucket.close(self._bounds(index, trigger))
        self._emit(window)
        if not window:  # whatever came was refused
            self.pending.append(partial(release, list(chain.from_iterable(window.acks.values()))))

    def _on_window(self, window: Window) -> None:
        if not self._abandoned:
            self._observer.on_next(window)
            return
        error = AbandonedError("stopped in an open window")
        for compacted in window:
            self._reject(compacted, error, "abandoned")

    def _reject(self, event: Any, error: RxCompactError, outcome: Outcome = "rejected") -> None:
        self.pending.append(partial(self._dead_letters, DeadLetter(outcome, event, "compact", error.reason, error)))
