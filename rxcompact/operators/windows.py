"""What windows of processing time and of event time have in common: mapping, room, dead letters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from itertools import repeat
from math import isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from reactivex.abc import ObserverBase

from rxcompact.acks import Ack
from rxcompact.clock import Clock
from rxcompact.errors import AbandonedError, KeyMapperError, NoRoomError, RxCompactError, TimeMapperError
from rxcompact.events import Compacted, DeadLetter, Trigger, Window
from rxcompact.operators.bucket import Bucket
from rxcompact.operators.emitter import SerializedEmitter
from rxcompact.timestamps import not_a_time

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact

Mapper: TypeAlias = Callable[[Any], Any]
TICK = 1e-6
"""Timers count in microseconds: what is due in less than one is due."""
NUMBERS = {float, int}
FAR = 1e12
"""POSIX seconds beyond any date: not a time."""


class Windows(ABC):
    """Open buckets. Events and closings may come from any thread."""

    stage = "compact"

    def __init__(
        self, options: Compact, clock: Clock, observer: ObserverBase[Window], reject: Callable[[DeadLetter], object]
    ) -> None:
        self.clock = clock
        self._options = options
        self._observer = observer
        self._dead_letter = reject
        self._hand = SerializedEmitter()
        self._abandoned = False
        self._full: NoRoomError | None = None
        self._ack: Ack | None = None  # of the chunk that is being added
        self._left = 0  # keys that are in no open bucket any more
        self._held = 0  # keys that are; counted, for there may be thousands of buckets
        self._key_of, self._keys_of = options.key_mapper, _many(options.key_mapper)
        self._time_of = options.time_mapper
        self._times_of = _many(options.time_mapper) if options.time_mapper else None

    def taker(self) -> Callable[[Any], None]:
        """Return what takes one event."""
        return lambda event: self.add_many((event,))

    def add_many(self, chunk: Sequence[Any]) -> None:
        """Take a chunk of events."""
        self._hand.do(partial(self._add, chunk))
        if self._full is not None:
            self.fail(self._full)

    def _add(self, chunk: Sequence[Any]) -> None:
        ack = self._ack = getattr(chunk, "ack", None)
        if ack is not None:
            ack.retain()
        if chunk:
            self._absorb(*self._map(chunk))
        if self._abandoned and chunk:
            self._close_all("drain")
        if ack is not None:
            self._hand.calls.append(ack.release)  # when what was set aside at the door has been told of

    def new_keys(self, chunk: Sequence[Any]) -> int:
        """Return how many keys a chunk has at most that need room."""
        return len(chunk)

    def tick(self) -> None:
        """Close what the clock says is over."""
        self._hand.do(self._close_due)

    def flush(self, trigger: Trigger) -> None:
        """Close everything."""
        self._hand.do(partial(self._close_all, trigger))

    def complete(self) -> None:
        """Close everything and end the stream."""
        self.flush("completed")
        self._hand.calls.append(self._observer.on_completed)
        self._hand.emit()

    def fail(self, error: Exception) -> None:
        """Close everything, so that nothing is lost, and pass the error on."""
        self.flush("completed")
        self._hand.calls.append(partial(self._observer.on_error, error))
        self._hand.emit()

    def abandon(self) -> None:
        """Make dead letters of what is held: who subscribed wants no more of it."""
        self._abandoned = True
        self.flush("drain")

    def waiting(self) -> int:
        return 0

    # ── the two kinds ─────────────────────────────────────────────────────────────────────────────────────────────

    def held(self) -> int:
        """Return how many keys the open buckets hold."""
        return self._held

    def oldest(self) -> float | None:
        """Return the age of the oldest event held, seconds."""
        bucket = self._oldest()
        born = None if bucket is None else bucket.oldest()
        return None if born is None else self.clock.wall() - born

    @property
    def distinct(self) -> int:
        """How many keys the buckets have held so far, the open ones included."""
        return self._left + self.held()

    @abstractmethod
    def due(self) -> float:
        """Return when to `tick` next, in monotonic seconds."""

    @abstractmethod
    def _close_due(self) -> None: ...

    @abstractmethod
    def _close_all(self, trigger: Trigger) -> None: ...

    @abstractmethod
    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        """Put events where they belong; ``times`` is empty without a time mapper."""

    @abstractmethod
    def _bucket(self, index: int) -> Bucket:
        """Return the open bucket of that index."""

    @abstractmethod
    def _close(self, index: int, trigger: Trigger) -> None: ...

    @abstractmethod
    def _oldest(self) -> Bucket | None:
        """Return the bucket that holds the oldest key."""

    # ── mapping ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _map(self, chunk: Sequence[Any]) -> tuple[Sequence[Hashable], Sequence[Any], Sequence[float]]:
        try:
            keys: Sequence[Any] = self._keys_of(chunk)
            times: Sequence[float] = self._times_of(chunk) if self._times_of else ()
            if not times or (
                set(map(type, times)) <= NUMBERS and isfinite(sum(times)) and min(times) > -FAR and max(times) < FAR
            ):
                return keys, chunk, times
        except Exception:  # noqa: BLE001, S110 - found out below, event by event
            pass
        keys, events, times = list[Any](), list[Any](), list[float]()
        for event in chunk:
            try:
                key = self._called(self._key_of, event, KeyMapperError)
                time = self._called(self._time_of, event, TimeMapperError) if self._time_of else 0.0
                if not isinstance(time, float | int) or not -FAR < time < FAR:
                    raise not_a_time(time)
            except RxCompactError as error:
                self._reject(event, error)
            else:
                keys.append(key)
                events.append(event)
                times.append(time)
        return keys, events, times if self._time_of else ()

    @staticmethod
    def _called(mapper: Mapper, event: Any, error_class: type[RxCompactError]) -> Any:
        try:
            return mapper(event)
        except RxCompactError:
            raise
        except Exception as cause:
            raise error_class(f"{type(cause).__name__}: {cause}") from cause

    # ── into a bucket ─────────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, index: int, keys: Sequence[Hashable], events: Sequence[Any], seen: float | Sequence[float]) -> None:
        """Add to a bucket; ``seen`` is the instant of arrival of all, or the event time of each."""
        bucket = self._bucket(index)
        count, room = self._options.count, self._options.max_keys
        new = len(keys)
        if (count is None or len(bucket.events) + new < count) and (room is None or self.held() + new <= room()):
            try:
                self._add_to(bucket, keys, events, seen)
            except Exception:  # noqa: BLE001, S110 - unhashable; whose it is shows one by one
                pass
            else:
                if self._ack is not None:
                    bucket.retain(self._ack, keys)
                return
        each: Iterable[Any] = zip(seen, strict=True) if isinstance(seen, Sequence) else repeat(seen)
        for key, event, time in zip(keys, events, each, strict=False):
            try:
                if self._has_room(index, key, event):
                    self._add_to(self._bucket(index), (key,), (event,), time)
                    if self._ack is not None:
                        self._bucket(index).retain(self._ack, (key,))
            except Exception as error:  # noqa: BLE001 - a key's own methods may raise anything
                self._reject(event, KeyMapperError(str(error)))
            if count is not None and len(self._bucket(index).events) >= count:
                self._close(index, "count")

    def _add_to(
        self, bucket: Bucket, keys: Sequence[Hashable], events: Sequence[Any], seen: float | Sequence[float]
    ) -> None:
        before = len(bucket.events)
        try:
            bucket.add(keys, events, seen)
        finally:
            self._held += len(bucket.events) - before

    def _has_room(self, index: int, key: Hashable, event: Any) -> bool:
        room, overflow = self._options.max_keys, self._options.overflow
        if key in self._bucket(index).events or room is None or (limit := room()) > self.held():
            return True
        error = NoRoomError(limit)
        if overflow == "error":
            self._full = self._full or error  # which ends the stream, when what came with it has been looked at
        if overflow == "drop_oldest" and (oldest := self._oldest()) is not None:
            self._held -= 1
            self._reject(oldest.evict(), error, "dropped")
            return True
        self._reject(Compacted(key, event, 1), error, "dropped")
        return False

    def _new_bucket(self) -> Bucket:
        options = self._options
        return Bucket(options.keep, options.fields, self._reject)

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _emit(self, bucket: Bucket, opened: float, closed: float, trigger: Trigger) -> None:
        if bucket.events:
            self._left += len(bucket.events)
            self._held -= len(bucket.events)
            window = bucket.window(opened, closed, trigger)
            self._hand.calls.append(partial(self._tell, window))
        else:  # all it had was dropped
            self._hand.calls.extend(ack.release for ack, _ in bucket.acks)

    def _tell(self, window: Window) -> None:
        if not self._abandoned:
            self._observer.on_next(window)
            return
        error = AbandonedError("stopped in an open window")
        for compacted in window:
            letter = DeadLetter("abandoned", compacted, "compact", error.reason, error)
            self._hand.calls.append(partial(self._dead_letter, letter))

    def _reject(self, event: Any, error: RxCompactError, outcome: Literal["rejected", "dropped"] = "rejected") -> None:
        if outcome == "dropped":
            self._left += 1
        letter = DeadLetter(outcome, event, "compact", error.reason, error)
        self._hand.calls.append(partial(self._dead_letter, letter))


def field_mapper(mapper: Mapper | str) -> Mapper:
    """Return the mapper, or what looks up the field of that name."""
    return itemgetter(mapper) if isinstance(mapper, str) else mapper


def _many(mapper: Mapper) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return what maps a whole chunk: the mapper's own ``many``, else the mapper over each."""
    own: Callable[[Sequence[Any]], Sequence[Any]] | None = getattr(mapper, "many", None)
    return own or (lambda chunk: list(map(mapper, chunk)))
