"""What windows of processing time and of event time have in common: mapping, capacity, dead letters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any, Literal

from reactivex.abc import ObserverBase

from rxcompact.acks import Ack
from rxcompact.clock import Clock
from rxcompact.errors import (
    AbandonedError,
    FutureError,
    KeyMapperError,
    NoRoomError,
    RxCompactError,
)
from rxcompact.events import Bounds, Compacted, DeadLetter, Trigger, Window
from rxcompact.mappers import ChunkMapper
from rxcompact.operators.bucket import Bucket, EventBucket, RowBucket
from rxcompact.operators.emitter import SerializedEmitter

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact

SLICE = 1024
"""Events that are worked on at a time: of more, each pass over them fetches them from memory again."""
TICK = 1e-6
"""Timers count in microseconds: what is due in less than one is due."""
FAR = 1e12
"""POSIX seconds beyond any date: not a time."""


class Windows(ABC):
    """Open buckets. Events and closings may come from any thread."""

    stage = "compact"

    def __init__(
        self, options: Compact, clock: Clock, observer: ObserverBase[Window], dead_letters: Callable[[DeadLetter], Any]
    ) -> None:
        self.clock = clock
        self._options = options
        self._observer = observer
        self._dead_letters = dead_letters
        self._emitter = SerializedEmitter()
        self._abandoned = False
        self._full: NoRoomError | None = None
        self._ack: Ack | None = None  # of the chunk that is being added
        self._left = 0  # keys that were in a bucket and no longer are
        self._held = 0  # keys in the open buckets; counted, for there may be thousands of buckets
        self.mapper = ChunkMapper(options.key_mapper, options.time_mapper)
        self._future_limit = min(clock.wall() + options.tolerance, FAR)  # event times beyond are rejected
        first_alone = options.keep in ("first", "last") and set(options.fields) <= {"first_seen"}
        self._bucket_class = EventBucket if first_alone and options.time_mapper is None else RowBucket

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def event_handler(self) -> Callable[[Any], None]:
        """Return what takes one event."""
        return lambda event: self.add_many((event,))

    def add_many(self, chunk: Sequence[Any]) -> None:
        """Take a chunk of events."""
        self._emitter.run(partial(self._add, chunk))
        if self._full is not None:
            self.fail(self._full)

    def _add(self, chunk: Sequence[Any]) -> None:
        ack = self._ack = getattr(chunk, "ack", None)
        if ack is not None:
            ack.retain()
        for start in range(0, len(chunk), SLICE):
            self._absorb(*self._map(chunk if len(chunk) <= SLICE else chunk[start : start + SLICE]))
        if self._abandoned and chunk:
            self._close_all("drain")
        if ack is not None:
            self._emitter.pending.append(ack.release)  # after the rejections

    def tick(self) -> None:
        """Close what is due by the clock."""
        self._emitter.run(self._close_due)

    def flush(self, trigger: Trigger, then: Callable[[], object] | None = None) -> None:
        """Close everything, then emit something more."""

        def work() -> None:
            self._close_all(trigger)
            if then is not None:
                self._emitter.pending.append(then)

        self._emitter.run(work)

    def complete(self) -> None:
        """Close everything and end the stream."""
        self.flush("completed", self._observer.on_completed)

    def fail(self, error: Exception) -> None:
        """Close everything, so that nothing is lost, and pass the error on."""
        self.flush("completed", partial(self._observer.on_error, error))

    def abandon(self) -> None:
        """Make dead letters of what is held: the subscription is disposed."""
        self._abandoned = True
        self.flush("drain")

    # ── what it holds: looking changes nothing ────────────────────────────────────────────────────────────────────

    def held(self) -> int:
        """Return how many keys the open buckets hold."""
        return self._held

    def waiting(self) -> int:
        return 0

    def oldest(self) -> float | None:
        """Return the age of the oldest event held, seconds."""
        bucket = self._oldest()
        born = None if bucket is None else bucket.oldest()
        return None if born is None else self.clock.monotonic() - self.clock.wall.instant(born)

    @property
    def distinct(self) -> int:
        """How many keys the buckets have held so far, the open ones included."""
        return self._left + self._held

    def new_keys(self, chunk: Sequence[Any]) -> int:
        """Return how many keys a chunk has at most that need capacity."""
        return len(chunk)

    # ── the two kinds ─────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def due(self) -> float:
        """Return when to `tick` next, in monotonic seconds."""

    @abstractmethod
    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        """Put events where they belong; ``times`` is empty without a time mapper."""

    @abstractmethod
    def _bucket(self, index: int) -> Bucket:
        """Return the open bucket of that index."""

    @abstractmethod
    def _oldest(self) -> Bucket | None:
        """Return the bucket that holds the oldest key."""

    @abstractmethod
    def _close_due(self) -> None: ...

    @abstractmethod
    def _close(self, index: int, trigger: Trigger) -> None: ...

    @abstractmethod
    def _close_all(self, trigger: Trigger) -> None: ...

    # ── mapping ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _map(self, chunk: Sequence[Any]) -> tuple[Sequence[Hashable], Sequence[Any], Sequence[float]]:
        """Return keys, events and times of a chunk, without the events that it rejects."""
        keys, times, errors = self.mapper.map(chunk)
        if max(filter(None, times), default=0.0) > self._future_limit:
            self._check_future(times, errors)
        if not errors:
            return keys, chunk, times
        for position in sorted(errors):
            self._reject(chunk[position], errors[position])
        good = [position not in errors for position in range(len(chunk))]
        return list(compress(keys, good)), list(compress(chunk, good)), list(compress(times, good))

    def _check_future(self, times: Sequence[float | None], errors: dict[int, RxCompactError]) -> None:
        """Add an error for each time that is too far in the future."""
        self._follow_wall_clock()
        now = self.clock.wall()
        for position, time in enumerate(times):
            if time is not None and time > self._future_limit:
                errors.setdefault(position, FutureError(time, now, self._options.tolerance))

    def _follow_wall_clock(self) -> float:
        """Set the wall clock by the system's; return by how much."""
        step = self.clock.wall.follow()
        self._future_limit = min(self.clock.wall() + self._options.tolerance, FAR)
        return step

    # ── into a bucket ─────────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, index: int, keys: Sequence[Hashable], events: Sequence[Any], seen: float | Sequence[float]) -> None:
        """Add to a bucket; ``seen`` is the instant of arrival of all, or the event time of each."""
        bucket = self._bucket(index)
        count, max_keys = self._options.count, self._options.max_keys
        new = len(keys)
        if (count is None or len(bucket) + new < count) and (max_keys is None or self._held + new <= max_keys()):
            self._add_to(bucket, keys, events, seen)
            return
        each: Iterable[Any] = ((time,) for time in seen) if isinstance(seen, Sequence) else repeat(seen)
        for key, event, seen_ in zip(keys, events, each, strict=False):
            try:
                if self._has_capacity(index, key, event):
                    self._add_to(self._bucket(index), (key,), (event,), seen_)
            except Exception as error:  # noqa: BLE001 - a key's own methods may raise anything
                self._reject(event, KeyMapperError(str(error)))
            if count is not None and len(self._bucket(index)) >= count:
                self._close(index, "count")

    def _add_to(
        self, bucket: Bucket, keys: Sequence[Hashable], events: Sequence[Any], seen: float | Sequence[float]
    ) -> None:
        before = len(bucket)
        bucket.add(keys, events, seen)
        self._held += len(bucket) - before
        if self._ack is not None:
            bucket.retain(self._ack, keys)

    def _has_capacity(self, index: int, key: Hashable, event: Any) -> bool:
        max_keys, overflow = self._options.max_keys, self._options.overflow
        if key in self._bucket(index).table or max_keys is None or (limit := max_keys()) > self._held:
            return True
        error = NoRoomError(limit)
        if overflow == "error":
            self._full = self._full or error  # which ends the stream after this chunk
        if overflow == "drop_oldest" and (oldest := self._oldest()) is not None:
            self._held -= 1
            self._reject(oldest.evict(), error, "dropped")
            return True
        self._reject(Compacted(key, event, 1), error, "dropped")
        return False

    def _new_bucket(self) -> Bucket:
        return self._bucket_class(self._reject, self._options.keep, self._options.fields)

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _emit(self, bucket: Bucket, bounds: Bounds) -> None:
        if bucket:
            self._left += len(bucket)
            self._held -= len(bucket)
            self._emitter.pending.append(partial(self._on_window, bucket.close(bounds)))
        else:  # whatever it held was dropped
            self._emitter.pending.extend(ack.release for ack, _ in bucket.acks)

    def _on_window(self, window: Window) -> None:
        if not self._abandoned:
            self._observer.on_next(window)
            return
        error = AbandonedError("stopped in an open window")
        for compacted in window:
            letter = DeadLetter("abandoned", compacted, "compact", error.reason, error)
            self._emitter.pending.append(partial(self._dead_letters, letter))

    def _reject(self, event: Any, error: RxCompactError, outcome: Literal["rejected", "dropped"] = "rejected") -> None:
        if outcome == "dropped":
            self._left += 1
        letter = DeadLetter(outcome, event, "compact", error.reason, error)
        self._emitter.pending.append(partial(self._dead_letters, letter))
